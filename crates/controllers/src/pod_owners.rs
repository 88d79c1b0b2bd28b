//! Which sets a change of a pod concerns: [`observe`] settles their expectations and wakes them.
use crate::claim::{controller_of, namespace, uid};
use crate::expectations::Expectations;
use crate::pods;
use k8s_openapi::api::core::v1::Pod;
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, Informer, Kind, ObjectKey, key_of};

/// The pod's controller, if it is of `kind`.
fn owner(pod: &Pod, kind: &str) -> Option<ObjectKey> {
    let owner = controller_of(pod).filter(|owner| owner.kind == kind)?;
    Some((namespace(pod).to_owned(), owner.name.clone()))
}

/// The sets of `kind` that `change` concerns: the pod's controller, the one it had before, and for an orphan those that
/// `candidates` says would adopt it.
fn concerned(change: &Change<'_, Pod>, kind: &str, candidates: impl FnOnce(&Pod) -> Vec<ObjectKey>) -> Vec<ObjectKey> {
    let pod = change.object();
    let mut keys: Vec<ObjectKey> = owner(pod, kind).into_iter().collect();
    let (mut moved, mut relabelled) = (true, true);
    if let Change::Updated(old, new) = change {
        moved = controller_of(old.as_ref()) != controller_of(new.as_ref());
        relabelled = old.metadata.labels != new.metadata.labels;
        if moved {
            keys.extend(owner(old, kind));
        }
    }
    let orphan = controller_of(pod.as_ref()).is_none() && !matches!(change, Change::Deleted(_));
    if orphan && (moved || relabelled) {
        keys.extend(candidates(pod));
    }
    keys
}

/// Settles expectations by a change of a pod and wakes the sets concerned; `selects` tells if a set would have the pod.
pub fn observe<K: Kind>(
    change: &Change<'_, Pod>,
    expectations: Option<&Expectations>,
    sets: &Informer<K>,
    selects: impl Fn(&K, &Pod) -> bool,
    queue: &WorkQueue<ObjectKey>,
) {
    let (pod, kind) = (change.object(), K::kind(&()));
    if let (Some(expectations), Some(owner)) =
        (expectations, controller_of(pod.as_ref()).filter(|own| own.kind == kind))
    {
        if matches!(change, Change::Added(_)) {
            expectations.created(&owner.uid);
        }
        if matches!(change, Change::Deleted(_)) || pods::is_deleting(pod) {
            expectations.deleted(&owner.uid, uid(pod.as_ref()));
        }
    }
    let candidates = |pod: &Pod| {
        let all = sets.list_namespace(namespace(pod));
        all.iter().filter(|set| selects(set, pod)).map(|set| key_of(set.as_ref())).collect()
    };
    concerned(change, &kind, candidates).into_iter().for_each(|key| queue.add(key));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn pod(owner: Option<&str>, label: &str) -> Arc<Pod> {
        let owners: Vec<_> = owner
            .map(|name| json!({"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": name, "controller": true}))
            .into_iter()
            .collect();
        let meta = json!({"name": "p", "namespace": "ns", "labels": {"a": label}, "ownerReferences": owners});
        Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
    }

    fn names(change: &Change<'_, Pod>) -> Vec<String> {
        concerned(change, "Job", |_| vec![("ns".to_owned(), "adopter".to_owned())])
            .into_iter()
            .map(|(_, name)| name)
            .collect()
    }

    #[test]
    fn an_orphaned_pod_wakes_the_owner_it_had_and_those_that_would_have_it() {
        let (owned, orphan) = (pod(Some("job"), "b"), pod(None, "b"));
        assert_eq!(names(&Change::Updated(&owned, &orphan)), ["job", "adopter"]);
        assert_eq!(names(&Change::Added(&orphan)), ["adopter"]);
        assert_eq!(names(&Change::Updated(&orphan, &pod(None, "c"))), ["adopter"]);
    }

    #[test]
    fn nobody_else_is_woken() {
        let (owned, orphan) = (pod(Some("job"), "b"), pod(None, "b"));
        assert_eq!(names(&Change::Updated(&owned, &owned)), ["job"]);
        assert_eq!(names(&Change::Updated(&orphan, &orphan)), [""; 0], "nothing changed that matters");
        assert_eq!(names(&Change::Deleted(&orphan)), [""; 0]);
    }
}
