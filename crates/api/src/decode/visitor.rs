//! The walk over a body, led by the schema facts.
use std::fmt;

use base64::Engine;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{
    Context, Words, text,
    zero::{complete, omitted, zero_shape},
};
use crate::{
    facts::{Field, Shape, Type},
    field::Path,
    meta,
    quantity::Quantity,
};

/// Where in the object the walk is.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: Option<&'a Path<'a>>,
    /// The innermost struct and the field of it, for Go's error texts.
    field: Option<(&'static Type, &'static Field)>,
    /// The names of the fields on the way here.
    names: &'a Names<'a>,
}

/// A chain of field names.
enum Names<'a> {
    Root,
    /// A field of a type.
    Field(&'a Names<'a>, &'static Type, &'static str),
}

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Names::Root => Ok(()),
            Names::Field(parent, ty, name) => {
                if !matches!(parent, Names::Root) {
                    write!(f, "{parent}.")?;
                }
                for embedded in ty.embedding(name) {
                    write!(f, "{embedded}.")?;
                }
                f.write_str(name)
            }
        }
    }
}

impl<'a> Place<'a> {
    const ROOT: Place<'static> = Place { path: None, field: None, names: &Names::Root };

    fn child(&self, key: &'a str) -> Path<'a> {
        match self.path {
            Some(path) => path.child(key),
            None => Path::root(key),
        }
    }
}

/// A value of a known shape.
#[derive(Clone, Copy)]
pub(super) struct Seed<'a> {
    context: &'a Context,
    shape: &'a Shape,
    place: Place<'a>,
}

/// An object of a known type.
pub(super) fn root(context: &Context, ty: &'static Type) -> impl for<'de> DeserializeSeed<'de, Value = Value> {
    Root { context, ty }
}

/// Anything.
pub(super) fn untyped(context: &Context) -> impl for<'de> DeserializeSeed<'de, Value = Value> {
    Seed { context, shape: &Shape::Json, place: Place::ROOT }
}

struct Root<'a> {
    context: &'a Context,
    ty: &'static Type,
}

impl<'de> DeserializeSeed<'de> for Root<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let shape = Shape::Object(self.ty.id());
        Seed { context: self.context, shape: &shape, place: Place::ROOT }.deserialize(deserializer)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Seed<'a> {
    /// Notes an error and stops the walk.
    fn fail<T, E: Error>(self, error: String) -> Result<T, E> {
        self.context.fail(error);
        Err(E::custom("the error is in the context"))
    }

    /// Go's error about a value of a wrong type.
    fn mismatch<T, E: Error>(self, got: &str) -> Result<T, E> {
        let expected = self.shape.go_type();
        if self.context.words == Words::Unstructured {
            return self.fail(self.unfit(got, expected));
        }
        self.fail(match self.place.field {
            Some((ty, field)) => {
                let (ty, names) = (ty.go_name(), self.place.names);
                // Only the field itself has a named Go type, not the items in it.
                let expected = match field.shape {
                    shape if shape == *self.shape => field.go_type(),
                    Shape::List(item) if *item == *self.shape => field.go_type().trim_start_matches("[]").to_owned(),
                    _ => expected,
                };
                format!("json: cannot unmarshal {got} into Go struct field {ty}.{names} of type {expected}")
            }
            None => format!("json: cannot unmarshal {got} into Go value of type {expected}"),
        })
    }

    /// The complaint of apimachinery's converter.
    fn unfit(&self, got: &str, expected: String) -> String {
        let source = match got {
            "array" => "slice",
            "object" => "map",
            other => match other.strip_prefix("number") {
                Some(number) if number.contains(['.', 'e', 'E']) => "float64",
                Some(_) => "int64",
                None => other,
            },
        };
        let target = match self.place.field {
            Some((_, field)) if field.shape == *self.shape => field.go_type(),
            _ => expected,
        };
        match (self.shape, source) {
            (Shape::Object(_), _) => format!("cannot restore struct from: {source}"),
            (Shape::Map(_), _) => format!("cannot restore map from {source}"),
            (Shape::List(_) | Shape::WrappedList(_) | Shape::Bytes, _) => format!("cannot restore slice from {source}"),
            (Shape::String, "int64") | (Shape::Int32 | Shape::Int64, "float64") => {
                format!("cannot convert {source} to {target}")
            }
            (shape, _) => format!("unrecognized type: {}", shape.go_type()),
        }
    }

    /// Integers that Go's conversion makes of numbers outside of their range or with a zero fraction.
    fn converted(&self, n: &Number) -> Option<Number> {
        let whole = match n.as_i64() {
            Some(whole) => whole,
            None => n.as_f64().filter(|f| f.fract() == 0.0)? as i64,
        };
        match self.shape {
            Shape::Int32 => Some((whole as i32).into()),
            Shape::Int64 => Some(whole.into()),
            _ => None,
        }
    }

    fn number<E: Error>(self, n: Number) -> Result<Value, E> {
        let n = match self.context.words {
            Words::Unstructured => self.converted(&n).unwrap_or(n),
            Words::Json => n,
        };
        match self.shape {
            Shape::Int32 | Shape::IntOrString => match n.as_i64() {
                Some(i) if i32::try_from(i).is_ok() => Ok(Value::Number(n)),
                _ if matches!(self.shape, Shape::IntOrString) => {
                    self.fail(format!("json: cannot unmarshal number {n} into Go value of type int32"))
                }
                _ => self.mismatch(&format!("number {n}")),
            },
            Shape::Int64 if n.is_i64() => Ok(Value::Number(n)),
            Shape::Int64 => self.mismatch(&format!("number {n}")),
            Shape::Double | Shape::Json | Shape::RawExtension | Shape::FieldsV1 => Ok(Value::Number(n)),
            Shape::Quantity => self.quantity(n.to_string()),
            Shape::Time | Shape::MicroTime | Shape::Duration => {
                self.fail("json: cannot unmarshal number into Go value of type string".into())
            }
            _ if self.context.words == Words::Unstructured => self.mismatch(&format!("number {n}")),
            _ => self.mismatch("number"),
        }
    }

    fn quantity<E: Error>(self, text: String) -> Result<Value, E> {
        let normal = match Quantity::normalize(&text) {
            Ok(normal) if normal == text => None,
            Ok(normal) => Some(normal.into_owned()),
            Err(e) => return self.fail(e.to_string()),
        };
        Ok(Value::String(normal.unwrap_or(text)))
    }

    fn string<E: Error>(self, s: String) -> Result<Value, E> {
        match self.shape {
            Shape::String
            | Shape::IntOrString
            | Shape::Duration
            | Shape::Json
            | Shape::RawExtension
            | Shape::FieldsV1 => Ok(Value::String(s)),
            Shape::Quantity => self.quantity(s),
            Shape::Bytes => {
                if base64::engine::general_purpose::STANDARD.decode(&s).is_ok() {
                    return Ok(Value::String(s));
                }
                // Go skips line breaks in base64.
                let joined: String = s.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
                match base64::engine::general_purpose::STANDARD.decode(&joined) {
                    Ok(_) => Ok(Value::String(joined)),
                    Err(e) if self.context.words == Words::Unstructured => {
                        self.fail(format!("error decoding from json: {}", text::base64_error(&joined, &e)))
                    }
                    Err(e) => self.fail(text::base64_error(&joined, &e)),
                }
            }
            Shape::Time | Shape::MicroTime => match s.parse::<jiff::Timestamp>() {
                Ok(t) if matches!(self.shape, Shape::Time) => Ok(Value::String(meta::time(t))),
                Ok(t) => Ok(Value::String(meta::micro_time(t))),
                Err(_) => self.fail(text::time_error(&s, matches!(self.shape, Shape::MicroTime))),
            },
            _ => self.mismatch("string"),
        }
    }

    fn fields<'de, A: MapAccess<'de>>(self, ty: &'static Type, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut seen = Seen::default();
        while let Some(key) = access.next_key::<Key>()? {
            let Some((i, field)) = ty.field_at(&key.0) else {
                self.context.strict("unknown field", &self.place.child(&key.0).to_string());
                access.next_value::<serde::de::IgnoredAny>()?;
                continue;
            };
            let path = self.place.child(field.name);
            if seen.twice(i) {
                self.context.strict("duplicate field", &path.to_string());
            }
            let names = Names::Field(self.place.names, ty, field.name);
            let place = Place { path: Some(&path), field: Some((ty, field)), names: &names };
            let value = access.next_value_seed(Seed { context: self.context, shape: &field.shape, place })?;
            // An empty list of managers asks for them to be forgotten.
            let kept =
                field.name == "managedFields" && matches!(self.place.names, Names::Field(Names::Root, _, "metadata"));
            if value.is_null() || (omitted(field, &value) && !kept) {
                map.remove(field.name);
            } else {
                map.insert(key.0, value);
            }
        }
        complete(&mut map, ty);
        Ok(Value::Object(map))
    }

    fn entries<'de, A: MapAccess<'de>>(self, shape: &Shape, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<Key>()? {
            let path = self.place.child(&key.0);
            if map.contains_key(&key.0) {
                self.context.strict("duplicate field", &path.to_string());
            }
            let place = Place { path: Some(&path), ..self.place };
            let mut value = access.next_value_seed(Seed { context: self.context, shape, place })?;
            if value.is_null() && !is_free(shape) {
                value = zero_shape(shape);
            }
            map.insert(key.0, value);
        }
        Ok(Value::Object(map))
    }

    fn items<'de, A: SeqAccess<'de>>(self, shape: &Shape, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::with_capacity(access.size_hint().unwrap_or(0).min(1024));
        loop {
            let own = Path::root("");
            let path = self.place.path.unwrap_or(&own).index(list.len());
            let place = Place { path: Some(&path), ..self.place };
            let Some(mut value) = access.next_element_seed(Seed { context: self.context, shape, place })? else {
                break;
            };
            if value.is_null() && !is_free(shape) {
                value = zero_shape(shape);
            }
            list.push(value);
        }
        Ok(Value::Array(list))
    }
}

/// Whether the facts say nothing of what is inside.
fn is_free(shape: &Shape) -> bool {
    matches!(shape, Shape::Json | Shape::RawExtension | Shape::FieldsV1)
}

/// Which fields of a struct were seen.
#[derive(Default)]
struct Seen([u64; 2]);

impl Seen {
    fn twice(&mut self, i: usize) -> bool {
        let Some(word) = self.0.get_mut(i / 64) else { return false };
        let bit = 1 << (i % 64);
        let before = *word & bit != 0;
        *word |= bit;
        before
    }
}

/// A key of an object; its text moves into the decoded map.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        String::deserialize(deserializer).map(Key)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<Value, E> {
        match self.shape {
            Shape::Bool | Shape::Json | Shape::RawExtension | Shape::FieldsV1 => Ok(Value::Bool(b)),
            Shape::Quantity => self.quantity(b.to_string()),
            Shape::IntOrString | Shape::Time | Shape::MicroTime | Shape::Duration => {
                self.fail("json: cannot unmarshal bool into Go value of type string".into())
            }
            _ => self.mismatch("bool"),
        }
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Value, E> {
        self.number(n.into())
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Value, E> {
        self.number(n.into())
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Value, E> {
        match Number::from_f64(n) {
            Some(n) => self.number(n),
            None => self.mismatch("number"),
        }
    }

    fn visit_str<E: Error>(self, s: &str) -> Result<Value, E> {
        self.string(s.to_owned())
    }

    fn visit_string<E: Error>(self, s: String) -> Result<Value, E> {
        self.string(s)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::List(item) | Shape::WrappedList(item) => self.items(item, access),
            Shape::Json | Shape::RawExtension | Shape::FieldsV1 => self.items(&Shape::Json, access),
            Shape::Quantity => self.quantity("[".into()),
            _ => self.mismatch("array"),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::Object(id) => self.fields(id.get(), access),
            Shape::Map(value) => self.entries(value, access),
            Shape::Json | Shape::RawExtension | Shape::FieldsV1 => self.entries(&Shape::Json, access),
            Shape::Quantity => self.quantity("{".into()),
            _ => self.mismatch("object"),
        }
    }
}
