//! PersistentVolumes: the time of their last change of phase.
use crate::defaults;
use crate::strategy::rules::{Rules, Status};
use crate::validation;
use crate::value::{Fill, Object, Read};
use pintle_api::meta::now;
use serde_json::Value;

/// The rules of PersistentVolumes.
pub(crate) static PERSISTENT_VOLUME: Rules = Rules {
    default: Some(defaults::storage::persistent_volume),
    status: Status::Own(|status| {
        status.set("phase", "Pending");
        status.set("lastPhaseTransitionTime", now());
    }),
    status_update: transition,
    validate: validation::storage::persistent_volume,
    validate_update: validation::storage::persistent_volume_update,
    returns_deleted: true,
    ..Rules::PLAIN
};

fn transition(new: &mut Object, old: &Value) {
    let old = old.field("status");
    let status = new.child_or_new("status");
    let (since, sent) = (old.field("lastPhaseTransitionTime"), status.field("lastPhaseTransitionTime"));
    let same_phase = old.text("phase") == status.text("phase");
    if same_phase && sent.is_null() && !since.is_null() {
        status.set("lastPhaseTransitionTime", since.clone());
    } else if !same_phase && (sent.is_null() || sent == since) {
        status.set("lastPhaseTransitionTime", now());
    }
}
