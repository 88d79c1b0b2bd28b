//! What a PodDisruptionBudget's status must be: [`status`] is a pure function of the budget, its pods and their scale.
use crate::claim::name;
use crate::conditions;
use crate::int_or_percent::scaled;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::sync::Arc;

/// After this long a pod that was evicted but never marked for deletion counts again.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
/// After this long a `DisruptionTarget` condition of a pod that is not being deleted is stale.
const STALE_CONDITION: SignedDuration = SignedDuration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";
const TARGET: &str = "DisruptionTarget";

/// True if the budget is relative to the scale of the pods' controllers, not to the number of pods.
pub fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// How many pods there should be, and how many of them healthy.
fn expected(budget: &PodDisruptionBudget, selected: usize, scale: i32) -> (i32, i32) {
    let Some(spec) = &budget.spec else { return (0, 0) };
    if spec.max_unavailable.is_some() {
        return (scale, (scale - scaled(spec.max_unavailable.as_ref(), scale, true)).max(0));
    }
    match &spec.min_available {
        Some(IntOrString::Int(count)) => (i32::try_from(selected).unwrap_or(i32::MAX), *count),
        Some(percent) => (scale, scaled(Some(percent), scale, true)),
        None => (0, 0),
    }
}

/// What follows from a look at a budget.
#[derive(Debug)]
pub struct Verdict {
    /// The status to write, if it differs.
    pub status: PodDisruptionBudgetStatus,
    /// When to look again although nothing changes.
    pub again: Option<SignedDuration>,
    /// Pods whose eviction was granted but that were never deleted.
    pub not_deleted: Vec<Arc<Pod>>,
}

/// The status of `budget`, which selects `selected` pods whose controllers together want `scale`.
pub fn status(budget: &PodDisruptionBudget, selected: &[Arc<Pod>], scale: i32, now: Timestamp) -> Verdict {
    let held = budget.status.clone().unwrap_or_default();
    let (expected_pods, desired_healthy) = expected(budget, selected.len(), scale);
    let mut verdict = Verdict { status: held.clone(), again: None, not_deleted: Vec::new() };
    let mut disrupted = BTreeMap::new();
    for pod in selected.iter().filter(|pod| !pods::is_deleting(pod)) {
        let Some(since) = held.disrupted_pods.as_ref().and_then(|map| map.get(name(pod.as_ref()))) else { continue };
        let left = DELETION_TIMEOUT - now.duration_since(since.0);
        if left.is_negative() {
            verdict.not_deleted.push(pod.clone());
        } else {
            let left = left.max(SignedDuration::from_millis(1));
            verdict.again = Some(verdict.again.map_or(left, |again| again.min(left)));
            disrupted.insert(name(pod.as_ref()).to_owned(), since.clone());
        }
    }
    let healthy = selected
        .iter()
        .filter(|pod| pods::is_ready(pod) && !pods::is_deleting(pod) && !disrupted.contains_key(name(pod.as_ref())));
    let current_healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected_pods <= 0 { 0 } else { (current_healthy - desired_healthy).max(0) };
    let mut listed = held.conditions.unwrap_or_default();
    let verdict_of = if allowed > 0 { ("True", "SufficientPods", "") } else { ("False", "InsufficientPods", "") };
    conditions::set(&mut listed, ALLOWED, verdict_of, budget.metadata.generation, now);
    verdict.status = PodDisruptionBudgetStatus {
        conditions: Some(listed),
        current_healthy: Some(current_healthy),
        desired_healthy: Some(desired_healthy),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected_pods),
        observed_generation: budget.metadata.generation,
    };
    verdict
}

/// The status of a budget that could not be judged because of `why`: it allows nothing.
pub fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let observed = status.observed_generation;
    let listed = status.conditions.get_or_insert_default();
    conditions::set(listed, ALLOWED, ("False", "SyncFailed", why), observed, now);
    status
}

/// How long until the pod's `DisruptionTarget` condition is stale, zero if it is; `None` if it never will be.
pub fn stale_in(pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
    if pods::is_deleting(pod) || pods::is_terminal(pod) {
        return None;
    }
    let target = pods::condition(pod, TARGET)?;
    // The kubelet's own takes as long as the pod takes to end.
    if target.status != "True" || target.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = target.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some((STALE_CONDITION - now.duration_since(since)).max(SignedDuration::ZERO))
}

/// A copy of `pod` that is no disruption target any more.
pub fn no_target(pod: &Pod, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let listed = pod.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten());
    for condition in listed.filter(|condition| condition.type_ == TARGET) {
        *condition = PodCondition {
            type_: TARGET.to_owned(),
            status: "False".to_owned(),
            observed_generation: condition.observed_generation,
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        };
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let object = json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn empty() -> Value {
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn numbers(spec: Value, ready: usize, unready: usize, scale: i32) -> (i32, i32, i32, i32) {
        let pods: Vec<_> =
            (0..ready + unready).map(|number| Arc::new(pod(&format!("p{number}"), number < ready))).collect();
        let status = status(&budget(spec, empty()), &pods, scale, at(0)).status;
        let read = |number: Option<i32>| number.unwrap();
        (
            read(status.expected_pods),
            read(status.desired_healthy),
            read(status.current_healthy),
            read(status.disruptions_allowed),
        )
    }

    #[test]
    fn a_budget_counts_pods_or_the_scale_of_their_controllers() {
        assert_eq!(numbers(json!({"minAvailable": 2}), 3, 1, 0), (4, 2, 3, 1));
        assert_eq!(numbers(json!({"minAvailable": "50%"}), 3, 0, 5), (5, 3, 3, 0));
        assert_eq!(numbers(json!({"maxUnavailable": 1}), 3, 0, 3), (3, 2, 3, 1));
        assert_eq!(numbers(json!({"maxUnavailable": "30%"}), 4, 0, 4), (4, 2, 4, 2));
        assert_eq!(numbers(json!({"minAvailable": 0}), 0, 0, 0), (0, 0, 0, 0));
    }

    #[test]
    fn an_evicted_pod_is_unhealthy_until_it_is_deleted_or_the_time_is_up() {
        let mut given = empty();
        given["disruptedPods"] = json!({"a": "1970-01-01T00:01:40Z", "gone": "1970-01-01T00:01:40Z"});
        let budget = budget(json!({"minAvailable": 1}), given);
        let pods = [Arc::new(pod("a", true)), Arc::new(pod("b", true))];
        let early = status(&budget, &pods, 0, at(110));
        assert_eq!((early.status.current_healthy, early.status.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!(early.again, Some(SignedDuration::from_secs(110)));
        assert_eq!(early.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        let late = status(&budget, &pods, 0, at(221));
        assert_eq!((late.status.current_healthy, late.status.disruptions_allowed), (Some(2), Some(1)));
        assert_eq!(late.not_deleted.len(), 1);
    }

    #[test]
    fn the_condition_says_why_and_keeps_its_time() {
        let pods = [Arc::new(pod("a", true)), Arc::new(pod("b", true))];
        let mut budget = budget(json!({"minAvailable": 1}), empty());
        budget.status = Some(status(&budget, &pods, 0, at(1)).status);
        let first = budget.status.clone().unwrap().conditions.unwrap();
        assert_eq!((first[0].status.as_str(), first[0].reason.as_str()), ("True", "SufficientPods"));
        assert_eq!(Some(status(&budget, &pods, 0, at(9)).status), budget.status, "nothing to write");
        let broken = failed(&budget, "found no controllers for pod \"a\"", at(2));
        let condition = &broken.conditions.unwrap()[0];
        assert_eq!((broken.disruptions_allowed, condition.reason.as_str()), (Some(0), "SyncFailed"));
    }

    #[test]
    fn a_disruption_target_that_is_not_deleted_is_one_no_more() {
        let mut pod = pod("a", true);
        assert_eq!(stale_in(&pod, at(0)), None);
        let target = json!({"type": TARGET, "status": "True", "reason": "EvictionByEvictionAPI",
            "lastTransitionTime": "1970-01-01T00:00:00Z"});
        pod.status.as_mut().unwrap().conditions = Some(vec![serde_json::from_value(target).unwrap()]);
        assert_eq!(stale_in(&pod, at(20)), Some(SignedDuration::from_secs(100)));
        assert_eq!(stale_in(&pod, at(200)), Some(SignedDuration::ZERO));
        assert_eq!(stale_in(&no_target(&pod, at(200)), at(200)), None);
    }
}
