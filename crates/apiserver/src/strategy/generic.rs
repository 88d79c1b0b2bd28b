//! The rules of kinds without rules of their own, and pieces that other strategies share.
use super::Strategy;
use crate::value::{Fill, Object, Read};
use serde_json::Value;

/// A kind whose `status`, if it has one, is written through its subresource only.
#[derive(Clone, Copy, Debug)]
pub struct Generic;

impl Strategy for Generic {}

/// Removes the status that a client sent with a new object.
pub fn clear_status(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
}

/// Puts the stored status in the place of the one that a client sent.
pub fn keep_status(new: &mut Value, old: &Value) {
    let Some(new) = new.as_object_mut() else { return };
    match old.get("status") {
        Some(status) => new.insert("status".into(), status.clone()),
        None => new.remove("status"),
    };
}

/// Takes only the status from what a client sent, with the metadata that a status update may carry.
pub fn keep_all_but_status(new: &mut Value, old: &Value) {
    let Some(sent) = new.as_object_mut() else { return };
    let status = sent.remove("status");
    let metadata = sent.remove("metadata");
    *new = old.clone();
    let Some(object) = new.as_object_mut() else { return };
    match status {
        Some(status) => object.insert("status".into(), status),
        None => object.remove("status"),
    };
    if let Some(metadata) = metadata {
        object.insert("metadata".into(), metadata);
    }
}

/// Puts the old values of these fields of the metadata back in place.
pub fn keep_metadata(new: &mut Object, old: &Value, fields: &[&str]) {
    let (metadata, old) = (new.child_or_new("metadata"), old.field("metadata"));
    for field in fields {
        metadata.remove(*field);
        if old.has(field) {
            metadata.set(field, old.field(field).clone());
        }
    }
}

/// What a status update of newer kinds leaves alone in the metadata.
// upstream: apimachinery pkg/apis/meta/v1, ResetObjectMetaForStatus
pub const STATUS_METADATA: &[&str] =
    &["deletionTimestamp", "generation", "selfLink", "labels", "annotations", "finalizers", "ownerReferences"];
