//! Errors of the API as `metav1.Status`, with the reasons, codes and texts of upstream's `errors` package. Start at
//! [`ApiError`].
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    field::{FieldError, aggregate, go_quote},
    scheme::{GroupKind, GroupResource},
};

/// `metav1.StatusReason`: what machines read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the reasons of the API")]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    #[default]
    #[serde(rename = "", other)]
    Unknown,
}

/// One cause of a failure, `metav1.StatusCause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A machine-readable cause such as `FieldValueInvalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What a person reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The path of the field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What a failure is about, `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// The name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural resource name, or for invalid objects the kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The UID of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The causes, one per field of an invalid object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// After how many seconds the client should try again; also sent as the header `Retry-After`.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A failed request. Encodes as `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",…}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// What machines read.
    pub reason: Reason,
    /// What a person reads.
    pub message: String,
    /// What the failure is about.
    pub details: Option<Box<Details>>,
}

/// The wire form.
#[derive(Serialize)]
struct Wire<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    status: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "reason_is_unknown")]
    reason: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Details>,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn reason_is_unknown(reason: &Reason) -> bool {
    *reason == Reason::Unknown
}

impl Serialize for ApiError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Failure",
            message: &self.message,
            reason: self.reason,
            details: self.details.as_deref(),
            code: self.code,
        }
        .serialize(serializer)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: GroupResource<'_>, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            group: resource.group.into(),
            kind: resource.resource.into(),
            name: name.into(),
            ..Details::default()
        }));
        self
    }

    /// The details, made if there are none.
    pub fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// The error with a cause more.
    #[must_use]
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.details_mut().causes.push(cause);
        self
    }

    /// The error with a hint when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details_mut().retry_after_seconds = seconds;
        self
    }

    /// The Status object.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a Status has only strings and numbers")
    }

    /// The Status object as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a Status has only strings and numbers")
    }

    /// `pods "a" not found`.
    pub fn not_found(resource: GroupResource<'_>, name: &str) -> Self {
        let message = format!("{resource} {} not found", go_quote(name));
        Self::new(404, Reason::NotFound, message).about(resource, name)
    }

    /// The path is none that the server knows (no resource, no subresource).
    pub fn unknown_path() -> Self {
        let mut error = Self::new(404, Reason::NotFound, "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    /// `pods "a" already exists`.
    pub fn already_exists(resource: GroupResource<'_>, name: &str) -> Self {
        let message = format!("{resource} {} already exists", go_quote(name));
        Self::new(409, Reason::AlreadyExists, message).about(resource, name)
    }

    /// No free name was found for `generateName`.
    pub fn generate_name_conflict(resource: GroupResource<'_>, name: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            go_quote(name)
        );
        let error = Self::new(409, Reason::AlreadyExists, message).about(resource, name);
        error.with_retry_after(retry_after_seconds)
    }

    /// No (valid) credentials; an empty message reads `not authorized`.
    pub fn unauthorized(message: &str) -> Self {
        Self::new(401, Reason::Unauthorized, if message.is_empty() { "not authorized" } else { message })
    }

    /// `pods "a" is forbidden: <why>`.
    pub fn forbidden(resource: GroupResource<'_>, name: &str, why: impl fmt::Display) -> Self {
        let message = if resource.group.is_empty() && resource.resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", go_quote(name))
        };
        Self::new(403, Reason::Forbidden, message).about(resource, name)
    }

    /// `Operation cannot be fulfilled on pods "a": <why>`.
    pub fn conflict(resource: GroupResource<'_>, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", go_quote(name));
        Self::new(409, Reason::Conflict, message).about(resource, name)
    }

    /// The conflict of an update with an outdated `resourceVersion`.
    pub fn object_modified(resource: GroupResource<'_>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// Conflicts of server-side apply.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        let mut error = Self::new(409, Reason::Conflict, message);
        error.details_mut().causes = causes;
        error
    }

    /// The thing is gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message)
    }

    /// The requested `resourceVersion` or `continue` token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// `Pod "a" is invalid: <errors>`, with one cause per error.
    pub fn invalid(kind: GroupKind<'_>, name: &str, errors: &[FieldError]) -> Self {
        let name_quoted = go_quote(name);
        let message = if errors.is_empty() {
            format!("{kind} {name_quoted} is invalid")
        } else {
            format!("{kind} {name_quoted} is invalid: {}", aggregate(errors))
        };
        let causes = errors.iter().map(|e| Cause {
            reason: e.error_type.reason().into(),
            message: e.body(),
            field: e.field.clone(),
        });
        let details = Details {
            group: kind.group.into(),
            kind: kind.kind.into(),
            name: name.into(),
            causes: causes.collect(),
            ..Details::default()
        };
        ApiError { details: Some(Box::new(details)), ..Self::new(422, Reason::Invalid, message) }
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// The client should slow down.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message).with_retry_after(retry_after_seconds)
    }

    /// The server cannot answer now.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// `<action> is not supported on resources of kind "pods"`.
    pub fn method_not_supported(resource: GroupResource<'_>, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", go_quote(&resource.to_string()));
        Self::new(405, Reason::MethodNotAllowed, message).about(resource, "")
    }

    /// An operation did not finish in time and may be tried again.
    pub fn server_timeout(resource: GroupResource<'_>, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        let error = Self::new(500, Reason::ServerTimeout, message).about(resource, operation);
        error.with_retry_after(retry_after_seconds)
    }

    /// `Internal error occurred: <why>`.
    pub fn internal(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        let error = Self::new(500, Reason::InternalError, format!("Internal error occurred: {why}"));
        error.with_cause(Cause { message: why, ..Cause::default() })
    }

    /// `Timeout: <message>`.
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}")).with_retry_after(retry_after_seconds)
    }

    /// A request body above the limit of `limit` bytes.
    pub fn request_entity_too_large(limit: usize) -> Self {
        Self::too_large(format!("limit is {limit}"))
    }

    /// `Request entity too large: <message>`.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
    }

    /// The body's content type is none of `accepted`.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    /// The client accepts none of `accepted`.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, Reason::NotAcceptable, message)
    }

    /// Whether this says that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    /// Whether this says that an object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    /// Whether this is a conflict of versions or field managers.
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }
}

/// The Status that a successful deletion answers.
pub fn deleted(resource: GroupResource<'_>, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.into(),
        group: resource.group.into(),
        kind: resource.resource.into(),
        uid: uid.into(),
        ..Details::default()
    };
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;
    use serde_json::json;

    const PODS: GroupResource<'_> = GroupResource { group: "", resource: "pods" };
    const DEPLOYMENTS: GroupResource<'_> = GroupResource { group: "apps", resource: "deployments" };

    #[test]
    fn not_found_is_encoded_as_upstream_does() {
        assert_eq!(
            String::from_utf8(ApiError::not_found(DEPLOYMENTS, "web").to_json()).unwrap(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" not found","reason":"NotFound","details":{"name":"web","group":"apps","kind":"deployments"},"code":404}"#
        );
    }

    #[test]
    fn invalid_lists_a_cause_per_field() {
        let spec = Path::root("spec");
        let errors = [FieldError::required(&spec.child("selector"), ""), FieldError::invalid(&spec, -1, "bad")];
        let error = ApiError::invalid(GroupKind { group: "apps", kind: "Deployment" }, "web", &errors);
        assert_eq!(
            error.to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422,
                "reason": "Invalid",
                "message": "Deployment.apps \"web\" is invalid: [spec.selector: Required value, spec: Invalid value: -1: bad]",
                "details": {"name": "web", "group": "apps", "kind": "Deployment", "causes": [
                    {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.selector"},
                    {"reason": "FieldValueInvalid", "message": "Invalid value: -1: bad", "field": "spec"},
                ]},
            })
        );
    }

    #[test]
    fn texts_are_upstreams() {
        let nobody = GroupResource { group: "", resource: "" };
        assert_eq!(ApiError::forbidden(nobody, "", "x").message, "forbidden: x");
        assert_eq!(ApiError::forbidden(PODS, "", "x").message, "pods is forbidden: x");
        assert_eq!(
            ApiError::object_modified(PODS, "a").message,
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again"
        );
        assert_eq!(
            ApiError::method_not_supported(DEPLOYMENTS, "create").message,
            "create is not supported on resources of kind \"deployments.apps\""
        );
        assert_eq!(ApiError::request_entity_too_large(3).message, "Request entity too large: limit is 3");
        assert_eq!(ApiError::new(500, Reason::Unknown, "x").to_value().get("reason"), None);
    }
}
