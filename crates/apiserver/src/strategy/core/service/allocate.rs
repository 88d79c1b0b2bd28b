//! Cluster IPs and node ports: each is a key in the store, written and removed in the transaction of its service, so that
//! there is nothing to repair and nothing to rebuild at start. Start at [`Allocation`].
//!
//! Cluster IPs are `IPAddress` objects, taken from the `ServiceCIDR` objects; node ports have keys of their own.
use super::{families, needs_cluster_ip, needs_health_check_node_port, needs_node_port};
use crate::encode::encode;
use crate::registry::{Registry, object_key, store_error};
use crate::strategy::{SideWrites, rules::Hooks};
use crate::value::{Fill, Read, object_of};
use async_trait::async_trait;
use ipnet::IpNet;
use pintle_api::field::{FieldError, Path};
use pintle_api::scheme::GroupKind;
use pintle_api::{meta, status::ApiError};
use pintle_store::{Compare, Op};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The node ports of upstream's default configuration.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// Allocates for services and releases what they had.
#[derive(Debug)]
pub(super) struct Allocation;

#[async_trait]
impl Hooks for Allocation {
    async fn before_write(
        &self,
        registry: &Registry,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<SideWrites, ApiError> {
        if old.is_some_and(|old| old.field("spec") == new.field("spec")) {
            return Ok(SideWrites::default());
        }
        let mut work = Work { registry, side: SideWrites::default() };
        let cidrs = work.service_cidrs().await?;
        let configured = configured_families(&cidrs);
        let errors = families::complete(new, old, &configured);
        if !errors.is_empty() {
            return Err(invalid(new, &errors));
        }
        work.cluster_ips(old, new, &cidrs).await?;
        work.node_ports(old, new).await?;
        Ok(work.side)
    }

    async fn before_removal(&self, registry: &Registry, old: &Value) -> Result<SideWrites, ApiError> {
        let mut work = Work { registry, side: SideWrites::default() };
        for ip in ips(old.field("spec")) {
            work.release_ip(ip)?;
        }
        for port in ports(old.field("spec")) {
            work.release_port(port);
        }
        let endpoints = registry.resource("", "endpoints")?;
        let metadata = old.field("metadata");
        let key = object_key(&endpoints, metadata.text("namespace"), metadata.text("name"));
        work.side.ops.push(Op::Delete { key: key.into() });
        Ok(work.side)
    }
}

/// The transaction being put together.
struct Work<'a> {
    registry: &'a Registry,
    side: SideWrites,
}

impl Work<'_> {
    /// The ranges from which cluster IPs are taken; the default ones first.
    async fn service_cidrs(&self) -> Result<Vec<IpNet>, ApiError> {
        let resource = self.registry.resource("networking.k8s.io", "servicecidrs")?;
        let mut objects = self.registry.list(&resource, "").await?.items;
        objects.retain(|o| !o.field("metadata").has("deletionTimestamp"));
        objects.sort_by_key(|o| o.field("metadata").text("name") != "kubernetes");
        let cidrs = objects.iter().flat_map(|o| o.field("spec").texts("cidrs"));
        Ok(cidrs.filter_map(|cidr| cidr.parse().ok()).collect())
    }

    async fn cluster_ips(&mut self, old: Option<&Value>, new: &mut Value, cidrs: &[IpNet]) -> Result<(), ApiError> {
        let before: Vec<String> = old.map(|o| ips(o.field("spec")).map(str::to_owned).collect()).unwrap_or_default();
        let mut now: Vec<String> = Vec::new();
        if needs_cluster_ip(new.field("spec")) && new.field("spec").text("clusterIP") != "None" {
            let given: Vec<String> = new.field("spec").texts("clusterIPs").map(str::to_owned).collect();
            let families: Vec<String> = new.field("spec").texts("ipFamilies").map(str::to_owned).collect();
            for (i, family) in families.iter().enumerate() {
                let ip = match given.get(i) {
                    Some(ip) if before.contains(ip) => ip.clone(),
                    Some(ip) => self.take_ip(new, ip, cidrs).await?,
                    None => self.next_ip(new, family == "IPv6", cidrs).await?,
                };
                now.push(ip);
            }
            let spec = object_of(new).child_or_new("spec");
            if let Some(first) = now.first() {
                spec.set("clusterIP", first.clone());
                spec.set("clusterIPs", now.clone());
            }
        }
        before.iter().filter(|ip| !now.contains(ip)).try_for_each(|ip| self.release_ip(ip))
    }

    /// Takes the address that the client asked for.
    async fn take_ip(&mut self, service: &Value, ip: &str, cidrs: &[IpNet]) -> Result<String, ApiError> {
        let refuse = |why: String| {
            let path = Path::root("spec.clusterIPs");
            let text = format!("failed to allocate IP {ip}: {why}");
            Err(invalid(service, &[FieldError::invalid(&path, service.field("spec").field("clusterIPs"), text)]))
        };
        let Ok(address) = ip.parse::<IpAddr>() else {
            return Err(ApiError::internal(format_args!("failed to parse service IP {ip:?}")));
        };
        let Some(cidr) = cidrs.iter().find(|c| c.contains(&address)) else {
            let family = cidrs.iter().find(|c| c.addr().is_ipv4() == address.is_ipv4());
            let range = family.map(ToString::to_string).unwrap_or_default();
            return refuse(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            ));
        };
        if !is_usable(cidr, address) {
            return refuse(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {cidr}"
            ));
        }
        let key = self.ip_key(&address.to_string())?;
        if self.is_taken(&key).await? {
            return refuse("provided IP is already allocated".into());
        }
        self.put_ip(key, service, address);
        Ok(ip.to_owned())
    }

    /// Takes a free address, preferably from the upper band, which static addresses leave alone.
    async fn next_ip(&mut self, service: &Value, v6: bool, cidrs: &[IpNet]) -> Result<String, ApiError> {
        for cidr in cidrs.iter().filter(|c| c.addr().is_ipv6() == v6) {
            let size = usable(cidr);
            let band = static_band(size + 2).min(size);
            for offset in from_somewhere(band, size).chain(from_somewhere(0, band)) {
                let address = nth(cidr, offset + 1);
                let key = self.ip_key(&address.to_string())?;
                if !self.is_taken(&key).await? {
                    self.put_ip(key, service, address);
                    return Ok(address.to_string());
                }
            }
        }
        let name = service.field("metadata").text("name");
        Err(ApiError::internal(format_args!("failed to allocate a serviceIP for Service {name:?}: range is full")))
    }

    fn ip_key(&self, ip: &str) -> Result<Vec<u8>, ApiError> {
        Ok(object_key(&*self.registry.resource("networking.k8s.io", "ipaddresses")?, "", ip))
    }

    async fn is_taken(&self, key: &[u8]) -> Result<bool, ApiError> {
        Ok(self.registry.store().get(key).await.map_err(store_error)?.is_some())
    }

    fn put_ip(&mut self, key: Vec<u8>, service: &Value, ip: IpAddr) {
        let encoded = encode(&ip_address(service, ip));
        self.side.compares.push(Compare { key: key.clone().into(), mod_revision: 0 });
        self.side.ops.push(Op::Put { key: key.into(), value: encoded.bytes, stamp: Some(encoded.stamp) });
    }

    fn release_ip(&mut self, ip: &str) -> Result<(), ApiError> {
        let key = self.ip_key(ip)?;
        self.side.ops.push(Op::Delete { key: key.into() });
        Ok(())
    }

    async fn node_ports(&mut self, old: Option<&Value>, new: &mut Value) -> Result<(), ApiError> {
        let before: Vec<u16> = old.map(|o| ports(o.field("spec"))).unwrap_or_default();
        let mut now: Vec<u16> = Vec::new();
        let spec = new.field("spec");
        let list = spec.items("ports").to_vec();
        let allocate = spec.text("type") == "NodePort" || spec.flag("allocateLoadBalancerNodePorts");
        if needs_node_port(spec) {
            for (i, port) in list.iter().enumerate() {
                let own = Some(port).filter(|p| !p.is_zero("nodePort"));
                // Ports of one number and different protocols share their node port.
                let twin = new.field("spec").items("ports").iter().find(|p| {
                    p.int("port") == port.int("port")
                        && p.field("protocol") != port.field("protocol")
                        && !p.is_zero("nodePort")
                });
                let number = match own.or(twin).map(|p| p.int("nodePort")) {
                    Some(number) => self.take_port(new, i, number, &before, &now).await?,
                    None if allocate => self.next_port(&before, &now).await?,
                    None => continue,
                };
                if !now.contains(&number) {
                    now.push(number);
                }
                if let Some(port) = object_of(new).child_or_new("spec").each("ports").nth(i) {
                    port.set("nodePort", number);
                }
            }
        }
        if needs_health_check_node_port(new.field("spec")) {
            let given = new.field("spec").int("healthCheckNodePort");
            let number = if given == 0 {
                self.next_port(&before, &now).await?
            } else {
                self.take_health_check_port(given, &before, &now).await?
            };
            now.push(number);
            object_of(new).child_or_new("spec").set("healthCheckNodePort", number);
        }
        for port in before.into_iter().filter(|p| !now.contains(p)) {
            self.release_port(port);
        }
        Ok(())
    }

    async fn take_port(
        &mut self,
        service: &Value,
        index: usize,
        number: i64,
        before: &[u16],
        now: &[u16],
    ) -> Result<u16, ApiError> {
        self.try_port(number, before, now).await?.map_err(|why| {
            let ports = Path::root("spec.ports");
            let error = FieldError::invalid(&ports.index(index).child("nodePort"), number, why);
            invalid(service, &[error])
        })
    }

    async fn take_health_check_port(&mut self, number: i64, before: &[u16], now: &[u16]) -> Result<u16, ApiError> {
        self.try_port(number, before, now).await?.map_err(|why| {
            ApiError::internal(format_args!("failed to allocate requested HealthCheck NodePort {number}: {why}"))
        })
    }

    /// Takes the port that the client asked for, or says why it cannot be had.
    async fn try_port(&mut self, number: i64, before: &[u16], now: &[u16]) -> Result<Result<u16, String>, ApiError> {
        let Some(port) = u16::try_from(number).ok().filter(|p| NODE_PORTS.contains(p)) else {
            let (first, last) = (NODE_PORTS.start(), NODE_PORTS.end());
            let why = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
            return Ok(Err(why));
        };
        if before.contains(&port) || now.contains(&port) {
            return Ok(Ok(port));
        }
        let key = port_key(port);
        if self.is_taken(&key).await? {
            return Ok(Err("provided port is already allocated".into()));
        }
        self.put_port(key);
        Ok(Ok(port))
    }

    async fn next_port(&mut self, before: &[u16], now: &[u16]) -> Result<u16, ApiError> {
        let size = u128::from(NODE_PORTS.end() - NODE_PORTS.start()) + 1;
        let band = port_band(size);
        for offset in from_somewhere(band, size).chain(from_somewhere(0, band)) {
            let Ok(offset) = u16::try_from(offset) else { continue };
            let port = NODE_PORTS.start() + offset;
            let key = port_key(port);
            if !before.contains(&port) && !now.contains(&port) && !self.is_taken(&key).await? {
                self.put_port(key);
                return Ok(port);
            }
        }
        Err(ApiError::internal("failed to allocate a nodePort: range is full"))
    }

    fn put_port(&mut self, key: Vec<u8>) {
        self.side.compares.push(Compare { key: key.clone().into(), mod_revision: 0 });
        self.side.ops.push(Op::Put { key: key.into(), value: "{}".into(), stamp: None });
    }

    fn release_port(&mut self, port: u16) {
        self.side.ops.push(Op::Delete { key: port_key(port).into() });
    }
}

fn port_key(port: u16) -> Vec<u8> {
    format!("/registry/ranges/servicenodeports/{port}").into_bytes()
}

fn invalid(service: &Value, errors: &[FieldError]) -> ApiError {
    ApiError::invalid(GroupKind { group: "", kind: "Service" }, service.field("metadata").text("name"), errors)
}

fn configured_families(cidrs: &[IpNet]) -> Vec<&'static str> {
    let mut families = Vec::new();
    for cidr in cidrs {
        let family = if cidr.addr().is_ipv6() { "IPv6" } else { "IPv4" };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

/// The cluster IPs that a service holds.
fn ips(spec: &Value) -> impl Iterator<Item = &str> {
    let holds = needs_cluster_ip(spec) && spec.text("clusterIP") != "None";
    spec.texts("clusterIPs").filter(move |_| holds)
}

/// The node ports that a service holds.
fn ports(spec: &Value) -> Vec<u16> {
    let health_check = Some(spec.int("healthCheckNodePort")).filter(|_| needs_health_check_node_port(spec));
    let all = spec.items("ports").iter().map(|p| p.int("nodePort")).chain(health_check);
    let mut ports: Vec<u16> = all.filter(|&p| p != 0).filter_map(|p| u16::try_from(p).ok()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The object that says that `service` holds `ip`.
fn ip_address(service: &Value, ip: IpAddr) -> Value {
    let metadata = service.field("metadata");
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": meta::now(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {
            "parentRef": {
                "resource": "services",
                "namespace": metadata.field("namespace"),
                "name": metadata.field("name"),
            },
        },
    })
}

/// How many addresses of a range can be given to services: not the network's own, and not IPv4's broadcast address.
fn usable(cidr: &IpNet) -> u128 {
    let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
    size.saturating_sub(if cidr.addr().is_ipv4() { 2 } else { 1 })
}

fn is_usable(cidr: &IpNet, ip: IpAddr) -> bool {
    ip != cidr.network() && (ip.is_ipv6() || ip != cidr.broadcast())
}

/// The address at `offset` of a range.
fn nth(cidr: &IpNet, offset: u128) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base).wrapping_add(offset as u32)).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base).wrapping_add(offset)).into()),
    }
}

/// How many addresses at the start of a range are given only on request, as long as there are others.
// upstream: pkg/registry/core/service/ipallocator, calculateRangeOffset
fn static_band(size: u128) -> u128 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// The same for node ports.
// upstream: pkg/registry/core/service/portallocator, calculateRangeOffset
fn port_band(size: u128) -> u128 {
    if size < 16 { 0 } else { (size / 32).clamp(16, 128) }
}

/// All of `start..end`, beginning somewhere and wrapping around.
fn from_somewhere(start: u128, end: u128) -> impl Iterator<Item = u128> {
    let size = end.saturating_sub(start);
    let first = if size == 0 { 0 } else { fastrand::u128(0..size) };
    (0..size).map(move |i| start + (first + i) % size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_and_broadcast_addresses_are_not_given_away() {
        let cidr: IpNet = "10.96.0.0/24".parse().unwrap();
        assert_eq!(usable(&cidr), 254);
        assert_eq!((nth(&cidr, 1), nth(&cidr, 254)), ("10.96.0.1".parse().unwrap(), "10.96.0.254".parse().unwrap()));
        assert!(!is_usable(&cidr, "10.96.0.0".parse().unwrap()) && !is_usable(&cidr, "10.96.0.255".parse().unwrap()));
    }

    #[test]
    fn bands_for_static_addresses_and_ports_are_upstreams() {
        assert_eq!([16, 32, 256, 1 << 12, 1 << 20].map(static_band), [0, 16, 16, 256, 256]);
        assert_eq!([2768, 100].map(port_band), [86, 16]);
    }

    #[test]
    fn every_offset_comes_once() {
        let mut all: Vec<u128> = from_somewhere(3, 10).collect();
        all.sort_unstable();
        assert_eq!(all, (3..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_service_holds_its_addresses_and_ports() {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.0.0.1",
                          "clusterIPs": ["10.0.0.1"], "healthCheckNodePort": 31000,
                          "ports": [{"nodePort": 30001}, {"nodePort": 30001}]});
        assert_eq!((ips(&spec).collect::<Vec<_>>(), ports(&spec)), (vec!["10.0.0.1"], vec![30001, 31000]));
        assert_eq!(ips(&json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]})).count(), 0);
    }
}
