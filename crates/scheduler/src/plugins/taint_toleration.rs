//! Taints keep pods away that do not tolerate them.
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, Rejection, Score, normalize};
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{Taint, Toleration};

pub struct TaintToleration;

const NAME: &str = "TaintToleration";

impl Filter for TaintToleration {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        let keeps_away = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        if node.taints().iter().filter(keeps_away).all(|taint| tolerates(cycle.pod, taint)) {
            return Ok(());
        }
        Err(Rejection::final_(NAME, "node(s) had untolerated taint(s)"))
    }
}

impl Score for TaintToleration {
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
        let intolerable = |node: &&NodeInfo| {
            let avoid = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
            avoid.filter(|taint| !tolerates(cycle.pod, taint)).count() as i64
        };
        normalize(nodes.iter().map(intolerable).collect(), true)
    }

    fn weight(&self) -> i64 {
        3
    }
}

/// Whether `pod` tolerates `taint`.
pub fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    pod.spec().is_some_and(|spec| spec.tolerations.iter().flatten().any(|toleration| tolerated_by(toleration, taint)))
}

/// Upstream: `Toleration.ToleratesTaint`.
fn tolerated_by(toleration: &Toleration, taint: &Taint) -> bool {
    let (effect, key) = (toleration.effect.as_deref().unwrap_or(""), toleration.key.as_deref().unwrap_or(""));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (ours, theirs) = (toleration.value.as_deref().unwrap_or(""), taint.value.as_deref().unwrap_or(""));
    let number = |text: &str| text.parse::<i64>().ok();
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => ours == theirs,
        "Exists" => true,
        "Lt" => number(theirs).zip(number(ours)).is_some_and(|(taint, limit)| taint < limit),
        "Gt" => number(theirs).zip(number(ours)).is_some_and(|(taint, limit)| taint > limit),
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
