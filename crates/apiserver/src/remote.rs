//! Services outside the cluster that the API server asks by a kubeconfig or an URL: audit, token and authorization webhooks,
//! OpenID issuers. Start at [`Remote`].
// upstream: apiserver pkg/util/webhook/webhook.go
use crate::admission::webhooks::client::system_roots;
use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How large an answer may be, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// The wait before a review is tried again, and how often it is tried.
const RETRY: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 5;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(90);

/// A service at one address; connections are kept.
#[derive(Clone)]
pub struct Remote {
    uri: Uri,
    authorization: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// Why a service did not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The status that it answered, if it did.
    status: Option<u16>,
    text: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Whether the same may succeed a little later.
    // upstream: webhook.DefaultShouldRetry
    fn passes(&self) -> bool {
        self.status.is_none_or(|status| status == 429 || status >= 500)
    }
}

/// Calls until it succeeds, or fails for good, or too often.
pub async fn with_retries<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> Result<T, Error> {
    let mut backoff = Backoff::new(RETRY, ATTEMPTS);
    loop {
        match call().await {
            Err(error) if error.passes() => match backoff.next() {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            },
            answer => return answer,
        }
    }
}

/// Whom to trust and what to show.
#[derive(Debug, Default)]
struct Trust {
    /// PEM; the system's authorities if there is none.
    authorities: Option<Vec<u8>>,
    /// Certificate chain and key, PEM.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    insecure: bool,
    server_name: Option<String>,
}

impl Remote {
    /// The service at `url`, whose certificate the authorities in `bundle` (PEM) signed, or those of the system.
    pub fn at(url: &str, bundle: Option<Vec<u8>>) -> Result<Self, String> {
        Self::new(url, None, &Trust { authorities: bundle, ..Trust::default() })
    }

    /// The service that the kubeconfig `path` names as its cluster, asked as its user.
    pub fn of_kubeconfig(path: &Path) -> Result<Self, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let file: Kubeconfig = serde_saphyr::from_str(&text).map_err(|error| wrong(&error))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        file.remote(directory).map_err(|error| wrong(&error))
    }

    fn new(url: &str, authorization: Option<String>, trust: &Trust) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!("{url}: an address begins with https:// or http://"));
        }
        let authorization = authorization.map(HeaderValue::try_from).transpose().map_err(|error| error.to_string())?;
        let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls(trust)?).https_or_http();
        if let Some(name) = &trust.server_name {
            let name = ServerName::try_from(name.clone()).map_err(|error| format!("{name}: {error}"))?;
            builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let connector = builder.enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Remote { uri, authorization, client })
    }

    /// Posts `body`, JSON, and returns the answer's body if it was a success.
    pub async fn post(&self, body: &Bytes, timeout: Duration) -> Result<Bytes, Error> {
        self.exchange(Method::POST, &self.uri, body.clone(), timeout).await
    }

    /// Gets a document of the same service.
    pub async fn get(&self, url: &str, timeout: Duration) -> Result<Bytes, Error> {
        let uri = url.parse().map_err(|error| Error { status: None, text: format!("{url}: {error}") })?;
        self.exchange(Method::GET, &uri, Bytes::new(), timeout).await
    }

    async fn exchange(&self, method: Method, uri: &Uri, body: Bytes, timeout: Duration) -> Result<Bytes, Error> {
        let refused = |status: Option<u16>, why: &dyn std::fmt::Display| {
            let text = format!("{method} \"{uri}\": {why}");
            Error { status, text }
        };
        let failed = |why: &dyn std::fmt::Display| refused(None, why);
        let mut request = Request::builder().method(&method).uri(uri).header(USER_AGENT, "kube-apiserver");
        request = request.header(ACCEPT, "application/json, */*");
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        let call = async {
            let response = self.client.request(request).await.map_err(|error| failed(&causes(&error)))?;
            let status = response.status();
            let answer =
                Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| failed(&error))?;
            let answer = answer.to_bytes();
            if status.is_success() {
                return Ok(answer);
            }
            let text = String::from_utf8_lossy(answer.get(..answer.len().min(1024)).unwrap_or_default()).into_owned();
            Err(refused(Some(status.as_u16()), &format!("{status}: {}", text.trim())))
        };
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(failed(&"context deadline exceeded")))
    }
}

/// An error and what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn tls(trust: &Trust) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(pintle_pki::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if trust.insecure {
        let anyone: Arc<dyn ServerCertVerifier> = pintle_pki::tls::accept_any_server();
        builder.dangerous().with_custom_certificate_verifier(anyone)
    } else {
        let mut roots = RootCertStore::empty();
        match &trust.authorities {
            None => roots = system_roots(),
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| format!("certificate authority: {error}"))?;
                    roots.add(certificate).map_err(|error| format!("certificate authority: {error}"))?;
                }
                if roots.is_empty() {
                    return Err("certificate authority: no certificate".to_owned());
                }
            }
        }
        builder.with_root_certificates(roots)
    };
    let Some((chain, key)) = &trust.identity else { return Ok(builder.with_no_client_auth()) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| format!("client certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("client key: {error}"))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| format!("client certificate: {error}"))
}

/// Waits that grow by half, up to a number of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    left: u32,
}

impl Backoff {
    /// The waits between `attempts` attempts, the first about `first`.
    pub fn new(first: Duration, attempts: u32) -> Self {
        Backoff { next: first, left: attempts.saturating_sub(1) }
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    // upstream: webhook.DefaultRetryBackoffWithInitialDelay
    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let wait = self.next.mul_f64(1.0 + 0.2 * fastrand::f64());
        self.next = self.next.mul_f64(1.5);
        Some(wait)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named>,
    clusters: Vec<Named>,
    users: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    context: Context,
    cluster: Cluster,
    user: User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
}

impl Kubeconfig {
    fn remote(&self, directory: &Path) -> Result<Remote, String> {
        let find = |list: &'_ [Named], name: &str| list.iter().position(|known| known.name == name);
        let context = match find(&self.contexts, &self.current_context) {
            Some(at) => &self.contexts[at].context,
            None if self.current_context.is_empty() && self.clusters.len() == 1 => &Context::default(),
            None => return Err(format!("no context has the name {:?} (current-context)", self.current_context)),
        };
        let cluster = match find(&self.clusters, &context.cluster) {
            Some(at) => &self.clusters[at].cluster,
            None if context.cluster.is_empty() && self.clusters.len() == 1 => &self.clusters[0].cluster,
            None => return Err(format!("no cluster has the name {:?}", context.cluster)),
        };
        let nobody = User::default();
        let user = find(&self.users, &context.user).map_or(&nobody, |at| &self.users[at].user);
        let authorities =
            content(cluster.certificate_authority_data.as_ref(), cluster.certificate_authority.as_ref(), directory)?;
        let certificate = content(user.client_certificate_data.as_ref(), user.client_certificate.as_ref(), directory)?;
        let key = content(user.client_key_data.as_ref(), user.client_key.as_ref(), directory)?;
        let token = match (&user.token, &user.token_file) {
            (Some(token), _) => Some(token.trim().to_owned()),
            (None, Some(path)) => Some(String::from_utf8_lossy(&read(path, directory)?).trim().to_owned()),
            (None, None) => None,
        };
        let basic = || {
            let name = user.username.as_ref()?;
            let text = format!("{name}:{}", user.password.as_deref().unwrap_or_default());
            Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)))
        };
        let trust = Trust {
            authorities,
            identity: certificate.zip(key),
            insecure: cluster.insecure_skip_tls_verify,
            server_name: cluster.tls_server_name.clone(),
        };
        Remote::new(&cluster.server, token.map(|token| format!("Bearer {token}")).or_else(basic), &trust)
    }
}

/// What the field holds in base64, or the file that it names.
fn content(data: Option<&String>, file: Option<&PathBuf>, directory: &Path) -> Result<Option<Vec<u8>>, String> {
    match (data, file) {
        (Some(data), _) => {
            base64::engine::general_purpose::STANDARD.decode(data.trim()).map(Some).map_err(|error| error.to_string())
        }
        (None, Some(path)) => read(path, directory).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path, directory: &Path) -> Result<Vec<u8>, String> {
    let path = directory.join(path);
    std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_the_service_and_what_it_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), "secret\n").unwrap();
        let path = directory.path().join("config");
        let text = "current-context: c\ncontexts: [{name: c, context: {cluster: a, user: u}}]\n\
                    clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1/audit'}}]\nusers: [{name: u, user: {tokenFile: token}}]\n";
        std::fs::write(&path, text).unwrap();
        let remote = Remote::of_kubeconfig(&path).unwrap();
        assert_eq!(remote.uri.to_string(), "http://127.0.0.1:1/audit");
        assert_eq!(remote.authorization.unwrap(), "Bearer secret");
        std::fs::write(&path, text.replace("cluster: a", "cluster: b")).unwrap();
        assert!(Remote::of_kubeconfig(&path).unwrap_err().contains("no cluster has the name \"b\""));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again() {
        let calls = std::cell::Cell::new(0);
        let fail = |status| {
            calls.set(calls.get() + 1);
            async move { Err::<(), _>(Error { status, text: "no".into() }) }
        };
        assert!(with_retries(|| fail(Some(503))).await.is_err());
        assert_eq!(calls.replace(0), 5);
        assert!(with_retries(|| fail(Some(403))).await.is_err());
        assert_eq!(calls.get(), 1);
    }

    #[test]
    fn waits_grow_and_end() {
        let waits: Vec<Duration> = Backoff::new(Duration::from_secs(10), 5).collect();
        assert_eq!(waits.len(), 4);
        assert!(waits[3] >= Duration::from_millis(33_750) && waits[3] < Duration::from_millis(40_501), "{waits:?}");
    }
}
