//! Arithmetic, comparison, membership, optionals.
use super::{Builtin, no_overload};
use crate::eval::{Error, Outcome, index};
use crate::types::{ListKind, Type};
use crate::value::{Key, List, Map, Value};
use jiff::SignedDuration;
use std::cmp::Ordering;
use std::sync::Arc;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "!_" => |args, _| args.first().map_or_else(no_overload, |v| Ok(Value::Bool(!truth(v)?))),
        "-_" => |args, _| match args {
            [Value::Int(i)] => i.checked_neg().map(Value::Int).ok_or_else(overflow),
            [Value::Double(d)] => Ok(Value::Double(-d)),
            _ => no_overload(),
        },
        "_+_" => |args, _| add(args),
        "_-_" => |args, _| subtract(args),
        "_*_" => |args, _| match args {
            [Value::Int(a), Value::Int(b)] => a.checked_mul(*b).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(a), Value::Uint(b)] => a.checked_mul(*b).map(Value::Uint).ok_or_else(uint_overflow),
            [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
            _ => no_overload(),
        },
        "_/_" => |args, _| match args {
            [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(Error::new("division by zero")),
            [Value::Int(a), Value::Int(b)] => a.checked_div(*b).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
            [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
            _ => no_overload(),
        },
        "_%_" => |args, _| match args {
            [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(Error::new("modulus by zero")),
            [Value::Int(a), Value::Int(b)] => a.checked_rem(*b).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
            _ => no_overload(),
        },
        "_==_" => |args, _| pair(args).map(|(a, b)| Value::Bool(equal(a, b))),
        "_!=_" => |args, _| pair(args).map(|(a, b)| Value::Bool(!equal(a, b))),
        "_<_" => |args, _| ordered(args, Ordering::is_lt),
        "_<=_" => |args, _| ordered(args, Ordering::is_le),
        "_>_" => |args, _| ordered(args, Ordering::is_gt),
        "_>=_" => |args, _| ordered(args, Ordering::is_ge),
        "@in" => |args, _| match args {
            [element, Value::List(list)] => Ok(Value::Bool(list.iter().any(|held| equal(element, &held)))),
            [key, Value::Map(map)] => Ok(Value::Bool(Key::of(key).is_some_and(|key| map.get(&key).is_some()))),
            _ => no_overload(),
        },
        "_[_]" => |args, _| element(args, false),
        "_[?_]" => |args, _| element(args, true),
        "size" => |args, _| match args {
            [Value::String(s)] => Ok(Value::Int(s.chars().count() as i64)),
            [Value::Bytes(b)] => Ok(Value::Int(b.len() as i64)),
            [Value::List(list)] => Ok(Value::Int(list.len() as i64)),
            [Value::Map(map)] => Ok(Value::Int(map.len() as i64)),
            _ => no_overload(),
        },
        "optional.of" => |args, _| Ok(Value::Optional(args.first().cloned().map(Arc::new))),
        "optional.none" => |_, _| Ok(Value::Optional(None)),
        "optional.ofNonZeroValue" => {
            |args, _| Ok(Value::Optional(args.first().filter(|v| !is_zero(v)).cloned().map(Arc::new)))
        }
        "optional.unwrap" | "unwrapOpt" => |args, _| match args {
            [Value::List(list)] => {
                let inner = list.iter().filter_map(|v| match v {
                    Value::Optional(inner) => inner.map(|v| (*v).clone()),
                    other => Some(other),
                });
                Ok(Value::list(inner.collect()))
            }
            _ => no_overload(),
        },
        "hasValue" => |args, _| match args {
            [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
            _ => no_overload(),
        },
        "value" => |args, _| match args {
            [Value::Optional(Some(inner))] => Ok((**inner).clone()),
            [Value::Optional(None)] => Err(Error::new("optional.none() dereference")),
            _ => no_overload(),
        },
        "or" => |args, _| match args {
            [Value::Optional(Some(inner)), _] => Ok(Value::Optional(Some(inner.clone()))),
            [Value::Optional(None), other] => Ok(other.clone()),
            _ => no_overload(),
        },
        "orValue" => |args, _| match args {
            [Value::Optional(Some(inner)), _] => Ok((**inner).clone()),
            [Value::Optional(None), other] => Ok(other.clone()),
            _ => no_overload(),
        },
        _ => return None,
    };
    Some(function)
}

pub(crate) fn overflow() -> Error {
    Error::new("integer overflow")
}

pub(crate) fn uint_overflow() -> Error {
    Error::new("unsigned integer overflow")
}

pub(crate) fn duration_overflow() -> Error {
    Error::new("duration overflow")
}

fn pair<'v, 'a>(args: &'v [Value<'a>]) -> Result<(&'v Value<'a>, &'v Value<'a>), Error> {
    match args {
        [a, b] => Ok((a, b)),
        _ => Err(Error::new("no such overload")),
    }
}

pub(crate) fn truth(value: &Value<'_>) -> Result<bool, Error> {
    match value {
        Value::Bool(b) => Ok(*b),
        _ => Err(Error::new("no such overload")),
    }
}

fn add<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (a, b) = pair(args)?;
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint).ok_or_else(uint_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text(format!("{}{}", &**a, &**b))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&**a, &**b].concat().into())),
        (Value::List(a), Value::List(b)) => Ok(Value::list(concatenate(a, b))),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map(Value::Duration).ok_or_else(duration_overflow)
        }
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => t
            .checked_add(SignedDuration::from_nanos(*d))
            .map(Value::Timestamp)
            .map_err(|_| Error::new("timestamp overflow")),
        _ => no_overload(),
    }
}

/// Sets are united; of maps, the second's entries replace the first's; other lists follow each other.
// upstream: apiserver pkg/cel/common, UnstructuredToVal: unstructuredMapList.Add, unstructuredSetList.Add
fn concatenate<'a>(a: &List<'a>, b: &List<'a>) -> Vec<Value<'a>> {
    let mut out = a.to_vec();
    match a.kind() {
        ListKind::Atomic => out.extend(b.iter()),
        ListKind::Set => {
            for value in b.iter() {
                if !out.iter().any(|held| equal(held, &value)) {
                    out.push(value);
                }
            }
        }
        ListKind::Map(keys) => {
            for value in b.iter() {
                match out.iter_mut().find(|held| same_keys(keys, held, &value)) {
                    Some(held) => *held = value,
                    None => out.push(value),
                }
            }
        }
    }
    out
}

fn same_keys(keys: &[String], a: &Value<'_>, b: &Value<'_>) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| match (a.field(key), b.field(key)) {
        (Some(a), Some(b)) => equal(&a, &b),
        (None, None) => true,
        _ => false,
    })
}

fn subtract<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (a, b) = pair(args)?;
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_sub(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_sub(*b).map(Value::Uint).ok_or_else(uint_overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(*b).map(Value::Duration).ok_or_else(duration_overflow)
        }
        (Value::Timestamp(t), Value::Duration(d)) => t
            .checked_sub(SignedDuration::from_nanos(*d))
            .map(Value::Timestamp)
            .map_err(|_| Error::new("timestamp overflow")),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            i64::try_from(a.duration_since(*b).as_nanos()).map(Value::Duration).map_err(|_| duration_overflow())
        }
        _ => no_overload(),
    }
}

fn element<'a>(args: &[Value<'a>], optional: bool) -> Outcome<'a> {
    let (operand, at) = pair(args)?;
    let (operand, optional) = match operand {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => (&**inner, true),
        other => (other, optional),
    };
    let found = index(operand, at)?;
    match (found, optional) {
        (found, true) => Ok(Value::Optional(found.map(Arc::new))),
        (Some(found), false) => Ok(found),
        (None, false) => Err(match (operand, at) {
            (Value::List(_), Value::Int(i)) => Error::new(format!("index out of bounds: {i}")),
            (_, Value::String(key)) => Error::new(format!("no such key: {}", &**key)),
            (_, other) => Error::new(format!("no such key: {}", super::convert::display(other))),
        }),
    }
}

fn ordered<'a>(args: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Outcome<'a> {
    let (a, b) = pair(args)?;
    match compare(a, b) {
        Some(ordering) => Ok(Value::Bool(wanted(ordering))),
        None if numeric(a).is_some() && numeric(b).is_some() => Err(Error::new("NaN values cannot be ordered")),
        None => no_overload(),
    }
}

fn numeric(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(i) => Some(*i as f64),
        Value::Uint(u) => Some(*u as f64),
        Value::Double(d) => Some(*d),
        _ => None,
    }
}

/// The order of two values; `None` if they have none.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(u64::try_from(*a).map_or(Ordering::Less, |a| a.cmp(b))),
        (Value::Uint(a), Value::Int(b)) => Some(u64::try_from(*b).map_or(Ordering::Greater, |b| a.cmp(&b))),
        (Value::String(a), Value::String(b)) => Some(a[..].cmp(&b[..])),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (a, b) => numeric(a)?.partial_cmp(&numeric(b)?),
    }
}

/// Whether two values are equal; values of different types are not.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::List(a), Value::List(b)) => equal_lists(a, b),
        (Value::Map(a), Value::Map(b)) => equal_maps(a, b),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (None, None) => true,
            _ => false,
        },
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Quantity(a), Value::Quantity(b)) => a == b,
        (Value::Url(a), Value::Url(b)) => a == b,
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Cidr(a, bits), Value::Cidr(b, other)) => a == b && bits == other,
        (Value::Semver(a), Value::Semver(b)) => a.cmp_precedence(b).is_eq(),
        (Value::Format(a), Value::Format(b)) => a == b,
        (a, b) => compare(a, b) == Some(Ordering::Equal),
    }
}

fn equal_lists(a: &List<'_>, b: &List<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.kind() {
        ListKind::Atomic => a.iter().zip(b.iter()).all(|(a, b)| equal(&a, &b)),
        ListKind::Set => a.iter().all(|a| b.iter().any(|b| equal(&a, &b))),
        ListKind::Map(keys) => a.iter().all(|a| b.iter().any(|b| same_keys(keys, &a, &b) && equal(&a, &b))),
    }
}

fn equal_maps(a: &Map<'_>, b: &Map<'_>) -> bool {
    if let (Map::Json(a, _), Map::Json(b, _)) = (a, b)
        && std::ptr::eq(*a, *b)
    {
        return true;
    }
    if a.len() != b.len() {
        return false;
    }
    let held: std::collections::BTreeMap<_, _> = b.entries().into_iter().collect();
    a.entries().iter().all(|(key, value)| held.get(key).is_some_and(|other| equal(value, other)))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
        Value::Double(d) => *d == 0.0,
        Value::String(s) => s.is_empty(),
        Value::Bytes(b) => b.is_empty(),
        // What an object has is never taken for nothing.
        Value::List(list @ List::Made(_)) => list.is_empty(),
        Value::Map(map @ Map::Made(..)) => map.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        _ => false,
    }
}

/// The type of a value, for `type(x)`.
pub(crate) fn type_of(value: &Value<'_>) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        Value::Timestamp(_) => Type::Timestamp,
        Value::Duration(_) => Type::Duration,
        Value::List(_) => Type::Opaque("list"),
        Value::Map(_) => Type::Opaque("map"),
        Value::Optional(_) => Type::Opaque("optional_type"),
        Value::Type(_) => Type::Type,
        Value::Quantity(_) => Type::Opaque("kubernetes.Quantity"),
        Value::Url(_) => Type::Opaque("kubernetes.URL"),
        Value::Ip(_) => Type::Opaque("net.IP"),
        Value::Cidr(..) => Type::Opaque("net.CIDR"),
        Value::Semver(_) => Type::Opaque("kubernetes.Semver"),
        Value::Format(_) => Type::Opaque("kubernetes.NamedFormat"),
        Value::Authorizer(_) => Type::Opaque("kubernetes.authorization"),
    }
}
