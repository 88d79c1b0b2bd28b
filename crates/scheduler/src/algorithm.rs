//! One scheduling cycle: which node, or why none. It reads the cache and returns a decision; nothing else changes.
use crate::cache::{Cache, NodeInfo};
use crate::framework::{DEFAULT_PLUGINS, Objects, Plugin, PluginSet, Rejection};
use crate::plugins::{
    Cycle, State, filter, inter_pod_affinity, node_resources, pod_added, pod_topology_spread, prepare, prepare_scores,
    score,
};
use crate::pod_info::PodInfo;
use crate::selector::{NodeRequirement, NodeTerm};
use std::collections::BTreeMap;

/// A profile: who schedules which pods by which plugins (upstream: `KubeSchedulerProfile`).
#[derive(Clone, Debug)]
pub struct Profile {
    /// Pods with this `schedulerName` are its own.
    pub name: String,
    /// Filters in order.
    pub filters: Vec<Plugin>,
    /// Scores with their weights.
    pub scores: Vec<(Plugin, i64)>,
    /// Pods with scheduling gates wait.
    pub gates: bool,
    /// Pods may preempt others.
    pub preempts: bool,
    /// Of all nodes this share in percent is looked for; 0: as the size of the cluster suggests.
    pub percentage: i64,
    /// A share and a number of nodes that are tried for preemption at least.
    pub preemption_candidates: (i64, i64),
    /// How long a pod's volumes may take to be bound, in seconds.
    pub bind_timeout: u64,
    /// Node affinity that every pod has in addition.
    pub added_requirement: Option<NodeRequirement>,
    /// Preferred node affinity that every pod has in addition.
    pub added_preferences: Vec<(NodeTerm, i64)>,
    /// Settings of NodeResourcesFit and NodeResourcesBalancedAllocation.
    pub resources: node_resources::Settings,
    /// Default constraints of PodTopologySpread.
    pub spread: pod_topology_spread::Defaults,
    /// Settings of InterPodAffinity.
    pub affinity: inter_pod_affinity::Settings,
}

/// The filters that exist.
pub const FILTERS: [Plugin; 12] = [
    Plugin::NodeUnschedulable,
    Plugin::NodeName,
    Plugin::TaintToleration,
    Plugin::NodeAffinity,
    Plugin::NodePorts,
    Plugin::NodeResourcesFit,
    Plugin::VolumeRestrictions,
    Plugin::NodeVolumeLimits,
    Plugin::VolumeBinding,
    Plugin::VolumeZone,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
];

/// The scores that exist.
pub const SCORES: [Plugin; 7] = [
    Plugin::TaintToleration,
    Plugin::NodeAffinity,
    Plugin::NodeResourcesFit,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
    Plugin::NodeResourcesBalancedAllocation,
    Plugin::ImageLocality,
];

impl Default for Profile {
    fn default() -> Self {
        Profile {
            name: "default-scheduler".into(),
            filters: FILTERS.to_vec(),
            scores: DEFAULT_PLUGINS.into_iter().filter(|(plugin, _)| SCORES.contains(plugin)).collect(),
            gates: true,
            preempts: true,
            percentage: 0,
            preemption_candidates: (10, 100),
            bind_timeout: 600,
            added_requirement: None,
            added_preferences: Vec::new(),
            resources: node_resources::Settings::default(),
            spread: pod_topology_spread::Defaults::default(),
            affinity: inter_pod_affinity::Settings::default(),
        }
    }
}

/// Why a pod fits nowhere (upstream: `FitError`).
#[derive(Clone, Debug, Default)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What keeps the pod from every node alike.
    pub pod_level: Option<Rejection>,
    /// What keeps it from each node, by slot.
    pub rejections: Vec<(usize, Rejection)>,
    /// What keeps it from the nodes that are not in `rejections`.
    pub elsewhere: Option<String>,
    /// Plugins that narrowed the nodes down by name.
    pub narrowed_by: PluginSet,
    /// What preemption has to say.
    pub preemption: String,
}

impl FitError {
    /// The plugins that rejected the pod.
    pub fn plugins(&self) -> PluginSet {
        let rejections = self.rejections.iter().map(|(_, rejection)| rejection).chain(&self.pod_level);
        rejections.map(|rejection| rejection.plugin).chain(self.narrowed_by.iter()).collect()
    }
}

impl std::fmt::Display for FitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        match &self.pod_level {
            Some(rejection) => write!(f, " {}.", rejection.reasons.iter().collect::<Vec<_>>().join(", "))?,
            None => {
                let others = self.elsewhere.as_deref().map(|reason| (reason, self.nodes - self.rejections.len()));
                let reasons = self.rejections.iter().flat_map(|(_, rejection)| rejection.reasons.iter());
                if let Some(summary) = histogram(reasons.map(|reason| (reason, 1)).chain(others)) {
                    write!(f, " {summary}.")?;
                }
            }
        }
        if !self.preemption.is_empty() {
            write!(f, " {}", self.preemption)?;
        }
        Ok(())
    }
}

/// `1 Insufficient cpu, 2 node(s) were unschedulable`, sorted as text as upstream does.
pub fn histogram<'a>(reasons: impl Iterator<Item = (&'a str, usize)>) -> Option<String> {
    let mut counts = BTreeMap::new();
    for (reason, count) in reasons {
        *counts.entry(reason).or_insert(0) += count;
    }
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    let mut lines: Vec<String> = counts.map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// A node for a pod.
#[derive(Debug)]
pub struct Decision {
    /// The node's slot.
    pub slot: usize,
    /// The node's name.
    pub node: String,
    /// What the plugins had worked out.
    pub state: State,
}

/// Why there is none, with what the plugins had worked out before they saw nodes.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: FitError,
    /// `None` if no node could help.
    pub state: Option<State>,
}

/// How many nodes that will do are enough (upstream: `numFeasibleNodesToFind`).
pub fn enough(percentage: i64, nodes: usize) -> usize {
    const AT_LEAST: i64 = 100;
    let all = i64::try_from(nodes).unwrap_or(i64::MAX);
    if all < AT_LEAST {
        return nodes;
    }
    let percentage = if percentage == 0 { (50 - all / 125).max(5) } else { percentage };
    usize::try_from((all.saturating_mul(percentage) / 100).max(AT_LEAST)).unwrap_or(nodes).min(nodes)
}

/// Whether the pod can be on `node`, also when the pods that wait for it with at least its priority have come (upstream:
/// `RunFilterPluginsWithNominatedPods`).
pub fn fits(cycle: &Cycle<'_>, state: &State, node: &NodeInfo) -> Result<(), Rejection> {
    let nominations = &cycle.cache.nominations;
    if nominations.is_empty() {
        return filter(cycle, state, node);
    }
    let first = |pod: &&std::sync::Arc<PodInfo>| pod.priority() >= cycle.pod.priority() && pod.uid() != cycle.pod.uid();
    let mut waiting = nominations.on(node.name()).iter().filter(first).peekable();
    if waiting.peek().is_some() {
        let (mut full, mut state) = (node.clone(), state.clone());
        for pod in waiting {
            full.add(pod.clone());
            pod_added(cycle, &mut state, node, pod);
        }
        filter(cycle, &state, &full)?;
    }
    filter(cycle, state, node)
}

/// The best node for the pod; among equals any. `start` rotates through the nodes, so that samples of a large cluster
/// differ.
pub fn schedule(
    pod: &PodInfo,
    cache: &mut Cache,
    objects: &dyn Objects,
    profile: &Profile,
    start: &mut usize,
) -> Result<Decision, Box<Failure>> {
    let state = match prepare(pod, cache, objects, profile) {
        Ok(state) => state,
        Err(rejection) => {
            let nodes = cache.order().len();
            let error = FitError { nodes, pod_level: Some(*rejection), ..FitError::default() };
            return Err(Box::new(Failure { error, state: None }));
        }
    };
    let mut error = FitError { nodes: cache.order().len(), ..FitError::default() };
    if error.nodes == 0 {
        return Err(Box::new(Failure { error, state: None }));
    }
    let feasible = {
        let cycle = Cycle { pod, cache, objects, profile };
        // A pod that won its place by preemption takes it if it still fits there.
        let nominated = pod.nominated_node().and_then(|name| cache.node(name));
        match nominated.filter(|node| fits(&cycle, &state, node).is_ok()) {
            Some(node) => vec![node.slot],
            None => find(&cycle, &state, start, &mut error),
        }
    };
    let slot = match feasible.as_slice() {
        [] => return Err(Box::new(Failure { error, state: Some(state) })),
        [only] => *only,
        _ => {
            let scores = prepare_scores(pod, cache, objects, profile);
            let cycle = Cycle { pod, cache, objects, profile };
            let nodes: Vec<&NodeInfo> = feasible.iter().map(|slot| cache.slot(*slot)).collect();
            best(&nodes, &score(&cycle, &state, &scores, &nodes))
        }
    };
    Ok(Decision { slot, node: cache.slot(slot).name().to_owned(), state })
}

/// The slots of enough nodes that will do.
fn find(cycle: &Cycle<'_>, state: &State, start: &mut usize, error: &mut FitError) -> Vec<usize> {
    let named: Vec<usize>;
    let candidates = match &state.names {
        None => cycle.cache.order(),
        Some(names) => {
            named = names.iter().filter_map(|name| cycle.cache.node(name)).map(|node| node.slot).collect();
            error.narrowed_by.insert(Plugin::NodeAffinity);
            error.elsewhere = Some("node(s) didn't satisfy plugin(s) [NodeAffinity]".into());
            named.as_slice()
        }
    };
    let wanted = match cycle.profile.scores.is_empty() {
        true => 1,
        false => enough(cycle.profile.percentage, candidates.len()),
    };
    let mut feasible = Vec::with_capacity(wanted.min(candidates.len()));
    let from = *start % candidates.len().max(1);
    for slot in candidates[from..].iter().chain(&candidates[..from]) {
        match fits(cycle, state, cycle.cache.slot(*slot)) {
            Ok(()) => feasible.push(*slot),
            Err(rejection) => error.rejections.push((*slot, rejection)),
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    *start = (*start + feasible.len() + error.rejections.len()) % error.nodes;
    feasible
}

fn best(nodes: &[&NodeInfo], totals: &[i64]) -> usize {
    let best = totals.iter().copied().max().unwrap_or(0);
    let equals = || nodes.iter().zip(totals).filter(|(_, total)| **total == best).map(|(node, _)| node.slot);
    let pick = fastrand::usize(..equals().count().max(1));
    equals().nth(pick).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_shrinks_with_the_cluster_as_upstream_computes_it() {
        let sampled: Vec<usize> = [10, 99, 100, 1000, 5000, 20000].into_iter().map(|nodes| enough(0, nodes)).collect();
        assert_eq!(sampled, [10, 99, 100, 420, 500, 1000]);
        assert_eq!((enough(100, 5000), enough(1, 5000), enough(40, 5000)), (5000, 100, 2000));
    }

    #[test]
    fn the_message_counts_reasons_and_sorts_them_as_text() {
        let rejection = |reason: &'static str| Rejection::resolvable(Plugin::NodeResourcesFit, reason);
        let error = FitError {
            nodes: 12,
            rejections: (0..10)
                .map(|slot| (slot, rejection("Insufficient cpu")))
                .chain([(10, rejection("Too many pods"))])
                .collect(),
            elsewhere: Some("node(s) didn't satisfy plugin(s) [NodeAffinity]".into()),
            preemption: "preemption: x".into(),
            ..FitError::default()
        };
        assert_eq!(
            error.to_string(),
            "0/12 nodes are available: 1 Too many pods, 1 node(s) didn't satisfy plugin(s) [NodeAffinity], 10 Insufficient cpu. preemption: x"
        );
        assert_eq!(FitError::default().to_string(), "no nodes available to schedule pods");
    }
}
