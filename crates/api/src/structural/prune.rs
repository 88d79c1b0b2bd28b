//! Removes the fields that a schema does not know. Start at [`prune`].
// upstream: apiextensions-apiserver pkg/apiserver/schema/pruning
use serde_json::Value;

use super::{Additional, META_FIELDS, Schema};

/// Collects the paths of removed fields, as `fieldValidation` reports them.
#[derive(Debug, Default)]
pub struct Unknown {
    paths: Vec<String>,
    at: String,
}

impl Unknown {
    /// The paths, sorted.
    pub fn into_sorted(mut self) -> Vec<String> {
        self.paths.sort_unstable();
        self.paths
    }

    /// Runs `inside` one field further down.
    pub(super) fn key<T>(&mut self, key: &str, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.at.len();
        if length > 0 {
            self.at.push('.');
        }
        self.at.push_str(key);
        let result = inside(self);
        self.at.truncate(length);
        result
    }

    /// Runs `inside` on an item.
    pub(super) fn index<T>(&mut self, index: usize, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.at.len();
        self.at.push_str(&format!("[{index}]"));
        let result = inside(self);
        self.at.truncate(length);
        result
    }

    fn record(&mut self, key: &str) {
        self.key(key, |unknown| unknown.paths.push(unknown.at.clone()));
    }

    /// Notes a field whose path from here on is `path`.
    pub(super) fn record_below(&mut self, path: &str) {
        self.record(path);
    }
}

/// Removes from `object`, a whole object with `apiVersion`, `kind` and `metadata`, what `schema` does not know; without a schema
/// nothing else is known.
pub fn prune(object: &mut Value, schema: Option<&Schema>) -> Unknown {
    let mut unknown = Unknown::default();
    let nothing = Schema::default();
    walk(object, Some(schema.unwrap_or(&nothing)), true, &mut unknown);
    unknown
}

/// Removes from `value`, which is not a whole object, what `schema` does not know.
pub fn prune_value(value: &mut Value, schema: &Schema) {
    walk(value, Some(schema), schema.embedded, &mut Unknown::default());
}

fn walk(value: &mut Value, schema: Option<&Schema>, whole: bool, unknown: &mut Unknown) {
    if let Some(schema) = schema.filter(|schema| schema.preserve_unknown) {
        return walk_preserved(value, schema, whole, unknown);
    }
    match value {
        Value::Object(map) => map.retain(|key, value| {
            let Some(schema) = schema else {
                unknown.record(key);
                return false;
            };
            let meta = META_FIELDS.contains(&key.as_str());
            if whole && meta {
                return true;
            }
            match (schema.properties.get(key), &schema.additional) {
                (Some(property), _) => {
                    unknown.key(key, |unknown| walk(value, Some(property), property.embedded, unknown));
                }
                (None, Some(additional)) => {
                    let inner = additional.schema();
                    let whole = inner.is_some_and(|schema| schema.embedded);
                    unknown.key(key, |unknown| walk(value, inner, whole, unknown));
                }
                (None, None) => {
                    if !meta || !unknown.at.is_empty() {
                        unknown.record(key);
                    }
                    return false;
                }
            }
            true
        }),
        Value::Array(items) => {
            let inner = schema.and_then(|schema| schema.items.as_deref());
            let whole = inner.is_some_and(|schema| schema.embedded);
            for (i, item) in items.iter_mut().enumerate() {
                unknown.index(i, |unknown| walk(item, inner, whole, unknown));
            }
        }
        _ => {}
    }
}

/// Where unknown fields stay, known ones are still looked into.
fn walk_preserved(value: &mut Value, schema: &Schema, whole: bool, unknown: &mut Unknown) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if whole && META_FIELDS.contains(&key.as_str()) {
                    continue;
                }
                let known = schema.properties.get(key);
                if known.is_none() && schema.additional.is_none() {
                    continue;
                }
                let inner = known.or_else(|| schema.additional.as_ref().and_then(Additional::schema));
                let whole = inner.is_some_and(|schema| schema.embedded);
                unknown.key(key, |unknown| walk(value, inner, whole, unknown));
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.items.as_deref() else { return };
            for (i, item) in items.iter_mut().enumerate() {
                unknown.index(i, |unknown| walk_preserved(item, inner, inner.embedded, unknown));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pruned(schema: Value, mut object: Value) -> (Value, Vec<String>) {
        let unknown = prune(&mut object, Some(&Schema::parse(&schema).unwrap()));
        (object, unknown.into_sorted())
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}});
        let object = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}, "other": 1,
            "spec": {"b": 1, "list": [{"a": "1"}, {"a": "1", "z": 2}], "map": {"k": {"a": "1", "y": {"deep": 1}}}}});
        let (object, unknown) = pruned(schema, object);
        assert_eq!(unknown, ["other", "spec.b", "spec.list[1].z", "spec.map.k.y"]);
        assert_eq!(
            object,
            json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"},
                   "spec": {"list": [{"a": "1"}, {"a": "1"}], "map": {"k": {"a": "1"}}}})
        );
    }

    #[test]
    fn preserved_fields_stay_and_known_ones_inside_are_pruned() {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "known": {"type": "object", "properties": {"a": {"type": "string"}}},
            "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        let object = json!({"kind": "X", "free": {"x": 1}, "known": {"a": "1", "b": 2},
            "embedded": {"kind": "Y", "apiVersion": "v1", "metadata": {"name": "y"}, "spec": {"z": 1}, "w": 1}});
        let (object, unknown) = pruned(schema, object);
        assert_eq!(unknown, ["embedded.spec.z", "embedded.w", "known.b"]);
        assert_eq!(
            object,
            json!({"kind": "X", "free": {"x": 1}, "known": {"a": "1"},
                   "embedded": {"kind": "Y", "apiVersion": "v1", "metadata": {"name": "y"}, "spec": {}}})
        );
    }
}
