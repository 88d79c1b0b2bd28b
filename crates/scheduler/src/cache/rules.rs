//! The affinity rules of placed pods, each kept once with the nodes on which it holds: pods of one workload share theirs.
use crate::pod_info::{PodInfo, Term};
use std::collections::{BTreeMap, HashMap};

/// How many pods on each node have a rule, by slot.
pub type Holders = BTreeMap<usize, u32>;

/// What a rule of a placed pod is worth to a pod that it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Worth {
    /// A required affinity, worth the configured `hardPodAffinityWeight`.
    Required,
    /// A preference, negative for anti-affinity.
    Preferred(i64),
}

/// The rules of all placed pods.
#[derive(Debug, Default, PartialEq)]
pub struct Rules {
    forbidden: HashMap<Term, Holders>,
    scored: HashMap<(Term, Worth), Holders>,
}

impl Rules {
    /// A pod came to a node.
    pub fn pod_added(&mut self, slot: usize, pod: &PodInfo) {
        for term in pod.required_anti_affinity() {
            raise(&mut self.forbidden, term, slot);
        }
        for rule in scored(pod) {
            raise(&mut self.scored, &rule, slot);
        }
    }

    /// A pod left a node.
    pub fn pod_removed(&mut self, slot: usize, pod: &PodInfo) {
        for term in pod.required_anti_affinity() {
            lower(&mut self.forbidden, term, slot);
        }
        for rule in scored(pod) {
            lower(&mut self.scored, &rule, slot);
        }
    }

    /// Required anti-affinity.
    pub fn forbidden(&self) -> impl Iterator<Item = (&Term, &Holders)> {
        self.forbidden.iter()
    }

    /// What makes nodes better or worse.
    pub fn scored(&self) -> impl Iterator<Item = (&Term, Worth, &Holders)> {
        self.scored.iter().map(|((term, worth), holders)| (term, *worth, holders))
    }
}

fn scored(pod: &PodInfo) -> impl Iterator<Item = (Term, Worth)> {
    let required = pod.required_affinity().iter().map(|term| (term.clone(), Worth::Required));
    required.chain(pod.preferred().iter().map(|(term, weight)| (term.clone(), Worth::Preferred(*weight))))
}

fn raise<K: std::hash::Hash + Eq + Clone>(rules: &mut HashMap<K, Holders>, rule: &K, slot: usize) {
    match rules.get_mut(rule) {
        Some(holders) => *holders.entry(slot).or_insert(0) += 1,
        None => {
            rules.insert(rule.clone(), Holders::from([(slot, 1)]));
        }
    }
}

fn lower<K: std::hash::Hash + Eq>(rules: &mut HashMap<K, Holders>, rule: &K, slot: usize) {
    let Some(holders) = rules.get_mut(rule) else { return };
    if let Some(count) = holders.get_mut(&slot) {
        *count -= 1;
        if *count == 0 {
            holders.remove(&slot);
        }
    }
    if holders.is_empty() {
        rules.remove(rule);
    }
}
