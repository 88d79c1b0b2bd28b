//! CustomResourceDefinitions: their status, their finalizer, what is refused.
// upstream: apiextensions-apiserver pkg/registry/customresourcedefinition
use super::rules::{Rules, Status};
use crate::defaults::apiextensions;
use crate::definitions::FINALIZER;
use crate::validation::definitions;
use crate::value::{Fill, Object, Read};
use pintle_api::meta;
use serde_json::{Value, json};

/// The rules of definitions.
pub(super) static CUSTOM_RESOURCE_DEFINITION: Rules = Rules {
    default: Some(apiextensions::definition),
    status: Status::Own(|status| {
        status.set("conditions", Value::Null);
        status.set("acceptedNames", json!({"plural": "", "kind": ""}));
    }),
    create: note_storage_version,
    update: |definition, _| note_storage_version(definition),
    validate: definitions::create,
    validate_update: definitions::update,
    validate_status_update: |new, _| definitions::status(new),
    warnings: definitions::warnings,
    standard_finalizers: false,
    unconditional_update: false,
    // A deletion first empties the resource.
    holds_deletion: |definition| !definition.field("metadata").has("deletionTimestamp"),
    mark_deleting: begin_deletion,
    ..Rules::WITH_STATUS
};

/// Keeps account of the versions in which objects were ever stored.
fn note_storage_version(definition: &mut Object) {
    let versions = definition.field("spec").items("versions");
    let storage = versions.iter().find(|version| version.flag("storage")).map(|version| version.field("name").clone());
    let Some(storage) = storage else { return };
    let status = definition.child_or_new("status");
    if status.items("storedVersions").contains(&storage) {
        return;
    }
    let mut stored = status.items("storedVersions").to_vec();
    stored.push(storage);
    status.set("storedVersions", stored);
}

fn begin_deletion(definition: &mut Object) {
    let metadata = definition.child_or_new("metadata");
    // Upstream marks definitions in its own way: neither is there a grace period, nor does the generation rise.
    metadata.remove("deletionGracePeriodSeconds");
    if !metadata.texts("finalizers").any(|finalizer| finalizer == FINALIZER) {
        let generation = metadata.int("generation");
        metadata.set("generation", generation - 1);
        let mut finalizers = metadata.items("finalizers").to_vec();
        finalizers.push(FINALIZER.into());
        metadata.set("finalizers", finalizers);
    }
    let status = definition.child_or_new("status");
    let known = |condition: &Value| condition["type"] == "Terminating" && condition["status"] == "True";
    if status.items("conditions").iter().any(known) {
        return;
    }
    let mut conditions = status.items("conditions").to_vec();
    conditions.retain(|condition| condition["type"] != "Terminating");
    conditions.push(json!({
        "type": "Terminating", "status": "True", "lastTransitionTime": meta::now(), "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    }));
    status.set("conditions", conditions);
}
