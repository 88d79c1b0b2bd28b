//! CertificateSigningRequests: who asks is what the server saw, approval and signature have their own subresources.
// upstream: pkg/registry/certificates/certificates/strategy.go
use super::{Strategy, generic};
use crate::context::RequestContext;
use crate::validation::certificates as validation;
use crate::value::{Fill, Object, Read, object_of};
use pintle_api::{field::FieldError, meta};
use serde_json::{Value, json};

/// The rules of CertificateSigningRequests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requests {
    /// Whether it is the subresource `approval` that is written.
    approval: bool,
}

/// The rules of the resource itself and of its `status`.
pub(super) static REQUEST: Requests = Requests { approval: false };
/// The rules of `approval`.
pub(super) static APPROVAL: Requests = Requests { approval: true };

/// The rules of a kind of `certificates.k8s.io`.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "CertificateSigningRequest" => Some(&REQUEST),
        _ => super::preview::of("certificates.k8s.io", kind),
    }
}

impl Strategy for Requests {
    fn prepare_for_create(&self, cx: &RequestContext, object: &mut Value) {
        let object = object_of(object);
        let spec = object.child_or_new("spec");
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        let user = &cx.user;
        for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
            if !text.is_empty() {
                spec.set(field, text.as_str());
            }
        }
        if !user.groups.is_empty() {
            spec.set("groups", json!(user.groups));
        }
        if !user.extra.is_empty() {
            spec.set("extra", json!(user.extra));
        }
        object.set("status", Object::new());
    }

    fn prepare_for_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        let conditions = self.approval.then(|| {
            stamp_conditions(new, old);
            new.field("status").field("conditions").clone()
        });
        generic::keep_status(new, old);
        let new = object_of(new);
        new.set("spec", old.field("spec").clone());
        if let Some(conditions) = conditions {
            new.child_or_new("status").set("conditions", conditions);
        }
    }

    fn prepare_for_status_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        generic::keep_all_but_status(new, old);
        // Approval has its own subresource: here its conditions stay, or validation finds the difference.
        for kind in ["Approved", "Denied"] {
            keep_conditions(new, old, kind);
        }
        stamp_conditions(new, old);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        validation::request(object)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validation::request_update(
            new,
            old,
            if self.approval { validation::May::Approve } else { validation::May::Nothing },
        )
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validation::request_update(new, old, validation::May::Sign)
    }

    /// Any name will do.
    fn validate_name(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }
}

fn conditions(request: &Value) -> &[Value] {
    request.field("status").items("conditions")
}

/// The old conditions of `kind` in the place of the new ones, if there are as many.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let olds: Vec<Value> = conditions(old).iter().filter(|c| c.text("type") == kind).cloned().collect();
    if conditions(new).iter().filter(|c| c.text("type") == kind).count() != olds.len() {
        return;
    }
    let status = object_of(new).child_or_new("status");
    for (place, old) in status.each("conditions").filter(|c| c.text("type") == kind).zip(olds) {
        if let Value::Object(old) = old {
            *place = old;
        }
    }
}

/// Fills in the times that the client left out.
fn stamp_conditions(new: &mut Value, old: &Value) {
    let now = meta::now();
    for condition in object_of(new).child_or_new("status").each("conditions") {
        condition.fill_zero("lastUpdateTime", now.as_str());
        if condition.is_zero("lastTransitionTime") {
            let same =
                |c: &&Value| c.text("type") == condition.text("type") && c.text("status") == condition.text("status");
            let before = conditions(old).iter().filter(same).find(|c| !c.is_zero("lastTransitionTime"));
            let time = before.map_or_else(|| json!(now), |c| c.field("lastTransitionTime").clone());
            condition.set("lastTransitionTime", time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::RequestInfo;
    use pintle_api::user::UserInfo;

    fn cx() -> RequestContext {
        RequestContext::new(UserInfo::new("system:bootstrap:abc123", &["system:bootstrappers"]), RequestInfo::default())
    }

    #[test]
    fn the_server_says_who_asks_and_nothing_is_approved_at_first() {
        let mut request = json!({"metadata": {}, "spec": {"username": "admin", "groups": ["system:masters"], "uid": "1"},
            "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        REQUEST.prepare_for_create(&cx(), &mut request);
        assert_eq!(request["spec"]["username"], "system:bootstrap:abc123");
        assert_eq!(request["spec"]["groups"], json!(["system:bootstrappers", "system:authenticated"]));
        assert!(!request["spec"].has("uid"));
        assert_eq!(request["status"], json!({}));
    }

    #[test]
    fn each_subresource_changes_its_own_part_only() {
        let old = json!({"metadata": {}, "spec": {"signerName": "a.b/c"}, "status": {"certificate": "b2xk"}});
        let sent = json!({"metadata": {}, "spec": {"signerName": "x.y/z"}, "status": {"certificate": "bmV3",
            "conditions": [{"type": "Approved", "status": "True"}]}});
        let mut main = sent.clone();
        REQUEST.prepare_for_update(&cx(), &mut main, &old);
        assert_eq!((&main["spec"], &main["status"]), (&old["spec"], &old["status"]));
        let mut approval = sent.clone();
        APPROVAL.prepare_for_update(&cx(), &mut approval, &old);
        assert_eq!((&approval["spec"], &approval["status"]["certificate"]), (&old["spec"], &json!("b2xk")));
        assert!(approval["status"]["conditions"][0].has("lastUpdateTime"));
        let mut status = sent.clone();
        REQUEST.prepare_for_status_update(&cx(), &mut status, &old);
        assert_eq!((&status["spec"], &status["status"]["certificate"]), (&old["spec"], &json!("bmV3")));
        assert!(!REQUEST.validate_status_update(&status, &old).is_empty(), "status approves nothing");
    }
}
