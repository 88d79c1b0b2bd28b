//! What to do about the EndpointSlices of a Service: [`plan`] is a pure function of it, its pods and their nodes.
use crate::claim::{controller_ref, name, namespace, uid};
use crate::hash::semantically_equal;
use crate::service_pods::{addresses, can_be_endpoint, hostname, is_headless, publishes_not_ready, target_port};
use crate::{pods, selector};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use kube::api::ObjectMeta;
use pintle_client::index::SERVICE_NAME;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who maintains the slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, in [`MANAGED_BY`].
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Marks slices and Endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Endpoints per slice.
const MAX_ENDPOINTS: usize = 100;

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<String>,
    /// Pods left out because their node is not known (yet).
    pub without_node: Vec<String>,
}

/// Decides about the slices of `service`: `existing` are all that carry its name and this controller's mark.
pub fn plan(
    service: &Service,
    selected: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
    existing: &[Arc<EndpointSlice>],
) -> Plan {
    let mut plan = Plan::default();
    let families = families(service);
    for family in &families {
        let mine: Vec<&Arc<EndpointSlice>> = existing.iter().filter(|slice| slice.address_type == *family).collect();
        family_plan(service, selected, &node, &mine, family, &mut plan);
    }
    let other = existing.iter().filter(|slice| !families.contains(&slice.address_type));
    plan.delete.extend(other.map(|slice| name(slice.as_ref()).to_owned()));
    plan.without_node.sort();
    plan.without_node.dedup();
    plan
}

/// The address types that the Service offers.
fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let mut families = spec.ip_families.unwrap_or_default();
    if families.is_empty() {
        let v6 = spec.cluster_ip.is_some_and(|ip| ip.contains(':'));
        families.push(if v6 { "IPv6" } else { "IPv4" }.to_owned());
    }
    families
}

fn family_plan(
    service: &Service,
    selected: &[Arc<Pod>],
    node: &impl Fn(&str) -> Option<Arc<Node>>,
    existing: &[&Arc<EndpointSlice>],
    family: &str,
    plan: &mut Plan,
) {
    // Endpoints with the same ports share slices.
    let mut wanted: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for pod in selected.iter().filter(|pod| can_be_endpoint(pod, true)) {
        let ports = ports(service, pod);
        let of_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).and_then(node);
        if of_node.is_none() && !publishes_not_ready(service) {
            plan.without_node.push(name(pod.as_ref()).to_owned());
            continue;
        }
        let group = wanted.entry(port_key(&ports)).or_insert_with(|| (ports, Vec::new()));
        group.1.extend(endpoint(service, pod, of_node.as_deref(), family));
    }
    let (mut create, mut delete) = (Vec::new(), Vec::new());
    let mut by_ports: BTreeMap<String, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for &slice in existing {
        if slice.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid(service)) {
            by_ports.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
        } else {
            delete.push(slice);
        }
    }
    for (key, slices) in &by_ports {
        if !wanted.contains_key(key) {
            delete.extend(slices);
        }
    }
    for (key, (ports, endpoints)) in wanted {
        let slices = by_ports.remove(&key).unwrap_or_default();
        group_plan(service, family, ports, endpoints, &slices, &mut create, &mut delete, plan);
    }
    if delete.len() == existing.len() && create.is_empty() {
        // An empty slice stays, so that readers can tell "no endpoints" from "not looked at yet".
        let placeholder = new_slice(service, family, Vec::new(), Vec::new());
        let same = |slice: &EndpointSlice| {
            slice.endpoints.as_ref().is_none_or(Vec::is_empty)
                && slice.ports.as_ref().is_none_or(Vec::is_empty)
                && slice.metadata.labels == placeholder.metadata.labels
                && semantically_equal(&slice.metadata.owner_references, &placeholder.metadata.owner_references)
        };
        if delete.len() == 1 && same(delete[0]) { delete.clear() } else { create.push(placeholder) }
    }
    plan.create.extend(create);
    plan.delete.extend(delete.iter().map(|slice| name(slice.as_ref()).to_owned()));
}

/// Fits `endpoints` into `slices` with as few writes as possible. (upstream: reconcileByPortMapping)
#[allow(clippy::too_many_arguments)]
fn group_plan<'a>(
    service: &Service,
    family: &str,
    ports: Vec<EndpointPort>,
    mut endpoints: Vec<Endpoint>,
    slices: &[&'a Arc<EndpointSlice>],
    create: &mut Vec<EndpointSlice>,
    delete: &mut Vec<&'a Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let labels = labels(service);
    let mut changed: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    let mut unchanged: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let mut kept = Vec::new();
        let mut differs = slice.metadata.labels.as_ref() != Some(&labels);
        for old in slice.endpoints.iter().flatten() {
            match endpoints.iter().position(|new| same_target(new, old)) {
                Some(at) => {
                    let new = endpoints.swap_remove(at);
                    differs |= !semantically_equal(&new, old);
                    kept.push(new);
                }
                None => differs = true,
            }
        }
        if differs { changed.push((slice, kept)) } else { unchanged.push((slice, kept)) }
    }
    // Slices that are written anyway take new endpoints first, then one that has room for all that are left.
    for (_, kept) in &mut changed {
        let room = MAX_ENDPOINTS.saturating_sub(kept.len()).min(endpoints.len());
        kept.extend(endpoints.drain(..room));
    }
    if !endpoints.is_empty() && endpoints.len() < MAX_ENDPOINTS {
        let fits = |kept: &[Endpoint]| kept.len() + endpoints.len() <= MAX_ENDPOINTS;
        let fullest = (0..unchanged.len()).filter(|at| fits(&unchanged[*at].1)).max_by_key(|at| unchanged[*at].1.len());
        if let Some(at) = fullest {
            let (slice, mut kept) = unchanged.swap_remove(at);
            kept.append(&mut endpoints);
            changed.push((slice, kept));
        }
    }
    while !endpoints.is_empty() {
        let count = endpoints.len().min(MAX_ENDPOINTS);
        create.push(new_slice(service, family, ports.clone(), endpoints.drain(..count).collect()));
    }
    for (slice, kept) in changed {
        if kept.is_empty() {
            delete.push(slice);
            continue;
        }
        let mut updated = slice.as_ref().clone();
        updated.metadata.labels = Some(labels.clone());
        updated.endpoints = Some(kept);
        plan.update.push(updated);
    }
}

fn same_target(one: &Endpoint, other: &Endpoint) -> bool {
    let target =
        |endpoint: &Endpoint| endpoint.target_ref.as_ref().map(|target| (target.uid.clone(), target.name.clone()));
    one.addresses == other.addresses && target(one) == target(other)
}

/// Equal for equal sets of ports.
pub fn port_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(
                "{:?}/{:?}/{:?}/{:?}",
                port.name.as_deref().unwrap_or(""),
                port.port,
                port.protocol,
                port.app_protocol
            )
        })
        .collect();
    keys.sort();
    keys.join(",")
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let listed = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    listed
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, family: &str) -> Option<Endpoint> {
    let of_family = addresses(pod).into_iter().filter(|ip| ip.is_ipv6() == (family == "IPv6"));
    let addresses: Vec<String> = of_family.map(|ip| ip.to_string()).collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pods::is_deleting(pod));
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get(ZONE)).filter(|zone| !zone.is_empty()).cloned();
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        hints: hints(service, ready, zone.as_ref(), node_name.as_ref()),
        zone,
        node_name,
        hostname: hostname(pod, service),
        ..Endpoint::default()
    })
}

/// Where traffic should come from, by `spec.trafficDistribution`.
fn hints(service: &Service, ready: bool, zone: Option<&String>, node: Option<&String>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !ready {
        return None;
    }
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.clone() }]);
    let for_nodes = node.filter(|_| distribution == "PreferSameNode").map(|node| vec![ForNode { name: node.clone() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
}

fn labels(service: &Service) -> selector::Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), name(service).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn new_slice(service: &Service, family: &str, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(service))),
            namespace: Some(namespace(service).to_owned()),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports),
        endpoints: Some(endpoints),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(extra: Value) -> Service {
        let mut spec =
            json!({"clusterIP": "10.0.0.1", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": spec}))
            .unwrap()
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let json = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}")},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.{}.{}", number / 200, number % 200 + 1)}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value(json).unwrap())
    }

    fn node(_: &str) -> Option<Arc<Node>> {
        Some(Arc::new(serde_json::from_value(json!({"metadata": {"name": "n", "labels": {ZONE: "z"}}})).unwrap()))
    }

    fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
        slice.endpoints.as_deref().unwrap()
    }

    fn stored(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let named = slices.into_iter().enumerate().map(|(number, mut slice)| {
            slice.metadata.name = Some(format!("web-{number}"));
            Arc::new(slice)
        });
        named.collect()
    }

    #[test]
    fn pods_become_endpoints_and_a_second_look_changes_nothing() {
        let pods = [pod(1, true), pod(2, false)];
        let first = plan(&service(json!({})), &pods, node, &[]);
        let slice = &first.create[0];
        assert_eq!(endpoints(slice).len(), 2);
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(endpoints(slice)[0].zone.as_deref(), Some("z"));
        let conditions = endpoints(slice)[1].conditions.as_ref().unwrap();
        assert_eq!((conditions.ready, conditions.serving), (Some(false), Some(false)));
        assert_eq!(plan(&service(json!({})), &pods, node, &stored(first.create)), Plan::default());
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        let first = plan(&service(json!({})), &[], node, &[]);
        assert!(endpoints(&first.create[0]).is_empty());
        assert_eq!(plan(&service(json!({})), &[], node, &stored(first.create)), Plan::default());
    }

    #[test]
    fn a_pod_that_gets_ready_updates_its_slice_in_place() {
        let existing = stored(plan(&service(json!({})), &[pod(1, false)], node, &[]).create);
        let next = plan(&service(json!({})), &[pod(1, true)], node, &existing);
        assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (0, 1, 0));
    }

    #[test]
    fn slices_hold_at_most_a_hundred_and_are_filled_before_new_ones() {
        let pods: Vec<_> = (0..150).map(|number| pod(number, true)).collect();
        let first = plan(&service(json!({})), &pods, node, &[]);
        assert_eq!(first.create.iter().map(|slice| endpoints(slice).len()).collect::<Vec<_>>(), [100, 50]);
        let more: Vec<_> = (0..170).map(|number| pod(number, true)).collect();
        let next = plan(&service(json!({})), &more, node, &stored(first.create));
        assert_eq!((next.create.len(), next.update.len()), (0, 1));
        assert_eq!(endpoints(&next.update[0]).len(), 70);
    }

    #[test]
    fn publish_not_ready_addresses_makes_unready_pods_ready() {
        let first = plan(&service(json!({"publishNotReadyAddresses": true})), &[pod(1, false)], |_| None, &[]);
        assert_eq!(endpoints(&first.create[0])[0].conditions.as_ref().unwrap().ready, Some(true));
    }

    #[test]
    fn a_pod_on_an_unknown_node_waits_and_a_foreign_family_goes() {
        let waiting = plan(&service(json!({})), &[pod(1, true)], |_| None, &[]);
        assert_eq!(waiting.without_node, ["p1"]);
        let mut old = plan(&service(json!({})), &[], node, &[]).create;
        old[0].address_type = "IPv6".into();
        let next = plan(&service(json!({})), &[], node, &stored(old));
        assert_eq!(next.delete, ["web-0"]);
    }
}
