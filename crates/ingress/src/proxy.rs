//! One request: its route, its backend, and the answer on its way back.
use crate::backends::{Backend, Protocol};
use crate::forward::{self, Failure, Forwarder, RequestBody, ResponseBody};
use crate::table::{Route, Service, Table};
use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// RFC 9110, 7.6.1: headers that concern one connection only.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "transfer-encoding", "upgrade"];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What is in force: the rules and what stands behind them.
#[derive(Default)]
pub(crate) struct Routes {
    pub table: Table,
    pub backends: HashMap<Service, Arc<Backend>>,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub client: SocketAddr,
    pub tls: bool,
    /// The port of the listener.
    pub port: u16,
}

/// The proxy of all listeners.
pub(crate) struct Proxy {
    pub routes: ArcSwap<Routes>,
    forwarder: Forwarder,
    /// Where plain requests are sent that have to use TLS.
    https_port: u16,
}

/// A request's own words, for the log and the backend.
struct Asked {
    authority: String,
    target: PathAndQuery,
}

impl Proxy {
    /// One without routes yet.
    pub fn new(https_port: u16) -> Self {
        Proxy { routes: ArcSwap::default(), forwarder: Forwarder::new(), https_port }
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>, origin: Origin) -> Response<ResponseBody> {
        let started = Instant::now();
        let asked = Asked {
            authority: authority(&request),
            target: request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        };
        let method = request.method().clone();
        let response = match self.route(request, &asked, origin).await {
            Ok(response) => response,
            Err(status) => forward::plain(status),
        };
        // The access log: `--log-level info,ingress_access=debug`.
        tracing::debug!(
            target: "ingress_access",
            client = %origin.client.ip(),
            %method,
            host = asked.authority,
            path = asked.target.path(),
            status = response.status().as_u16(),
            milliseconds = started.elapsed().as_secs_f64() * 1000.0,
        );
        response
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        asked: &Asked,
        origin: Origin,
    ) -> Result<Response<ResponseBody>, StatusCode> {
        let (route, backend) = {
            let routes = self.routes.load();
            let host = host(&asked.authority);
            let route = routes.table.find(host, asked.target.path()).cloned().ok_or(StatusCode::NOT_FOUND)?;
            let backend = routes.backends.get(&route.service).cloned();
            (route, backend.ok_or(StatusCode::SERVICE_UNAVAILABLE)?)
        };
        if route.options.force_https && !origin.tls {
            return redirect(asked, self.https_port).ok_or(StatusCode::BAD_REQUEST);
        }
        let limit = route.options.max_body_size;
        let too_large = |size: u64| limit.is_some_and(|limit| size > limit);
        if http_body::Body::size_hint(request.body()).exact().is_some_and(too_large) {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let forwarding = self.forward(request, asked, origin, &route, &backend);
        match tokio::time::timeout(route.options.response_timeout, forwarding).await {
            Ok(answered) => answered,
            Err(_) => Err(StatusCode::GATEWAY_TIMEOUT),
        }
    }

    /// Asks one address after the other until one takes the request.
    async fn forward(
        &self,
        request: Request<Incoming>,
        asked: &Asked,
        origin: Origin,
        route: &Route,
        backend: &Backend,
    ) -> Result<Response<ResponseBody>, StatusCode> {
        let (mut parts, body) = request.into_parts();
        let upgrade = take_upgrade(&parts.headers, parts.version);
        let client = upgrade.is_some().then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>()).flatten();
        remove_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = &upgrade {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol.clone());
        }
        describe(&mut parts.headers, asked, origin).ok_or(StatusCode::BAD_REQUEST)?;
        let body = RequestBody::new(body, route.options.max_body_size);
        let (addresses, protocol) = backend.turn();
        let protocol = if upgrade.is_some() { Protocol::Http1 } else { protocol };
        let mut failed = StatusCode::SERVICE_UNAVAILABLE;
        for address in addresses {
            let mut request = Request::new(body.clone());
            request.method_mut().clone_from(&parts.method);
            request.headers_mut().clone_from(&parts.headers);
            let sent = self.forwarder.send(address, protocol, request, &asked.authority, &asked.target).await;
            match sent {
                Ok(response) => return Ok(respond(response, client)),
                Err(Failure::TooLarge) => return Err(StatusCode::PAYLOAD_TOO_LARGE),
                Err(Failure::Connect(error)) if body.is_whole() => {
                    tracing::debug!(%address, service = ?route.service, error, "a backend does not answer, the next is tried");
                    failed = StatusCode::BAD_GATEWAY;
                }
                Err(Failure::Connect(error) | Failure::Request(error)) => {
                    tracing::debug!(%address, service = ?route.service, error, "a backend failed");
                    return Err(StatusCode::BAD_GATEWAY);
                }
            }
        }
        Err(failed)
    }

    /// The address of a backend that speaks TLS for a host itself.
    pub fn passthrough(&self, host: &str) -> Option<Vec<SocketAddr>> {
        let routes = self.routes.load();
        let route = routes.table.passthrough(host)?;
        Some(routes.backends.get(&route.service).map(|backend| backend.turn().0.collect()).unwrap_or_default())
    }
}

/// The host (and port) that the client asks for.
fn authority<B>(request: &Request<B>) -> String {
    let named = request.uri().authority().map(Authority::as_str);
    let header = || request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    named.or_else(header).unwrap_or_default().to_owned()
}

/// An authority without its port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

fn redirect(asked: &Asked, port: u16) -> Option<Response<ResponseBody>> {
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let location = format!("https://{}{port}{}", host(&asked.authority), asked.target);
    let mut response = forward::plain(StatusCode::PERMANENT_REDIRECT);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(response)
}

/// The protocol that the client wants to go over to, e.g. `websocket`.
fn take_upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let wanted = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asked = wanted.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    (version == Version::HTTP_11 && asked).then(|| headers.get(header::UPGRADE).cloned()).flatten()
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // gRPC wants to hear that its client takes trailers.
    let trailers = headers.get(header::TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|word| word.trim().to_ascii_lowercase()))
        .collect();
    for name in HOP_BY_HOP.iter().copied().chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Tells the backend who asked for what. What a client says about that itself is not believed.
fn describe(headers: &mut HeaderMap, asked: &Asked, origin: Origin) -> Option<()> {
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let client = text(&origin.client.ip().to_canonical().to_string())?;
    let authority = text(&asked.authority)?;
    headers.insert(header::HOST, authority.clone());
    headers.insert(FORWARDED_HOST, authority);
    headers.insert(FORWARDED_FOR, client.clone());
    headers.insert(REAL_IP, client);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if origin.tls { "https" } else { "http" }));
    headers.insert(FORWARDED_PORT, origin.port.into());
    Some(())
}

/// The backend's answer for the client; where both go over to another protocol, they are joined.
fn respond(mut response: Response<Incoming>, client: Option<hyper::upgrade::OnUpgrade>) -> Response<ResponseBody> {
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let backend = upgraded.then(|| hyper::upgrade::on(&mut response));
    remove_hop_by_hop(response.headers_mut());
    if let (Some(client), Some(backend), Some(protocol)) = (client, backend, protocol) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::UPGRADE, protocol);
        tokio::spawn(async move {
            let joined = async {
                let (client, backend) = tokio::try_join!(client, backend).map_err(std::io::Error::other)?;
                tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await
            };
            if let Err(error) = joined.await {
                tracing::trace!(%error, "an upgraded connection ended");
            }
        });
    }
    *response.version_mut() = Version::default();
    response.map(ResponseBody::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn headers_of_a_connection_go_no_further() {
        let mut of_client = headers(&[
            ("connection", "keep-alive, X-Secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut of_client);
        assert_eq!(of_client, headers(&[("accept", "*/*"), ("te", "trailers")]));
    }

    #[test]
    fn the_client_cannot_say_where_it_comes_from() {
        let mut of_client = headers(&[("x-forwarded-for", "10.1.1.1"), ("x-forwarded-proto", "https")]);
        let asked = Asked { authority: "x.io:8080".into(), target: PathAndQuery::from_static("/") };
        let origin = Origin { client: "[::ffff:192.0.2.7]:4000".parse().unwrap(), tls: false, port: 80 };
        describe(&mut of_client, &asked, origin).unwrap();
        assert_eq!(of_client["x-forwarded-for"], "192.0.2.7");
        assert_eq!(of_client["x-forwarded-proto"], "http");
        assert_eq!(of_client["host"], "x.io:8080");
    }

    #[test]
    fn only_http_1_upgrades_and_only_when_asked() {
        let asked = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(take_upgrade(&asked, Version::HTTP_11).unwrap(), "websocket");
        assert!(take_upgrade(&asked, Version::HTTP_2).is_none());
        assert!(take_upgrade(&headers(&[("upgrade", "h2c")]), Version::HTTP_11).is_none());
    }

    #[test]
    fn a_host_has_no_port() {
        for (authority, expected) in [("x.io", "x.io"), ("x.io:80", "x.io"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]")]
        {
            assert_eq!(host(authority), expected);
        }
    }
}
