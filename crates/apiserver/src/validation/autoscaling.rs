//! HorizontalPodAutoscalers, in `autoscaling/v2` and `autoscaling/v1`.
// upstream: pkg/apis/autoscaling/validation
use super::common::{nonnegative_quantity, quantity};
use super::field::{Errors, Field};
use super::resources::container_resource_name;
use crate::value::Read;
use pintle_api::scheme::split_api_version;
use pintle_api::{field::FieldError, names};
use serde_json::Value;

const METRIC_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
/// The sources of a metric, in the order in which upstream looks at them.
const SOURCES: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];

/// A new HorizontalPodAutoscaler.
pub(crate) fn horizontal_pod_autoscaler(object: &Value) -> Errors {
    judge(object, None)
}

/// A changed HorizontalPodAutoscaler.
pub(crate) fn horizontal_pod_autoscaler_update(new: &Value, old: &Value) -> Errors {
    judge(new, Some(old))
}

/// A changed status.
pub(crate) fn horizontal_pod_autoscaler_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    for count in ["currentReplicas", "desiredReplicas"] {
        status.child(count).nonnegative(&mut errors);
    }
    errors
}

fn judge(object: &Value, old: Option<&Value>) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let (min, max) = (spec.child("minReplicas"), spec.child("maxReplicas"));
    let was_zero = old.is_some_and(|old| {
        let before = old.field("spec").field("minReplicas");
        before.as_i64() == Some(0)
    });
    if min.is_set() && min.int() < i64::from(!was_zero) {
        errors.push(min.invalid(format!("must be greater than or equal to {}", i64::from(!was_zero))));
    }
    if max.int() == 0 {
        errors.push(max.missing("must be set and greater than 0"));
    } else if max.int() < 0 {
        errors.push(max.invalid("must be greater than or equal to 1"));
    }
    if min.is_set() && max.int() < min.int() {
        errors.push(FieldError::invalid(&max.path, max.int(), "must be greater than or equal to `minReplicas`"));
    }
    let target = spec.child("scaleTargetRef");
    let kept = old.map(|old| old.field("spec").field("scaleTargetRef")).is_some_and(|before| {
        ["apiVersion", "kind"].iter().all(|field| before.text(field) == target.value.text(field))
    });
    let group = match target.value.text("kind") {
        _ if kept => Group::Any,
        "ReplicationController" => Group::MayBeEmpty,
        _ => Group::Needed,
    };
    reference(&target, group, &mut errors);
    let malformed_before = old.is_some_and(|old| {
        let mut metrics = old.field("spec").items("metrics").iter().filter(|metric| metric.text("type") == "Object");
        metrics.any(|metric| is_malformed(metric.field("object").field("describedObject").text("apiVersion")))
    });
    let described = if malformed_before { Group::Any } else { Group::MayBeEmpty };
    for metric in spec.child("metrics").items() {
        metric_spec(&metric, described, &mut errors);
    }
    let utilization = spec.child("targetCPUUtilizationPercentage");
    if utilization.is_set() && utilization.int() < 1 {
        let metrics = Field { value: utilization.value, ..spec.child("metrics[0].resource.target.averageUtilization") };
        errors.push(metrics.invalid("must be greater than 0"));
    }
    let from_elsewhere = |metric: &Value| matches!(metric.text("type"), "Object" | "External");
    if min.is_set() && min.int() == 0 && !spec.value.items("metrics").iter().any(from_elsewhere) {
        let text = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(spec.child("metrics").forbidden(text));
    }
    let behavior = spec.child("behavior");
    for rules in ["scaleUp", "scaleDown"].iter().map(|r| behavior.child(r)) {
        if rules.is_set() {
            scaling_rules(&rules, &mut errors);
        }
    }
    errors
}

/// What is asked of the group in a reference's `apiVersion`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Nothing: it was there before.
    Any,
    /// There may be none.
    MayBeEmpty,
    /// There must be one.
    Needed,
}

fn reference(target: &Field<'_>, group: Group, errors: &mut Errors) {
    for field in ["kind", "name"].iter().map(|f| target.child(f)) {
        field.required_checked(names::path_segment, errors);
    }
    let version = target.child("apiVersion");
    let text = version.text();
    if group == Group::Any {
        return;
    }
    if is_malformed(text) {
        let wrong = format!("unexpected GroupVersion string: {text}");
        errors.push(FieldError::invalid(&version.path, text, wrong));
    } else if group == Group::Needed && split_api_version(text).0.is_empty() {
        errors.push(FieldError::invalid(&version.path, text, "apiVersion must specify API group"));
    }
}

/// Whether an `apiVersion` is neither a version nor a group and a version.
fn is_malformed(version: &str) -> bool {
    version.matches('/').count() > 1
}

fn metric_spec(metric: &Field<'_>, described: Group, errors: &mut Errors) {
    let kind = metric.child("type");
    if kind.is_zero() {
        errors.push(kind.missing("must specify a metric source type"));
    }
    kind.one_of(&METRIC_TYPES, errors);
    let present: Vec<&str> = SOURCES.into_iter().filter(|source| metric.value.has(source)).collect();
    if let Some(first) = present.first() {
        source(first, &metric.child(first), described, errors);
    }
    let mut expected = String::new();
    if METRIC_TYPES.contains(&kind.text()) {
        kind.text().clone_into(&mut expected);
        expected[..1].make_ascii_lowercase();
        let source = metric.child(&expected);
        if !source.is_set() {
            errors.push(source.missing("must populate information for the given metric source"));
        }
    } else {
        kind.one_of(&METRIC_TYPES, errors);
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|source| **source != *expected) {
            errors.push(metric.child(other).forbidden("must populate the given metric source only"));
        }
    }
}

fn source(kind: &str, source: &Field<'_>, described: Group, errors: &mut Errors) {
    let target = source.child("target");
    match kind {
        "object" => {
            reference(&source.child("describedObject"), described, errors);
            identifier(&source.child("metric"), errors);
        }
        "external" | "pods" => identifier(&source.child("metric"), errors),
        _ => {
            let name = source.child("name");
            if name.is_zero() {
                errors.push(name.missing("must specify a resource name"));
            } else if kind == "containerResource" {
                container_resource_name(name.text(), &name, errors);
            }
            if kind == "containerResource" {
                let container = source.child("container");
                if container.is_zero() {
                    errors.push(container.missing("must specify a container"));
                } else {
                    container.checked(names::dns1123_label, errors);
                }
            }
        }
    }
    metric_target(&target, errors);
    let has = |field: &str| target.value.has(field);
    let (average, value, utilization) =
        (target.child("averageValue"), target.child("value"), target.child("averageUtilization"));
    match kind {
        "object" if !has("value") && !has("averageValue") => {
            errors.push(average.missing("must set either a target value or averageValue"));
        }
        "external" if !has("value") && !has("averageValue") => {
            errors.push(average.missing("must set either a target value for metric or a per-pod target"));
        }
        "external" if has("value") && has("averageValue") => {
            errors.push(value.forbidden("may not set both a target value for metric and a per-pod target"));
        }
        "pods" if !has("averageValue") => {
            errors.push(average.missing("must specify a positive target averageValue"));
        }
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => {
            errors.push(utilization.missing("must set either a target raw value or a target utilization"));
        }
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            errors.push(average.forbidden("may not set both a target raw value and a target utilization"));
        }
        _ => {}
    }
}

fn identifier(metric: &Field<'_>, errors: &mut Errors) {
    let name = metric.child("name");
    if name.is_zero() {
        errors.push(name.missing("must specify a metric name"));
    } else {
        name.checked(names::path_segment, errors);
    }
}

fn metric_target(target: &Field<'_>, errors: &mut Errors) {
    let kind = target.child("type");
    if kind.is_zero() {
        errors.push(kind.missing("must specify a metric target type"));
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        let text = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&kind.path, kind.text(), text));
    }
    for amount in ["value", "averageValue"].iter().map(|field| target.child(field)) {
        if amount.is_set() && quantity(amount.value).sign() <= 0 {
            errors.push(amount.invalid("must be positive"));
        }
    }
    let utilization = target.child("averageUtilization");
    if utilization.is_set() && utilization.int() < 1 {
        errors.push(utilization.invalid("must be greater than 0"));
    }
}

fn scaling_rules(rules: &Field<'_>, errors: &mut Errors) {
    let window = rules.child("stabilizationWindowSeconds");
    if window.int() < 0 {
        errors.push(window.invalid("must be greater than or equal to zero"));
    }
    if window.int() > 3600 {
        errors.push(window.invalid("must be less than or equal to 3600"));
    }
    let select = rules.child("selectPolicy");
    if select.is_set() {
        select.one_of(&["Disabled", "Max", "Min"], errors);
    }
    let policies = rules.child("policies");
    policies.required("must specify at least one Policy", errors);
    for policy in policies.items() {
        policy.child("type").one_of(&["Percent", "Pods"], errors);
        for field in ["value", "periodSeconds"].iter().map(|f| policy.child(f)) {
            if field.int() <= 0 {
                errors.push(FieldError::invalid(&field.path, field.int(), "must be greater than zero"));
            }
        }
        let period = policy.child("periodSeconds");
        if period.int() > 1800 {
            errors.push(period.invalid("must be less than or equal to 1800"));
        }
    }
    let tolerance = rules.child("tolerance");
    if tolerance.is_set() {
        nonnegative_quantity(&tolerance, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_target_needs_the_group_of_its_kind_unless_it_was_there_before() {
        let object = json!({"spec": {"maxReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
        let wrong = ["spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group"];
        assert_eq!(texts(horizontal_pod_autoscaler(&object)), wrong);
        assert!(horizontal_pod_autoscaler_update(&object, &object).is_empty());
        let of_core =
            json!({"spec": {"maxReplicas": 1, "scaleTargetRef": {"kind": "ReplicationController", "name": "d"}}});
        assert!(horizontal_pod_autoscaler(&of_core).is_empty());
    }

    #[test]
    fn what_a_metric_describes_may_stay_malformed() {
        let with = |version: &str, average: i64| {
            let described = json!({"apiVersion": version, "kind": "Service", "name": "s"});
            let target = json!({"type": "AverageValue", "averageValue": average.to_string()});
            let object = json!({"describedObject": described, "metric": {"name": "m"}, "target": target});
            let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
            let metrics = json!([{"type": "Object", "object": object}]);
            json!({"spec": {"maxReplicas": 1, "scaleTargetRef": reference, "metrics": metrics}})
        };
        let wrong = texts(horizontal_pod_autoscaler(&with("a/b/c", 1)));
        assert!(wrong[0].ends_with("unexpected GroupVersion string: a/b/c"), "{wrong:?}");
        assert!(horizontal_pod_autoscaler_update(&with("a/b/c", 2), &with("a/b/c", 1)).is_empty());
        assert!(!horizontal_pod_autoscaler_update(&with("a/b/c", 2), &with("v1", 1)).is_empty());
    }

    #[test]
    fn a_metric_has_exactly_the_source_of_its_type() {
        let target = json!({"type": "Utilization", "averageUtilization": 50});
        let metric = json!({"type": "Pods", "resource": {"name": "cpu", "target": target}});
        let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
        let object = json!({"spec": {"maxReplicas": 1, "scaleTargetRef": reference, "metrics": [metric]}});
        assert_eq!(
            texts(horizontal_pod_autoscaler(&object)),
            ["spec.metrics[0].pods: Required value: must populate information for the given metric source"]
        );
    }
}
