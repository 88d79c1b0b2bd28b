//! exec, attach and port-forward: the runtime's streaming server answers, its bytes pass through unchanged.
use super::{Body, Failure, Server, query_pairs};
use crate::pods::PodExt;
use crate::view;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use pintle_runtime::cri;
use std::collections::HashMap;
use tokio::net::TcpStream;

impl Server {
    /// Answers `/<kind>/<namespace>/<pod>[/<uid>][/<container>]`.
    pub(super) async fn stream(
        &self,
        kind: &str,
        rest: &[&str],
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let query = query_pairs(request.uri().query().unwrap_or_default());
        let url = match (kind, rest) {
            ("portForward", [namespace, pod] | [namespace, pod, _]) => {
                self.port_forward_url(namespace, pod, &query).await?
            }
            ("exec" | "attach", [namespace, pod, container] | [namespace, pod, _, container]) => {
                self.session_url(kind, namespace, pod, container, &query).await?
            }
            _ => return Err(Failure::not_found("404 page not found\n")),
        };
        proxy(request, &url).await
    }

    async fn session_url(
        &self,
        kind: &str,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &[(String, String)],
    ) -> Result<String, Failure> {
        let pod = self.pod(namespace, pod)?;
        let view = view::read(self.kubelet.runtime.as_ref(), pod.uid(), &mut HashMap::new()).await.map_err(rpc)?;
        let found = view.running().find(|found| found.name == container);
        let found = found.ok_or_else(|| Failure::internal(format!("container not found (\"{container}\")")))?;
        let on = |names: &[&str]| {
            query.iter().any(|(key, value)| names.contains(&key.as_str()) && matches!(value.as_str(), "1" | "true"))
        };
        let tty = on(&["tty"]);
        let (stdin, stdout) = (on(&["input", "stdin"]), on(&["output", "stdout"]));
        let stderr = on(&["error", "stderr"]) && !tty;
        if !(stdin || stdout || stderr) {
            return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        let container_id = found.id.clone();
        if kind == "attach" {
            let request = cri::AttachRequest { container_id, stdin, tty, stdout, stderr };
            return self.kubelet.runtime.attach(request).await.map(|answer| answer.url).map_err(rpc);
        }
        let cmd = query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
        let request = cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
        self.kubelet.runtime.exec(request).await.map(|answer| answer.url).map_err(rpc)
    }

    async fn port_forward_url(
        &self,
        namespace: &str,
        pod: &str,
        query: &[(String, String)],
    ) -> Result<String, Failure> {
        let pod = self.pod(namespace, pod)?;
        let view = view::read(self.kubelet.runtime.as_ref(), pod.uid(), &mut HashMap::new()).await.map_err(rpc)?;
        let sandbox = view.ready_sandbox();
        let sandbox = sandbox.ok_or_else(|| Failure::internal(format!("pod not found (\"{}\")", pod.described())))?;
        let ports = query.iter().filter(|(key, _)| key == "port" || key == "ports");
        let port = ports.flat_map(|(_, value)| value.split(',')).filter_map(|port| port.parse().ok()).collect();
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
        self.kubelet.runtime.port_forward(request).await.map(|answer| answer.url).map_err(rpc)
    }
}

fn rpc(status: tonic::Status) -> Failure {
    Failure::internal(crate::rpc_text(&status))
}

/// Sends `request` to `url` and joins both connections once they are upgraded.
async fn proxy(mut request: Request<Incoming>, url: &str) -> Result<Response<Body>, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::internal(format!("cannot reach the streaming server: {error}"));
    let target: Uri = url.parse().map_err(|error| failed(&error))?;
    let authority = target.authority().ok_or_else(|| failed(&"its address has no host"))?.to_string();
    let stream = TcpStream::connect(&authority).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "streaming connection ended");
        }
    });
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    let mut forwarded = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    *forwarded.headers_mut() = request.headers().clone();
    let host = hyper::header::HeaderValue::try_from(authority).map_err(|error| failed(&error))?;
    forwarded.headers_mut().insert(HOST, host);
    let mut answer = sender.send_request(forwarded).await.map_err(|error| failed(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = answer.into_parts();
        let body = body.map_err(std::io::Error::other).boxed_unsync();
        return Ok(Response::from_parts(head, body));
    }
    let (outer, inner) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        let joined = async {
            let (outer, inner) = tokio::try_join!(outer, inner)?;
            let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(outer), &mut TokioIo::new(inner)).await;
            if let Err(error) = copied {
                tracing::debug!(%error, "streaming session ended");
            }
            Ok::<_, hyper::Error>(())
        };
        if let Err(error) = joined.await {
            tracing::debug!(%error, "a connection was not upgraded");
        }
    });
    let mut response = Response::new(super::full(Bytes::new()));
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}
