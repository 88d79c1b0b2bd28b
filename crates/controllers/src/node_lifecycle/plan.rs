//! What a node's silence or conditions mean for its status and taints: pure functions.
//! (upstream: pkg/controller/nodelifecycle)
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Without a heartbeat for this long a node counts as lost (`--node-monitor-grace-period`).
pub const GRACE: SignedDuration = SignedDuration::from_secs(50);
/// The same for a node that never posted its status (`--node-startup-grace-period`).
pub const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);
/// A zone with this share of lost nodes is disrupted (`--unhealthy-zone-threshold`).
const DISRUPTED_SHARE: f64 = 0.55;
/// Below this size a disrupted zone is left alone (`--large-cluster-size-threshold`).
const LARGE_CLUSTER: usize = 50;
/// Nodes per second whose pods are evicted (`--node-eviction-rate`), and in a disrupted zone of a large cluster.
const RATE: f64 = 0.1;
const SECONDARY_RATE: f64 = 0.01;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, the status that taints, the taint.
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// The status of the node's Ready condition.
pub fn readiness(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|ready| ready.status.as_str())
}

/// How long the node may be silent.
pub fn grace(node: &Node) -> SignedDuration {
    if condition(node, "Ready").is_some() { GRACE } else { STARTUP_GRACE }
}

/// The node with its conditions unknown, or `None` if they are already.
pub fn silenced(node: &Node, now: Timestamp) -> Option<Node> {
    let mut lost = node.clone();
    let conditions = lost.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(lost)
}

/// The taints that the node should have, or `None` if it has them. With `evict` a node that is not ready gets the taints
/// that evict its pods; without, it keeps those it has.
pub fn taints(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = TAINTS
        .iter()
        .filter(|(kind, status, _)| condition(node, kind).is_some_and(|condition| condition.status == *status))
        .map(|(_, _, taint)| (*taint, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let evicting = |taint: &Taint| taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE);
    let tainted_already = current.iter().any(evicting);
    match readiness(node) {
        Some("False") if evict || tainted_already => wanted.push((NOT_READY, "NoExecute")),
        Some("Unknown") if evict || tainted_already => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let managed = |taint: &Taint| {
        let ours = taint.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key)| *key == taint.key);
        ours && (taint.effect == "NoSchedule" || evicting(taint))
    };
    let is = |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut result: Vec<Taint> =
        current.iter().filter(|taint| !managed(taint) || wanted.iter().any(|want| is(taint, *want))).cloned().collect();
    for want in wanted {
        if !result.iter().any(|taint| is(taint, want)) {
            result.push(Taint {
                key: want.0.to_owned(),
                effect: want.1.to_owned(),
                time_added: (want.1 == "NoExecute").then_some(Time(now)),
                value: None,
            });
        }
    }
    (result != current).then_some(result)
}

/// True if the node should get an evicting taint that it does not have.
pub fn awaits_eviction(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let tainted = spec.is_some_and(|spec| {
        let mut listed = spec.taints.iter().flatten();
        listed.any(|taint| taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE))
    });
    matches!(readiness(node), Some("False" | "Unknown")) && !tainted
}

/// How many nodes of `zone` per second may be evicted; zones are (ready, lost). If every node everywhere is lost, it is the
/// control plane that is cut off, and nothing is evicted. (upstream: handleDisruption)
pub fn eviction_rate(zone: (usize, usize), all: &[(usize, usize)]) -> f64 {
    if all.iter().all(|(ready, _)| *ready == 0) {
        return 0.0;
    }
    let (ready, lost) = zone;
    // Node counts are far below what a double holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let share = lost as f64 / (ready + lost).max(1) as f64;
    if ready > 0 && lost > 2 && share >= DISRUPTED_SHARE {
        return if ready + lost > LARGE_CLUSTER { SECONDARY_RATE } else { 0.0 };
    }
    RATE
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(ready: &str, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "False"}]},
        }))
        .unwrap()
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn keys(taints: &[Taint]) -> Vec<String> {
        taints
            .iter()
            .map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect))
            .collect()
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let lost = silenced(&node("True", json!([])), NOW).unwrap();
        assert_eq!(readiness(&lost), Some("Unknown"));
        let conditions = lost.status.as_ref().unwrap().conditions.as_ref().unwrap();
        assert_eq!(conditions.len(), 4);
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[2].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        assert_eq!(silenced(&lost, NOW), None);
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_others_alone() {
        let own = json!([{"key": "mine", "effect": "NoSchedule"}]);
        let lost = taints(&node("Unknown", own.clone()), true, NOW).unwrap();
        assert_eq!(keys(&lost), ["mine:NoSchedule", "unreachable:NoSchedule", "unreachable:NoExecute"]);
        let mut back = node("True", json!([]));
        back.spec.as_mut().unwrap().taints = Some(lost);
        assert_eq!(keys(&taints(&back, true, NOW).unwrap()), ["mine:NoSchedule"]);
        assert_eq!(taints(&node("True", own), true, NOW), None);
    }

    #[test]
    fn without_eviction_a_lost_node_is_only_not_scheduled_to() {
        assert_eq!(keys(&taints(&node("False", json!([])), false, NOW).unwrap()), ["not-ready:NoSchedule"]);
        assert!(awaits_eviction(&node("False", json!([]))));
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        let mut cordoned = node("True", json!([]));
        cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(keys(&taints(&cordoned, true, NOW).unwrap()), ["unschedulable:NoSchedule"]);
    }

    #[test]
    fn disrupted_zones_are_evicted_slowly_or_not_at_all() {
        assert!((eviction_rate((2, 1), &[(2, 1)]) - RATE).abs() < f64::EPSILON);
        assert!(eviction_rate((0, 1), &[(0, 1)]).abs() < f64::EPSILON, "the only node: nothing is evicted");
        assert!(eviction_rate((2, 3), &[(2, 3)]).abs() < f64::EPSILON);
        assert!((eviction_rate((20, 40), &[(20, 40)]) - SECONDARY_RATE).abs() < f64::EPSILON);
        assert!((eviction_rate((0, 3), &[(0, 3), (3, 0)]) - RATE).abs() < f64::EPSILON);
    }
}
