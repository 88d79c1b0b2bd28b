//! Affinity and anti-affinity between pods, in the domains that a topology key makes of the nodes.
use super::terms::means;
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, MAX_SCORE, Rejection, Score};
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};

pub struct InterPodAffinity;

const NAME: &str = "InterPodAffinity";

impl Filter for InterPodAffinity {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        if !affinity_holds(cycle, node) {
            return Err(Rejection::final_(NAME, "node(s) didn't match pod affinity rules"));
        }
        let meets = |term: &PodAffinityTerm| {
            in_domain(cycle, node, &term.topology_key).any(|other| means(cycle, cycle.pod, term, other))
        };
        if cycle.pod.required_anti_affinity().iter().any(meets) {
            return Err(Rejection::resolvable(NAME, "node(s) didn't match pod anti-affinity rules"));
        }
        if others_object(cycle, node) {
            return Err(Rejection::resolvable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }
}

/// The pods of the nodes that share `node`'s value of `key`; none if it has no such label. The node under consideration
/// stands in for its copy in the cache, so that preemption can ask about a node without some of its pods.
fn in_domain<'a>(cycle: &Cycle<'a>, node: &'a NodeInfo, key: &str) -> impl Iterator<Item = &'a PodInfo> {
    let value = node.label(key).map(str::to_owned);
    let (key, name) = (key.to_owned(), node.name().to_owned());
    let others = cycle.cache.nodes().filter(move |other| other.name() != name);
    std::iter::once(node)
        .chain(others)
        .filter(move |other| value.is_some() && other.label(&key) == value.as_deref())
        .flat_map(|other| other.pods.values().map(AsRef::as_ref))
}

fn affinity_holds(cycle: &Cycle<'_>, node: &NodeInfo) -> bool {
    let terms = cycle.pod.required_affinity();
    let met = |term: &PodAffinityTerm| {
        in_domain(cycle, node, &term.topology_key).any(|other| means(cycle, cycle.pod, term, other))
    };
    if terms.iter().all(|term| node.label(&term.topology_key).is_some() && met(term)) {
        return true;
    }
    // The first pod of a group that wants to be together: nothing anywhere matches, but the pod matches itself.
    let labelled = terms.iter().all(|term| node.label(&term.topology_key).is_some());
    let mut everywhere = cycle.cache.nodes().flat_map(|node| node.pods.values());
    labelled
        && terms.iter().all(|term| means(cycle, cycle.pod, term, cycle.pod))
        && !everywhere.any(|other| terms.iter().all(|term| means(cycle, cycle.pod, term, other)))
}

/// Whether a pod that is there already does not want this one in its domain.
fn others_object(cycle: &Cycle<'_>, node: &NodeInfo) -> bool {
    let objects = |home: &NodeInfo| {
        home.pods.values().any(|other| {
            other.required_anti_affinity().iter().any(|term| {
                let (there, here) = (home.label(&term.topology_key), node.label(&term.topology_key));
                there.is_some() && there == here && means(cycle, other, term, cycle.pod)
            })
        })
    };
    objects(node) || cycle.cache.nodes().filter(|other| other.name() != node.name()).any(objects)
}

impl Score for InterPodAffinity {
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
        let (attracts, repels) = preferences(cycle.pod);
        let raw: Vec<i64> = nodes
            .iter()
            .map(|node| {
                let weigh = |terms: &[WeightedPodAffinityTerm]| -> i64 {
                    let count = |term: &PodAffinityTerm| {
                        in_domain(cycle, node, &term.topology_key)
                            .filter(|other| means(cycle, cycle.pod, term, other))
                            .count()
                    };
                    terms.iter().map(|term| i64::from(term.weight) * count(&term.pod_affinity_term) as i64).sum()
                };
                weigh(attracts) - weigh(repels) + wanted_by_others(cycle, node)
            })
            .collect();
        let (min, max) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
        raw.into_iter().map(|score| if max == min { 0 } else { MAX_SCORE * (score - min) / (max - min) }).collect()
    }

    fn weight(&self) -> i64 {
        2
    }
}

fn preferences(pod: &PodInfo) -> (&[WeightedPodAffinityTerm], &[WeightedPodAffinityTerm]) {
    let affinity = pod.affinity();
    let attracts =
        affinity.and_then(|a| a.pod_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_deref());
    let repels = affinity
        .and_then(|a| a.pod_anti_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_deref());
    (attracts.unwrap_or_default(), repels.unwrap_or_default())
}

/// How much the pods that are there want this one in the node's domains; a required affinity counts 1
/// (`hardPodAffinityWeight`).
fn wanted_by_others(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let mut sum = 0;
    for home in cycle.cache.nodes() {
        let together = |term: &PodAffinityTerm| {
            let there = home.label(&term.topology_key);
            there.is_some() && there == node.label(&term.topology_key)
        };
        for other in home.pods.values().filter(|other| other.affinity().is_some()) {
            let (attracts, repels) = preferences(other);
            let wants = |term: &PodAffinityTerm| together(term) && means(cycle, other, term, cycle.pod);
            sum += attracts
                .iter()
                .filter(|term| wants(&term.pod_affinity_term))
                .map(|term| i64::from(term.weight))
                .sum::<i64>();
            sum -= repels
                .iter()
                .filter(|term| wants(&term.pod_affinity_term))
                .map(|term| i64::from(term.weight))
                .sum::<i64>();
            sum += other.required_affinity().iter().filter(|term| wants(term)).count() as i64;
        }
    }
    sum
}
