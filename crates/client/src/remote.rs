//! A client of an API server over the network, by certificate, that takes up a renewed one: [`Remote`].
use arc_swap::ArcSwap;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use kube::client::middleware::BaseUriLayer;
use rustls::ClientConfig;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{Layer, Service};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection with open watches is tried this often, and given up when it does not answer as long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Http = legacy::Client<HttpsConnector<HttpConnector>, Body>;

/// All requests go through one HTTP/2 connection to the server.
#[derive(Clone)]
pub struct Remote {
    http: Arc<ArcSwap<Http>>,
    server: Uri,
    tls: ClientConfig,
}

impl Remote {
    /// A client of the server at `server` (`https://host:port`). `tls` sets no ALPN protocols.
    pub fn new(server: Uri, tls: ClientConfig) -> Self {
        let http = Arc::new(ArcSwap::from_pointee(http(tls.clone())));
        Remote { http, server, tls }
    }

    /// The client; all of them share the connection.
    pub fn client(&self) -> kube::Client {
        let service = BaseUriLayer::new(self.server.clone()).layer(Connected(self.http.clone()));
        kube::Client::new(service, "default")
    }

    /// The client as the holder of a bearer token.
    pub fn client_with_token(&self, token: &str) -> Result<kube::Client, http::header::InvalidHeaderValue> {
        let mut value = http::HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        let service = BaseUriLayer::new(self.server.clone()).layer(Bearer(Connected(self.http.clone()), value));
        Ok(kube::Client::new(service, "default"))
    }

    /// Requests from now on go through a new connection; those under way end on the old one.
    pub fn reconnect(&self) {
        self.http.store(Arc::new(http(self.tls.clone())));
    }
}

fn http(tls: ClientConfig) -> Http {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http2().wrap_connector(tcp);
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_only(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .build(connector)
}

#[derive(Clone)]
struct Bearer(Connected, http::HeaderValue);

impl Service<Request<Body>> for Bearer {
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> ResponseFuture {
        request.headers_mut().insert(http::header::AUTHORIZATION, self.1.clone());
        self.0.call(request)
    }
}

#[derive(Clone)]
struct Connected(Arc<ArcSwap<Http>>);

impl Service<Request<Body>> for Connected {
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        // The pool takes any number of requests.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        self.0.load().request(request)
    }
}
