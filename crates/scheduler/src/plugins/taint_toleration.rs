//! Taints keep pods away that do not tolerate them.
use super::Cycle;
use crate::cache::{Cache, NodeInfo};
use crate::framework::normalize;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{Taint, Toleration};

/// For each distinct list of taints in the cluster: whether the pod may be on nodes that have it.
pub fn tolerated_lists(pod: &PodInfo, cache: &Cache) -> Vec<bool> {
    cache.taint_lists().iter().map(|taints| tolerates_all(pod, taints)).collect()
}

/// Whether the pod tolerates every taint that keeps pods away.
pub fn tolerates_all(pod: &PodInfo, taints: &[Taint]) -> bool {
    let keeps_away = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    taints.iter().filter(keeps_away).all(|taint| tolerates(pod, taint))
}

/// Whether the pod may be on a node with `spec.unschedulable`, which is as good as a taint.
pub fn tolerates_unschedulable(pod: &PodInfo) -> bool {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    tolerates(pod, &taint)
}

/// Fewer intolerable taints that only ask pods to stay away are better.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let intolerable = |taints: &Vec<Taint>| {
        let avoid = taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        avoid.filter(|taint| !tolerates(cycle.pod, taint)).count() as i64
    };
    let by_list: Vec<i64> = cycle.cache.taint_lists().iter().map(intolerable).collect();
    let mut scores: Vec<i64> = nodes.iter().map(|node| by_list.get(node.taint_list).copied().unwrap_or(0)).collect();
    normalize(&mut scores, true);
    Some(scores)
}

/// Whether `pod` tolerates `taint`.
pub fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    pod.spec().is_some_and(|spec| spec.tolerations.iter().flatten().any(|toleration| tolerated_by(toleration, taint)))
}

/// Upstream: `Toleration.ToleratesTaint`, without the comparisons that are off by default.
fn tolerated_by(toleration: &Toleration, taint: &Taint) -> bool {
    let (effect, key) = (toleration.effect.as_deref().unwrap_or(""), toleration.key.as_deref().unwrap_or(""));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_match_as_upstream_defines_it() {
        let taint: Taint = serde_json::from_value(json!({ "key": "k", "value": "v", "effect": "NoSchedule" })).unwrap();
        for (toleration, expected) in [
            (json!({ "operator": "Exists" }), true),
            (json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }), true),
            (json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" }), false),
            (json!({ "key": "k", "value": "v" }), true),
            (json!({ "key": "k", "value": "w" }), false),
            (json!({ "key": "other", "operator": "Exists" }), false),
        ] {
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerated_by(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
