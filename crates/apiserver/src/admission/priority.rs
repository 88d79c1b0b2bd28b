//! Priority: a pod's priority follows from its PriorityClass.
// upstream: plugin/pkg/admission/priority
use super::{Attributes, Operation};
use crate::registry::Registry;
use crate::value::{Fill, Read, object_of};
use pintle_api::meta::ObjectExt;
use pintle_api::status::ApiError;
use serde_json::Value;

pub(super) async fn admit(attributes: &Attributes<'_>, pod: &mut Value, registry: &Registry) -> Result<(), ApiError> {
    if attributes.operation == Operation::Update {
        let Some(old) = attributes.old.map(|old| old.field("spec")) else { return Ok(()) };
        let spec = object_of(pod).child_or_new("spec");
        for field in ["priority", "preemptionPolicy"] {
            if old.has(field) {
                spec.fill(field, old.field(field).clone());
            }
        }
        return Ok(());
    }
    let class = match pod.field("spec").text("priorityClassName") {
        "" => default_class(registry).await?,
        name => {
            let classes = registry.resource("scheduling.k8s.io", "priorityclasses")?;
            let found = registry.get(&classes, "", name).await.map_err(|error| match error.code {
                404 => attributes.refuse(pod, format!("no PriorityClass with name {name} was found")),
                _ => error,
            })?;
            Some(found)
        }
    };
    let priority = class.as_ref().map_or(0, |class| class.int("value"));
    let policy = class.as_ref().map_or("PreemptLowerPriority", |class| class.text("preemptionPolicy")).to_owned();
    let given = pod.field("spec").field("priority").as_i64();
    if let Some(given) = given.filter(|given| *given != priority) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return Err(attributes.refuse(pod, why));
    }
    let given = pod.field("spec").text("preemptionPolicy");
    if !given.is_empty() && !policy.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(attributes.refuse(pod, why));
    }
    let spec = object_of(pod).child_or_new("spec");
    if let Some(class) = &class {
        spec.set("priorityClassName", class.name());
    }
    spec.set("priority", priority);
    if !policy.is_empty() {
        spec.set("preemptionPolicy", policy);
    }
    Ok(())
}

/// The class of pods that name none; of several the one with the lowest value.
async fn default_class(registry: &Registry) -> Result<Option<Value>, ApiError> {
    let classes = registry.resource("scheduling.k8s.io", "priorityclasses")?;
    let classes = registry.list(&classes, "").await?.items;
    Ok(classes.into_iter().filter(|class| class.flag("globalDefault")).min_by_key(|class| class.int("value")))
}

pub(super) async fn validate_class(
    attributes: &Attributes<'_>,
    class: &Value,
    registry: &Registry,
) -> Result<(), ApiError> {
    if !class.flag("globalDefault") {
        return Ok(());
    }
    match default_class(registry).await? {
        Some(other) if attributes.operation == Operation::Create || other.name() != class.name() => {
            let why =
                format!("PriorityClass {} is already marked as default. Only one default can exist", other.name());
            Err(attributes.refuse(class, why))
        }
        _ => Ok(()),
    }
}
