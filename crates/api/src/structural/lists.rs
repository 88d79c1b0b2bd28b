//! Judges lists that are sets or maps: no item may come twice.
// upstream: apiextensions-apiserver pkg/apiserver/schema/listtype
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Schema;
use crate::field::{FieldError, Path};

/// The errors of all lists in `value`, at `path`.
pub fn validate(value: &Value, schema: &Schema, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, path, &mut errors);
    errors
}

fn walk(value: &Value, schema: &Schema, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(property) = schema.properties.get(key) {
                    walk(value, property, &path.child(key), errors);
                } else if let Some(additional) = schema.field(key) {
                    walk(value, additional, &path.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => {
                    for i in repeated(items.iter()) {
                        errors.push(FieldError::duplicate(&path.index(i), &items[i]));
                    }
                }
                Some("map") => keyed(items, &schema.list_map_keys, path, errors),
                _ => {}
            }
            if let Some(schema) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    walk(item, schema, &path.index(i), errors);
                }
            }
        }
        _ => {}
    }
}

fn keyed(items: &[Value], names: &[String], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| !item.is_null() && !item.is_object()) {
        errors.push(FieldError::invalid(&path.index(i), item, "must be an object for an array of list-type map"));
        return;
    }
    let key = |item: &Value| {
        let entry = |name: &String| Some((name.clone(), item.get(name)?.clone()));
        Value::Object(names.iter().filter_map(entry).collect::<Map<_, _>>())
    };
    let keys: Vec<Value> = items.iter().map(key).collect();
    for i in repeated(keys.iter()) {
        errors.push(FieldError::duplicate(&path.index(i), &keys[i]));
    }
}

/// The second occurrence of each value that occurs more than once.
fn repeated<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut second = Vec::new();
    for (i, value) in values.enumerate() {
        let times = seen.entry(value.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            second.push(i);
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeated_items_are_named_once() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}}}}}))
        .unwrap();
        let object = json!({"set": ["a", "b", "a", "a"], "map": [{"name": "x", "v": 1}, {"name": "x", "v": 2}]});
        let errors: Vec<String> = validate(&object, &schema, &Path::root("")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["map[1]: Duplicate value: {\"name\":\"x\"}", "set[2]: Duplicate value: \"a\""]);
    }
}
