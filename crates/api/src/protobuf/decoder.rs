//! Messages into objects.
use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::{
    ProtobufError,
    wire::{Reader, Wire, varint},
};
use crate::{
    decode::{complete, omitted},
    facts::{Field, JsonKind, ProtoMember, Shape, Type},
    meta,
    quantity::Quantity,
};

/// Messages nested deeper than this are refused.
const MAX_DEPTH: usize = 200;

/// Reads a message of type `ty` into `map`, with the fields that Go always writes.
pub(super) fn message(bytes: &[u8], ty: &'static Type, map: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    object(bytes, ty, map, 0)
}

fn object(bytes: &[u8], ty: &'static Type, map: &mut Map<String, Value>, depth: usize) -> Result<(), ProtobufError> {
    fields(bytes, ty, map, depth)?;
    map.retain(|name, value| !ty.field(name).is_some_and(|f| value.is_null() || omitted(f, value)));
    complete(map, ty);
    Ok(())
}

fn fields(bytes: &[u8], ty: &'static Type, map: &mut Map<String, Value>, depth: usize) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Malformed("nested too deeply"));
    }
    for entry in Reader::new(bytes) {
        let (number, wire) = entry?;
        match ty.member_by_number(number) {
            None => {}
            Some(ProtoMember::Inline(_, id)) => fields(wire.bytes()?, id.get(), map, depth + 1)?,
            Some(ProtoMember::Field(f)) => field(wire, f, map, depth)?,
        }
    }
    Ok(())
}

fn field(wire: Wire<'_>, f: &'static Field, map: &mut Map<String, Value>, depth: usize) -> Result<(), ProtobufError> {
    match &f.shape {
        Shape::List(item) => {
            let list = map.entry(f.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match (item, wire) {
                // Numbers may come packed.
                (Shape::Int32 | Shape::Int64 | Shape::Bool, Wire::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        list.push(value(Wire::Varint(varint(&mut packed)?), f, item, depth)?);
                    }
                }
                _ => list.push(value(wire, f, item, depth)?),
            }
        }
        Shape::Map(item) => {
            let entries = map.entry(f.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(entries) = entries else { return Ok(()) };
            let (mut key, mut found) = (String::new(), None);
            for entry in Reader::new(wire.bytes()?) {
                match entry? {
                    (1, wire) => wire.text()?.clone_into(&mut key),
                    (2, wire) => found = Some(value(wire, f, item, depth)?),
                    _ => {}
                }
            }
            let empty = || match item {
                Shape::Object(_) => value(Wire::Bytes(b""), f, item, depth),
                shape => Ok(crate::decode::zero_shape(shape)),
            };
            entries.insert(key, found.map_or_else(empty, Ok)?);
        }
        shape => {
            let decoded = value(wire, f, shape, depth)?;
            map.insert(f.name.to_owned(), decoded);
        }
    }
    Ok(())
}

fn value(wire: Wire<'_>, f: &'static Field, shape: &Shape, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match shape {
        Shape::String => wire.text()?.into(),
        Shape::Bool => (wire.varint()? != 0).into(),
        Shape::Int32 => i64::from(wire.varint()? as i32).into(),
        Shape::Int64 => (wire.varint()? as i64).into(),
        Shape::Double => number(wire.double()?),
        Shape::Bytes => base64::engine::general_purpose::STANDARD.encode(wire.bytes()?).into(),
        Shape::Time => time(wire.bytes()?)?.map_or(Value::Null, |t| meta::time(t).into()),
        Shape::MicroTime => time(wire.bytes()?)?.map_or(Value::Null, |t| meta::micro_time(t).into()),
        Shape::Duration => "0s".into(),
        Shape::Quantity => {
            let text = first_bytes(wire, 1)?.map_or(Ok("0"), Wire::text)?;
            Quantity::normalize(text).map_err(|e| ProtobufError::Value(e.to_string()))?.into()
        }
        Shape::IntOrString => {
            let (mut is_text, mut int, mut text) = (false, 0, "");
            for entry in Reader::new(wire.bytes()?) {
                match entry? {
                    (1, w) => is_text = w.varint()? == 1,
                    (2, w) => int = w.varint()? as i32,
                    (3, w) => text = w.text()?,
                    _ => {}
                }
            }
            if is_text { text.into() } else { int.into() }
        }
        Shape::RawExtension | Shape::FieldsV1 => raw(wire)?,
        Shape::Json => json(wire, f.json_kind(), depth)?,
        Shape::Object(id) => {
            let mut map = Map::new();
            object(wire.bytes()?, id.get(), &mut map, depth + 1)?;
            map.into()
        }
        Shape::WrappedList(item) => {
            let mut list = Vec::new();
            for entry in Reader::new(wire.bytes()?) {
                if let (1, w) = entry? {
                    list.push(value(w, f, item, depth)?);
                }
            }
            list.into()
        }
        Shape::List(_) | Shape::Map(_) => return Err(ProtobufError::Malformed("a list of lists")),
    })
}

/// Whole doubles read as integers, as they do in JSON.
fn number(n: f64) -> Value {
    if n.fract() == 0.0 && n.abs() < 1e15 {
        (n as i64).into()
    } else {
        Number::from_f64(n).map_or(Value::Null, Value::Number)
    }
}

fn first_bytes(wire: Wire<'_>, wanted: u32) -> Result<Option<Wire<'_>>, ProtobufError> {
    for entry in Reader::new(wire.bytes()?) {
        let (number, value) = entry?;
        if number == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn time(message: &[u8]) -> Result<Option<Timestamp>, ProtobufError> {
    if message.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    for entry in Reader::new(message) {
        match entry? {
            (1, w) => seconds = w.varint()? as i64,
            (2, w) => nanos = w.varint()? as i32,
            _ => {}
        }
    }
    Timestamp::new(seconds, nanos).map(Some).map_err(|_| ProtobufError::Malformed("time out of range"))
}

/// JSON text in a field of bytes.
fn raw(wire: Wire<'_>) -> Result<Value, ProtobufError> {
    match first_bytes(wire, 1)? {
        None => Ok(Value::Null),
        Some(w) => {
            let bytes = w.bytes()?;
            serde_json::from_slice(bytes).map_err(|e| ProtobufError::Value(crate::decode::go_json_error(bytes, &e)))
        }
    }
}

/// The unions of JSON schemas that are messages of their own.
fn json(wire: Wire<'_>, kind: JsonKind, depth: usize) -> Result<Value, ProtobufError> {
    if kind == JsonKind::Any {
        return raw(wire);
    }
    let mut result = if kind == JsonKind::OrBool { Value::Bool(false) } else { Value::Null };
    let mut list = Vec::new();
    for entry in Reader::new(wire.bytes()?) {
        let (number, w) = entry?;
        let schema = |w: Wire<'_>| {
            let mut map = Map::new();
            object(w.bytes()?, Type::json_schema_props(), &mut map, depth + 1)?;
            Ok::<Value, ProtobufError>(map.into())
        };
        match (kind, number) {
            (JsonKind::OrBool, 1) if result.is_object() => {}
            (JsonKind::OrBool, 1) => result = (w.varint()? != 0).into(),
            (JsonKind::OrBool, 2) | (_, 1) => result = schema(w)?,
            (JsonKind::OrArray, 2) => list.push(schema(w)?),
            (JsonKind::OrStringArray, 2) => list.push(w.text()?.into()),
            _ => {}
        }
    }
    Ok(if list.is_empty() { result } else { list.into() })
}
