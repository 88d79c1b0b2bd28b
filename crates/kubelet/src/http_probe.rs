//! HTTP requests to containers, for probes and hooks: no connection reuse, any certificate, few redirects.
// upstream: pkg/probe/http
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{HOST, HeaderName, HeaderValue, LOCATION};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Most bytes of a body that are read.
const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

/// What to ask.
#[derive(Clone, Debug)]
pub struct Target {
    https: bool,
    host: String,
    port: u16,
    /// Path and query.
    pub path: String,
    headers: Vec<(String, String)>,
}

/// The number of a port given by number or by the container's name for it.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match named.map(|port| port.container_port).or_else(|| name.parse().ok()) {
                Some(number) => number,
                None => return Err(format!("couldn't find port by name {name:?}")),
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

impl Target {
    /// The target of `action` in a container of the pod at `pod_ip`.
    pub fn new(action: &HTTPGetAction, container: &Container, pod_ip: &str) -> Result<Self, String> {
        let path = action.path.as_deref().unwrap_or("/");
        Ok(Target {
            https: action.scheme.as_deref() == Some("HTTPS"),
            host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
            port: port(&action.port, container)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: (action.http_headers.iter().flatten())
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        })
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    /// Its URL, for messages.
    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// Status and body of the answer; redirects to the same host are followed.
pub async fn get(target: &Target, agent: &str, timeout: Duration) -> Result<(StatusCode, String), String> {
    let mut target = target.clone();
    let work = async {
        for _ in 0..=MAX_REDIRECTS {
            let (status, location, body) = get_once(&target, agent).await?;
            match location.filter(|_| status.is_redirection()).map(|to| follow(&target, &to)) {
                Some(Some(next)) => target = next,
                _ => return Ok((status, body)),
            }
        }
        Err(format!("stopped after {MAX_REDIRECTS} redirects"))
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            target.url()
        )),
    }
}

/// Where a redirect leads, if to the same host.
fn follow(target: &Target, location: &str) -> Option<Target> {
    if location.starts_with('/') {
        return Some(Target { path: location.to_owned(), ..target.clone() });
    }
    let uri: hyper::Uri = location.parse().ok()?;
    if uri.host() != Some(&target.host) {
        return None;
    }
    let https = uri.scheme_str() == Some("https");
    Some(Target {
        https,
        port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        ..target.clone()
    })
}

async fn get_once(target: &Target, agent: &str) -> Result<(StatusCode, Option<String>, String), String> {
    let failed = |error: &dyn std::fmt::Display| format!("Get {:?}: {error}", target.url());
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|error| {
        format!("Get {:?}: dial tcp {}: {}", target.url(), target.authority(), connect_error(&error))
    })?;
    if target.https {
        let name = rustls::pki_types::ServerName::try_from(target.host.clone()).map_err(|error| failed(&error))?;
        let stream = connector().connect(name, stream).await.map_err(|error| failed(&error))?;
        exchange(target, agent, stream).await
    } else {
        exchange(target, agent, stream).await
    }
}

/// A connection error in the words of Go's net package.
pub fn connect_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => error.to_string(),
    }
}

async fn exchange(
    target: &Target,
    agent: &str,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(StatusCode, Option<String>, String), String> {
    let failed = |error: &dyn std::fmt::Display| format!("Get {:?}: {error}", target.url());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(&target.path).body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let headers = request.headers_mut();
    let mut set = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    };
    set(HOST.as_str(), &target.authority());
    set("user-agent", agent);
    set("accept", "*/*");
    set("connection", "close");
    target.headers.iter().for_each(|(name, value)| set(name, value));
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        // A longer body is fine: only its beginning is ever shown.
        Err(_) => String::new(),
    };
    connection.abort();
    let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    Ok((head.status, location, body))
}

fn connector() -> tokio_rustls::TlsConnector {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions");
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Arc::new(config)
    });
    tokio_rustls::TlsConnector::from(config.clone())
}

/// Probes accept any certificate, as upstream: the answer matters, not who gives it.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
