//! The node's certificates, issued by the cluster's signers for keys that never leave the node, and renewed while running.
use crate::instance::Paths;
use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use pintle_client::Remote;
use pintle_pki::{Held, LeafSpec, Trusted, request, tls};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// The signer of client certificates.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of serving certificates.
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// How long a signer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after a certificate could not be had.
const RETRY: Duration = Duration::from_secs(5);
/// The longest sleep between two looks at the clock, which may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API refused the request or could not be reached.
    #[error(transparent)]
    Api(#[from] Box<kube::Error>),
    /// The key or the request could not be made.
    #[error(transparent)]
    Pki(#[from] pintle_pki::Error),
    /// The request was denied.
    #[error("the request was denied: {0}")]
    Denied(String),
    /// Nobody signed in time.
    #[error("nobody approved and signed the certificate request within {} s", PATIENCE.as_secs())]
    Unanswered,
    /// The watch ended.
    #[error("cannot follow the certificate request: {0}")]
    Watch(String),
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        RequestError::Api(Box::new(error))
    }
}

/// Asks `signer` for a certificate as `spec` says; returns it with its fresh key, both PEM.
pub async fn request(client: &kube::Client, signer: &str, spec: &LeafSpec) -> Result<(String, String), RequestError> {
    let (key, pem) = request::create(spec)?;
    let purpose = if signer == SERVING_SIGNER { "server auth" } else { "client auth" };
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), purpose.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let made = api.create(&PostParams::default(), &object).await?;
    let name = made.metadata.name.unwrap_or_default();
    let decided = await_condition(api, &name, |request: Option<&CertificateSigningRequest>| {
        request.is_none_or(|request| certificate(request).is_some() || refusal(request).is_some())
    });
    let decided = tokio::time::timeout(PATIENCE, decided).await.map_err(|_| RequestError::Unanswered)?;
    let decided = decided.map_err(|error| RequestError::Watch(error.to_string()))?;
    let Some(decided) = decided else { return Err(RequestError::Denied("it was removed".to_owned())) };
    match certificate(&decided) {
        Some(certificate) => Ok((certificate, key)),
        None => Err(RequestError::Denied(refusal(&decided).unwrap_or_default())),
    }
}

fn certificate(request: &CertificateSigningRequest) -> Option<String> {
    let bytes = &request.status.as_ref()?.certificate.as_ref()?.0;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

fn refusal(request: &CertificateSigningRequest) -> Option<String> {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let bad = conditions.into_iter().find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"))?;
    Some(bad.message.clone().or_else(|| bad.reason.clone()).unwrap_or_default())
}

/// The files of a node's identity.
pub struct Certificates {
    authority: Trusted,
    client: Arc<Held>,
    serving: Arc<Held>,
}

impl Certificates {
    /// Those of an earlier start; `None` if the node has not joined.
    pub fn open(paths: &Paths) -> Result<Option<Self>> {
        let authority = Trusted::open(&paths.authority())?;
        authority.map(|authority| Self::with(&paths.pki(), authority)).transpose()
    }

    /// Keeps the cluster's authority; the certificates are to come.
    pub fn install(paths: &Paths, authority_pem: &str) -> Result<Self> {
        let authority = Trusted::install(&paths.authority(), authority_pem)?;
        Self::with(&paths.pki(), authority)
    }

    fn with(dir: &Path, authority: Trusted) -> Result<Self> {
        let path = |name: &str| -> PathBuf { dir.join(name) };
        Ok(Certificates {
            client: Held::open(&path("kubelet-client.pem"), &authority)?,
            serving: Held::open(&path("kubelet-serving.pem"), &authority)?,
            authority,
        })
    }

    /// The cluster's authority.
    pub fn authority(&self) -> &Trusted {
        &self.authority
    }

    /// Keeps a new client certificate.
    pub fn install_client(&self, certificate: &str, key: &str) -> Result<()> {
        Ok(self.client.install(certificate, key)?)
    }

    /// When the client certificate ends; `None` if there is none.
    pub fn client_expires(&self) -> Option<SystemTime> {
        self.client.current().map(|state| state.not_after)
    }

    /// The connection to the API server as this node.
    pub fn remote(&self, server: &http::Uri) -> Result<Remote> {
        let tls = tls::held_client_config(Some(self.client.clone()), self.authority.certificate())?;
        Ok(Remote::new(server.clone(), tls))
    }

    /// TLS of the kubelet's server; it shows its certificate once there is one.
    pub fn server_tls(&self) -> Result<rustls::ServerConfig> {
        let tls = tls::held_server_config(self.serving.clone(), self.authority.certificate(), &["h2", "http/1.1"]);
        tls.context("TLS of the kubelet")
    }

    /// Renews what is due, and the serving certificate when the node's address changed, until `stop`.
    pub async fn keep(self: Arc<Self>, client: kube::Client, remote: Remote, node_ip: IpAddr, stop: CancellationToken) {
        let work = async {
            loop {
                let pause = match self.renew(&client, &remote, node_ip).await {
                    Ok(pause) => pause,
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "cannot renew a certificate, will try again");
                        RETRY
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! { () = work => {} () = stop.cancelled() => {} }
    }

    async fn renew(&self, client: &kube::Client, remote: &Remote, node_ip: IpAddr) -> Result<Duration> {
        let now = SystemTime::now();
        let name = self.node_name().context("the client certificate names no node")?;
        let serving = LeafSpec::kubelet_serving(&name, &[node_ip]);
        let wanted: BTreeSet<String> = serving.subject_alt_names.iter().cloned().collect();
        let current = self.serving.current();
        if current.is_none_or(|state| state.renew_at <= now || state.subject_alt_names != wanted) {
            let (certificate, key) = request(client, SERVING_SIGNER, &serving).await.context("serving certificate")?;
            self.serving.install(&certificate, &key)?;
            tracing::info!(node = name, "new serving certificate");
        }
        if self.client.current().is_none_or(|state| state.renew_at <= now) {
            let spec = LeafSpec::node_client(&name);
            let (certificate, key) = request(client, CLIENT_SIGNER, &spec).await.context("client certificate")?;
            self.client.install(&certificate, &key)?;
            remote.reconnect();
            tracing::info!(node = name, "new client certificate");
        }
        let due =
            [&self.client, &self.serving].into_iter().filter_map(|held| held.current()).map(|state| state.renew_at);
        let next = due.min().and_then(|due| due.duration_since(SystemTime::now()).ok()).unwrap_or(RETRY);
        Ok(next.clamp(Duration::from_secs(1), LONGEST_SLEEP))
    }

    fn node_name(&self) -> Option<String> {
        let state = self.client.current()?;
        state.common_name.strip_prefix("system:node:").map(str::to_owned)
    }
}
