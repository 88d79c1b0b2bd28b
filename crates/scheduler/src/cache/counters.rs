//! How many pods of a kind are on each node, kept up pod by pod: a decision never looks at the pods of the cluster.
use super::NodeInfo;
use crate::pod_info::{PodInfo, PodMatcher};
use crate::selector::Labels;
use std::collections::HashMap;
use std::sync::Arc;

/// Counters beyond these go, those first that were not asked for the longest.
const MAX_COUNTERS: usize = 512;

/// Labels of namespaces by name.
pub type Namespaces = HashMap<String, Labels>;

/// A counter in use, by number.
pub type CounterId = usize;

/// Which pods are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Those that all of these match.
    pub all_of: Vec<PodMatcher>,
    /// Pods being deleted count, too.
    pub leaving: bool,
}

impl Question {
    fn counts(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        (self.leaving || !pod.is_leaving())
            && self
                .all_of
                .iter()
                .all(|matcher| matcher.matches(pod.namespace(), pod.labels(), |namespace| namespaces.get(namespace)))
    }

    fn asks_for_namespaces(&self) -> bool {
        self.all_of.iter().any(|matcher| matcher.namespace_selector.is_some())
    }
}

#[derive(Debug)]
struct Counter {
    question: Arc<Question>,
    per_slot: Vec<u32>,
    used: u64,
}

/// The counters that pods have needed so far.
#[derive(Debug, Default)]
pub struct Counters {
    counters: Vec<Counter>,
    by_question: HashMap<Arc<Question>, CounterId>,
    clock: u64,
}

impl Counters {
    /// Makes room before a pod's counters are looked up; numbers of counters hold until the next call.
    pub fn tidy(&mut self) {
        if self.counters.len() <= MAX_COUNTERS {
            return;
        }
        let mut uses: Vec<u64> = self.counters.iter().map(|counter| counter.used).collect();
        uses.sort_unstable();
        let oldest = uses[uses.len() / 2];
        self.retain(|counter| counter.used > oldest);
    }

    /// Labels of a namespace changed: what was counted by them is not true any more.
    pub fn namespace_changed(&mut self) {
        self.retain(|counter| !counter.question.asks_for_namespaces());
    }

    fn retain(&mut self, keep: impl Fn(&Counter) -> bool) {
        self.counters.retain(keep);
        self.by_question =
            self.counters.iter().enumerate().map(|(id, counter)| (counter.question.clone(), id)).collect();
    }

    /// The counter that answers `question`; a new one counts once through all pods.
    pub fn of(&mut self, question: Question, nodes: &[NodeInfo], namespaces: &Namespaces) -> CounterId {
        self.clock += 1;
        if let Some(id) = self.by_question.get(&question) {
            self.counters[*id].used = self.clock;
            return *id;
        }
        let count = |node: &NodeInfo| {
            let counted = node.pods.iter().filter(|pod| question.counts(pod, namespaces)).count();
            u32::try_from(counted).unwrap_or(u32::MAX)
        };
        let per_slot = nodes.iter().map(count).collect();
        let question = Arc::new(question);
        self.by_question.insert(question.clone(), self.counters.len());
        self.counters.push(Counter { question, per_slot, used: self.clock });
        self.counters.len() - 1
    }

    /// A pod came to a node.
    pub fn pod_added(&mut self, slot: usize, pod: &PodInfo, namespaces: &Namespaces) {
        for counter in &mut self.counters {
            if counter.question.counts(pod, namespaces) {
                if counter.per_slot.len() <= slot {
                    counter.per_slot.resize(slot + 1, 0);
                }
                counter.per_slot[slot] += 1;
            }
        }
    }

    /// A pod left a node.
    pub fn pod_removed(&mut self, slot: usize, pod: &PodInfo, namespaces: &Namespaces) {
        for counter in &mut self.counters {
            if counter.question.counts(pod, namespaces)
                && let Some(count) = counter.per_slot.get_mut(slot)
            {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// How many pods the counter has on a node.
    pub fn count(&self, counter: CounterId, slot: usize) -> i64 {
        i64::from(self.counters[counter].per_slot.get(slot).copied().unwrap_or(0))
    }

    /// Every counter with its counts, for comparisons in tests.
    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = (&Question, &[u32])> {
        self.counters.iter().map(|counter| (&*counter.question, counter.per_slot.as_slice()))
    }
}
