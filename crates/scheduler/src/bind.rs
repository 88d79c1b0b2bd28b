//! What follows a decision: volumes are bound or ordered, then the pod is bound to its node.
use crate::lookup::Lookup;
use crate::plugins::volume_binding::ClaimStep;
use crate::pod_info::PodInfo;
use crate::volumes::{SELECTED_NODE, annotation, bound_volume};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;

/// Why a pod could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused.
    #[error("{0}")]
    Api(#[from] Box<kube::Error>),
    /// The volumes were not bound in time.
    #[error("binding volumes: context deadline exceeded")]
    Timeout,
    /// The provisioner gave the claim back: another node has to be found.
    #[error("binding volumes: provisioning failed for PVC \"{0}\"")]
    Reselect(String),
    /// The reserved volume was taken from the claim.
    #[error("binding volumes: ClaimRef got reset for pv \"{0}\"")]
    Lost(String),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Error::Api(Box::new(error))
    }
}

/// Carries out `steps` and waits until the claims are bound; `changes` ticks whenever a claim or volume changed.
pub async fn bind_volumes(
    client: &Client,
    pod: &PodInfo,
    node: &str,
    steps: &[ClaimStep],
    lookup: &Lookup,
    timeout: Duration,
    mut changes: watch::Receiver<u64>,
) -> Result<(), Error> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), pod.namespace());
    for step in steps {
        match step {
            ClaimStep::Provision(claim) => {
                let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: node } } });
                claims.patch(claim, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            ClaimStep::Reserve { claim, volume } => reserve(client, &claims, pod, claim, volume, lookup).await?,
        }
    }
    let mut named = false;
    let bound = async {
        while waits(pod, node, steps, lookup, &mut named)? {
            if changes.changed().await.is_err() {
                return Err(Error::Timeout);
            }
        }
        Ok(())
    };
    tokio::time::timeout(timeout, bound).await.map_err(|_| Error::Timeout)?
}

async fn reserve(
    client: &Client,
    claims: &Api<PersistentVolumeClaim>,
    pod: &PodInfo,
    claim: &str,
    volume: &str,
    lookup: &Lookup,
) -> Result<(), Error> {
    let known = lookup.volumes.get("", volume);
    let reserved = known.as_ref().and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref()?.uid.clone());
    if reserved.is_some_and(|uid| !uid.is_empty()) {
        // Somebody has reserved it for this very claim: the volume controller completes that.
        return Ok(());
    }
    let object = claims.get(claim).await?;
    let reference = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": pod.namespace(), "name": claim,
        "uid": object.metadata.uid, "resourceVersion": object.metadata.resource_version,
    });
    let version = known.and_then(|volume| volume.metadata.resource_version.clone());
    let patch = json!({
        "metadata": { "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" }, "resourceVersion": version },
        "spec": { "claimRef": reference },
    });
    let volumes = Api::<PersistentVolume>::all(client.clone());
    volumes.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Whether a claim is not bound yet, or why it never will be.
fn waits(pod: &PodInfo, node: &str, steps: &[ClaimStep], lookup: &Lookup, named: &mut bool) -> Result<bool, Error> {
    let mut waiting = false;
    for step in steps {
        let (ClaimStep::Provision(name) | ClaimStep::Reserve { claim: name, .. }) = step;
        let Some(claim) = lookup.claims.get(pod.namespace(), name) else { continue };
        if bound_volume(&claim).is_some() {
            continue;
        }
        waiting = true;
        match step {
            ClaimStep::Provision(name) => match annotation(&claim, SELECTED_NODE) {
                Some(selected) if selected == node => *named = true,
                Some(_) => return Err(Error::Reselect(name.clone())),
                // Before the first sight of our own annotation the local copy is old.
                None if *named => return Err(Error::Reselect(name.clone())),
                None => {}
            },
            ClaimStep::Reserve { volume, .. } => {
                if lookup.volumes.get("", volume).is_none() {
                    return Err(Error::Lost(volume.clone()));
                }
            }
        }
    }
    Ok(waiting)
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
