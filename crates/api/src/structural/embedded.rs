//! Whole objects inside an object (`x-kubernetes-embedded-resource`): reads and judges their `apiVersion`, `kind` and `metadata`.
// upstream: apiextensions-apiserver pkg/apiserver/schema/objectmeta
use serde_json::{Map, Value};

use super::{Schema, prune::Unknown};
use crate::{
    decode::decode_value,
    facts,
    field::{FieldError, Path},
    names,
};

/// The metadata of an object, typed.
#[derive(Debug)]
pub struct Metadata {
    /// In the form in which it is stored.
    pub value: Value,
    /// The paths of unknown fields, from `metadata` on.
    pub unknown: Vec<String>,
}

/// Reads `metadata`; with `lenient` fields that cannot be read are dropped, otherwise the error is Go's.
pub fn metadata(given: &Value, lenient: bool) -> Result<Metadata, String> {
    let ty = facts::object_meta();
    let read = |given: Value| {
        let decoded = decode_value(given, ty).map_err(|error| error.0)?;
        let field = |error: &String| error.strip_prefix("unknown field \"")?.strip_suffix('"').map(str::to_owned);
        Ok(Metadata { value: decoded.value, unknown: decoded.strict_errors.iter().filter_map(field).collect() })
    };
    match (read(given.clone()), given) {
        (Err(_), Value::Object(map)) if lenient => {
            let (mut kept, mut unknown) = (Map::new(), Vec::new());
            for (key, value) in map {
                let one = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
                if let Ok(Metadata { value: Value::Object(field), unknown: more }) = read(one) {
                    kept.extend(field);
                    unknown.extend(more);
                }
            }
            Ok(Metadata { value: Value::Object(kept), unknown })
        }
        (result, _) => result,
    }
}

/// Brings the metadata of embedded objects into canonical form and notes unknown fields in it. With `lenient` what cannot be
/// read is dropped.
pub fn coerce(
    value: &mut Value,
    schema: &Schema,
    lenient: bool,
    path: &Path<'_>,
    unknown: &mut Unknown,
) -> Result<(), FieldError> {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                coerce_one(map, lenient, path, unknown)?;
            }
            for (key, value) in map.iter_mut() {
                if let Some(property) = schema.properties.get(key) {
                    unknown.key(key, |unknown| coerce(value, property, lenient, &path.child(key), unknown))?;
                } else if let Some(additional) = schema.field(key) {
                    unknown.key(key, |unknown| coerce(value, additional, lenient, &path.key(key), unknown))?;
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                unknown.index(i, |unknown| coerce(item, schema, lenient, &path.index(i), unknown))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn coerce_one(
    map: &mut Map<String, Value>,
    lenient: bool,
    path: &Path<'_>,
    unknown: &mut Unknown,
) -> Result<(), FieldError> {
    for name in ["apiVersion", "kind"] {
        match map.get(name) {
            None | Some(Value::String(_)) => {}
            Some(_) if lenient => drop(map.remove(name)),
            Some(other) => return Err(FieldError::invalid(&path.child(name), other, "must be a string")),
        }
    }
    let Some(given) = map.get("metadata") else { return Ok(()) };
    match metadata(given, lenient) {
        Ok(read) => {
            read.unknown.iter().for_each(|field| unknown.record_below(&format!("metadata.{field}")));
            map.insert("metadata".into(), read.value);
            Ok(())
        }
        Err(_) if lenient => Ok(()),
        Err(why) => Err(FieldError::invalid(&path.child("metadata"), given, why)),
    }
}

/// The errors of all embedded objects in `value`; `whole`: `value` itself is one.
pub fn validate(value: &Value, schema: &Schema, whole: bool, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, whole, path, &mut errors);
    errors
}

fn walk(value: &Value, schema: &Schema, whole: bool, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            if whole || schema.embedded {
                validate_one(map, path, errors);
            }
            for (key, value) in map {
                if let Some(property) = schema.properties.get(key) {
                    walk(value, property, false, &path.child(key), errors);
                } else if let Some(additional) = schema.field(key) {
                    walk(value, additional, false, &path.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            for (i, item) in items.iter().enumerate() {
                walk(item, schema, false, &path.index(i), errors);
            }
        }
        _ => {}
    }
}

fn validate_one(map: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match map.get(name) {
            None => errors.push(FieldError::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&at, text, "must not be empty"));
            }
            Some(Value::String(text)) if name == "kind" => {
                let wrong = names::dns1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                    errors.push(FieldError::invalid(&at, text, why));
                }
            }
            Some(Value::String(text)) => {
                if text.split('/').count() > 2 {
                    errors.push(FieldError::invalid(&at, text, format!("unexpected GroupVersion string: {text}")));
                }
            }
            Some(other) => errors.push(FieldError::invalid(&at, other, "must be a string")),
        }
    }
    let Some(given) = map.get("metadata") else { return };
    let at = path.child("metadata");
    match metadata(given, false) {
        Err(why) => errors.push(FieldError::invalid(&at, given, why)),
        Ok(read) => validate_metadata(&read.value, &at, errors),
    }
}

fn validate_metadata(metadata: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut check = |at: Path<'_>, value: &str, wrong: Vec<String>| {
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid(&at, value, why)));
    };
    let (base, name, namespace) = (text("generateName"), text("name"), text("namespace"));
    check(path.child("generateName"), base, names::path_segment_prefix(base));
    if !name.is_empty() {
        check(path.child("name"), name, names::path_segment(name));
    }
    if !namespace.is_empty() {
        check(path.child("namespace"), namespace, names::dns1123_label(namespace));
    }
    let entries = |name: &str| metadata.get(name).and_then(Value::as_object).into_iter().flatten();
    for (key, value) in entries("labels") {
        let value = value.as_str().unwrap_or_default();
        check(path.child("labels"), key, names::qualified_name(key));
        check(path.child("labels"), value, names::label_value(value));
    }
    for (key, _) in entries("annotations") {
        check(path.child("annotations"), key, names::qualified_name(&key.to_lowercase()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        let pod = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
        Schema::parse(&json!({"type": "object", "properties": {"pod": pod}})).unwrap()
    }

    #[test]
    fn metadata_is_typed_and_unknown_fields_in_it_are_named() {
        let mut object = json!({"pod": {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": null, "odd": 1}}});
        let mut unknown = Unknown::default();
        coerce(&mut object, &schema(), false, &Path::root(""), &mut unknown).unwrap();
        assert_eq!(object["pod"]["metadata"], json!({"name": "a"}));
        assert_eq!(unknown.into_sorted(), ["pod.metadata.odd"]);
    }

    #[test]
    fn an_embedded_object_needs_a_type() {
        let errors = validate(&json!({"pod": {"metadata": {"name": "a/b"}}}), &schema(), false, &Path::root(""));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "pod.apiVersion: Required value",
                "pod.kind: Required value",
                "pod.metadata.name: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
    }
}
