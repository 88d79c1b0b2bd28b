//! From a Service and its endpoints to nft objects: a pure function.
//!
//! upstream: pkg/proxy/nftables/proxier.go, `syncProxyRules`
use super::model::{Endpoint, Protocol, ServiceKey, ServicePort};
use super::topology::{Categories, NodeTopology, categorize};
use crate::nft::Family;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Sets the bit that asks for masquerade after routing.
pub const MARK: &str = "meta mark set meta mark | 0x4000";
/// nft's limit is 128 with the terminating zero.
const LONGEST_NAME: usize = 127;

/// A set or map of the services table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Active ClusterIPs.
    ClusterIps,
    /// ClusterIP, external IP and load balancer IP to verdict.
    ServiceIps,
    /// NodePort to verdict.
    ServiceNodePorts,
    /// Where to reject or drop at service addresses.
    NoEndpointServices,
    /// Where to reject or drop at NodePorts.
    NoEndpointNodePorts,
    /// Addresses with `loadBalancerSourceRanges`.
    FirewallIps,
    /// A local endpoint that reaches itself through a Service.
    HairpinConnections,
}

impl Set {
    /// The name in nft.
    pub fn name(self) -> &'static str {
        match self {
            Set::ClusterIps => "cluster-ips",
            Set::ServiceIps => "service-ips",
            Set::ServiceNodePorts => "service-nodeports",
            Set::NoEndpointServices => "no-endpoint-services",
            Set::NoEndpointNodePorts => "no-endpoint-nodeports",
            Set::FirewallIps => "firewall-ips",
            Set::HairpinConnections => "hairpin-connections",
        }
    }
}

/// The nft objects of one Service in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Chains and their rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Affinity sets and their timeout in seconds.
    pub affinities: BTreeMap<String, u32>,
    /// Elements of the common sets; the value is a verdict.
    pub elements: BTreeMap<(Set, String), Option<String>>,
    /// What connection tracking may remember of the Service's UDP ports.
    pub udp: Vec<UdpTargets>,
}

/// Where a UDP port of a Service may lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpTargets {
    /// The addresses clients use.
    pub addresses: BTreeSet<IpAddr>,
    /// The port at these.
    pub port: u16,
    /// The port at the node's addresses.
    pub node_port: Option<u16>,
    /// The serving endpoints.
    pub endpoints: BTreeSet<(IpAddr, u16)>,
}

/// Plans all ports of one Service.
pub fn plan(ports: &[(ServicePort, Vec<Endpoint>)], node: &NodeTopology, local_pods: &[String]) -> Fragment {
    let mut fragment = Fragment::default();
    for (port, endpoints) in ports {
        plan_port(&mut fragment, port, endpoints, node, local_pods);
    }
    fragment
}

fn plan_port(
    fragment: &mut Fragment,
    port: &ServicePort,
    endpoints: &[Endpoint],
    node: &NodeTopology,
    local_pods: &[String],
) {
    let categories = categorize(port, endpoints, node);
    let names = Names::of(port);
    let has_internal = categories.any && !(port.internal_local && categories.local.is_empty());
    let has_external = categories.any && !(port.external_local && categories.local.is_empty());
    let internal = if port.internal_local { &names.local } else { &names.cluster };

    let mut element = |set: Set, key: String, verdict: String| {
        fragment.elements.insert((set, key), Some(verdict));
    };
    let at = |ip: &IpAddr| format!("{ip} . {} . {}", port.protocol.word(), port.port);
    // Without endpoints anywhere the client is told so; if only this node has none, its packets are dropped, as a
    // load balancer that checks the node's health expects.
    let refuse = || if categories.any { "drop".to_owned() } else { "goto reject-chain".to_owned() };

    if has_internal {
        element(Set::ServiceIps, at(&port.cluster_ip), format!("goto {internal}"));
    } else {
        element(Set::NoEndpointServices, at(&port.cluster_ip), refuse());
    }
    let firewalled = !port.load_balancer_ips.is_empty() && !port.source_ranges.is_empty();
    for ip in port.external_ips.iter().chain(&port.load_balancer_ips) {
        if categories.any {
            element(Set::ServiceIps, at(ip), format!("goto {}", names.external));
        }
        if !has_external {
            element(Set::NoEndpointServices, at(ip), refuse());
        }
    }
    for ip in port.load_balancer_ips.iter().filter(|_| firewalled) {
        element(Set::FirewallIps, at(ip), format!("goto {}", names.firewall));
    }
    if let Some(node_port) = port.node_port {
        let key = format!("{} . {node_port}", port.protocol.word());
        if categories.any {
            element(Set::ServiceNodePorts, key.clone(), format!("goto {}", names.external));
        }
        if !has_external {
            element(Set::NoEndpointNodePorts, key, refuse());
        }
    }
    fragment.elements.insert((Set::ClusterIps, port.cluster_ip.to_string()), None);
    for Endpoint { ip, port: number, .. } in categories.reachable().into_iter().filter(|endpoint| endpoint.local) {
        let key = format!("{ip} . {ip} . {} . {number}", port.protocol.word());
        fragment.elements.insert((Set::HairpinConnections, key), None);
    }

    if port.externally_accessible() && categories.any {
        let rules = external_rules(port, &names, has_external, local_pods);
        fragment.chains.insert(names.external.clone(), rules);
    }
    if firewalled {
        fragment.chains.insert(names.firewall.clone(), firewall_rules(port));
    }
    plan_balancing(fragment, port, &names, &categories);
    if port.protocol == Protocol::Udp {
        let serving = endpoints.iter().filter(|endpoint| endpoint.serving);
        fragment.udp.push(UdpTargets {
            addresses: [port.cluster_ip]
                .iter()
                .chain(&port.external_ips)
                .chain(&port.load_balancer_ips)
                .copied()
                .collect(),
            port: port.port,
            node_port: port.node_port,
            endpoints: serving.map(|endpoint| (endpoint.ip, endpoint.port)).collect(),
        });
    }
}

/// The chains that pick an endpoint.
fn plan_balancing(fragment: &mut Fragment, port: &ServicePort, names: &Names, categories: &Categories) {
    let mut policies = Vec::new();
    if port.uses_cluster_endpoints() && !categories.cluster.is_empty() {
        policies.push((&names.cluster, &categories.cluster));
    }
    if port.uses_local_endpoints() && !categories.local.is_empty() {
        policies.push((&names.local, &categories.local));
    }
    let Some(seconds) = port.affinity_seconds else {
        for (chain, endpoints) in policies {
            fragment.chains.insert(chain.clone(), vec![dnat_rule(port, endpoints)]);
        }
        return;
    };
    let ip = Family::of(port.cluster_ip).word();
    for (chain, endpoints) in policies {
        let sticky = endpoints
            .iter()
            .map(|endpoint| format!("{ip} saddr @{} goto {}", names.affinity(endpoint), names.endpoint(endpoint)));
        let choices =
            endpoints.iter().enumerate().map(|(n, endpoint)| format!("{n} : goto {}", names.endpoint(endpoint)));
        let choose =
            format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), choices.collect::<Vec<_>>().join(", "));
        let rules = sticky.chain([choose]).collect();
        fragment.chains.insert(chain.clone(), rules);
    }
    for endpoint in categories.reachable() {
        let set = names.affinity(endpoint);
        let rules = vec![format!("update @{set} {{ {ip} saddr }}"), dnat_rule(port, std::slice::from_ref(endpoint))];
        fragment.chains.insert(names.endpoint(endpoint), rules);
        fragment.affinities.insert(set, seconds);
    }
}

fn dnat_rule(port: &ServicePort, endpoints: &[Endpoint]) -> String {
    let (protocol, ip) = (port.protocol.word(), Family::of(port.cluster_ip).word());
    if let [endpoint] = endpoints {
        return format!("meta l4proto {protocol} dnat to {}", std::net::SocketAddr::new(endpoint.ip, endpoint.port));
    }
    let choices =
        endpoints.iter().enumerate().map(|(n, endpoint)| format!("{n} : {} . {}", endpoint.ip, endpoint.port));
    format!(
        "meta l4proto {protocol} dnat {ip} addr . port to numgen random mod {} map {{ {} }}",
        endpoints.len(),
        choices.collect::<Vec<_>>().join(", ")
    )
}

fn external_rules(port: &ServicePort, names: &Names, has_external: bool, local_pods: &[String]) -> Vec<String> {
    let ip = Family::of(port.cluster_ip).word();
    if !port.external_local {
        // The endpoint may be on another node: the answer has to come back through this one.
        return vec![MARK.to_owned(), format!("goto {}", names.cluster)];
    }
    // Pods and this node are not outside: the policy does not bind them.
    let mut rules = vec![
        format!("{ip} saddr {{ {} }} goto {}", local_pods.join(", "), names.cluster),
        format!("fib saddr type local {MARK}"),
        format!("fib saddr type local goto {}", names.cluster),
    ];
    if has_external {
        rules.push(format!("goto {}", names.local));
    }
    rules
}

fn firewall_rules(port: &ServicePort) -> Vec<String> {
    let ip = Family::of(port.cluster_ip).word();
    // Overlapping ranges cannot stand in one nft set.
    let mut ranges = port.source_ranges.clone();
    ranges.extend(port.load_balancer_ips.iter().map(|ip| ipnet::IpNet::from(*ip)));
    let sources: Vec<String> = ipnet::IpNet::aggregate(&ranges).iter().map(ToString::to_string).collect();
    vec![format!("{ip} saddr != {{ {} }} drop", sources.join(", "))]
}

/// The names of a Service port's objects: unique by their hash, readable for people.
struct Names {
    cluster: String,
    local: String,
    external: String,
    firewall: String,
    suffix: String,
}

impl Names {
    fn of(port: &ServicePort) -> Self {
        let suffix = suffix(&port.service, &port.name, port.protocol);
        let name = |kind: &str| limit(format!("{kind}-{suffix}"));
        Names {
            cluster: name("service"),
            local: name("local"),
            external: name("external"),
            firewall: name("firewall"),
            suffix,
        }
    }

    fn endpoint(&self, endpoint: &Endpoint) -> String {
        self.of_endpoint("endpoint", endpoint)
    }

    fn affinity(&self, endpoint: &Endpoint) -> String {
        self.of_endpoint(AFFINITY_PREFIX, endpoint)
    }

    fn of_endpoint(&self, kind: &str, endpoint: &Endpoint) -> String {
        let address = endpoint.ip.to_string().replace(':', ".");
        let hash = hash(&format!("{} {address} {}", self.suffix, endpoint.port));
        limit(format!("{kind}-{hash}-{}__{address}/{}", self.suffix.split_at(HASH_LENGTH + 1).1, endpoint.port))
    }
}

/// What the names of affinity sets start with.
pub const AFFINITY_PREFIX: &str = "affinity";
const HASH_LENGTH: usize = 16;

fn suffix((namespace, name): &ServiceKey, port: &str, protocol: Protocol) -> String {
    let whole = format!("{namespace}/{name}/{}/{port}", protocol.word());
    // The hash makes it unique; the rest is for people, and must be a word in nft's language whatever the API let in.
    let word = |c: char| if c.is_ascii_alphanumeric() || "-/.".contains(c) { c } else { '_' };
    format!("{}-{}", hash(&whole), whole.chars().map(word).collect::<String>())
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(HASH_LENGTH / 2).map(|byte| format!("{byte:02x}")).collect()
}

fn limit(mut name: String) -> String {
    name.truncate(LONGEST_NAME);
    name
}

#[cfg(test)]
mod tests {
    use super::super::testing::{endpoint, port};
    use super::*;

    fn planned(port: &ServicePort, endpoints: &[Endpoint]) -> Fragment {
        let node = NodeTopology { name: "here".into(), zone: String::new() };
        plan(&[(port.clone(), endpoints.to_vec())], &node, &["10.0.0.0/8".into()])
    }

    fn verdict(fragment: &Fragment, set: Set, key: &str) -> Option<String> {
        fragment.elements.get(&(set, key.to_owned())).cloned().flatten()
    }

    #[test]
    fn a_service_balances_over_its_endpoints_and_masquerades_hairpins() {
        let fragment = planned(&port(), &[endpoint("10.0.0.1", true), endpoint("10.0.0.2", false)]);
        let goto = verdict(&fragment, Set::ServiceIps, "10.96.0.1 . tcp . 80").unwrap();
        let rules = &fragment.chains[goto.strip_prefix("goto ").unwrap()];
        assert_eq!(
            rules[0],
            "meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8080 }"
        );
        let hairpins: Vec<_> = fragment.elements.keys().filter(|(set, _)| *set == Set::HairpinConnections).collect();
        assert_eq!(hairpins, [&(Set::HairpinConnections, "10.0.0.1 . 10.0.0.1 . tcp . 8080".to_owned())]);
    }

    #[test]
    fn a_service_without_endpoints_rejects_everywhere() {
        let mut port = port();
        port.node_port = Some(30080);
        port.external_ips = vec!["192.0.2.9".parse().unwrap()];
        let fragment = planned(&port, &[]);
        for key in ["10.96.0.1 . tcp . 80", "192.0.2.9 . tcp . 80"] {
            assert_eq!(verdict(&fragment, Set::NoEndpointServices, key).unwrap(), "goto reject-chain");
        }
        assert_eq!(verdict(&fragment, Set::NoEndpointNodePorts, "tcp . 30080").unwrap(), "goto reject-chain");
        assert!(fragment.chains.is_empty());
        assert!(!fragment.elements.keys().any(|(set, _)| *set == Set::ServiceIps));
    }

    #[test]
    fn the_external_local_policy_drops_from_outside_but_serves_pods_and_the_node() {
        let mut port = port();
        (port.node_port, port.external_local) = (Some(30080), true);
        let fragment = planned(&port, &[endpoint("10.0.0.2", false)]);
        assert_eq!(verdict(&fragment, Set::NoEndpointNodePorts, "tcp . 30080").unwrap(), "drop");
        let goto = verdict(&fragment, Set::ServiceNodePorts, "tcp . 30080").unwrap();
        let rules = &fragment.chains[goto.strip_prefix("goto ").unwrap()];
        assert!(rules[0].starts_with("ip saddr { 10.0.0.0/8 } goto service-"));
        assert_eq!(rules.len(), 3);
        let fragment = planned(&port, &[endpoint("10.0.0.2", true)]);
        assert_eq!(fragment.chains[goto.strip_prefix("goto ").unwrap()].len(), 4);
    }

    #[test]
    fn the_internal_local_policy_drops_without_local_endpoints() {
        let mut port = port();
        port.internal_local = true;
        let fragment = planned(&port, &[endpoint("10.0.0.2", false)]);
        assert_eq!(verdict(&fragment, Set::NoEndpointServices, "10.96.0.1 . tcp . 80").unwrap(), "drop");
    }

    #[test]
    fn affinity_has_a_set_and_a_chain_for_each_endpoint() {
        let mut port = port();
        port.affinity_seconds = Some(60);
        let fragment = planned(&port, &[endpoint("10.0.0.1", true), endpoint("10.0.0.2", true)]);
        assert_eq!(fragment.affinities.len(), 2);
        assert_eq!(fragment.chains.len(), 3);
        assert!(fragment.affinities.values().all(|seconds| *seconds == 60));
    }

    #[test]
    fn names_stay_within_nfts_limit_and_differ() {
        let mut port = port();
        port.service = ("n".repeat(63), "s".repeat(63));
        port.affinity_seconds = Some(60);
        port.cluster_ip = "fd00::1".parse().unwrap();
        let one = endpoint("fd00:1111:2222:3333:4444:5555:6666:7777", true);
        let other = endpoint("fd00:1111:2222:3333:4444:5555:6666:7778", true);
        let fragment = planned(&port, &[one, other]);
        assert_eq!(fragment.chains.len(), 3);
        assert!(fragment.chains.keys().chain(fragment.affinities.keys()).all(|name| name.len() <= LONGEST_NAME));
    }

    #[test]
    fn overlapping_source_ranges_become_one() {
        let mut port = port();
        port.load_balancer_ips = vec!["192.0.2.9".parse().unwrap()];
        port.source_ranges = vec!["10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()];
        let fragment = planned(&port, &[endpoint("10.0.0.1", true)]);
        let goto = verdict(&fragment, Set::FirewallIps, "192.0.2.9 . tcp . 80").unwrap();
        let rules = &fragment.chains[goto.strip_prefix("goto ").unwrap()];
        assert_eq!(rules, &["ip saddr != { 10.0.0.0/8, 192.0.2.9/32 } drop"]);
    }
}
