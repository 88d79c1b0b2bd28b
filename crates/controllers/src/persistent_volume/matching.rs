//! Which PersistentVolume fits a claim. (upstream: component-helpers/storage/volume, FindMatchingVolume)
use crate::claim::{name, namespace, uid};
use crate::selector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use pintle_api::quantity::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The claim's storage class, `None` if it leaves the choice to the default.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// The volume's storage class, empty if it has none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.or_else(|| volume.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str).unwrap_or_default()
}

fn storage(amounts: Option<&BTreeMap<String, ApiQuantity>>) -> Quantity {
    let amount = amounts.and_then(|amounts| amounts.get("storage"));
    amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default()
}

/// How much the claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// True if the volume is reserved for, or bound to, this claim.
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    reference.name.as_deref() == Some(name(claim))
        && reference.namespace.as_deref() == Some(namespace(claim))
        && reference.uid.as_deref().is_none_or(|bound| bound.is_empty() || bound == uid(claim))
}

/// True if one wants a file system and the other a block device.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
        != mode(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
}

fn offers_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| offered.contains(mode))
}

/// Why a volume that the claim names cannot be bound to it.
pub fn objection(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        Some(format!("the volume is marked for deletion {:?}", name(volume)))
    } else if capacity(volume) < requested(claim) {
        Some("requested PV is too small".to_owned())
    } else if volume_class(volume) != claim_class(claim).unwrap_or_default() {
        Some("storageClassName does not match".to_owned())
    } else if attributes_class(volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()))
        != attributes_class(claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()))
    {
        Some("volumeAttributesClassName does not match".to_owned())
    } else if modes_differ(claim, volume) {
        Some("incompatible volumeMode".to_owned())
    } else if !offers_modes(volume, claim) {
        Some("incompatible accessMode".to_owned())
    } else {
        None
    }
}

fn attributes_class(class: Option<&String>) -> &str {
    class.map(String::as_str).unwrap_or_default()
}

/// The volume to bind the claim to: one reserved for it, else the smallest that fits. With `delayed` binding only a reserved
/// one counts: the scheduler chooses among the others.
pub fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    delayed: bool,
) -> Option<Arc<PersistentVolume>> {
    let spec = claim.spec.as_ref()?;
    let usable = |volume: &&Arc<PersistentVolume>| {
        let taken = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) && !is_for(volume, claim);
        !taken
            && capacity(volume) >= requested(claim)
            && !modes_differ(claim, volume)
            && volume.metadata.deletion_timestamp.is_none()
            && attributes_class(volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()))
                == attributes_class(spec.volume_attributes_class_name.as_ref())
    };
    if let Some(reserved) = volumes.iter().filter(usable).find(|volume| is_for(volume, claim)) {
        return Some(reserved.clone());
    }
    if delayed {
        return None;
    }
    let fits = volumes.iter().filter(usable).filter(|volume| {
        let available = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        available
            && volume_class(volume) == claim_class(claim).unwrap_or_default()
            && offers_modes(volume, claim)
            && spec.selector.as_ref().is_none_or(|wanted| selector::matches(wanted, volume.metadata.labels.as_ref()))
    });
    fits.min_by(|one, other| {
        capacity(one).cmp(&capacity(other)).then_with(|| name(one.as_ref()).cmp(name(other.as_ref())))
    })
    .cloned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(in crate::persistent_volume) fn claim(class: Value, size: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "data", "namespace": "ns", "uid": "c"},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
        }))
        .unwrap()
    }

    pub(in crate::persistent_volume) fn volume(named: &str, size: &str, reference: Value) -> Arc<PersistentVolume> {
        let json = json!({
            "metadata": {"name": named, "uid": named},
            "spec": {"storageClassName": "a", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "claimRef": reference},
            "status": {"phase": "Available"},
        });
        Arc::new(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn the_smallest_volume_that_fits_is_chosen() {
        let volumes = [
            volume("big", "10Gi", json!(null)),
            volume("small", "512Mi", json!(null)),
            volume("right", "1Gi", json!(null)),
        ];
        assert_eq!(name(best(&claim(json!("a"), "1Gi"), &volumes, false).unwrap().as_ref()), "right");
        assert_eq!(best(&claim(json!("a"), "1Gi"), &volumes, true), None);
        assert_eq!(best(&claim(json!("b"), "1Gi"), &volumes, false), None);
        assert_eq!(best(&claim(json!("a"), "11Gi"), &volumes, false), None);
    }

    #[test]
    fn a_volume_reserved_for_the_claim_comes_first_and_one_of_another_never() {
        let mine = json!({"namespace": "ns", "name": "data"});
        let other = json!({"namespace": "ns", "name": "data", "uid": "older"});
        let volumes = [volume("other", "1Gi", other), volume("free", "1Gi", json!(null)), volume("mine", "9Gi", mine)];
        assert_eq!(name(best(&claim(json!("a"), "1Gi"), &volumes, true).unwrap().as_ref()), "mine");
    }

    #[test]
    fn a_named_volume_is_refused_with_the_reason() {
        let small = volume("v", "1Mi", json!(null));
        assert_eq!(objection(&small, &claim(json!("a"), "1Gi")).as_deref(), Some("requested PV is too small"));
        let fine = volume("v", "1Gi", json!(null));
        assert_eq!(objection(&fine, &claim(json!(""), "1Gi")).as_deref(), Some("storageClassName does not match"));
        assert_eq!(objection(&fine, &claim(json!("a"), "1Gi")), None);
    }
}
