//! NetworkPolicy: keeps the policies' nft table equal to what policies, pods and namespaces ask for. Start at
//! [`Policies::work`].
mod plan;
mod table;

use crate::config::Config;
use crate::nft::{self, Family};
use crate::table_watch::TableWatch;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use pintle_client::Informers;
use pintle_client::informer::{Informer, Kind};
use plan::{Inputs, PodFacts};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use table::PolicyTable;
use tokio::sync::Notify;

/// Pause before a refused change is tried again, and before empty chains are removed.
const PAUSE: Duration = Duration::from_secs(1);

/// The node's enforcement of NetworkPolicy.
pub struct Policies {
    config: Config,
    informers: Informers,
    policies: Informer<NetworkPolicy>,
    wake: Arc<Notify>,
}

impl Policies {
    /// Follows `informers`. Pods and namespaces are followed from the first policy on.
    pub fn new(config: Config, informers: &Informers) -> Self {
        let wake = Arc::new(Notify::new());
        let policies = follow(informers, &wake);
        Policies { config, informers: informers.clone(), policies, wake }
    }

    /// Enforces without end.
    pub async fn work(&self) {
        self.policies.synced().await;
        let families: BTreeSet<Family> = self.config.pod_cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect();
        let mut tables: Vec<(Family, PolicyTable, bool)> =
            families.into_iter().map(|family| (family, PolicyTable::new(&self.config, family), false)).collect();
        let watch = TableWatch::open();
        let mut selected: Option<(Informer<Pod>, Informer<Namespace>)> = None;
        loop {
            let notified = self.wake.notified();
            let policies = self.policies.list();
            if selected.is_none() && !policies.is_empty() {
                let (pods, namespaces) = (follow(&self.informers, &self.wake), follow(&self.informers, &self.wake));
                pods.synced().await;
                namespaces.synced().await;
                selected = Some((pods, namespaces));
            }
            let inputs = match &selected {
                Some((pods, namespaces)) if !policies.is_empty() => self.inputs(&policies, pods, namespaces),
                _ => Inputs::default(),
            };
            let mut again = false;
            for (family, table, known) in &mut tables {
                let desired = plan::plan(&inputs, *family);
                let script = if *known { table.update(&desired) } else { table.replace(&desired) };
                *known = apply(&script).await;
                again |= !*known;
                if let Some(script) = table.sweep().filter(|_| *known && script.is_empty()) {
                    match nft::apply(&script).await {
                        Ok(()) => table.swept(),
                        Err(error) => tracing::debug!(%error, "empty chains are still in use, will try again"),
                    }
                }
                again |= table.sweep().is_some();
            }
            tokio::select! {
                () = notified => {}
                () = tokio::time::sleep(PAUSE), if again => {}
                () = crate::table_watch::removed(watch.as_ref().ok()) => {
                    for (family, table, known) in &mut tables {
                        *known &= table.intact(*family).await;
                    }
                }
            }
        }
    }

    fn inputs(
        &self,
        policies: &[Arc<NetworkPolicy>],
        pods: &Informer<Pod>,
        namespaces: &Informer<Namespace>,
    ) -> Inputs {
        let mut policies: Vec<NetworkPolicy> = policies.iter().map(|policy| policy.as_ref().clone()).collect();
        let key = |policy: &NetworkPolicy| (policy.metadata.namespace.clone(), policy.metadata.name.clone());
        policies.sort_by_cached_key(key);
        let labels = |namespace: &Arc<Namespace>| {
            let meta = &namespace.metadata;
            (meta.name.clone().unwrap_or_default(), meta.labels.clone().unwrap_or_default())
        };
        Inputs {
            policies,
            pods: pods.list().iter().filter_map(|pod| pod_facts(pod, &self.config.node_name)).collect(),
            namespaces: namespaces.list().iter().map(labels).collect(),
        }
    }
}

fn follow<K: Kind>(informers: &Informers, wake: &Arc<Notify>) -> Informer<K> {
    let informer = informers.of::<K>();
    let wake = wake.clone();
    informer.on_change(move |_| wake.notify_one());
    informer
}

async fn apply(script: &str) -> bool {
    if script.is_empty() {
        return true;
    }
    match nft::apply(script).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "cannot program NetworkPolicies");
            false
        }
    }
}

/// What policies need of a pod; nothing of those that share the host's network or have ended.
fn pod_facts(pod: &Pod, node: &str) -> Option<PodFacts> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if spec.host_network == Some(true) || ended {
        return None;
    }
    let texts = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let ips: BTreeSet<std::net::IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    let sidecars = spec.init_containers.iter().flatten();
    let containers = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always")).chain(&spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        Some((port.name.clone()?, protocol, u16::try_from(port.container_port).ok()?))
    });
    (!ips.is_empty()).then(|| PodFacts {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ips: ips.into_iter().collect(),
        local: spec.node_name.as_deref() == Some(node),
        ports: ports.collect(),
    })
}
