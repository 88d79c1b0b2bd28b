//! Conversion between the versions of kinds that share one place in the store: events of both groups, horizontal pod
//! autoscalers, and kinds that have alpha or beta versions. Start at [`to_storage`] and [`from_storage`].
mod devices;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::{
    decode::{DecodeError, decode_value},
    facts,
    meta::{ObjectExt, ensure_map},
    scheme::{Resource, api_version},
};

/// Whether objects of this resource are stored in another group or version than they are served in.
pub fn is_converted(resource: &Resource) -> bool {
    resource.is_stored() && (&resource.storage_group, &resource.storage_version) != (&resource.group, &resource.version)
}

/// `object` in the form by which it is judged: the stored one where its version has fields of another shape.
pub fn judged<'a>(resource: &Resource, object: &'a Value) -> Cow<'a, Value> {
    match devices::has_other_shape(resource) {
        true => to_storage(resource, object.clone()).map_or(Cow::Borrowed(object), Cow::Owned),
        false => Cow::Borrowed(object),
    }
}

/// Changes `object` in the form by which it is judged.
pub fn in_stored_shape(resource: &Resource, object: &mut Value, change: impl FnOnce(&mut Value)) {
    if !devices::has_other_shape(resource) {
        return change(object);
    }
    devices::convert(&resource.kind, object, true);
    change(object);
    devices::convert(&resource.kind, object, false);
}

/// An object as it is served, in the form in which it is stored.
pub fn to_storage(resource: &Resource, object: Value) -> Result<Value, DecodeError> {
    convert(resource, object, true)
}

/// An object as it is stored, in the form in which this resource is served.
pub fn from_storage(resource: &Resource, object: Value) -> Result<Value, DecodeError> {
    convert(resource, object, false)
}

fn convert(resource: &Resource, mut object: Value, store: bool) -> Result<Value, DecodeError> {
    if !is_converted(resource) {
        return Ok(object);
    }
    let (group, version) =
        if store { (&resource.storage_group, &resource.storage_version) } else { (&resource.group, &resource.version) };
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", "Event") => rename_event(&mut object, store),
        ("autoscaling", "HorizontalPodAutoscaler") if store => autoscaler_v1_to_v2(&mut object),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler_v2_to_v1(&mut object),
        _ if devices::has_other_shape(resource) => devices::convert(&resource.kind, &mut object, store),
        _ => {}
    }
    let top = ensure_map(&mut object, &[]);
    top.insert("apiVersion".into(), api_version(group, version).into());
    match facts::lookup(group, version, &resource.kind) {
        Some(ty) => Ok(decode_value(object, ty)?.value),
        None => Ok(object),
    }
}

/// Names in `v1` and in `events.k8s.io/v1`.
// upstream: pkg/apis/events/v1/conversion.go
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename_event(event: &mut Value, to_core: bool) {
    let map = ensure_map(event, &[]);
    for (core, new) in EVENT_FIELDS {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

/// Where `v1` keeps what it has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

fn is_cpu_utilization(metric: &Value, place: &str) -> bool {
    let resource = &metric["resource"];
    metric["type"] == "Resource" && resource["name"] == "cpu" && resource[place]["averageUtilization"].is_i64()
}

/// Puts what `v1` has no field for into an annotation.
fn hide(object: &mut Value, annotation: &str, value: &Value) {
    let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if !empty {
        object.set_annotation(annotation, value.to_string());
    }
}

/// Takes it out again.
fn reveal(object: &mut Value, annotation: &str) -> Value {
    let text = object.annotation(annotation).map(str::to_owned);
    if text.is_some() {
        let annotations = ensure_map(object, &["metadata", "annotations"]);
        annotations.remove(annotation);
    }
    text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default()
}

fn autoscaler_v2_to_v1(object: &mut Value) {
    let spec = ensure_map(object, &["spec"]);
    let (metrics, behavior) = (spec.remove("metrics").unwrap_or_default(), spec.remove("behavior").unwrap_or_default());
    let mut others = Vec::new();
    for metric in metrics.as_array().into_iter().flatten() {
        if is_cpu_utilization(metric, "target") && !spec.contains_key("targetCPUUtilizationPercentage") {
            let target = metric["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".into(), target);
        } else {
            others.push(metric.clone());
        }
    }
    let status = ensure_map(object, &["status"]);
    let conditions = status.remove("conditions").unwrap_or_default();
    let mut others_now = Vec::new();
    let current = status.remove("currentMetrics").unwrap_or_default();
    for metric in current.as_array().into_iter().flatten() {
        if is_cpu_utilization(metric, "current") {
            let now = metric["resource"]["current"]["averageUtilization"].clone();
            status.insert("currentCPUUtilizationPercentage".into(), now);
        } else {
            others_now.push(metric.clone());
        }
    }
    hide(object, METRICS, &others.into());
    hide(object, BEHAVIOR, &behavior);
    hide(object, CURRENT_METRICS, &others_now.into());
    hide(object, CONDITIONS, &conditions);
}

fn autoscaler_v1_to_v2(object: &mut Value) {
    let cpu = |place: &str, percent: &Value| {
        let mut value = Map::from_iter([("averageUtilization".to_owned(), percent.clone())]);
        if place == "target" {
            value.insert("type".into(), "Utilization".into());
        }
        json!({"type": "Resource", "resource": {"name": "cpu", place: value}})
    };
    let with_cpu = |others: Value, cpu: Option<Value>| {
        let mut list = match others {
            Value::Array(list) => list,
            _ => Vec::new(),
        };
        list.splice(0..0, cpu);
        Value::from(list)
    };
    let (metrics, behavior) = (reveal(object, METRICS), reveal(object, BEHAVIOR));
    let (current, conditions) = (reveal(object, CURRENT_METRICS), reveal(object, CONDITIONS));
    let spec = ensure_map(object, &["spec"]);
    let target = spec.remove("targetCPUUtilizationPercentage").filter(|v| !v.is_null());
    spec.insert("metrics".into(), with_cpu(metrics, target.map(|t| cpu("target", &t))));
    spec.insert("behavior".into(), behavior);
    let status = ensure_map(object, &["status"]);
    let now = status.remove("currentCPUUtilizationPercentage").filter(|v| !v.is_null());
    status.insert("currentMetrics".into(), with_cpu(current, now.map(|n| cpu("current", &n))));
    status.insert("conditions".into(), conditions);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Scheme;

    #[test]
    fn events_of_the_new_group_are_stored_as_core_events() {
        let resource = Scheme::builtin().by_plural("events.k8s.io", "v1", "events").cloned().unwrap();
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod", "name": "p"}, "note": "n", "reason": "R", "reportingController": "c",
            "eventTime": "2024-01-01T00:00:00.000000Z"});
        let stored = to_storage(&resource, event.clone()).unwrap();
        assert_eq!((&stored["apiVersion"], &stored["message"]), (&json!("v1"), &json!("n")));
        assert_eq!(stored["involvedObject"], event["regarding"]);
        assert_eq!(stored["reportingComponent"], "c");
        assert_eq!(stored["source"], json!({}));
        let served = from_storage(&resource, stored).unwrap();
        assert_eq!((&served["note"], &served["regarding"]), (&event["note"], &event["regarding"]));
        assert_eq!(served["apiVersion"], "events.k8s.io/v1");
        assert_eq!(served.get("message"), None);
    }

    #[test]
    fn autoscalers_keep_their_metrics_through_v1() {
        let scheme = Scheme::builtin();
        let v1 = scheme.by_plural("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        let v2 = scheme.by_plural("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
        assert!(is_converted(v1) && !is_converted(v2));
        let object = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "targetCPUUtilizationPercentage": 50}});
        let mut stored = to_storage(v1, object.clone()).unwrap();
        assert_eq!(
            stored["spec"]["metrics"][0]["resource"]["target"],
            json!({"type": "Utilization", "averageUtilization": 50})
        );
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}});
        stored["spec"]["metrics"].as_array_mut().unwrap().push(pods);
        let served = from_storage(v1, stored.clone()).unwrap();
        assert_eq!(served["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(to_storage(v1, served).unwrap()["spec"], stored["spec"]);
    }
}
