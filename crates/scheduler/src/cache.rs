//! What the scheduler knows of nodes and of the pods on them, kept up to date change by change: no list per pod.
use crate::pod_info::{HostPort, PodInfo, ports_conflict};
use crate::resources::Resources;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One node and the sums over its pods.
#[derive(Debug, Default)]
pub struct NodeInfo {
    /// The node; `None` for one that is only known from pods bound to it.
    pub node: Option<Arc<Node>>,
    /// The pods on it by uid, assumed ones included.
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// What they ask for.
    pub requested: Resources,
    /// What they count for in scores.
    pub non_zero: Resources,
    /// What the node has for pods.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: usize,
}

impl NodeInfo {
    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|node| node.metadata.name.as_deref()).unwrap_or_default()
    }

    /// A label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().and_then(|labels| labels.get(key)).map(String::as_str)
    }

    /// The node's labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.as_ref().and_then(|node| node.metadata.labels.as_ref())
    }

    /// The node's taints.
    pub fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    /// Whether a pod on the node has a port that excludes one of `ports`.
    pub fn has_port_conflict(&self, ports: &[HostPort]) -> bool {
        !ports.is_empty()
            && self
                .pods
                .values()
                .flat_map(|pod| &pod.ports)
                .any(|used| ports.iter().any(|port| ports_conflict(used, port)))
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let list = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = list.map(Resources::from_list).unwrap_or_default();
        let pods =
            list.and_then(|list| list.get("pods")).and_then(|q| pintle_api::quantity::Quantity::parse(&q.0).ok());
        self.allowed_pods = pods.and_then(|pods| usize::try_from(pods.value()).ok()).unwrap_or(0);
        self.node = Some(node);
    }

    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero.add(&pod.non_zero);
        if let Some(replaced) = self.pods.insert(pod.uid().to_owned(), pod) {
            self.uncount(&replaced);
        }
    }

    /// Takes a pod from the node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.uncount(&pod);
        Some(pod)
    }

    fn uncount(&mut self, pod: &PodInfo) {
        self.requested.subtract(&pod.requests);
        self.non_zero.subtract(&pod.non_zero);
    }

    /// The node as it would be without the pods that `gone` names.
    pub fn without(&self, gone: &[&str]) -> NodeInfo {
        let mut copy = NodeInfo {
            node: self.node.clone(),
            pods: self.pods.clone(),
            requested: self.requested.clone(),
            non_zero: self.non_zero.clone(),
            allocatable: self.allocatable.clone(),
            allowed_pods: self.allowed_pods,
        };
        for uid in gone {
            copy.remove(uid);
        }
        copy
    }
}

/// All nodes and where each pod is.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: BTreeMap<String, NodeInfo>,
    /// The node of each pod, by the pod's uid.
    placed: HashMap<String, String>,
    /// Pods placed by a decision that the API server has not confirmed yet.
    assumed: HashMap<String, String>,
}

impl Cache {
    /// The nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.node.is_some())
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|node| node.node.is_some())
    }

    /// A node is new or has changed.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.nodes.entry(name).or_default().set_node(node.clone());
    }

    /// A node is gone; pods that still claim to be on it are remembered.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// A bound pod is new or has changed. One that has ended uses nothing any more.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        self.assumed.remove(&uid);
        self.take(&uid);
        if !has_ended(pod) && !node.is_empty() {
            self.place(Arc::new(PodInfo::new(pod.clone())), node);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, uid: &str) {
        self.assumed.remove(uid);
        self.take(uid);
    }

    /// Counts `pod` on `node` before the API server knows.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(pod.uid().to_owned(), node.to_owned());
        self.place(pod, node.to_owned());
    }

    /// Takes an assumption back, unless the API server has confirmed it meanwhile.
    pub fn forget(&mut self, uid: &str) {
        if self.assumed.remove(uid).is_some() {
            self.take(uid);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: String) {
        self.placed.insert(pod.uid().to_owned(), node.clone());
        self.nodes.entry(node).or_default().add(pod);
    }

    fn take(&mut self, uid: &str) {
        let Some(node) = self.placed.remove(uid) else { return };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(uid);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }
}

/// Whether all containers of `pod` have ended for good.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(cpu: &str) -> Arc<Node> {
        serde_json::from_value(
            json!({ "metadata": { "name": "n" }, "status": { "allocatable": { "cpu": cpu, "pods": "10" } } }),
        )
        .unwrap()
    }

    fn pod(uid: &str, node: &str, phase: &str) -> Arc<Pod> {
        let container = json!({ "name": "c", "resources": { "requests": { "cpu": "100m" } } });
        let spec = json!({ "nodeName": node, "containers": [container] });
        serde_json::from_value(
            json!({ "metadata": { "uid": uid, "name": uid }, "spec": spec, "status": { "phase": phase } }),
        )
        .unwrap()
    }

    #[test]
    fn sums_follow_pods_as_they_come_end_and_go() {
        let mut cache = Cache::default();
        cache.set_pod(&pod("a", "n", "Running"));
        assert_eq!(cache.nodes().count(), 0, "a node known only from its pods takes none");
        cache.set_node(&node("2"));
        cache.set_pod(&pod("b", "n", "Running"));
        cache.set_pod(&pod("b", "n", "Running"));
        assert_eq!(cache.node("n").unwrap().requested.milli_cpu, 200);
        cache.set_pod(&pod("b", "n", "Succeeded"));
        assert_eq!(cache.node("n").unwrap().requested.milli_cpu, 100);
        cache.remove_pod("a");
        assert_eq!(cache.node("n").unwrap().requested, Resources::default());
    }

    #[test]
    fn an_assumption_holds_until_it_is_confirmed_or_forgotten() {
        let mut cache = Cache::default();
        cache.set_node(&node("2"));
        cache.assume(Arc::new(PodInfo::new(pod("a", "", ""))), "n");
        assert_eq!(cache.node("n").unwrap().pods.len(), 1);
        cache.set_pod(&pod("a", "n", "Pending"));
        cache.forget("a");
        assert_eq!(cache.node("n").unwrap().pods.len(), 1, "confirmed: it stays");
        cache.assume(Arc::new(PodInfo::new(pod("b", "", ""))), "n");
        cache.forget("b");
        assert_eq!(cache.node("n").unwrap().pods.len(), 1);
    }
}
