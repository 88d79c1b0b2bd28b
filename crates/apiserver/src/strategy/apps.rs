//! Strategies of `apps`.
use super::{
    Strategy, generic,
    rules::{Generation, Rules, Status},
};
use crate::defaults::apps as defaults;
use crate::defaults::apps::TEMPLATE_GENERATION;
use crate::validation::{apps as validation, warnings};
use crate::value::{Fill, Object, Read, same};
use pintle_api::names;
use serde_json::Value;

/// The rules of a kind of `apps`.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Deployment" => &DEPLOYMENT,
        "ReplicaSet" => &REPLICA_SET,
        "StatefulSet" => &STATEFUL_SET,
        "DaemonSet" => &DAEMON_SET,
        "ControllerRevision" => &CONTROLLER_REVISION,
        _ => return None,
    })
}

static DEPLOYMENT: Rules = Rules {
    default: Some(defaults::deployment),
    validate: validation::deployment,
    warnings: warnings::named_workload,
    validate_update: validation::deployment_update,
    validate_status_update: validation::deployment_status,
    generation: Generation::SpecAndAnnotations,
    status_update: |new, old| generic::keep_metadata(new, old, &["labels"]),
    ..Rules::WITH_STATUS
};

static REPLICA_SET: Rules = Rules {
    default: Some(defaults::replica_set),
    validate: validation::replica_set,
    warnings: warnings::named_workload,
    validate_update: validation::replica_set_update,
    validate_status_update: validation::replica_set_status,
    status: Status::Own(|status| status.set("replicas", 0)),
    ..Rules::WITH_STATUS
};

static STATEFUL_SET: Rules = Rules {
    name: names::dns1123_label,
    default: Some(defaults::stateful_set),
    validate: validation::stateful_set,
    warnings: warnings::workload,
    validate_update: validation::stateful_set_update,
    validate_status_update: validation::stateful_set_status,
    status: Status::Own(|status| {
        status.set("replicas", 0);
        status.set("availableReplicas", 0);
    }),
    create: |set| no_max_unavailable(set, &Value::Null),
    update: no_max_unavailable,
    ..Rules::WITH_STATUS
};

/// How many pods an update may make unavailable is off where it is not in use.
fn no_max_unavailable(set: &mut Object, old: &Value) {
    let in_use = old.field("spec").field("updateStrategy").field("rollingUpdate").has("maxUnavailable");
    let strategy = set.child("spec").and_then(|spec| spec.child("updateStrategy"));
    if let (false, Some(rolling)) = (in_use, strategy.and_then(|strategy| strategy.child("rollingUpdate"))) {
        rolling.remove("maxUnavailable");
    }
}

static DAEMON_SET: Rules = Rules {
    default: Some(defaults::daemon_set),
    validate: validation::daemon_set,
    warnings: warnings::workload,
    validate_update: validation::daemon_set_update,
    validate_status_update: validation::daemon_set_status,
    status: Status::Own(|status| {
        for count in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
            status.set(count, 0);
        }
    }),
    create: first_template_generation,
    update: template_generation,
    ..Rules::WITH_STATUS
};

static CONTROLLER_REVISION: Rules = Rules {
    validate: validation::controller_revision,
    validate_update: validation::controller_revision_update,
    ..Rules::PLAIN
};

fn first_template_generation(set: &mut Object) {
    let annotations = set.child_or_new("metadata").child_or_new("annotations");
    let given = annotations.text(TEMPLATE_GENERATION).parse().unwrap_or(0i64);
    annotations.set(TEMPLATE_GENERATION, given.max(1).to_string());
}

fn template_generation(new: &mut Object, old: &Value) {
    let changed = !same(new.field("spec").field("template"), old.field("spec").field("template"));
    let before = old.field("metadata").field("annotations").text(TEMPLATE_GENERATION).parse().unwrap_or(0i64);
    let now = if changed { before + 1 } else { before };
    new.child_or_new("metadata").child_or_new("annotations").set(TEMPLATE_GENERATION, now.to_string());
}
