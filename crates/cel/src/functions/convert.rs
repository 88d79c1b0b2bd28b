//! Conversions between types.
use super::operators::{overflow, type_of, uint_overflow};
use super::{Builtin, no_overload, time};
use crate::eval::Error;
use crate::types::Type;
use crate::value::Value;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "type" => |args, _| args.first().map_or_else(no_overload, |v| Ok(Value::Type(type_of(v)))),
        "dyn" => |args, _| args.first().map_or_else(no_overload, |v| Ok(v.clone())),
        "bool" => |args, _| match args {
            [v @ Value::Bool(_)] => Ok(v.clone()),
            [Value::String(s)] => match &**s {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
                _ => Err(wrong("bool")),
            },
            _ => no_overload(),
        },
        "int" => |args, _| match args {
            [v @ Value::Int(_)] => Ok(v.clone()),
            [Value::Uint(u)] => i64::try_from(*u).map(Value::Int).map_err(|_| overflow()),
            [Value::Double(d)] if d.is_finite() && d.abs() < 9_223_372_036_854_775_807.0 => Ok(Value::Int(*d as i64)),
            [Value::Double(_)] => Err(overflow()),
            [Value::String(s)] => s.parse().map(Value::Int).map_err(|_| wrong("int")),
            [Value::Timestamp(t)] => Ok(Value::Int(t.as_second())),
            [Value::Duration(d)] => Ok(Value::Int(*d)),
            _ => no_overload(),
        },
        "uint" => |args, _| match args {
            [v @ Value::Uint(_)] => Ok(v.clone()),
            [Value::Int(i)] => u64::try_from(*i).map(Value::Uint).map_err(|_| uint_overflow()),
            [Value::Double(d)] if *d >= 0.0 && *d < 18_446_744_073_709_551_615.0 => Ok(Value::Uint(*d as u64)),
            [Value::Double(_)] => Err(uint_overflow()),
            [Value::String(s)] => s.parse().map(Value::Uint).map_err(|_| wrong("uint")),
            _ => no_overload(),
        },
        "double" => |args, _| match args {
            [v @ Value::Double(_)] => Ok(v.clone()),
            [Value::Int(i)] => Ok(Value::Double(*i as f64)),
            [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
            [Value::String(s)] => s.parse().map(Value::Double).map_err(|_| wrong("double")),
            _ => no_overload(),
        },
        "string" => |args, _| match args {
            [v @ Value::String(_)] => Ok(v.clone()),
            [Value::Bytes(b)] => {
                std::str::from_utf8(b).map(Value::text).map_err(|_| Error::new("invalid UTF-8 in bytes"))
            }
            [
                v @ (Value::Bool(_)
                | Value::Int(_)
                | Value::Uint(_)
                | Value::Double(_)
                | Value::Timestamp(_)
                | Value::Duration(_)
                | Value::Ip(_)
                | Value::Cidr(..)),
            ] => Ok(Value::text(display(v))),
            _ => no_overload(),
        },
        "bytes" => |args, _| match args {
            [v @ Value::Bytes(_)] => Ok(v.clone()),
            [Value::String(s)] => Ok(Value::Bytes(s.as_bytes().into())),
            _ => no_overload(),
        },
        _ => return None,
    };
    Some(function)
}

fn wrong(wanted: &str) -> Error {
    Error::new(format!("type conversion error from 'string' to '{wanted}'"))
}

/// A number as Go's `%v` writes it where that differs from Rust.
pub(crate) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let size = d.abs();
    if d != 0.0 && !(1e-4..1e21).contains(&size) {
        // Go writes at least two digits of exponent, with its sign.
        let text = format!("{d:e}");
        if let Some((mantissa, exponent)) = text.split_once('e') {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            return format!("{mantissa}e{sign}{digits:0>2}");
        }
    }
    d.to_string()
}

/// A value as text, as `string()` and `%s` write it.
pub(crate) fn display(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::String(s) => s.to_string(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Timestamp(t) => t.to_string(),
        Value::Duration(d) => time::duration_text(*d),
        Value::List(list) => {
            let parts: Vec<String> = list.iter().map(|v| display(&v)).collect();
            format!("[{}]", parts.join(", "))
        }
        Value::Map(map) => {
            let parts: Vec<String> = map.entries().iter().map(|(k, v)| format!("{k}: {}", display(v))).collect();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Optional(Some(inner)) => format!("optional({})", display(inner)),
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Type(Type::Null) => "null_type".to_owned(),
        Value::Type(Type::Timestamp) => "google.protobuf.Timestamp".to_owned(),
        Value::Type(Type::Duration) => "google.protobuf.Duration".to_owned(),
        Value::Type(ty) => ty.to_string(),
        Value::Quantity(q) => q.to_string(),
        Value::Url(url) => url.text.clone(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(ip, bits) => format!("{ip}/{bits}"),
        Value::Semver(version) => version.to_string(),
        Value::Format(name) => (*name).to_owned(),
        Value::Authorizer(_) => value.type_name().to_owned(),
    }
}
