//! The addresses behind the Services that Ingresses name, kept by EndpointSlices.
use crate::table::{Port, Service as Named};
use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use pintle_client::index::service_of;
use pintle_client::{Index, Informer, Informers};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How backends are spoken to: the port's `appProtocol` (KEP-3726).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS, as gRPC needs it.
    Http2,
}

/// What a Service's port comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    pub addresses: Vec<SocketAddr>,
    pub protocol: Protocol,
}

/// One Service's port; requests take its addresses in turn.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    targets: ArcSwap<Targets>,
    next: AtomicUsize,
}

impl Backend {
    /// One with these targets.
    pub fn new(targets: Targets) -> Self {
        Backend { targets: ArcSwap::from_pointee(targets), next: AtomicUsize::default() }
    }

    /// The addresses, beginning with the one whose turn it is, and how to speak to them.
    pub fn turn(&self) -> (impl Iterator<Item = SocketAddr> + use<>, Protocol) {
        let targets = self.targets.load_full();
        let (count, first) = (targets.addresses.len(), self.next.fetch_add(1, Ordering::Relaxed));
        let protocol = targets.protocol;
        ((0..count).map(move |i| targets.addresses[first.wrapping_add(i) % count]), protocol)
    }
}

/// All of them; changed as a whole when Ingresses change, in their targets when endpoints do.
pub(crate) struct Backends {
    services: Informer<Service>,
    slices: Index<EndpointSlice>,
    known: Mutex<HashMap<Named, Arc<Backend>>>,
}

impl Backends {
    /// Follows the Services and EndpointSlices of `informers`.
    pub fn follow(informers: &Informers) -> Arc<Self> {
        let services = informers.of::<Service>();
        let slices = informers.by_service();
        let backends = Arc::new(Backends { services: services.clone(), slices, known: Mutex::default() });
        let weak = Arc::downgrade(&backends);
        services.on_change(move |change| {
            let meta = &change.object().metadata;
            if let (Some(backends), Some(namespace), Some(name)) = (weak.upgrade(), &meta.namespace, &meta.name) {
                backends.refresh(namespace, name);
            }
        });
        let weak = Arc::downgrade(&backends);
        informers.of::<EndpointSlice>().on_change(move |change| {
            if let (Some(backends), Some((namespace, name))) = (weak.upgrade(), service_of(change.object())) {
                backends.refresh(&namespace, &name);
            }
        });
        backends
    }

    /// Makes the backends those of `wanted`; kept ones keep their turn.
    pub fn keep(&self, wanted: &BTreeSet<&Named>) -> HashMap<Named, Arc<Backend>> {
        let mut known = self.known.lock();
        known.retain(|service, _| wanted.contains(service));
        for service in wanted {
            if !known.contains_key(*service) {
                let backend = Arc::new(Backend::new(self.targets(service)));
                known.insert((*service).clone(), backend);
            }
        }
        known.clone()
    }

    /// A Service or its endpoints changed.
    fn refresh(&self, namespace: &str, name: &str) {
        let known = self.known.lock();
        for (named, backend) in known.iter().filter(|(named, _)| named.namespace == namespace && named.name == name) {
            backend.targets.store(Arc::new(self.targets(named)));
        }
    }

    fn targets(&self, named: &Named) -> Targets {
        let Some(service) = self.services.get(&named.namespace, &named.name) else { return Targets::default() };
        let slices = self.slices.get(&format!("{}/{}", named.namespace, named.name));
        targets(&service, &named.port, slices.iter().map(Arc::as_ref))
    }
}

/// The addresses of a Service's port: those that are ready, or if there is none, those that end and still serve (KEP-1669).
fn targets<'a>(service: &Service, port: &Port, slices: impl Iterator<Item = &'a EndpointSlice>) -> Targets {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let is_named = |known: &&ServicePort| match port {
        Port::Name(name) => known.name.as_deref() == Some(name),
        Port::Number(number) => known.port == *number,
    };
    let Some(port) = ports.into_iter().find(is_named) else { return Targets::default() };
    let protocol = match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c" | "grpc") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let known = slice.ports.iter().flatten();
        let same_name = |name: Option<&str>| name.unwrap_or_default() == port.name.as_deref().unwrap_or_default();
        let Some(number) = known.filter(|p| same_name(p.name.as_deref())).find_map(|p| p.port) else { continue };
        let Ok(number) = u16::try_from(number) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let says = |get: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
                endpoint.conditions.as_ref().and_then(get)
            };
            let list = match (says(|c| c.ready), says(|c| c.serving), says(|c| c.terminating)) {
                (None | Some(true), ..) => &mut ready,
                (_, Some(true), Some(true)) => &mut ending,
                _ => continue,
            };
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            list.extend(addresses.map(|address| SocketAddr::new(address, number)));
        }
    }
    let chosen = if ready.is_empty() { ending } else { ready };
    Targets { addresses: chosen.into_iter().collect(), protocol }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(port: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"ports": [port]}})).unwrap()
    }

    fn slice(endpoints: Value) -> EndpointSlice {
        let ports = json!([{"name": "web", "port": 8080}]);
        serde_json::from_value(json!({"addressType": "IPv4", "ports": ports, "endpoints": endpoints})).unwrap()
    }

    fn addresses(service: &Service, port: &Port, slice: &EndpointSlice) -> Vec<String> {
        targets(service, port, [slice].into_iter()).addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_port_by_name_or_number_leads_to_the_ready_endpoints() {
        let service = service(json!({"name": "web", "port": 80, "appProtocol": "kubernetes.io/h2c"}));
        let slice = slice(json!([
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.4"]},
            {"addresses": ["10.0.0.5"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ]));
        let expected = ["10.0.0.2:8080", "10.0.0.4:8080"];
        assert_eq!(addresses(&service, &Port::Number(80), &slice), expected);
        assert_eq!(addresses(&service, &Port::Name("web".into()), &slice), expected);
        assert!(addresses(&service, &Port::Number(8080), &slice).is_empty());
        assert_eq!(targets(&service, &Port::Number(80), [].into_iter()).protocol, Protocol::Http2);
    }

    #[test]
    fn endpoints_that_end_serve_when_there_are_no_others() {
        let service = service(json!({"name": "web", "port": 80}));
        let conditions = json!({"ready": false, "serving": true, "terminating": true});
        let slice = slice(json!([{"addresses": ["10.0.0.5"], "conditions": conditions}]));
        assert_eq!(addresses(&service, &Port::Number(80), &slice), ["10.0.0.5:8080"]);
    }

    #[test]
    fn addresses_take_turns() {
        let addresses: Vec<SocketAddr> = ["10.0.0.1:1", "10.0.0.2:1"].map(|a| a.parse().unwrap()).into();
        let backend = Backend::new(Targets { addresses: addresses.clone(), protocol: Protocol::Http1 });
        let turn = || backend.turn().0.collect::<Vec<_>>();
        assert_eq!(turn(), addresses);
        assert_eq!(turn(), [addresses[1], addresses[0]]);
        assert!(Backend::default().turn().0.next().is_none());
    }
}
