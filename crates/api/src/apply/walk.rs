//! Walks over objects led by the schema facts: which fields a value sets, what differs, merging, removing.
use serde_json::{Map, Value};

use super::field_set::FieldSet;
use crate::facts::{Field, ListType, Shape, Type};

/// How a value is owned and merged.
#[derive(Clone, Copy)]
pub(super) enum Node {
    /// Field by field.
    Struct(&'static Type),
    /// Entry by entry.
    Map(&'static Shape),
    /// A list of scalars, each of which can be there or not.
    Set,
    /// A list of objects that have keys.
    Keyed(&'static [&'static str], &'static Shape),
    /// As a whole.
    Atomic,
}

fn of_field(f: &'static Field) -> Node {
    match (&f.shape, f.list_type) {
        _ if f.flags.map_atomic() => Node::Atomic,
        (Shape::Object(id), _) if f.flags.map_granular() => Node::Struct(id.get()),
        (Shape::Map(item), _) => Node::Map(item),
        (Shape::List(_), ListType::Set) => Node::Set,
        (Shape::List(item), ListType::Map) => Node::Keyed(f.list_map_keys, item),
        (shape, _) => of_shape(shape),
    }
}

fn of_shape(shape: &'static Shape) -> Node {
    match shape {
        Shape::Object(id) if !id.get().atomic => Node::Struct(id.get()),
        _ => Node::Atomic,
    }
}

impl Node {
    /// What is below an entry of an object.
    fn below(self, key: &str) -> Node {
        match self {
            Node::Struct(ty) => ty.field(key).map_or(Node::Atomic, of_field),
            Node::Map(item) => of_shape(item),
            _ => Node::Atomic,
        }
    }

    fn of_item(self) -> Node {
        match self {
            Node::Keyed(_, item) => of_shape(item),
            _ => Node::Atomic,
        }
    }

    /// The edge to an item of a list.
    fn edge(self, item: &Value) -> String {
        let Node::Keyed(keys, shape) = self else { return format!("v:{item}") };
        let mut map = Map::new();
        for key in keys {
            let default = || {
                let field = shape.object()?.field(key)?;
                serde_json::from_str(field.default).ok()
            };
            if let Some(value) = item.get(key).filter(|v| !v.is_null()).cloned().or_else(default) {
                map.insert((*key).to_owned(), value);
            }
        }
        format!("k:{}", Value::Object(map))
    }
}

fn is_list(node: Node) -> bool {
    matches!(node, Node::Set | Node::Keyed(..))
}

/// Adds the fields that an applied value sets.
pub(super) fn field_set(value: &Value, node: Node, set: &mut FieldSet) {
    match (node, value) {
        (Node::Struct(_) | Node::Map(_), Value::Object(map)) => {
            for (key, value) in map {
                let child = set.child(format!("f:{key}"));
                field_set(value, node.below(key), child);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                child.member |= empty || matches!(node, Node::Map(_));
            }
        }
        (Node::Set | Node::Keyed(..), Value::Array(items)) => {
            for item in items {
                let child = set.child(node.edge(item));
                field_set(item, node.of_item(), child);
                child.member = true;
            }
        }
        (Node::Set | Node::Keyed(..), Value::Null) => {}
        _ => set.member = true,
    }
}

/// Adds a value that is new (or gone) with everything below it.
fn whole(value: &Value, node: Node, set: &mut FieldSet) {
    set.member = true;
    match (node, value) {
        (Node::Struct(_) | Node::Map(_), Value::Object(map)) => {
            for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
                whole(value, node.below(key), set.child(format!("f:{key}")));
            }
        }
        (Node::Set | Node::Keyed(..), Value::Array(items)) => {
            items.iter().for_each(|item| whole(item, node.of_item(), set.child(node.edge(item))));
        }
        _ => {}
    }
}

/// Adds to `changed` what `new` has more or otherwise than `old`, to `removed` what it has no more. Null is nothing.
pub(super) fn compare(
    old: Option<&Value>,
    new: Option<&Value>,
    node: Node,
    changed: &mut FieldSet,
    removed: &mut FieldSet,
) {
    match (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null())) {
        (None, None) => {}
        (None, Some(new)) => whole(new, node, changed),
        (Some(old), None) => whole(old, node, removed),
        (Some(Value::Object(old)), Some(Value::Object(new))) if matches!(node, Node::Struct(_) | Node::Map(_)) => {
            for (key, value) in new {
                let edge = format!("f:{key}");
                let (changed, removed) = (changed.child(edge.clone()), removed.child(edge));
                compare(old.get(key), Some(value), node.below(key), changed, removed);
            }
            for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
                let edge = format!("f:{key}");
                compare(Some(value), None, node.below(key), changed, removed.child(edge));
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if is_list(node) => {
            let edges = |list: &[Value]| -> Vec<String> { list.iter().map(|i| node.edge(i)).collect() };
            let (old_edges, new_edges) = (edges(old), edges(new));
            for (item, edge) in new.iter().zip(&new_edges) {
                let before = old_edges.iter().position(|e| e == edge).map(|i| &old[i]);
                let (changed, removed) = (changed.child(edge.clone()), removed.child(edge.clone()));
                compare(before, Some(item), node.of_item(), changed, removed);
            }
            for (item, edge) in old.iter().zip(&old_edges).filter(|(_, edge)| !new_edges.contains(edge)) {
                compare(Some(item), None, node.of_item(), changed, removed.child(edge.clone()));
            }
        }
        (Some(old), Some(new)) if old != new => changed.member = true,
        _ => {}
    }
    changed.drop_empty();
    removed.drop_empty();
}

/// What `config` makes of `live`.
pub(super) fn merge(live: Option<Value>, config: &Value, node: Node) -> Value {
    match (node, live, config) {
        (Node::Struct(_) | Node::Map(_), Some(Value::Object(mut live)), Value::Object(config)) => {
            for (key, value) in config {
                let merged = merge(live.remove(key), value, node.below(key));
                live.insert(key.clone(), merged);
            }
            Value::Object(live)
        }
        (Node::Set | Node::Keyed(..), Some(Value::Array(live)), Value::Array(config)) => {
            merge_lists(live, config, node)
        }
        (_, _, config) => config.clone(),
    }
}

/// Items of the configuration come in its order, items that only the live list has stay where they were among them.
fn merge_lists(live: Vec<Value>, config: &[Value], node: Node) -> Value {
    let config_edges: Vec<String> = config.iter().map(|i| node.edge(i)).collect();
    let mut live: Vec<(String, Option<Value>)> = live.into_iter().map(|i| (node.edge(&i), Some(i))).collect();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    for i in 0..live.len() {
        let at = config_edges.iter().position(|e| *e == live[i].0);
        let until = match at {
            // Already there, with an item that came before it in the configuration.
            Some(at) if at < next => continue,
            Some(at) => at + 1,
            None => {
                merged.extend(live[i].1.take());
                continue;
            }
        };
        while next < until {
            let own = live.iter_mut().find(|(edge, _)| *edge == config_edges[next]).and_then(|(_, item)| item.take());
            merged.push(merge(own, &config[next], node.of_item()));
            next += 1;
        }
    }
    merged.extend(config[next..].iter().map(|item| merge(None, item, node.of_item())));
    Value::Array(merged)
}

/// Removes the values at the paths of `set`.
pub(super) fn remove(value: &mut Value, set: &FieldSet, node: Node) {
    for (edge, below) in set.children() {
        match (edge.strip_prefix("f:"), &mut *value) {
            (Some(key), Value::Object(map)) => {
                if below.member {
                    map.remove(key);
                } else if let Some(value) = map.get_mut(key) {
                    remove(value, below, node.below(key));
                }
            }
            (None, Value::Array(items)) => {
                if below.member {
                    items.retain(|item| node.edge(item) != edge);
                } else if let Some(item) = items.iter_mut().find(|item| node.edge(item) == edge) {
                    remove(item, below, node.of_item());
                }
            }
            _ => {}
        }
    }
}
