//! Keeps cache and queue up with the cluster.
use super::Inner;
use crate::cache::{NodeInfo, has_ended};
use crate::pod_info::{PodInfo, bound_node, nominated_node, scheduler_name};
use crate::queue::events::{Event, NodeChange, PodChange, more_volumes};
use k8s_openapi::api::core::v1::{Node, Pod};
use pintle_client::informer::Change;
use std::sync::Arc;

/// A node on its own, for hints.
fn alone(node: &Arc<Node>) -> Arc<NodeInfo> {
    let mut info = NodeInfo::default();
    info.set_node(node.clone());
    Arc::new(info)
}

impl Inner {
    /// Registers for every change that matters. Nodes and namespaces come first, so that pods find theirs.
    pub(super) fn follow(self: &Arc<Self>) {
        let this = self.clone();
        self.namespaces.on_change(move |change| {
            let meta = &change.object().metadata;
            let labels = meta.labels.clone().unwrap_or_default();
            let labels = (!matches!(change, Change::Deleted(_))).then_some(&labels);
            this.cache.lock().set_namespace(meta.name.as_deref().unwrap_or_default(), labels);
        });
        let this = self.clone();
        self.nodes.on_change(move |change| this.node_changed(change));
        let this = self.clone();
        self.pods.on_change(move |change| this.pod_changed(change));
        self.follow_volumes();
    }

    fn follow_volumes(self: &Arc<Self>) {
        let this = self.clone();
        self.lookup.claims.on_change(move |change| {
            this.volume_changes.send_modify(|ticks| *ticks += 1);
            match change {
                Change::Added(claim) => this.happened(|| Event::Claim { claim: (*claim).clone(), added: true }),
                Change::Updated(_, claim) => this.happened(|| Event::Claim { claim: (*claim).clone(), added: false }),
                Change::Deleted(_) => {}
            }
        });
        let this = self.clone();
        self.lookup.volumes.on_change(move |change| {
            this.volume_changes.send_modify(|ticks| *ticks += 1);
            if !matches!(change, Change::Deleted(_)) {
                this.happened(|| Event::Volume);
            }
        });
        let this = self.clone();
        self.lookup.classes.on_change(move |change| match change {
            Change::Added(_) => this.happened(|| Event::Class { added: true }),
            Change::Updated(old, new) if old.allowed_topologies != new.allowed_topologies => {
                this.happened(|| Event::Class { added: false });
            }
            _ => {}
        });
        let this = self.clone();
        self.lookup.csi_nodes.on_change(move |change| match change {
            Change::Added(_) => this.happened(|| Event::CsiNode { added: true }),
            Change::Updated(old, new) if more_volumes(old, new) => this.happened(|| Event::CsiNode { added: false }),
            _ => {}
        });
        let this = self.clone();
        self.lookup.csi_drivers.on_change(move |change| {
            if let Change::Updated(old, new) = change
                && old.spec.storage_capacity == Some(true)
                && new.spec.storage_capacity != Some(true)
            {
                this.happened(|| Event::Capacity);
            }
        });
        let this = self.clone();
        self.lookup.capacities.on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                this.happened(|| Event::Capacity);
            }
        });
        let this = self.clone();
        self.lookup.attachments.on_change(move |change| {
            if matches!(change, Change::Deleted(_)) {
                this.happened(|| Event::Detached);
            }
        });
    }

    /// Tells the queue, if anybody waits for something.
    fn happened(&self, event: impl FnOnce() -> Event) {
        if self.queue.cares() {
            self.queue.happened(event(), None);
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        match change {
            Change::Added(node) => {
                self.cache.lock().set_node(node);
                self.happened(|| Event::NodeAdded(alone(node)));
            }
            Change::Updated(old, new) => {
                self.cache.lock().set_node(new);
                let change = NodeChange::between(old, new);
                if change.any() {
                    self.happened(|| Event::NodeUpdated { old: alone(old), new: alone(new), change });
                }
            }
            Change::Deleted(node) => {
                self.cache.lock().remove_node(node.metadata.name.as_deref().unwrap_or_default());
                self.happened(|| Event::NodeRemoved(alone(node)));
            }
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        self.profiles.iter().any(|profile| profile.name == scheduler_name(pod))
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let new = change.object();
        let uid = new.metadata.uid.as_deref().unwrap_or_default();
        match change {
            Change::Deleted(pod) => self.pod_gone(pod, uid),
            Change::Added(pod) | Change::Updated(_, pod) if bound_node(pod).is_some() => {
                let old = match change {
                    Change::Updated(old, _) => Some(*old),
                    _ => None,
                };
                self.placed_pod_changed(old, pod, uid);
            }
            Change::Added(pod) | Change::Updated(_, pod) if has_ended(pod) => self.pod_gone(pod, uid),
            Change::Added(pod) if self.is_ours(pod) => {
                let pod = Arc::new(PodInfo::new((*pod).clone()));
                if let Some(node) = pod.nominated_node() {
                    self.cache.lock().nominations.set(pod.clone(), node);
                }
                self.queue.add(pod);
            }
            Change::Updated(old, new) if self.is_ours(new) => self.waiting_pod_changed(old, new, uid),
            _ => {}
        }
    }

    fn placed_pod_changed(&self, old: Option<&Arc<Pod>>, pod: &Arc<Pod>, uid: &str) {
        let was_placed = old.is_some_and(|old| bound_node(old).is_some());
        let ended = has_ended(pod);
        {
            let mut cache = self.cache.lock();
            cache.set_pod(pod);
            if !was_placed {
                cache.nominations.clear(uid);
            }
        }
        if !was_placed {
            self.queue.remove(uid);
            if !ended {
                self.happened(|| Event::PodAssigned(Arc::new(PodInfo::new(pod.clone()))));
            }
            return;
        }
        let Some(old) = old.filter(|old| !has_ended(old) && self.queue.cares()) else { return };
        if ended {
            return self.queue.happened(Event::PodGone(Arc::new(PodInfo::new(old.clone()))), None);
        }
        let (old, new) = (Arc::new(PodInfo::new(old.clone())), Arc::new(PodInfo::new(pod.clone())));
        let change = PodChange::between(&old, &new);
        if change.labels || change.scale_down {
            self.queue.happened(Event::PodUpdated { old, new, change }, None);
        }
    }

    fn waiting_pod_changed(&self, old: &Arc<Pod>, new: &Arc<Pod>, uid: &str) {
        let leaves = new.metadata.deletion_timestamp.is_some() && old.metadata.deletion_timestamp.is_none();
        let (before, now) = (Arc::new(PodInfo::new(old.clone())), Arc::new(PodInfo::new(new.clone())));
        {
            let mut cache = self.cache.lock();
            if cache.is_assumed(uid) {
                if leaves {
                    cache.forget(uid);
                    drop(cache);
                    self.happened(|| Event::PodGone(before));
                }
                return;
            }
            cache.nominations.pod_changed(now.clone(), nominated_node(old));
        }
        let loses = nominated_node(old).is_some() && nominated_node(old) != nominated_node(new);
        self.queue.update(&before, now);
        if loses && self.queue.cares() {
            self.queue.happened(Event::PodGone(before), Some(uid));
        }
    }

    fn pod_gone(&self, pod: &Arc<Pod>, uid: &str) {
        self.queue.remove(uid);
        let counted = {
            let mut cache = self.cache.lock();
            let assumed = cache.is_assumed(uid);
            cache.remove_pod(uid);
            cache.nominations.clear(uid);
            assumed || nominated_node(pod).is_some() || (bound_node(pod).is_some() && !has_ended(pod))
        };
        if counted {
            self.happened(|| Event::PodGone(Arc::new(PodInfo::new(pod.clone()))));
        }
    }
}
