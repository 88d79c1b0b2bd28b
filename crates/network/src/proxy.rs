//! The Service proxy: keeps the node's nftables equal to the cluster's Services and EndpointSlices. Start at [`run`].
//!
//! `model` parses the objects, `topology` picks endpoints, `plan` turns a Service into nft objects, `ruleset` into the
//! transaction that leads there. Cost per packet does not depend on the number of Services (verdict maps), cost per
//! change only on the Services that changed.
mod conntrack;
mod model;
mod plan;
mod ruleset;
mod topology;

use crate::config::{self, Config};
use crate::nft::{self, Family};
use crate::policy::Policies;
use crate::table_watch::{self, TableWatch};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::ServiceKey;
use parking_lot::Mutex;
use pintle_client::Informers;
use pintle_client::informer::{Informer, key_of};
use plan::Fragment;
use ruleset::Ruleset;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use topology::NodeTopology;

/// The label that names a Node's zone.
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Pause before the table is written again after the kernel refused it.
const RETRY: Duration = Duration::from_secs(1);
/// Empty chains are removed this long after the change that left them.
const SWEEP_AFTER: Duration = Duration::from_secs(1);

/// What changed since the last look.
#[derive(Default)]
struct Changes {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Default)]
struct Pending {
    services: BTreeSet<ServiceKey>,
    /// Slices by Service, kept here so that a Service's slices are found without a look at all of them.
    slices: HashMap<ServiceKey, BTreeMap<String, Arc<EndpointSlice>>>,
}

impl Changes {
    fn service(&self, key: ServiceKey) {
        self.pending.lock().services.insert(key);
        self.wake.notify_one();
    }

    fn slice(&self, slice: &Arc<EndpointSlice>, present: bool) {
        let Some(service) = model::service_of(slice) else { return };
        let name = slice.metadata.name.clone().unwrap_or_default();
        let mut pending = self.pending.lock();
        let slices = pending.slices.entry(service.clone()).or_default();
        if present {
            slices.insert(name, slice.clone());
        } else {
            slices.remove(&name);
        }
        if slices.is_empty() {
            pending.slices.remove(&service);
        }
        pending.services.insert(service);
        drop(pending);
        self.wake.notify_one();
    }
}

/// Serves Services and enforces NetworkPolicies until `stop`. The table stays when this ends, so that traffic flows while nobody runs; the next run
/// takes it over in one transaction once it knows all Services and endpoints.
pub async fn run(config: Config, informers: Informers, stop: CancellationToken) -> Result<(), config::Error> {
    config.validate()?;
    let policies = Policies::new(config.clone(), &informers);
    let proxy = Proxy::new(config, &informers);
    tokio::select! {
        () = proxy.work() => {}
        () = policies.work() => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

struct Proxy {
    config: Config,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    changes: Arc<Changes>,
}

impl Proxy {
    fn new(config: Config, informers: &Informers) -> Self {
        let (services, slices, nodes) =
            (informers.of::<Service>(), informers.of::<EndpointSlice>(), informers.of::<Node>());
        let changes = Arc::new(Changes::default());
        let to = changes.clone();
        services.on_change(move |change| to.service(key_of(change.object().as_ref())));
        let to = changes.clone();
        slices.on_change(move |change| {
            use pintle_client::informer::Change;
            if let Change::Updated(old, new) = change
                && model::service_of(old) != model::service_of(new)
            {
                to.slice(old, false);
            }
            to.slice(change.object(), !matches!(change, Change::Deleted(_)));
        });
        let (to, name) = (changes.clone(), config.node_name.clone());
        nodes.on_change(move |change| {
            if change.object().metadata.name.as_deref() == Some(&name) {
                to.wake.notify_one();
            }
        });
        Proxy { config, services, slices, nodes, changes }
    }

    async fn work(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
        let families: BTreeSet<Family> = self.config.pod_cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect();
        let mut tables: Vec<Table> =
            families.into_iter().map(|family| Table::new(Ruleset::new(&self.config, family))).collect();
        let mut node = NodeTopology::default();
        let watch = TableWatch::open();
        if let Err(error) = &watch {
            tracing::warn!(%error, "removals of the Services' nftables go unnoticed");
        }
        loop {
            let notified = self.changes.wake.notified();
            let mut keys = std::mem::take(&mut self.changes.pending.lock().services);
            let here = self.node();
            if here != node {
                node = here;
                keys.extend(self.services.list().iter().map(|service| key_of(service.as_ref())));
            }
            for table in &mut tables {
                let changes: Vec<_> =
                    keys.iter().map(|key| (key.clone(), self.fragment(key, table.rules.family(), &node))).collect();
                table.apply(changes).await;
            }
            let due = tables.iter().filter_map(|table| table.due).min();
            tokio::select! {
                () = notified => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = table_watch::removed(watch.as_ref().ok()) => {
                    for table in &mut tables {
                        table.check().await;
                    }
                }
            }
        }
    }

    fn node(&self) -> NodeTopology {
        let name = self.config.node_name.clone();
        let labels = self.nodes.get("", &name).and_then(|node| node.metadata.labels.clone()).unwrap_or_default();
        NodeTopology { name, zone: labels.get(LABEL_ZONE).cloned().unwrap_or_default() }
    }

    fn fragment(&self, key: &ServiceKey, family: Family, node: &NodeTopology) -> Option<Fragment> {
        let service = self.services.get(&key.0, &key.1)?;
        let slices: Vec<Arc<EndpointSlice>> = self
            .changes
            .pending
            .lock()
            .slices
            .get(key)
            .map(|slices| slices.values().cloned().collect())
            .unwrap_or_default();
        let ports: Vec<_> = model::service_ports(&service, family)
            .into_iter()
            .map(|port| {
                let endpoints = model::endpoints(&port, slices.iter().map(Arc::as_ref), &node.name);
                (port, endpoints)
            })
            .collect();
        Some(plan::plan(&ports, node, &ruleset::local_pods(&self.config, family)))
    }
}

/// One family's table and what is still to do there.
struct Table {
    rules: Ruleset,
    /// Whether the kernel's table is as `rules` says.
    known: bool,
    /// When to come back without a change: to try again, or to sweep.
    due: Option<Instant>,
}

impl Table {
    fn new(rules: Ruleset) -> Self {
        Table { rules, known: false, due: None }
    }

    async fn apply(&mut self, changes: Vec<(ServiceKey, Option<Fragment>)>) {
        let udp_changed = changes.iter().any(|(key, fragment)| {
            self.rules.udp_targets_of(key) != fragment.as_ref().map_or(&[][..], |fragment| &fragment.udp)
        });
        let script = self.rules.update(changes);
        let result = match (self.known, script.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => match nft::apply(&script).await {
                // Somebody may have removed or changed the table: it is written anew as a whole.
                Err(nft::Error::Refused(message)) => {
                    tracing::warn!(%message, "service rules were refused, writing the whole table");
                    self.replace().await
                }
                other => other,
            },
            (false, _) => self.replace().await,
        };
        self.known = result.is_ok();
        if let Err(error) = result {
            tracing::error!(%error, "cannot program Services");
            self.due = Some(Instant::now() + RETRY);
            return;
        }
        if udp_changed {
            conntrack::forget_stale(self.rules.family(), self.rules.udp_targets()).await;
        }
        self.sweep(!script.is_empty()).await;
    }

    /// Looks whether the table still exists.
    async fn check(&mut self) {
        match table_watch::exists(self.rules.family(), self.rules.table()).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(table = self.rules.table(), "the Services' nftables were removed, writing them again");
                self.known = false;
            }
            Err(error) => tracing::warn!(%error, "cannot look for the Services' nftables"),
        }
    }

    async fn replace(&mut self) -> Result<(), nft::Error> {
        // Clients keep their endpoints when the table is taken over; without the list they only lose their affinity.
        let affinities = match nft::query(&["-j", "list", "sets"]).await {
            Ok(listing) => self.rules.parse_affinities(&listing),
            Err(error) => {
                tracing::warn!(%error, "session affinities are not carried over");
                vec![]
            }
        };
        nft::apply(&self.rules.replace(&affinities)).await
    }

    /// Removes chains that earlier changes left empty, some time after the last change.
    async fn sweep(&mut self, changed: bool) {
        let Some((script, chains)) = self.rules.sweep() else {
            self.due = None;
            return;
        };
        match self.due {
            Some(due) if !changed && due <= Instant::now() => match nft::apply(&script).await {
                Ok(()) => {
                    self.rules.swept(&chains);
                    self.due = None;
                }
                Err(error) => {
                    tracing::debug!(%error, "empty chains are still in use, will try again");
                    self.due = Some(Instant::now() + SWEEP_AFTER);
                }
            },
            Some(_) if !changed => {}
            _ => self.due = Some(Instant::now() + SWEEP_AFTER),
        }
    }
}

#[cfg(test)]
mod testing {
    //! Small objects for the unit tests of this module's parts.
    use super::model::{Endpoint, Protocol, ServicePort};
    use std::collections::BTreeSet;

    pub fn port() -> ServicePort {
        ServicePort {
            service: ("ns".into(), "web".into()),
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            cluster_ip: "10.96.0.1".parse().unwrap(),
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            internal_local: false,
            external_local: false,
            affinity_seconds: None,
        }
    }

    pub fn endpoint(ip: &str, local: bool) -> Endpoint {
        Endpoint {
            ip: ip.parse().unwrap(),
            port: 8080,
            ready: true,
            serving: true,
            terminating: false,
            local,
            node_hints: BTreeSet::new(),
            zone_hints: BTreeSet::new(),
        }
    }
}
