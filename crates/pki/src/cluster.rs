//! All keys and certificates of one cluster under one directory. Start at [`ClusterPki::open_or_create`].
use crate::authority::{Issued, LEAF_LIFE};
use crate::tls::{self, ClientAuth, ClientVerifier};
use crate::{Authority, Clock, EncryptionKey, Error, Kubeconfig, Leaf, LeafSpec, ServiceAccountKey, files};
use rustls::{ClientConfig, ServerConfig};
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The longest sleep between two looks at the clock: wall clocks jump, and sleep does not follow them.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);
/// The wait after a renewal failed (a full disk).
const RETRY: Duration = Duration::from_secs(60);

/// What the API server's certificate must answer for.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// This machine's name.
    pub hostname: String,
    /// The cluster's DNS domain, e.g. `cluster.local`.
    pub cluster_domain: String,
    /// Addresses under which this machine is reached.
    pub node_ips: Vec<IpAddr>,
    /// The first address of the Service range: the `kubernetes` Service.
    pub service_ip: Option<IpAddr>,
    /// Further DNS names and addresses, e.g. of a load balancer.
    pub extra_names: Vec<String>,
}

impl Params {
    fn apiserver_names(&self) -> Vec<String> {
        let domain = &self.cluster_domain;
        let mut names = vec![
            "localhost".to_owned(),
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
            self.hostname.clone(),
        ];
        if !domain.is_empty() {
            names.push(format!("kubernetes.default.svc.{domain}"));
        }
        names.extend(self.node_ips.iter().chain(&self.service_ip).map(ToString::to_string));
        names.extend(self.extra_names.iter().cloned());
        names
    }
}

/// The certificates and keys of a cluster's control plane; clones share them.
#[derive(Clone)]
pub struct ClusterPki(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    authority: Arc<Authority>,
    front_proxy_authority: Arc<Authority>,
    service_account_key: ServiceAccountKey,
    encryption_key: EncryptionKey,
    apiserver: Arc<Leaf>,
    kubelet_client: Arc<Leaf>,
    admin: Arc<Leaf>,
    front_proxy_client: Arc<Leaf>,
    /// Every leaf under renewal, with its authority.
    leafs: Mutex<Vec<(Arc<Leaf>, Arc<Authority>)>>,
    added: Notify,
}

impl ClusterPki {
    /// Reads the files under `dir`, makes those that are missing, renews what is due. Call [`ClusterPki::run`] to keep
    /// certificates renewed afterwards.
    pub fn open_or_create(dir: &Path, params: &Params) -> Result<Self, Error> {
        ClusterPki::with_clock(dir, params, Clock::system())
    }

    /// [`ClusterPki::open_or_create`] by another clock.
    pub fn with_clock(dir: &Path, params: &Params, clock: Clock) -> Result<Self, Error> {
        files::create_dir(dir)?;
        let authority = Arc::new(Authority::open_or_create(&dir.join("ca.pem"), "kubernetes", clock.clone())?);
        let front_proxy_authority =
            Arc::new(Authority::open_or_create(&dir.join("front-proxy-ca.pem"), "front-proxy-ca", clock)?);
        let leaf = |file: &str, spec| Leaf::open_or_create(&dir.join(file), spec, &authority);
        let apiserver = leaf("apiserver.pem", LeafSpec::server("kube-apiserver", params.apiserver_names()))?;
        let kubelet_client = leaf(
            "apiserver-kubelet-client.pem",
            LeafSpec::client("kube-apiserver-kubelet-client", Some("system:masters")),
        )?;
        let admin = leaf("admin.pem", LeafSpec::client("kubernetes-admin", Some("system:masters")))?;
        let front_proxy_client = Leaf::open_or_create(
            &dir.join("front-proxy-client.pem"),
            LeafSpec::client("front-proxy-client", None),
            &front_proxy_authority,
        )?;
        let mut leafs: Vec<_> =
            [&apiserver, &kubelet_client, &admin].map(|leaf| (leaf.clone(), authority.clone())).into();
        leafs.push((front_proxy_client.clone(), front_proxy_authority.clone()));
        Ok(ClusterPki(Arc::new(Inner {
            service_account_key: ServiceAccountKey::open_or_create(&dir.join("service-account.pem"))?,
            encryption_key: EncryptionKey::open_or_create(&dir.join("encryption.key"))?,
            dir: dir.to_owned(),
            authority,
            front_proxy_authority,
            apiserver,
            kubelet_client,
            admin,
            front_proxy_client,
            leafs: Mutex::new(leafs),
            added: Notify::new(),
        })))
    }

    /// The cluster's certificate authority.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.0.authority
    }

    /// The authority of the aggregator's client certificate (`requestheader-client-ca`).
    pub fn front_proxy_authority(&self) -> &Arc<Authority> {
        &self.0.front_proxy_authority
    }

    /// The key that signs service-account tokens.
    pub fn service_account_key(&self) -> &ServiceAccountKey {
        &self.0.service_account_key
    }

    /// The key with which Secrets are encrypted on disk.
    pub fn encryption_key(&self) -> &EncryptionKey {
        &self.0.encryption_key
    }

    /// The API server's serving certificate.
    pub fn apiserver(&self) -> &Arc<Leaf> {
        &self.0.apiserver
    }

    /// What the API server shows to kubelets.
    pub fn kubelet_client(&self) -> &Arc<Leaf> {
        &self.0.kubelet_client
    }

    /// The administrator: `kubernetes-admin` in `system:masters`.
    pub fn admin(&self) -> &Arc<Leaf> {
        &self.0.admin
    }

    /// What the aggregator shows to extension API servers.
    pub fn front_proxy_client(&self) -> &Arc<Leaf> {
        &self.0.front_proxy_client
    }

    /// The leaf kept as `<name>.pem`, issued by the cluster's authority as `spec` says and renewed like the others.
    /// `name` may hold directories: `nodes/n1/kubelet-client`.
    pub fn leaf(&self, name: &str, spec: LeafSpec) -> Result<Arc<Leaf>, Error> {
        let path = self.0.dir.join(format!("{name}.pem"));
        if let Some(dir) = path.parent() {
            files::create_dir(dir)?;
        }
        let leaf = Leaf::open_or_create(&path, spec, &self.0.authority)?;
        let mut leafs = self.0.leafs.lock().unwrap_or_else(PoisonError::into_inner);
        leafs.push((leaf.clone(), self.0.authority.clone()));
        drop(leafs);
        self.0.added.notify_one();
        Ok(leaf)
    }

    /// The client certificate of `node`'s kubelet.
    pub fn node_client(&self, node: &str) -> Result<Arc<Leaf>, Error> {
        self.leaf(&format!("nodes/{node}/kubelet-client"), LeafSpec::node_client(node))
    }

    /// The serving certificate of `node`'s kubelet.
    pub fn kubelet_serving(&self, node: &str, addresses: &[IpAddr]) -> Result<Arc<Leaf>, Error> {
        self.leaf(&format!("nodes/{node}/kubelet-serving"), LeafSpec::kubelet_serving(node, addresses))
    }

    /// Signs an agent's certificate signing request as `spec` says; the agent keeps its key.
    pub fn sign_request(&self, request_pem: &str, spec: &LeafSpec) -> Result<Issued, Error> {
        self.0.authority.sign_request(request_pem, spec, LEAF_LIFE)
    }

    /// TLS for the API server: HTTP/2 and HTTP/1.1, client certificates requested (judge them with
    /// [`ClusterPki::client_verifier`]).
    pub fn apiserver_tls(&self) -> Result<ServerConfig, Error> {
        tls::server_config(self.0.apiserver.clone(), &self.0.authority, ClientAuth::Requested, &["h2", "http/1.1"])
    }

    /// Judges client certificates that connections to [`ClusterPki::apiserver_tls`] showed.
    pub fn client_verifier(&self) -> Result<ClientVerifier, Error> {
        ClientVerifier::new(&self.0.authority)
    }

    /// TLS for a kubelet's server: a client certificate, if one is shown, must be the cluster's.
    pub fn kubelet_tls(&self, serving: Arc<Leaf>) -> Result<ServerConfig, Error> {
        tls::server_config(serving, &self.0.authority, ClientAuth::Verified, &["h2", "http/1.1"])
    }

    /// TLS for connections to servers of the cluster, showing `leaf` if any. No ALPN is set: HTTP/1.1 unless the
    /// connector adds protocols.
    pub fn client_tls(&self, leaf: Option<Arc<Leaf>>) -> Result<ClientConfig, Error> {
        tls::client_config(&self.0.authority, leaf, &[])
    }

    /// TLS for connections to an extension API server, showing the front proxy's certificate. The server's certificate must
    /// lead to one of `bundle` (PEM); `None`: to nothing in particular.
    pub fn front_proxy_tls(&self, bundle: Option<&[u8]>) -> Result<ClientConfig, Error> {
        tls::client_config_for(bundle, Some(self.0.front_proxy_client.clone()))
    }

    /// A kubeconfig that reaches `server` as the holder of `leaf`.
    pub fn kubeconfig(&self, cluster: &str, user: &str, server: &str, leaf: &Leaf) -> String {
        let state = leaf.current();
        Kubeconfig {
            cluster,
            user,
            server,
            authority_pem: self.0.authority.certificate_pem(),
            certificate_pem: &state.certificate_pem,
            key_pem: &state.key_pem,
        }
        .render()
    }

    /// Renews certificates when a third of their life is left, until `stop` is ready.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let sleep = self.renew();
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(sleep) => {}
                () = self.0.added.notified() => {}
            }
        }
    }

    /// Renews what is due; returns how long nothing will be.
    fn renew(&self) -> Duration {
        let leafs = self.0.leafs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut sleep = LONGEST_SLEEP;
        for (leaf, authority) in leafs {
            match leaf.renew_if_due(&authority) {
                Ok(due) => {
                    sleep = sleep.min(due.duration_since(authority.clock().now()).unwrap_or(Duration::from_secs(1)));
                }
                Err(error) => {
                    tracing::error!(subject = %leaf.spec().common_name, %error, "cannot renew a certificate, will retry");
                    sleep = sleep.min(RETRY);
                }
            }
        }
        sleep
    }
}
