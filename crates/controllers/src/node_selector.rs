//! Node selectors and tolerations as controllers that place pods need them. (upstream: component-helpers/scheduling/corev1)
use crate::claim::name;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || requirement.values.iter().flatten();
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || listed().next().and_then(|text| number(text));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| listed().any(|wanted| wanted == value)),
        "NotIn" => !value.is_some_and(|value| listed().any(|wanted| wanted == value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound()).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound()).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions: Vec<_> = term.match_expressions.iter().flatten().collect();
    let fields: Vec<_> = term.match_fields.iter().flatten().collect();
    // A term without requirements selects nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &String| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    expressions.iter().all(|wanted| requirement(wanted, label(&wanted.key)))
        && fields.iter().all(|wanted| wanted.key == "metadata.name" && requirement(wanted, Some(name(node))))
}

/// True if the pod's node selector and required node affinity allow `node`.
pub fn allows(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &String| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|wanted| term(wanted, node)))
}

/// True if `toleration` tolerates `taint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_are_alternatives_and_requirements_in_one_all_hold() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "size": "5"}}})).unwrap();
        let allowed = |terms: serde_json::Value| {
            let spec = json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
            allows(&serde_json::from_value(spec).unwrap(), &node)
        };
        let in_zone = |zone: &str| json!({"key": "zone", "operator": "In", "values": [zone]});
        assert!(allowed(json!([{"matchExpressions": [in_zone("b")]}, {"matchExpressions": [in_zone("a")]}])));
        assert!(!allowed(json!([{"matchExpressions": [in_zone("a"), in_zone("b")]}])));
        assert!(allowed(json!([{"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["4"]}]}])));
        assert!(allowed(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])));
        assert!(!allowed(json!([{}])));
    }
}
