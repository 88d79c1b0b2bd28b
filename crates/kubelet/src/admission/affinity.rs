//! Whether a node's labels and name satisfy what a pod requires of them.
// upstream: component-helpers/scheduling/corev1/nodeaffinity
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use std::collections::BTreeMap;

/// Whether `node` satisfies the pod's node selector and required node affinity.
pub fn matches(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = pod.pod_spec() else { return true };
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|affinity| {
        affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
    });
    selected
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| term_matches(term, labels, node.metadata.name.as_deref()))
        })
}

fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: Option<&str>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements selects nothing.
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|one| holds(one, labels.get(&one.key).map(String::as_str)))
        && fields.iter().all(|one| one.key == "metadata.name" && holds(one, name))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|one| one == value));
    let compared = |holds: fn(&i64, &i64) -> bool| {
        let number = |text: &str| text.parse::<i64>().ok();
        let limit = values.first().and_then(|text| number(text));
        value.and_then(number).zip(limit).is_some_and(|(value, limit)| holds(&value, &limit))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(i64::gt),
        "Lt" => compared(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_term_has_to_hold_as_a_whole() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "cores": "8"}}})).unwrap();
        let suits = |terms: serde_json::Value| {
            let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": terms}}});
            let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "affinity": affinity}})).unwrap();
            matches(&pod, &node)
        };
        let one =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        assert!(suits(
            json!([{"matchExpressions": [one("zone", "In", &["b"])]}, {"matchExpressions": [one("cores", "Gt", &["4"])]}])
        ));
        assert!(!suits(json!([{"matchExpressions": [one("zone", "In", &["a"]), one("cores", "Lt", &["4"])]}])));
        assert!(suits(json!([{"matchFields": [one("metadata.name", "In", &["n"])]}])));
        assert!(!suits(json!([{}])));
    }
}
