//! The cache follows the cluster; after any changes it equals one that was filled afresh.
use super::*;
use crate::pod_info::PodMatcher;
use crate::selector::{NodeRequirement, Selector};
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

fn node(name: &str, cpu: &str) -> Arc<Node> {
    let status = json!({ "allocatable": { "cpu": cpu, "pods": "10" } });
    Arc::new(serde_json::from_value(json!({ "metadata": { "name": name }, "status": status })).unwrap())
}

fn pod(uid: &str, node: &str, phase: &str) -> Arc<Pod> {
    let container = json!({ "name": "c", "resources": { "requests": { "cpu": "100m" } } });
    let spec = json!({ "nodeName": node, "containers": [container] });
    let meta = json!({ "uid": uid, "name": uid });
    Arc::new(serde_json::from_value(json!({ "metadata": meta, "spec": spec, "status": { "phase": phase } })).unwrap())
}

#[test]
fn sums_follow_pods_as_they_come_end_and_go() {
    let mut cache = Cache::default();
    cache.set_pod(&pod("a", "n", "Running"));
    cache.tidy();
    assert_eq!(cache.nodes().count(), 0, "a node known only from its pods takes none");
    cache.set_node(&node("n", "2"));
    cache.set_pod(&pod("b", "n", "Running"));
    cache.set_pod(&pod("b", "n", "Running"));
    assert_eq!(cache.node("n").unwrap().requested.milli_cpu, 200);
    cache.set_pod(&pod("b", "n", "Succeeded"));
    assert_eq!(cache.node("n").unwrap().requested.milli_cpu, 100);
    cache.remove_pod("a");
    assert!(cache.node("n").unwrap().requested.is_zero());
}

#[test]
fn an_assumption_holds_until_it_is_confirmed_or_forgotten() {
    let mut cache = Cache::default();
    cache.set_node(&node("n", "2"));
    cache.assume(Arc::new(PodInfo::new(pod("a", "", ""))), "n");
    assert_eq!(cache.node("n").unwrap().pods.len(), 1);
    cache.set_pod(&pod("a", "n", "Pending"));
    cache.forget("a");
    assert_eq!(cache.node("n").unwrap().pods.len(), 1, "confirmed: it stays");
    cache.assume(Arc::new(PodInfo::new(pod("b", "", ""))), "n");
    cache.forget("b");
    assert_eq!(cache.node("n").unwrap().pods.len(), 1);
}

#[test]
fn nodes_are_visited_zone_by_turns() {
    let mut cache = Cache::default();
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")] {
        let labels = json!({ "topology.kubernetes.io/zone": zone });
        let node = json!({ "metadata": { "name": name, "labels": labels } });
        cache.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
    }
    cache.tidy();
    let order: Vec<&str> = cache.nodes().map(NodeInfo::name).collect();
    assert_eq!(order, ["a1", "b1", "c1", "a2", "a3"]);
}

/// Something that happens to the cluster.
#[derive(Clone, Debug)]
enum Change {
    Node {
        name: usize,
        zone: usize,
        tainted: bool,
        image: usize,
    },
    NoNode(usize),
    Pod {
        uid: usize,
        node: usize,
        app: usize,
        anti: bool,
        leaving: bool,
        ended: bool,
    },
    NoPod(usize),
    Assume {
        uid: usize,
        node: usize,
        app: usize,
    },
    Forget(usize),
    Namespace(usize),
    /// A decision makes the cache count something from now on.
    Ask(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..4usize, 0..3usize, any::<bool>(), 0..3usize).prop_map(|(name, zone, tainted, image)| Change::Node {
            name,
            zone,
            tainted,
            image
        }),
        (0..4usize).prop_map(Change::NoNode),
        (0..8usize, 0..5usize, 0..3usize, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(uid, node, app, anti, leaving, ended)| Change::Pod {
                uid,
                node,
                app,
                anti,
                leaving,
                ended: ended && leaving
            }
        ),
        (0..8usize).prop_map(Change::NoPod),
        (8..12usize, 0..4usize, 0..3usize).prop_map(|(uid, node, app)| Change::Assume { uid, node, app }),
        (8..12usize).prop_map(Change::Forget),
        (0..3usize).prop_map(Change::Namespace),
        (0..4usize).prop_map(Change::Ask),
    ]
}

fn question(number: usize) -> Question {
    let app = |app: &str| Selector::of_labels([(&"app".to_owned(), &app.to_owned())]);
    let matcher = match number {
        0 => PodMatcher::in_namespace("default", app("a0")),
        1 => PodMatcher::in_namespace("default", Selector::default()),
        2 => PodMatcher {
            namespaces: vec![],
            namespace_selector: Some(Selector::of_labels([(&"team".to_owned(), &"t1".to_owned())])),
            selector: Some(app("a1")),
        },
        _ => PodMatcher { namespaces: vec!["default".into()], namespace_selector: None, selector: None },
    };
    Question { all_of: vec![matcher], leaving: number.is_multiple_of(2) }
}

fn requirement() -> Arc<NodeRequirement> {
    let spec = json!({ "containers": [], "nodeSelector": { "topology.kubernetes.io/zone": "z1" } });
    Arc::new(NodeRequirement::of_pod(&serde_json::from_value(spec).unwrap()).unwrap())
}

fn some_node(name: usize, zone: usize, tainted: bool, image: usize) -> Arc<Node> {
    let labels = match zone {
        0 => json!({}),
        zone => json!({ "topology.kubernetes.io/zone": format!("z{zone}") }),
    };
    let taints = if tainted { json!([{ "key": "k", "effect": "NoSchedule" }]) } else { json!([]) };
    let images = json!([{ "names": [format!("image{image}")], "sizeBytes": 100 }]);
    let status = json!({ "allocatable": { "cpu": "4", "pods": "10" }, "images": images });
    let node = json!({ "metadata": { "name": format!("n{name}"), "labels": labels }, "spec": { "taints": taints }, "status": status });
    Arc::new(serde_json::from_value(node).unwrap())
}

fn some_pod(uid: usize, node: Option<usize>, app: usize, anti: bool, leaving: bool, ended: bool) -> Arc<Pod> {
    let labels = json!({ "app": format!("a{app}") });
    let term = json!({ "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": labels } });
    let required = json!([term]);
    let affinity = json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } });
    let mut pod = json!({
        "metadata": { "uid": format!("u{uid}"), "name": format!("p{uid}"), "namespace": "default", "labels": labels },
        "spec": {
            "containers": [{ "name": "c", "resources": { "requests": { "cpu": format!("{}m", 100 * (app + 1)) } },
                "ports": [{ "containerPort": 80, "hostPort": 8000 + app }] }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": format!("c{app}") } }],
        },
        "status": { "phase": if ended { "Failed" } else { "Running" } },
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = format!("n{node}").into();
    }
    if anti {
        pod["spec"]["affinity"] = affinity;
    }
    if leaving {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// What the world looks like after some changes.
#[derive(Default)]
struct World {
    nodes: BTreeMap<usize, Arc<Node>>,
    pods: BTreeMap<usize, Arc<Pod>>,
    assumed: BTreeMap<usize, (Arc<Pod>, usize)>,
    team: Option<usize>,
}

fn set_team(cache: &mut Cache, team: usize) {
    cache.set_namespace("default", Some(&Labels::from([("team".into(), format!("t{team}"))])));
}

/// Everything that a decision could read, by names.
fn facts(cache: &mut Cache) -> BTreeMap<String, String> {
    cache.tidy();
    let mut facts = BTreeMap::new();
    let counters: Vec<_> = (0..4).map(|number| cache.counter(question(number))).collect();
    let zone = cache.topology_key("topology.kubernetes.io/zone");
    let slots = cache.slots();
    let requirement = cache.requirements.of(&requirement(), slots);
    let names: BTreeMap<usize, String> = cache.by_name.iter().map(|(name, slot)| (*slot, name.clone())).collect();
    for (slot, name) in &names {
        let node = cache.slot(*slot);
        let pods: BTreeSet<&str> = node.pods.iter().map(|pod| pod.uid()).collect();
        let mut ports = node.ports.clone();
        ports.sort();
        let counts: Vec<i64> = counters.iter().map(|counter| cache.counters.count(*counter, *slot)).collect();
        let same_zone: BTreeSet<&String> = names
            .iter()
            .filter(|(other, _)| cache.topology.domain(zone, **other).is_some())
            .filter(|(other, _)| cache.topology.domain(zone, **other) == cache.topology.domain(zone, *slot))
            .map(|(_, name)| name)
            .collect();
        let taints = node.node.is_some().then(|| &cache.taint_lists[node.taint_list]);
        let meets = node.node.is_some() && cache.requirements.met(requirement, node);
        let amounts = (node.requested.milli_cpu, node.non_zero.memory, node.allocatable.milli_cpu, node.allowed_pods);
        facts.insert(
            format!("node {name}"),
            format!(
                "{} {pods:?} {ports:?} {counts:?} {same_zone:?} {taints:?} {meets} {amounts:?}",
                node.node.is_some()
            ),
        );
    }
    for (term, holders) in cache.rules.forbidden() {
        let holders: BTreeMap<&String, &u32> = holders.iter().map(|(slot, count)| (&names[slot], count)).collect();
        facts.insert(format!("rule {term:?}"), format!("{holders:?}"));
    }
    for image in 0..3 {
        let nodes = cache.images.get(&format!("image{image}")).map(|image| &image.nodes);
        let nodes: BTreeSet<&String> = nodes.into_iter().flatten().map(|slot| &names[slot]).collect();
        facts.insert(format!("image {image}"), format!("{nodes:?}"));
    }
    facts.insert("claims".into(), format!("{:?}", cache.claims.iter().collect::<BTreeMap<_, _>>()));
    let order: BTreeSet<&str> = cache.nodes().map(NodeInfo::name).collect();
    facts.insert("order".into(), format!("{order:?}"));
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn after_any_changes_the_cache_equals_one_filled_afresh(changes in prop::collection::vec(change(), 0..60)) {
        let (mut cache, mut world) = (Cache::default(), World::default());
        for change in changes {
            match change {
                Change::Node { name, zone, tainted, image } => {
                    let node = some_node(name, zone, tainted, image);
                    cache.set_node(&node);
                    world.nodes.insert(name, node);
                }
                Change::NoNode(name) => {
                    cache.remove_node(&format!("n{name}"));
                    world.nodes.remove(&name);
                }
                Change::Pod { uid, node, app, anti, leaving, ended } => {
                    let pod = some_pod(uid, Some(node), app, anti, leaving, ended);
                    cache.set_pod(&pod);
                    // What is fixed once a pod has its node stays as it was.
                    let known = world.pods.get(&uid).filter(|known| {
                        !ended && bound_node(known) == bound_node(&pod) && PodInfo::new((*known).clone()).counts_like(&pod)
                    });
                    let kept = match known {
                        Some(known) => known.clone(),
                        None => pod,
                    };
                    if ended {
                        world.pods.remove(&uid);
                    } else {
                        world.pods.insert(uid, kept);
                    }
                }
                Change::NoPod(uid) => {
                    cache.remove_pod(&format!("u{uid}"));
                    world.pods.remove(&uid);
                }
                Change::Assume { uid, node, app } => {
                    let pod = some_pod(uid, None, app, true, false, false);
                    cache.assume(Arc::new(PodInfo::new(pod.clone())), &format!("n{node}"));
                    world.assumed.insert(uid, (pod, node));
                }
                Change::Forget(uid) => {
                    cache.forget(&format!("u{uid}"));
                    world.assumed.remove(&uid);
                }
                Change::Namespace(team) => {
                    set_team(&mut cache, team);
                    world.team = Some(team);
                }
                Change::Ask(number) => {
                    cache.tidy();
                    cache.counter(question(number));
                    cache.topology_key("topology.kubernetes.io/zone");
                    let slots = cache.slots();
                    let id = cache.requirements.of(&requirement(), slots);
                    for node in cache.nodes() {
                        cache.requirements.met(id, node);
                    }
                }
            }
        }
        let mut fresh = Cache::default();
        if let Some(team) = world.team {
            set_team(&mut fresh, team);
        }
        world.nodes.values().for_each(|node| fresh.set_node(node));
        world.pods.values().for_each(|pod| fresh.set_pod(pod));
        for (pod, node) in world.assumed.values() {
            fresh.assume(Arc::new(PodInfo::new(pod.clone())), &format!("n{node}"));
        }
        prop_assert_eq!(facts(&mut cache), facts(&mut fresh));
    }
}
