//! The protobuf form of `/openapi/v2` that kubectl asks for: `Document` of gnostic's `OpenAPIv2.proto`.
mod paths;
mod wire;

use serde_json::Value;

use wire::{Message, elements, members, wrapped};

/// The swagger document `json` as a gnostic `Document`; `None` if it is not one.
pub fn document(json: &[u8]) -> Option<Vec<u8>> {
    let document: Value = serde_json::from_slice(json).ok()?;
    let mut definitions = Message::default();
    for (name, value) in document.get("definitions")?.as_object()? {
        definitions.named(1, name, &schema(value));
    }
    let mut info = Message::default();
    for (number, name) in [(1, "title"), (2, "version")] {
        info.text(number, document.pointer(&format!("/info/{name}")));
    }
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    out.message(2, &info);
    out.message(8, &paths::paths(document.get("paths")));
    out.message(9, &definitions);
    if document.get("parameters").is_some() {
        let mut parameters = Message::default();
        for (name, value) in members(document.get("parameters")) {
            parameters.named(1, name, &paths::parameter(value));
        }
        out.message(10, &parameters);
    }
    for requirement in elements(document.get("security")) {
        let mut message = Message::default();
        for (name, scopes) in members(Some(requirement)) {
            let mut list = Message::default();
            list.texts(1, Some(scopes));
            message.named(1, name, &list);
        }
        out.message(12, &message);
    }
    out.message(13, &security_definitions(document.get("securityDefinitions")));
    Some(out.finish())
}

/// Only keys in a header are known: no other kind is announced.
fn security_definitions(value: Option<&Value>) -> Message {
    let mut out = Message::default();
    for (name, definition) in members(value) {
        let mut key = Message::default();
        for (number, name) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(number, definition.get(name));
        }
        out.named(1, name, &wrapped(2, &key));
    }
    out
}

/// A schema object as `Schema`.
fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(object) = value.as_object() else { return out };
    for (number, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        out.text(number, object.get(name));
    }
    out.any(5, object.get("default"));
    out.texts(19, object.get("required"));
    for allowed in elements(object.get("enum")) {
        out.any(20, Some(allowed));
    }
    match object.get("additionalProperties") {
        Some(Value::Bool(allowed)) => out.bytes(21, &[0x10, u8::from(*allowed)]),
        Some(inner) => out.message(21, &wrapped(1, &schema(inner))),
        None => {}
    }
    if object.contains_key("type") {
        let mut item = Message::default();
        item.text(1, object.get("type"));
        out.message(22, &item);
    }
    if let Some(items) = object.get("items") {
        out.message(23, &wrapped(1, &schema(items)));
    }
    for part in elements(object.get("allOf")) {
        out.message(24, &schema(part));
    }
    if object.contains_key("properties") {
        let mut properties = Message::default();
        for (name, value) in members(object.get("properties")) {
            properties.named(1, name, &schema(value));
        }
        out.message(25, &properties);
    }
    out.extensions(31, object);
    out
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

    /// kubectl before 1.27 looks for `dryRun` here before it asks for one (`kubectl diff`, `--dry-run=server`).
    #[test]
    fn a_query_parameter_of_an_operation_has_its_fields_at_gnostics_numbers() {
        let json = br##"{"definitions":{},"paths":{"/a":{"patch":{"x-kind":{"kind":"A"},"parameters":[
            {"in":"query","name":"dryRun","type":"string","uniqueItems":true},{"$ref":"#/b"}]}}}}"##;
        let out = document(json).expect("a document");
        let query = b"\x12\x05query\x22\x06dryRun\x32\x06string\xa0\x01\x01";
        // ParametersItem.parameter (1), Parameter.non_body_parameter (2), NonBodyParameter.query_parameter_sub_schema (3).
        let mut item = vec![0x42, 32, 0x0a, 30, 0x12, 28, 0x1a, 26];
        item.extend_from_slice(query);
        assert!(out.windows(item.len()).any(|window| window == item), "{out:?}");
        assert!(out.windows(9).any(|window| window == b"\x42\x07\x12\x05\x0a\x03#/b"), "a reference: {out:?}");
        assert!(out.windows(6).any(|window| window == b"x-kind"));
    }
}
