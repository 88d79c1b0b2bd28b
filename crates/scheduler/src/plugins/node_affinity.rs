//! `nodeSelector` and node affinity, with what a profile adds to them.
use super::{Cycle, State, meets_requirement};
use crate::cache::NodeInfo;
use crate::framework::{Plugin, Rejection, normalize};
use crate::pod_info::PodInfo;
use crate::selector::NodeTerm;
use k8s_openapi::api::core::v1::PreferredSchedulingTerm;

const NAME: Plugin = Plugin::NodeAffinity;

/// The only nodes that can do by their names, if the pod says so.
pub fn names(pod: &PodInfo) -> Result<Option<Vec<String>>, Box<Rejection>> {
    let Some(names) = pod.node_requirement.as_ref().and_then(|required| required.named()) else { return Ok(None) };
    if names.is_empty() {
        return Err(Box::new(Rejection::final_(NAME, "pod affinity terms conflict")));
    }
    Ok(Some(names.into_iter().map(str::to_owned).collect()))
}

/// Whether `node` meets what the profile and the pod require.
pub fn filter(cycle: &Cycle<'_>, state: &State, node: &NodeInfo) -> Result<(), Rejection> {
    if let Some(added) = &cycle.profile.added_requirement
        && !added.matches(node.name(), node.labels())
    {
        return Err(Rejection::final_(NAME, "node(s) didn't match scheduler-enforced node affinity"));
    }
    if meets_requirement(cycle.cache, state, node) {
        return Ok(());
    }
    Err(Rejection::final_(NAME, "node(s) didn't match Pod's node affinity/selector"))
}

/// The sum of the weights of the preferences that a node meets.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let affinity = cycle.pod.spec().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let own = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let mut terms = preferences(own.unwrap_or_default());
    terms.extend(cycle.profile.added_preferences.iter().cloned());
    if terms.is_empty() {
        return None;
    }
    let sum = |node: &&NodeInfo| {
        terms.iter().filter(|(term, _)| term.matches(node.name(), node.labels())).map(|(_, weight)| weight).sum()
    };
    let mut scores: Vec<i64> = nodes.iter().map(sum).collect();
    normalize(&mut scores, false);
    Some(scores)
}

/// Preferred terms with their weights.
pub fn preferences(terms: &[PreferredSchedulingTerm]) -> Vec<(NodeTerm, i64)> {
    terms.iter().map(|term| (NodeTerm::new(&term.preference), i64::from(term.weight))).collect()
}
