//! Wires the control plane: certificates, store, API server, controllers, scheduler, provisioner.
use crate::api;
use crate::instance::Instance;
use crate::node::NodeAccess;
use crate::progress::Progress;
use crate::start::{Components, Settings};
use anyhow::{Context, Result};
use pintle_api::user::UserInfo;
use pintle_apiserver::ApiServer;
use pintle_apiserver::listener;
use pintle_client::{Clients, Informers};
use pintle_pki::ClusterPki;
use pintle_store::embedded::Options as StoreOptions;
use pintle_store::seal::AesGcm;
use pintle_store::{EmbeddedStore, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The running control plane.
pub struct ControlPlane {
    /// Keys and certificates.
    pub pki: ClusterPki,
    /// Clients of the API, in process.
    pub clients: Clients,
    /// The shared informers of the process, reading as the controller manager.
    pub informers: Informers,
    api: ApiServer,
    shutdown_delay: Duration,
    store: Arc<EmbeddedStore>,
}

impl ControlPlane {
    /// Starts everything; returns when the API answers.
    pub async fn start(
        settings: &Settings,
        stop: &CancellationToken,
        components: &mut Components,
        progress: &Progress,
    ) -> Result<Self> {
        let (paths, instance) = (&settings.paths, &settings.instance);
        let pki = ClusterPki::open_or_create(&paths.pki(), &pki_params(settings)).context("certificates")?;
        let renewal = pki.clone();
        let stopped = stop.clone();
        components.spawn(async move {
            renewal.run(async move { stopped.cancelled().await }).await;
            ("certificate renewal", Ok(()))
        });
        let path = paths.store();
        let seal = AesGcm::new(pki.encryption_key().bytes(), &["/registry/secrets/"])?;
        let options = StoreOptions { seal: Some(Arc::new(seal)), ..StoreOptions::default() };
        let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path, &options)).await??;
        let store = Arc::new(store);
        progress.step(&format!("store open at revision {}", store.revision()));

        let shutdown_delay = api::shutdown_delay(&settings.options.api_server)?;
        let api = api::server(store.clone(), &pki, settings, stop).await?;
        let bind = (settings.bind(), instance.https_port);
        let socket =
            TcpListener::bind(bind).await.with_context(|| format!("cannot listen on port {}", instance.https_port))?;
        let tls = Arc::new(pki.apiserver_tls().context("TLS of the API server")?);
        let (server, stopped) = (api.clone(), stop.clone());
        components.spawn(async move {
            listener::serve(server, socket, tls, stopped).await;
            ("API server", Ok(()))
        });
        progress.step(&format!("API server at https://127.0.0.1:{}", instance.https_port));

        let clients = clients(&api);
        let manager = clients.user(UserInfo::new("system:kube-controller-manager", &[]));
        let informers = Informers::new(manager, stop.clone());
        let control_plane = ControlPlane { pki, clients, informers, api, shutdown_delay, store };
        control_plane.start_controllers(settings, stop, components)?;
        Ok(control_plane)
    }

    fn start_controllers(
        &self,
        settings: &Settings,
        stop: &CancellationToken,
        components: &mut Components,
    ) -> Result<()> {
        let config = pintle_controllers::Config {
            root_ca_pem: self.pki.authority().certificate_pem().to_owned(),
            cluster_cidrs: vec![settings.instance.cluster_cidr.into()],
            load_balancer: settings.options.load_balancer.unwrap_or(true),
            node_mask_v4: 24,
            node_mask_v6: 64,
            signer: Some(self.pki.authority().clone()),
        };
        let controllers = pintle_controllers::run(config, self.clients.clone(), self.informers.clone(), stop.clone());
        components.spawn(async move {
            controllers.await;
            ("controllers", Ok(()))
        });
        let config = pintle_dns::publish::Config {
            cluster_ips: vec![settings.instance.dns_ip().into()],
            port: crate::node::DNS_PORT,
        };
        let publish = pintle_dns::publish::keep(config, self.clients.clone(), self.informers.clone(), stop.clone());
        components.spawn(async move {
            publish.await;
            ("cluster DNS's Service", Ok(()))
        });
        let config = scheduler_config(settings)?;
        let scheduler = pintle_scheduler::Scheduler::new(config, &self.clients, &self.informers);
        let (counted, stopped) = (scheduler.clone(), stop.clone());
        self.api.add_metrics(move || counted.metrics());
        components.spawn(async move {
            scheduler.run(stopped).await;
            ("scheduler", Ok(()))
        });
        Ok(())
    }

    /// The administrator's client.
    pub fn admin(&self) -> kube::Client {
        self.clients.user(UserInfo::new("kubernetes-admin", &["system:masters"]))
    }

    /// What the parts of a node in this process act with.
    pub fn node_access(&self, settings: &Settings, stop: &CancellationToken) -> Result<NodeAccess> {
        let name = &settings.instance.node_name;
        let proxy = self.clients.user(UserInfo::new("system:kube-proxy", &[]));
        let serving = self.pki.kubelet_serving(name, &[settings.node_ip])?;
        Ok(NodeAccess {
            clients: self.clients.clone(),
            informers: self.informers.clone(),
            proxy: Informers::new(proxy, stop.clone()),
            node: self.clients.user(UserInfo::new(format!("system:node:{name}"), &["system:nodes"])),
            tls: Arc::new(self.pki.kubelet_tls(serving)?),
        })
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self, instance: &Instance) -> String {
        let server = format!("https://127.0.0.1:{}", instance.https_port);
        self.pki.kubeconfig("pintle", "admin", &server, self.pki.admin())
    }

    /// Answers for a while longer, but tells those who ask whether the API is ready that it is about to end.
    pub async fn drain(&self) {
        self.api.drain();
        tokio::time::sleep(self.shutdown_delay).await;
    }

    /// Closes the store after everything else has ended.
    pub async fn close(self) {
        self.api.close().await;
        let store = self.store;
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "the store did not close");
        }
    }
}

fn scheduler_config(settings: &Settings) -> Result<pintle_scheduler::Config> {
    let Some(path) = &settings.options.scheduler_config else { return Ok(pintle_scheduler::Config::default()) };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the scheduler's configuration {}", path.display()))?;
    pintle_scheduler::Config::from_yaml(&text)
        .with_context(|| format!("the scheduler's configuration {}", path.display()))
}

fn clients(api: &ApiServer) -> Clients {
    let api = api.clone();
    Clients::new(move |user| kube::Client::new(api.service(user), "default"))
}

fn pki_params(settings: &Settings) -> pintle_pki::Params {
    let instance = &settings.instance;
    pintle_pki::Params {
        hostname: instance.node_name.clone(),
        cluster_domain: instance.cluster_domain.clone(),
        node_ips: vec![settings.node_ip],
        service_ip: Some(instance.kubernetes_ip().into()),
        extra_names: (settings.options.tls_san.iter().cloned())
            .chain(instance.machine.as_ref().map(|machine| machine.host().to_string()))
            .collect(),
    }
}
