//! One node with the sums over its pods.
use crate::pod_info::{HostPort, PodInfo, ports_conflict};
use crate::resources::Resources;
use crate::selector::Labels;
use k8s_openapi::api::core::v1::{Node, Taint};
use std::sync::Arc;

/// One node and the sums over its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Its place in the tables that are kept per node.
    pub slot: usize,
    /// The node; `None` for one that is only known from pods bound to it.
    pub node: Option<Arc<Node>>,
    /// The pods on it, assumed ones included.
    pub pods: Vec<Arc<PodInfo>>,
    /// What they ask for.
    pub requested: Resources,
    /// What they count for in scores.
    pub non_zero: Resources,
    /// The host ports they hold.
    pub ports: Vec<HostPort>,
    /// What the node has for pods.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: usize,
    /// Which of the cluster's distinct lists of taints it has.
    pub taint_list: usize,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
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
    pub fn labels(&self) -> Option<&Labels> {
        self.node.as_ref().and_then(|node| node.metadata.labels.as_ref())
    }

    /// Whether a pod on the node has a port that excludes one of `ports`.
    pub fn has_port_conflict(&self, ports: &[HostPort]) -> bool {
        ports.iter().any(|port| self.ports.iter().any(|used| ports_conflict(used, port)))
    }

    /// Takes over what `node` says.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let list = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = list.map(Resources::from_list).unwrap_or_default();
        let pods =
            list.and_then(|list| list.get("pods")).and_then(|q| pintle_api::quantity::Quantity::parse(&q.0).ok());
        self.allowed_pods = pods.and_then(|pods| usize::try_from(pods.value()).ok()).unwrap_or(0);
        self.unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        self.node = Some(node);
    }

    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero.add(&pod.non_zero);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Takes a pod from the node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.uid() == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.non_zero.subtract(&pod.non_zero);
        for port in pod.ports.iter() {
            if let Some(at) = self.ports.iter().position(|used| used == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}

/// The taints of a node.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}
