//! Pods that want to be near or far from other pods.
use super::Cycle;
use crate::algorithm::Profile;
use crate::cache::{Cache, CounterId, KeyId, NodeInfo, Question, Worth};
use crate::framework::{MAX_SCORE, Plugin, Rejection};
use crate::pod_info::{PodInfo, Term};

const NAME: Plugin = Plugin::InterPodAffinity;

/// Settings of the plugin (upstream: `InterPodAffinityArgs`).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What a required affinity of a placed pod is worth to a pod that it means.
    pub hard_weight: i64,
    /// Preferences of placed pods do not count for pods that have none.
    pub ignore_preferences_of_others: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { hard_weight: 1, ignore_preferences_of_others: false }
    }
}

/// Pods by topology key and domain.
#[derive(Clone, Debug, Default)]
struct ByDomain(Vec<(KeyId, Vec<i64>)>);

impl ByDomain {
    fn of_key(&mut self, cache: &Cache, key: KeyId) -> &mut Vec<i64> {
        let at = self.0.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.0.push((key, vec![0; cache.topology.domains(key)]));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    fn add(&mut self, cache: &Cache, key: KeyId, slot: usize, by: i64) {
        if let Some(domain) = cache.topology.domain(key, slot) {
            self.of_key(cache, key)[domain] += by;
        }
    }

    fn add_counter(&mut self, cache: &Cache, key: KeyId, counter: CounterId) {
        let counts = self.of_key(cache, key);
        for slot in cache.order() {
            let count = cache.counters.count(counter, *slot);
            if count != 0
                && let Some(domain) = cache.topology.domain(key, *slot)
            {
                counts[domain] += count;
            }
        }
    }

    fn get(&self, cache: &Cache, key: KeyId, slot: usize) -> i64 {
        let counts = self.0.iter().find(|(known, _)| *known == key).map(|(_, counts)| counts);
        counts.zip(cache.topology.domain(key, slot)).map_or(0, |(counts, domain)| counts[domain])
    }

    /// Whether any key has a pod in the node's domain.
    fn any(&self, cache: &Cache, slot: usize) -> bool {
        self.0.iter().any(|(key, counts)| cache.topology.domain(*key, slot).is_some_and(|domain| counts[domain] > 0))
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, counts)| counts.iter().all(|count| *count == 0))
    }
}

/// What the filter needs (upstream: `preFilterState`).
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Placed pods that do not want this one near.
    forbidding: ByDomain,
    /// Placed pods that all required terms mean.
    near: ByDomain,
    near_keys: Vec<KeyId>,
    /// No placed pod is meant, and the pod is meant by its own terms.
    first_of_its_kind: bool,
    means_itself: bool,
    /// Placed pods that this one does not want near.
    avoided: ByDomain,
    avoided_keys: Vec<KeyId>,
}

fn means(cache: &Cache, term: &Term, pod: &PodInfo) -> bool {
    term.matcher.matches(pod.namespace(), pod.labels(), |namespace| cache.namespace(namespace))
}

fn means_all(cache: &Cache, terms: &[Term], pod: &PodInfo) -> bool {
    !terms.is_empty() && terms.iter().all(|term| means(cache, term, pod))
}

/// Counts the pods that the pod's required terms mean, and those that do not want it near.
pub fn prepare(pod: &PodInfo, cache: &mut Cache) -> State {
    let mut state = State::default();
    let waiting = cache.nominations.all().flat_map(|pod| pod.required_anti_affinity());
    for key in waiting.map(|term| term.topology_key.clone()).collect::<Vec<_>>() {
        cache.topology_key(&key);
    }
    let forbidding: Vec<(String, Vec<(usize, u32)>)> = cache
        .rules
        .forbidden()
        .filter(|(term, _)| means(cache, term, pod))
        .map(|(term, holders)| (term.topology_key.clone(), holders.iter().map(|(slot, n)| (*slot, *n)).collect()))
        .collect();
    for (key, holders) in forbidding {
        let key = cache.topology_key(&key);
        for (slot, count) in holders {
            if cache.slot(slot).node.is_some() {
                state.forbidding.add(cache, key, slot, i64::from(count));
            }
        }
    }
    let required = pod.required_affinity();
    if !required.is_empty() {
        let all_of = required.iter().map(|term| term.matcher.clone()).collect();
        let counter = cache.counter(Question { all_of, leaving: true });
        for term in required {
            let key = cache.topology_key(&term.topology_key);
            state.near.add_counter(cache, key, counter);
            state.near_keys.push(key);
        }
        state.means_itself = means_all(cache, required, pod);
        state.first_of_its_kind = state.means_itself && state.near.is_empty();
    }
    for term in pod.required_anti_affinity() {
        let counter = cache.counter(Question { all_of: vec![term.matcher.clone()], leaving: true });
        let key = cache.topology_key(&term.topology_key);
        state.avoided.add_counter(cache, key, counter);
        state.avoided_keys.push(key);
    }
    state
}

impl State {
    /// Whether the filter has something to say about the pod.
    pub fn speaks(&self) -> bool {
        !self.forbidding.is_empty() || !self.near_keys.is_empty() || !self.avoided_keys.is_empty()
    }

    /// Whether the pod's rules and those of others allow `node`.
    pub fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        let (cache, slot) = (cycle.cache, node.slot);
        if !self.is_near(cache, slot) {
            return Err(Rejection::final_(NAME, "node(s) didn't match pod affinity rules"));
        }
        if self.avoided_keys.iter().any(|key| self.avoided.get(cache, *key, slot) > 0) {
            return Err(Rejection::resolvable(NAME, "node(s) didn't match pod anti-affinity rules"));
        }
        if self.forbidding.any(cache, slot) {
            return Err(Rejection::resolvable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    fn is_near(&self, cache: &Cache, slot: usize) -> bool {
        self.near_keys.iter().all(|key| cache.topology.domain(*key, slot).is_some())
            && (self.first_of_its_kind || self.near_keys.iter().all(|key| self.near.get(cache, *key, slot) > 0))
    }

    /// A pod comes to (or leaves) `node`.
    pub fn change(&mut self, cycle: &Cycle<'_>, node: &NodeInfo, pod: &PodInfo, by: i64) {
        let cache = cycle.cache;
        for term in pod.required_anti_affinity() {
            if means(cache, term, cycle.pod)
                && let Some(key) = cache.topology.known(&term.topology_key)
            {
                self.forbidding.add(cache, key, node.slot, by);
            }
        }
        if means_all(cache, cycle.pod.required_affinity(), pod) {
            for key in self.near_keys.clone() {
                self.near.add(cache, key, node.slot, by);
            }
            self.first_of_its_kind = self.means_itself && self.near.is_empty();
        }
        for (term, key) in cycle.pod.required_anti_affinity().iter().zip(self.avoided_keys.clone()) {
            if means(cache, term, pod) {
                self.avoided.add(cache, key, node.slot, by);
            }
        }
    }
}

/// How many pods with a rule are where, by slot.
type Held = Vec<(usize, i64)>;

/// What preferences have to be weighed: counters of the pod's own, and its worth to rules of placed pods.
#[derive(Debug, Default)]
pub struct Preferences {
    own: Vec<(KeyId, CounterId, i64)>,
    /// Per rule of placed pods that means the pod: key, weight, and the holders by slot.
    others: Vec<(KeyId, i64, Held)>,
}

/// Looks up what the preferences of the pod, and those of others for it, count.
pub fn prepare_preferences(pod: &PodInfo, cache: &mut Cache, profile: &Profile) -> Preferences {
    let settings = &profile.affinity;
    let mut preferences = Preferences::default();
    if settings.ignore_preferences_of_others && pod.preferred().is_empty() {
        return preferences;
    }
    let others: Vec<(String, i64, Held)> = cache
        .rules
        .scored()
        .filter(|(term, _, _)| means(cache, term, pod))
        .filter_map(|(term, worth, holders)| {
            let weight = match worth {
                Worth::Required => settings.hard_weight,
                Worth::Preferred(weight) => weight,
            };
            let holders = holders.iter().map(|(slot, count)| (*slot, i64::from(*count))).collect();
            (weight != 0).then(|| (term.topology_key.clone(), weight, holders))
        })
        .collect();
    for (key, weight, holders) in others {
        preferences.others.push((cache.topology_key(&key), weight, holders));
    }
    for (term, weight) in pod.preferred() {
        let counter = cache.counter(Question { all_of: vec![term.matcher.clone()], leaving: true });
        preferences.own.push((cache.topology_key(&term.topology_key), counter, *weight));
    }
    preferences
}

/// The weights of all preferences that hold in the node's domains, scaled between the worst and the best node.
pub fn score(cycle: &Cycle<'_>, preferences: &Preferences, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let cache = cycle.cache;
    let mut weights = ByDomain::default();
    for (key, counter, weight) in &preferences.own {
        for slot in cache.order() {
            let count = cache.counters.count(*counter, *slot);
            if count != 0 {
                weights.add(cache, *key, *slot, count * weight);
            }
        }
    }
    for (key, weight, holders) in &preferences.others {
        for (slot, count) in holders.iter().filter(|(slot, _)| cache.slot(*slot).node.is_some()) {
            weights.add(cache, *key, *slot, count * weight);
        }
    }
    if weights.0.is_empty() {
        return None;
    }
    let raw: Vec<i64> =
        nodes.iter().map(|node| weights.0.iter().map(|(key, _)| weights.get(cache, *key, node.slot)).sum()).collect();
    let (min, max) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    let scaled = |score: &i64| match max - min {
        0 => 0,
        range => (MAX_SCORE as f64 * ((score - min) as f64 / range as f64)) as i64,
    };
    Some(raw.iter().map(scaled).collect())
}
