//! The protection of claims, volumes and attributes classes in use: finalizers that hold back their deletion until no pod, or no
//! claim, needs them. (upstream: pkg/controller/volume/pvcprotection, pvprotection, vacprotection)
use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, unless_not_found};
use crate::persistent_volume::{PODS_BY_CLAIM, claims_of};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{Api, ObjectMeta, PostParams};
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, ObjectKey, key_of};
use std::time::Duration;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES_CLASS: &str = "kubernetes.io/vac-protection";
/// Claims, and volumes, by the VolumeAttributesClasses they name.
const BY_ATTRIBUTES_CLASS: &str = "volume-attributes-class";

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

/// The attributes classes that a claim has, wants, or is on its way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target =
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    let mut all: Vec<String> = [wanted, current, target].into_iter().flatten().collect();
    all.sort();
    all.dedup();
    all
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.clone()).collect()
}

/// Runs the protection of attributes classes until the context stops.
pub(crate) async fn run_attributes_classes(cx: Context) {
    let client = cx.clients.controller("volumeattributesclass-protection-controller");
    let classes = cx.informers.of::<VolumeAttributesClass>();
    let (claims, volumes) = (cx.informers.of::<PersistentVolumeClaim>(), cx.informers.of::<PersistentVolume>());
    let by_claim = cx.informers.index(BY_ATTRIBUTES_CLASS, classes_of_claim);
    let by_volume = cx.informers.index(BY_ATTRIBUTES_CLASS, classes_of_volume);
    let queue = WorkQueue::<String>::new();
    let added = queue.clone();
    classes.on_change(move |change| added.add(name(change.object().as_ref()).to_owned()));
    // What no longer names a class may have been the last to do so.
    let added = queue.clone();
    claims.on_change(move |change| {
        if let Change::Updated(old, _) | Change::Deleted(old) = change {
            classes_of_claim(old).into_iter().for_each(|class| added.add(class));
        }
    });
    let added = queue.clone();
    volumes.on_change(move |change| {
        if let Change::Updated(old, _) | Change::Deleted(old) = change {
            classes_of_volume(old).into_iter().for_each(|class| added.add(class));
        }
    });
    tokio::join!(classes.synced(), claims.synced(), volumes.synced());
    queue
        .run("vac-protection", 1, cx.stop, move |named| {
            let (client, classes) = (client.clone(), classes.clone());
            let in_use = by_claim.count(&named) + by_volume.count(&named) > 0;
            async move {
                let Some(class) = classes.get("", &named) else { return Ok::<_, Error>(None::<Duration>) };
                let Some(wanted) = finalizers(&class.metadata, ATTRIBUTES_CLASS, || in_use) else { return Ok(None) };
                let mut updated = class.as_ref().clone();
                updated.metadata.finalizers = Some(wanted);
                let api: Api<VolumeAttributesClass> = Api::all(client);
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

    #[test]
    fn a_claim_uses_the_class_it_has_and_the_one_it_goes_to() {
        let claim: PersistentVolumeClaim = serde_json::from_value(serde_json::json!({
            "spec": {"volumeAttributesClassName": "gold"},
            "status": {
                "currentVolumeAttributesClassName": "silver",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "gold"}}}))
        .unwrap();
        assert_eq!(classes_of_claim(&claim), ["gold", "silver"]);
    }
}
