//! Taint eviction: deletes pods that do not tolerate, or no longer tolerate, a `NoExecute` taint of their node. The decision
//! is [`eviction`]. (upstream: pkg/controller/tainteviction)
use crate::Context;
use crate::claim::name;
use crate::error::{Error, unless_not_found};
use crate::node_lifecycle::{PODS_BY_NODE, node_of, positive};
use crate::node_selector::tolerates;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use pintle_client::informer::{Change, ObjectKey, key_of};
use pintle_client::recorder::EventType::Normal;
use pintle_client::{Recorder, WorkQueue};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;

fn evicting(node: &Node) -> Vec<Taint> {
    let listed = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    listed.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// How long from the start of the taints a pod stays: `None` for ever, zero not at all.
fn eviction(tolerations: &[Toleration], taints: &[Taint]) -> Option<SignedDuration> {
    let mut shortest = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return Some(SignedDuration::ZERO);
        }
        let limit = matching.filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(limit) = limit.map(|seconds| SignedDuration::from_secs(seconds.max(0))) {
            shortest = Some(shortest.map_or(limit, |before: SignedDuration| before.min(limit)));
        }
    }
    shortest
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("node-controller");
    let recorder = Recorder::core(client.clone(), "taint-eviction-controller", "");
    let (all, nodes) = (cx.informers.of::<Pod>(), cx.informers.of::<Node>());
    let by_node = cx.informers.index(PODS_BY_NODE, node_of);
    let queue = WorkQueue::<ObjectKey>::new();
    // Since when each pod's eviction is pending.
    let pending: Arc<Mutex<HashMap<ObjectKey, Timestamp>>> = Arc::default();
    let (added, started) = (queue.clone(), pending.clone());
    all.on_change(move |change| match change {
        Change::Deleted(pod) => {
            started.lock().remove(&key_of(pod.as_ref()));
        }
        Change::Added(pod) if !node_of(pod).is_empty() => added.add(key_of(pod.as_ref())),
        Change::Updated(old, new) => {
            let facts = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.node_name.clone(), spec.tolerations.clone()));
            if facts(old) != facts(new) {
                added.add(key_of(new.as_ref()));
            }
        }
        Change::Added(_) => {}
    });
    let added = queue.clone();
    nodes.on_change(move |change| {
        let before = match change {
            Change::Updated(old, _) => evicting(old),
            _ => Vec::new(),
        };
        if !matches!(change, Change::Deleted(_)) && before != evicting(change.object()) {
            by_node.get(name(change.object().as_ref())).iter().for_each(|pod| added.add(key_of(pod.as_ref())));
        }
    });
    tokio::join!(all.synced(), nodes.synced());
    queue
        .run("taint-eviction", WORKERS, cx.stop, move |key| {
            let (client, recorder, all, nodes, pending) =
                (client.clone(), recorder.clone(), all.clone(), nodes.clone(), pending.clone());
            async move {
                let Some(pod) = all.get(&key.0, &key.1).filter(|pod| !pods::is_deleting(pod)) else {
                    return Ok::<_, Error>(None);
                };
                let node = node_of(&pod).first().and_then(|node| nodes.get("", node));
                let taints = node.map(|node| evicting(&node)).unwrap_or_default();
                let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
                let subject = || {
                    let mut subject = kube::Resource::object_ref(pod.as_ref(), &());
                    subject.resource_version = None;
                    subject
                };
                let Some(stay) = eviction(&tolerations, &taints) else {
                    if pending.lock().remove(&key).is_some() {
                        let text = format!("Cancelling deletion of Pod {}/{}", key.0, key.1);
                        recorder.event_for(subject(), Normal, "TaintManagerEviction", text);
                    }
                    return Ok(None);
                };
                let now = Timestamp::now();
                let since = *pending.lock().entry(key.clone()).or_insert(now);
                let left = stay - now.duration_since(since);
                if left.is_positive() {
                    return Ok(Some(positive(left)));
                }
                let text = format!("Marking for deletion Pod {}/{}", key.0, key.1);
                recorder.event_for(subject(), Normal, "TaintManagerEviction", text);
                evict(Api::namespaced(client, &key.0), &pod).await?;
                pending.lock().remove(&key);
                Ok(None::<Duration>)
            }
        })
        .await;
}

async fn evict(api: Api<Pod>, pod: &Pod) -> Result<(), Error> {
    let mut marked = pod.clone();
    let conditions = marked.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByTaintManager".to_owned()),
        message: Some("Taint manager: deleting due to NoExecute taint".to_owned()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    });
    if unless_not_found(api.replace_status(name(pod), &PostParams::default(), &marked).await)?.is_none() {
        return Ok(());
    }
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    unless_not_found(api.delete(name(pod), &params).await).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stay(tolerations: serde_json::Value, taints: serde_json::Value) -> Option<i64> {
        let (tolerations, taints): (Vec<Toleration>, Vec<Taint>) =
            (serde_json::from_value(tolerations).unwrap(), serde_json::from_value(taints).unwrap());
        eviction(&tolerations, &taints).map(|stay| stay.as_secs())
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let taint = json!([{"key": "a", "value": "b", "effect": "NoExecute"}]);
        assert_eq!(stay(json!([]), json!([])), None);
        assert_eq!(stay(json!([]), taint.clone()), Some(0));
        assert_eq!(stay(json!([{"operator": "Exists"}]), taint.clone()), None);
        assert_eq!(
            stay(json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 300}]), taint.clone()),
            Some(300)
        );
        assert_eq!(stay(json!([{"key": "a", "value": "c"}]), taint.clone()), Some(0));
        assert_eq!(stay(json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]), taint), Some(0));
    }
}
