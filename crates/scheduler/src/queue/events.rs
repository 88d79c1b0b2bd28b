//! What happens in the cluster that can make a pod fit (upstream: `ClusterEvent`).
use crate::cache::{NodeInfo, taints};
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use std::sync::Arc;

/// What is new about a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the node's fields")]
pub struct NodeChange {
    pub allocatable: bool,
    pub labels: bool,
    pub taints: bool,
}

impl NodeChange {
    /// What an update changed that decisions depend on; heartbeats change nothing (upstream:
    /// `NodeSchedulingPropertiesChange`).
    pub fn between(old: &Node, new: &Node) -> Self {
        let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
        let unschedulable = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        NodeChange {
            allocatable: allocatable(old) != allocatable(new),
            labels: old.metadata.labels != new.metadata.labels,
            taints: taints(old) != taints(new) || (unschedulable(old) && !unschedulable(new)),
        }
    }

    /// Whether anything changed.
    pub fn any(self) -> bool {
        self != NodeChange::default()
    }
}

/// What is new about a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of upstream's events")]
pub struct PodChange {
    pub labels: bool,
    pub scale_down: bool,
    pub gates_gone: bool,
    pub tolerations: bool,
}

impl PodChange {
    /// What an update changed that decisions depend on (upstream: `PodSchedulingPropertiesChange`).
    pub fn between(old: &PodInfo, new: &PodInfo) -> Self {
        let gated = |pod: &PodInfo| is_gated(&pod.pod);
        let tolerations = |pod: &PodInfo| pod.spec().and_then(|spec| spec.tolerations.as_ref()).map_or(0, Vec::len);
        let (was, is) = (&old.requests, &new.requests);
        PodChange {
            labels: old.labels() != new.labels(),
            scale_down: was.milli_cpu > is.milli_cpu
                || was.memory > is.memory
                || was.ephemeral_storage > is.ephemeral_storage
                || was.scalar.iter().any(|(name, amount)| *amount > is.scalar(name)),
            gates_gone: gated(old) && !gated(new),
            tolerations: tolerations(old) != tolerations(new),
        }
    }

    /// Whether anything changed.
    pub fn any(self) -> bool {
        self != PodChange::default()
    }
}

/// Whether scheduling gates hold the pod.
pub fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
}

/// Something that can make a pod fit.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node is new.
    NodeAdded(Arc<NodeInfo>),
    /// A node changed.
    NodeUpdated {
        /// Before.
        old: Arc<NodeInfo>,
        /// After.
        new: Arc<NodeInfo>,
        /// What changed.
        change: NodeChange,
    },
    /// A node is gone.
    NodeRemoved(Arc<NodeInfo>),
    /// A pod has got a node.
    PodAssigned(Arc<PodInfo>),
    /// A pod with a node, or the waiting pod itself, changed.
    PodUpdated {
        /// Before.
        old: Arc<PodInfo>,
        /// After.
        new: Arc<PodInfo>,
        /// What changed.
        change: PodChange,
    },
    /// A pod that had a node, or waited for one, is gone, or has ended.
    PodGone(Arc<PodInfo>),
    /// A claim is new or changed.
    Claim {
        /// The claim.
        claim: Arc<PersistentVolumeClaim>,
        /// It is new.
        added: bool,
    },
    /// A volume is new or changed.
    Volume,
    /// A class is new, or makes volumes elsewhere now.
    Class {
        /// It is new.
        added: bool,
    },
    /// What a node says of its CSI drivers is new or allows more volumes now.
    CsiNode {
        /// It is new.
        added: bool,
    },
    /// A CSI driver says no more how much room it has, or says that it has more.
    Capacity,
    /// A volume is not attached to a node any more.
    Detached,
}

/// Whether a node's CSI drivers can take more volumes than before.
pub fn more_volumes(old: &CSINode, new: &CSINode) -> bool {
    let limit = |node: &CSINode, name: &str| {
        let driver = node.spec.drivers.iter().find(|driver| driver.name == name);
        driver.and_then(|driver| driver.allocatable.as_ref()?.count).unwrap_or(0)
    };
    new.spec.drivers.iter().any(|driver| limit(new, &driver.name) > limit(old, &driver.name))
}
