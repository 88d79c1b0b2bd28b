//! StorageObjectInUseProtection: volumes and claims that are in use outlive their deletion.
// upstream: plugin/pkg/admission/storage/storageobjectinuseprotection
use pintle_api::meta::ObjectExt;
use serde_json::Value;

pub(super) fn protect(object: &mut Value, finalizer: &str) {
    if !object.has_finalizer(finalizer) {
        let finalizers: Vec<String> = object.finalizers().map(str::to_owned).chain([finalizer.to_owned()]).collect();
        object.set_finalizers(finalizers);
    }
}
