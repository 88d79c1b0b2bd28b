//! `pods/log`, `pods/exec`, `pods/attach` and `pods/portforward`, answered by the kubelet of the pod's node.
// upstream: pkg/registry/core/pod/strategy.go, pkg/registry/core/pod/rest
use super::kubelet::Kubelets;
use super::transport::{self, is_upgrade};
use super::websocket;
use crate::authz::default::ClusterAuthorizer;
use crate::authz::{Attributes, Decision};
use crate::body::{Body, request_body};
use crate::query::Query;
use crate::registry::Registry;
use crate::special::{SpecialRequest, SpecialResponse, SpecialRest};
use crate::value::Read;
use async_trait::async_trait;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{GroupKind, GroupResource};
use pintle_api::status::{ApiError, Reason};
use serde_json::Value;

/// How much of a kubelet's error is passed on, in bytes.
const MAX_ERROR: usize = 50_000;

/// `pods/log`.
#[derive(Debug)]
pub struct Logs {
    kubelets: Kubelets,
}

impl Logs {
    /// Logs from `kubelets`.
    pub fn new(kubelets: Kubelets) -> Self {
        Logs { kubelets }
    }
}

#[async_trait]
impl SpecialRest for Logs {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let info = &request.cx.info;
        let query = log_query(&info.query, &info.name)?;
        let pod = pod(&info.namespace, &info.name, registry).await?;
        let container = container(info.query.text("container"), &pod)?;
        let node = pod.field("spec").text("nodeName");
        if node.is_empty() {
            return Ok(SpecialResponse::Raw(text(Body::empty())));
        }
        let backend = self.kubelets.of_node(node, registry).await?;
        let path = format!("/containerLogs/{}/{}/{container}?{query}", info.namespace, info.name);
        let target = path_and_query(&path)?;
        let sent = backend.send(Method::GET, target, &HeaderMap::new(), request_body("")).await;
        let response = sent.map_err(|error| {
            let text = format!("Get \"https://{}{path}\": {error}", backend.address());
            ApiError::new(500, Reason::Unknown, text)
        })?;
        if !response.status().is_success() {
            return Err(kubelet_error(response, &info.name).await);
        }
        let body = transport::answer(response, None).into_body();
        if websocket::is_wanted(&request.parts.headers) {
            return Ok(SpecialResponse::Raw(websocket::answer(request.parts, body)?));
        }
        Ok(SpecialResponse::Raw(text(body)))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "get"
    }
}

fn text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The options of a log request as the kubelet takes them.
fn log_query(query: &Query, name: &str) -> Result<String, ApiError> {
    let mut errors = Vec::new();
    let number = |field: &'static str| -> Result<Option<i64>, ApiError> {
        let Some(text) = query.get(field) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    };
    let (tail, limit, since) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
    let stream = query.get("stream").unwrap_or("All");
    if let Some(tail) = tail.filter(|lines| *lines < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&Path::root("tailLines"), tail, detail));
    }
    if let Some(limit) = limit.filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid(&Path::root("limitBytes"), limit, "must be greater than 0"));
    }
    if since.is_some() && since_time.is_some() {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::root(""), detail));
    } else if let Some(since) = since.filter(|seconds| *seconds < 1) {
        errors.push(FieldError::invalid(&Path::root("sinceSeconds"), since, "must be greater than 0"));
    }
    if !["All", "Stdout", "Stderr"].contains(&stream) {
        let supported = ["All", "Stderr", "Stdout"];
        errors.push(FieldError::not_supported(&Path::root("stream"), stream, &supported));
    } else if stream != "All" && tail.is_some() {
        let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
        errors.push(FieldError::forbidden(&Path::root(""), detail));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(GroupKind { group: "", kind: "PodLogOptions" }, name, &errors));
    }
    let mut params = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            params.push(format!("{flag}=true"));
        }
    }
    for (field, value) in [("tailLines", tail), ("limitBytes", limit), ("sinceSeconds", since)] {
        params.extend(value.map(|value| format!("{field}={value}")));
    }
    params.extend(since_time.map(|time| format!("sinceTime={}", escape(time))));
    params.push(format!("stream={stream}"));
    Ok(params.join("&"))
}

/// A connection to a running container or pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Runs a command.
    Exec,
    /// Joins the container's main process.
    Attach,
    /// Reaches the pod's ports.
    PortForward,
}

/// `pods/exec`, `pods/attach`, `pods/portforward`.
#[derive(Debug)]
pub struct Streams {
    stream: Stream,
    kubelets: Kubelets,
    authorizer: ClusterAuthorizer,
}

impl Streams {
    /// Streams of one sort to `kubelets`.
    pub fn new(stream: Stream, kubelets: Kubelets, authorizer: ClusterAuthorizer) -> Self {
        Streams { stream, kubelets, authorizer }
    }

    /// A WebSocket begins with a `GET`, which does as much as a `POST`: it needs the right to `create`.
    fn check_create(&self, request: &SpecialRequest) -> Result<(), ApiError> {
        let info = &request.cx.info;
        if info.verb == "create" {
            return Ok(());
        }
        let attributes = Attributes { verb: "create".to_owned(), ..Attributes::of_request(&request.cx.user, info) };
        match self.authorizer.decide(&attributes) {
            (Decision::Allow, _) => Ok(()),
            (_, reason) => Err(ApiError::forbidden(GroupResource { group: "", resource: "pods" }, &info.name, reason)),
        }
    }
}

#[async_trait]
impl SpecialRest for Streams {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        self.check_create(&request)?;
        let SpecialRequest { cx, mut parts, body, .. } = request;
        let (namespace, name) = (cx.info.namespace.as_str(), cx.info.name.as_str());
        let pod = pod(namespace, name, registry).await?;
        let path = match self.stream {
            Stream::PortForward => format!("/portForward/{namespace}/{name}{}", ports(&cx.info.query)),
            Stream::Exec | Stream::Attach => {
                let container = container(cx.info.query.text("container"), &pod)?;
                let verb = if self.stream == Stream::Exec { "exec" } else { "attach" };
                format!("/{verb}/{namespace}/{name}/{container}?{}", stream_query(&cx.info.query, self.stream))
            }
        };
        let node = pod.field("spec").text("nodeName");
        if node.is_empty() {
            return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let backend = self.kubelets.of_node(node, registry).await?;
        if !is_upgrade(&parts.headers) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        let client = parts.extensions.remove::<OnUpgrade>();
        let sent = backend.send(parts.method, path_and_query(&path)?, &parts.headers, body).await;
        // A kubelet that refuses to change protocols answers for itself.
        let response = sent.map_err(ApiError::internal)?;
        Ok(SpecialResponse::Raw(transport::answer(response, client)))
    }

    fn handles(&self, verb: &str) -> bool {
        matches!(verb, "get" | "create")
    }
}

fn stream_query(query: &Query, stream: Stream) -> String {
    let mut params = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        // upstream: attach has stdout and stderr unless they are refused
        let unless_refused = stream == Stream::Attach && matches!(ours, "stdout" | "stderr");
        if query.flag(ours) || unless_refused && query.get(ours).is_none() {
            params.push(format!("{theirs}=1"));
        }
    }
    params.extend(query.all("command").map(|word| format!("command={}", escape(word))));
    params.join("&")
}

fn ports(query: &Query) -> String {
    let ports: Vec<&str> = query.all("ports").collect();
    if ports.is_empty() { String::new() } else { format!("?port={}", escape(&ports.join(","))) }
}

async fn pod(namespace: &str, name: &str, registry: &Registry) -> Result<Value, ApiError> {
    let pods = registry.resource("", "pods")?;
    registry.get(&pods, namespace, name).await
}

/// The container that is meant: the one named, or the only one.
fn container<'a>(asked: &'a str, pod: &'a Value) -> Result<&'a str, ApiError> {
    let spec = pod.field("spec");
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let mut names = lists.iter().flat_map(|list| spec.items(list)).map(|container| container.text("name"));
    if !asked.is_empty() {
        return match names.any(|name| name == asked) {
            true => Ok(asked),
            false => {
                let text = format!("container {asked} is not valid for pod {}", pod.name());
                Err(ApiError::bad_request(text))
            }
        };
    }
    match spec.items("containers") {
        [only] => Ok(only.text("name")),
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {}", pod.name()))),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            pod.name(),
            names.collect::<Vec<_>>().join(" ")
        ))),
    }
}

/// A kubelet's refusal, as the client reads it.
// upstream: apiserver pkg/registry/generic/rest, GenericHttpResponseChecker
async fn kubelet_error(response: Response<Incoming>, name: &str) -> ApiError {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ERROR).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&body).trim_end().to_owned();
    let about = format!("( pods/log {name})");
    match status.as_u16() {
        500 => ApiError::internal(text),
        400 => ApiError::bad_request(text),
        404 => {
            ApiError::new(404, Reason::NotFound, format!("the server could not find the requested resource {about}"))
        }
        401 => ApiError::new(
            401,
            Reason::Unauthorized,
            format!("the server has asked for the client to provide credentials {about}"),
        ),
        403 => ApiError::new(403, Reason::Forbidden, text),
        code => ApiError::new(code, Reason::Unknown, if text.is_empty() { status.to_string() } else { text }),
    }
}

fn path_and_query(path: &str) -> Result<PathAndQuery, ApiError> {
    path.parse().map_err(|error| ApiError::bad_request(format!("invalid request path: {error}")))
}

/// Escapes what cannot stand in a query value.
pub(super) fn escape(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => write!(out, "%{byte:02X}").unwrap_or_default(),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b"}]}})
    }

    #[test]
    fn a_container_must_be_named_if_there_are_several() {
        let message = |result: Result<&str, ApiError>| result.unwrap_err().message;
        assert_eq!(
            message(container("", &pod())),
            "a container name must be specified for pod p, choose one of: [i a b]"
        );
        assert_eq!(message(container("x", &pod())), "container x is not valid for pod p");
        assert_eq!(container("i", &pod()).unwrap(), "i");
    }

    #[test]
    fn options_are_passed_on_as_the_kubelet_takes_them() {
        let query = Query::parse("stdin=true&stdout=true&tty=false&command=sh&command=-c&command=echo%20a%26b");
        assert_eq!(stream_query(&query, Stream::Exec), "input=1&output=1&command=sh&command=-c&command=echo%20a%26b");
        let query = Query::parse("follow=true&tailLines=10&sinceTime=2026-01-01T00:00:00Z");
        assert_eq!(
            log_query(&query, "p").unwrap(),
            "follow=true&tailLines=10&sinceTime=2026-01-01T00%3A00%3A00Z&stream=All"
        );
    }

    #[test]
    fn wrong_log_options_are_refused_in_upstreams_words() {
        let message = |query: &str| log_query(&Query::parse(query), "p").unwrap_err().message;
        assert_eq!(
            message("tailLines=-1"),
            r#"PodLogOptions "p" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"#
        );
        assert!(message("sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z").contains("at most one of"));
    }
}
