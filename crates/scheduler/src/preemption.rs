//! Makes room for a pod by removing pods of lower priority, as few and as unimportant as possible.
use crate::algorithm::{FitError, Profile, histogram};
use crate::cache::NodeInfo;
use crate::framework::Cycle;
use crate::pod_info::PodInfo;
use std::sync::Arc;

/// A node that would do if some of its pods left.
#[derive(Debug)]
pub struct Candidate {
    /// The node.
    pub node: String,
    /// The pods that have to leave.
    pub victims: Vec<Arc<PodInfo>>,
}

/// The best candidate, or what upstream says when there is none.
pub fn find(profile: &Profile, cycle: &Cycle<'_>, error: &FitError) -> Result<Candidate, String> {
    let policy = cycle.pod.spec().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.".into());
    }
    if let Some(node) = cycle.pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref())
        && cycle
            .cache
            .node(node)
            .is_some_and(|node| node.pods.values().any(|pod| is_leaving(pod) && pod.priority() < cycle.pod.priority()))
    {
        return Err("not eligible due to a terminating pod on the nominated node.".into());
    }
    let mut candidates = Vec::new();
    let mut reasons = Vec::new();
    for node in cycle.cache.nodes() {
        let resolvable = error.rejections.get(node.name()).is_some_and(|rejection| rejection.resolvable);
        if error.pod_level.is_some() || !resolvable {
            reasons.push("Preemption is not helpful for scheduling".to_owned());
            continue;
        }
        match victims(profile, cycle, node) {
            Some(victims) => candidates.push(Candidate { node: node.name().to_owned(), victims }),
            None => reasons.push("No preemption victims found for incoming pod".to_owned()),
        }
    }
    let best = candidates.into_iter().min_by_key(cost);
    best.ok_or_else(|| {
        let summary = histogram(reasons.iter()).map(|summary| format!(" {summary}.")).unwrap_or_default();
        format!("0/{} nodes are available:{summary}", cycle.cache.nodes().count())
    })
}

fn is_leaving(pod: &PodInfo) -> bool {
    pod.pod.metadata.deletion_timestamp.is_some()
}

/// The fewest pods of lower priority whose leaving makes room on `node`; the most important ones stay if they can.
fn victims(profile: &Profile, cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Vec<Arc<PodInfo>>> {
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.values().filter(|pod| pod.priority() < cycle.pod.priority()).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let uids: Vec<&str> = lower.iter().map(|pod| pod.uid()).collect();
    let mut without = node.without(&uids);
    if profile.fits(cycle, &without).is_err() {
        return None;
    }
    let started = |pod: &PodInfo| pod.pod.status.as_ref().and_then(|status| status.start_time.clone());
    // The most important first: high priority, then early start.
    lower.sort_by(|a, b| b.priority().cmp(&a.priority()).then_with(|| started(a).cmp(&started(b))));
    let mut victims = Vec::new();
    for pod in lower {
        without.add(pod.clone());
        if profile.fits(cycle, &without).is_err() {
            without.remove(pod.uid());
            victims.push(pod);
        }
    }
    Some(victims)
}

/// Upstream's order: the lowest highest priority, the lowest sum of priorities, the fewest victims.
fn cost(candidate: &Candidate) -> (i32, i64, usize) {
    let highest = candidate.victims.iter().map(|pod| pod.priority()).max().unwrap_or(i32::MIN);
    let sum = candidate.victims.iter().map(|pod| i64::from(pod.priority()) - i64::from(i32::MIN)).sum();
    (highest, sum, candidate.victims.len())
}
