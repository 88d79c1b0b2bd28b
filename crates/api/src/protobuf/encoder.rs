//! Objects into messages.
use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::Writer;
use crate::facts::{Field, JsonKind, ProtoMember, Shape, Type};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;

pub(super) fn message(object: &Value, ty: &'static Type) -> Vec<u8> {
    let mut writer = Writer::new();
    fields(&mut writer, object.as_object(), ty);
    writer.finish()
}

/// Writes the fields of an object, the last one first.
fn fields(w: &mut Writer, map: Option<&Map<String, Value>>, ty: &'static Type) {
    for member in ty.by_number().rev() {
        match member {
            ProtoMember::Inline(number, id) => w.message_field(number, |w| fields(w, map, id.get())),
            ProtoMember::Field(f) => {
                let value = map.and_then(|m| m.get(f.name)).unwrap_or(&Value::Null);
                if !value.is_null() || (!f.flags.pointer() && is_written_as_zero(&f.shape)) {
                    field(w, f, value);
                }
            }
        }
    }
}

/// Whether Go writes a zero value of this shape if the field is no pointer.
fn is_written_as_zero(shape: &Shape) -> bool {
    !matches!(
        shape,
        Shape::Bytes | Shape::List(_) | Shape::WrappedList(_) | Shape::Map(_) | Shape::Json | Shape::FieldsV1
    )
}

fn field(w: &mut Writer, f: &'static Field, v: &Value) {
    match &f.shape {
        Shape::List(item) => {
            for item_value in v.as_array().into_iter().flatten().rev() {
                value(w, f, f.number, item, item_value);
            }
        }
        Shape::Map(item) => {
            let mut entries: Vec<_> = v.as_object().into_iter().flatten().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            for (key, item_value) in entries.into_iter().rev() {
                w.message_field(f.number, |w| {
                    value(w, f, 2, item, item_value);
                    w.bytes_field(1, key.as_bytes());
                });
            }
        }
        shape => value(w, f, f.number, shape, v),
    }
}

/// Writes one value as field `number`; null counts as zero.
fn value(w: &mut Writer, f: &'static Field, number: u32, shape: &Shape, v: &Value) {
    let text = v.as_str().unwrap_or_default();
    match shape {
        Shape::String => w.bytes_field(number, text.as_bytes()),
        Shape::Bool => w.varint_field(number, u64::from(v.as_bool().unwrap_or(false))),
        Shape::Int32 | Shape::Int64 => w.varint_field(number, v.as_i64().unwrap_or(0) as u64),
        Shape::Double => {
            w.bytes(&v.as_f64().unwrap_or(0.0).to_bits().to_le_bytes());
            w.tag(number, FIXED64);
        }
        // Decoding has checked that this is base64.
        Shape::Bytes => {
            w.bytes_field(number, &base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default());
        }
        Shape::Time | Shape::MicroTime => w.message_field(number, |w| time(w, text)),
        Shape::Duration => w.message_field(number, |w| w.varint_field(1, 0)),
        Shape::Quantity => {
            let text = match v {
                Value::Null => "0".to_owned(),
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            w.message_field(number, |w| w.bytes_field(1, text.as_bytes()));
        }
        Shape::IntOrString => w.message_field(number, |w| {
            let is_text = v.is_string();
            w.bytes_field(3, text.as_bytes());
            w.varint_field(2, if is_text { 0 } else { v.as_i64().unwrap_or(0) as u64 });
            w.varint_field(1, u64::from(is_text));
        }),
        Shape::RawExtension | Shape::FieldsV1 => w.message_field(number, |w| raw(w, v)),
        Shape::Json => w.message_field(number, |w| json(w, f.json_kind(), v)),
        Shape::Object(id) => w.message_field(number, |w| fields(w, v.as_object(), id.get())),
        Shape::WrappedList(item) => w.message_field(number, |w| {
            for item_value in v.as_array().into_iter().flatten().rev() {
                value(w, f, 1, item, item_value);
            }
        }),
        // There are no lists of lists and no lists of maps.
        Shape::List(_) | Shape::Map(_) => {}
    }
}

fn time(w: &mut Writer, text: &str) {
    if let Ok(t) = text.parse::<Timestamp>() {
        let (mut seconds, mut nanos) = (t.as_second(), t.subsec_nanosecond());
        if nanos < 0 {
            (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
        }
        w.varint_field(2, nanos as u64);
        w.varint_field(1, seconds as u64);
    }
}

/// JSON text in a field of bytes.
fn raw(w: &mut Writer, v: &Value) {
    if !v.is_null() {
        w.bytes_field(1, v.to_string().as_bytes());
    }
}

/// The unions of JSON schemas that are messages of their own.
fn json(w: &mut Writer, kind: JsonKind, v: &Value) {
    let schema = |w: &mut Writer, number: u32, v: &Value| {
        w.message_field(number, |w| fields(w, v.as_object(), Type::json_schema_props()));
    };
    match (kind, v) {
        (JsonKind::Any, _) => raw(w, v),
        (JsonKind::OrArray, Value::Array(list)) => list.iter().rev().for_each(|v| schema(w, 2, v)),
        (JsonKind::OrStringArray, Value::Array(list)) => {
            list.iter().rev().for_each(|v| w.bytes_field(2, v.as_str().unwrap_or_default().as_bytes()));
        }
        (JsonKind::OrBool, Value::Object(_)) => {
            schema(w, 2, v);
            w.varint(1);
            w.tag(1, VARINT);
        }
        (JsonKind::OrBool, v) => w.varint_field(1, u64::from(v.as_bool().unwrap_or(false))),
        (_, Value::Object(_)) => schema(w, 1, v),
        _ => {}
    }
}
