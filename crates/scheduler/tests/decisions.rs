//! Decisions on small clusters: which node, or upstream's words for why none.
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use pintle_scheduler::algorithm::{Profile, schedule};
use pintle_scheduler::cache::Cache;
use pintle_scheduler::framework::Objects;
use pintle_scheduler::plugins::Cycle;
use pintle_scheduler::pod_info::PodInfo;
use pintle_scheduler::preemption;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Default)]
struct World {
    claims: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
    csi_nodes: Vec<Arc<CSINode>>,
    budgets: Vec<Arc<PodDisruptionBudget>>,
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("an object of the API"))
}

impl Objects for World {
    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.iter().find(|claim| claim.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        let of_class = |volume: &&Arc<PersistentVolume>| {
            volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) == Some(class)
        };
        self.volumes.iter().filter(of_class).cloned().collect()
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.iter().find(|class| class.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        self.csi_nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn budgets(&self, _: &str) -> Vec<Arc<PodDisruptionBudget>> {
        self.budgets.clone()
    }
}

/// A cluster under test.
#[derive(Default)]
struct Cluster {
    cache: Cache,
    world: World,
    profile: Profile,
    pods: usize,
}

impl Cluster {
    /// Nodes with these labels (`key=value`, separated by commas), four cores each.
    fn of(nodes: &[(&str, &str)]) -> Self {
        let mut cluster = Cluster::default();
        for (name, labels) in nodes {
            cluster.node(name, labels, json!({}));
        }
        cluster
    }

    fn node(&mut self, name: &str, labels: &str, spec: Value) {
        let mut all = json!({ "kubernetes.io/hostname": name });
        for (key, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
            all[key] = value.into();
        }
        let status = json!({ "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "10" } });
        self.cache.set_node(&of::<Node>(
            json!({ "metadata": { "name": name, "labels": all }, "spec": spec, "status": status }),
        ));
    }

    /// A pod of an app; it is on `node`, if given.
    fn pod(&mut self, app: &str, node: Option<&str>, spec: Value) -> Arc<PodInfo> {
        self.pods += 1;
        let name = format!("{app}-{}", self.pods);
        let mut pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "labels": { "app": app } },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
            "status": { "startTime": format!("2026-01-01T00:00:{:02}Z", self.pods) },
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
            self.cache.set_pod(&of::<Pod>(pod.clone()));
        }
        Arc::new(PodInfo::new(of(pod)))
    }

    /// The node for `pod`, or the message.
    fn schedule(&mut self, pod: &PodInfo) -> Result<String, String> {
        let decided = schedule(pod, &mut self.cache, &self.world, &self.profile, &mut 0);
        decided.map(|decision| decision.node).map_err(|failure| failure.error.to_string())
    }

    /// The node and the victims of a preemption for `pod`, or the message.
    fn preempt(&mut self, pod: &PodInfo) -> Result<(String, Vec<String>), String> {
        let failure =
            schedule(pod, &mut self.cache, &self.world, &self.profile, &mut 0).expect_err("the pod fits nowhere");
        let cycle = Cycle { pod, cache: &self.cache, objects: &self.world, profile: &self.profile };
        match preemption::find(&cycle, &failure) {
            Ok(candidate) => Ok((candidate.node, candidate.victims.iter().map(|pod| pod.name().to_owned()).collect())),
            Err(refusal) => Err(refusal.message),
        }
    }
}

fn term(app: &str, key: &str) -> Value {
    json!({ "topologyKey": key, "labelSelector": { "matchLabels": { "app": app } } })
}

fn anti(app: &str, key: &str) -> Value {
    json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term(app, key)] } } })
}

fn near(app: &str, key: &str) -> Value {
    json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term(app, key)] } } })
}

fn spread(key: &str, more: Value) -> Value {
    let mut constraint = json!({ "topologyKey": key, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } } });
    for (key, value) in more.as_object().into_iter().flatten() {
        constraint[key] = value.clone();
    }
    json!({ "topologySpreadConstraints": [constraint] })
}

const HOST: &str = "kubernetes.io/hostname";

#[test]
fn each_node_says_why_it_will_not_do() {
    let mut cluster = Cluster::of(&[("full", "disk=ssd")]);
    cluster.node("cordoned", "disk=ssd", json!({ "unschedulable": true }));
    cluster.node("tainted", "disk=ssd", json!({ "taints": [{ "key": "k", "effect": "NoExecute" }] }));
    cluster.node("other", "", json!({}));
    for _ in 0..4 {
        cluster.pod("x", Some("full"), json!({}));
    }
    let pod = cluster.pod("web", None, json!({ "nodeSelector": { "disk": "ssd" } }));
    assert_eq!(
        cluster.schedule(&pod).unwrap_err(),
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector, \
         1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."
    );
    let tolerations = json!([{ "operator": "Exists" }]);
    let pod = cluster.pod("web", None, json!({ "nodeSelector": { "disk": "ssd" }, "tolerations": tolerations }));
    assert!(["cordoned", "tainted"].contains(&cluster.schedule(&pod).unwrap().as_str()));
}

#[test]
fn a_pod_of_a_daemon_goes_to_the_node_it_names() {
    let mut cluster = Cluster::of(&[("a", ""), ("b", "")]);
    let affinity = |name: &str| {
        let field = json!({ "key": "metadata.name", "operator": "In", "values": [name] });
        json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchFields": [field] }] } } } })
    };
    let pod = cluster.pod("d", None, affinity("b"));
    assert_eq!(cluster.schedule(&pod).unwrap(), "b");
    cluster.node("b", "", json!({ "unschedulable": true }));
    assert_eq!(
        cluster.schedule(&pod).unwrap_err(),
        "0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity], 1 node(s) were unschedulable."
    );
}

#[test]
fn host_ports_exclude_each_other_unless_their_addresses_differ() {
    let mut cluster = Cluster::of(&[("a", "")]);
    let port = |address: &str, protocol: &str| {
        let port = json!({ "containerPort": 80, "hostPort": 8080, "hostIP": address, "protocol": protocol });
        json!({ "containers": [{ "name": "c", "ports": [port] }] })
    };
    cluster.pod("x", Some("a"), port("127.0.0.1", "TCP"));
    for (address, protocol, fits) in [
        ("127.0.0.2", "TCP", true),
        ("127.0.0.1", "UDP", true),
        ("127.0.0.1", "TCP", false),
        ("", "TCP", false),
        ("0.0.0.0", "TCP", false),
    ] {
        let pod = cluster.pod("web", None, port(address, protocol));
        assert_eq!(cluster.schedule(&pod).is_ok(), fits, "{address} {protocol}");
    }
    let pod = cluster.pod("web", None, port("", "TCP"));
    let message = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(cluster.schedule(&pod).unwrap_err(), message);
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let mut cluster = Cluster::of(&[("a", ""), ("b", "")]);
    cluster.pod("db", Some("a"), anti("web", HOST));
    let web = cluster.pod("web", None, json!({}));
    assert_eq!(cluster.schedule(&web).unwrap(), "b", "the placed pod does not want it");
    cluster.pod("db", Some("b"), anti("web", HOST));
    assert_eq!(
        cluster.schedule(&web).unwrap_err(),
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let far = cluster.pod("x", None, anti("db", HOST));
    let message = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
    assert_eq!(cluster.schedule(&far).unwrap_err(), message);
}

#[test]
fn affinity_lets_the_first_of_a_kind_go_anywhere_with_the_label() {
    let mut cluster = Cluster::of(&[("a", "zone=1"), ("b", "zone=2"), ("c", "")]);
    let first = cluster.pod("web", None, near("web", "zone"));
    let node = cluster.schedule(&first).unwrap();
    assert_ne!(node, "c");
    cluster.pod("web", Some("b"), json!({}));
    for _ in 0..5 {
        assert_eq!(cluster.schedule(&first).unwrap(), "b");
    }
    let lonely = cluster.pod("x", None, near("nobody", "zone"));
    let message = "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.";
    assert_eq!(cluster.schedule(&lonely).unwrap_err(), message);
}

#[test]
fn namespaces_of_a_term_are_chosen_by_name_or_label() {
    let mut cluster = Cluster::of(&[("a", ""), ("b", "")]);
    let labels = |team: &str| [("team".to_owned(), team.to_owned())].into();
    cluster.cache.set_namespace("default", Some(&labels("blue")));
    cluster.pod("db", Some("a"), json!({}));
    let mut rule = anti("db", HOST);
    let selected = |team: &str, rule: &mut Value| {
        let required = "/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0";
        rule.pointer_mut(required).unwrap()["namespaceSelector"] = json!({ "matchLabels": { "team": team } });
    };
    selected("blue", &mut rule);
    let pod = cluster.pod("x", None, rule.clone());
    assert_eq!(cluster.schedule(&pod).unwrap(), "b");
    cluster.cache.set_namespace("default", Some(&labels("red")));
    cluster.pod(
        "full",
        Some("b"),
        json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": "4" } } }] }),
    );
    assert_eq!(cluster.schedule(&pod).unwrap(), "a", "the namespace is not meant any more");
}

#[test]
fn spreading_counts_domains_and_their_minimum() {
    let zones = [("a", "zone=1"), ("b", "zone=1"), ("c", "zone=2"), ("d", "")];
    let mut cluster = Cluster::of(&zones);
    cluster.pod("web", Some("a"), json!({}));
    let pod = cluster.pod("web", None, spread("zone", json!({})));
    assert_eq!(cluster.schedule(&pod).unwrap(), "c");
    let pod = cluster.pod("web", None, spread("zone", json!({ "minDomains": 3, "maxSkew": 1 })));
    assert_eq!(cluster.schedule(&pod).unwrap(), "c", "too few domains: the minimum is zero");
    cluster.pod("web", Some("c"), json!({}));
    assert_eq!(
        cluster.schedule(&pod).unwrap_err(),
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
         3 node(s) didn't match pod topology spread constraints."
    );
}

#[test]
fn spreading_leaves_out_nodes_that_the_pod_cannot_use_if_told_to() {
    let mut cluster = Cluster::of(&[("a", "zone=1,pool=x"), ("b", "zone=2,pool=y")]);
    cluster.node("c", "zone=3,pool=x", json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] }));
    cluster.pod("web", Some("a"), json!({}));
    let with = |more: Value| {
        let mut spec = spread("zone", more);
        spec["nodeSelector"] = json!({ "pool": "x" });
        spec
    };
    let pod = cluster.pod("web", None, with(json!({ "nodeTaintsPolicy": "Honor" })));
    assert_eq!(cluster.schedule(&pod).unwrap(), "a", "only zone 1 counts");
    let pod = cluster.pod("web", None, with(json!({})));
    assert!(cluster.schedule(&pod).is_err(), "by default the empty zone of a tainted node counts");
    let pod = cluster.pod("web", None, with(json!({ "nodeTaintsPolicy": "Honor", "nodeAffinityPolicy": "Ignore" })));
    assert!(cluster.schedule(&pod).is_err(), "the empty zone of another pool counts if affinity is ignored");
}

#[test]
fn spreading_with_match_label_keys_counts_only_the_same_revision() {
    let mut cluster = Cluster::of(&[("a", "zone=1"), ("b", "zone=2")]);
    cluster.pod("web", Some("a"), json!({}));
    let pod = cluster.pod("web", None, spread("zone", json!({ "labelSelector": {}, "matchLabelKeys": ["app"] })));
    assert_eq!(cluster.schedule(&pod).unwrap(), "b");
}

#[test]
fn preferences_decide_among_nodes_that_will_do() {
    let mut cluster = Cluster::of(&[("a", "disk=ssd"), ("b", ""), ("c", "")]);
    let preference = json!([{ "weight": 5, "preference": { "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["ssd"] }] } }]);
    let affinity = json!({ "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preference } });
    let pod = cluster.pod("web", None, json!({ "affinity": affinity }));
    assert_eq!(cluster.schedule(&pod).unwrap(), "a");
    cluster.pod("db", Some("c"), json!({ "containers": [{ "name": "c" }] }));
    let wish = json!([{ "weight": 100, "podAffinityTerm": term("db", HOST) }]);
    let affinity = json!({ "podAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": wish } });
    let pod = cluster.pod("web", None, json!({ "affinity": affinity }));
    assert_eq!(cluster.schedule(&pod).unwrap(), "c");
}

#[test]
fn the_strategy_packs_or_spreads() {
    let mut cluster = Cluster::of(&[("a", ""), ("b", "")]);
    cluster.pod("x", Some("a"), json!({}));
    let pod = cluster.pod("web", None, json!({}));
    assert_eq!(cluster.schedule(&pod).unwrap(), "b");
    cluster.profile.resources.strategy = pintle_scheduler::plugins::node_resources::Strategy::MostAllocated;
    cluster.profile.scores.retain(|(plugin, _)| plugin.name() == "NodeResourcesFit");
    assert_eq!(cluster.schedule(&pod).unwrap(), "a");
}

#[test]
fn claims_decide_where_a_pod_can_be() {
    let mut cluster = Cluster::of(&[("a", ""), ("b", "")]);
    let volumes = json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }] });
    let pod = cluster.pod("web", None, volumes);
    let message = "0/2 nodes are available: persistentvolumeclaim \"data\" not found.";
    assert_eq!(cluster.schedule(&pod).unwrap_err(), message);
    let claim = |class: &str| {
        let spec = json!({ "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
        of::<PersistentVolumeClaim>(json!({ "metadata": { "name": "data", "namespace": "default" }, "spec": spec }))
    };
    let class = |name: &str, provisioner: &str, mode: &str| {
        of::<StorageClass>(
            json!({ "metadata": { "name": name }, "provisioner": provisioner, "volumeBindingMode": mode }),
        )
    };
    cluster.world.classes = vec![
        class("now", "p", "Immediate"),
        class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        class("made", "p", "WaitForFirstConsumer"),
    ];
    cluster.world.claims = vec![claim("now")];
    assert!(cluster.schedule(&pod).unwrap_err().contains("pod has unbound immediate PersistentVolumeClaims."));
    cluster.world.claims = vec![claim("local")];
    let message = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    assert_eq!(cluster.schedule(&pod).unwrap_err(), message);
    let on = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [{ "key": HOST, "operator": "In", "values": ["b"] }] }] } });
    let spec = json!({ "capacity": { "storage": "2Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "nodeAffinity": on });
    let volume = json!({ "metadata": { "name": "pv" }, "spec": spec, "status": { "phase": "Available" } });
    cluster.world.volumes = vec![of(volume)];
    assert_eq!(cluster.schedule(&pod).unwrap(), "b");
    cluster.world.claims = vec![claim("made")];
    assert!(cluster.schedule(&pod).is_ok());
}

#[test]
fn a_driver_takes_no_more_volumes_than_it_says() {
    let mut cluster = Cluster::of(&[("a", "")]);
    let driver = json!({ "name": "d", "nodeID": "a", "allocatable": { "count": 1 } });
    cluster.world.csi_nodes = vec![of(json!({ "metadata": { "name": "a" }, "spec": { "drivers": [driver] } }))];
    for name in ["one", "two"] {
        let spec = json!({ "csi": { "driver": "d", "volumeHandle": name } });
        cluster.world.volumes.push(of(json!({ "metadata": { "name": name }, "spec": spec })));
        let meta = json!({ "name": name, "annotations": { "pv.kubernetes.io/bind-completed": "yes" } });
        cluster.world.claims.push(of(json!({ "metadata": meta, "spec": { "volumeName": name } })));
    }
    let with = |name: &str| json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": name } }] });
    cluster.pod("x", Some("a"), with("one"));
    let same = cluster.pod("web", None, with("one"));
    assert!(cluster.schedule(&same).is_ok(), "a volume counts once");
    let other = cluster.pod("web", None, with("two"));
    assert_eq!(cluster.schedule(&other).unwrap_err(), "0/1 nodes are available: 1 node(s) exceed max volume count.");
}

#[test]
fn preemption_takes_the_least_important_pods_that_suffice() {
    let mut cluster = Cluster::of(&[("a", ""), ("b", "")]);
    let lower = |priority: i32| json!({ "priority": priority });
    for priority in [1, 2, 3, 1] {
        cluster.pod("low", Some("a"), lower(priority));
    }
    for priority in [1, 5, 5, 5] {
        cluster.pod("low", Some("b"), lower(priority));
    }
    let pod = cluster.pod("vip", None, json!({ "priority": 10 }));
    // Both nodes would lose a pod of priority 1; the younger one has run for less time.
    assert_eq!(cluster.preempt(&pod).unwrap(), ("b".into(), vec!["low-5".into()]));
    let big = json!({ "priority": 10, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "3" } } }] });
    let pod = cluster.pod("vip", None, big);
    assert_eq!(cluster.preempt(&pod).unwrap(), ("a".into(), vec!["low-2".into(), "low-1".into(), "low-4".into()]));
}

#[test]
fn preemption_says_why_it_does_not_help() {
    let mut cluster = Cluster::of(&[("a", "")]);
    cluster.node("b", "", json!({ "unschedulable": true }));
    cluster.node("c", "", json!({}));
    for node in ["a", "c"] {
        for _ in 0..4 {
            cluster.pod("x", Some(node), json!({ "priority": if node == "a" { 5 } else { 0 } }));
        }
    }
    cluster.pod(
        "keep",
        Some("c"),
        json!({ "priority": 5, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "3500m" } } }] }),
    );
    let pod = cluster.pod("web", None, json!({ "priority": 5 }));
    assert_eq!(
        cluster.preempt(&pod).unwrap_err(),
        "0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, \
         1 Preemption is not helpful for scheduling."
    );
    let never = cluster.pod("web", None, json!({ "priority": 9, "preemptionPolicy": "Never" }));
    assert_eq!(cluster.preempt(&never).unwrap_err(), "not eligible due to preemptionPolicy=Never.");
}

#[test]
fn preemption_respects_budgets_where_it_can() {
    let mut cluster = Cluster::of(&[("a", ""), ("b", "")]);
    for node in ["a", "b"] {
        for _ in 0..4 {
            cluster.pod(if node == "a" { "guarded" } else { "free" }, Some(node), json!({ "priority": 1 }));
        }
    }
    let spec = json!({ "selector": { "matchLabels": { "app": "guarded" } } });
    let status = json!({ "disruptionsAllowed": 0, "currentHealthy": 4, "desiredHealthy": 4, "expectedPods": 4 });
    let budget = json!({ "metadata": { "name": "b", "namespace": "default" }, "spec": spec, "status": status });
    cluster.world.budgets = vec![of(budget)];
    let pod = cluster.pod("vip", None, json!({ "priority": 10 }));
    assert_eq!(cluster.preempt(&pod).unwrap().0, "b");
}

#[test]
fn preemption_frees_a_domain_of_a_spread_constraint_and_of_anti_affinity() {
    let mut cluster = Cluster::of(&[("a", "zone=1"), ("b", "zone=2")]);
    cluster.pod("web", Some("a"), json!({ "priority": 1 }));
    cluster.pod(
        "full",
        Some("b"),
        json!({ "priority": 100, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "4" } } }] }),
    );
    let mut spec = spread("zone", json!({}));
    spec["priority"] = 10.into();
    let pod = cluster.pod("web", None, spec);
    assert_eq!(cluster.preempt(&pod).unwrap(), ("a".into(), vec!["web-1".into()]));
    let mut spec = anti("web", "zone");
    spec["priority"] = 10.into();
    let pod = cluster.pod("db", None, spec);
    assert_eq!(cluster.preempt(&pod).unwrap(), ("a".into(), vec!["web-1".into()]));
}

#[test]
fn room_that_a_pod_waits_for_is_not_taken_by_a_lesser_one() {
    let mut cluster = Cluster::of(&[("a", "")]);
    let big = |priority: i32| json!({ "priority": priority, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "3" } } }] });
    let vip = cluster.pod("vip", None, big(10));
    cluster.cache.nominations.set(vip.clone(), "a");
    let lesser = cluster.pod("web", None, big(5));
    assert_eq!(cluster.schedule(&lesser).unwrap_err(), "0/1 nodes are available: 1 Insufficient cpu.");
    let greater = cluster.pod("web", None, big(20));
    assert!(cluster.schedule(&greater).is_ok());
    assert!(cluster.schedule(&vip).is_ok(), "its own room");
}
