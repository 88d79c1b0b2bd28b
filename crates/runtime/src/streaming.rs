//! The streaming server: exec, attach and port-forward on loopback, behind URLs with a token that works once.
//!
//! The kubelet and the API server pass the upgraded connection through, so this is where WebSocket and SPDY end.
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tonic::Status;

use crate::runtime::Inner;
use crate::sandboxes::new_id;

mod portforward;
mod remotecommand;
mod session;
pub mod spdy;
mod websocket;

pub(crate) use session::Wanted;

/// How long a URL works.
const EXPIRY: Duration = Duration::from_secs(60);
/// More URLs than this are not waited for at a time.
const MAX_WAITING: usize = 1000;

/// What a URL stands for.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Exec { container: String, command: Vec<String>, wanted: Wanted },
    Attach { container: String, wanted: Wanted },
    PortForward { sandbox: String, ports: Vec<u16> },
}

/// The server's URLs.
#[derive(Debug)]
pub(crate) struct Streaming {
    address: SocketAddr,
    waiting: Mutex<HashMap<String, (Instant, Target)>>,
}

impl Streaming {
    /// Listens; [`serve`] answers.
    pub async fn bind() -> std::io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok((Self { address: listener.local_addr()?, waiting: Mutex::default() }, listener))
    }

    /// A URL for a target.
    pub fn url(&self, target: Target) -> Result<String, Status> {
        let token = new_id()?;
        let kind = match target {
            Target::Exec { .. } => "exec",
            Target::Attach { .. } => "attach",
            Target::PortForward { .. } => "portforward",
        };
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (since, _)| since.elapsed() < EXPIRY);
        if waiting.len() >= MAX_WAITING {
            return Err(Status::resource_exhausted("maximum number of in-flight requests exceeded"));
        }
        let url = format!("http://{}/{kind}/{token}", self.address);
        waiting.insert(token, (Instant::now(), target));
        Ok(url)
    }

    fn take(&self, path: &str) -> Option<Target> {
        let token = path.rsplit('/').next()?;
        let (since, target) = self.waiting.lock().remove(token)?;
        (since.elapsed() < EXPIRY).then_some(target)
    }
}

/// Answers until the runtime is gone.
pub(crate) async fn serve(inner: Weak<Inner>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gone(&inner) => return,
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: another connection has to end first.
                tracing::warn!(%error, "the streaming server cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let inner = inner.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let inner = inner.clone();
                async move { Ok::<_, Infallible>(answer(&inner, request)) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a streaming client went away");
            }
        });
    }
}

async fn gone(inner: &Weak<Inner>) {
    let mut looking = tokio::time::interval(Duration::from_secs(60));
    while inner.strong_count() > 0 {
        looking.tick().await;
    }
}

type Answer = Response<Full<Bytes>>;

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

fn answer(inner: &Weak<Inner>, request: Request<Incoming>) -> Answer {
    let Some(inner) = inner.upgrade() else { return plain(StatusCode::SERVICE_UNAVAILABLE, "shutting down") };
    let Some(target) = inner.streaming.take(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if upgrade.eq_ignore_ascii_case("websocket") {
        websocket_upgrade(inner, target, request)
    } else if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        spdy_upgrade(inner, target, request)
    } else {
        plain(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request")
    }
}

/// The words of a header that may come several times, with commas.
fn words<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// The first of the server's protocols that the client names.
fn negotiate(ours: &[&'static str], theirs: &[&str]) -> Option<&'static str> {
    ours.iter().find(|protocol| theirs.contains(protocol)).copied()
}

fn switching(upgrade: &'static str, name: &'static str, protocol: &'static str) -> Answer {
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(upgrade));
    if !protocol.is_empty() {
        headers.insert(name, header::HeaderValue::from_static(protocol));
    }
    response
}

fn websocket_upgrade(inner: Arc<Inner>, target: Target, request: Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        return plain(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key header is missing");
    };
    let ours: &[&'static str] = match target {
        Target::PortForward { .. } => &websocket::PORT_FORWARD_PROTOCOLS,
        Target::Exec { .. } | Target::Attach { .. } => &websocket::EXEC_PROTOCOLS,
    };
    let theirs = words(request.headers(), "sec-websocket-protocol");
    let protocol = match negotiate(ours, &theirs) {
        Some(protocol) => protocol,
        None if theirs.is_empty() => "",
        None => {
            let text =
                format!("unable to upgrade: requested protocol(s) are not supported: {theirs:?}; supports {ours:?}");
            return plain(StatusCode::BAD_REQUEST, &text);
        }
    };
    let mut response = switching("websocket", "sec-websocket-protocol", protocol);
    let Ok(accept) = header::HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return plain(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key");
    };
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let socket = websocket::server(upgraded).await;
        match target {
            Target::Exec { container, command, wanted } => {
                let remote = websocket::remote(socket, protocol, wanted).await;
                session::exec(&inner, &container, &command, wanted, remote).await;
            }
            Target::Attach { container, wanted } => {
                let remote = websocket::remote(socket, protocol, wanted).await;
                session::attach(&inner, &container, wanted, remote).await;
            }
            Target::PortForward { sandbox, .. } if protocol.starts_with("SPDY") => {
                portforward::serve(&inner, &sandbox, spdy::serve(websocket::tunnel(socket))).await;
            }
            Target::PortForward { sandbox, ports } => {
                websocket::port_forward(&inner, &sandbox, &ports, socket, protocol).await;
            }
        }
    });
    response
}

fn spdy_upgrade(inner: Arc<Inner>, target: Target, request: Request<Incoming>) -> Answer {
    let ours: &[&'static str] = match target {
        Target::PortForward { .. } => &["portforward.k8s.io"],
        Target::Exec { .. } | Target::Attach { .. } => &remotecommand::PROTOCOLS,
    };
    let theirs = words(request.headers(), "x-stream-protocol-version");
    let Some(protocol) = negotiate(ours, &theirs).or_else(|| theirs.is_empty().then(|| ours[ours.len() - 1])) else {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {theirs:?}, server supports {ours:?}"
        );
        return plain(StatusCode::FORBIDDEN, &text);
    };
    let response = switching("SPDY/3.1", "x-stream-protocol-version", protocol);
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let streams = spdy::serve(TokioIo::new(upgraded));
        match target {
            Target::Exec { container, command, wanted } => {
                if let Some(remote) = remotecommand::remote(streams, protocol, wanted).await {
                    session::exec(&inner, &container, &command, wanted, remote).await;
                }
            }
            Target::Attach { container, wanted } => {
                if let Some(remote) = remotecommand::remote(streams, protocol, wanted).await {
                    session::attach(&inner, &container, wanted, remote).await;
                }
            }
            Target::PortForward { sandbox, .. } => portforward::serve(&inner, &sandbox, streams).await,
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_works_once() {
        let (streaming, _listener) = Streaming::bind().await.unwrap();
        let target = Target::PortForward { sandbox: "s".to_owned(), ports: Vec::new() };
        let url = streaming.url(target).unwrap();
        assert!(url.starts_with("http://127.0.0.1:"));
        assert!(streaming.take(&url).is_some());
        assert!(streaming.take(&url).is_none());
        assert!(streaming.take("/exec/").is_none());
    }

    #[test]
    fn the_best_common_protocol_is_chosen() {
        assert_eq!(negotiate(&["v5", "v4"], &["v4", "v5"]), Some("v5"));
        assert_eq!(negotiate(&["v5", "v4"], &["v3"]), None);
    }
}
