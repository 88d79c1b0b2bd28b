//! The kubelet's own HTTPS server: logs, exec, attach, port-forward, pods, statistics and metrics.
// upstream: pkg/kubelet/server
mod access;
mod configz;
mod logs;
mod metrics;
mod stats;
mod streaming;

use crate::config::ServerConfig;
use crate::kubelet::Kubelet;
use crate::pods::PodExt;
use crate::worker::Workers;
use access::Access;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Pod;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A body that is known or streams.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What requests are answered from.
pub struct Server {
    pub kubelet: Arc<Kubelet>,
    pub workers: Workers,
    access: Access,
    cpu_rate: stats::Rate,
}

/// A failed request: status code and text.
pub struct Failure(pub StatusCode, pub String);

impl Failure {
    fn not_found(text: impl Into<String>) -> Self {
        Failure(StatusCode::NOT_FOUND, text.into())
    }
    fn bad_request(text: impl Into<String>) -> Self {
        Failure(StatusCode::BAD_REQUEST, text.into())
    }
    fn internal(text: impl Into<String>) -> Self {
        Failure(StatusCode::INTERNAL_SERVER_ERROR, text.into())
    }
}

impl Server {
    /// A server that asks the API who may do what.
    pub fn new(kubelet: Arc<Kubelet>, workers: Workers, client: kube::Client) -> Self {
        let access = Access::new(client, kubelet.config.node_name.clone());
        Server { kubelet, workers, access, cpu_rate: stats::Rate::default() }
    }

    /// Serves until `stop`.
    pub async fn run(self, listener: TcpListener, config: ServerConfig, stop: CancellationToken) {
        let (this, acceptor) = (Arc::new(self), TlsAcceptor::from(config.tls));
        loop {
            let accepted = tokio::select! { accepted = listener.accept() => accepted, () = stop.cancelled() => return };
            match accepted {
                Ok((stream, _)) => {
                    let (this, acceptor, stop) = (this.clone(), acceptor.clone(), stop.clone());
                    tokio::spawn(async move { stop.run_until_cancelled(this.connection(stream, acceptor)).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of descriptors: others must close first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let user = certificate.and_then(|certificate| access::user_of(certificate));
        let service = service_fn(move |request: Request<Incoming>| {
            let (this, user) = (self.clone(), user.clone());
            async move { Ok::<_, Infallible>(this.answer(request, user).await) }
        });
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>, user: Option<access::User>) -> Response<Body> {
        match self.route(request, user).await {
            Ok(response) => response,
            Err(Failure(status, text)) => plain(status, text),
        }
    }

    async fn route(&self, request: Request<Incoming>, user: Option<access::User>) -> Result<Response<Body>, Failure> {
        let path = request.uri().path().to_owned();
        self.access.check(&request, user).await?;
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "syncloop" | "log"] if read => Ok(plain(StatusCode::OK, "ok")),
            ["pods"] if read => Ok(json(&pod_list(&self.workers.pods()))),
            ["runningpods"] if read => {
                let mut pods = self.workers.pods();
                pods.retain(|pod| pod.phase() == "Running");
                Ok(json(&pod_list(&pods)))
            }
            ["containerLogs", namespace, pod, container] if read => {
                self.container_logs(namespace, pod, container, request.uri().query().unwrap_or_default()).await
            }
            ["stats", "summary"] if read => Ok(json(&self.summary().await?)),
            ["metrics"] if read => Ok(plain(StatusCode::OK, self.own_metrics())),
            ["metrics", "cadvisor"] if read => Ok(plain(StatusCode::OK, self.container_metrics().await?)),
            ["metrics", "probes"] if read => Ok(plain(StatusCode::OK, "")),
            ["configz"] if read => Ok(json(&configz::document(&self.kubelet.config))),
            ["metrics", "resource"] if read => Ok(plain(StatusCode::OK, self.resource_metrics().await?)),
            [kind @ ("exec" | "attach" | "portForward"), rest @ ..] => self.stream(kind, rest, request).await,
            _ => Err(Failure::not_found("404 page not found\n")),
        }
    }

    /// A pod of this node; `uid` narrows when given.
    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Failure> {
        let found = self.workers.pods().into_iter().find(|pod| pod.namespace() == namespace && pod.name() == name);
        found.ok_or_else(|| Failure::not_found(format!("pod \"{name}_{namespace}\" does not exist")))
    }
}

fn pod_list(pods: &[Arc<Pod>]) -> serde_json::Value {
    let items: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// A body that is known.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A plain text answer.
pub fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let text = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, text);
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    let kind = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}

/// Key-value pairs of a query, decoded.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            rest = tail;
            match first {
                b'+' => bytes.push(b' '),
                b'%' if tail.len() >= 2 => {
                    let hex = std::str::from_utf8(&tail[..2]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                    match hex {
                        Some(byte) => {
                            bytes.push(byte);
                            rest = &tail[2..];
                        }
                        None => bytes.push(b'%'),
                    }
                }
                byte => bytes.push(*byte),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let got = query_pairs("command=sh&command=a%20b%2Fc+d&tty=1&bad=%zz");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(got, [pair("command", "sh"), pair("command", "a b/c d"), pair("tty", "1"), pair("bad", "%zz")]);
    }
}
