//! What Go writes for fields that nobody set.
use serde_json::{Map, Value};

use crate::facts::{Field, Shape, Type};

/// The empty object of a type as Go encodes it: `{}` with the fields that are always there.
pub fn zero(ty: &'static Type) -> Value {
    let mut map = Map::new();
    complete(&mut map, ty);
    Value::Object(map)
}

/// Adds the fields that Go always writes.
pub(crate) fn complete(map: &mut Map<String, Value>, ty: &'static Type) {
    for field in ty.always_written() {
        if !map.contains_key(field.name) {
            map.insert(field.name.to_owned(), zero_of(field));
        }
    }
}

fn zero_of(field: &Field) -> Value {
    if field.flags.pointer() { Value::Null } else { zero_shape(&field.shape) }
}

/// The zero value of a type.
pub(crate) fn zero_shape(shape: &Shape) -> Value {
    match shape {
        Shape::String | Shape::Bytes => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString | Shape::Double => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::Duration => "0s".into(),
        Shape::Object(id) => zero(id.get()),
        Shape::Time
        | Shape::MicroTime
        | Shape::RawExtension
        | Shape::FieldsV1
        | Shape::Json
        | Shape::List(_)
        | Shape::WrappedList(_)
        | Shape::Map(_) => Value::Null,
    }
}

/// Whether Go leaves out a value that was set.
pub(crate) fn omitted(field: &Field, value: &Value) -> bool {
    if field.flags.pointer() || !field.omits_zero() {
        return false;
    }
    match (value, &field.shape) {
        (Value::Bool(b), _) => !b,
        (Value::Number(n), Shape::Int32 | Shape::Int64 | Shape::Double) => n.as_f64() == Some(0.0),
        (Value::String(s), Shape::String | Shape::Bytes) => s.is_empty(),
        (Value::Array(list), _) => list.is_empty(),
        (Value::Object(map), Shape::Map(_)) => map.is_empty(),
        _ => false,
    }
}
