//! What is recorded of one request: [`AuditContext`].
// upstream: apiserver pkg/audit/context.go, pkg/endpoints/filters/audit.go
use super::Audit;
use super::backend::Encoded;
use super::event::{AuthenticationMetadata, Event, Level, Stage, now};
use super::policy::RequestConfig;
use crate::body::Body;
use crate::codec;
use crate::listener::Peer;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use pintle_api::meta::ObjectExt;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The largest answer that is read for its status alone, in bytes.
const MAX_STATUS: usize = 64 << 10;

/// The record of a request under way. When the last one who holds it lets go, the request is over.
#[derive(Debug)]
pub struct AuditContext {
    audit: Audit,
    config: RequestConfig,
    long_running: bool,
    event: Mutex<Event>,
    started: AtomicBool,
    completed: AtomicBool,
}

impl AuditContext {
    pub(super) fn new(audit: Audit, config: RequestConfig, long_running: bool, event: Event) -> Self {
        let (started, completed) = (AtomicBool::new(false), AtomicBool::new(false));
        AuditContext { audit, config, long_running, event: Mutex::new(event), started, completed }
    }

    /// How much is recorded.
    pub fn level(&self) -> Level {
        self.config.level
    }

    /// Records that the request came; fails if it must not go on unrecorded.
    pub(crate) async fn received(&self) -> Result<(), ApiError> {
        let Some(event) = self.encoded(Stage::RequestReceived) else { return Ok(()) };
        if self.audit.process(&event).await {
            return Ok(());
        }
        Err(ApiError::internal("failed to store audit event"))
    }

    /// Records as whom the user acts; `constraint` is the verb that gave the right to, where it limits what may be done.
    pub(crate) fn impersonated(&self, user: &UserInfo, constraint: &str) {
        let mut event = self.event.lock();
        event.impersonated_user = Some(user.into());
        if !constraint.is_empty() {
            let impersonation_constraint = constraint.to_owned();
            event.authentication_metadata = Some(AuthenticationMetadata { impersonation_constraint });
        }
    }

    /// Adds an annotation; the first of a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        let mut event = self.event.lock();
        let held = event.annotations.entry(key).or_insert_with(|| value.clone());
        if *held != value {
            tracing::warn!(held, value, "an audit annotation is given twice");
        }
    }

    /// Records the object that was sent, as it was read.
    pub(crate) fn request_object(&self, object: &Value) {
        let mut event = self.event.lock();
        let about = event.object_ref.get_or_insert_default();
        for (held, given) in [
            (&mut about.namespace, object.namespace()),
            (&mut about.name, object.name()),
            (&mut about.uid, object.uid()),
            (&mut about.resource_version, object.resource_version()),
        ] {
            if held.is_empty() {
                given.clone_into(held);
            }
        }
        if self.config.level >= Level::Request {
            event.request_object = Some(self.shown(object.clone()));
        }
    }

    /// Records the patch that was sent.
    pub(crate) fn request_patch(&self, patch: &[u8]) {
        if self.config.level < Level::Request {
            return;
        }
        let json = serde_json::from_slice(patch).ok();
        let yaml = || serde_saphyr::from_str(std::str::from_utf8(patch).ok()?).ok();
        self.event.lock().request_object = json.or_else(yaml);
    }

    /// Records the answer. A request that ends with it is complete; that of a watch or stream lives on in its body.
    pub(crate) async fn answered(self: Arc<Self>, response: Response<Body>) -> Response<Body> {
        self.record_answer(&response);
        if self.long_running {
            self.started.store(true, Ordering::Relaxed);
            self.process(Stage::ResponseStarted).await;
            return response.map(|body| body.holding(self));
        }
        self.completed.store(true, Ordering::Relaxed);
        self.process(Stage::ResponseComplete).await;
        response
    }

    /// Records that nobody could be named by what the request shows.
    pub(crate) async fn unauthenticated(&self, request: &http::request::Parts) {
        let message = attempted(request);
        self.event.lock().response_status = Some(json!({"metadata": {}, "message": message, "code": 401}));
        self.completed.store(true, Ordering::Relaxed);
        self.process(Stage::ResponseStarted).await;
    }

    /// Records that the server failed.
    pub(crate) async fn panicked(&self, why: &str) {
        let message = format!("APIServer panic'd: {why}");
        let status =
            json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500});
        self.event.lock().response_status = Some(status);
        self.completed.store(true, Ordering::Relaxed);
        self.process(Stage::Panic).await;
    }

    async fn process(&self, stage: Stage) {
        if let Some(event) = self.encoded(stage) {
            self.audit.process(&event).await;
        }
    }

    fn record_answer(&self, response: &Response<Body>) {
        let code = response.status();
        let (head, body) = (response.headers(), response.body());
        let content_type = head.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let whole = self.config.level == Level::RequestResponse && !self.long_running;
        let small = body.known_length().is_some_and(|length| length <= MAX_STATUS);
        let deletion = self.event.lock().verb.starts_with("delete");
        let object = if whole || small && (deletion || !code.is_success()) {
            let read = |bytes: bytes::Bytes| codec::decode(content_type.split(';').next()?, &bytes).ok();
            body.content().and_then(read).filter(|object| !object.kind().is_empty())
        } else {
            None
        };
        let mut event = self.event.lock();
        event.response_status = Some(match &object {
            Some(object) if object.kind() == "Status" => status_of(object, code),
            _ => json!({"metadata": {}, "code": code.as_u16()}),
        });
        if whole {
            event.response_object = object.map(|object| self.shown(object));
        }
    }

    /// `object`, without managed fields if the policy says so.
    fn shown(&self, mut object: Value) -> Value {
        if self.config.omit_managed_fields {
            let without = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            without(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(without);
            let rows = object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
            rows.filter_map(|row| row.get_mut("object")).for_each(without);
        }
        object
    }

    /// The event of `stage`, unless the policy omits it.
    fn encoded(&self, stage: Stage) -> Option<Encoded> {
        if self.config.omit_stages.contains(stage) {
            return None;
        }
        let mut event = self.event.lock();
        event.stage = stage;
        if stage != Stage::RequestReceived {
            event.stage_timestamp = now();
        }
        let encoded = Encoded::of(&event, self.audit.size_limit());
        encoded.map_err(|error| tracing::error!(%error, "an audit event cannot be encoded")).ok()
    }
}

impl Drop for AuditContext {
    fn drop(&mut self) {
        if *self.completed.get_mut() {
            return;
        }
        let started = *self.started.get_mut();
        let status = &mut self.event.get_mut().response_status;
        if status.is_none() {
            // The client left before there was an answer.
            *status = Some(json!({
                "metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200
            }));
        }
        for stage in [Stage::ResponseStarted, Stage::ResponseComplete] {
            if stage == Stage::ResponseStarted && (started || !self.long_running) {
                continue;
            }
            if let Some(event) = self.encoded(stage) {
                self.audit.process_later(event);
            }
        }
    }
}

/// The bounded fields of a `Status`.
fn status_of(object: &Value, code: StatusCode) -> Value {
    let mut status = json!({"metadata": {}});
    for field in ["status", "message", "reason", "details", "code"] {
        if let Some(value) = object.get(field) {
            status[field] = value.clone();
        }
    }
    if status["code"].is_null() {
        status["code"] = code.as_u16().into();
    }
    status
}

/// By what a request tried to show who makes it.
// upstream: getAuthMethods
fn attempted(request: &http::request::Parts) -> String {
    let header = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    let scheme = header.split_once(' ').map(|(scheme, _)| scheme).unwrap_or_default();
    let mut methods = Vec::new();
    for known in ["basic", "bearer"] {
        if scheme.eq_ignore_ascii_case(known) {
            methods.push(known);
        }
    }
    if request.extensions.get::<Peer>().is_some_and(|peer| !peer.certificates.is_empty()) {
        methods.push("x509");
    }
    match methods.is_empty() {
        true => "Authentication failed, no credentials provided".to_owned(),
        false => format!("Authentication failed, attempted: {}", methods.join(", ")),
    }
}
