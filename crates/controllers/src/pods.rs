//! Facts about pods that several controllers ask: active, ready, available, and which to delete first.
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use std::cmp::Ordering;

/// Lower is deleted earlier; on a pod (`controller.kubernetes.io/pod-deletion-cost`).
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pod's phase, empty before it has one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// True if the pod has ended, well or badly.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// True if the pod is marked for deletion.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// True if the pod counts as a replica: not ended, not being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// True if the pod is being deleted and has not ended yet.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && is_deleting(pod)
}

/// The pod's condition of type `kind`.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// True if the pod's `Ready` condition holds.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// True if the pod has been ready for `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod) && available_in(pod, min_ready_seconds, now).is_none()
}

/// How long until a ready pod counts as available; `None` if it does already or is not ready.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<SignedDuration> {
    if !is_ready(pod) || min_ready_seconds <= 0 {
        return None;
    }
    let wait = SignedDuration::from_secs(i64::from(min_ready_seconds));
    let left = ready_since(pod).map_or(wait, |since| wait - now.duration_since(since));
    left.is_positive().then_some(left)
}

/// The largest restart count of the pod's containers.
pub fn max_restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).max().unwrap_or(0)
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// A coarse logarithm of an age, so that pods of about the same age are equal.
fn age_rank(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(since) = since else { return -1 };
    let age = now.duration_since(since).as_secs();
    if age <= 0 { 0 } else { i64::from(age.ilog2()) + 1 }
}

/// Which of two pods goes first when a set shrinks (upstream: pkg/controller, ActivePodsWithRanks): unscheduled, pending,
/// not ready, cheaper, more replicas on its node (`crowding`), ready for a shorter time, more restarts, younger.
pub fn deletion_order(one: (&Pod, usize), other: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, crowd_a), (b, crowd_b)) = (one, other);
    let scheduled =
        |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let progress = |pod: &Pod| match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    scheduled(a)
        .cmp(&scheduled(b))
        .then_with(|| progress(a).cmp(&progress(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| {
            if is_ready(a) && is_ready(b) {
                age_rank(ready_since(a), now).cmp(&age_rank(ready_since(b), now))
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| max_restarts(b).cmp(&max_restarts(a)))
        .then_with(|| age_rank(created(a), now).cmp(&age_rank(created(b), now)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn pod(name: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        }))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_is_available_only_after_min_ready_seconds() {
        let pod = pod("a", true);
        assert!(!is_available(&pod, 30, at("2026-01-01T00:00:20Z")));
        assert_eq!(available_in(&pod, 30, at("2026-01-01T00:00:20Z")), Some(SignedDuration::from_secs(20)));
        assert!(is_available(&pod, 30, at("2026-01-01T00:00:40Z")));
    }

    #[test]
    fn unready_and_crowded_pods_go_first() {
        let now = at("2026-01-02T00:00:00Z");
        let (ready, unready) = (pod("a", true), pod("b", false));
        assert_eq!(deletion_order((&unready, 0), (&ready, 5), now), Ordering::Less);
        let other = pod("c", true);
        assert_eq!(deletion_order((&ready, 3), (&other, 1), now), Ordering::Less);
        let mut cheap = pod("d", true);
        cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
        assert_eq!(deletion_order((&cheap, 0), (&ready, 9), now), Ordering::Less);
    }
}
