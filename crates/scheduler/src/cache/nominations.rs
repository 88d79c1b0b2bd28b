//! Pods that wait for room on a node (`status.nominatedNodeName`), so that others of no higher priority leave it to them.
use crate::pod_info::PodInfo;
use std::collections::HashMap;
use std::sync::Arc;

/// Who waits for which node.
#[derive(Debug, Default)]
pub struct Nominations {
    node_of: HashMap<String, String>,
    on_node: HashMap<String, Vec<Arc<PodInfo>>>,
}

impl Nominations {
    /// `pod` waits for `node`, and for no other.
    pub fn set(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.clear(pod.uid());
        self.node_of.insert(pod.uid().to_owned(), node.to_owned());
        self.on_node.entry(node.to_owned()).or_default().push(pod);
    }

    /// The pod waits for no node.
    pub fn clear(&mut self, uid: &str) {
        let Some(node) = self.node_of.remove(uid) else { return };
        if let Some(pods) = self.on_node.get_mut(&node) {
            pods.retain(|pod| pod.uid() != uid);
            if pods.is_empty() {
                self.on_node.remove(&node);
            }
        }
    }

    /// A waiting pod changed: what the API says of its node counts, and where it says nothing what was decided here.
    pub fn pod_changed(&mut self, pod: Arc<PodInfo>, had: Option<&str>) {
        let known = self.node_of.get(pod.uid()).cloned();
        match (pod.nominated_node().map(str::to_owned), known) {
            (Some(node), _) => self.set(pod, &node),
            // Decided, but the API does not say so yet.
            (None, Some(node)) if had.is_none() => self.set(pod, &node),
            (None, _) => self.clear(pod.uid()),
        }
    }

    /// The pods that wait for `node`.
    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.on_node.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// All pods that wait for a node.
    pub fn all(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.on_node.values().flatten()
    }

    /// Whether anybody waits for a node.
    pub fn is_empty(&self) -> bool {
        self.on_node.is_empty()
    }
}
