//! The paths: which operations there are, their parameters and answers.
use serde_json::{Map, Value};

use super::{
    schema,
    wire::{Message, elements, members, wrapped},
};

/// Where `PathItem` has the operation of each method.
const METHODS: [(u32, &str); 7] =
    [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];

/// The object `paths` as `Paths`.
pub(super) fn paths(value: Option<&Value>) -> Message {
    let mut out = Message::default();
    for (path, item) in members(value) {
        out.named(2, path, &path_item(item));
    }
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (number, method) in METHODS {
        if let Some(operation) = item.get(method).and_then(Value::as_object) {
            out.message(number, &self::operation(operation));
        }
    }
    for parameter in elements(item.get("parameters")) {
        out.message(9, &parameters_item(parameter));
    }
    out
}

fn operation(members: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    out.texts(1, members.get("tags"));
    out.text(3, members.get("description"));
    out.text(5, members.get("operationId"));
    out.texts(6, members.get("produces"));
    out.texts(7, members.get("consumes"));
    for parameter in elements(members.get("parameters")) {
        out.message(8, &parameters_item(parameter));
    }
    out.message(9, &responses(members.get("responses")));
    out.texts(10, members.get("schemes"));
    out.flag(11, members.get("deprecated"));
    out.extensions(13, members);
    out
}

fn parameters_item(value: &Value) -> Message {
    if value.get("$ref").is_some() {
        let mut reference = Message::default();
        reference.text(1, value.get("$ref"));
        return wrapped(2, &reference);
    }
    wrapped(1, &parameter(value))
}

/// One parameter as `Parameter`.
pub(super) fn parameter(value: &Value) -> Message {
    // The four kinds that are not the body have their own messages, with the same fields at other numbers.
    let (kind, skip) = match value.get("in").and_then(Value::as_str) {
        Some("body") => {
            let mut body = Message::default();
            for (number, name) in [(1, "description"), (2, "name"), (3, "in")] {
                body.text(number, value.get(name));
            }
            body.flag(4, value.get("required"));
            if let Some(inner) = value.get("schema") {
                body.message(5, &schema(inner));
            }
            return wrapped(1, &body);
        }
        Some("header") => (1, 0),
        Some("formData") => (2, 1),
        Some("query") => (3, 1),
        _ => (4, 0),
    };
    let mut other = Message::default();
    other.flag(1, value.get("required"));
    for (number, name) in [(2, "in"), (3, "description"), (4, "name"), (5 + skip, "type"), (6 + skip, "format")] {
        other.text(number, value.get(name));
    }
    other.any(9 + skip, value.get("default"));
    other.flag(19 + skip, value.get("uniqueItems"));
    wrapped(2, &wrapped(kind, &other))
}

fn responses(value: Option<&Value>) -> Message {
    let mut out = Message::default();
    for (code, response) in members(value) {
        let mut message = Message::default();
        message.text(1, response.get("description"));
        if let Some(inner) = response.get("schema") {
            message.message(2, &wrapped(1, &schema(inner)));
        }
        out.named(1, code, &wrapped(1, &message));
    }
    out
}
