//! An API server in process on the embedded store, where everyone may do everything.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
#![allow(dead_code, reason = "each test program uses a part")]
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use pintle_api::scheme::Scheme;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use pintle_apiserver::admission::{Admission, Attributes, ClusterAdmission};
use pintle_apiserver::aggregator::Aggregator;
use pintle_apiserver::authn::Authenticator;
use pintle_apiserver::authz::default::ClusterAuthorizer;
use pintle_apiserver::authz::{self, Authorizer, Decision};
use pintle_apiserver::body::Body;
use pintle_apiserver::flow_control::FlowControl;
use pintle_apiserver::registry::Registry;
use pintle_apiserver::special::Specials;
use pintle_apiserver::{ApiServer, Features, Parts};
use pintle_store::embedded::{EmbeddedStore, Options};
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tower::Service;

struct Everyone;

#[async_trait]
impl Authenticator for Everyone {
    async fn authenticate(&self, _: &http::request::Parts, _: &Registry) -> Result<UserInfo, ApiError> {
        Ok(UserInfo::new("admin", &["system:masters"]))
    }
}

#[async_trait]
impl Authorizer for Everyone {
    async fn authorize(&self, attributes: &authz::Attributes, _: &Registry) -> Decision {
        if attributes.user.name == "nobody" { Decision::NoOpinion(String::new()) } else { Decision::Allow }
    }
}

#[async_trait]
impl Admission for Everyone {
    async fn admit(&self, _: &Attributes<'_>, _: Option<&mut Value>, _: &Registry) -> Result<(), ApiError> {
        Ok(())
    }

    async fn validate(&self, _: &Attributes<'_>, _: Option<&Value>, _: &Registry) -> Result<(), ApiError> {
        Ok(())
    }
}

pub struct Server {
    pub api: ApiServer,
    pub stop: CancellationToken,
    _directory: Option<tempfile::TempDir>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The object, if the request succeeded.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text);
        self.json()
    }

    /// Code, reason and message of a failure.
    #[track_caller]
    pub fn failure(&self) -> (u16, String, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{}", self.text);
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), text("reason"), text("message"))
    }
}

impl Server {
    pub fn start() -> Self {
        Self::with_specials(Specials::default())
    }

    pub fn with_specials(specials: Specials) -> Self {
        Self::with(specials, Arc::new(Everyone))
    }

    pub fn with(specials: Specials, admission: Arc<dyn Admission>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let stop = CancellationToken::new();
        let registry = Registry::new(Arc::new(store), Scheme::builtin(), stop.clone());
        let server = Self::of(registry, specials, admission, None, stop);
        Server { _directory: Some(directory), ..server }
    }

    /// A server where `seats` requests run at the same time.
    pub async fn flow_controlled(seats: usize) -> Self {
        Self::with_features_of(async |registry, stop| {
            let flow_control = Some(FlowControl::start(registry, seats, stop).await.unwrap());
            Features { flow_control, ..Features::default() }
        })
        .await
    }

    /// A server with what operators switch on, and the namespace `default`.
    pub async fn with_features(features: Features) -> Self {
        Self::with_features_of(async |_, _| features).await
    }

    async fn with_features_of(features: impl AsyncFnOnce(&Registry, &CancellationToken) -> Features) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let stop = CancellationToken::new();
        let registry = Registry::new(Arc::new(store), Scheme::builtin(), stop.clone());
        let features = features(&registry, &stop).await;
        let api = ApiServer::new(Parts {
            registry,
            authenticator: Arc::new(Everyone),
            authorizer: Arc::new(Everyone),
            admission: Arc::new(ClusterAdmission::without_rights()),
            specials: Specials::default(),
            aggregator: None,
            features,
            stop: stop.clone(),
        });
        let server = Server { api, stop, _directory: Some(directory) };
        server.post("/api/v1/namespaces", &serde_json::json!({"metadata": {"name": "default"}})).await.ok();
        server
    }

    /// A server with all admission plugins, webhooks, policies and quotas among them, and the namespace `default`.
    pub async fn admitting() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let stop = CancellationToken::new();
        let registry = Registry::new(Arc::new(store), Scheme::builtin(), stop.clone());
        let admission = ClusterAdmission::start(ClusterAuthorizer::default(), &registry, &stop).await.unwrap();
        let server = Self::of(registry, Specials::default(), Arc::new(admission), None, stop);
        server.post("/api/v1/namespaces", &serde_json::json!({"metadata": {"name": "default"}})).await.ok();
        Server { _directory: Some(directory), ..server }
    }

    pub fn of(
        registry: Registry,
        specials: Specials,
        admission: Arc<dyn Admission>,
        aggregator: Option<Aggregator>,
        stop: CancellationToken,
    ) -> Self {
        let api = ApiServer::new(Parts {
            registry,
            authenticator: Arc::new(Everyone),
            authorizer: Arc::new(Everyone),
            admission,
            specials,
            aggregator,
            features: Features::default(),
            stop: stop.clone(),
        });
        Server { api, stop, _directory: None }
    }

    pub async fn send(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.api.service(UserInfo::new("admin", &["system:masters"])).call(request).await.unwrap()
    }

    pub async fn call(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let response = self.send(method, uri, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    /// The body of an answer as it is.
    pub async fn bytes(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> Bytes {
        self.send(method, uri, headers, "").await.into_body().collect().await.unwrap().to_bytes()
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.call("GET", uri, &[], "").await
    }

    pub async fn post(&self, uri: &str, object: &Value) -> Answer {
        self.call("POST", uri, &[], object.to_string()).await
    }

    pub async fn put(&self, uri: &str, object: &Value) -> Answer {
        self.call("PUT", uri, &[], object.to_string()).await
    }

    pub async fn delete(&self, uri: &str) -> Answer {
        self.call("DELETE", uri, &[], "").await
    }

    pub async fn merge(&self, uri: &str, patch: &Value) -> Answer {
        self.call("PATCH", uri, &[("content-type", "application/merge-patch+json")], patch.to_string()).await
    }
}

/// The lines of a watch.
pub struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    pub async fn open(server: &Server, uri: &str) -> Self {
        Self::of(server.send("GET", uri, &[], "").await)
    }

    pub fn of(response: http::Response<Body>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(frame.data_ref().unwrap());
        }
    }

    /// Type and name of the next event.
    pub async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}
