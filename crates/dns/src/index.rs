//! The names and addresses of the cluster, kept from Services, EndpointSlices and Namespaces.
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use pintle_client::Informers;
use pintle_client::index::service_of;
use pintle_client::informer::Change;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// (namespace, name) of a Service.
pub type ServiceKey = (String, String);

/// What DNS says of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Its cluster IPs; none if headless.
    pub cluster_ips: Vec<IpAddr>,
    /// The name it stands for (`type: ExternalName`).
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port of a Service or of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name; may be empty.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its number.
    pub number: u16,
}

/// One ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRecord {
    /// Its address.
    pub ip: IpAddr,
    /// Its name below the Service's: its host name, or its address with dashes.
    pub label: String,
    /// The ports of its slice.
    pub ports: Arc<[Port]>,
}

/// All that DNS knows.
#[derive(Debug, Default)]
pub struct State {
    namespaces: HashSet<String>,
    services: HashMap<ServiceKey, ServiceRecord>,
    endpoints: HashMap<ServiceKey, BTreeMap<String, Vec<EndpointRecord>>>,
    /// Services that have the address as a cluster IP.
    service_ips: HashMap<IpAddr, ServiceKey>,
    /// Services with an endpoint at the address, once for each slice that has it.
    endpoint_ips: HashMap<IpAddr, Vec<ServiceKey>>,
}

impl State {
    /// Whether the namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// The Service `name` in `namespace`.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceRecord> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The ready endpoints of a Service.
    pub fn endpoints(&self, namespace: &str, name: &str) -> impl Iterator<Item = &EndpointRecord> {
        let slices = self.endpoints.get(&(namespace.to_owned(), name.to_owned()));
        slices.into_iter().flat_map(BTreeMap::values).flatten()
    }

    /// The Service with the cluster IP `ip`.
    pub fn service_at(&self, ip: IpAddr) -> Option<&ServiceKey> {
        self.service_ips.get(&ip)
    }

    /// The Services with an endpoint at `ip`.
    pub fn services_with_endpoint(&self, ip: IpAddr) -> &[ServiceKey] {
        self.endpoint_ips.get(&ip).map_or(&[], Vec::as_slice)
    }

    /// Notes a namespace.
    pub fn set_namespace(&mut self, name: &str, present: bool) {
        if present {
            self.namespaces.insert(name.to_owned());
        } else {
            self.namespaces.remove(name);
        }
    }

    /// Notes a Service, or that it is gone.
    pub fn set_service(&mut self, key: ServiceKey, record: Option<ServiceRecord>) {
        for ip in self.services.remove(&key).into_iter().flat_map(|old| old.cluster_ips) {
            if self.service_ips.get(&ip) == Some(&key) {
                self.service_ips.remove(&ip);
            }
        }
        let Some(record) = record else { return };
        for ip in &record.cluster_ips {
            self.service_ips.insert(*ip, key.clone());
        }
        self.services.insert(key, record);
    }

    /// Notes the ready endpoints of one slice; none if it is gone.
    pub fn set_endpoints(&mut self, service: &ServiceKey, slice: &str, endpoints: Vec<EndpointRecord>) {
        let slices = self.endpoints.entry(service.clone()).or_default();
        for old in slices.remove(slice).unwrap_or_default() {
            if let Some(owners) = self.endpoint_ips.get_mut(&old.ip) {
                if let Some(position) = owners.iter().position(|owner| owner == service) {
                    owners.swap_remove(position);
                }
                if owners.is_empty() {
                    self.endpoint_ips.remove(&old.ip);
                }
            }
        }
        for endpoint in &endpoints {
            self.endpoint_ips.entry(endpoint.ip).or_default().push(service.clone());
        }
        if !endpoints.is_empty() {
            slices.insert(slice.to_owned(), endpoints);
        }
        if slices.is_empty() {
            self.endpoints.remove(service);
        }
    }
}

/// A [`State`] that follows the API.
#[derive(Clone, Default)]
pub struct Index(Arc<RwLock<State>>);

impl Index {
    /// Follows `informers`; returns once everything is known.
    pub async fn follow(informers: &Informers) -> Self {
        let index = Index::default();
        let (services, slices, namespaces) =
            (informers.of::<Service>(), informers.of::<EndpointSlice>(), informers.of::<Namespace>());
        let this = index.clone();
        services.on_change(move |change| {
            let service = change.object();
            let record = (!matches!(change, Change::Deleted(_))).then(|| service_record(service));
            let meta = &service.metadata;
            let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
            this.0.write().set_service(key, record);
        });
        let this = index.clone();
        slices.on_change(move |change| {
            let slice = change.object();
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let mut state = this.0.write();
            if let Change::Updated(old, _) = change
                && service_of(old) != service_of(slice)
                && let Some(service) = service_of(old)
            {
                state.set_endpoints(&service, name, vec![]);
            }
            let endpoints = if matches!(change, Change::Deleted(_)) { vec![] } else { endpoint_records(slice) };
            if let Some(service) = service_of(slice) {
                state.set_endpoints(&service, name, endpoints);
            }
        });
        let this = index.clone();
        namespaces.on_change(move |change| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            this.0.write().set_namespace(&name, !matches!(change, Change::Deleted(_)));
        });
        services.synced().await;
        slices.synced().await;
        namespaces.synced().await;
        index
    }

    /// Changes the state.
    #[cfg(test)]
    pub fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write());
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.read())
    }
}

fn service_record(service: &Service) -> ServiceRecord {
    let Some(spec) = &service.spec else { return ServiceRecord::default() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return ServiceRecord { external_name: spec.external_name.clone(), ..ServiceRecord::default() };
    }
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    for ip in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|text| text.parse().ok()) {
        if !cluster_ips.contains(&ip) {
            cluster_ips.push(ip);
        }
    }
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|port| new_port(port.name.as_deref(), port.protocol.as_deref(), port.port));
    ServiceRecord { cluster_ips, external_name: None, ports: ports.collect() }
}

fn endpoint_records(slice: &EndpointSlice) -> Vec<EndpointRecord> {
    let ports = slice.ports.iter().flatten();
    let ports: Arc<[Port]> =
        ports.filter_map(|port| new_port(port.name.as_deref(), port.protocol.as_deref(), port.port?)).collect();
    let mut records = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        if endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(false)) {
            continue;
        }
        for ip in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            let hostname = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
            let label = hostname.map_or_else(|| dashed(ip), |name| name.to_ascii_lowercase());
            records.push(EndpointRecord { ip, label, ports: ports.clone() });
        }
    }
    records
}

fn new_port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    let number = u16::try_from(number).ok()?;
    let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
    Some(Port { name: name.unwrap_or_default().to_ascii_lowercase(), protocol, number })
}

/// An address as one label.
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}
