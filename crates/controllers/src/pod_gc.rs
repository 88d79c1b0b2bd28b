//! Pod garbage collection: pods of nodes that are gone, pods deleted before they got a node, and ended pods above the limit.
//! The decision is [`decide`]. (upstream: pkg/controller/podgc)
use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, unless_not_found};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, ObjectKey, key_of};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Ended pods that are kept (upstream: `--terminated-pod-gc-threshold`).
const KEEP_ENDED: usize = 12500;
/// A node that comes back within this time keeps its pods.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Why a pod must go.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    /// Its node does not exist.
    Orphaned,
    /// It is being deleted and has no node whose kubelet could end it.
    Unscheduled,
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn decide(pod: &Pod, node_exists: bool) -> Option<Reason> {
    match node_of(pod) {
        "" if pods::is_deleting(pod) => Some(Reason::Unscheduled),
        "" => None,
        _ if !node_exists => Some(Reason::Orphaned),
        _ => None,
    }
}

/// The ended pods above `keep`, oldest first.
fn excess(mut ended: Vec<Arc<Pod>>, keep: usize) -> Vec<Arc<Pod>> {
    ended.retain(|pod| pods::is_terminal(pod));
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    ended.truncate(ended.len().saturating_sub(keep));
    ended
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("pod-garbage-collector");
    let (all, nodes) = (cx.informers.of::<Pod>(), cx.informers.of::<Node>());
    let queue = WorkQueue::<ObjectKey>::new();
    let (added, known, ended) = (queue.clone(), nodes.clone(), all.clone());
    all.on_change(move |change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) {
            return;
        }
        match decide(pod, known.get("", node_of(pod)).is_some()) {
            Some(Reason::Unscheduled) => added.add(key_of(pod.as_ref())),
            Some(Reason::Orphaned) => added.add_after(key_of(pod.as_ref()), QUARANTINE),
            None => {}
        }
        let ends = matches!(change, Change::Updated(old, new) if !pods::is_terminal(old) && pods::is_terminal(new));
        if ends {
            excess(ended.list(), KEEP_ENDED).iter().for_each(|pod| added.add(key_of(pod.as_ref())));
        }
    });
    let (added, known) = (queue.clone(), all.clone());
    nodes.on_change(move |change| {
        if let Change::Deleted(node) = change {
            for pod in known.list().iter().filter(|pod| node_of(pod) == name(node.as_ref())) {
                added.add_after(key_of(pod.as_ref()), QUARANTINE);
            }
        }
    });
    tokio::join!(all.synced(), nodes.synced());
    queue
        .run("pod-gc", 1, cx.stop, move |(in_namespace, named)| {
            let (client, all, nodes) = (client.clone(), all.clone(), nodes.clone());
            async move {
                let Some(pod) = all.get(&in_namespace, &named) else { return Ok::<_, Error>(None) };
                let node = node_of(&pod);
                let mut exists = nodes.get("", node).is_some();
                if !node.is_empty() && !exists {
                    // The local copy may be behind: pods must not die for that.
                    exists = Api::<Node>::all(client.clone()).get_metadata_opt(node).await?.is_some();
                }
                let reason = decide(&pod, exists);
                let too_many = || {
                    excess(all.list(), KEEP_ENDED).iter().any(|other| key_of(other.as_ref()) == key_of(pod.as_ref()))
                };
                if reason.is_none() && !too_many() {
                    return Ok(None);
                }
                let api: Api<Pod> = Api::namespaced(client, namespace(pod.as_ref()));
                if !pods::is_terminal(&pod) {
                    let patch = Patch::Strategic(failure(&pod, reason == Some(Reason::Orphaned), Timestamp::now()));
                    if unless_not_found(api.patch_status(&named, &PatchParams::default(), &patch).await)?.is_none() {
                        return Ok(None);
                    }
                }
                let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                unless_not_found(api.delete(&named, &params).await)?;
                Ok(None)
            }
        })
        .await;
}

/// A patch that makes the pod failed, so that its controller counts it so; disrupted if its node went away.
fn failure(pod: &Pod, orphaned: bool, now: Timestamp) -> Value {
    let mut patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed"}});
    if orphaned {
        patch["status"]["conditions"] = json!([{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": Time(now),
        }]);
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;

    #[test]
    fn pods_go_with_their_node_and_when_no_kubelet_can_end_them() {
        assert_eq!(decide(&pod("a", true), false), Some(Reason::Orphaned));
        assert_eq!(decide(&pod("a", true), true), None);
        let mut unscheduled = pod("b", false);
        unscheduled.spec.as_mut().unwrap().node_name = None;
        assert_eq!(decide(&unscheduled, false), None);
        unscheduled.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(decide(&unscheduled, false), Some(Reason::Unscheduled));
    }

    #[test]
    fn only_ended_pods_above_the_limit_are_too_many() {
        let mut ended = pod("a", false);
        ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let all = vec![Arc::new(ended), Arc::new(pod("b", true))];
        assert_eq!(excess(all.clone(), 0).len(), 1);
        assert!(excess(all, 1).is_empty());
    }

    #[test]
    fn a_pod_of_a_lost_node_is_a_disruption_target() {
        let status = &failure(&pod("a", true), true, Timestamp::UNIX_EPOCH)["status"];
        assert_eq!(status["conditions"][0]["reason"], "DeletionByPodGC");
        assert_eq!(status["phase"], "Failed");
        assert!(failure(&pod("a", true), false, Timestamp::UNIX_EPOCH)["status"].get("conditions").is_none());
    }
}
