//! What the scheduler knows of nodes and of the pods on them, kept up to date change by change. Start at [`Cache`]: it is
//! the snapshot that a decision reads, so nothing is copied or listed per pod.
mod counters;
mod images;
mod node_info;
mod nominations;
mod requirements;
mod rules;
mod topology;

#[cfg(test)]
mod tests;

pub use counters::{CounterId, Counters, Question};
pub use images::{Image, Images};
pub use node_info::{NodeInfo, taints};
pub use nominations::Nominations;
pub use requirements::{RequirementId, Requirements};
pub use rules::{Rules, Worth};
pub use topology::{KeyId, Topology};

use crate::pod_info::{PodInfo, bound_node};
use crate::selector::Labels;
use counters::Namespaces;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    slot: usize,
    /// Decided here; the API server has not confirmed it yet.
    assumed: bool,
}

/// All nodes and where each pod is.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// Slots of nodes that are gone and have no pods.
    free: Vec<usize>,
    /// The nodes that exist, zone by turns.
    order: Vec<usize>,
    order_is_stale: bool,
    placed: HashMap<String, Place>,
    /// How many placed pods use a claim, by `namespace/name`.
    claims: HashMap<String, usize>,
    /// The distinct lists of taints, without times.
    taint_lists: Vec<Vec<Taint>>,
    namespaces: Namespaces,
    /// Domains of nodes.
    pub topology: Topology,
    /// Pods per node.
    pub counters: Counters,
    /// Rules of placed pods.
    pub rules: Rules,
    /// Nodes that meet requirements.
    pub requirements: Requirements,
    /// Images on nodes.
    pub images: Images,
    /// Pods that wait for a node.
    pub nominations: Nominations,
}

impl Cache {
    /// Puts the tables in order before a decision.
    pub fn tidy(&mut self) {
        self.topology.tidy();
        self.counters.tidy();
        self.requirements.tidy();
        if self.order_is_stale {
            self.order = self.by_zones();
            self.order_is_stale = false;
        }
    }

    /// The nodes that exist, zone by turns so that a sample of them has all zones (upstream: `nodeTree`).
    fn by_zones(&self) -> Vec<usize> {
        let mut zones: Vec<Vec<usize>> = Vec::new();
        let mut index = HashMap::new();
        for node in self.nodes.iter().filter(|node| node.node.is_some()) {
            let label = |key: &str, beta: &str| node.label(key).or_else(|| node.label(beta)).unwrap_or_default();
            let region = label("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region");
            let zone = label("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
            let at = *index.entry((region, zone)).or_insert(zones.len());
            if at == zones.len() {
                zones.push(Vec::new());
            }
            zones[at].push(node.slot);
        }
        let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
        (0..longest).flat_map(|turn| zones.iter().filter_map(move |zone| zone.get(turn).copied())).collect()
    }

    /// The slots of the nodes that exist, as [`Self::tidy`] left them.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The nodes that exist, as [`Self::tidy`] left them.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.order.iter().map(|slot| &self.nodes[*slot])
    }

    /// The node in a slot.
    pub fn slot(&self, slot: usize) -> &NodeInfo {
        &self.nodes[slot]
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|slot| &self.nodes[*slot]).filter(|node| node.node.is_some())
    }

    /// How many nodes exist and how many pods are placed or assumed.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let assumed = self.placed.values().filter(|place| place.assumed).count();
        (self.nodes.iter().filter(|node| node.node.is_some()).count(), self.placed.len(), assumed)
    }

    /// The distinct lists of taints; [`NodeInfo::taint_list`] counts into them.
    pub fn taint_lists(&self) -> &[Vec<Taint>] {
        &self.taint_lists
    }

    /// The labels of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Whether a placed pod uses the claim.
    pub fn claim_users(&self, namespace: &str, name: &str) -> usize {
        self.claims.get(&format!("{namespace}/{name}")).copied().unwrap_or(0)
    }

    /// The number of the topology key `name`.
    pub fn topology_key(&mut self, name: &str) -> KeyId {
        self.topology.key(name, &self.nodes)
    }

    /// The counter that answers `question`.
    pub fn counter(&mut self, question: Question) -> CounterId {
        self.counters.of(question, &self.nodes, &self.namespaces)
    }

    /// The labels of a namespace are new.
    pub fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) {
        if self.namespaces.get(name) == labels {
            return;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels.clone()),
            None => self.namespaces.remove(name),
        };
        self.counters.namespace_changed();
    }

    fn slot_of(&mut self, name: &str) -> usize {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeInfo { slot: self.nodes.len(), ..NodeInfo::default() });
            self.nodes.len() - 1
        });
        self.by_name.insert(name.to_owned(), slot);
        self.topology.node_changed(slot, &self.nodes);
        self.requirements.node_changed(slot);
        slot
    }

    /// A node is new or has changed.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let slot = self.slot_of(&name);
        let taint_list = self.taint_list(taints(node));
        let info = &mut self.nodes[slot];
        let old = info.node.clone();
        info.set_node(node.clone());
        info.taint_list = taint_list;
        self.images.node_changed(slot, old.as_deref(), Some(node));
        if old.as_ref().is_none_or(|old| old.metadata.labels != node.metadata.labels) {
            self.topology.node_changed(slot, &self.nodes);
            self.requirements.node_changed(slot);
            self.order_is_stale = true;
        }
    }

    fn taint_list(&mut self, taints: &[Taint]) -> usize {
        let list: Vec<Taint> = taints.iter().map(|taint| Taint { time_added: None, ..taint.clone() }).collect();
        if let Some(known) = self.taint_lists.iter().position(|known| *known == list) {
            return known;
        }
        if self.taint_lists.len() > 64 {
            let mut used = vec![false; self.taint_lists.len()];
            for node in &self.nodes {
                used[node.taint_list] = true;
            }
            if let Some(free) = used.iter().position(|used| !used) {
                self.taint_lists[free] = list;
                return free;
            }
        }
        self.taint_lists.push(list);
        self.taint_lists.len() - 1
    }

    /// A node is gone; pods that still claim to be on it are remembered.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.by_name.get(name).copied() else { return };
        if let Some(old) = self.nodes[slot].node.take() {
            self.images.node_changed(slot, Some(&old), None);
            self.nodes[slot].set_node(Arc::default());
            self.nodes[slot].node = None;
        }
        self.topology.node_changed(slot, &self.nodes);
        self.requirements.node_changed(slot);
        self.order_is_stale = true;
        self.release(slot, name);
    }

    /// Frees the slot of a node that is gone once its last pod is.
    fn release(&mut self, slot: usize, name: &str) {
        let info = &mut self.nodes[slot];
        if info.node.is_none() && info.pods.is_empty() {
            *info = NodeInfo { slot, ..NodeInfo::default() };
            self.by_name.remove(name);
            self.free.push(slot);
        }
    }

    /// A bound pod is new or has changed. One that has ended uses nothing any more.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let node = bound_node(pod).unwrap_or_default();
        if let Some(place) = self.placed.get_mut(uid)
            && self.by_name.get(node) == Some(&place.slot)
            && !has_ended(pod)
            && let Some(known) = self.nodes[place.slot].pods.iter_mut().find(|known| known.uid() == uid)
            && known.counts_like(pod)
        {
            *known = Arc::new(known.with_pod(pod.clone()));
            place.assumed = false;
            return;
        }
        self.take(uid);
        if !has_ended(pod) && !node.is_empty() {
            self.place(Arc::new(PodInfo::new(pod.clone())), node, false);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, uid: &str) {
        self.take(uid);
    }

    /// Counts `pod` on `node` before the API server knows.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.nominations.clear(pod.uid());
        self.take(pod.uid());
        self.place(pod, node, true);
    }

    /// Whether the pod has a node by a decision that the API server has not confirmed.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|place| place.assumed)
    }

    /// Takes an assumption back, unless the API server has confirmed it meanwhile.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.take(uid);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        let slot = self.slot_of(node);
        self.placed.insert(pod.uid().to_owned(), Place { slot, assumed });
        self.counters.pod_added(slot, &pod, &self.namespaces);
        self.rules.pod_added(slot, &pod);
        for claim in claims(&pod) {
            *self.claims.entry(claim).or_insert(0) += 1;
        }
        self.nodes[slot].add(pod);
    }

    fn take(&mut self, uid: &str) {
        let Some(Place { slot, .. }) = self.placed.remove(uid) else { return };
        let Some(pod) = self.nodes[slot].remove(uid) else { return };
        self.counters.pod_removed(slot, &pod, &self.namespaces);
        self.rules.pod_removed(slot, &pod);
        for claim in claims(&pod) {
            if let Some(users) = self.claims.get_mut(&claim) {
                *users -= 1;
                if *users == 0 {
                    self.claims.remove(&claim);
                }
            }
        }
        if self.nodes[slot].node.is_none() {
            let name = self.by_name.iter().find(|(_, known)| **known == slot).map(|(name, _)| name.clone());
            if let Some(name) = name {
                self.release(slot, &name);
            }
        }
    }
}

fn claims(pod: &PodInfo) -> impl Iterator<Item = String> {
    let named = pod.volumes().iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
    named.map(|claim| format!("{}/{}", pod.namespace(), claim.claim_name))
}

/// Whether all containers of `pod` have ended for good.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
