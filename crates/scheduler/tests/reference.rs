//! The rules between pods, counted incrementally, say the same as a reading of them that looks at every pod; and what
//! preemption tries out says the same as a cluster in which it has happened.
use k8s_openapi::api::core::v1::{Node, Pod};
use pintle_scheduler::algorithm::{Profile, fits};
use pintle_scheduler::cache::Cache;
use pintle_scheduler::framework::NoObjects;
use pintle_scheduler::plugins::{Cycle, pod_removed, prepare};
use pintle_scheduler::pod_info::PodInfo;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A rule about pods of an app in the domains of a key.
#[derive(Clone, Debug)]
struct Rule {
    app: usize,
    zone: bool,
    everywhere: bool,
}

impl Rule {
    fn key(&self) -> &'static str {
        if self.zone { "zone" } else { "host" }
    }

    fn term(&self) -> Value {
        let mut term =
            json!({ "topologyKey": self.key(), "labelSelector": { "matchLabels": { "app": self.app.to_string() } } });
        if self.everywhere {
            term["namespaceSelector"] = json!({});
        }
        term
    }

    fn means(&self, owner: &Someone, other: &Someone) -> bool {
        self.app == other.app && (self.everywhere || owner.namespace == other.namespace)
    }
}

/// A pod.
#[derive(Clone, Debug)]
struct Someone {
    app: usize,
    namespace: usize,
    node: usize,
    near: Vec<Rule>,
    far: Vec<Rule>,
    spread: Vec<(Rule, i64, i64)>,
}

impl Someone {
    fn pod(&self, name: &str, placed: bool) -> Arc<Pod> {
        let terms = |rules: &[Rule]| rules.iter().map(Rule::term).collect::<Vec<_>>();
        let constraint = |(rule, skew, domains): &(Rule, i64, i64)| {
            json!({ "topologyKey": rule.key(), "maxSkew": skew, "minDomains": domains, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": { "matchLabels": { "app": rule.app.to_string() } } })
        };
        let affinity = json!({
            "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms(&self.near) },
            "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms(&self.far) },
        });
        let spread: Vec<Value> = self.spread.iter().map(constraint).collect();
        let mut spec = json!({ "containers": [], "affinity": affinity, "topologySpreadConstraints": spread });
        if placed {
            spec["nodeName"] = format!("n{}", self.node).into();
        }
        let meta = json!({ "name": name, "uid": name, "namespace": self.namespace.to_string(), "labels": { "app": self.app.to_string() } });
        Arc::new(serde_json::from_value(json!({ "metadata": meta, "spec": spec })).expect("a pod"))
    }
}

/// The label of a node: every node is a host, some are in a zone.
fn label(zones: &[usize], node: usize, key: &str) -> Option<String> {
    match key {
        "host" => Some(format!("h{node}")),
        _ => (zones[node] > 0).then(|| zones[node].to_string()),
    }
}

fn cluster(zones: &[usize], pods: &[(String, Someone)]) -> Cache {
    let mut cache = Cache::default();
    for node in 0..zones.len() {
        let labels: BTreeMap<&str, String> =
            ["host", "zone"].into_iter().filter_map(|key| Some((key, label(zones, node, key)?))).collect();
        let object = json!({ "metadata": { "name": format!("n{node}"), "labels": labels }, "status": { "allocatable": { "pods": "100" } } });
        cache.set_node(&Arc::new(serde_json::from_value::<Node>(object).expect("a node")));
    }
    for (name, someone) in pods {
        cache.set_pod(&someone.pod(name, true));
    }
    cache
}

/// Whether `new` may be on `node`, pod by pod.
fn allowed(zones: &[usize], pods: &[(String, Someone)], new: &Someone, node: usize) -> bool {
    let here = |key: &str| label(zones, node, key);
    let there = |pod: &Someone, key: &str| label(zones, pod.node, key);
    let pods = || pods.iter().map(|(_, pod)| pod);
    let meant: Vec<&Someone> = pods().filter(|pod| new.near.iter().all(|rule| rule.means(new, pod))).collect();
    let mut known = BTreeSet::new();
    for rule in &new.near {
        known.extend(meant.iter().filter_map(|pod| Some((rule.key(), there(pod, rule.key())?))));
    }
    let labelled = new.near.iter().all(|rule| here(rule.key()).is_some());
    let near = new.near.iter().all(|rule| here(rule.key()).is_some_and(|value| known.contains(&(rule.key(), value))));
    let first = known.is_empty() && new.near.iter().all(|rule| rule.means(new, new));
    let together = |pod: &Someone, key: &str| here(key).is_some() && here(key) == there(pod, key);
    let avoided = pods().any(|pod| new.far.iter().any(|rule| rule.means(new, pod) && together(pod, rule.key())));
    let unwanted = pods().any(|pod| pod.far.iter().any(|rule| rule.means(pod, new) && together(pod, rule.key())));
    labelled
        && (near || first)
        && !avoided
        && !unwanted
        && new.spread.iter().all(|(rule, skew, least)| {
            let eligible = (0..zones.len())
                .filter(|node| new.spread.iter().all(|(r, _, _)| label(zones, *node, r.key()).is_some()));
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            for node in eligible {
                let count = pods()
                    .filter(|pod| pod.node == node && pod.app == rule.app && pod.namespace == new.namespace)
                    .count();
                if let Some(domain) = label(zones, node, rule.key()) {
                    *counts.entry(domain).or_default() += i64::try_from(count).expect("few pods");
                }
            }
            let minimum = if (counts.len() as i64) < *least { 0 } else { counts.values().copied().min().unwrap_or(0) };
            let itself = i64::from(new.app == rule.app);
            here(rule.key()).is_some_and(|value| counts.get(&value).copied().unwrap_or(0) + itself - minimum <= *skew)
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    (0..3usize, any::<bool>(), any::<bool>()).prop_map(|(app, zone, everywhere)| Rule { app, zone, everywhere })
}

fn someone() -> impl Strategy<Value = Someone> {
    let rules = || prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(rule(), 1..3)];
    let spread = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec((rule(), 1..3i64, 1..4i64), 1..3),
    ];
    (0..3usize, 0..2usize, 0..5usize, rules(), rules(), spread)
        .prop_map(|(app, namespace, node, near, far, spread)| Someone { app, namespace, node, near, far, spread })
}

fn named(pods: Vec<Someone>) -> Vec<(String, Someone)> {
    pods.into_iter().enumerate().map(|(n, pod)| (format!("p{n}"), pod)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn counts_say_what_a_look_at_every_pod_says(
        zones in prop::collection::vec(0..3usize, 5),
        pods in prop::collection::vec(someone(), 0..10),
        new in someone(),
    ) {
        let pods = named(pods);
        let mut cache = cluster(&zones, &pods);
        let (profile, pod) = (Profile::default(), PodInfo::new(new.pod("new", false)));
        let state = prepare(&pod, &mut cache, &NoObjects, &profile).expect("nothing concerns the pod alone");
        let cycle = Cycle { pod: &pod, cache: &cache, objects: &NoObjects, profile: &profile };
        for node in 0..zones.len() {
            let info = cache.node(&format!("n{node}")).expect("it was set");
            prop_assert_eq!(fits(&cycle, &state, info).is_ok(), allowed(&zones, &pods, &new, node), "node {}", node);
        }
    }

    #[test]
    fn what_preemption_tries_out_is_what_would_be(
        zones in prop::collection::vec(0..3usize, 5),
        pods in prop::collection::vec(someone(), 1..10),
        new in someone(),
        victims in prop::collection::vec(any::<bool>(), 10),
        node in 0..5usize,
    ) {
        let pods = named(pods);
        let mut cache = cluster(&zones, &pods);
        let (profile, pod) = (Profile::default(), PodInfo::new(new.pod("new", false)));
        let mut state = prepare(&pod, &mut cache, &NoObjects, &profile).expect("nothing concerns the pod alone");
        let cycle = Cycle { pod: &pod, cache: &cache, objects: &NoObjects, profile: &profile };
        let info = cache.node(&format!("n{node}")).expect("it was set");
        let mut without = info.clone();
        let leaves = |n: usize, other: &Someone| other.node == node && victims[n];
        for (_, (name, _)) in pods.iter().enumerate().filter(|(n, (_, other))| leaves(*n, other)) {
            if let Some(gone) = without.remove(name) {
                pod_removed(&cycle, &mut state, info, &gone);
            }
        }
        let left: Vec<(String, Someone)> =
            pods.iter().enumerate().filter(|(n, (_, other))| !leaves(*n, other)).map(|(_, pod)| pod.clone()).collect();
        prop_assert_eq!(fits(&cycle, &state, &without).is_ok(), allowed(&zones, &left, &new, node));
    }
}
