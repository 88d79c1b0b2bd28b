//! Requests to both servers and the differences of their answers so far. Start at [`Session::send`].
use super::compare;
use super::normal::Normal;
use super::report::{Difference, Report};
use super::servers::Servers;
use crate::cluster::client_of;
use anyhow::{Context, Result};
use kube::client::Body;
use serde_json::{Value, json};
use std::time::Duration;

/// The namespace of all namespaced objects of the comparison; `{ns}` in paths and bodies.
pub const NAMESPACE: &str = "diff";

/// A watch that is not ended by then is taken as one that does not end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, without the server.
#[derive(Clone, Debug)]
pub struct Request {
    /// The HTTP method.
    pub method: &'static str,
    /// Path and query.
    pub uri: String,
    /// What `Content-Type` says, if there is a body.
    pub content_type: &'static str,
    /// What `Accept` says.
    pub accept: &'static str,
    /// The body as it is sent to upstream's and to Pintle's server.
    pub bodies: [Vec<u8>; 2],
}

impl Request {
    /// A request with JSON that is the same for both.
    pub fn json(method: &'static str, uri: impl Into<String>, body: &Value) -> Self {
        Self::json_each(method, uri, [body, body])
    }

    /// A request with JSON for each.
    pub fn json_each(method: &'static str, uri: impl Into<String>, bodies: [&Value; 2]) -> Self {
        let bodies = bodies.map(|body| body.to_string().into_bytes());
        Request { bodies, content_type: "application/json", ..Self::plain(method, uri) }
    }

    /// A request without a body.
    pub fn plain(method: &'static str, uri: impl Into<String>) -> Self {
        Request { method, uri: uri.into(), content_type: "", accept: "application/json", bodies: [vec![], vec![]] }
    }

    /// The request with another type of the body.
    pub fn of_type(self, content_type: &'static str) -> Self {
        Request { content_type, ..self }
    }

    /// The request that asks for another representation.
    pub fn accepting(self, accept: &'static str) -> Self {
        Request { accept, ..self }
    }
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers that are compared.
    pub headers: Value,
    /// The body, as text if it is not JSON.
    pub body: Value,
}

/// Both servers and what differed so far.
pub struct Session {
    clients: [kube::Client; 2],
    normal: Normal,
    report: Report,
}

impl Session {
    /// Connects to both servers, takes the controllers' rights and the default StorageClass away and makes the namespace.
    pub async fn open(servers: &Servers) -> Result<Self> {
        let clients =
            [client_of(&servers.upstream_kubeconfig()).await?, client_of(&servers.pintle_kubeconfig()).await?];
        let session = Session { clients, normal: Normal::new()?, report: Report::default() };
        session.take_rights().await?;
        let classes = "/apis/storage.k8s.io/v1/storageclasses";
        session.ask(&Request::plain("DELETE", classes)).await?;
        let metrics = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
        session.ask(&Request::plain("DELETE", metrics)).await?;
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        session.ask(&Request::json("POST", "/api/v1/namespaces", &namespace)).await?;
        let account = json!({"metadata": {"name": "default"}});
        session.ask(&Request::json("POST", "/api/v1/namespaces/{ns}/serviceaccounts", &account)).await?;
        Ok(session)
    }

    /// Removes the bindings of all controllers, on both sides.
    async fn take_rights(&self) -> Result<()> {
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        for (side, answer) in self.ask(&Request::plain("GET", path)).await?.iter().enumerate() {
            for binding in answer.body["items"].as_array().context("a list of bindings")? {
                let name = binding["metadata"]["name"].as_str().unwrap_or_default();
                let controllers =
                    ["system:kube-controller-manager", "system:kube-scheduler", "system:volume-scheduler"];
                if name.starts_with("system:controller:") || controllers.contains(&name) {
                    self.ask_one(side, &Request::plain("DELETE", format!("{path}/{name}"))).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends a request to both and notes how the answers differ; `what` names the request where its path does not.
    pub async fn send(&mut self, what: &str, request: &Request) -> Result<[Answer; 2]> {
        let answers = self.ask(request).await?;
        let mut name = format!("{} {}", request.method, request.uri);
        if !what.is_empty() {
            name = format!("{name} [{what}]");
        }
        self.note(&name, &answers);
        Ok(answers)
    }

    /// Notes how two answers differ.
    pub fn note(&mut self, request: &str, answers: &[Answer; 2]) {
        self.report.compared += 1;
        let [theirs, ours] = answers.each_ref().map(
            |answer| json!({"code": answer.status, "headers": answer.headers, "body": self.normal.apply(&answer.body)}),
        );
        for change in compare::changes(&theirs, &ours) {
            self.report.differences.push(Difference { request: request.to_owned(), change });
        }
    }

    /// Sends a request to both for its effect.
    pub async fn ask(&self, request: &Request) -> Result<[Answer; 2]> {
        Ok([self.ask_one(0, request).await?, self.ask_one(1, request).await?])
    }

    /// Sends a request to one server for its effect.
    pub async fn ask_one(&self, side: usize, request: &Request) -> Result<Answer> {
        let uri = request.uri.replace("{ns}", NAMESPACE);
        let mut builder = http::Request::builder().method(request.method).uri(&uri);
        builder = builder.header("accept", request.accept).header("user-agent", "diff");
        if !request.content_type.is_empty() {
            builder = builder.header("content-type", request.content_type);
        }
        let call = builder.body(Body::from(request.bodies[side].clone())).with_context(|| uri.clone())?;
        let Ok(response) = tokio::time::timeout(PATIENCE, self.clients[side].send(call)).await else {
            return Ok(Answer { status: 0, headers: Value::Null, body: json!("no answer") });
        };
        let (parts, body) = response.with_context(|| uri.clone())?.into_parts();
        let bytes = match tokio::time::timeout(PATIENCE, body.collect_bytes()).await {
            Ok(bytes) => bytes.with_context(|| uri.clone())?,
            Err(_) => "an answer without end".into(),
        };
        let header = |name: &str| -> Vec<String> {
            let values = parts.headers.get_all(name).iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        };
        let headers = json!({"content-type": header("content-type"), "warning": header("warning")});
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Ok(Answer { status: parts.status.as_u16(), headers, body })
    }

    /// What differed.
    pub fn into_report(self) -> Report {
        self.report
    }
}
