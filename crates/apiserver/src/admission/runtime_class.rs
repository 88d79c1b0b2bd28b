//! RuntimeClass: a pod's overhead and placement follow from its RuntimeClass.
// upstream: plugin/pkg/admission/runtimeclass
use super::Attributes;
use crate::registry::Registry;
use crate::value::{Fill, Read, object_of, same};
use pintle_api::status::ApiError;
use serde_json::Value;

async fn class(attributes: &Attributes<'_>, pod: &Value, registry: &Registry) -> Result<Option<Value>, ApiError> {
    let name = pod.field("spec").text("runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    let classes = registry.resource("node.k8s.io", "runtimeclasses")?;
    registry.get(&classes, "", name).await.map(Some).map_err(|error| match error.code {
        404 => attributes.refuse(pod, format!("pod rejected: RuntimeClass {name:?} not found")),
        _ => error,
    })
}

pub(super) async fn admit(attributes: &Attributes<'_>, pod: &mut Value, registry: &Registry) -> Result<(), ApiError> {
    let Some(class) = class(attributes, pod, registry).await? else { return Ok(()) };
    let overhead = class.field("overhead").field("podFixed");
    if class.has("overhead") {
        if !pod.field("spec").is_zero("overhead") && !same(pod.field("spec").field("overhead"), overhead) {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(attributes.refuse(pod, why));
        }
        object_of(pod).child_or_new("spec").set("overhead", overhead.clone());
    }
    let scheduling = class.field("scheduling");
    for (key, value) in scheduling.entries("nodeSelector") {
        let held = pod.field("spec").field("nodeSelector").field(key);
        if !held.is_null() && held != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(held)
            );
            return Err(attributes.refuse(pod, why));
        }
        object_of(pod).child_or_new("spec").child_or_new("nodeSelector").set(key, value.clone());
    }
    for toleration in scheduling.items("tolerations") {
        let spec = object_of(pod).child_or_new("spec");
        if !spec.items("tolerations").contains(toleration) {
            match spec.entry("tolerations").or_insert(Value::Null) {
                Value::Array(list) => list.push(toleration.clone()),
                other => *other = vec![toleration.clone()].into(),
            }
        }
    }
    Ok(())
}

pub(super) async fn validate(attributes: &Attributes<'_>, pod: &Value, registry: &Registry) -> Result<(), ApiError> {
    let class = class(attributes, pod, registry).await?;
    let overhead = pod.field("spec").field("overhead");
    match class.filter(|class| class.has("overhead")) {
        Some(class) if !same(class.field("overhead").field("podFixed"), overhead) => {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            Err(attributes.refuse(pod, why))
        }
        None if !overhead.is_null() => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            Err(attributes.refuse(pod, why))
        }
        _ => Ok(()),
    }
}
