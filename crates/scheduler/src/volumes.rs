//! Claims and volumes: how far a claim is, and which volume would do for it.
use crate::selector::{NodeRequirement, Selector};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use std::sync::Arc;

/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Set on a claim: the node whose storage the provisioner is to use.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Set on a claim once its binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// The class of a claim; empty if it has none.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let annotations = claim.metadata.annotations.as_ref();
    let beta = annotations.and_then(|a| a.get("volume.beta.kubernetes.io/storage-class")).map(String::as_str);
    beta.or_else(|| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())).unwrap_or_default()
}

/// An annotation of a claim.
pub fn annotation<'a>(claim: &'a PersistentVolumeClaim, name: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name)).map(String::as_str)
}

/// The volume that the claim is bound to for good.
pub fn bound_volume(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim, BIND_COMPLETED)?;
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty())
}

/// How much storage a claim asks for, in bytes.
pub fn wanted(claim: &PersistentVolumeClaim) -> Option<i64> {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage"))?;
    Some(pintle_api::quantity::Quantity::parse(&size.0).map_or(0, pintle_api::quantity::Quantity::value))
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let size = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    size.and_then(|size| pintle_api::quantity::Quantity::parse(&size.0).ok())
        .map_or(0, pintle_api::quantity::Quantity::value)
}

/// Whether a volume can be used on a node of that name and labels.
pub fn reaches(volume: &PersistentVolume, node: &crate::cache::NodeInfo) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|selector| NodeRequirement::of_selector(selector).matches(node.name(), node.labels()))
}

/// The volume for `claim` on a node: one reserved for it, or else the smallest free one that `usable` lets through (upstream:
/// `FindMatchingVolume`).
pub fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    usable: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let reserved = |volume: &&Arc<PersistentVolume>| {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        reference.is_some_and(|reference| is_for(reference, claim)) && suits(volume, claim) && usable(volume)
    };
    let free = |volume: &&Arc<PersistentVolume>| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let unclaimed = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none());
        unclaimed && phase == Some("Available") && suits(volume, claim) && usable(volume)
    };
    let reserved = volumes.iter().find(reserved);
    reserved.or_else(|| volumes.iter().filter(free).min_by_key(|volume| capacity(volume)))
}

/// Whether a volume's reference means the claim.
fn is_for(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
}

/// Whether the volume is what the claim asks for, apart from where it is.
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(volume_spec), Some(claim_spec)) = (&volume.spec, &claim.spec) else { return false };
    let modes = claim_spec.access_modes.iter().flatten();
    volume.metadata.deletion_timestamp.is_none()
        && volume_spec.storage_class_name.as_deref().unwrap_or("") == class_of(claim)
        && volume_spec.volume_mode.as_deref().unwrap_or("Filesystem")
            == claim_spec.volume_mode.as_deref().unwrap_or("Filesystem")
        && volume_spec.volume_attributes_class_name.as_deref().unwrap_or("")
            == claim_spec.volume_attributes_class_name.as_deref().unwrap_or("")
        && capacity(volume) >= wanted(claim).unwrap_or(0)
        && modes.clone().all(|mode| volume_spec.access_modes.iter().flatten().any(|offered| offered == mode))
        && claim_spec
            .selector
            .as_ref()
            .is_none_or(|selector| Selector::new(selector).matches(volume.metadata.labels.as_ref()))
}

/// The name of the claim behind a volume of `pod`, if there is one.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name)),
        (None, None) => None,
    }
}
