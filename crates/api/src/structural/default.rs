//! Fills in the defaults of a schema. Start at [`default`]; see [`prune_defaults`] for the defaults themselves.
// upstream: apiextensions-apiserver pkg/apiserver/schema/defaulting
use serde_json::{Map, Value};

use super::{Additional, Schema, prune};

/// Gives `value` the defaults of `schema`.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                match map.get_mut(name) {
                    None => drop(map.insert(name.clone(), default.clone())),
                    Some(value) if value.is_null() && !property.nullable => *value = default.clone(),
                    Some(_) => {}
                }
            }
            let additional = schema.additional.as_ref().and_then(Additional::schema);
            for (name, value) in map.iter_mut() {
                match (schema.properties.get(name), additional) {
                    (Some(property), _) => default(value, property),
                    (None, Some(additional)) => default_item(value, additional),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items.iter_mut().for_each(|item| default_item(item, schema));
            }
        }
        _ => {}
    }
}

fn default_item(value: &mut Value, schema: &Schema) {
    if let (Value::Null, false, Some(default)) = (&*value, schema.nullable, &schema.default) {
        *value = default.clone();
    }
    default(value, schema);
}

/// Removes nulls where null is not a value and there is no default to take its place.
pub fn prune_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let schema = schema.and_then(|schema| schema.field(name));
            if value.is_null() && schema.is_some_and(|schema| !schema.nullable && schema.default.is_none()) {
                return false;
            }
            prune_nulls(value, schema);
            true
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.items.as_deref());
            items.iter_mut().for_each(|item| prune_nulls(item, schema));
        }
        _ => {}
    }
}

/// Removes from the defaults of `schema` what the schema itself does not know.
pub fn prune_defaults(schema: &mut Schema) {
    if let Some(mut default) = schema.default.take() {
        prune::prune_value(&mut default, schema);
        schema.default = Some(default);
    }
    if let Some(Additional::Schema(additional)) = &mut schema.additional {
        prune_defaults(additional);
    }
    if let Some(items) = &mut schema.items {
        prune_defaults(items);
    }
    schema.properties.values_mut().for_each(prune_defaults);
}

/// A whole object in which `value` is at the place that `path` names, so that rules for whole objects can judge it.
pub(super) fn surround(path: &[&str], value: Value) -> Value {
    let wrap = |inner: Value, name: &&str| Value::Object(Map::from_iter([((*name).to_owned(), inner)]));
    path.iter().rev().fold(value, wrap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_fill_what_is_missing_or_wrongly_null() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "A"},
            "n": {"type": "string", "nullable": true, "default": "N"},
            "o": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 1}}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "boolean", "default": true}}}},
            "m": {"type": "object", "additionalProperties": {"type": "string", "default": "M"}}}}))
        .unwrap();
        let mut object = json!({"a": null, "n": null, "l": [{}], "m": {"k": null}});
        default(&mut object, &schema);
        assert_eq!(object, json!({"a": "A", "n": null, "o": {"b": 1}, "l": [{"c": true}], "m": {"k": "M"}}));
    }

    #[test]
    fn nulls_stay_where_they_are_values() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "a": {"type": "string"}, "n": {"type": "string", "nullable": true}, "d": {"type": "string", "default": "x"}}}))
        .unwrap();
        let mut object = json!({"a": null, "n": null, "d": null, "free": null});
        prune_nulls(&mut object, Some(&schema));
        assert_eq!(object, json!({"n": null, "d": null, "free": null}));
    }

    #[test]
    fn defaults_lose_what_their_schema_does_not_know() {
        let mut schema = Schema::parse(&json!({"type": "object", "properties": {
            "o": {"type": "object", "default": {"a": "1", "z": 1}, "properties": {"a": {"type": "string"}}}}}))
        .unwrap();
        prune_defaults(&mut schema);
        assert_eq!(schema.properties["o"].default, Some(json!({"a": "1"})));
    }
}
