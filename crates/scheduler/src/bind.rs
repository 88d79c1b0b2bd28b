//! What follows a decision: volumes are bound or ordered, then the pod is bound to its node.
use crate::cache::Cache;
use crate::plugins::reaches;
use crate::pod_info::PodInfo;
use crate::volumes::{ClaimState, SELECTED_NODE, Volumes, claim_names};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::watch;

/// How long a pod's volumes may take to be bound (upstream: `bindTimeoutSeconds`).
const BIND_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a pod could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused.
    #[error("{0}")]
    Api(#[from] Box<kube::Error>),
    /// The volumes were not bound in time.
    #[error("binding volumes: timed out waiting for the condition")]
    Timeout,
    /// The provisioner gave the claim back: another node has to be found.
    #[error("binding volumes: selectedNode annotation reset for PVC \"{0}\"")]
    Reselect(String),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Error::Api(Box::new(error))
    }
}

/// What has to be done about one claim before the pod can be bound.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    /// Name the node to the provisioner.
    Provision(String),
    /// Reserve this volume for the claim.
    Reserve(String, String),
}

/// The steps for the unbound claims of `pod` on `node`: pure.
pub fn claim_steps(pod: &PodInfo, node: &str, cache: &Cache, volumes: &Volumes) -> Vec<ClaimStep> {
    let mut taken = HashSet::new();
    let mut steps = Vec::new();
    for name in claim_names(pod) {
        let Some(claim) = volumes.claims.get(pod.namespace(), &name) else { continue };
        match volumes.state(&claim) {
            ClaimState::Provisionable => steps.push(ClaimStep::Provision(name)),
            ClaimState::Static(candidates) => {
                let free = candidates.iter().find(|volume| {
                    let name = volume.metadata.name.as_deref().unwrap_or_default();
                    !taken.contains(name) && cache.node(node).is_some_and(|node| reaches(volume, node))
                });
                if let Some(volume) = free.and_then(|volume| volume.metadata.name.clone()) {
                    taken.insert(volume.clone());
                    steps.push(ClaimStep::Reserve(name, volume));
                }
            }
            ClaimState::Bound(_) | ClaimState::Lost | ClaimState::Immediate => {}
        }
    }
    steps
}

/// Carries out `steps` and waits until the claims are bound; `changes` ticks whenever a claim or volume changed.
pub async fn bind_volumes(
    client: &Client,
    pod: &PodInfo,
    node: &str,
    steps: &[ClaimStep],
    volumes: &Volumes,
    mut changes: watch::Receiver<u64>,
) -> Result<(), Error> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), pod.namespace());
    for step in steps {
        match step {
            ClaimStep::Provision(claim) => {
                let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: node } } });
                claims.patch(claim, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            ClaimStep::Reserve(claim, volume) => {
                let object = claims.get(claim).await?;
                let reference = json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": pod.namespace(), "name": claim,
                    "uid": object.metadata.uid, "resourceVersion": object.metadata.resource_version,
                });
                let known = volumes.volumes.get("", volume).and_then(|volume| volume.metadata.resource_version.clone());
                let patch = json!({
                    "metadata": { "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" }, "resourceVersion": known },
                    "spec": { "claimRef": reference },
                });
                Api::<PersistentVolume>::all(client.clone())
                    .patch(volume, &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
            }
        }
    }
    let mut named = false;
    let bound = async {
        loop {
            let mut waiting = false;
            for step in steps {
                let (ClaimStep::Provision(name) | ClaimStep::Reserve(name, _)) = step;
                let Some(claim) = volumes.claims.get(pod.namespace(), name) else { continue };
                if matches!(volumes.state(&claim), ClaimState::Bound(_)) {
                    continue;
                }
                waiting = true;
                if let ClaimStep::Provision(name) = step {
                    let selected =
                        claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
                    match selected {
                        Some(_) => named = true,
                        None if named => return Err(Error::Reselect(name.clone())),
                        None => {}
                    }
                }
            }
            if !waiting {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err(Error::Timeout);
            }
        }
    };
    tokio::time::timeout(BIND_TIMEOUT, bound).await.map_err(|_| Error::Timeout)?
}

/// Binds `pod` to `node` by the `binding` subresource.
pub async fn bind_pod(client: &Client, pod: &PodInfo, node: &str) -> Result<(), Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.pod.metadata.name.clone(),
            namespace: pod.pod.metadata.namespace.clone(),
            uid: pod.pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let pods = Api::<Pod>::namespaced(client.clone(), pod.namespace());
    let _: serde_json::Value = pods.create_subresource("binding", pod.name(), &PostParams::default(), &binding).await?;
    Ok(())
}
