//! Named formats: `format.dns1123Label().validate(name)`.
// upstream: apiserver pkg/cel/library/format.go
use super::{Builtin, no_overload, text};
use crate::eval::Outcome;
use crate::value::Value;
use base64::Engine;
use pintle_api::names;
use std::sync::Arc;

/// The formats that `format.named` knows.
const NAMES: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// How long upstream takes the pattern behind a format for, in characters.
pub(crate) fn pattern_size(name: &str) -> u64 {
    match name {
        "dns1123Label" | "dns1035Label" | "dns1123LabelPrefix" | "dns1035LabelPrefix" => 30,
        "dns1123Subdomain" | "qualifiedName" | "dns1123SubdomainPrefix" => 60,
        "labelValue" => 40,
        "uri" => 1103,
        "uuid" => 70,
        "byte" => 84,
        _ => 71,
    }
}

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "format.named" => |args, _| {
            let wanted = text(args, 0)?;
            let found = NAMES.iter().find(|name| **name == wanted);
            Ok(Value::Optional(found.map(|name| Arc::new(Value::Format(name)))))
        },
        "format.dns1123Label" => |_, _| Ok(Value::Format("dns1123Label")),
        "format.dns1123Subdomain" => |_, _| Ok(Value::Format("dns1123Subdomain")),
        "format.dns1035Label" => |_, _| Ok(Value::Format("dns1035Label")),
        "format.qualifiedName" => |_, _| Ok(Value::Format("qualifiedName")),
        "format.dns1123LabelPrefix" => |_, _| Ok(Value::Format("dns1123LabelPrefix")),
        "format.dns1123SubdomainPrefix" => |_, _| Ok(Value::Format("dns1123SubdomainPrefix")),
        "format.dns1035LabelPrefix" => |_, _| Ok(Value::Format("dns1035LabelPrefix")),
        "format.labelValue" => |_, _| Ok(Value::Format("labelValue")),
        "format.uri" => |_, _| Ok(Value::Format("uri")),
        "format.uuid" => |_, _| Ok(Value::Format("uuid")),
        "format.byte" => |_, _| Ok(Value::Format("byte")),
        "format.date" => |_, _| Ok(Value::Format("date")),
        "format.datetime" => |_, _| Ok(Value::Format("datetime")),
        "validate" => |args, _| validate(args),
        _ => return None,
    };
    Some(function)
}

fn validate<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Format(format), Value::String(value)] = args else { return no_overload() };
    let prefix = || format!("{}a", value.trim_end_matches('-'));
    let unless = |valid: bool, why: &str| if valid { Vec::new() } else { vec![why.to_owned()] };
    let wrong: Vec<String> = match *format {
        "dns1123Label" => names::dns1123_label(value),
        "dns1123LabelPrefix" => names::dns1123_label(&prefix()),
        "dns1123Subdomain" => names::dns1123_subdomain(value),
        "dns1123SubdomainPrefix" => names::dns1123_subdomain(&prefix()),
        "dns1035Label" => names::dns1035_label(value),
        "dns1035LabelPrefix" => names::dns1035_label(&prefix()),
        "qualifiedName" => names::qualified_name(value),
        "labelValue" => names::label_value(value),
        "uri" => unless(super::find("isURL").is_some_and(|is| is_true(is(&args[1..], None))), "invalid URL"),
        "uuid" => unless(is_uuid(value), "does not match the UUID format"),
        "byte" => unless(base64::engine::general_purpose::STANDARD.decode(&**value).is_ok(), "invalid base64"),
        "date" => unless(value.parse::<jiff::civil::Date>().is_ok(), "invalid date"),
        _ => unless(value.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
    };
    let messages = wrong.into_iter().map(Value::text).collect::<Vec<_>>();
    Ok(Value::Optional((!messages.is_empty()).then(|| Arc::new(Value::list(messages)))))
}

fn is_true(outcome: Outcome<'_>) -> bool {
    matches!(outcome, Ok(Value::Bool(true)))
}

fn is_uuid(text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
}
