//! Keeps like pods evenly spread over the domains that a topology key makes of the nodes.
use super::node_affinity::matches_node_selector;
use super::taint_toleration::tolerates;
use super::terms::selects;
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, MAX_SCORE, Rejection, Score};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use std::collections::HashMap;

pub struct PodTopologySpread;

const NAME: &str = "PodTopologySpread";
const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";

fn constraints<'a>(cycle: &Cycle<'a>, when: &'static str) -> impl Iterator<Item = &'a TopologySpreadConstraint> {
    let all = cycle.pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
    all.iter().filter(move |constraint| constraint.when_unsatisfiable == when)
}

/// How many pods that `constraint` counts are in each domain of the nodes that count.
fn domains<'a>(cycle: &Cycle<'a>, constraint: &TopologySpreadConstraint) -> HashMap<&'a str, i64> {
    let mut domains = HashMap::new();
    for node in cycle.cache.nodes().filter(|node| counts(cycle, constraint, node)) {
        if let Some(domain) = node.label(&constraint.topology_key) {
            *domains.entry(domain).or_insert(0) += matching(cycle, constraint, node);
        }
    }
    domains
}

fn matching(cycle: &Cycle<'_>, constraint: &TopologySpreadConstraint, node: &NodeInfo) -> i64 {
    let same = |other: &&std::sync::Arc<crate::pod_info::PodInfo>| {
        other.namespace() == cycle.pod.namespace()
            && other.pod.metadata.deletion_timestamp.is_none()
            && selected(cycle, constraint, other)
    };
    node.pods.values().filter(same).count() as i64
}

fn selected(cycle: &Cycle<'_>, constraint: &TopologySpreadConstraint, other: &crate::pod_info::PodInfo) -> bool {
    let keys = constraint.match_label_keys.iter().flatten();
    let same_keys = |key: &String| {
        let label = |pod: &crate::pod_info::PodInfo| pod.labels().and_then(|labels| labels.get(key).cloned());
        label(cycle.pod).is_none() || label(cycle.pod) == label(other)
    };
    constraint.label_selector.as_ref().is_some_and(|selector| selects(selector, other.labels()))
        && keys.clone().all(same_keys)
}

/// Whether a node takes part: `nodeAffinityPolicy` (default Honor) and `nodeTaintsPolicy` (default Ignore).
fn counts(cycle: &Cycle<'_>, constraint: &TopologySpreadConstraint, node: &NodeInfo) -> bool {
    let Some(spec) = cycle.pod.spec() else { return true };
    if constraint.node_affinity_policy.as_deref() != Some("Ignore") {
        let affinity = cycle.pod.affinity().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
        if !selected || required.is_some_and(|selector| !matches_node_selector(selector, node)) {
            return false;
        }
    }
    constraint.node_taints_policy.as_deref() != Some("Honor")
        || node
            .taints()
            .iter()
            .filter(|taint| taint.effect != "PreferNoSchedule")
            .all(|taint| tolerates(cycle.pod, taint))
}

impl Filter for PodTopologySpread {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        for constraint in constraints(cycle, "DoNotSchedule") {
            let Some(domain) = node.label(&constraint.topology_key) else {
                return Err(Rejection::final_(NAME, format!("{MISMATCH} (missing required label)")));
            };
            let mut domains = domains(cycle, constraint);
            if let Some(cached) = cycle.cache.node(node.name()) {
                // Preemption asks about a node without some of its pods.
                let change = matching(cycle, constraint, node) - matching(cycle, constraint, cached);
                domains.entry(domain).and_modify(|count| *count += change);
            }
            let few = domains.len() < usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
            let least = if few { 0 } else { domains.values().copied().min().unwrap_or(0) };
            let itself = i64::from(selected(cycle, constraint, cycle.pod));
            if domains.get(domain).copied().unwrap_or(0) + itself - least > i64::from(constraint.max_skew) {
                return Err(Rejection::resolvable(NAME, MISMATCH));
            }
        }
        Ok(())
    }
}

impl Score for PodTopologySpread {
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
        let mut raw = vec![0.0; nodes.len()];
        for constraint in constraints(cycle, "ScheduleAnyway") {
            let domains = domains(cycle, constraint);
            // Of many domains each counts less (upstream: topologyNormalizingWeight).
            let weight = (domains.len() as f64 + 2.0).ln();
            for (sum, node) in raw.iter_mut().zip(nodes) {
                let count =
                    node.label(&constraint.topology_key).and_then(|domain| domains.get(domain)).copied().unwrap_or(0);
                *sum += count as f64 * weight + f64::from(constraint.max_skew - 1);
            }
        }
        let raw: Vec<i64> = raw.into_iter().map(|score| score.round() as i64).collect();
        let (min, max) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
        raw.into_iter().map(|score| if max == 0 { MAX_SCORE } else { MAX_SCORE * (max + min - score) / max }).collect()
    }

    fn weight(&self) -> i64 {
        2
    }
}
