//! The ingress with real connections: clients, listeners and backends on loopback.
#![allow(clippy::unwrap_used)]
use crate::backends::{Backend, Protocol, Targets};
use crate::certificates::tests::secret;
use crate::certificates::{Certificates, certified};
use crate::listener;
use crate::proxy::{Proxy, Routes};
use crate::table::Table;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use k8s_openapi::api::networking::v1::Ingress;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::ResolvesServerCert;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A proxy for one Ingress whose Services all have the same targets.
fn proxy(spec: Value, annotations: Value, targets: impl Fn() -> Targets) -> Arc<Proxy> {
    let metadata = json!({"name": "i", "namespace": "n", "annotations": annotations});
    let ingress: Ingress = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    let table = Table::of([&ingress]);
    let backends = table.services().into_iter().map(|service| (service.clone(), Arc::new(Backend::new(targets()))));
    let backends = backends.collect();
    let proxy = Proxy::new(443);
    proxy.routes.store(Arc::new(Routes { table, backends }));
    Arc::new(proxy)
}

fn spec(host: &str) -> Value {
    let path =
        json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}});
    json!({"rules": [{"host": host, "http": {"paths": [path]}}]})
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn served(proxy: Arc<Proxy>) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(listener::serve(listener, proxy, None, CancellationToken::new()));
    address
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    listen().await.1
}

/// A backend that says what it was asked, and ends with a trailer.
async fn backend() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let builder = Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(echo));
                served.await.ok();
            });
        }
    });
    address
}

async fn echo(
    mut request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word.map(|byte| byte.to_ascii_uppercase())).await.unwrap();
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        return Ok(response.body(StreamBody::new(futures::stream::iter(Vec::new()))).unwrap());
    }
    let headers: serde_json::Map<String, Value> =
        request.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into())).collect();
    let (path, version) = (request.uri().to_string(), format!("{:?}", request.version()));
    let body = String::from_utf8(request.into_body().collect().await.unwrap().to_bytes().into()).unwrap();
    let said = json!({"path": path, "version": version, "headers": headers, "body": body}).to_string();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = vec![Ok(Frame::data(Bytes::from(said))), Ok(Frame::trailers(trailers))];
    Ok(Response::new(StreamBody::new(futures::stream::iter(frames))))
}

/// Asks over a connection of its own.
async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.unwrap()
}

fn get(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).header("host", host).body(Full::default()).unwrap()
}

async fn said(response: Response<Incoming>) -> Value {
    assert_eq!(response.status(), StatusCode::OK);
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn http1(addresses: &[SocketAddr]) -> impl Fn() -> Targets + use<> {
    let addresses = addresses.to_vec();
    move || Targets { addresses: addresses.clone(), protocol: Protocol::Http1 }
}

#[tokio::test]
async fn a_backend_hears_who_asked_for_what() {
    let address = served(proxy(spec("x.io"), json!({}), http1(&[backend().await]))).await;
    let mut request = get("x.io:8080", "/a/b?c=d");
    request.headers_mut().insert("x-forwarded-for", "10.9.9.9".parse().unwrap());
    let said = said(ask(address, request).await).await;
    assert_eq!((&said["path"], &said["headers"]["host"]), (&json!("/a/b?c=d"), &json!("x.io:8080")));
    assert_eq!(said["headers"]["x-forwarded-for"], "127.0.0.1");
    assert_eq!(said["headers"]["x-forwarded-port"], address.port().to_string());
}

#[tokio::test]
async fn without_a_rule_or_a_ready_backend_there_is_a_status() {
    let address = served(proxy(spec("x.io"), json!({}), http1(&[]))).await;
    assert_eq!(ask(address, get("y.io", "/")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(ask(address, get("x.io", "/")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let address = served(proxy(spec("x.io"), json!({}), http1(&[nobody().await]))).await;
    assert_eq!(ask(address, get("x.io", "/")).await.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn an_address_that_refuses_costs_no_request() {
    let targets = http1(&[nobody().await, nobody().await, backend().await]);
    let address = served(proxy(spec("x.io"), json!({}), targets)).await;
    for number in 0..4 {
        let text = format!("body {number}");
        let request = Request::post("/").header("host", "x.io").body(Full::from(text.clone())).unwrap();
        assert_eq!(said(ask(address, request).await).await["body"], text);
    }
}

#[tokio::test]
async fn bodies_have_the_size_that_the_ingress_allows() {
    let annotations = json!({"ingress.pintle.dev/max-body-size": "4"});
    let address = served(proxy(spec("x.io"), annotations, http1(&[backend().await]))).await;
    let post = |text: &'static str| Request::post("/").header("host", "x.io").body(Full::from(text)).unwrap();
    assert_eq!(said(ask(address, post("1234")).await).await["body"], "1234");
    assert_eq!(ask(address, post("12345")).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    // One that does not say how long it is.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x.io\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
}

#[tokio::test]
async fn plain_requests_are_sent_to_https_where_the_ingress_says_so() {
    let annotations = json!({"ingress.pintle.dev/force-https": "true"});
    let address = served(proxy(spec("x.io"), annotations, http1(&[backend().await]))).await;
    let response = ask(address, get("x.io:80", "/a?b")).await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()["location"], "https://x.io/a?b");
}

#[tokio::test]
async fn a_backend_that_says_nothing_is_not_waited_for_for_ever() {
    let (silent, at) = listen().await;
    let annotations = json!({"ingress.pintle.dev/response-timeout": "1"});
    let address = served(proxy(spec("x.io"), annotations, http1(&[at]))).await;
    assert_eq!(ask(address, get("x.io", "/")).await.status(), StatusCode::GATEWAY_TIMEOUT);
    drop(silent);
}

#[tokio::test]
async fn a_websocket_goes_through() {
    let address = served(proxy(spec("x.io"), json!({}), http1(&[backend().await]))).await;
    let mut request = get("x.io", "/");
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "echo".parse().unwrap());
    let mut response = ask(address, request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"PING");
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers() {
    let at = backend().await;
    let targets = move || Targets { addresses: vec![at], protocol: Protocol::Http2 };
    let address = served(proxy(spec("x.io"), json!({}), targets)).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::post("http://x.io/pkg.Service/Call").header("te", "trailers");
        let response = sender.send_request(request.body(Full::<Bytes>::from("hello")).unwrap()).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        let said: Value = serde_json::from_slice(&collected.to_bytes()).unwrap();
        assert_eq!((&said["version"], &said["body"]), (&json!("HTTP/2.0"), &json!("hello")));
        assert_eq!(said["path"], "http://x.io/pkg.Service/Call", "the backend sees the host that the client named");
    }
}

/// Keeps the certificate that a server shows.
#[derive(Debug, Default)]
struct Shown(parking_lot::Mutex<Vec<u8>>);

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock() = certificate.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn tls_server(resolver: Arc<dyn ResolvesServerCert>) -> Arc<rustls::ServerConfig> {
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_cert_resolver(resolver))
}

/// A TLS connection to `host` at `address`, and the certificate that it shows.
async fn greet(address: SocketAddr, host: &str) -> (tokio_rustls::client::TlsStream<TcpStream>, Vec<u8>) {
    let shown = Arc::new(Shown::default());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().dangerous();
    let config = config.with_custom_certificate_verifier(shown.clone()).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let certificate = shown.0.lock().clone();
    (stream, certificate)
}

#[derive(Debug)]
struct Fixed(Arc<rustls::sign::CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn tls_ends_here_with_the_hosts_certificate_or_in_the_backend() {
    let keys = ["x.io", "other", "backend"].map(|host| Arc::new(certified(&secret(host)).unwrap()));
    let [own, other, of_backend] = &keys;
    // A backend with TLS of its own.
    let (listener, at) = listen().await;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls_server(Arc::new(Fixed(of_backend.clone()))));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            stream.write_all(b"from behind").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let certificates = Certificates::new(Arc::new(Fixed(other.clone())));
    certificates.replace([("x.io".to_owned(), own.clone())].into());
    let tls = tls_server(Arc::new(certificates));
    let serve = async |proxy| {
        let (listener, address) = listen().await;
        tokio::spawn(listener::serve(listener, proxy, Some(tls.clone()), CancellationToken::new()));
        address
    };
    let address = serve(proxy(spec("x.io"), json!({}), http1(&[backend().await]))).await;
    let (mut stream, shown) = greet(address, "x.io").await;
    assert_eq!(shown, own.cert[0].to_vec());
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x.io\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""x-forwarded-proto":"https""#), "{answer}");
    assert_eq!(greet(address, "y.io").await.1, other.cert[0].to_vec());

    let annotations = json!({"ingress.pintle.dev/tls-passthrough": "true"});
    let address = serve(proxy(spec("x.io"), annotations, http1(&[nobody().await, at]))).await;
    let (mut stream, shown) = greet(address, "x.io").await;
    assert_eq!(shown, of_backend.cert[0].to_vec());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "from behind");
}
