//! Services and EndpointSlices as the proxy sees them: parsed, in one address family, with usable values only.
use crate::nft::Family;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort as ApiServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Services with this label belong to another proxy.
const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Slices of headless Services carry this label.
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// The Service a slice belongs to.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// (namespace, name) of a Service.
pub type ServiceKey = (String, String);

/// A transport protocol, in nft's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol of a port, by its API name; TCP if absent.
    fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// nft's word.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// One port of a Service, in one address family.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// The Service.
    pub service: ServiceKey,
    /// The port's name; may be empty.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the Service's addresses.
    pub port: u16,
    /// The port at the nodes' addresses, if any.
    pub node_port: Option<u16>,
    /// `spec.clusterIP` of the family.
    pub cluster_ip: IpAddr,
    /// `spec.externalIPs` of the family.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of `status.loadBalancer.ingress` that are handled here (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges` of the family.
    pub source_ranges: Vec<IpNet>,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Seconds a client stays with its endpoint (`sessionAffinity: ClientIP`).
    pub affinity_seconds: Option<u32>,
}

impl ServicePort {
    /// Whether traffic can come from outside the cluster.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Whether endpoints of the whole cluster are used. With external access they are even under the Local policy:
    /// pods and the node itself are not bound by it.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.externally_accessible()
    }

    /// Whether endpoints of this node alone are used for some traffic.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible())
    }
}

/// One endpoint of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it answers, ready or terminating.
    pub serving: bool,
    /// Whether it is going away.
    pub terminating: bool,
    /// Whether it is on this node.
    pub local: bool,
    /// Nodes that should prefer it.
    pub node_hints: BTreeSet<String>,
    /// Zones that should prefer it.
    pub zone_hints: BTreeSet<String>,
}

/// The ports of `service` in `family` that this proxy serves; none for headless and ExternalName Services.
pub fn service_ports(service: &Service, family: Family) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return vec![] };
    let labels = service.metadata.labels.as_ref();
    if spec.type_.as_deref() == Some("ExternalName")
        || labels.is_some_and(|labels| labels.contains_key(LABEL_SERVICE_PROXY_NAME))
    {
        return vec![];
    }
    let of_family = |addresses: &mut dyn Iterator<Item = &String>| -> Vec<IpAddr> {
        addresses.filter_map(|text| text.parse().ok()).filter(|ip| Family::of(*ip) == family).collect()
    };
    let cluster_ips = of_family(&mut spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    let Some(cluster_ip) = cluster_ips.first().copied() else { return vec![] };
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = ingress.flat_map(|balancer| balancer.ingress.iter().flatten());
    let vips = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let load_balancer_ips = of_family(&mut vips.filter_map(|ingress| ingress.ip.as_ref()));
    let affinity = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP"))
        .then(|| affinity.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(10800))
        .and_then(|seconds| u32::try_from(seconds).ok());
    let template = |port: &ApiServicePort| {
        Some(ServicePort {
            service: (
                service.metadata.namespace.clone().unwrap_or_default(),
                service.metadata.name.clone().unwrap_or_default(),
            ),
            name: port.name.clone().unwrap_or_default(),
            protocol: Protocol::parse(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            cluster_ip,
            external_ips: of_family(&mut spec.external_ips.iter().flatten()),
            load_balancer_ips: load_balancer_ips.clone(),
            source_ranges: (spec.load_balancer_source_ranges.iter().flatten())
                .filter_map(|text| text.trim().parse::<IpNet>().ok())
                .filter(|range| Family::of(range.addr()) == family)
                .collect(),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity_seconds,
        })
    };
    spec.ports.iter().flatten().filter_map(template).collect()
}

/// The Service that `slice` belongs to, unless it is headless.
pub fn service_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.contains_key(LABEL_HEADLESS) || labels.contains_key(LABEL_SERVICE_PROXY_NAME) {
        return None;
    }
    let name = labels.get(LABEL_SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some((slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// The endpoints of `port` that `slices` name, each address and port once, in a fixed order.
pub fn endpoints<'a>(
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node_name: &str,
) -> Vec<Endpoint> {
    let mut found = BTreeMap::<(IpAddr, u16), Endpoint>::new();
    let family = Family::of(port.cluster_ip);
    for slice in slices {
        let ports = slice.ports.iter().flatten().filter(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == port.name
                && Protocol::parse(candidate.protocol.as_deref()) == Some(port.protocol)
        });
        for number in ports.filter_map(|port| port.port).filter_map(|number| u16::try_from(number).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                // All addresses of an endpoint are fungible: clients use the first.
                let Some(Ok(ip)) = endpoint.addresses.first().map(|text| text.parse::<IpAddr>()) else { continue };
                if Family::of(ip) == family {
                    found.insert((ip, number), parse_endpoint(endpoint, ip, number, node_name));
                }
            }
        }
    }
    found.into_values().collect()
}

fn parse_endpoint(endpoint: &ApiEndpoint, ip: IpAddr, port: u16, node_name: &str) -> Endpoint {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.as_ref();
    Endpoint {
        ip,
        port,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(node_name),
        node_hints: hints
            .and_then(|hints| hints.for_nodes.as_ref())
            .map(|nodes| nodes.iter().map(|node| node.name.clone()).collect())
            .unwrap_or_default(),
        zone_hints: hints
            .and_then(|hints| hints.for_zones.as_ref())
            .map(|zones| zones.iter().map(|zone| zone.name.clone()).collect())
            .unwrap_or_default(),
    }
}
