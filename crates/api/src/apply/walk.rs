//! Walks over objects led by their types: which fields a value sets, what differs, merging, removing.
// upstream: structured-merge-diff typed/{compare,merge,remove,tofieldset}.go
use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::node::{Form, Node};

/// The fields that an applied value sets; the value has been found to be well-formed.
pub(super) fn field_set(value: &Value, node: Node<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    match (node.form(value), value) {
        (Form::Object, Value::Object(map)) => {
            for (key, value) in map {
                let (below, named) = node.field(key);
                let mut child = field_set(value, below);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                child.member |= empty || !named;
                set.insert(format!("f:{key}"), child);
            }
        }
        (Form::List, Value::Array(items)) => {
            let (edges, item) = (edges(items, node), node.item());
            for (value, edge) in items.iter().zip(&edges) {
                let Some(edge) = edge else { continue };
                let twice = edges.iter().filter(|e| e.as_ref() == Some(edge)).count() > 1;
                let mut child = if twice { FieldSet::default() } else { field_set(value, item) };
                child.member = true;
                set.insert(edge.clone(), child);
            }
        }
        (Form::Object | Form::List, _) => {}
        (Form::Leaf, _) => set.member = true,
    }
    set
}

/// The edges of a list's items; items without one do not take part.
fn edges(items: &[Value], node: Node<'_>) -> Vec<Option<String>> {
    items.iter().map(|item| node.edge(item).ok()).collect()
}

/// Whether a value is an empty object or list, or null.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// A value that is new (or gone) with everything below it.
fn whole(value: &Value, node: Node<'_>) -> FieldSet {
    let mut set = FieldSet::LEAF;
    match (node.form(value), value) {
        (Form::Object, Value::Object(map)) => {
            for (key, value) in map {
                set.insert(format!("f:{key}"), whole(value, node.field(key).0));
            }
        }
        (Form::List, Value::Array(items)) => {
            let (edges, item) = (edges(items, node), node.item());
            for (value, edge) in items.iter().zip(&edges) {
                let Some(edge) = edge else { continue };
                let twice = edges.iter().filter(|e| e.as_ref() == Some(edge)).count() > 1;
                set.insert(edge.clone(), if twice { FieldSet::LEAF } else { whole(value, item) });
            }
        }
        _ => {}
    }
    set
}

/// What differs between two states of an object.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// What the newer one has more or otherwise.
    pub(super) changed: FieldSet,
    /// What it has no more.
    pub(super) removed: FieldSet,
}

impl Difference {
    fn below(&mut self, edge: impl FnOnce() -> String, below: Difference) {
        match (below.changed.is_empty(), below.removed.is_empty()) {
            (true, true) => {}
            (false, true) => self.changed.insert(edge(), below.changed),
            (true, false) => self.removed.insert(edge(), below.removed),
            (false, false) => {
                let edge = edge();
                self.changed.insert(edge.clone(), below.changed);
                self.removed.insert(edge, below.removed);
            }
        }
    }

    fn changed(changed: FieldSet) -> Difference {
        Difference { changed, ..Difference::default() }
    }

    fn removed(removed: FieldSet) -> Difference {
        Difference { removed, ..Difference::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// How `new` differs from `old`.
pub(super) fn compare(old: &Value, new: &Value, node: Node<'_>) -> Difference {
    let form = node.form(new);
    if form == Form::Leaf || form != node.form(old) || (is_empty(old) && is_empty(new)) {
        return if old == new { Difference::default() } else { Difference::changed(FieldSet::LEAF) };
    }
    match form {
        Form::Object => compare_objects(old.as_object(), new.as_object(), node),
        _ => compare_lists(old.as_array(), new.as_array(), node),
    }
}

fn compare_objects(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, node: Node<'_>) -> Difference {
    let mut difference = Difference::default();
    let empty = Map::new();
    let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
    for (key, value) in new {
        let below = node.field(key).0;
        let below = match old.get(key) {
            Some(before) => compare(before, value, below),
            None => Difference::changed(whole(value, below)),
        };
        difference.below(|| format!("f:{key}"), below);
    }
    for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
        let below = Difference::removed(whole(value, node.field(key).0));
        difference.below(|| format!("f:{key}"), below);
    }
    difference
}

fn compare_lists(old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, node: Node<'_>) -> Difference {
    let mut difference = Difference::default();
    let (old, new) = (old.map_or(&[][..], Vec::as_slice), new.map_or(&[][..], Vec::as_slice));
    if old == new {
        return difference;
    }
    let (old_edges, new_edges, item) = (edges(old, node), edges(new, node), node.item());
    let with = |list: &[Value], edges: &[Option<String>], edge: &String| -> Vec<usize> {
        (0..list.len()).filter(|i| edges[*i].as_ref() == Some(edge)).collect()
    };
    let mut seen: Vec<&String> = Vec::new();
    for edge in old_edges.iter().chain(&new_edges).flatten() {
        if seen.contains(&edge) {
            continue;
        }
        seen.push(edge);
        let (before, after) = (with(old, &old_edges, edge), with(new, &new_edges, edge));
        let below = match (before.as_slice(), after.as_slice()) {
            ([], []) => continue,
            ([i], [j]) => compare(&old[*i], &new[*j], item),
            ([], [j]) => Difference::changed(whole(&new[*j], item)),
            ([i], []) => Difference::removed(whole(&old[*i], item)),
            // Items with the same key several times are compared as one value.
            ([_, _, ..], [_, _, ..]) => {
                let same = before.len() == after.len() && before.iter().zip(&after).all(|(i, j)| old[*i] == new[*j]);
                if same { Difference::default() } else { Difference::changed(FieldSet::LEAF) }
            }
            ([_, _, ..], after) => Difference {
                removed: FieldSet::LEAF,
                changed: after.first().map(|j| whole(&new[*j], item)).unwrap_or_default(),
            },
            (before, [_, _, ..]) => Difference {
                changed: FieldSet::LEAF,
                removed: before.first().map(|i| whole(&old[*i], item)).unwrap_or_default(),
            },
        };
        difference.below(|| edge.clone(), below);
    }
    difference
}

/// What `config` makes of `live`.
pub(super) fn merge(live: Value, config: &Value, node: Node<'_>) -> Value {
    let form = node.form(config);
    if form == Form::Leaf || form != node.form(&live) || (is_empty(&live) && is_empty(config)) {
        return config.clone();
    }
    match (form, live, config) {
        (Form::Object, Value::Object(mut live), Value::Object(config)) => {
            for (key, value) in config {
                let merged = match live.remove(key) {
                    Some(before) => merge(before, value, node.field(key).0),
                    None => value.clone(),
                };
                live.insert(key.clone(), merged);
            }
            Value::Object(live)
        }
        (Form::List, Value::Array(live), Value::Array(config)) => Value::Array(merge_lists(live, config, node)),
        // Null takes nothing away.
        (_, live, Value::Null) => live,
        (_, _, config) => config.clone(),
    }
}

/// Items of the configuration come in its order, items that only the live list has stay where they were among them.
fn merge_lists(live: Vec<Value>, config: &[Value], node: Node<'_>) -> Vec<Value> {
    let config_edges = edges(config, node);
    let live_edges = edges(&live, node);
    let item = node.item();
    let in_config = |edge: &Option<String>| config_edges.contains(edge);
    let twice = |edge: &Option<String>| live_edges.iter().filter(|e| *e == edge).count() > 1;
    let mut shared = config_edges.iter().filter(|edge| live_edges.contains(edge));
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let mut next_shared = shared.next();
    let mut done = vec![false; config.len()];
    let mut out = Vec::with_capacity(live.len() + config.len());
    let (mut l, mut r) = (0, 0);
    let take = |live: &mut [Option<Value>], done: &mut [bool], r: usize| {
        done[r] = true;
        let edge = &config_edges[r];
        // Of items with the same key, none is merged with.
        let at = live_edges.iter().position(|e| e == edge).filter(|_| !twice(edge));
        match at.and_then(|at| live[at].take()) {
            Some(before) => merge(before, &config[r], item),
            None => config[r].clone(),
        }
    };
    while l < live_edges.len() || r < config.len() {
        if l < live_edges.len() && r < config.len() {
            if live_edges[l] == config_edges[r] {
                out.push(take(&mut live, &mut done, r));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if in_config(&live_edges[l]) && next_shared.is_some_and(|next| *next != live_edges[l]) {
                l += 1;
                continue;
            }
        }
        if l < live_edges.len() {
            if !in_config(&live_edges[l]) {
                out.extend(live[l].take());
                l += 1;
                continue;
            }
            if config_edges.iter().zip(&done).any(|(edge, done)| *done && *edge == live_edges[l]) {
                l += 1;
            }
        }
        if r < config.len() {
            let shared_now = next_shared.is_some_and(|next| *next == config_edges[r]);
            out.push(take(&mut live, &mut done, r));
            r += 1;
            if shared_now {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// The paths of maps, structs and lists in `config` that can only be replaced as a whole, into `found`.
pub(super) fn atomics(config: &Value, node: Node<'_>, path: &str, found: &mut Vec<String>) {
    match (node.form(config), config) {
        (Form::Leaf, Value::Object(_) | Value::Array(_)) => found.push(path.to_owned()),
        (Form::Object, Value::Object(map)) => {
            for (key, value) in map {
                atomics(value, node.field(key).0, &format!("{path}.{key}"), found);
            }
        }
        (Form::List, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                atomics(item, node.item(), &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// Removes the values at the paths of `set`.
pub(super) fn remove(value: &mut Value, set: &FieldSet, node: Node<'_>) {
    if node.form(value) == Form::Leaf {
        return;
    }
    match value {
        Value::Object(map) => {
            for (edge, below) in set.children() {
                let Some(key) = edge.strip_prefix("f:") else { continue };
                if below.member {
                    map.remove(key);
                    continue;
                }
                let Some(value) = map.get_mut(key) else { continue };
                let node = node.field(key).0;
                let was_empty = is_empty(value);
                // A list or an object that is owned as a whole goes with any of its parts.
                if (value.is_array() || value.is_object()) && node.form(value) == Form::Leaf {
                    *value = Value::Null;
                } else {
                    remove(value, below, node);
                    if !was_empty && is_empty(value) {
                        *value = Value::Null;
                    }
                }
            }
        }
        Value::Array(items) => {
            let edges = edges(items, node);
            let mut edges = edges.iter();
            items.retain_mut(|item| {
                let Some(below) = edges.next().and_then(Option::as_ref).and_then(|edge| set.child(edge)) else {
                    return true;
                };
                if !below.member {
                    remove(item, below, node.item());
                }
                !below.member
            });
        }
        _ => {}
    }
}
