//! The protobuf form of `/openapi/v2` that kubectl asks for: `Document` of gnostic's `OpenAPIv2.proto`. The definitions are
//! all of it that clients read; paths stay empty.
use serde_json::{Map, Value};

/// The swagger document `json` as a gnostic `Document`; `None` if it is not one.
pub fn document(json: &[u8]) -> Option<Vec<u8>> {
    let document: Value = serde_json::from_slice(json).ok()?;
    let mut definitions = Vec::new();
    for (name, schema) in document.get("definitions")?.as_object()? {
        named_schema(&mut definitions, 1, name, schema);
    }
    let mut info = Vec::new();
    for (number, name) in [(1, "title"), (2, "version")] {
        text(&mut info, number, document.pointer(&format!("/info/{name}")));
    }
    let mut out = Vec::with_capacity(definitions.len() + 64);
    text(&mut out, 1, document.get("swagger"));
    bytes(&mut out, 2, &info);
    bytes(&mut out, 8, &[]);
    bytes(&mut out, 9, &definitions);
    Some(out)
}

fn named_schema(out: &mut Vec<u8>, number: u32, name: &str, value: &Value) {
    let mut named = Vec::new();
    bytes(&mut named, 1, name.as_bytes());
    bytes(&mut named, 2, &schema(value));
    bytes(out, number, &named);
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(members) = value.as_object() else { return out };
    for (number, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        text(&mut out, number, members.get(name));
    }
    any(&mut out, 5, members.get("default"));
    for required in members.get("required").and_then(Value::as_array).into_iter().flatten() {
        text(&mut out, 19, Some(required));
    }
    for allowed in members.get("enum").and_then(Value::as_array).into_iter().flatten() {
        any(&mut out, 20, Some(allowed));
    }
    match members.get("additionalProperties") {
        Some(Value::Bool(allowed)) => bytes(&mut out, 21, &[0x10, u8::from(*allowed)]),
        Some(inner) => {
            let mut item = Vec::new();
            bytes(&mut item, 1, &schema(inner));
            bytes(&mut out, 21, &item);
        }
        None => {}
    }
    if members.contains_key("type") {
        let mut item = Vec::new();
        text(&mut item, 1, members.get("type"));
        bytes(&mut out, 22, &item);
    }
    if let Some(items) = members.get("items") {
        let mut item = Vec::new();
        bytes(&mut item, 1, &schema(items));
        bytes(&mut out, 23, &item);
    }
    for part in members.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        bytes(&mut out, 24, &schema(part));
    }
    if let Some(properties) = members.get("properties").and_then(Value::as_object) {
        let mut list = Vec::new();
        properties.iter().for_each(|(name, value)| named_schema(&mut list, 1, name, value));
        bytes(&mut out, 25, &list);
    }
    extensions(&mut out, 31, members);
    out
}

/// `x-…` members as `NamedAny`, their values as YAML, which JSON is.
fn extensions(out: &mut Vec<u8>, number: u32, members: &Map<String, Value>) {
    for (name, value) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
        let mut named = Vec::new();
        bytes(&mut named, 1, name.as_bytes());
        any(&mut named, 2, Some(value));
        bytes(out, number, &named);
    }
}

fn any(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    if let Some(value) = value {
        let mut message = Vec::new();
        bytes(&mut message, 2, value.to_string().as_bytes());
        bytes(out, number, &message);
    }
}

fn text(out: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str) {
        bytes(out, number, text.as_bytes());
    }
}

/// A field of bytes: tag, length, content.
fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_has_its_fields_at_gnostics_numbers() {
        let json = br#"{"swagger":"2.0","info":{},"definitions":{"A":{"type":"object","x-y":1}}}"#;
        let out = document(json).expect("a document");
        assert_eq!(&out[..9], b"\x0a\x032.0\x12\x00\x42\x00", "swagger, info, paths");
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("object") && text.contains("x-y"));
        // type: field 22, length 8, TypeItem.value: field 1, length 6.
        assert!(out.windows(5).any(|window| window == b"\xb2\x01\x08\x0a\x06"));
    }
}
