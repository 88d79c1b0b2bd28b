//! The node lifecycle controller: notices nodes that fell silent, and taints nodes by their conditions. Each node has one
//! timer, set to when its silence would become too long; heartbeats only move that time. The decisions are in [`plan`].
mod plan;

use crate::Context;
use crate::claim::name;
use crate::error::{Error, unless_not_found};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use pintle_client::informer::{Change, Informer};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Index, Recorder, WorkQueue};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 4;
const LEASES: &str = "kube-node-lease";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Pods by the name of their node.
pub(crate) const PODS_BY_NODE: &str = "node";

pub(crate) fn node_of(pod: &Pod) -> Vec<String> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    node.filter(|node| !node.is_empty()).into_iter().collect()
}

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Index<Pod>,
    /// When each node was last heard of.
    heard: Arc<Mutex<HashMap<String, Instant>>>,
    /// When an evicting taint was last put on a node of each zone.
    evicted: Mutex<HashMap<String, Instant>>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("node-controller");
    let (nodes, leases, pods) = (cx.informers.of::<Node>(), cx.informers.of::<Lease>(), cx.informers.of::<Pod>());
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "node-controller", ""),
        client,
        nodes: nodes.clone(),
        pods: cx.informers.index(PODS_BY_NODE, node_of),
        heard: Arc::default(),
        evicted: Mutex::default(),
    });
    let queue = WorkQueue::<String>::new();
    tokio::join!(nodes.synced(), leases.synced(), pods.synced());
    let heard = controller.heard.clone();
    leases.on_change(move |change| {
        let lease = change.object();
        if lease.metadata.namespace.as_deref() == Some(LEASES) && !matches!(change, Change::Deleted(_)) {
            heard.lock().insert(name(lease.as_ref()).to_owned(), Instant::now());
        }
    });
    let (added, this) = (queue.clone(), controller.clone());
    nodes.on_change(move |change| this.observe(change, &added));
    queue
        .run("node-lifecycle", WORKERS, cx.stop, move |named| {
            let controller = controller.clone();
            async move { controller.sync(&named).await }
        })
        .await;
}

impl Controller {
    fn observe(&self, change: &Change<'_, Node>, queue: &WorkQueue<String>) {
        let node = change.object();
        let named = name(node.as_ref()).to_owned();
        let heartbeat = |node: &Node| {
            let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            ready
                .filter(|condition| condition.type_ == "Ready")
                .find_map(|condition| condition.last_heartbeat_time.clone())
        };
        match change {
            Change::Added(_) => {
                self.heard.lock().insert(named.clone(), Instant::now());
                let text = format!("Registered Node {named} in Controller");
                self.recorder.event(node.as_ref(), Normal, "RegisteredNode", text);
            }
            Change::Updated(old, new) if heartbeat(old) != heartbeat(new) => {
                self.heard.lock().insert(named.clone(), Instant::now());
            }
            Change::Updated(..) => {}
            Change::Deleted(_) => {
                self.heard.lock().remove(&named);
                let text = format!("Removing Node {named} from Controller");
                self.recorder.event(node.as_ref(), Normal, "RemovingNode", text);
                return;
            }
        }
        queue.add(named);
        // Whether lost nodes are evicted depends on how many are well.
        if !matches!(change, Change::Updated(old, new) if plan::readiness(old) == plan::readiness(new)) {
            self.nodes
                .list()
                .iter()
                .filter(|node| plan::awaits_eviction(node))
                .for_each(|node| queue.add(name(node.as_ref()).to_owned()));
        }
    }

    async fn sync(&self, named: &str) -> Result<Option<Duration>, Error> {
        let Some(node) = self.nodes.get("", named) else { return Ok(None) };
        let mut node = node.as_ref().clone();
        let silent = self.heard.lock().get(named).map_or(Duration::ZERO, Instant::elapsed);
        let grace = Duration::try_from(plan::grace(&node)).unwrap_or_default();
        let api: Api<Node> = Api::all(self.client.clone());
        let mut again = grace.saturating_sub(silent);
        if again.is_zero() {
            let was_ready = plan::readiness(&node) == Some("True");
            if let Some(lost) = plan::silenced(&node, Timestamp::now()) {
                node = api.replace_status(named, &PostParams::default(), &lost).await?;
            }
            if was_ready {
                self.recorder.event(&node, Normal, "NodeNotReady", format!("Node {named} status is now: NodeNotReady"));
                self.mark_pods(named).await?;
            }
            again = grace;
        }
        let (evict, wait) = self.may_evict(&node);
        if let Some(taints) = plan::taints(&node, evict, Timestamp::now()) {
            let patch =
                json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
            unless_not_found(api.patch(named, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        }
        Ok(Some(wait.unwrap_or(again).min(again)))
    }

    /// If the node's pods may be evicted now, or when to ask again.
    fn may_evict(&self, node: &Node) -> (bool, Option<Duration>) {
        if !plan::awaits_eviction(node) {
            return (false, None);
        }
        let zone_of = |node: &Node| {
            node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned().unwrap_or_default()
        };
        let mut zones: HashMap<String, (usize, usize)> = HashMap::new();
        for other in self.nodes.list() {
            let zone = zones.entry(zone_of(&other)).or_default();
            let current = if name(other.as_ref()) == name(node) { node } else { other.as_ref() };
            if plan::readiness(current) == Some("True") { zone.0 += 1 } else { zone.1 += 1 }
        }
        let zone = zone_of(node);
        let counts: Vec<(usize, usize)> = zones.values().copied().collect();
        let rate = plan::eviction_rate(zones.get(&zone).copied().unwrap_or_default(), &counts);
        if rate <= 0.0 {
            return (false, None);
        }
        let pause = Duration::from_secs_f64(1.0 / rate);
        let mut evicted = self.evicted.lock();
        if let Some(left) =
            evicted.get(&zone).map(|last| pause.saturating_sub(last.elapsed())).filter(|left| !left.is_zero())
        {
            return (false, Some(left));
        }
        evicted.insert(zone, Instant::now());
        (true, None)
    }

    /// Takes the pods of a lost node out of their Services.
    async fn mark_pods(&self, node: &str) -> Result<(), Error> {
        for pod in self.pods.get(node).iter().filter(|pod| pods::is_ready(pod)) {
            let mut updated = pod.as_ref().clone();
            let conditions = updated.status.get_or_insert_default().conditions.get_or_insert_default();
            for ready in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
                ready.status = "False".to_owned();
                ready.last_transition_time = Some(Time(Timestamp::now()));
            }
            let api: Api<Pod> = Api::namespaced(self.client.clone(), crate::claim::namespace(pod.as_ref()));
            unless_not_found(api.replace_status(name(pod.as_ref()), &PostParams::default(), &updated).await)?;
            self.recorder.event(pod.as_ref(), Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

/// A span as the queue takes it; negative ones are over.
pub(crate) fn positive(span: SignedDuration) -> Duration {
    Duration::try_from(span).unwrap_or_default()
}
