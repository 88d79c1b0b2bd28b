//! Managers of `spec.replicas` as the subresource `scale` shows them, and back.
// upstream: apimachinery pkg/util/managedfields/scalehandler.go
use serde_json::{Map, Value, json};

use super::managers::{Entry, Managers};

const SCALE_VERSION: &str = "autoscaling/v1";

fn replicas() -> Map<String, Value> {
    Map::from_iter([("f:spec".to_owned(), json!({"f:replicas": {}}))])
}

fn has(fields: &Map<String, Value>, path: &[&str]) -> bool {
    let mut at = Some(fields);
    let mut member = false;
    for step in path {
        let below = at.and_then(|map| map.get(&format!("f:{step}")));
        member = below.and_then(Value::as_object).is_some_and(|map| map.is_empty() || map.contains_key("."));
        at = below.and_then(Value::as_object);
    }
    member
}

fn path_set(path: &[&str]) -> Map<String, Value> {
    let leaf = Value::Object(Map::new());
    let value =
        path.iter().rev().fold(leaf, |below, step| Value::Object(Map::from_iter([(format!("f:{step}"), below)])));
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Gives `scale` those managers of `parent` that own its replicas, which are at `path` (`spec.replicas`).
pub fn managers_to_scale(parent: &Value, scale: &mut Value, path: &[&str]) {
    let owners = Managers::of(parent).0.into_iter().filter(|entry| has(&entry.fields, path));
    let entries = owners.map(|entry| Entry { fields: replicas(), api_version: SCALE_VERSION.into(), ..entry });
    Managers(entries.collect()).write(scale);
}

/// Gives `parent`, which is of `api_version`, the managers that the replicas have after a write of `scale`.
pub fn managers_from_scale(parent: &mut Value, scale: &Value, api_version: &str, path: &[&str]) {
    let mut scaled = Managers::of(scale);
    let mut kept = Managers::default();
    for mut entry in Managers::of(parent).0 {
        if has(&entry.fields, path) {
            match scaled.position(&entry) {
                Some(at) => _ = scaled.0.remove(at),
                None => entry.subtract(&Entry { fields: path_set(path), ..entry.clone() }.set()),
            }
        }
        kept.0.push(entry);
    }
    for entry in scaled.0.into_iter().filter(|entry| has(&entry.fields, &["spec", "replicas"])) {
        kept.0.push(Entry { fields: path_set(path), api_version: api_version.into(), time: None, ..entry });
    }
    kept.drop_empty();
    kept.write(parent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_scales_takes_the_replicas_over() {
        let path = ["spec", "replicas"];
        let entry = json!({"manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
            "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:paused": {}}}});
        let mut parent = json!({"metadata": {"managedFields": [entry]}});
        let mut scale = json!({"metadata": {}});
        managers_to_scale(&parent, &mut scale, &path);
        let shown = &scale["metadata"]["managedFields"][0];
        assert_eq!(
            (&shown["apiVersion"], &shown["fieldsV1"]),
            (&json!("autoscaling/v1"), &json!({"f:spec": {"f:replicas": {}}}))
        );
        scale["metadata"]["managedFields"] = json!([{"manager": "you", "operation": "Update", "subresource": "scale",
            "apiVersion": "autoscaling/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        managers_from_scale(&mut parent, &scale, "apps/v1", &path);
        let fields: Vec<(&str, &Value)> = parent["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| (e["manager"].as_str().unwrap(), &e["fieldsV1"]))
            .collect();
        let (paused, replicas) = (json!({"f:spec": {"f:paused": {}}}), json!({"f:spec": {"f:replicas": {}}}));
        assert_eq!(fields, [("me", &paused), ("you", &replicas)]);
    }
}
