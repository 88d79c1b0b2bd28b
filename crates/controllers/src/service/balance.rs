//! Decides where a Service of type LoadBalancer is answered: [`balance`].
use crate::claim::{name, namespace, uid};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Keeps a Service until its load balancer is gone.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Nodes with this label answer for no load balancer.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The cluster autoscaler is about to delete a node with this taint.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What to do about a Service.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Nothing: it is as it should be, or not ours.
    None,
    /// Finalizer and status go.
    Release,
    /// It cannot be served, and why.
    Refuse(String),
    /// It has the finalizer and this status.
    Ensure(LoadBalancerStatus),
}

/// True if the Service asks for the cluster's own load balancer.
pub(super) fn wants(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer")
            && spec.load_balancer_class.is_none()
            && service.metadata.deletion_timestamp.is_none()
    })
}

/// True if something of a load balancer is left that the Service no longer wants. (upstream: needsCleanup)
pub(super) fn needs_cleanup(service: &Service) -> bool {
    let foreign = service.spec.as_ref().is_some_and(|spec| spec.load_balancer_class.is_some());
    has_finalizer(service) && !foreign && !wants(service)
}

/// True if only nodes with an endpoint answer.
pub(super) fn is_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
}

/// The Service's addresses of `status.loadBalancer`.
pub(super) fn listed(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// True if nothing that [`balance`] reads differs between two states of a node.
pub(super) fn same_for_balancing(old: &Node, new: &Node) -> bool {
    eligible(old) == eligible(new) && addresses(old) == addresses(new) && kubelet_port(old) == kubelet_port(new)
}

fn eligible(node: &Node) -> bool {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    node.metadata.deletion_timestamp.is_none()
        && !excluded
        && !taints.into_iter().any(|taint| taint.key == TO_BE_DELETED)
        && ready.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The node's addresses, those for the outside first.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let of = |kind: &'static str| {
        let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        all.filter(move |address| address.type_ == kind).filter_map(|address| address.address.parse().ok())
    };
    of("ExternalIP").chain(of("InternalIP")).collect()
}

fn kubelet_port(node: &Node) -> Option<i32> {
    Some(node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port)
}

/// Protocol and port of each of the Service's ports.
fn ports(service: &Service) -> BTreeSet<(&str, i32)> {
    let all = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    all.map(|port| (port.protocol.as_deref().unwrap_or("TCP"), port.port)).collect()
}

/// Why none of the Service's ports may be answered on the nodes' addresses: each has one owner there.
fn taken(
    service: &Service,
    others: &[Arc<Service>],
    nodes: &[Arc<Node>],
    api_server: &[Arc<EndpointSlice>],
) -> Option<String> {
    let wanted = ports(service);
    let of_nodes = nodes.iter().filter_map(|node| kubelet_port(node)).map(|port| (port, "the kubelet"));
    let of_api = api_server.iter().flat_map(|slice| slice.ports.iter().flatten());
    let of_api = of_api.filter_map(|port| port.port).map(|port| (port, "the API server"));
    if let Some((port, owner)) = of_nodes.chain(of_api).find(|(port, _)| wanted.contains(&("TCP", *port))) {
        return Some(format!("port {port}/TCP of the nodes belongs to {owner}"));
    }
    // Who has its addresses keeps them, unless two came to have them at once: then the older one does.
    let age = |service: &Service| {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (listed(service).is_empty(), created, namespace(service).to_owned(), name(service).to_owned())
    };
    let before = others.iter().filter(|other| wants(other) && uid(other.as_ref()) != uid(service));
    let mut before = before.filter(|other| !listed(other).is_empty() && age(other) < age(service));
    before.find_map(|other| {
        let (protocol, port) = ports(other).into_iter().find(|port| wanted.contains(port))?;
        Some(format!(
            "port {port}/{protocol} of the nodes belongs to Service {}/{}",
            namespace(other.as_ref()),
            name(other.as_ref())
        ))
    })
}

/// Decides about `service`. `others` are all Services with a load balancer, `slices` its endpoints, `api_server` those of
/// the API server.
pub(super) fn balance(
    service: &Service,
    others: &[Arc<Service>],
    nodes: &[Arc<Node>],
    slices: &[Arc<EndpointSlice>],
    api_server: &[Arc<EndpointSlice>],
) -> Action {
    if needs_cleanup(service) {
        return Action::Release;
    }
    if !wants(service) {
        return Action::None;
    }
    if let Some(reason) = taken(service, others, nodes, api_server) {
        return Action::Refuse(reason);
    }
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true));
    let serving: BTreeSet<&str> = ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    let mut chosen: Vec<&Arc<Node>> = nodes.iter().filter(|node| eligible(node)).collect();
    if is_local(service) {
        chosen.retain(|node| serving.contains(name(node.as_ref())));
    }
    chosen.sort_by(|a, b| name(a.as_ref()).cmp(name(b.as_ref())));
    let families: Vec<&str> =
        service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten()).map(String::as_str).collect();
    let of_family = |family: &str| {
        let all = chosen.iter().flat_map(|node| addresses(node));
        all.filter(move |ip| ip.is_ipv4() == (family == "IPv4")).collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    let ips = families.iter().flat_map(|family| of_family(family)).filter(|ip| seen.insert(*ip));
    let ingress: Vec<LoadBalancerIngress> = ips
        .map(|ip| LoadBalancerIngress {
            ip: Some(ip.to_string()),
            ip_mode: Some("VIP".into()),
            ..LoadBalancerIngress::default()
        })
        .collect();
    if has_finalizer(service) && listed(service) == ingress {
        return Action::None;
    }
    Action::Ensure(LoadBalancerStatus { ingress: (!ingress.is_empty()).then_some(ingress) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn service(named: &str, change: Value) -> Arc<Service> {
        let mut value = json!({
            "metadata": {"name": named, "namespace": "ns", "uid": named, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP"}]},
        });
        for (part, fields) in change.as_object().unwrap() {
            for (field, to) in fields.as_object().unwrap() {
                value[part][field] = to.clone();
            }
        }
        object(value)
    }

    fn node(named: &str, ips: &[&str], labels: Value) -> Arc<Node> {
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        object(json!({
            "metadata": {"name": named, "labels": labels},
            "status": {
                "addresses": addresses,
                "conditions": [{"type": "Ready", "status": "True"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            },
        }))
    }

    fn two() -> Vec<Arc<Node>> {
        vec![node("b", &["192.0.2.2", "fd00::2"], json!({})), node("a", &["192.0.2.1", "fd00::1"], json!({}))]
    }

    fn ensured(action: Action) -> Vec<String> {
        let Action::Ensure(status) = action else { panic!("{action:?}") };
        status.ingress.unwrap_or_default().into_iter().filter_map(|ingress| ingress.ip).collect()
    }

    #[test]
    fn a_load_balancer_is_answered_at_every_nodes_address_of_its_family() {
        let action = balance(&service("web", json!({})), &[], &two(), &[], &[]);
        assert_eq!(ensured(action), ["192.0.2.1", "192.0.2.2"]);
        let dual = service("web", json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}}));
        assert_eq!(ensured(balance(&dual, &[], &two(), &[], &[])), ["fd00::1", "fd00::2", "192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn nothing_is_written_when_it_is_as_it_should_be() {
        let ingress = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "VIP"}]);
        let done = service(
            "web",
            json!({"metadata": {"finalizers": [FINALIZER]}, "status": {"loadBalancer": {"ingress": ingress}}}),
        );
        assert_eq!(balance(&done, &[], &two(), &[], &[]), Action::None);
    }

    #[test]
    fn another_class_is_left_alone_also_when_it_is_deleted() {
        let other = service(
            "web",
            json!({"metadata": {"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"},
                   "spec": {"loadBalancerClass": "example.com/other"}}),
        );
        assert_eq!(balance(&other, &[], &two(), &[], &[]), Action::None);
    }

    #[test]
    fn another_type_or_a_deletion_releases_it() {
        let changed = service("web", json!({"metadata": {"finalizers": [FINALIZER]}, "spec": {"type": "ClusterIP"}}));
        assert_eq!(balance(&changed, &[], &two(), &[], &[]), Action::Release);
        let deleted = service(
            "web",
            json!({"metadata": {"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        );
        assert_eq!(balance(&deleted, &[], &two(), &[], &[]), Action::Release);
        let never = service("web", json!({"spec": {"type": "NodePort"}}));
        assert_eq!(balance(&never, &[], &two(), &[], &[]), Action::None);
    }

    #[test]
    fn nodes_that_are_excluded_or_not_ready_do_not_answer() {
        let mut nodes = two();
        nodes.push(node("c", &["192.0.2.3"], json!({ EXCLUDED: "" })));
        let mut down = node("d", &["192.0.2.4"], json!({}));
        Arc::make_mut(&mut down).status.as_mut().unwrap().conditions = None;
        nodes.push(down);
        assert_eq!(ensured(balance(&service("web", json!({})), &[], &nodes, &[], &[])), ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn the_local_policy_lists_only_nodes_with_a_ready_endpoint() {
        let local = service("web", json!({"spec": {"externalTrafficPolicy": "Local"}}));
        let slices = [object(json!({
            "metadata": {"name": "web-1"}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "a", "conditions": {"ready": false}},
                {"addresses": ["10.0.1.1"], "nodeName": "b", "conditions": {"ready": true}},
            ],
        }))];
        assert_eq!(ensured(balance(&local, &[], &two(), &slices, &[])), ["192.0.2.2"]);
    }

    #[test]
    fn a_port_has_one_owner() {
        let ingress = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]);
        let first = service("first", json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        let second = service("a-second", json!({}));
        let others = [first.clone(), second.clone()];
        assert_eq!(
            balance(&second, &others, &two(), &[], &[]),
            Action::Refuse("port 80/TCP of the nodes belongs to Service ns/first".into())
        );
        assert!(matches!(balance(&first, &others, &two(), &[], &[]), Action::Ensure(_)));
    }

    #[test]
    fn the_nodes_own_ports_are_not_given_away() {
        let api = [object(json!({
            "metadata": {"name": "kubernetes"}, "addressType": "IPv4", "endpoints": [],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        }))];
        for (port, owner) in [(6443, "the API server"), (10250, "the kubelet")] {
            let greedy = service("web", json!({"spec": {"ports": [{"port": port}]}}));
            assert_eq!(
                balance(&greedy, &[], &two(), &[], &api),
                Action::Refuse(format!("port {port}/TCP of the nodes belongs to {owner}"))
            );
        }
    }
}
