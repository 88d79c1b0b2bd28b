//! Strategies of the core group.
pub(crate) mod namespace;
pub(crate) mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub(crate) mod pod;

use super::rules::{Generation, Rules, Status};
use crate::value::{Fill, Object, Read};
use serde_json::{Value, json};

/// ReplicationControllers.
pub(super) static REPLICATION_CONTROLLER: Rules = Rules {
    status: Status::Own(|status| status.set("replicas", 0)),
    orphans_dependents: true,
    ..Rules::WITH_STATUS
};

/// PodTemplates.
pub(super) static POD_TEMPLATE: Rules =
    Rules { generation: Generation::FieldsAndLabels(&["template"]), ..Rules::PLAIN };

/// Nodes; the kubelet creates them with their status.
pub(super) static NODE: Rules = Rules { status: Status::KeptByUpdates, ..Rules::PLAIN };

/// Events.
pub(super) static EVENT: Rules = Rules { create_on_update: true, ..Rules::PLAIN };

/// Endpoints and LimitRanges.
pub(super) static CREATED_BY_UPDATE: Rules = Rules { create_on_update: true, ..Rules::PLAIN };

/// ResourceQuotas.
pub(super) static RESOURCE_QUOTA: Rules = Rules { status: Status::Own(|_| {}), ..Rules::PLAIN };

/// Secrets.
pub(super) static SECRET: Rules = Rules { ..Rules::PLAIN };

/// ServiceAccounts.
pub(super) static SERVICE_ACCOUNT: Rules =
    Rules { create: only_secret_names, update: |new, _| only_secret_names(new), ..Rules::PLAIN };

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
    let mut condition = json!({"type": kind, "status": value, "lastProbeTime": Value::Null, "lastTransitionTime": since});
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
