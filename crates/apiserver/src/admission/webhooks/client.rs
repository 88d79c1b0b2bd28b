//! Calls to a webhook over TLS, on connections that are kept. Start at [`Client::post`].
// upstream: apiserver pkg/util/webhook/client.go
use crate::registry::Registry;
use crate::value::Read;
use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How many idle connections to a webhook are kept.
const MAX_IDLE: usize = 8;
/// How large an answer may be, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Where distributions keep the certificates of public authorities.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type Sender = SendRequest<Full<Bytes>>;

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// A service's port.
    Service { namespace: String, name: String, port: u16 },
    /// A host, which may be outside the cluster.
    Host(String, u16),
}

/// Reaches one webhook.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    /// The name in the certificate.
    server_name: ServerName<'static>,
    /// `host[:port]`, for the header and for messages.
    host: String,
    path: String,
    tls: Arc<ClientConfig>,
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    /// Reads a `clientConfig`.
    pub(crate) fn of(config: &Value) -> Result<Self, String> {
        let tls = tls(config.text("caBundle"))?;
        let (target, name, host, path) = match config.field("service") {
            Value::Null => of_url(config.text("url"))?,
            service => {
                let (namespace, name) = (service.text("namespace").to_owned(), service.text("name").to_owned());
                let port = u16::try_from(service.int("port")).ok().filter(|port| *port != 0).unwrap_or(443);
                let dns = format!("{name}.{namespace}.svc");
                let host = format!("{dns}:{port}");
                let path = service.text("path");
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                (Target::Service { namespace, name, port }, dns, host, path)
            }
        };
        let server_name = ServerName::try_from(name.clone()).map_err(|error| format!("{name}: {error}"))?;
        Ok(Client { target, server_name, host, path, tls, idle: Mutex::default() })
    }

    /// Posts `body` and returns the answer's body.
    pub(crate) async fn post(&self, body: &Bytes, timeout: Duration, registry: &Registry) -> Result<Bytes, String> {
        let path = format!("{}?timeout={}s", self.path, timeout.as_secs());
        let failed = |why: &dyn std::fmt::Display| format!("Post \"https://{}{path}\": {why}", self.host);
        let call = self.exchange(body, &path, registry);
        let (status, answer) = match tokio::time::timeout(timeout, call).await {
            Err(_) => return Err(failed(&"context deadline exceeded")),
            Ok(answer) => answer.map_err(|why| failed(&why))?,
        };
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        Err(match status {
            401 => "the server has asked for the client to provide credentials".to_owned(),
            403 => "forbidden: unknown".to_owned(),
            404 => "the server could not find the requested resource".to_owned(),
            503 => "the server is currently unable to handle the request".to_owned(),
            500.. => {
                let text = String::from_utf8_lossy(&answer);
                format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim())
            }
            _ => "the server rejected our request for an unknown reason".to_owned(),
        })
    }

    async fn exchange(&self, body: &Bytes, path: &str, registry: &Registry) -> Result<(u16, Bytes), String> {
        // A kept connection may have been closed by the other side: then a new one is made.
        loop {
            let Some(mut sender) = self.idle.lock().pop() else { break };
            if sender.is_closed() || sender.ready().await.is_err() {
                continue;
            }
            if let Ok(answer) = self.send(sender, body, path).await {
                return Ok(answer);
            }
            break;
        }
        let sender = self.connect(registry).await?;
        self.send(sender, body, path).await
    }

    async fn send(&self, mut sender: Sender, body: &Bytes, path: &str) -> Result<(u16, Bytes), String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path.parse::<Uri>().map_err(|error| error.to_string())?)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body.clone()))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| describe(&error))?;
        let status = response.status().as_u16();
        let answer =
            Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(sender);
        }
        Ok((status, answer.to_bytes()))
    }

    async fn connect(&self, registry: &Registry) -> Result<Sender, String> {
        let (host, port) = match &self.target {
            Target::Host(host, port) => (host.clone(), *port),
            Target::Service { namespace, name, port } => resolve(namespace, name, *port, registry).await?,
        };
        let dialed = TcpStream::connect((host.as_str(), port)).await;
        let tcp = dialed.map_err(|error| format!("dial tcp {host}:{port}: connect: {error}"))?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(self.tls.clone()).connect(self.server_name.clone(), tcp).await;
        let tls = tls.map_err(|error| format!("tls: failed to verify certificate: x509: {error}"))?;
        let (sender, connection) = handshake(TokioIo::new(tls)).await.map_err(|error| describe(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a webhook ended");
            }
        });
        Ok(sender)
    }
}

fn describe(error: &hyper::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

type Place = (Target, String, String, String);

fn of_url(url: &str) -> Result<Place, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("Unparsable URL: {why}");
    if url.is_empty() {
        return Err("webhook configuration must have either service or URL".to_owned());
    }
    let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
    let name = uri.host().ok_or_else(|| wrong(&"no host"))?;
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let host = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let path = uri.path().to_owned();
    Ok((Target::Host(name.clone(), uri.port_u16().unwrap_or(443)), name, host, path))
}

/// A client configuration that trusts the authorities in `bundle` (PEM in base64), or those of the system.
fn tls(bundle: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if bundle.is_empty() {
        roots = system_roots();
    } else {
        let wrong = || "unable to load root certificates: unable to parse bytes as PEM block".to_owned();
        let pem = base64::engine::general_purpose::STANDARD.decode(bundle).map_err(|_| wrong())?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|_| wrong())?).map_err(|_| wrong())?;
        }
        if roots.is_empty() {
            return Err(wrong());
        }
    }
    let config = ClientConfig::builder_with_provider(pintle_pki::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The authorities that the system trusts.
pub(crate) fn system_roots() -> RootCertStore {
    SYSTEM.clone()
}

static SYSTEM: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    let pem = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    // Authorities that rustls does not understand are not trusted.
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    roots.add_parsable_certificates(certificates);
    roots
});

/// Address and port of a ready endpoint of a service.
// upstream: apiserver pkg/util/proxy, ResolveEndpoint and ResolveCluster
async fn resolve(namespace: &str, name: &str, port: u16, registry: &Registry) -> Result<(String, u16), String> {
    let services = registry.resource("", "services").map_err(|error| error.to_string())?;
    let service = registry.get(&services, namespace, name).await.map_err(|error| match error.code {
        404 => format!("service {name:?} not found"),
        _ => error.to_string(),
    })?;
    let spec = service.field("spec");
    if spec.text("type") == "ExternalName" {
        return Ok((spec.text("externalName").to_owned(), port));
    }
    let Some(wanted) = spec.items("ports").iter().find(|held| held.int("port") == i64::from(port)) else {
        return Err(format!("no service port {port} found for service {name:?}"));
    };
    let slices = registry.resource("discovery.k8s.io", "endpointslices").map_err(|error| error.to_string())?;
    let slices = registry.list(&slices, namespace).await.map_err(|error| error.to_string())?.items;
    let label = "kubernetes.io/service-name";
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.field("metadata").field("labels").text(label) == name) {
        let named = slice.items("ports").iter().find(|held| held.text("name") == wanted.text("name"));
        let Some(Ok(port)) = named.map(|held| u16::try_from(held.int("port"))) else { continue };
        for endpoint in slice.items("endpoints") {
            if endpoint.field("conditions").field("ready").as_bool().unwrap_or(true) {
                found.extend(endpoint.texts("addresses").map(|address| (address.to_owned(), port)));
            }
        }
    }
    match found.len() {
        0 => Err(format!("no endpoints available for service {name:?}")),
        count => Ok(found.swap_remove(fastrand::usize(..count))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_verified_by_its_cluster_name() {
        let client = Client::of(&json!({"service": {"name": "w", "namespace": "a", "path": "/x"}})).unwrap();
        assert_eq!(client.server_name, ServerName::try_from("w.a.svc").unwrap());
        assert_eq!((client.host.as_str(), client.path.as_str()), ("w.a.svc:443", "/x"));
        let client = Client::of(&json!({"url": "https://example.com:8443/y"})).unwrap();
        assert_eq!(client.target, Target::Host("example.com".into(), 8443));
        assert_eq!(client.host, "example.com:8443");
    }

    #[test]
    fn a_bundle_must_hold_certificates() {
        let error = Client::of(&json!({"url": "https://x.y", "caBundle": "bm90aGluZw=="})).unwrap_err();
        assert_eq!(error, "unable to load root certificates: unable to parse bytes as PEM block");
        assert!(Client::of(&json!({})).unwrap_err().contains("either service or URL"));
    }
}
