//! Keeps like pods evenly spread over the domains that a topology key makes of the nodes.
use super::{Cycle, State as CycleState, meets_requirement, tolerates};
use crate::algorithm::Profile;
use crate::cache::{Cache, CounterId, KeyId, NodeInfo, Question};
use crate::framework::{MAX_SCORE, Objects, Plugin, Rejection};
use crate::pod_info::{PodInfo, PodMatcher};
use crate::selector::{Labels, Selector};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

const NAME: Plugin = Plugin::PodTopologySpread;
const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The constraints of pods that have none of their own (upstream: `PodTopologySpreadArgs`).
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// The constraints; their selectors come from what the pod belongs to.
    pub constraints: Vec<TopologySpreadConstraint>,
    /// They are Kubernetes' own: nodes without one of the labels are scored by the others.
    pub system: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        let constraint = |topology_key: &str, max_skew| TopologySpreadConstraint {
            topology_key: topology_key.into(),
            max_skew,
            when_unsatisfiable: "ScheduleAnyway".into(),
            ..TopologySpreadConstraint::default()
        };
        let constraints = vec![constraint(HOSTNAME, 3), constraint("topology.kubernetes.io/zone", 5)];
        Defaults { constraints, system: true }
    }
}

/// A constraint, ready to be counted.
#[derive(Clone, Debug)]
struct Constraint {
    key: KeyId,
    is_hostname: bool,
    max_skew: i64,
    min_domains: usize,
    /// `None` selects nothing.
    selector: Option<Selector>,
    honours_affinity: bool,
    honours_taints: bool,
    /// `None` if the selector is empty, which counts nothing.
    counter: Option<CounterId>,
}

impl Constraint {
    fn selects(&self, labels: Option<&Labels>) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }

    fn count(&self, cache: &Cache, slot: usize) -> i64 {
        self.counter.map_or(0, |counter| cache.counters.count(counter, slot))
    }

    fn includes(&self, cache: &Cache, state: &CycleState, node: &NodeInfo) -> bool {
        (!self.honours_affinity || meets_requirement(cache, state, node))
            && (!self.honours_taints || tolerates(state, node))
    }
}

/// The pod's constraints of a kind, its own or else the defaults (upstream: `getConstraints`).
fn constraints(
    pod: &PodInfo,
    cache: &mut Cache,
    objects: &dyn Objects,
    profile: &Profile,
    when: &str,
) -> Vec<Constraint> {
    let own = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
    let from = if own.is_empty() { profile.spread.constraints.as_slice() } else { own };
    let mut wanted = from.iter().filter(|constraint| constraint.when_unsatisfiable == when).peekable();
    if wanted.peek().is_none() {
        return Vec::new();
    }
    let belongs = match own.is_empty() {
        true => match selector_of_owners(pod, objects) {
            selector if selector.is_empty() => return Vec::new(),
            selector => Some(selector),
        },
        false => None,
    };
    wanted
        .map(|constraint| {
            let selector = belongs.clone().or_else(|| {
                let own = constraint.label_selector.as_ref().map(Selector::new)?;
                let labels = pod.labels();
                let keys = constraint.match_label_keys.iter().flatten();
                let same = keys.filter_map(|key| labels?.get_key_value(key));
                Some(own.and(&Selector::of_labels(same)))
            });
            let counted = selector.clone().filter(|selector| !selector.is_empty());
            let counter = counted.map(|selector| {
                let matcher = PodMatcher::in_namespace(pod.namespace(), selector);
                cache.counter(Question { all_of: vec![matcher], leaving: false })
            });
            Constraint {
                key: cache.topology_key(&constraint.topology_key),
                is_hostname: constraint.topology_key == HOSTNAME,
                max_skew: i64::from(constraint.max_skew),
                min_domains: constraint.min_domains.and_then(|least| usize::try_from(least).ok()).unwrap_or(1),
                selector,
                honours_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
                honours_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
                counter,
            }
        })
        .collect()
}

/// What the services and the controller of a pod select together (upstream: `helper.DefaultSelector`).
fn selector_of_owners(pod: &PodInfo, objects: &dyn Objects) -> Selector {
    let (namespace, labels) = (pod.namespace(), pod.labels());
    let mut merged = Labels::new();
    for service in objects.services(namespace) {
        if let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref())
            && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        {
            merged.extend(selector.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    let owners = pod.pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
        return Selector::of_labels(&merged);
    };
    let of_set = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => {
            let controller = objects.replication_controller(namespace, &owner.name);
            if let Some(selector) = controller.as_ref().and_then(|c| c.spec.as_ref()?.selector.as_ref()) {
                merged.extend(selector.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            None
        }
        ("apps/v1", "ReplicaSet") => {
            let set = objects.replica_set(namespace, &owner.name);
            set.and_then(|set| set.spec.as_ref().map(|spec| Selector::new(&spec.selector)))
        }
        ("apps/v1", "StatefulSet") => {
            let set = objects.stateful_set(namespace, &owner.name);
            set.and_then(|set| set.spec.as_ref().map(|spec| Selector::new(&spec.selector)))
        }
        _ => None,
    };
    let services = Selector::of_labels(&merged);
    match of_set {
        Some(selector) => services.and(&selector),
        None => services,
    }
}

/// The counts of one constraint (upstream: `TpValueToMatchNum` and its minimum).
#[derive(Clone, Debug)]
struct Spread {
    constraint: Constraint,
    /// Pods by domain; negative: no eligible node is in the domain.
    counts: Vec<i64>,
    domains: usize,
    /// The domain with the fewest pods, their number, and the fewest elsewhere.
    fewest: (usize, i64, i64),
}

const ABSENT: i64 = i64::MIN;

impl Spread {
    fn minimum(&self) -> i64 {
        if self.domains < self.constraint.min_domains {
            return 0;
        }
        let (domain, _, elsewhere) = self.fewest;
        self.counts
            .get(domain)
            .copied()
            .filter(|count| *count != ABSENT)
            .map_or(elsewhere, |count| count.min(elsewhere))
    }

    fn find_fewest(&mut self) {
        let mut fewest = (usize::MAX, i64::MAX, i64::MAX);
        for (domain, count) in self.counts.iter().enumerate().filter(|(_, count)| **count != ABSENT) {
            if *count < fewest.1 {
                fewest = (domain, *count, fewest.1);
            } else if *count < fewest.2 {
                fewest.2 = *count;
            }
        }
        self.fewest = fewest;
    }
}

/// What hard constraints need (upstream: `preFilterState`).
#[derive(Clone, Debug, Default)]
pub struct State(Vec<Spread>);

/// Counts the pods that the pod's hard constraints select.
pub fn prepare(
    pod: &PodInfo,
    cache: &mut Cache,
    objects: &dyn Objects,
    profile: &Profile,
    cycle: &CycleState,
) -> State {
    let constraints = constraints(pod, cache, objects, profile, "DoNotSchedule");
    if constraints.is_empty() {
        return State::default();
    }
    let mut spreads: Vec<Spread> = constraints
        .into_iter()
        .map(|constraint| Spread {
            counts: vec![ABSENT; cache.topology.domains(constraint.key)],
            domains: 0,
            fewest: (usize::MAX, i64::MAX, i64::MAX),
            constraint,
        })
        .collect();
    let keys: Vec<KeyId> = spreads.iter().map(|spread| spread.constraint.key).collect();
    for node in cache.nodes() {
        if keys.iter().any(|key| cache.topology.domain(*key, node.slot).is_none()) {
            continue;
        }
        for spread in &mut spreads {
            if !spread.constraint.includes(cache, cycle, node) {
                continue;
            }
            if let Some(domain) = cache.topology.domain(spread.constraint.key, node.slot) {
                let count = &mut spread.counts[domain];
                if *count == ABSENT {
                    *count = 0;
                    spread.domains += 1;
                }
                *count += spread.constraint.count(cache, node.slot);
            }
        }
    }
    for spread in &mut spreads {
        spread.find_fewest();
    }
    State(spreads)
}

impl State {
    /// Whether the pod has hard constraints.
    pub fn speaks(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether the pod on `node` would not skew the spread too much.
    pub fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        for spread in &self.0 {
            let constraint = &spread.constraint;
            let Some(domain) = cycle.cache.topology.domain(constraint.key, node.slot) else {
                return Err(Rejection::final_(NAME, NO_LABEL));
            };
            let itself = i64::from(constraint.selects(cycle.pod.labels()));
            let here = spread.counts[domain].max(0);
            if here + itself - spread.minimum() > constraint.max_skew {
                return Err(Rejection::resolvable(NAME, MISMATCH));
            }
        }
        Ok(())
    }

    /// Whether `node` counts for the constraint at `at`.
    pub fn includes(&self, cache: &Cache, cycle: &CycleState, at: usize, node: &NodeInfo) -> bool {
        self.0[at].constraint.includes(cache, cycle, node)
    }

    /// The counts that a pod on `node` is part of: constraint and domain (upstream: `updateWithPod`).
    pub fn counted(
        &self,
        cycle: &Cycle<'_>,
        node: &NodeInfo,
        pod: &PodInfo,
        included: impl Fn(&State, usize) -> bool,
    ) -> Vec<(usize, usize)> {
        let domain = |spread: &Spread| cycle.cache.topology.domain(spread.constraint.key, node.slot);
        if pod.namespace() != cycle.pod.namespace() || self.0.iter().any(|spread| domain(spread).is_none()) {
            return Vec::new();
        }
        let counts = |(at, spread): (usize, &Spread)| {
            (spread.constraint.selects(pod.labels()) && included(self, at)).then_some((at, domain(spread)?))
        };
        self.0.iter().enumerate().filter_map(counts).collect()
    }

    /// Changes those counts; all changes of one state are to pods of one node.
    pub fn change(&mut self, counted: &[(usize, usize)], by: i64) {
        for (at, domain) in counted {
            let spread = &mut self.0[*at];
            if spread.fewest.0 != *domain && spread.counts[*domain] != ABSENT {
                // The domain of the node is the one that changes: keep what is fewest elsewhere.
                let elsewhere = spread.counts.iter().enumerate().filter(|(d, count)| d != domain && **count != ABSENT);
                let elsewhere = elsewhere.map(|(_, count)| *count).min().unwrap_or(i64::MAX);
                spread.fewest = (*domain, spread.counts[*domain], elsewhere);
            }
            if spread.counts[*domain] != ABSENT {
                spread.counts[*domain] += by;
            }
        }
    }
}

/// What soft constraints count.
#[derive(Debug, Default)]
pub struct SoftState {
    constraints: Vec<Constraint>,
    /// Only nodes with all labels are scored.
    needs_all: bool,
}

/// Looks up what the pod's soft constraints count.
pub fn prepare_soft(pod: &PodInfo, cache: &mut Cache, objects: &dyn Objects, profile: &Profile) -> SoftState {
    let constraints = constraints(pod, cache, objects, profile, "ScheduleAnyway");
    let own = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_ref()).is_some_and(|own| !own.is_empty());
    SoftState { constraints, needs_all: own || !profile.spread.system }
}

/// Fewer like pods in the node's domains are better.
pub fn score(cycle: &Cycle<'_>, state: &CycleState, soft: &SoftState, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    if soft.constraints.is_empty() {
        return None;
    }
    let cache = cycle.cache;
    let has_all = |slot: usize| soft.constraints.iter().all(|c| cache.topology.domain(c.key, slot).is_some());
    let ignored: Vec<bool> = nodes.iter().map(|node| soft.needs_all && !has_all(node.slot)).collect();
    let scored = ignored.iter().filter(|ignored| !**ignored).count();
    let mut raw = vec![0.0; nodes.len()];
    for constraint in &soft.constraints {
        // Pods by domain, of the domains that have a node to choose; a node without the label is in a domain of its own.
        let (mut counts, mut size) = (vec![ABSENT; cache.topology.domains(constraint.key)], scored);
        if !constraint.is_hostname {
            size = 0;
            let mut unlabelled = false;
            for (node, _) in nodes.iter().zip(&ignored).filter(|(_, ignored)| !**ignored) {
                match cache.topology.domain(constraint.key, node.slot) {
                    Some(domain) if counts[domain] == ABSENT => (counts[domain], size) = (0, size + 1),
                    Some(_) => {}
                    None => unlabelled = true,
                }
            }
            size += usize::from(unlabelled);
            for node in cache.nodes() {
                if let Some(domain) = cache.topology.domain(constraint.key, node.slot)
                    && counts[domain] != ABSENT
                    && (!soft.needs_all || has_all(node.slot))
                    && constraint.includes(cache, state, node)
                {
                    counts[domain] += constraint.count(cache, node.slot);
                }
            }
        }
        // Of many domains each counts less (upstream: topologyNormalizingWeight).
        let weight = (size as f64 + 2.0).ln();
        for ((sum, node), _) in raw.iter_mut().zip(nodes).zip(&ignored).filter(|(_, ignored)| !**ignored) {
            if let Some(domain) = cache.topology.domain(constraint.key, node.slot) {
                let count =
                    if constraint.is_hostname { constraint.count(cache, node.slot) } else { counts[domain].max(0) };
                *sum += count as f64 * weight + (constraint.max_skew - 1) as f64;
            }
        }
    }
    let raw: Vec<i64> = raw.into_iter().map(|score: f64| score.round() as i64).collect();
    let counted = || raw.iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|(score, _)| *score);
    let (min, max) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
    let scaled = |(score, ignored): (&i64, &bool)| match (ignored, max) {
        (true, _) => 0,
        (false, 0) => MAX_SCORE,
        (false, max) => MAX_SCORE * (max + min - score) / max,
    };
    Some(raw.iter().zip(&ignored).map(scaled).collect())
}

/// What queueing hints need of the pod's hard constraints: selectors, keys, whether taints count.
pub struct Hard {
    /// The selectors of the constraints.
    pub selectors: Vec<Option<Selector>>,
    /// The topology keys.
    pub keys: Vec<String>,
    /// Whether a constraint honours taints.
    pub honours_taints: bool,
}

/// The pod's own hard constraints, and the defaults where it has none.
pub fn hard(pod: &PodInfo, defaults: &Defaults) -> Hard {
    let own = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
    let from = if own.is_empty() { defaults.constraints.as_slice() } else { own };
    let hard: Vec<_> = from.iter().filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule").collect();
    Hard {
        // Of a default constraint any pod of the namespace may be selected.
        selectors: hard
            .iter()
            .map(
                |c| {
                    if own.is_empty() {
                        Some(Selector::default())
                    } else {
                        c.label_selector.as_ref().map(Selector::new)
                    }
                },
            )
            .collect(),
        keys: hard.iter().map(|constraint| constraint.topology_key.clone()).collect(),
        honours_taints: hard.iter().any(|constraint| constraint.node_taints_policy.as_deref() == Some("Honor")),
    }
}
