//! The graph of owners and dependents, kept from watches. Each change returns what it makes necessary; nothing here asks the
//! API. (upstream: pkg/controller/garbagecollector, GraphBuilder)
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Dependents go before the object.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Dependents are released before the object goes.
pub const ORPHAN: &str = "orphan";

/// An object's UID.
pub type Uid = Arc<str>;

/// Which object a node stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// An object, or an owner that is only known by references to it.
#[derive(Clone, Debug)]
pub struct Node {
    pub identity: Identity,
    pub owners: Vec<OwnerReference>,
    pub dependents: HashSet<Uid>,
    /// `deletionTimestamp` is set.
    pub being_deleted: bool,
    /// Being deleted in the foreground: waits for its dependents.
    pub deleting_dependents: bool,
    orphaning: bool,
    /// Never seen in a watch.
    pub is_virtual: bool,
}

/// What a change makes necessary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Check if the object must go, and delete it if so.
    Delete(Uid),
    /// Release the dependents of the object, then let it go.
    Orphan(Uid),
}

/// All objects by UID.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|candidate| candidate == finalizer)
}

impl Graph {
    /// The node of an object.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The dependents of an object.
    pub fn dependents(&self, uid: &str) -> Vec<(Uid, Node)> {
        let ids =
            self.nodes.get(uid).map(|node| node.dependents.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.nodes.get(&id).map(|node| (id.clone(), node.clone()))).collect()
    }

    /// An object was seen.
    pub fn seen(&mut self, api_version: &Arc<str>, kind: &Arc<str>, meta: &ObjectMeta) -> Vec<Work> {
        let mut work = Vec::new();
        let Some(uid) = meta.uid.as_deref() else { return work };
        let owners = meta.owner_references.clone().unwrap_or_default();
        let being_deleted = meta.deletion_timestamp.is_some();
        let deleting_dependents = being_deleted && has(meta, FOREGROUND);
        let orphaning = being_deleted && has(meta, ORPHAN);
        let uid: Uid = match self.nodes.get_key_value(uid) {
            Some((known, _)) => known.clone(),
            None => uid.into(),
        };
        let before = self.nodes.get(&uid);
        let (was_deleting, was_orphaning) =
            before.map_or((false, false), |node| (node.deleting_dependents, node.orphaning));
        let old_owners = before.map(|node| node.owners.clone()).unwrap_or_default();
        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node {
            identity: Identity {
                api_version: api_version.clone(),
                kind: kind.clone(),
                namespace: meta.namespace.as_deref().unwrap_or_default().into(),
                name: meta.name.as_deref().unwrap_or_default().into(),
            },
            owners: Vec::new(),
            dependents: HashSet::new(),
            being_deleted: false,
            deleting_dependents: false,
            orphaning: false,
            is_virtual: false,
        });
        if node.is_virtual {
            node.is_virtual = false;
            node.identity = Identity {
                api_version: api_version.clone(),
                kind: kind.clone(),
                namespace: meta.namespace.as_deref().unwrap_or_default().into(),
                name: meta.name.as_deref().unwrap_or_default().into(),
            };
        }
        node.owners.clone_from(&owners);
        node.being_deleted |= being_deleted;
        node.deleting_dependents = deleting_dependents;
        node.orphaning = orphaning;
        self.relink(&uid, &old_owners, &owners, meta.namespace.as_deref().unwrap_or_default(), &mut work);
        if orphaning && !was_orphaning {
            work.push(Work::Orphan(uid.clone()));
        }
        if deleting_dependents && !was_deleting {
            work.extend(self.dependents(&uid).into_iter().map(|(dependent, _)| Work::Delete(dependent)));
            work.push(Work::Delete(uid));
        }
        work
    }

    /// Keeps `dependents` of owners in step with the owners of `uid`.
    fn relink(
        &mut self,
        uid: &Uid,
        old: &[OwnerReference],
        new: &[OwnerReference],
        namespace: &str,
        work: &mut Vec<Work>,
    ) {
        let unblocked = |before: &OwnerReference| {
            before.block_owner_deletion == Some(true)
                && !new.iter().any(|owner| owner.uid == before.uid && owner.block_owner_deletion == Some(true))
        };
        for owner in old {
            if !new.iter().any(|kept| kept.uid == owner.uid)
                && let Some(node) = self.nodes.get_mut(owner.uid.as_str())
            {
                node.dependents.remove(uid);
            }
            // An owner that waited for this dependent may go now.
            if unblocked(owner) && self.nodes.get(owner.uid.as_str()).is_some_and(|node| node.deleting_dependents) {
                work.push(Work::Delete(owner.uid.as_str().into()));
            }
        }
        for owner in new.iter().filter(|owner| !old.iter().any(|kept| kept.uid == owner.uid)) {
            if let Some(node) = self.nodes.get_mut(owner.uid.as_str()) {
                node.dependents.insert(uid.clone());
                // The owner is going: so must this one, if nobody else holds it.
                if node.deleting_dependents {
                    work.push(Work::Delete(uid.clone()));
                }
                continue;
            }
            let owner_uid: Uid = owner.uid.as_str().into();
            let node = Node {
                identity: Identity {
                    api_version: owner.api_version.as_str().into(),
                    kind: owner.kind.as_str().into(),
                    namespace: namespace.into(),
                    name: owner.name.as_str().into(),
                },
                owners: Vec::new(),
                dependents: HashSet::from([uid.clone()]),
                being_deleted: false,
                deleting_dependents: false,
                orphaning: false,
                is_virtual: true,
            };
            self.nodes.insert(owner_uid.clone(), node);
            // Unknown so far: its existence must be verified.
            work.push(Work::Delete(owner_uid));
        }
    }

    /// An object is gone.
    pub fn gone(&mut self, uid: &str) -> Vec<Work> {
        let Some((uid, node)) = self.nodes.remove_entry(uid) else { return Vec::new() };
        let mut work = Vec::new();
        for owner in &node.owners {
            if let Some(owner_node) = self.nodes.get_mut(owner.uid.as_str()) {
                owner_node.dependents.remove(&uid);
                if owner_node.deleting_dependents {
                    work.push(Work::Delete(owner.uid.as_str().into()));
                } else if owner_node.is_virtual && owner_node.dependents.is_empty() {
                    self.nodes.remove(owner.uid.as_str());
                }
            }
        }
        work.extend(node.dependents.into_iter().map(Work::Delete));
        work
    }

    /// Dependents of `uid` that it waits for in a foreground deletion.
    pub fn blocking(&self, uid: &str) -> Vec<(Uid, Node)> {
        let mut blocking = self.dependents(uid);
        blocking.retain(|(_, node)| {
            node.owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        });
        blocking
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(uid: &str, owners: &[(&str, bool)], deleting: Option<&str>) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|(uid, block)| json!({"apiVersion": "v1", "kind": "O", "name": uid, "uid": uid, "blockOwnerDeletion": block}))
            .collect();
        serde_json::from_value(json!({
            "name": uid, "namespace": "ns", "uid": uid, "ownerReferences": owners,
            "deletionTimestamp": deleting.map(|_| "2026-01-01T00:00:00Z"), "finalizers": deleting.into_iter().collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    fn see(graph: &mut Graph, meta: &ObjectMeta) -> Vec<Work> {
        graph.seen(&"v1".into(), &"O".into(), meta)
    }

    #[test]
    fn the_dependents_of_a_gone_owner_are_checked() {
        let mut graph = Graph::default();
        see(&mut graph, &meta("owner", &[], None));
        assert!(see(&mut graph, &meta("pod", &[("owner", true)], None)).is_empty());
        assert_eq!(graph.gone("owner"), [Work::Delete("pod".into())]);
    }

    #[test]
    fn an_owner_never_seen_is_verified_once_and_becomes_real_when_seen() {
        let mut graph = Graph::default();
        assert_eq!(see(&mut graph, &meta("pod", &[("owner", true)], None)), [Work::Delete("owner".into())]);
        assert!(graph.get("owner").unwrap().is_virtual);
        see(&mut graph, &meta("owner", &[], None));
        assert!(!graph.get("owner").unwrap().is_virtual);
        assert_eq!(graph.gone("owner"), [Work::Delete("pod".into())]);
    }

    #[test]
    fn foreground_deletion_goes_through_the_dependents_first() {
        let mut graph = Graph::default();
        see(&mut graph, &meta("owner", &[], None));
        see(&mut graph, &meta("pod", &[("owner", true)], None));
        let work = see(&mut graph, &meta("owner", &[], Some(FOREGROUND)));
        assert_eq!(work, [Work::Delete("pod".into()), Work::Delete("owner".into())]);
        assert_eq!(graph.blocking("owner").len(), 1);
        assert_eq!(graph.gone("pod"), [Work::Delete("owner".into())]);
        assert!(graph.blocking("owner").is_empty());
    }

    #[test]
    fn a_dependent_that_no_longer_blocks_wakes_the_waiting_owner() {
        let mut graph = Graph::default();
        see(&mut graph, &meta("owner", &[], Some(FOREGROUND)));
        see(&mut graph, &meta("pod", &[("owner", true)], None));
        assert_eq!(see(&mut graph, &meta("pod", &[("owner", false)], None)), [Work::Delete("owner".into())]);
        assert!(graph.blocking("owner").is_empty());
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut graph = Graph::default();
        see(&mut graph, &meta("owner", &[], None));
        assert_eq!(see(&mut graph, &meta("owner", &[], Some(ORPHAN))), [Work::Orphan("owner".into())]);
        assert!(see(&mut graph, &meta("owner", &[], Some(ORPHAN))).is_empty());
    }

    #[test]
    fn a_released_dependent_is_not_touched_when_the_owner_goes() {
        let mut graph = Graph::default();
        see(&mut graph, &meta("owner", &[], None));
        see(&mut graph, &meta("pod", &[("owner", true)], None));
        see(&mut graph, &meta("pod", &[], None));
        assert!(graph.gone("owner").is_empty());
    }
}
