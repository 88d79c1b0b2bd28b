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
    /// Ended pods to delete, and on which node they ended.
    pub ended: Vec<(Arc<Pod>, String)>,
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

/// The generation of the template, which older clients count pods by.
fn template_generation(set: &DaemonSet) -> Option<String> {
    let number = set.metadata.annotations.as_ref()?.get("deprecated.daemonset.template.generation")?;
    number.parse::<i64>().ok().map(|number| number.to_string())
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
    if let Some(generation) = template_generation(set) {
        labels.insert("pod-template-generation".to_owned(), generation);
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
    // Both zero would never get on.
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
    let available = |pod: &Pod| pods::is_available(pod, min_ready, now);
    let generation = template_generation(set);
    let current = |pod: &Pod| {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        label(HASH_LABEL).is_some_and(|is| is == hash)
            || generation.is_some() && label("pod-template-generation") == generation.as_ref()
    };
    let mut status = DaemonSetStatus { observed_generation: set.metadata.generation, ..DaemonSetStatus::default() };
    let (mut ready, mut well, mut updated) = (0, 0, 0);
    let mut running: Vec<OnNode<'_>> = Vec::new();
    for node in nodes {
        let (should_run, may_stay) = belongs(&spec, node);
        let mut mine = by_node.remove(name(node.as_ref())).unwrap_or_default();
        // Of pods that end nothing is left to wait for.
        mine.retain(|pod| !(pods::is_terminal(pod) && pods::is_deleting(pod)));
        mine.sort_by_key(|pod| {
            let unscheduled = pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none());
            (unscheduled, pod.metadata.creation_timestamp.as_ref().map(|time| time.0), name(pod.as_ref()).to_owned())
        });
        if should_run {
            status.desired_number_scheduled += 1;
            if let Some(oldest) = mine.first() {
                status.current_number_scheduled += 1;
                ready += i32::from(pods::is_ready(oldest));
                well += i32::from(available(oldest));
                updated += i32::from(current(oldest));
            }
        } else if !mine.is_empty() {
            status.number_misscheduled += 1;
        }
        manage(set, name(node.as_ref()), hash, (should_run, may_stay), &mine, (&current, &available), &mut plan);
        if !mine.is_empty() {
            let alive = mine.into_iter().filter(|pod| !pods::is_deleting(pod)).collect();
            running.push(OnNode { node: name(node.as_ref()), should_run, alive });
        }
    }
    // Pods meant for a node that is gone were never bound, so nobody else deletes them.
    let unbound =
        |pod: &&&Arc<Pod>| pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) && !pods::is_deleting(pod);
    plan.delete.extend(by_node.values().flatten().filter(unbound).map(|pod| (*pod).clone()));
    let settled = plan.create.is_empty() && plan.delete.is_empty() && plan.ended.is_empty();
    if settled && let Some((may_miss, surge)) = budget(set, status.desired_number_scheduled) {
        let (available, current) = (&available, &current);
        if surge == 0 {
            replace(&running, may_miss, available, current, &mut plan);
        } else {
            let nodes = surge_nodes(&running, surge, status.desired_number_scheduled, available, current, &mut plan);
            plan.create.extend(nodes.into_iter().map(|node| pod_for(set, node, hash)));
        }
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

/// The pods of one node.
struct OnNode<'a> {
    node: &'a str,
    should_run: bool,
    /// Those that are not being deleted.
    alive: Vec<&'a Arc<Pod>>,
}

/// What a test of a pod is given and says.
type Test<'a> = &'a dyn Fn(&Pod) -> bool;

/// Decides about one node, whose pods `mine` are sorted oldest first.
// upstream: podsShouldBeOnNode
fn manage(
    set: &DaemonSet,
    node: &str,
    hash: &str,
    (should_run, may_stay): (bool, bool),
    mine: &[&Arc<Pod>],
    (current, available): (Test<'_>, Test<'_>),
    plan: &mut Plan,
) {
    let (ended, alive): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        mine.iter().filter(|pod| !pods::is_deleting(pod)).partition(|pod| pods::is_terminal(pod));
    if !may_stay {
        plan.delete.extend(alive.into_iter().chain(ended).cloned());
        return;
    }
    if should_run && mine.is_empty() {
        plan.create.push(pod_for(set, node, hash));
        return;
    }
    plan.ended.extend(ended.into_iter().map(|pod| (pod.clone(), node.to_owned())));
    if budget(set, 1).is_none_or(|(_, surge)| surge <= 0) {
        plan.delete.extend(alive.into_iter().skip(1).cloned());
        return;
    }
    if alive.is_empty() && should_run {
        plan.create.push(pod_for(set, node, hash));
    }
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = alive.into_iter().partition(|pod| current(pod));
    if let (Some(newest), Some(oldest)) = (new.first(), old.first())
        && (!pods::is_ready(oldest) || available(newest))
    {
        plan.delete.push((*oldest).clone());
    }
    plan.delete.extend(new.into_iter().skip(1).chain(old.into_iter().skip(1)).cloned());
}

/// The new and the old pod of a node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The one new and the one old pod of a node; `None` if there are more, which the rest of the controller puts right first.
fn pair<'a>(on: &OnNode<'a>, current: Test<'_>) -> Option<Pair<'a>> {
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = on.alive.iter().partition(|pod| current(pod));
    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
}

/// Deletes old pods: those that serve nobody at once, others as far as `may_miss` nodes may be without.
// upstream: rollingUpdate without surge
fn replace(running: &[OnNode<'_>], may_miss: i32, available: Test<'_>, current: Test<'_>, plan: &mut Plan) {
    let (mut missing, mut candidates) = (0, Vec::new());
    for on in running {
        match pair(on, current) {
            Some((None, Some(old))) if available(old) => candidates.push(old),
            Some((None, Some(old))) => {
                plan.delete.push(old.clone());
                missing += 1;
            }
            Some((Some(new), None)) => missing += i32::from(!available(new)),
            _ => missing += 1,
        }
    }
    let more = usize::try_from(may_miss - missing).unwrap_or(0);
    plan.delete.extend(candidates.into_iter().take(more).cloned());
}

/// Starts new pods beside old ones, at most `surge` of them beside one that serves, and deletes old ones that are replaced.
// upstream: rollingUpdate with surge
fn surge_nodes<'a>(
    running: &[OnNode<'a>],
    surge: i32,
    desired: i32,
    available: Test<'_>,
    current: Test<'_>,
    plan: &mut Plan,
) -> Vec<&'a str> {
    let (mut surging, mut serving) = (0, 0);
    let (mut nodes, mut candidates, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
    for on in running {
        let Some((new, old)) = pair(on, current) else {
            surging += 1;
            continue;
        };
        serving += i32::from(old.or(new).is_some_and(|pod| available(pod)));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) => match (available(old), on.should_run) {
                (false, false) => plan.delete.push(old.clone()),
                (false, true) => nodes.push(on.node),
                (true, false) => leaving.push(old),
                (true, true) => candidates.push(on.node),
            },
            (Some(new), Some(_)) if !available(new) => surging += 1,
            (Some(_), Some(old)) => plan.delete.push(old.clone()),
        }
    }
    // A node that the set leaves keeps its pod until enough others serve.
    let spare = usize::try_from(serving - desired).unwrap_or(0);
    plan.delete.extend(leaving.into_iter().take(spare).cloned());
    let more = usize::try_from(surge - surging).unwrap_or(0);
    nodes.extend(candidates.into_iter().take(more));
    nodes
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
        assert_eq!(decide(&set(json!({})), "one", &nodes, &[Arc::new(failed)]).ended.len(), 1);
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
