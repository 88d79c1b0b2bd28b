//! From NetworkPolicies, pods and namespaces to nft objects: a pure function.
//!
//! Every pod of this node that a policy selects gets a chain for each direction that is isolated. A rule that admits a
//! packet returns from the chain, its end drops.
use crate::nft::Family;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pintle_api::selector::LabelSelector;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What policies need to know of a pod with a network of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Whether it runs on this node.
    pub local: bool,
    /// Its containers' named ports: name, protocol in nft's word, number.
    pub ports: Vec<(String, String, u16)>,
}

/// All that decides.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The policies of the cluster.
    pub policies: Vec<NetworkPolicy>,
    /// The pods of the cluster.
    pub pods: Vec<PodFacts>,
    /// Labels of the namespaces.
    pub namespaces: BTreeMap<String, Labels>,
}

/// A named set of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedSet {
    /// Its type.
    pub kind: String,
    /// Its elements; the value is a verdict.
    pub elements: BTreeMap<String, Option<String>>,
}

/// What the table should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Sets by name.
    pub sets: BTreeMap<String, NamedSet>,
    /// Rules by chain.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Chain that judges what a pod's address sends.
    pub egress: BTreeMap<String, String>,
    /// Chain that judges what a pod's address gets.
    pub ingress: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }

    /// The end of a packet that the peer is.
    fn peer_field(self) -> &'static str {
        match self {
            Direction::Ingress => "saddr",
            Direction::Egress => "daddr",
        }
    }
}

/// Plans the table of `family`.
pub fn plan(inputs: &Inputs, family: Family) -> Desired {
    let mut planner = Planner { inputs, family, desired: Desired::default() };
    for pod in inputs.pods.iter().filter(|pod| pod.local) {
        for direction in [Direction::Ingress, Direction::Egress] {
            planner.isolate(pod, direction);
        }
    }
    planner.desired
}

struct Planner<'a> {
    inputs: &'a Inputs,
    family: Family,
    desired: Desired,
}

impl Planner<'_> {
    fn isolate(&mut self, pod: &PodFacts, direction: Direction) {
        let inputs = self.inputs;
        let selecting: Vec<&NetworkPolicy> =
            inputs.policies.iter().filter(|policy| isolates(policy, pod, direction)).collect();
        let Some(ip) = pod.ips.iter().find(|ip| Family::of(**ip) == self.family).filter(|_| !selecting.is_empty())
        else {
            return;
        };
        // A pod always reaches itself.
        let mut rules = vec![format!("{} {} {ip} return", self.family.word(), direction.peer_field())];
        for policy in selecting {
            let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
            let Some(spec) = &policy.spec else { continue };
            match direction {
                Direction::Ingress => {
                    for rule in spec.ingress.iter().flatten() {
                        rules.extend(self.rules(direction, namespace, pod, rule.from.as_ref(), rule.ports.as_ref()));
                    }
                }
                Direction::Egress => {
                    for rule in spec.egress.iter().flatten() {
                        rules.extend(self.rules(direction, namespace, pod, rule.to.as_ref(), rule.ports.as_ref()));
                    }
                }
            }
        }
        rules.push("drop".to_owned());
        let chain = format!("{}-{}", direction.word(), hash(&format!("{}/{}", pod.namespace, pod.name)));
        let verdict = format!("jump {chain}");
        match direction {
            Direction::Ingress => self.desired.ingress.insert(ip.to_string(), verdict),
            Direction::Egress => self.desired.egress.insert(ip.to_string(), verdict),
        };
        self.desired.chains.insert(chain, rules);
    }

    fn rules(
        &mut self,
        direction: Direction,
        namespace: &str,
        pod: &PodFacts,
        peers: Option<&Vec<NetworkPolicyPeer>>,
        ports: Option<&Vec<NetworkPolicyPort>>,
    ) -> Vec<String> {
        let peers = peers.map(Vec::as_slice).unwrap_or_default();
        let ports = ports.map(Vec::as_slice).unwrap_or_default();
        let field = format!("{} {}", self.family.word(), direction.peer_field());
        let mut rules = Vec::new();
        let any = [None];
        let peers: Vec<Option<&NetworkPolicyPeer>> =
            if peers.is_empty() { any.to_vec() } else { peers.iter().map(Some).collect() };
        for peer in peers {
            let Some(from) = self.peer(&field, namespace, peer) else { continue };
            if ports.is_empty() {
                rules.push(words(&[&from, "return"]));
            }
            for port in ports {
                let found = match (&port.port, direction) {
                    (Some(IntOrString::String(name)), Direction::Egress) => {
                        // The name means what the receiving pod says.
                        let set = self.named_ports(namespace, peer, name, &protocol(port));
                        vec![format!("{field} . meta l4proto . th dport @{set}")]
                    }
                    (Some(IntOrString::String(name)), Direction::Ingress) => {
                        let wanted = protocol(port);
                        let own = pod.ports.iter().filter(|(known, protocol, _)| known == name && *protocol == wanted);
                        own.map(|(_, protocol, number)| format!("{protocol} dport {number}")).collect()
                    }
                    (Some(IntOrString::Int(number)), _) => vec![match port.end_port {
                        Some(end) if end > *number => format!("{} dport {number}-{end}", protocol(port)),
                        _ => format!("{} dport {number}", protocol(port)),
                    }],
                    (None, _) => vec![format!("meta l4proto {}", protocol(port))],
                };
                rules.extend(found.iter().map(|port| words(&[&from, port, "return"])));
            }
        }
        rules
    }

    /// The match of a peer; `None` if it has nobody in this family. No peer stands for everybody.
    fn peer(&mut self, field: &str, namespace: &str, peer: Option<&NetworkPolicyPeer>) -> Option<String> {
        let Some(peer) = peer else { return Some(String::new()) };
        if let Some(block) = &peer.ip_block {
            let cidr: IpNet = block.cidr.parse().ok()?;
            if Family::of(cidr.addr()) != self.family {
                return None;
            }
            let except: Vec<IpNet> = block.except.iter().flatten().filter_map(|text| text.parse().ok()).collect();
            let except: Vec<String> = IpNet::aggregate(&except).iter().map(ToString::to_string).collect();
            let but = if except.is_empty() { String::new() } else { format!("{field} != {{ {} }}", except.join(", ")) };
            return Some(words(&[&format!("{field} {}", cidr.trunc()), &but]));
        }
        let elements: BTreeMap<String, Option<String>> = self
            .members(namespace, peer)
            .flat_map(|pod| &pod.ips)
            .filter(|ip| Family::of(**ip) == self.family)
            .map(|ip| (ip.to_string(), None))
            .collect();
        let name = format!("pods-{}", hash(&identity(namespace, peer)));
        let kind = self.family.address_type().to_owned();
        self.desired.sets.insert(name.clone(), NamedSet { kind, elements });
        Some(format!("{field} @{name}"))
    }

    /// The set of addresses and numbers behind a port's name.
    fn named_ports(&mut self, namespace: &str, peer: Option<&NetworkPolicyPeer>, port: &str, protocol: &str) -> String {
        let inputs = self.inputs;
        let family = self.family;
        let members: Vec<&PodFacts> = match peer {
            Some(peer) => self.members(namespace, peer).collect(),
            None => inputs.pods.iter().collect(),
        };
        let elements = members.into_iter().flat_map(|pod| {
            let ports = pod.ports.iter().filter(|(name, known, _)| name == port && known == protocol);
            ports.flat_map(move |(_, protocol, number)| {
                let ips = pod.ips.iter().filter(move |ip| Family::of(**ip) == family);
                ips.map(move |ip| (format!("{ip} . {protocol} . {number}"), None))
            })
        });
        let elements = elements.collect();
        let who = peer.map_or_else(String::new, |peer| identity(namespace, peer));
        let name = format!("ports-{}", hash(&format!("{who} {protocol} {port}")));
        let kind = format!("{} . inet_proto . inet_service", family.address_type());
        self.desired.sets.insert(name.clone(), NamedSet { kind, elements });
        name
    }

    /// The pods that a peer selects.
    fn members(&self, namespace: &str, peer: &NetworkPolicyPeer) -> impl Iterator<Item = &PodFacts> {
        let namespaces: BTreeSet<&str> = match &peer.namespace_selector {
            None => [namespace].into(),
            Some(selector) => {
                let known = self.inputs.namespaces.iter();
                known.filter(|(_, labels)| matches(selector, labels)).map(|(name, _)| name.as_str()).collect()
            }
        };
        let namespaces: BTreeSet<String> = namespaces.into_iter().map(str::to_owned).collect();
        let selector = peer.pod_selector.clone().unwrap_or_default();
        self.inputs
            .pods
            .iter()
            .filter(move |pod| namespaces.contains(&pod.namespace) && matches(&selector, &pod.labels))
    }
}

/// Whether `policy` isolates `pod` in `direction`.
fn isolates(policy: &NetworkPolicy, pod: &PodFacts, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let named = |name: &str| types.iter().any(|kind| kind == name);
    let applies = match direction {
        Direction::Ingress => types.is_empty() || named("Ingress"),
        Direction::Egress => named("Egress") || (types.is_empty() && spec.egress.is_some()),
    };
    applies
        && policy.metadata.namespace.as_deref() == Some(&pod.namespace)
        && matches(&spec.pod_selector.clone().unwrap_or_default(), &pod.labels)
}

/// Whether `labels` satisfy `selector`; one that cannot be understood selects nothing.
fn matches(selector: &ApiSelector, labels: &Labels) -> bool {
    serde_json::to_value(selector)
        .ok()
        .and_then(|value| LabelSelector::from_value(&value).ok())
        .is_some_and(|selector| selector.matches_with(|key| labels.get(key).map(String::as_str)))
}

fn protocol(port: &NetworkPolicyPort) -> String {
    match port.protocol.as_deref() {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        _ => "tcp",
    }
    .to_owned()
}

/// What tells one peer from another.
fn identity(namespace: &str, peer: &NetworkPolicyPeer) -> String {
    let text = |selector: &Option<ApiSelector>| serde_json::to_string(selector).unwrap_or_default();
    let namespace = if peer.namespace_selector.is_none() { namespace } else { "" };
    format!("{namespace} {} {}", text(&peer.namespace_selector), text(&peer.pod_selector))
}

fn words(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, name: &str, ip: &str, labels: &[(&str, &str)]) -> PodFacts {
        PodFacts {
            namespace: namespace.into(),
            name: name.into(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            ips: vec![ip.parse().unwrap()],
            local: true,
            ports: vec![("sql".into(), "tcp".into(), 5432)],
        }
    }

    fn inputs(spec: &Value) -> Inputs {
        let policy = json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec});
        Inputs {
            policies: vec![serde_json::from_value(policy).unwrap()],
            pods: vec![
                pod("shop", "db", "10.0.0.1", &[("app", "db")]),
                pod("shop", "web", "10.0.0.2", &[("app", "web")]),
                pod("other", "web", "10.0.0.3", &[("app", "web")]),
            ],
            namespaces: [
                ("shop".to_owned(), Labels::new()),
                ("other".to_owned(), [("team".to_owned(), "x".to_owned())].into()),
            ]
            .into(),
        }
    }

    fn only_chain(desired: &Desired) -> &[String] {
        assert_eq!(desired.chains.len(), 1, "{desired:?}");
        desired.chains.values().next().unwrap()
    }

    fn members(desired: &Desired) -> Vec<&str> {
        desired.sets.values().flat_map(|set| set.elements.keys()).map(String::as_str).collect()
    }

    #[test]
    fn without_policies_nobody_is_isolated() {
        let mut inputs = inputs(&json!({"podSelector": {}}));
        inputs.policies.clear();
        assert_eq!(plan(&inputs, Family::Ip), Desired::default());
    }

    #[test]
    fn a_policy_without_rules_drops_all_but_the_pod_itself() {
        let desired = plan(&inputs(&json!({"podSelector": {"matchLabels": {"app": "db"}}})), Family::Ip);
        assert_eq!(only_chain(&desired), ["ip saddr 10.0.0.1 return", "drop"]);
        assert_eq!(desired.ingress.keys().collect::<Vec<_>>(), ["10.0.0.1"]);
        assert!(desired.egress.is_empty());
    }

    #[test]
    fn an_empty_rule_admits_all() {
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]});
        let desired = plan(&inputs(&spec), Family::Ip);
        assert_eq!(only_chain(&desired)[1..], ["return", "drop"]);
    }

    #[test]
    fn peers_are_selected_by_pod_and_namespace() {
        let with = |peer: Value| {
            let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [peer]}]});
            plan(&inputs(&spec), Family::Ip)
        };
        assert_eq!(members(&with(json!({"podSelector": {"matchLabels": {"app": "web"}}}))), ["10.0.0.2"]);
        assert_eq!(members(&with(json!({"podSelector": {}}))), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(members(&with(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}))), ["10.0.0.3"]);
        let both = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}});
        assert_eq!(members(&with(both)), ["10.0.0.2", "10.0.0.3"]);
        let block = with(json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/29"]}}));
        assert_eq!(only_chain(&block)[1], "ip saddr 192.0.2.0/24 ip saddr != { 192.0.2.8/29 } return");
    }

    #[test]
    fn ports_are_numbers_ranges_and_names() {
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [
            {"port": 80}, {"protocol": "UDP", "port": 1000, "endPort": 2000}, {"port": "sql"}, {"port": "none"},
            {"protocol": "SCTP"}]}]});
        let desired = plan(&inputs(&spec), Family::Ip);
        assert_eq!(
            only_chain(&desired)[1..],
            [
                "tcp dport 80 return",
                "udp dport 1000-2000 return",
                "tcp dport 5432 return",
                "meta l4proto sctp return",
                "drop"
            ]
        );
    }

    #[test]
    fn a_named_port_of_an_egress_rule_is_the_receivers() {
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "sql"}]}]});
        let desired = plan(&inputs(&spec), Family::Ip);
        assert!(desired.ingress.is_empty());
        assert!(members(&desired).contains(&"10.0.0.2 . tcp . 5432"));
        assert!(only_chain(&desired)[1].contains("ip daddr . meta l4proto . th dport @ports-"));
    }

    #[test]
    fn the_other_family_is_isolated_by_its_own_addresses() {
        let desired = plan(&inputs(&json!({"podSelector": {}})), Family::Ip6);
        assert_eq!(desired, Desired::default());
    }
}
