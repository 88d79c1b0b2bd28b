//! Pods: their first status, quality of service, grace period, and what label keys add to selectors.
use super::set_condition;
use crate::defaults;
use crate::strategy::{
    generic,
    rules::{Generation, Rules, Status},
};
use crate::validation;
use crate::value::{Fill, Object, Read};
use pintle_api::meta::now;
use serde_json::{Value, json};

/// The rules of pods.
pub(crate) static POD: Rules = Rules {
    default: Some(defaults::core::pod),
    status: Status::Own(|status| status.set("phase", "Pending")),
    create: first_status,
    status_update,
    validate: validation::pod::create,
    validate_update: validation::pod::update,
    validate_status_update: validation::pod::update_status,
    warnings: validation::warnings::pod,
    grace_period,
    returns_deleted: true,
    ..Rules::WITH_STATUS
};

/// The rules of `binding`, which sets the node and the condition that says so. The generation stays: a user changed nothing.
pub(crate) static BINDING: Rules =
    Rules { generation: Generation::None, status: Status::AsSent, validate_update: |_, _| Vec::new(), ..POD };

/// The rules of `ephemeralcontainers`: nothing else may change.
pub(crate) static EPHEMERAL_CONTAINERS: Rules = Rules {
    update: |new, old| {
        let containers = new.field("spec").field("ephemeralContainers").clone();
        only_spec(new, old);
        if !containers.is_null() {
            new.child_or_new("spec").set("ephemeralContainers", containers);
        }
    },
    validate_update: validation::pod::update_ephemeral_containers,
    ..POD
};

/// The rules of `resize`: only resources and resize policies of containers may change.
pub(crate) static RESIZE: Rules =
    Rules { update: only_resources, validate_update: |new, _| validation::pod::create(new), ..POD };

/// Puts all back but the spec, and what the metadata of a subresource may carry.
fn only_spec(new: &mut Object, old: &Value) {
    generic::keep_metadata(new, old, generic::STATUS_METADATA);
    new.set("spec", old.field("spec").clone());
}

fn only_resources(new: &mut Object, old: &Value) {
    let sent = new.field("spec").clone();
    let names =
        |spec: &Value, list: &str| spec.items(list).iter().map(|c| c.text("name").to_owned()).collect::<Vec<_>>();
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|list| names(&sent, list) != names(old.field("spec"), list)) {
        return;
    }
    only_spec(new, old);
    let spec = new.child_or_new("spec");
    if sent.has("resources") {
        spec.set("resources", sent.field("resources").clone());
    }
    for list in lists {
        for (container, sent) in spec.each(list).zip(sent.items(list)) {
            for field in ["resources", "resizePolicy"] {
                container.remove(field);
                if sent.has(field) {
                    container.set(field, sent.field(field).clone());
                }
            }
        }
    }
}

fn first_status(pod: &mut Object) {
    let class = qos::class(pod.field("spec"));
    let gated = !pod.field("spec").is_zero("schedulingGates");
    let status = pod.child_or_new("status");
    status.set("qosClass", class);
    if gated {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        set_condition(status, "PodScheduled", "False", "SchedulingGated", message, &now());
    }
    let labels = pod.field("metadata").field("labels").clone();
    merge_label_keys(pod.child_or_new("spec"), &labels);
}

fn status_update(new: &mut Object, old: &Value) {
    generic::keep_metadata(new, old, &["deletionTimestamp", "ownerReferences"]);
    let old = old.field("status");
    let status = new.child_or_new("status");
    for field in ["qosClass", "observedGeneration"] {
        if old.has(field) {
            status.fill_zero(field, old.field(field).clone());
        }
    }
    for condition in status.each("conditions") {
        let before = old.items("conditions").iter().find(|c| c.text("type") == condition.text("type"));
        if let Some(generation) = before.map(|c| c.int("observedGeneration")).filter(|&g| g != 0) {
            condition.fill_zero("observedGeneration", generation);
        }
    }
}

/// Pods that no kubelet will end go at once.
// upstream: pkg/registry/core/pod, CheckGracefulDelete
fn grace_period(pod: &Value, requested: Option<i64>) -> Option<i64> {
    let spec = pod.field("spec");
    let period = requested.unwrap_or_else(|| spec.int("terminationGracePeriodSeconds"));
    let ended = matches!(pod.field("status").text("phase"), "Failed" | "Succeeded");
    Some(if spec.is_zero("nodeName") || ended {
        0
    } else if period < 0 {
        1
    } else {
        period
    })
}

/// Adds to label selectors what `matchLabelKeys` and `mismatchLabelKeys` take from the pod's own labels.
fn merge_label_keys(spec: &mut Object, labels: &Value) {
    for constraint in spec.each("topologySpreadConstraints") {
        merge(constraint, "matchLabelKeys", "In", labels);
    }
    let Some(affinity) = spec.child("affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = affinity.child(kind) else { continue };
        let both = |term: &mut Object| {
            merge(term, "matchLabelKeys", "In", labels);
            merge(term, "mismatchLabelKeys", "NotIn", labels);
        };
        let preferred = affinity.each("preferredDuringSchedulingIgnoredDuringExecution");
        preferred.filter_map(|p| p.child("podAffinityTerm")).for_each(both);
        affinity.each("requiredDuringSchedulingIgnoredDuringExecution").for_each(both);
    }
}

fn merge(term: &mut Object, keys: &str, operator: &str, labels: &Value) {
    let added: Vec<Value> = term
        .texts(keys)
        .filter(|key| labels.has(key))
        .map(|key| json!({"key": key, "operator": operator, "values": [labels.field(key)]}))
        .collect();
    let Some(selector) = term.child("labelSelector").filter(|_| !added.is_empty()) else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.extend(added),
        None => selector.set("matchExpressions", added),
    }
}

/// The class of a pod by its requests and limits.
mod qos {
    use super::{Read, Value};
    use pintle_api::quantity::Quantity;
    use std::collections::BTreeMap;

    const COUNTED: [&str; 2] = ["cpu", "memory"];

    type Sums<'a> = BTreeMap<&'a str, Quantity>;

    /// `Guaranteed`, `Burstable` or `BestEffort`.
    // upstream: pkg/apis/core/helper/qos, ComputePodQOS
    pub(super) fn class(spec: &Value) -> &'static str {
        let (mut requests, mut limits, mut guaranteed) = (Sums::new(), Sums::new(), true);
        let mut count = |resources: &Value| {
            add(&mut requests, resources.field("requests"));
            let limited = add(&mut limits, resources.field("limits"));
            guaranteed &= limited == COUNTED.len();
        };
        if spec.has("resources") {
            count(spec.field("resources"));
        } else {
            let containers = spec.items("containers").iter().chain(spec.items("initContainers"));
            containers.for_each(|c| count(c.field("resources")));
        }
        if requests.is_empty() && limits.is_empty() {
            "BestEffort"
        } else if guaranteed && requests == limits {
            "Guaranteed"
        } else {
            "Burstable"
        }
    }

    /// Adds the positive amounts of `list` and says how many there were.
    fn add(sums: &mut Sums<'_>, list: &Value) -> usize {
        let mut found = 0;
        for name in COUNTED {
            let amount = Quantity::from_value(list.field(name)).unwrap_or(Quantity::ZERO);
            if amount.sign() > 0 {
                *sums.entry(name).or_insert(Quantity::ZERO) += amount;
                found += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(containers: &Value) -> &'static str {
        qos::class(&json!({"containers": containers}))
    }

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let full = json!({"cpu": "500m", "memory": "1Gi"});
        assert_eq!(class(&json!([{"resources": {}}])), "BestEffort");
        assert_eq!(class(&json!([{"resources": {"requests": full, "limits": full}}])), "Guaranteed");
        let alike = json!({"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": full});
        assert_eq!(class(&json!([{"resources": alike}])), "Guaranteed");
        assert_eq!(class(&json!([{"resources": {"requests": full}}])), "Burstable");
        assert_eq!(class(&json!([{"resources": {"requests": full, "limits": full}}, {}])), "Burstable");
    }

    #[test]
    fn pods_without_a_kubelet_to_end_them_are_deleted_at_once() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        assert_eq!(grace_period(&pod("", "Pending"), None), Some(0));
        assert_eq!(grace_period(&pod("n", "Failed"), Some(5)), Some(0));
        assert_eq!(grace_period(&pod("n", "Running"), None), Some(30));
        assert_eq!(grace_period(&pod("n", "Running"), Some(-3)), Some(1));
    }

    #[test]
    fn label_keys_become_expressions() {
        let mut spec =
            json!({"topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["a", "missing"]}]});
        merge_label_keys(spec.as_object_mut().unwrap(), &json!({"a": "b"}));
        assert_eq!(
            spec["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"],
            json!([{"key": "a", "operator": "In", "values": ["b"]}])
        );
    }
}
