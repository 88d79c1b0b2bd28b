//! Strategies of kinds that exist in alpha and beta versions only.
use super::{
    Strategy, generic,
    rules::{Generation, Rules, Status},
};
use crate::value::{Fill, Object, Read};
use serde_json::Value;

/// The rules of such a kind.
pub(super) fn of(group: &str, kind: &str) -> Option<&'static dyn Strategy> {
    Some(match (group, kind) {
        ("certificates.k8s.io", "ClusterTrustBundle") => &CLUSTER_TRUST_BUNDLE,
        ("certificates.k8s.io", "PodCertificateRequest")
        | ("internal.apiserver.k8s.io", "StorageVersion")
        | ("storagemigration.k8s.io", "StorageVersionMigration") => &CONDITIONAL_WITH_STATUS,
        ("coordination.k8s.io", "LeaseCandidate") => &LEASE_CANDIDATE,
        ("resource.k8s.io", "DeviceTaintRule") => &DEVICE_TAINT_RULE,
        ("resource.k8s.io", "ResourcePoolStatusRequest") => &RESOURCE_POOL_STATUS_REQUEST,
        ("scheduling.k8s.io", "PodGroup") => &POD_GROUP,
        _ => return None,
    })
}

static CLUSTER_TRUST_BUNDLE: Rules = Rules { unconditional_update: false, ..Rules::PLAIN };

/// A status of its own, and metadata that only the object itself changes.
const WITH_STATUS: Rules = Rules {
    status: Status::Own(|_| {}),
    status_update: |new, old| generic::keep_metadata(new, old, generic::STATUS_METADATA),
    ..Rules::PLAIN
};

static CONDITIONAL_WITH_STATUS: Rules = Rules { unconditional_update: false, ..WITH_STATUS };

static LEASE_CANDIDATE: Rules = Rules { create_on_update: true, unconditional_update: false, ..Rules::PLAIN };

static POD_GROUP: Rules = WITH_STATUS;

static DEVICE_TAINT_RULE: Rules = Rules {
    default: Some(|rule| {
        if let Some(taint) = rule.child("spec").and_then(|spec| spec.child("taint")) {
            taint.fill("timeAdded", now());
        }
    }),
    update: time_of_effect,
    generation: Generation::Spec,
    returns_deleted: true,
    ..WITH_STATUS
};

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A taint whose effect changes counts from then on.
fn time_of_effect(rule: &mut Object, old: &Value) {
    let before = old.field("spec").field("taint");
    let Some(taint) = rule.child("spec").and_then(|spec| spec.child("taint")) else { return };
    if taint.text("effect") != before.text("effect") && taint.field("timeAdded") == before.field("timeAdded") {
        taint.set("timeAdded", now());
    }
}

/// Nobody has looked yet, which is not the same as an empty status.
static RESOURCE_POOL_STATUS_REQUEST: Rules = Rules {
    default: Some(|request| request.child_or_new("spec").fill("limit", 100)),
    create: |request| _ = request.remove("status"),
    status: Status::KeptByUpdates,
    status_update: |new, old| generic::keep_metadata(new, old, generic::STATUS_METADATA),
    unconditional_update: false,
    returns_deleted: true,
    ..Rules::PLAIN
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::RequestContext;
    use serde_json::json;

    #[test]
    fn the_time_of_a_taint_is_that_of_its_effect() {
        let mut rule = json!({"metadata": {}, "spec": {"taint": {"key": "k", "effect": "NoSchedule"}}});
        DEVICE_TAINT_RULE.default(&mut rule);
        assert!(rule["spec"]["taint"]["timeAdded"].is_string());
        rule["spec"]["taint"]["timeAdded"] = json!("2020-01-01T00:00:00Z");
        let (old, cx) = (rule.clone(), RequestContext::default());
        rule["spec"]["taint"]["value"] = json!("v");
        DEVICE_TAINT_RULE.prepare_for_update(&cx, &mut rule, &old);
        assert_eq!(rule["spec"]["taint"]["timeAdded"], "2020-01-01T00:00:00Z");
        rule["spec"]["taint"]["effect"] = json!("NoExecute");
        DEVICE_TAINT_RULE.prepare_for_update(&cx, &mut rule, &old);
        assert_ne!(rule["spec"]["taint"]["timeAdded"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn a_new_request_about_pools_has_no_status() {
        let mut request = json!({"metadata": {}, "spec": {"driver": "d"}, "status": {"poolCount": 1}});
        RESOURCE_POOL_STATUS_REQUEST.default(&mut request);
        RESOURCE_POOL_STATUS_REQUEST.prepare_for_create(&RequestContext::default(), &mut request);
        assert_eq!(request, json!({"metadata": {}, "spec": {"driver": "d", "limit": 100}}));
    }
}
