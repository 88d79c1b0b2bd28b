//! Mirror pods: one object of the API for each static pod, made again when somebody deletes it, removed with the manifest.
use crate::pods::PodExt;
use crate::status_manager::StatusManager;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use pintle_client::Informer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
/// How long to wait after a request that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The mirror pods of a node; clones share them.
#[derive(Clone)]
pub struct Mirrors(Arc<Inner>);

struct Inner {
    client: Client,
    statuses: StatusManager,
    /// By namespace and name.
    pods: Mutex<HashMap<(String, String), Pair>>,
    changed: Notify,
}

#[derive(Clone, Default)]
struct Pair {
    /// The pod that runs here.
    own: Option<Arc<Pod>>,
    /// The API's object.
    mirror: Option<Arc<Pod>>,
}

#[derive(Debug, PartialEq)]
enum Step {
    Create(Arc<Pod>),
    Delete(Arc<Pod>),
}

impl Pair {
    /// What is to do so that the API shows what runs.
    fn step(&self) -> Option<Step> {
        match (&self.own, &self.mirror) {
            (Some(own), None) => Some(Step::Create(own.clone())),
            (own, Some(mirror)) => {
                let hash =
                    |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
                let same = own.as_ref().is_some_and(|own| hash(own, HASH) == hash(mirror, MIRROR));
                (!same || mirror.is_deleting()).then(|| Step::Delete(mirror.clone()))
            }
            (None, None) => None,
        }
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().to_owned(), pod.name().to_owned())
}

impl Mirrors {
    /// Mirrors that are written through `client`; `statuses` gets to know them.
    pub fn new(client: Client, statuses: StatusManager) -> Self {
        Mirrors(Arc::new(Inner { client, statuses, pods: Mutex::default(), changed: Notify::new() }))
    }

    /// A static pod runs here.
    pub fn add(&self, pod: &Arc<Pod>) {
        self.change(key(pod), |pair| pair.own = Some(pod.clone()));
    }

    /// A static pod is to end.
    pub fn remove(&self, pod: &Pod) {
        self.change(key(pod), |pair| {
            if pair.own.as_ref().is_some_and(|own| own.uid() == pod.uid()) {
                pair.own = None;
            }
        });
    }

    /// The API has a mirror pod in this state, or has it no more.
    pub fn observe(&self, mirror: &Arc<Pod>, exists: bool) {
        self.change(key(mirror), |pair| pair.mirror = exists.then(|| mirror.clone()));
    }

    fn change(&self, key: (String, String), change: impl FnOnce(&mut Pair)) {
        let pair = {
            let mut pods = self.0.pods.lock();
            let pair = pods.entry(key.clone()).or_default();
            change(pair);
            let pair = pair.clone();
            if pair.own.is_none() && pair.mirror.is_none() {
                pods.remove(&key);
            }
            pair
        };
        if let (Some(own), Some(mirror), None) = (&pair.own, &pair.mirror, pair.step()) {
            self.0.statuses.observe_mirror(own.uid(), mirror);
        }
        self.0.changed.notify_one();
    }

    /// Keeps the API's objects right until `stop`. `nodes`: this node's object, which owns them.
    pub async fn run(self, nodes: Informer<Node>, node_name: String, stop: CancellationToken) {
        loop {
            let steps: Vec<Step> = self.0.pods.lock().values().filter_map(Pair::step).collect();
            let mut failed = false;
            for step in steps {
                if let Err(error) = self.take(step, &nodes, &node_name).await {
                    tracing::warn!(%error, "cannot write a mirror pod, will retry");
                    failed = true;
                }
            }
            let retry = async {
                match failed {
                    true => tokio::time::sleep(RETRY).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = retry => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn take(&self, step: Step, nodes: &Informer<Node>, node_name: &str) -> Result<(), kube::Error> {
        let api = |pod: &Pod| Api::<Pod>::namespaced(self.0.client.clone(), pod.namespace());
        let result = match step {
            Step::Create(own) => {
                nodes.synced().await;
                // Until the node is registered nobody can own the mirror; its registration wakes this.
                let Some(node) = nodes.get("", node_name) else { return Ok(()) };
                let made = api(&own).create(&PostParams::default(), &mirror_of(&own, &node)).await;
                made.map(|made| self.observe(&Arc::new(made), true))
            }
            Step::Delete(mirror) => {
                let options = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
                    ..Default::default()
                };
                api(&mirror).delete(mirror.name(), &options).await.map(|_| self.observe(&mirror, false))
            }
        };
        match result {
            // Somebody was faster; the watch tells what is there.
            Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(()),
            other => other,
        }
    }

    /// Looks again: the node was registered.
    pub fn wake(&self) {
        self.0.changed.notify_one();
    }
}

fn mirror_of(own: &Pod, node: &Node) -> Pod {
    let mut mirror = own.clone();
    let meta = &mut mirror.metadata;
    meta.uid = None;
    let annotations = meta.annotations.get_or_insert_default();
    let hash = annotations.get(HASH).cloned().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), hash);
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..Default::default()
    }]);
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(annotation: &str, hash: &str, deleting: bool) -> Arc<Pod> {
        let time = deleting.then_some("2026-01-01T00:00:00Z");
        let meta = json!({"name": "p", "annotations": {annotation: hash}, "deletionTimestamp": time});
        Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
    }

    #[test]
    fn the_api_shows_the_manifest_that_runs() {
        let step = |own: Option<Arc<Pod>>, mirror: Option<Arc<Pod>>| Pair { own, mirror }.step();
        let own = pod(HASH, "1", false);
        assert_eq!(step(Some(own.clone()), None), Some(Step::Create(own.clone())));
        assert_eq!(step(Some(own.clone()), Some(pod(MIRROR, "1", false))), None);
        for stale in [pod(MIRROR, "2", false), pod(MIRROR, "1", true)] {
            assert_eq!(step(Some(own.clone()), Some(stale.clone())), Some(Step::Delete(stale)));
        }
        let orphan = pod(MIRROR, "1", false);
        assert_eq!(step(None, Some(orphan.clone())), Some(Step::Delete(orphan)));
    }
}
