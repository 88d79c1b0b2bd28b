//! Defaults of volumes, claims and `storage.k8s.io`.
use super::pod_spec::volume_source;
use crate::value::{Fill, Object};
use serde_json::json;

/// Fills in a PersistentVolume.
pub(crate) fn persistent_volume(object: &mut Object) {
    object.child_or_new("status").fill_zero("phase", "Pending");
    let spec = object.child_or_new("spec");
    spec.fill_zero("persistentVolumeReclaimPolicy", "Retain");
    spec.fill("volumeMode", "Filesystem");
    volume_source(spec);
}

/// Fills in a PersistentVolumeClaim.
pub(crate) fn persistent_volume_claim(object: &mut Object) {
    claim(object);
}

/// Fills in a claim, also where it is a template in another object.
pub(crate) fn claim(object: &mut Object) {
    object.child_or_new("status").fill_zero("phase", "Pending");
    let spec = object.child_or_new("spec");
    spec.fill("volumeMode", "Filesystem");
    spec.fill("resources", json!({}));
}

/// Fills in a StorageClass.
pub(crate) fn storage_class(object: &mut Object) {
    object.fill("reclaimPolicy", "Delete");
    object.fill("volumeBindingMode", "Immediate");
}

/// Fills in a CSIDriver.
pub(crate) fn csi_driver(object: &mut Object) {
    let spec = object.child_or_new("spec");
    spec.fill("attachRequired", true);
    spec.fill("podInfoOnMount", false);
    spec.fill("storageCapacity", false);
    spec.fill("fsGroupPolicy", "ReadWriteOnceWithFSType");
    spec.fill_zero("volumeLifecycleModes", json!(["Persistent"]));
    spec.fill("requiresRepublish", false);
    spec.fill("seLinuxMount", false);
}
