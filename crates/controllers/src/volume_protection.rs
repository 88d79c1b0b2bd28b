//! The protection of claims and volumes in use: finalizers that hold back their deletion until no pod, or no claim, needs
//! them. (upstream: pkg/controller/volume/pvcprotection, pvprotection)
use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, unless_not_found};
use crate::persistent_volume::{PODS_BY_CLAIM, claims_of};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, ObjectMeta, PostParams};
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, ObjectKey, key_of};
use std::time::Duration;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// The finalizers that an object should have, or `None` if it has them: `finalizer` while it is not being deleted and as long
/// as it is in use.
fn finalizers(meta: &ObjectMeta, finalizer: &str, in_use: impl Fn() -> bool) -> Option<Vec<String>> {
    let mut listed = meta.finalizers.clone().unwrap_or_default();
    let has = listed.iter().any(|candidate| candidate == finalizer);
    match (meta.deletion_timestamp.is_some(), has) {
        (true, true) if !in_use() => listed.retain(|candidate| candidate != finalizer),
        (false, false) => listed.push(finalizer.to_owned()),
        _ => return None,
    }
    Some(listed)
}

/// True if a node may have the pod's volumes mounted: an ended pod holds them until it is deleted.
fn holds_volumes(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

/// Runs the protection of claims until the context stops.
pub(crate) async fn run_claims(cx: Context) {
    let client = cx.clients.controller("pvc-protection-controller");
    let (claims, all_pods) = (cx.informers.of::<PersistentVolumeClaim>(), cx.informers.of::<Pod>());
    let users = cx.informers.index(PODS_BY_CLAIM, claims_of);
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    claims.on_change(move |change| added.add(key_of(change.object().as_ref())));
    let (added, known) = (queue.clone(), claims.clone());
    all_pods.on_change(move |change| {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && holds_volumes(pod) {
            return;
        }
        for key in claims_of(pod) {
            let claim = key.split_once('/').and_then(|(namespace, name)| known.get(namespace, name));
            if let Some(claim) = claim.filter(|claim| claim.metadata.deletion_timestamp.is_some()) {
                added.add(key_of(claim.as_ref()));
            }
        }
    });
    tokio::join!(claims.synced(), all_pods.synced());
    queue
        .run("pvc-protection", 1, cx.stop, move |(in_namespace, named)| {
            let (client, claims, users) = (client.clone(), claims.clone(), users.clone());
            async move {
                let Some(claim) = claims.get(&in_namespace, &named) else { return Ok::<_, Error>(None::<Duration>) };
                let in_use = || users.get(&format!("{in_namespace}/{named}")).iter().any(|pod| holds_volumes(pod));
                let Some(wanted) = finalizers(&claim.metadata, CLAIM, in_use) else { return Ok(None) };
                let mut updated = claim.as_ref().clone();
                updated.metadata.finalizers = Some(wanted);
                let api: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace(&updated));
                unless_not_found(api.replace(&named, &PostParams::default(), &updated).await)?;
                Ok(None)
            }
        })
        .await;
}

/// Runs the protection of volumes until the context stops.
pub(crate) async fn run_volumes(cx: Context) {
    let client = cx.clients.controller("pv-protection-controller");
    let volumes = cx.informers.of::<PersistentVolume>();
    let queue = WorkQueue::<String>::new();
    let added = queue.clone();
    volumes.on_change(move |change| added.add(name(change.object().as_ref()).to_owned()));
    volumes.synced().await;
    queue
        .run("pv-protection", 1, cx.stop, move |named| {
            let (client, volumes) = (client.clone(), volumes.clone());
            async move {
                let Some(volume) = volumes.get("", &named) else { return Ok::<_, Error>(None::<Duration>) };
                let bound = || volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
                let Some(wanted) = finalizers(&volume.metadata, VOLUME, bound) else { return Ok(None) };
                let mut updated = volume.as_ref().clone();
                updated.metadata.finalizers = Some(wanted);
                let api: Api<PersistentVolume> = Api::all(client);
                unless_not_found(api.replace(&named, &PostParams::default(), &updated).await)?;
                Ok(None)
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_protected_object_goes_only_when_it_is_not_in_use() {
        let mut meta = ObjectMeta::default();
        assert_eq!(finalizers(&meta, CLAIM, || true), Some(vec![CLAIM.to_owned()]));
        meta.finalizers = Some(vec![CLAIM.to_owned(), "other".to_owned()]);
        assert_eq!(finalizers(&meta, CLAIM, || false), None);
        meta.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(finalizers(&meta, CLAIM, || true), None);
        assert_eq!(finalizers(&meta, CLAIM, || false), Some(vec!["other".to_owned()]));
    }
}
