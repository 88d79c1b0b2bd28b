//! Kinds of small groups: PodDisruptionBudgets, Leases, PriorityClasses, RuntimeClasses.
use super::apps::{at_most_all, number_or_percent};
use super::common::{go_struct, label_selector, labels};
use super::field::{Errors, Field};
use super::resources::container_resources;
use super::scheduling::tolerations;
use crate::value::Read;
use pintle_api::{field::FieldError, names};
use serde_json::{Value, json};

/// A new PodDisruptionBudget.
pub(crate) fn pod_disruption_budget(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let bounds = ["minAvailable", "maxUnavailable"];
    if bounds.iter().all(|field| spec.value.has(field)) {
        const FIELDS: [(&str, &str); 4] = [
            ("MinAvailable", "minAvailable"),
            ("Selector", "selector"),
            ("MaxUnavailable", "maxUnavailable"),
            ("UnhealthyPodEvictionPolicy", "unhealthyPodEvictionPolicy"),
        ];
        let text = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&spec.path, go_struct(spec.value, &FIELDS, true), text));
    }
    for field in bounds.iter().map(|field| spec.child(field)).filter(|f| !f.value.is_null()) {
        number_or_percent(&field, &mut errors);
        at_most_all(&field, &mut errors);
    }
    label_selector(&spec.child("selector"), &mut errors);
    let policy = spec.child("unhealthyPodEvictionPolicy");
    if policy.is_set() {
        policy.one_of(&["AlwaysAllow", "IfHealthyBudget"], &mut errors);
    }
    errors
}

/// A changed PodDisruptionBudget.
pub(crate) fn pod_disruption_budget_update(new: &Value, _old: &Value) -> Errors {
    pod_disruption_budget(new)
}

/// A changed status of a PodDisruptionBudget.
pub(crate) fn pod_disruption_budget_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        status.child(count).nonnegative(&mut errors);
    }
    errors
}

/// A new or changed Lease.
pub(crate) fn lease(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let duration = spec.child("leaseDurationSeconds");
    if duration.is_set() && duration.int() <= 0 {
        errors.push(duration.invalid("must be greater than 0"));
    }
    spec.child("leaseTransitions").nonnegative(&mut errors);
    errors
}

/// A new PriorityClass.
pub(crate) fn priority_class(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let (name, value) = (object.field("metadata").text("name"), Field::root(object, "value"));
    if name.starts_with("system-") {
        let known = match name {
            "system-node-critical" => Some(2_000_001_000),
            "system-cluster-critical" => Some(2_000_000_000),
            _ => None,
        };
        let wrong = match known {
            None => Some(format!("{name} is not a known system priority class")),
            Some(wanted) if value.int() != wanted => Some(format!("value of {name} PriorityClass must be {wanted}")),
            Some(_) if object.flag("globalDefault") => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            let metadata = Field::root(object, "metadata");
            errors.push(metadata.child("name").forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {wrong}"
            )));
        }
    } else if value.int() > 1_000_000_000 {
        errors.push(value.forbidden("maximum allowed value of a user defined priority is 1000000000"));
    }
    let policy = Field::root(object, "preemptionPolicy");
    if policy.is_set() {
        policy.required_one_of(&["PreemptLowerPriority", "Never"], &mut errors);
    }
    errors
}

/// A changed PriorityClass.
pub(crate) fn priority_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    if new.int("value") != old.int("value") {
        errors.push(Field::root(new, "value").forbidden("may not be changed in an update."));
    }
    Field::root(new, "preemptionPolicy").immutable(old.field("preemptionPolicy"), &mut errors);
    errors
}

/// A new RuntimeClass.
pub(crate) fn runtime_class(object: &Value) -> Errors {
    let mut errors = Errors::new();
    Field::root(object, "handler").required_checked(names::dns1123_label, &mut errors);
    let overhead = Field::root(object, "overhead");
    if overhead.is_set() {
        let limits = json!({"limits": overhead.value.field("podFixed")});
        container_resources(&Field { value: &limits, ..overhead }, &[], &mut errors);
    }
    let scheduling = Field::root(object, "scheduling");
    labels(&scheduling.child("nodeSelector"), &mut errors);
    tolerations(&scheduling.child("tolerations"), &mut errors);
    errors
}

/// A changed RuntimeClass.
pub(crate) fn runtime_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors = runtime_class(new);
    Field::root(new, "handler").immutable(old.field("handler"), &mut errors);
    errors
}
