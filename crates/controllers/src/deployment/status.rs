//! The status of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure.
use crate::deployment::plan::{available, max_unavailable, replicas, wanted};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetCondition, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const NEW_SET_CREATED: &str = "NewReplicaSetCreated";
pub(super) const SET_FOUND: &str = "FoundNewReplicaSet";
pub(super) const CREATE_FAILED: &str = "ReplicaSetCreateError";
const SET_UPDATED: &str = "ReplicaSetUpdated";
const SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// The deadline for progress, if the Deployment has one.
pub fn progress_deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(i64::from(seconds)))
}

/// The Progressing condition.
pub fn progressing(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == PROGRESSING)
}

/// A condition as of `now`.
pub fn condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// A Progressing condition as of `now`.
pub fn progress(status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    condition(PROGRESSING, status, reason, message, now)
}

/// Sets `condition`, unless one with the same status and reason is there; keeps the transition time if the status stays.
pub fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(old) = conditions.iter().find(|old| old.type_ == condition.type_) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    conditions.retain(|old| old.type_ != condition.type_);
    conditions.push(condition);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Records that the Deployment was paused or resumed, so that the time in between does not count against the deadline.
pub fn note_pause(deployment: &mut Deployment, now: Timestamp) -> bool {
    if progress_deadline(deployment).is_none() {
        return false;
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let status = deployment.status.get_or_insert_default();
    let reason = progressing(status).and_then(|condition| condition.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return false;
    }
    let noted = reason == Some(PAUSED);
    if paused == noted {
        return false;
    }
    let (reason, text) = if paused { (PAUSED, "Deployment is paused") } else { (RESUMED, "Deployment is resumed") };
    set(status, progress("Unknown", reason, text.to_owned(), now));
    true
}

fn sum<'a>(sets: impl Iterator<Item = &'a ReplicaSet>, count: impl Fn(&ReplicaSetStatus) -> Option<i32>) -> i32 {
    sets.filter_map(|set| set.status.as_ref()).filter_map(count).sum()
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The status that follows from the ReplicaSets, without looking at progress.
pub fn calculate(
    deployment: &Deployment,
    newest: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let all = || old.iter().chain(newest);
    let ready_for_use: i32 = all().map(available).sum();
    let total: i32 = all().map(replicas).sum();
    let before = deployment.status.clone().unwrap_or_default();
    let terminating: Option<i32> = {
        let known: Vec<i32> = all().filter_map(|set| set.status.as_ref()?.terminating_replicas).collect();
        // Unknown as long as one set does not tell.
        (known.len() == all().count()).then(|| known.iter().sum())
    };
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(all(), |status| Some(status.replicas))),
        updated_replicas: nonzero(sum(newest.into_iter(), |status| Some(status.replicas))),
        ready_replicas: nonzero(sum(all(), |status| status.ready_replicas)),
        available_replicas: nonzero(ready_for_use),
        unavailable_replicas: nonzero((total - ready_for_use).max(0)),
        terminating_replicas: terminating,
        collision_count: before.collision_count,
        conditions: before.conditions,
    };
    let enough = ready_for_use >= wanted(deployment) - max_unavailable(deployment);
    let (is, reason, text) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition("Available", is, reason, text.to_owned(), now));
    status
}

/// True if every replica is of the newest template and available.
pub fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = wanted(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let get = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| get(status.replicas) - get(status.updated_replicas);
    get(after.updated_replicas) > get(before.updated_replicas)
        || outdated(after) < outdated(before)
        || get(after.ready_replicas) > get(before.ready_replicas)
        || get(after.available_replicas) > get(before.available_replicas)
}

fn timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(condition)) = (progress_deadline(deployment), progressing(status)) else { return false };
    match condition.reason.as_deref() {
        Some(SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition.last_update_time.as_ref().is_some_and(|from| now.duration_since(from.0) > deadline),
    }
}

/// The status during a rollout: [`calculate`] and the Progressing and ReplicaFailure conditions.
/// (upstream: pkg/controller/deployment, syncRolloutStatus)
pub fn rollout(
    deployment: &Deployment,
    newest: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = calculate(deployment, newest, old, now);
    let before = deployment.status.clone().unwrap_or_default();
    let current = progressing(&before).cloned();
    let what = newest.map_or_else(
        || format!("Deployment {:?}", crate::claim::name(deployment)),
        |set| format!("ReplicaSet {:?}", crate::claim::name(set)),
    );
    if progress_deadline(deployment).is_none() {
        remove(&mut status, PROGRESSING);
    } else {
        let finished = status.replicas == status.updated_replicas
            && current.as_ref().is_some_and(|condition| condition.reason.as_deref() == Some(SET_AVAILABLE));
        if !finished {
            if complete(deployment, &status) {
                set(&mut status, progress("True", SET_AVAILABLE, format!("{what} has successfully progressed."), now));
            } else if progressed(&before, &status) {
                let mut condition = progress("True", SET_UPDATED, format!("{what} is progressing."), now);
                if let Some(current) = current.filter(|current| current.status == "True") {
                    condition.last_transition_time = current.last_transition_time;
                }
                remove(&mut status, PROGRESSING);
                set(&mut status, condition);
            } else if timed_out(deployment, &status, now) {
                set(&mut status, progress("False", TIMED_OUT, format!("{what} has timed out progressing."), now));
            }
        }
    }
    let failures = |set: &ReplicaSet| {
        let conditions = set.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.filter(|condition| condition.type_ == REPLICA_FAILURE).cloned().collect::<Vec<_>>()
    };
    let newest_failure = newest.and_then(|set| failures(set).into_iter().next());
    match newest_failure.or_else(|| old.iter().flat_map(failures).next()) {
        Some(failure) => set(&mut status, from_set(failure, now)),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

fn from_set(failure: ReplicaSetCondition, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: failure.status,
        reason: failure.reason,
        message: failure.message,
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: Some(failure.last_transition_time.unwrap_or(Time(now))),
    }
}

/// When to look again for a rollout that makes no progress.
pub fn next_check(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<SignedDuration> {
    let deadline = progress_deadline(deployment)?;
    let current = progressing(status)?;
    if complete(deployment, status) || matches!(current.reason.as_deref(), Some(TIMED_OUT | SET_AVAILABLE)) {
        return None;
    }
    let from = current.last_update_time.as_ref()?.0;
    Some((deadline - now.duration_since(from)).max(SignedDuration::ZERO) + SignedDuration::from_secs(1))
}
