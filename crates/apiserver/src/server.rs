//! The request pipeline: who asks, may they, what is it, answer. Start at [`ApiServer::handle`].
mod connect;
mod health;
mod openapi;
mod paths;
mod read;
mod resource;
mod stored;
mod watch;
pub(crate) mod write;

use crate::admission::Admission;
use crate::aggregator::{self, Aggregator};
use crate::audit::Audit;
use crate::authn::Authenticator;
use crate::authn::impersonation::{Impersonated, Impersonation};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::body::{Body, RequestBody};
use crate::compaction;
use crate::context::RequestContext;
use crate::definitions;
use crate::event_ttl;
use crate::flow_control::{self, FlowControl, Permit, Refused};
use crate::metrics::Metrics;
use crate::negotiate::{ACCEPTED, Negotiation, View, header, not_acceptable, with_streams};
use crate::registry::Registry;
use crate::request_info::RequestInfo;
use crate::respond::{self, Shown};
use crate::special::{self, SpecialRequest, SpecialResponse, SpecialRest, Specials};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use pintle_api::field::go_quote;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{GroupResource, Resource};
use pintle_api::status::{ApiError, Reason};
use pintle_api::table::IncludeObject;
use pintle_api::user::UserInfo;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// How long a request that is not a stream may take. upstream: --request-timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the body of a refused request is read.
const REFUSED_BODY_WAIT: Duration = Duration::from_secs(5);

/// Marks a request that comes from within the process, with the identity of the component that makes it.
#[derive(Clone, Debug)]
pub(crate) struct InProcess(pub UserInfo);

/// What an [`ApiServer`] is made of.
pub struct Parts {
    /// All objects.
    pub registry: Registry,
    /// Who asks.
    pub authenticator: Arc<dyn Authenticator>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// The last word on writes.
    pub admission: Arc<dyn Admission>,
    /// Endpoints with behaviour of their own.
    pub specials: Specials,
    /// API servers beside this one, if there may be some.
    pub aggregator: Option<Aggregator>,
    /// What operators switch on.
    pub features: Features,
    /// Ends watches when the server stops.
    pub stop: CancellationToken,
}

/// What operators switch on; nothing of it by default.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Records who did what.
    pub audit: Option<Audit>,
    /// Decides when requests run; without it they run at once.
    pub flow_control: Option<FlowControl>,
}

/// The API server; clones share everything.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    parts: Parts,
    metrics: Metrics,
    openapi: openapi::Documents,
    impersonation: Impersonation,
    draining: AtomicBool,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("registry", &self.0.parts.registry).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// A server of `parts`. Old events and history are removed in the background.
    pub fn new(mut parts: Parts) -> Self {
        special::register_kinds(&mut parts.specials);
        tokio::spawn(compaction::run(parts.registry.store().clone(), parts.stop.clone()));
        tokio::spawn(event_ttl::run(parts.registry.clone(), parts.stop.clone()));
        tokio::spawn(definitions::run(parts.registry.clone(), parts.stop.clone()));
        let metrics = Metrics::default();
        if let Some(audit) = parts.features.audit.clone() {
            metrics.add(move || audit.metrics());
        }
        let (control, stop) = (parts.features.flow_control.clone(), parts.stop.clone());
        if let Some(control) = control.clone() {
            metrics.add(move || control.metrics());
        }
        let server = ApiServer(Arc::new(Inner {
            parts,
            metrics,
            openapi: <_>::default(),
            impersonation: <_>::default(),
            draining: AtomicBool::new(false),
        }));
        if let Some(control) = control {
            tokio::spawn(flow_control::status::run(server.clone(), control, stop));
        }
        server
    }

    /// Says at `/readyz` from now on that the server is about to end, while it still answers everything.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the server is about to end.
    fn is_stopping(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed) || self.parts().stop.is_cancelled()
    }

    /// Waits until what is still to be recorded is where it belongs; for the end of the process.
    pub async fn close(&self) {
        if let Some(audit) = &self.parts().features.audit {
            audit.flush().await;
        }
    }

    /// All objects.
    pub fn registry(&self) -> &Registry {
        &self.0.parts.registry
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    fn openapi_documents(&self) -> &openapi::Documents {
        &self.0.openapi
    }

    /// Shows the metrics that `source` writes at `/metrics`, too.
    pub fn add_metrics(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        self.0.metrics.add(source);
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Answers one request. Never fails: what goes wrong becomes a `Status`, a panic becomes a 500.
    pub fn handle(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle_request(request))
    }

    async fn handle_request(self, request: Request<RequestBody>) -> Response<Body> {
        let started = Instant::now();
        let audit_id = request.headers().get(AUDIT_ID).cloned();
        let audit_id = audit_id.or_else(|| HeaderValue::try_from(uuid::Uuid::new_v4().hyphenated().to_string()).ok());
        let info = RequestInfo::parse(request.method(), request.uri());
        let negotiation = Negotiation::of(request.headers(), &info.query);
        let fallback = negotiation.as_ref().copied().unwrap_or_default();
        let record = self.metrics().begin(&info);
        let answer = self.answer(request, info, negotiation, audit_id.as_ref());
        let answer = AssertUnwindSafe(answer).catch_unwind().await;
        let mut response = answer.unwrap_or_else(|_| {
            tracing::error!("a request handler panicked");
            respond::error(&ApiError::internal("the request handler failed unexpectedly"), &fallback)
        });
        if let Some(audit_id) = audit_id {
            response.headers_mut().insert(AUDIT_ID, audit_id);
        }
        match record.end(response.status(), started.elapsed()) {
            // A watch or stream is under way as long as its body.
            Some(record) => response.map(|body| body.holding(record)),
            None => response,
        }
    }

    async fn answer(
        &self,
        request: Request<RequestBody>,
        info: RequestInfo,
        negotiation: Result<Negotiation, ApiError>,
        audit_id: Option<&HeaderValue>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let within = parts.extensions.remove::<InProcess>();
        let in_process = within.is_some();
        let user = match within {
            Some(InProcess(user)) => Ok(user),
            None => self.parts().authenticator.authenticate(&parts, self.registry()).await,
        };
        self.metrics().authenticated(user.is_ok());
        let audit = self.parts().features.audit.as_ref();
        let begin = |user: &UserInfo| {
            let id = audit_id.and_then(|id| id.to_str().ok()).unwrap_or_default();
            audit.and_then(|audit| audit.begin(user, &info, &parts, id))
        };
        let user = match user {
            Ok(user) => user,
            Err(error) => {
                if let Some(record) = begin(&UserInfo::default()) {
                    record.unauthenticated(&parts).await;
                }
                return refuse(&error, &negotiation.unwrap_or_default(), body).await;
            }
        };
        let record = begin(&user);
        let mut cx = RequestContext::new(user, info);
        header(&parts.headers, USER_AGENT.as_str()).clone_into(&mut cx.user_agent);
        let Some(record) = record else { return self.proceed(cx, negotiation, parts, body, in_process).await };
        if let Err(error) = record.received().await {
            return refuse(&error, &negotiation.unwrap_or_default(), body).await;
        }
        cx.audit = Some(record.clone());
        let answer = Box::pin(self.proceed(cx, negotiation, parts, body, in_process));
        match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(response) => record.answered(response).await,
            Err(panic) => {
                record.panicked(panic_text(&*panic)).await;
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Answers a request whose author is known.
    async fn proceed(
        &self,
        mut cx: RequestContext,
        negotiation: Result<Negotiation, ApiError>,
        parts: http::request::Parts,
        body: RequestBody,
        in_process: bool,
    ) -> Response<Body> {
        let fallback = negotiation.as_ref().copied().unwrap_or_default();
        if !in_process && let Err(error) = self.impersonate(&mut cx, &parts.headers).await {
            return refuse(&error, &fallback, body).await;
        }
        let permit = match self.seat(&cx).await {
            Ok(permit) => permit,
            Err(refused) => {
                drain(body).await;
                return too_many_requests(&refused);
            }
        };
        let mut response = self.permitted(cx, negotiation, parts, body).await;
        if let Some(permit) = permit {
            permit.write_headers(response.headers_mut());
        }
        response
    }

    /// A seat for the request, if it needs one.
    async fn seat(&self, cx: &RequestContext) -> Result<Option<Permit>, Refused> {
        match &self.parts().features.flow_control {
            Some(control) => control.admit(&cx.user, &cx.info, seat_wait(&cx.info)).await,
            None => Ok(None),
        }
    }

    /// Answers a request whose turn it is.
    async fn permitted(
        &self,
        cx: RequestContext,
        negotiation: Result<Negotiation, ApiError>,
        parts: http::request::Parts,
        body: RequestBody,
    ) -> Response<Body> {
        let fallback = negotiation.as_ref().copied().unwrap_or_default();
        if let Err(error) = self.authorize(&cx).await {
            return refuse(&error, &fallback, body).await;
        }
        let limit = if cx.info.is_long_running() { None } else { Some(timeout_of(&cx.info)) };
        if let Some(remote) = self.parts().aggregator.as_ref().and_then(|all| all.remote_for(&cx.info.path)) {
            let pass_on = aggregator::pass_on(&remote, &cx.user, parts, body, self.registry());
            let answer = within(limit, async { Ok(pass_on.await) }).await;
            return answer.unwrap_or_else(|error| respond::error(&error, &fallback));
        }
        let negotiation = match negotiation {
            Ok(negotiation) => negotiation,
            // Streams and plain paths have encodings of their own.
            Err(_) if !cx.info.is_resource_request || cx.info.is_long_running() => Negotiation::default(),
            Err(error) => {
                if self
                    .registry()
                    .scheme()
                    .by_plural(&cx.info.api_group, &cx.info.api_version, &cx.info.resource)
                    .is_none()
                {
                    return respond::error(&ApiError::unknown_path(), &fallback);
                }
                let listed = matches!(cx.info.verb, "list" | "watch");
                return respond::error(&if listed { with_streams(error) } else { error }, &fallback);
            }
        };
        let answer = within(limit, self.route(cx, negotiation, parts, body)).await;
        answer.unwrap_or_else(|error| respond::error(&error, &negotiation))
    }

    /// Lets the request be made by whom its headers ask for.
    async fn impersonate(&self, cx: &mut RequestContext, headers: &http::HeaderMap) -> Result<(), ApiError> {
        let authorizer = &*self.parts().authorizer;
        let found = self.0.impersonation.resolve(&cx.user, &cx.info, headers, authorizer, self.registry()).await?;
        if let Some(Impersonated { user, constraint }) = found {
            if let Some(audit) = &cx.audit {
                audit.impersonated(&user, &constraint);
            }
            cx.user = user;
        }
        Ok(())
    }

    async fn authorize(&self, cx: &RequestContext) -> Result<(), ApiError> {
        let attributes = Attributes::of_request(&cx.user, &cx.info);
        let Some(audit) = &cx.audit else {
            let answer = self.authorize_attributes(attributes).await;
            self.metrics().authorized(answer.is_ok());
            return answer;
        };
        let (decision, reason) = self.parts().authorizer.decide(&attributes, self.registry()).await;
        let allowed = decision == Decision::Allow;
        self.metrics().authorized(allowed);
        audit.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
        audit.annotate("authorization.k8s.io/reason", reason.as_str());
        if allowed { Ok(()) } else { Err(forbidden(&attributes, &reason)) }
    }

    /// Whether the user may also do `verb` with what the request is about.
    pub(crate) async fn authorize_as(&self, cx: &RequestContext, verb: &str) -> Result<(), ApiError> {
        let verb = verb.to_owned();
        self.authorize_attributes(Attributes { verb, ..Attributes::of_request(&cx.user, &cx.info) }).await
    }

    async fn authorize_attributes(&self, attributes: Attributes) -> Result<(), ApiError> {
        match self.parts().authorizer.authorize(&attributes, self.registry()).await {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(&attributes, &reason)),
        }
    }

    async fn route(
        &self,
        cx: RequestContext,
        negotiation: Negotiation,
        parts: http::request::Parts,
        body: RequestBody,
    ) -> Result<Response<Body>, ApiError> {
        if cx.info.is_resource_request {
            let (info, head) = (&cx.info, parts.method == http::Method::HEAD);
            let odd = head && !info.is_long_running() || negotiation.view == View::Discovery;
            let served = || {
                let scheme = self.registry().scheme();
                scheme.by_plural(&info.api_group, &info.api_version, &info.resource).is_some()
            };
            if odd && served() {
                return Err(if head { method_not_allowed() } else { ApiError::not_acceptable(&ACCEPTED) });
            }
            return self.resource(cx, negotiation, parts, body).await;
        }
        if let Some(rest) = self.parts().specials.find_path(&cx.info.path).cloned() {
            return self.special(&*rest, cx, parts, body, negotiation).await;
        }
        self.path(&cx, &negotiation, &parts).await
    }

    pub(crate) async fn special(
        &self,
        rest: &dyn SpecialRest,
        mut cx: RequestContext,
        parts: http::request::Parts,
        body: RequestBody,
        negotiation: Negotiation,
    ) -> Result<Response<Body>, ApiError> {
        let warnings = (cx.info.is_resource_request && !cx.info.is_long_running()).then(|| cx.share_warnings());
        // A scale has a table and metadata of its own.
        let scale =
            (negotiation.view != View::Whole && cx.info.subresource == "scale").then(|| self.scale_of(&cx.info));
        let request = SpecialRequest { cx, parts, body, admission: self.parts().admission.clone() };
        let answer = Box::pin(self.special_answer(rest, request, &negotiation, scale.flatten())).await;
        let Some(warnings) = warnings else { return answer };
        let mut response = answer.unwrap_or_else(|error| respond::error(&error, &negotiation));
        respond::add_warnings(&mut response, &warnings.lock());
        Ok(response)
    }

    async fn special_answer(
        &self,
        rest: &dyn SpecialRest,
        request: SpecialRequest,
        negotiation: &Negotiation,
        scale: Option<Box<Resource>>,
    ) -> Result<Response<Body>, ApiError> {
        match rest.handle(request, self.registry()).await? {
            SpecialResponse::Raw(response) => Ok(response),
            // Reviews are neither stored nor shown in tables.
            SpecialResponse::Object(_, object) if negotiation.view != View::Whole && is_review(&object) => {
                Err(not_acceptable())
            }
            SpecialResponse::Object(status, object) => match scale {
                Some(scale) => {
                    respond::object(status, negotiation, &scale, Shown::Value(&object), IncludeObject::default())
                }
                None => respond::value(status, negotiation, &object),
            },
        }
    }

    fn scale_of(&self, info: &RequestInfo) -> Option<Box<Resource>> {
        let scheme = self.registry().scheme();
        scheme
            .by_plural(&info.api_group, &info.api_version, &info.resource)
            .map(|resource| Box::new(special::scale::as_scale(resource)))
    }
}

/// What a panic says.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default()
}

/// What `answer` comes to, if it does within the limit.
async fn within(
    limit: Option<Result<Duration, ApiError>>,
    answer: impl Future<Output = Result<Response<Body>, ApiError>>,
) -> Result<Response<Body>, ApiError> {
    match limit {
        None => answer.await,
        Some(Err(error)) => Err(error),
        Some(Ok(limit)) => tokio::time::timeout(limit, answer)
            .await
            .unwrap_or_else(|_| Err(ApiError::timeout("request did not complete within the allotted timeout", 0))),
    }
}

fn is_review(object: &serde_json::Value) -> bool {
    object.kind().ends_with("Review")
}

/// Reads the body of a refused request: one that was not read would end its connection.
async fn drain(body: RequestBody) {
    if let Ok(Err(error)) = tokio::time::timeout(REFUSED_BODY_WAIT, crate::codec::read_body(body)).await {
        tracing::debug!(%error, "the body of a refused request");
    }
}

fn too_many_requests(refused: &Refused) -> Response<Body> {
    let text = "Too many requests, please try again later.\n";
    let mut response = respond::raw(StatusCode::TOO_MANY_REQUESTS, "text/plain; charset=utf-8", text);
    refused.write_headers(response.headers_mut());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// How long a request waits for a seat: a quarter of the time that it has.
// upstream: getRequestWaitContext
fn seat_wait(info: &RequestInfo) -> Duration {
    let whole = if info.is_long_running() { REQUEST_TIMEOUT } else { timeout_of(info).unwrap_or(REQUEST_TIMEOUT) };
    whole / 4
}

async fn refuse(error: &ApiError, negotiation: &Negotiation, body: RequestBody) -> Response<Body> {
    drain(body).await;
    let mut response = respond::error(error, negotiation);
    if error.reason == Reason::Unauthorized {
        let realm = HeaderValue::from_static("Basic realm=\"kubernetes-master\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, realm);
    }
    response
}

/// upstream: responsewriters.ForbiddenStatusError.
fn forbidden(attributes: &Attributes, reason: &str) -> ApiError {
    let user = go_quote(&attributes.user.name);
    if !attributes.is_resource_request {
        let text = format!("User {user} cannot {} path {}", attributes.verb, go_quote(&attributes.path));
        return ApiError::forbidden(GroupResource { group: "", resource: "" }, "", with_reason(text, reason));
    }
    let resource = match attributes.subresource.as_str() {
        "" => attributes.resource.clone(),
        subresource => format!("{}/{subresource}", attributes.resource),
    };
    let scope = match attributes.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {}", go_quote(namespace)),
    };
    let text = format!(
        "User {user} cannot {} resource {} in API group {} {scope}",
        attributes.verb,
        go_quote(&resource),
        go_quote(&attributes.group)
    );
    let about = GroupResource { group: &attributes.group, resource: &attributes.resource };
    ApiError::forbidden(about, &attributes.name, with_reason(text, reason))
}

fn with_reason(text: String, reason: &str) -> String {
    if reason.is_empty() { text } else { format!("{text}: {reason}") }
}

/// The `timeout` parameter, at most and by default [`REQUEST_TIMEOUT`].
fn timeout_of(info: &RequestInfo) -> Result<Duration, ApiError> {
    let given = info.query.text("timeout");
    if given.is_empty() {
        return Ok(REQUEST_TIMEOUT);
    }
    let parsed = parse_go_duration(given).ok_or_else(|| {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {}",
            go_quote(given)
        ))
    })?;
    Ok(if parsed.is_zero() { REQUEST_TIMEOUT } else { parsed.min(REQUEST_TIMEOUT) })
}

/// A duration as Go writes it: `30s`, `1m30s`, `1.5h`.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text.strip_prefix('+').unwrap_or(text), 0.0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| digits + at);
        let scale = match &rest[digits..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += rest[..digits].parse::<f64>().ok()? * scale;
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

/// 405, for paths that know no such method.
fn method_not_allowed() -> ApiError {
    let text = "the server does not allow this method on the requested resource";
    let mut error = ApiError::new(405, Reason::MethodNotAllowed, text);
    error.details_mut();
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(parse_go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_go_duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_go_duration("250ms"), Some(Duration::from_millis(250)));
        for wrong in ["", "5", "5x", "s", "-1s", "."] {
            assert_eq!(parse_go_duration(wrong), None, "{wrong}");
        }
    }
}
