//! Strategies of the core group.
pub(crate) mod namespace;
pub(crate) mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub(crate) mod pod;
pub(crate) mod service;

use super::{
    Strategy,
    rules::{Generation, Rules, Status},
};
use crate::defaults;
use crate::validation::{apps, core as validation, pod as pods};
use crate::value::{Fill, Object, Read};
use serde_json::{Value, json};

/// The rules of a kind of the core group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Pod" => &pod::POD,
        "Service" => &service::SERVICE,
        "ConfigMap" => &CONFIG_MAP,
        "Secret" => &SECRET,
        "Namespace" => &namespace::NAMESPACE,
        "Node" => &NODE,
        "Event" => &EVENT,
        "Endpoints" => &ENDPOINTS,
        "LimitRange" => &LIMIT_RANGE,
        "ResourceQuota" => &RESOURCE_QUOTA,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        "PersistentVolume" => &persistent_volume::PERSISTENT_VOLUME,
        "PersistentVolumeClaim" => &persistent_volume_claim::PERSISTENT_VOLUME_CLAIM,
        "ReplicationController" => &REPLICATION_CONTROLLER,
        "PodTemplate" => &POD_TEMPLATE,
        _ => return None,
    })
}

/// ReplicationControllers.
static REPLICATION_CONTROLLER: Rules = Rules {
    default: Some(defaults::core::replication_controller),
    validate: apps::replication_controller,
    validate_update: apps::replication_controller_update,
    validate_status_update: apps::replica_set_status,
    status: Status::Own(|status| status.set("replicas", 0)),
    orphans_dependents: true,
    ..Rules::WITH_STATUS
};

/// PodTemplates.
static POD_TEMPLATE: Rules = Rules {
    validate: pods::pod_template,
    validate_update: |new, _| pods::pod_template(new),
    default: Some(defaults::core::pod_template),
    generation: Generation::Fields(&["template"]),
    returns_deleted: true,
    ..Rules::PLAIN
};

/// Nodes; the kubelet creates them with their status.
static NODE: Rules = Rules {
    validate: validation::node,
    validate_update: validation::node_update,
    validate_status_update: validation::node_update,
    default: Some(defaults::core::node),
    status: Status::KeptByUpdates,
    ..Rules::PLAIN
};

/// Events.
static EVENT: Rules =
    Rules { validate: validation::event, create_on_update: true, garbage_collection: false, ..Rules::PLAIN };

/// Endpoints.
static ENDPOINTS: Rules = Rules {
    validate: validation::endpoints,
    validate_update: |new, _| validation::endpoints(new),
    default: Some(defaults::core::endpoints),
    create_on_update: true,
    ..Rules::PLAIN
};

/// LimitRanges.
/// A LimitRange without a name gets one.
// upstream: limitrangeStrategy.PrepareForCreate
fn named_by_chance(range: &mut Object) {
    let metadata = range.child_or_new("metadata");
    if metadata.is_zero("name") {
        metadata.set("name", uuid::Uuid::new_v4().hyphenated().to_string());
    }
}

static LIMIT_RANGE: Rules = Rules {
    validate: validation::limit_range,
    validate_update: |new, _| validation::limit_range(new),
    default: Some(defaults::core::limit_range),
    create: named_by_chance,
    create_on_update: true,
    ..Rules::PLAIN
};

/// ResourceQuotas.
static RESOURCE_QUOTA: Rules = Rules {
    validate: validation::resource_quota,
    validate_update: validation::resource_quota_update,
    validate_status_update: validation::resource_quota_status,
    status: Status::Own(|_| {}),
    returns_deleted: true,
    ..Rules::PLAIN
};

/// Secrets.
static SECRET: Rules = Rules {
    validate: validation::secret,
    validate_update: validation::secret_update,
    default: Some(defaults::core::secret),
    ..Rules::PLAIN
};

/// ConfigMaps.
static CONFIG_MAP: Rules =
    Rules { validate: validation::config_map, validate_update: validation::config_map_update, ..Rules::PLAIN };

/// ServiceAccounts.
static SERVICE_ACCOUNT: Rules =
    Rules { create: only_secret_names, update: |new, _| only_secret_names(new), returns_deleted: true, ..Rules::PLAIN };

/// A service account names its secrets and says nothing else about them.
fn only_secret_names(account: &mut Object) {
    for secret in account.each("secrets") {
        let name = secret.text("name").to_owned();
        secret.retain(|_, _| false);
        if !name.is_empty() {
            secret.set("name", name);
        }
    }
}

/// Sets a condition of a status, keeping the time of its last transition if its status stays.
pub(crate) fn set_condition(status: &mut Object, kind: &str, value: &str, reason: &str, message: &str, now: &str) {
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    let index = list.iter().position(|c| c.text("type") == kind);
    let old = index.map(|i| &list[i]);
    let since = old.filter(|c| c.text("status") == value && c.has("lastTransitionTime"));
    let since = since.map_or_else(|| json!(now), |c| c.field("lastTransitionTime").clone());
    let mut condition =
        json!({"type": kind, "status": value, "lastProbeTime": Value::Null, "lastTransitionTime": since});
    if let Some(condition) = condition.as_object_mut() {
        for (key, text) in [("reason", reason), ("message", message)] {
            if !text.is_empty() {
                condition.set(key, text);
            }
        }
    }
    match index {
        Some(i) => list[i] = condition,
        None => list.push(condition),
    }
}
