//! What to do about a DaemonSet: [`plan`] is a pure function of it, its current revision, the nodes and its pods.
//! (upstream: pkg/controller/daemon)
use crate::claim::{controller_ref, name, namespace};
use crate::controller_revision::HASH_LABEL;
use crate::int_or_percent::scaled;
use crate::node_selector::{allows, tolerates};
use crate::pod_control::from_template;
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use std::collections::HashMap;
use std::sync::Arc;

const NAME_FIELD: &str = "metadata.name";
/// Taints that every daemon tolerates: key, effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods to make, each for one node.
    pub create: Vec<Pod>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Failed pods to delete, and on which node they failed.
    pub failed: Vec<(Arc<Pod>, String)>,
    /// The status as observed.
    pub status: DaemonSetStatus,
}

/// The node that the pod runs on or is meant for.
pub fn target_node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    names.find_map(|field| field.values.as_ref()?.first()).map(String::as_str)
}

fn pod_spec(set: &DaemonSet) -> PodSpec {
    let mut spec = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.iter().chain(host_network.then_some(&NETWORK_UNAVAILABLE)) {
        let added = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&added) {
            tolerations.push(added);
        }
    }
    spec
}

/// (should a pod run on the node, may one that runs stay)
fn belongs(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let wanted = spec.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name(node));
    if !wanted || !allows(spec, node) {
        return (false, false);
    }
    let taints = || node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerated = |effects: &[&str]| {
        let mut against = taints().filter(|taint| effects.contains(&taint.effect.as_str()));
        against.all(|taint| spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint)))
    };
    (tolerated(&["NoSchedule", "NoExecute"]), tolerated(&["NoExecute"]))
}

/// A pod for one node: it goes through the scheduler, which finds that node only.
fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = from_template(&template, namespace(set), controller_ref(set));
    let mut spec = pod_spec(set);
    let only = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut NodeAffinity =
        spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_default();
    let required =
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![only.clone()]);
    }
    pod.spec = Some(spec);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = set.metadata.generation {
        labels.insert("pod-template-generation".to_owned(), generation.to_string());
    }
    pod
}

/// (how many pods may be unavailable, how many extra may run) of `desired`.
fn budget(set: &DaemonSet, desired: i32) -> Option<(i32, i32)> {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let surge = scaled(rolling.max_surge.as_ref(), desired, true);
    let unavailable = rolling.max_unavailable.as_ref().map_or(1, |value| scaled(Some(value), desired, true));
    Some(if surge == 0 { (unavailable.max(1), 0) } else { (unavailable, surge) })
}

/// Decides about `set` with its pods `owned`; `hash` names its current template.
pub fn plan(set: &DaemonSet, hash: &str, nodes: &[Arc<Node>], owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let spec = pod_spec(set);
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let mut by_node: HashMap<&str, Vec<&Arc<Pod>>> = HashMap::new();
    for pod in owned {
        if let Some(node) = target_node(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let available = |pod: &Pod| pods::is_available(pod, min_ready, now) && !pods::is_deleting(pod);
    let current =
        |pod: &Pod| pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).is_some_and(|is| is == hash);
    let mut status = DaemonSetStatus { observed_generation: set.metadata.generation, ..DaemonSetStatus::default() };
    let (mut ready, mut well, mut updated) = (0, 0, 0);
    let mut outdated: Vec<(&str, Vec<&Arc<Pod>>)> = Vec::new();
    let mut unavailable = 0;
    for node in nodes {
        let (should_run, may_stay) = belongs(&spec, node);
        let mine = by_node.remove(name(node.as_ref())).unwrap_or_default();
        let mut alive: Vec<&Arc<Pod>> = Vec::new();
        for pod in &mine {
            if pods::is_deleting(pod) {
                continue;
            }
            if pods::is_terminal(pod) {
                plan.failed.push(((*pod).clone(), name(node.as_ref()).to_owned()));
            } else {
                alive.push(pod);
            }
        }
        if should_run {
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!mine.is_empty());
            ready += i32::from(mine.iter().any(|pod| pods::is_ready(pod)));
            let is_well = mine.iter().any(|pod| available(pod));
            well += i32::from(is_well);
            unavailable += i32::from(!is_well);
            updated += i32::from(mine.iter().any(|pod| current(pod)));
        } else if !mine.is_empty() {
            status.number_misscheduled += 1;
        }
        if !may_stay {
            plan.delete.extend(alive.into_iter().cloned());
            continue;
        }
        if should_run && mine.iter().all(|pod| pods::is_terminal(pod) && pods::is_deleting(pod)) {
            plan.create.push(pod_for(set, name(node.as_ref()), hash));
            continue;
        }
        // Of several pods of one template the oldest stays.
        alive.sort_by_key(|pod| (!current(pod), pod.metadata.creation_timestamp.as_ref().map(|time| time.0)));
        let extra: Vec<_> = alive.iter().filter(|pod| current(pod)).skip(1).map(|pod| (*pod).clone()).collect();
        plan.delete.extend(extra);
        if should_run && alive.iter().any(|pod| !current(pod)) {
            outdated.push((name(node.as_ref()), alive));
        }
    }
    // Pods of nodes that are gone belong to the pod garbage collector.
    if let Some((may_miss, surge)) = budget(set, status.desired_number_scheduled) {
        update(set, hash, outdated, (unavailable, may_miss, surge), &available, &current, &mut plan);
    }
    status.number_ready = ready;
    status.number_available = Some(well).filter(|count| *count != 0);
    status.number_unavailable = Some(status.desired_number_scheduled - well).filter(|count| *count != 0);
    status.updated_number_scheduled = Some(updated).filter(|count| *count != 0);
    let before = set.status.clone().unwrap_or_default();
    status.collision_count = before.collision_count;
    status.conditions = before.conditions;
    plan.status = status;
    plan
}

/// One step of a rolling update. Without surge: unavailable old pods go at once, available ones within the budget. With
/// surge: a new pod starts beside the old one, which goes when the new one is available.
fn update(
    set: &DaemonSet,
    hash: &str,
    outdated: Vec<(&str, Vec<&Arc<Pod>>)>,
    (mut missing, may_miss, surge): (i32, i32, i32),
    available: &dyn Fn(&Pod) -> bool,
    current: &dyn Fn(&Pod) -> bool,
    plan: &mut Plan,
) {
    let mut surging = outdated.iter().filter(|(_, alive)| alive.iter().any(|pod| current(pod))).map(|_| 1).sum::<i32>();
    for (node, alive) in outdated {
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = alive.into_iter().partition(|pod| current(pod));
        let old_serves = old.iter().any(|pod| available(pod));
        if surge == 0 || !old_serves {
            if old_serves && missing >= may_miss {
                continue;
            }
            missing += i32::from(old_serves);
            plan.delete.extend(old.into_iter().cloned());
        } else if new.iter().any(|pod| available(pod)) {
            plan.delete.extend(old.into_iter().cloned());
        } else if new.is_empty() && surging < surge {
            surging += 1;
            plan.create.push(pod_for(set, node, hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(extra: Value) -> DaemonSet {
        let mut spec = json!({
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c"}], "nodeSelector": {"os": "linux"}}},
        });
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "ns", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn node(named: &str, taint: Option<&str>) -> Arc<Node> {
        let taints: Vec<_> = taint.into_iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        let json = json!({"metadata": {"name": named, "labels": {"os": "linux"}}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(json).unwrap())
    }

    fn running(mut pod: Pod, number: usize, ready: bool) -> Arc<Pod> {
        pod.metadata.name = Some(format!("d-{number}"));
        let node = target_node(&pod).map(ToOwned::to_owned);
        pod.spec.as_mut().unwrap().node_name = node;
        let ready = if ready { "True" } else { "False" };
        pod.status =
            serde_json::from_value(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}))
                .unwrap();
        Arc::new(pod)
    }

    fn decide(set: &DaemonSet, hash: &str, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
        plan(set, hash, nodes, pods, Timestamp::UNIX_EPOCH)
    }

    fn rolled_out(set: &DaemonSet, nodes: &[Arc<Node>]) -> Vec<Arc<Pod>> {
        let made = decide(set, "one", nodes, &[]).create;
        made.into_iter().enumerate().map(|(number, pod)| running(pod, number, true)).collect()
    }

    #[test]
    fn every_node_that_fits_gets_one_pod_also_a_cordoned_one() {
        let nodes =
            [node("a", None), node("b", Some("node.kubernetes.io/unschedulable")), node("c", Some("dedicated"))];
        let pods = rolled_out(&set(json!({})), &nodes);
        assert_eq!(pods.iter().map(|pod| target_node(pod).unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        let settled = decide(&set(json!({})), "one", &nodes, &pods);
        assert!(settled.create.is_empty() && settled.delete.is_empty());
        assert_eq!((settled.status.desired_number_scheduled, settled.status.number_ready), (2, 2));
    }

    #[test]
    fn a_failed_pod_is_deleted_and_a_node_that_no_longer_fits_is_left() {
        let nodes = [node("a", None)];
        let mut failed = rolled_out(&set(json!({})), &nodes)[0].as_ref().clone();
        failed.status.as_mut().unwrap().phase = Some("Failed".into());
        assert_eq!(decide(&set(json!({})), "one", &nodes, &[Arc::new(failed)]).failed.len(), 1);
        let mut other = nodes[0].as_ref().clone();
        other.metadata.labels = None;
        let pods = rolled_out(&set(json!({})), &nodes);
        let moved = decide(&set(json!({})), "one", &[Arc::new(other)], &pods);
        assert_eq!((moved.delete.len(), moved.status.number_misscheduled), (1, 1));
    }

    #[test]
    fn a_rolling_update_takes_as_many_pods_as_may_be_missing() {
        let nodes = [node("a", None), node("b", None), node("c", None)];
        let pods = rolled_out(&set(json!({})), &nodes);
        assert_eq!(decide(&set(json!({})), "two", &nodes, &pods).delete.len(), 1);
        let one_down = [pods[0].clone(), pods[1].clone(), running(pods[2].as_ref().clone(), 2, false)];
        let next = decide(&set(json!({})), "two", &nodes, &one_down);
        assert_eq!(next.delete.len(), 1, "the one that serves nobody");
        assert_eq!(name(next.delete[0].as_ref()), "d-2");
        assert!(decide(&set(json!({"updateStrategy": {"type": "OnDelete"}})), "two", &nodes, &pods).delete.is_empty());
    }

    #[test]
    fn with_surge_the_new_pod_starts_before_the_old_one_goes() {
        let surging = set(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
        let nodes = [node("a", None), node("b", None)];
        let mut pods = rolled_out(&surging, &nodes);
        let first = decide(&surging, "two", &nodes, &pods);
        assert_eq!((first.create.len(), first.delete.len()), (1, 0));
        pods.push(running(first.create[0].clone(), 9, true));
        assert_eq!(decide(&surging, "two", &nodes, &pods).delete.len(), 1);
    }
}
