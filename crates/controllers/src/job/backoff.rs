//! How long a Job waits before it replaces failed pods, and when a pod ended. (upstream: pkg/controller/job, backoff_utils.go)
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use std::sync::Arc;

/// Delay before a failed pod is replaced; doubles with each failure in a row.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(600);

/// How long to wait after `failures` in a row, the last of them at `last`.
pub fn remaining(failures: usize, last: Timestamp, now: Timestamp) -> SignedDuration {
    if failures == 0 {
        return SignedDuration::ZERO;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(6);
    let delay = (FIRST * (1i32 << doublings)).min(LONGEST);
    (delay - now.duration_since(last)).max(SignedDuration::ZERO)
}

/// How long to wait for the pods of a Job: its failures since the last success count.
pub fn after_failures(succeeded: &[Arc<Pod>], failed: &[Arc<Pod>], now: Timestamp) -> SignedDuration {
    let last_success = succeeded.iter().map(|pod| ended_at(pod)).max();
    let failures: Vec<Timestamp> =
        failed.iter().map(|pod| ended_at(pod)).filter(|at| last_success.is_none_or(|last| *at > last)).collect();
    failures.iter().max().map_or(SignedDuration::ZERO, |last| remaining(failures.len(), *last, now))
}

/// When `pod` ended: its last container, else when it stopped being ready, else when its deletion was asked for.
pub fn ended_at(pod: &Pod) -> Timestamp {
    let created = || pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    by_containers(pod).or_else(|| by_readiness(pod)).or_else(|| by_deletion(pod)).unwrap_or_else(created)
}

fn by_containers(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let sidecar = |of: &&ContainerStatus| {
        let mut all = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        all.any(|init| init.name == of.name && init.restart_policy.as_deref() == Some("Always"))
    };
    let sidecars = status.init_container_statuses.iter().flatten().filter(sidecar);
    let ends: Option<Vec<Timestamp>> = status
        .container_statuses
        .iter()
        .flatten()
        .chain(sidecars)
        .map(|status| Some(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0))
        .collect();
    ends?.into_iter().max()
}

fn by_readiness(pod: &Pod) -> Option<Timestamp> {
    let ready = crate::pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn by_deletion(pod: &Pod) -> Option<Timestamp> {
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    pod.metadata.deletion_timestamp.as_ref()?.0.checked_sub(grace).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_ten_minutes() {
        let (last, now) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(4).unwrap());
        let waits: Vec<i64> = [0, 1, 2, 3, 7, 50].map(|count| remaining(count, last, now).as_secs()).to_vec();
        assert_eq!(waits, [0, 6, 16, 36, 596, 596]);
    }
}
