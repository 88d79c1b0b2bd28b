//! What to do about a set of equal pods: [`plan`] is a pure function of the wanted size and the pods.
use crate::pods;
use crate::selector::{Labels, matches_map};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationControllerCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use std::collections::HashMap;
use std::sync::Arc;

/// So many pods are created or deleted in one go.
const BURST: usize = 500;
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What a ReplicaSet or ReplicationController asks for.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub selector: LabelSelector,
    pub template: PodTemplateSpec,
}

/// A condition of either kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub kind: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub since: Option<Time>,
}

/// Both ways between a kind's own condition and [`Condition`].
macro_rules! condition {
    ($own:ty) => {
        impl From<$own> for Condition {
            fn from(own: $own) -> Self {
                Condition {
                    kind: own.type_,
                    status: own.status,
                    reason: own.reason,
                    message: own.message,
                    since: own.last_transition_time,
                }
            }
        }

        impl From<Condition> for $own {
            fn from(condition: Condition) -> Self {
                Self {
                    type_: condition.kind,
                    status: condition.status,
                    reason: condition.reason,
                    message: condition.message,
                    last_transition_time: condition.since,
                }
            }
        }
    };
}

condition!(ReplicaSetCondition);
condition!(ReplicationControllerCondition);

/// The status of either kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: Option<i64>,
    pub conditions: Vec<Condition>,
}

/// How to reach the wanted size.
#[derive(Debug, PartialEq)]
pub enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Decides for `owned`, all pods of the set; `related` are the pods of all sets of the same Deployment, which tell how
/// crowded each node is.
pub fn plan(spec: &Spec, owned: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Plan {
    let active: Vec<&Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).collect();
    let wanted = usize::try_from(spec.replicas).unwrap_or(0);
    if active.len() < wanted {
        return Plan::Create((wanted - active.len()).min(BURST));
    }
    let excess = (active.len() - wanted).min(BURST);
    if excess == 0 {
        return Plan::Nothing;
    }
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let mut crowd: HashMap<String, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *crowd.entry(node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<(&Arc<Pod>, usize)> =
        active.into_iter().map(|pod| (pod, crowd.get(&node(pod)).copied().unwrap_or(0))).collect();
    ranked.sort_by(|one, other| pods::deletion_order((one.0, one.1), (other.0, other.1), now));
    Plan::Delete(ranked.into_iter().take(excess).map(|(pod, _)| pod.clone()).collect())
}

/// The status that follows from the pods; `failure` is why the last creation or deletion failed.
pub fn status(
    before: &Status,
    spec: &Spec,
    generation: Option<i64>,
    owned: &[Arc<Pod>],
    failure: Option<(bool, String)>,
    now: Timestamp,
) -> Status {
    let nothing = Labels::new();
    let template = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()).unwrap_or(&nothing);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        let matching = owned.iter().filter(|pod| pods::is_active(pod) && test(pod)).count();
        i32::try_from(matching).unwrap_or(i32::MAX)
    };
    let mut conditions = before.conditions.clone();
    match failure {
        Some((creating, message)) if !conditions.iter().any(|condition| condition.kind == REPLICA_FAILURE) => {
            conditions.push(Condition {
                kind: REPLICA_FAILURE.to_owned(),
                status: "True".to_owned(),
                reason: Some(if creating { "FailedCreate" } else { "FailedDelete" }.to_owned()),
                message: Some(message),
                since: Some(Time(now)),
            });
        }
        Some(_) => {}
        None => conditions.retain(|condition| condition.kind != REPLICA_FAILURE),
    }
    let terminating = owned.iter().filter(|pod| pods::is_terminating(pod)).count();
    Status {
        replicas: count(&|_| true),
        fully_labeled: count(&|pod| matches_map(template, pod.metadata.labels.as_ref())),
        ready: count(&pods::is_ready),
        available: count(&|pod| pods::is_available(pod, spec.min_ready_seconds, now)),
        terminating: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: generation,
        conditions,
    }
}

/// When the next ready pod becomes available.
pub fn next_available(spec: &Spec, owned: &[Arc<Pod>], now: Timestamp) -> Option<SignedDuration> {
    let waiting = owned.iter().filter(|pod| pods::is_active(pod));
    waiting.filter_map(|pod| pods::available_in(pod, spec.min_ready_seconds, now)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;

    fn spec(replicas: i32) -> Spec {
        Spec { replicas, ..Spec::default() }
    }

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn missing_pods_are_created_ended_ones_do_not_count() {
        let mut ended = pod("a", false);
        ended.status.as_mut().unwrap().phase = Some("Failed".into());
        assert_eq!(plan(&spec(2), &[Arc::new(ended)], &[], now()), Plan::Create(2));
        assert_eq!(plan(&spec(1000), &[], &[], now()), Plan::Create(BURST));
    }

    #[test]
    fn the_unready_pod_is_deleted_first() {
        let owned = [Arc::new(pod("a", true)), Arc::new(pod("b", false)), Arc::new(pod("c", true))];
        assert_eq!(plan(&spec(2), &owned, &owned, now()), Plan::Delete(vec![owned[1].clone()]));
        assert_eq!(plan(&spec(3), &owned, &owned, now()), Plan::Nothing);
    }

    #[test]
    fn a_failure_is_a_condition_until_it_is_over() {
        let failed = status(&Status::default(), &spec(1), Some(1), &[], Some((true, "quota".into())), now());
        assert_eq!(failed.conditions[0].reason.as_deref(), Some("FailedCreate"));
        let owned = [Arc::new(pod("a", true))];
        let fine = status(&failed, &spec(1), Some(1), &owned, None, now());
        assert!(fine.conditions.is_empty());
        assert_eq!((fine.replicas, fine.ready, fine.available, fine.terminating), (1, 1, 1, Some(0)));
    }
}
