//! How a value is owned and merged, by the schema facts of a built-in type or by a custom resource's [`Schema`].
use std::borrow::Cow;

use serde_json::{Map, Value};

use super::schema::{List, Rest, Scalar, Schema};
use crate::decode;
use crate::facts::{self, Field, ListType, Shape, Type};

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node<'a> {
    /// An object of a built-in type: field by field.
    Struct(&'static Type),
    /// A map of a built-in type: entry by entry.
    Map(&'static Shape),
    /// A list of scalars, each of which can be there or not.
    Set(&'static Shape),
    /// A list of objects that have keys.
    Keyed(&'static [&'static str], &'static Shape),
    /// A value of a built-in type that is owned as a whole.
    Atomic(&'static Shape),
    /// A custom resource.
    Root(&'a Schema),
    /// A part of a custom resource.
    Custom(&'a Schema),
    /// Of no known type: objects entry by entry, the rest as a whole.
    Deduced,
    /// Not declared by the type.
    Undeclared,
}

/// How a value of some JSON form is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Entry by entry.
    Object,
    /// Item by item.
    List,
    /// As a whole.
    Leaf,
}

fn of_field(f: &'static Field) -> Node<'static> {
    match (&f.shape, f.list_type) {
        _ if f.flags.map_atomic() => Node::Atomic(&f.shape),
        (Shape::Object(id), _) if f.flags.map_granular() => Node::Struct(id.get()),
        (Shape::Map(item), _) => Node::Map(item),
        (Shape::List(item), ListType::Set) => Node::Set(item),
        (Shape::List(item), ListType::Map) => Node::Keyed(f.list_map_keys, item),
        (shape, _) => of_shape(shape),
    }
}

fn of_shape(shape: &'static Shape) -> Node<'static> {
    match shape {
        Shape::Object(id) if !id.get().atomic => Node::Struct(id.get()),
        _ => Node::Atomic(shape),
    }
}

impl<'a> Node<'a> {
    /// What is below the entry `key` of an object, and whether that is a field that the type names.
    pub(super) fn field(self, key: &str) -> (Node<'a>, bool) {
        match self {
            Node::Struct(ty) => ty.field(key).map_or((Node::Undeclared, false), |f| (of_field(f), true)),
            Node::Map(item) => (of_shape(item), false),
            Node::Root(_) if key == "metadata" => (Node::Struct(facts::object_meta()), true),
            Node::Root(schema) | Node::Custom(schema) => match &schema.map {
                Some(map) => match (map.fields.get(key), &map.rest) {
                    (Some(field), _) => (Node::Custom(field), true),
                    (None, Rest::Alike(all)) => (Node::Custom(all), false),
                    (None, Rest::Deduced) => (Node::Deduced, false),
                    (None, Rest::Undeclared) => (Node::Undeclared, false),
                },
                None => (Node::Undeclared, false),
            },
            Node::Deduced => (Node::Deduced, false),
            Node::Set(_) | Node::Keyed(..) | Node::Atomic(_) | Node::Undeclared => (Node::Undeclared, false),
        }
    }

    /// What is at the end of an edge of a set of fields, and whether that is a field that the type names.
    pub(super) fn step(self, edge: &str) -> (Node<'a>, bool) {
        match edge.strip_prefix("f:") {
            Some(key) => self.field(key),
            None => (self.item(), false),
        }
    }

    /// What the items of a list are.
    pub(super) fn item(self) -> Node<'a> {
        match self {
            Node::Set(item) | Node::Keyed(_, item) => of_shape(item),
            Node::Root(schema) | Node::Custom(schema) => match &schema.list {
                Some(List::Atomic(item) | List::Set(item) | List::Keyed(_, item)) => Node::Custom(item),
                None => Node::Undeclared,
            },
            _ => Node::Undeclared,
        }
    }

    /// How `value` is handled; null is an empty object or list where one may stand.
    pub(super) fn form(self, value: &Value) -> Form {
        match (self, value) {
            (Node::Struct(_) | Node::Map(_), Value::Object(_) | Value::Null) => Form::Object,
            (Node::Set(_) | Node::Keyed(..), Value::Array(_) | Value::Null) => Form::List,
            (Node::Deduced, Value::Object(_)) => Form::Object,
            (Node::Root(schema) | Node::Custom(schema), Value::Object(_) | Value::Null)
                if schema.map.as_ref().is_some_and(|map| !map.atomic) =>
            {
                Form::Object
            }
            (Node::Root(schema) | Node::Custom(schema), Value::Array(_) | Value::Null)
                if matches!(schema.list, Some(List::Set(_) | List::Keyed(..)))
                    && (schema.map.is_none() || value.is_array()) =>
            {
                Form::List
            }
            _ => Form::Leaf,
        }
    }

    /// The edge to an item of a list, or why it has none.
    pub(super) fn edge(self, item: &Value) -> Result<String, String> {
        match self {
            Node::Keyed(keys, shape) => keyed(item, keys.iter().copied(), |key| {
                let field = shape.object()?.field(key)?;
                if field.flags.zero_default() {
                    return Some(Cow::Owned(decode::zero_shape(&field.shape)));
                }
                serde_json::from_str(field.default).ok().map(Cow::Owned)
            }),
            Node::Root(schema) | Node::Custom(schema) => match &schema.list {
                Some(List::Keyed(keys, _)) => keyed(item, keys.iter().map(|(key, _)| key.as_str()), |key| {
                    keys.iter().find(|(k, _)| k == key)?.1.as_ref().map(Cow::Borrowed)
                }),
                _ => of_set(item),
            },
            _ => of_set(item),
        }
    }

    /// Which scalars the type allows; `None`: the type is no scalar's.
    pub(super) fn scalar(self) -> Scalar {
        match self {
            Node::Atomic(shape) => match shape {
                Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Duration => Scalar::String,
                Shape::Bool => Scalar::Bool,
                Shape::Int32 | Shape::Int64 | Shape::Double => Scalar::Number,
                Shape::Quantity | Shape::IntOrString | Shape::RawExtension | Shape::Json => Scalar::Any,
                Shape::FieldsV1 | Shape::Object(_) | Shape::List(_) | Shape::WrappedList(_) | Shape::Map(_) => {
                    Scalar::None
                }
            },
            Node::Root(schema) | Node::Custom(schema) => schema.scalar,
            Node::Deduced => Scalar::Any,
            _ => Scalar::None,
        }
    }

    /// Whether objects may stand here.
    pub(super) fn is_map(self) -> bool {
        match self {
            Node::Struct(_) | Node::Map(_) | Node::Deduced => true,
            Node::Atomic(shape) => {
                matches!(shape, Shape::Object(_) | Shape::Map(_) | Shape::FieldsV1 | Shape::RawExtension | Shape::Json)
            }
            Node::Root(schema) | Node::Custom(schema) => schema.map.is_some(),
            _ => false,
        }
    }

    /// Whether lists may stand here.
    pub(super) fn is_list(self) -> bool {
        match self {
            Node::Set(_) | Node::Keyed(..) | Node::Deduced => true,
            Node::Atomic(shape) => {
                matches!(shape, Shape::List(_) | Shape::WrappedList(_) | Shape::RawExtension | Shape::Json)
            }
            Node::Root(schema) | Node::Custom(schema) => schema.list.is_some(),
            _ => false,
        }
    }

    /// Like [`Node::field`], also inside of values that are owned as a whole.
    pub(super) fn inner_field(self, key: &str) -> Node<'a> {
        match self {
            Node::Atomic(Shape::Object(id)) => Node::Struct(id.get()).field(key).0,
            Node::Atomic(Shape::Map(item)) => of_shape(item),
            Node::Atomic(Shape::FieldsV1 | Shape::RawExtension | Shape::Json) => Node::Deduced,
            other => other.field(key).0,
        }
    }

    /// Like [`Node::item`], also inside of values that are owned as a whole.
    pub(super) fn inner_item(self) -> Node<'a> {
        match self {
            Node::Atomic(Shape::List(item) | Shape::WrappedList(item)) => of_shape(item),
            Node::Atomic(Shape::RawExtension | Shape::Json) | Node::Deduced => Node::Deduced,
            other => other.item(),
        }
    }
}

fn of_set(item: &Value) -> Result<String, String> {
    match item {
        Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
        Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
        Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
        scalar => Ok(format!("v:{scalar}")),
    }
}

fn keyed<'k, 'v>(
    item: &'v Value,
    keys: impl Iterator<Item = &'k str> + Clone,
    default: impl Fn(&str) -> Option<Cow<'v, Value>>,
) -> Result<String, String> {
    let item = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut map = Map::new();
    for key in keys.clone() {
        if let Some(value) = item.get(key).map(Cow::Borrowed).or_else(|| default(key)) {
            map.insert(key.to_owned(), value.into_owned());
        }
    }
    if map.is_empty() {
        let keys: Vec<String> = keys.map(crate::field::go_quote).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for \
             any key fields)",
            keys.join(" ")
        ));
    }
    Ok(format!("k:{}", Value::Object(map)))
}
