//! `AdmissionReview`, both ways. Start at [`request`] and [`verdict`].
// upstream: apiserver pkg/admission/plugin/webhook/request
use super::configuration::Webhook;
use super::status_error;
use crate::admission::matching::Event;
use crate::admission::matching::conditions;
use crate::value::Read;
use base64::Engine;
use bytes::Bytes;
use pintle_api::field::go_quote;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use serde_json::{Value, json};

/// A review to be sent.
pub(super) struct Review {
    uid: String,
    version: &'static str,
    pub body: Bytes,
}

/// What a webhook answered.
pub(super) struct Verdict {
    /// The status, if it refuses.
    pub refusal: Option<Value>,
    /// The JSON patch of a mutating webhook.
    pub patch: Option<Value>,
    pub warnings: Vec<String>,
    pub audit_annotations: Vec<(String, String)>,
}

/// The review that asks `webhook` about `event` in the version of `resource`.
pub(super) fn request(
    webhook: &Webhook,
    event: &Event<'_>,
    resource: &Resource,
    object: Option<&Value>,
) -> Result<Review, String> {
    let known =
        "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
    let version = webhook.review_version.ok_or(known)?;
    let uid = uuid::Uuid::new_v4().hyphenated().to_string();
    let in_version = |object: Option<&Value>| match object {
        None => Ok(Value::Null),
        Some(object) => event.in_version(object, resource).map_err(|error| error.to_string()),
    };
    let mut request = conditions::request(event, resource);
    request["uid"] = uid.as_str().into();
    request["object"] = in_version(object)?;
    request["oldObject"] = in_version(event.attributes.old)?;
    let review =
        json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request});
    Ok(Review { uid, version, body: review.to_string().into() })
}

/// Reads an answer.
// upstream: VerifyAdmissionResponse
pub(super) fn verdict(webhook: &Webhook, review: &Review, answer: &[u8]) -> Result<Verdict, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let response = answer.field("response");
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    if review.version == "v1" {
        let uid = response.text("uid");
        if uid != review.uid {
            return Err(format!("expected response.uid={}, got {}", go_quote(&review.uid), go_quote(uid)));
        }
        if answer.api_version() != "admission.k8s.io/v1" || answer.kind() != "AdmissionReview" {
            let given = format!("{}, Kind={}", answer.api_version(), answer.kind());
            return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {given}"));
        }
        let (patch, patch_type) = (!response.is_zero("patch"), response.has("patchType"));
        match (webhook.mutating, patch, patch_type) {
            (false, true, _) => return Err("validating webhook may not return response.patch".to_owned()),
            (false, _, true) => return Err("validating webhook may not return response.patchType".to_owned()),
            (true, true, false) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (true, false, true) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            _ => {}
        }
        if patch_type && response.text("patchType") != "JSONPatch" {
            return Err(format!("unsupported patch type {}", go_quote(response.text("patchType"))));
        }
    }
    let allowed = response.flag("allowed");
    let patch = if webhook.mutating && allowed { patch(response.text("patch"))? } else { None };
    let annotations = response.entries("auditAnnotations");
    Ok(Verdict {
        refusal: (!allowed).then(|| response.field("status").clone()),
        patch,
        warnings: response.texts("warnings").map(str::to_owned).collect(),
        audit_annotations: annotations
            .map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
    })
}

fn patch(encoded: &str) -> Result<Option<Value>, String> {
    if encoded.is_empty() {
        return Ok(None);
    }
    let undecodable = |why: &dyn std::fmt::Display| format!("received undecodable patch in webhook response: {why}");
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|error| undecodable(&error))?;
    let patch: Value = serde_json::from_slice(&bytes).map_err(|error| undecodable(&error))?;
    if patch.is_array() { Ok(Some(patch)) } else { Err(undecodable(&"not a list of operations")) }
}

/// The error of a webhook that refuses with `status`.
// upstream: webhook/errors, ToStatusErr
pub(super) fn refusal(webhook: &str, status: &Value) -> ApiError {
    let denied = format!("admission webhook {} denied the request", go_quote(webhook));
    let message = match (status.text("message"), status.text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    status_error(status, message)
}
