//! One scheduling cycle: which node, or why none. Pure: it reads a snapshot and returns a decision.
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, Rejection, Score};
use crate::plugins::unplaceable;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The plugins of a profile.
pub struct Profile {
    /// Filters in order.
    pub filters: Vec<Box<dyn Filter>>,
    /// Scores.
    pub scores: Vec<Box<dyn Score>>,
}

/// Why a pod fits nowhere (upstream: `FitError`).
#[derive(Clone, Debug, Default)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What keeps the pod from every node alike.
    pub pod_level: Option<Rejection>,
    /// What keeps it from each node.
    pub rejections: HashMap<String, Rejection>,
    /// What preemption has to say.
    pub preemption: String,
}

impl FitError {
    /// The plugins that rejected the pod.
    pub fn plugins(&self) -> HashSet<&'static str> {
        self.rejections.values().chain(&self.pod_level).map(|rejection| rejection.plugin).collect()
    }
}

impl std::fmt::Display for FitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0/{} nodes are available:", self.nodes)?;
        match &self.pod_level {
            Some(rejection) => write!(f, " {}.", rejection.reasons.join(", "))?,
            None => {
                if let Some(summary) = histogram(self.rejections.values().flat_map(|rejection| &rejection.reasons)) {
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
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut counts = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut lines: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    (!lines.is_empty()).then(|| lines.join(", "))
}

impl Profile {
    /// Whether the pod can be on `node`: the first filter that objects says why not.
    pub fn fits(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        self.filters.iter().try_for_each(|filter| filter.filter(cycle, node))
    }

    /// The best node for the pod; among equals any.
    pub fn select(&self, cycle: &Cycle<'_>) -> Result<String, Box<FitError>> {
        let nodes: Vec<&NodeInfo> = cycle.cache.nodes().collect();
        let mut error = FitError { nodes: nodes.len(), ..FitError::default() };
        if let Some(rejection) = unplaceable(cycle) {
            error.pod_level = Some(rejection);
            return Err(Box::new(error));
        }
        // A pod that won its place by preemption takes it if it still fits there.
        let nominated = cycle.pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
        if let Some(node) = nominated.and_then(|name| cycle.cache.node(name))
            && self.fits(cycle, node).is_ok()
        {
            return Ok(node.name().to_owned());
        }
        let mut feasible = Vec::new();
        for node in nodes {
            match self.fits(cycle, node) {
                Ok(()) => feasible.push(node),
                Err(rejection) => {
                    error.rejections.insert(node.name().to_owned(), rejection);
                }
            }
        }
        match feasible.as_slice() {
            [] => Err(Box::new(error)),
            [only] => Ok(only.name().to_owned()),
            _ => Ok(self.best(cycle, &feasible)),
        }
    }

    fn best(&self, cycle: &Cycle<'_>, feasible: &[&NodeInfo]) -> String {
        let mut totals = vec![0; feasible.len()];
        for plugin in &self.scores {
            for (total, score) in totals.iter_mut().zip(plugin.score(cycle, feasible)) {
                *total += score * plugin.weight();
            }
        }
        let best = totals.iter().copied().max().unwrap_or(0);
        let equals: Vec<&&NodeInfo> =
            feasible.iter().zip(&totals).filter(|(_, total)| **total == best).map(|(node, _)| node).collect();
        fastrand::choice(equals).map_or_else(String::new, |node| node.name().to_owned())
    }
}
