//! `nodeSelector` and node affinity.
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, Rejection, Score, normalize};
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        let Some(spec) = cycle.pod.spec() else { return Ok(()) };
        let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
        let affinity = cycle.pod.affinity().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        if selected && required.is_none_or(|selector| matches_node_selector(selector, node)) {
            return Ok(());
        }
        Err(Rejection::final_("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
    }
}

impl Score for NodeAffinity {
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
        let affinity = cycle.pod.affinity().and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred = affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default();
        let sum = |node: &&NodeInfo| {
            preferred
                .iter()
                .filter(|term| matches_term(&term.preference, node))
                .map(|term| i64::from(term.weight))
                .sum()
        };
        normalize(nodes.iter().map(sum).collect(), false)
    }

    fn weight(&self) -> i64 {
        2
    }
}

/// Whether one of the selector's terms matches `node`.
pub fn matches_node_selector(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
}

/// An empty term matches nothing.
fn matches_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |requirement: &NodeSelectorRequirement| {
        matches_requirement(requirement, (requirement.key == "metadata.name").then(|| node.name()))
    };
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| matches_requirement(requirement, node.label(&requirement.key)))
        && fields.iter().all(field)
}

fn matches_requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(is, limit)| is > limit),
        "Lt" => numbers().is_some_and(|(is, limit)| is < limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn terms_are_alternatives_and_requirements_of_a_term_hold_together() {
        let mut cache = Cache::default();
        let node = json!({ "metadata": { "name": "n1", "labels": { "zone": "a", "cores": "8" } } });
        cache.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        let node = cache.node("n1").unwrap();
        let requirement =
            |key: &str, operator: &str, values: &[&str]| json!({ "key": key, "operator": operator, "values": values });
        for (terms, expected) in [
            (
                json!([{ "matchExpressions": [requirement("zone", "In", &["a", "b"]), requirement("cores", "Gt", &["4"])] }]),
                true,
            ),
            (
                json!([{ "matchExpressions": [requirement("zone", "In", &["b"])] }, { "matchFields": [requirement("metadata.name", "In", &["n1"])] }]),
                true,
            ),
            (json!([{ "matchExpressions": [requirement("zone", "NotIn", &["a"])] }]), false),
            (
                json!([{ "matchExpressions": [requirement("disk", "DoesNotExist", &[]), requirement("cores", "Lt", &["8"])] }]),
                false,
            ),
            (json!([{}]), false),
        ] {
            let selector = serde_json::from_value(json!({ "nodeSelectorTerms": terms })).unwrap();
            assert_eq!(matches_node_selector(&selector, node), expected, "{selector:?}");
        }
    }
}
