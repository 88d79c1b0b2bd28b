//! Follows Ingresses, their classes and their Secrets, and keeps the proxy current; tells each Ingress where it is reached.
use crate::Config;
use crate::backends::Backends;
use crate::certificates::{Certificates, certified};
use crate::proxy::{Proxy, Routes};
use crate::table::{CONTROLLER, Table, is_ours};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, Resource};
use pintle_client::recorder::EventType::Warning;
use pintle_client::{Clients, Informer, Informers, Recorder};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The name of the IngressClass that is made where there is none.
const CLASS: &str = "pintle";
/// Pause before the API is asked again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Controller {
    client: Client,
    recorder: Recorder,
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    secrets: Informer<Secret>,
    backends: Arc<Backends>,
    proxy: Arc<Proxy>,
    certificates: Arc<Certificates>,
    /// What `status.loadBalancer.ingress` is to be.
    reached_at: Value,
    changed: Arc<Notify>,
    /// Of the Secrets that are named, by (namespace, name).
    read: HashMap<(String, String), Read>,
}

/// What was read from a Secret.
#[derive(Clone)]
struct Read {
    /// The Secret's resource version; empty if there was none.
    version: String,
    certificate: Option<Arc<CertifiedKey>>,
}

impl Controller {
    /// Follows the API with the rights of `ingress-controller`.
    pub fn new(
        config: &Config,
        clients: &Clients,
        informers: &Informers,
        stop: &CancellationToken,
        proxy: Arc<Proxy>,
        certificates: Arc<Certificates>,
    ) -> Self {
        let client = clients.controller("ingress-controller");
        let of_tls = watcher::Config::default().fields("type=kubernetes.io/tls");
        Controller {
            recorder: Recorder::core(client.clone(), "ingress-controller", ""),
            ingresses: informers.of(),
            classes: informers.of(),
            secrets: Informer::start(Api::all(client.clone()), of_tls, stop.clone()),
            backends: Backends::follow(informers),
            client,
            proxy,
            certificates,
            reached_at: config.addresses.iter().map(|address| json!({"ip": address})).collect(),
            changed: Arc::default(),
            read: HashMap::new(),
        }
    }

    /// Keeps everything current until `stop`.
    pub async fn run(mut self, stop: &CancellationToken) {
        let follow = async {
            self.make_class().await;
            notify(&self.ingresses, &self.changed);
            notify(&self.classes, &self.changed);
            notify(&self.secrets, &self.changed);
            tokio::join!(self.ingresses.synced(), self.classes.synced(), self.secrets.synced());
            loop {
                let ours = self.update();
                self.tell(&ours).await;
                self.changed.notified().await;
            }
        };
        tokio::select! { () = follow => {} () = stop.cancelled() => {} }
    }

    /// The class of this controller, the default one where there is no other.
    async fn make_class(&self) {
        let classes: Api<IngressClass> = Api::all(self.client.clone());
        let class = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": CLASS, "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
            "spec": {"controller": CONTROLLER},
        });
        let Ok(class) = serde_json::from_value(class) else { return };
        loop {
            match classes.create(&PostParams::default(), &class).await {
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => return,
                Ok(_) => return,
                Err(error) => tracing::warn!(%error, "cannot make the IngressClass {CLASS}, will try again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Puts what the API says now in force; the Ingresses that are answered.
    fn update(&mut self) -> Vec<Arc<Ingress>> {
        let class = |name: &str| self.classes.get("", name);
        let ours: Vec<_> = self.ingresses.list().into_iter().filter(|ingress| is_ours(ingress, class)).collect();
        let table = Table::of(ours.iter().map(Arc::as_ref));
        let backends = self.backends.keep(&table.services());
        self.update_certificates(&table, &ours);
        self.proxy.routes.store(Arc::new(Routes { table, backends }));
        ours
    }

    fn update_certificates(&mut self, table: &Table, ours: &[Arc<Ingress>]) {
        let mut by_host = HashMap::new();
        let mut read = HashMap::new();
        for (host, key) in &table.certificates {
            let secret = self.secrets.get(&key.0, &key.1);
            let version =
                secret.as_ref().and_then(|secret| secret.metadata.resource_version.clone()).unwrap_or_default();
            let Read { certificate, .. } = read.entry(key.clone()).or_insert_with(|| {
                match self.read.get(key).filter(|known| known.version == version) {
                    Some(known) => known.clone(),
                    None => {
                        let missing = || "there is no such Secret of type kubernetes.io/tls".to_owned();
                        let certificate = secret.as_deref().ok_or_else(missing).and_then(certified).map(Arc::new);
                        let certificate = certificate.map_err(|problem| self.complain(ours, key, &problem)).ok();
                        Read { version, certificate }
                    }
                }
            });
            if let Some(certificate) = certificate {
                by_host.insert(host.clone(), certificate.clone());
            }
        }
        self.read = read;
        self.certificates.replace(by_host);
    }

    /// Tells the Ingresses that name a Secret what is wrong with it.
    fn complain(&self, ours: &[Arc<Ingress>], (namespace, name): &(String, String), problem: &str) {
        let names_it = |ingress: &&Arc<Ingress>| {
            let mut tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
            ingress.meta().namespace.as_ref() == Some(namespace)
                && tls.any(|tls| tls.secret_name.as_ref() == Some(name))
        };
        for ingress in ours.iter().filter(names_it) {
            let text = format!("The hosts of Secret {name} show the default certificate: {problem}");
            self.recorder.event(ingress.as_ref(), Warning, "NoCertificate", text);
        }
    }

    /// Writes where Ingresses are reached into those that do not say so yet.
    async fn tell(&self, ours: &[Arc<Ingress>]) {
        let says = |ingress: &Ingress| {
            let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            serde_json::to_value(balancer.and_then(|balancer| balancer.ingress.as_ref())).unwrap_or_default()
        };
        for ingress in ours.iter().filter(|ingress| says(ingress) != self.reached_at) {
            let meta = ingress.meta();
            let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { continue };
            let api: Api<Ingress> = Api::namespaced(self.client.clone(), namespace);
            let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": self.reached_at}}}));
            match api.patch_status(name, &PatchParams::default(), &patch).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    tracing::warn!(namespace, name, %error, "cannot tell an Ingress where it is reached, will try again");
                    let changed = self.changed.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(RETRY).await;
                        changed.notify_one();
                    });
                    return;
                }
            }
        }
    }
}

fn notify<K: pintle_client::informer::Kind>(informer: &Informer<K>, changed: &Arc<Notify>) {
    let changed = changed.clone();
    informer.on_change(move |_| changed.notify_one());
}
