//! Which pods stand behind a Service and at which ports: shared by the EndpointSlice and Endpoints controllers.
use crate::claim::namespace;
use crate::pods;
use crate::selector::matches_map;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pintle_client::informer::{Change, ObjectKey, key_of};
use pintle_client::{Informer, WorkQueue};
use std::net::IpAddr;
use std::sync::Arc;

/// The protocol of a port that names none.
const TCP: &str = "TCP";

/// The Service's selector, if this cluster maintains its endpoints.
pub fn managed_selector(service: &Service) -> Option<&crate::selector::Labels> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref()
}

/// True if the Service has no virtual address.
pub fn is_headless(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    ip.is_empty() || ip == "None"
}

/// True if pods count before they are ready.
pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// True if the pod can be an endpoint at all.
pub fn can_be_endpoint(pod: &Pod, include_terminating: bool) -> bool {
    !pods::is_terminal(pod) && !addresses(pod).is_empty() && (include_terminating || !pods::is_deleting(pod))
}

/// The pod's addresses.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    ips
}

/// The pod's host name, if the Service gives it a name of its own.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let host = spec.hostname.as_ref().filter(|host| !host.is_empty())?;
    (spec.subdomain.is_some() && spec.subdomain == service.metadata.name).then(|| host.clone())
}

/// The port of `pod` that `port` of the Service leads to.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(wanted)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let mut ports =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let protocol = port.protocol.as_deref().unwrap_or(TCP);
            ports
                .find(|candidate| {
                    candidate.name.as_ref() == Some(wanted) && candidate.protocol.as_deref().unwrap_or(TCP) == protocol
                })
                .map(|found| found.container_port)
        }
    }
}

/// The pods that the Service selects.
pub fn selected(service: &Service, pods: &Informer<Pod>) -> Vec<Arc<Pod>> {
    let Some(wanted) = managed_selector(service) else { return Vec::new() };
    let mut selected = pods.list_namespace(namespace(service));
    selected.retain(|pod| matches_map(wanted, pod.metadata.labels.as_ref()));
    selected
}

/// True if the change of a pod can change an endpoint.
fn matters(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            pod.metadata.labels.clone(),
            addresses(pod),
            pods::is_ready(pod),
            pods::is_deleting(pod),
            pods::is_terminal(pod),
            spec.and_then(|spec| spec.node_name.clone()),
            spec.map(|spec| (spec.hostname.clone(), spec.subdomain.clone())),
        )
    };
    facts(old) != facts(new)
}

/// Adds to `queue` every Service whose endpoints a pod's change may change.
pub fn enqueue_services(change: &Change<'_, Pod>, services: &Informer<Service>, queue: &WorkQueue<ObjectKey>) {
    let before = match change {
        Change::Updated(old, new) if !matters(old, new) => return,
        Change::Updated(old, _) => Some(old),
        Change::Added(_) | Change::Deleted(_) => None,
    };
    let pod = change.object();
    for service in services.list_namespace(namespace(pod.as_ref())) {
        let Some(wanted) = managed_selector(&service) else { continue };
        let selects = |pod: &Pod| matches_map(wanted, pod.metadata.labels.as_ref());
        if selects(pod) || before.is_some_and(|before| selects(before)) {
            queue.add(key_of(service.as_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_named_target_port_is_found_in_containers_and_sidecars() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "a", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "web", "containerPort": 8080}]}],
        }}))
        .unwrap();
        let port = |target: serde_json::Value| {
            serde_json::from_value::<ServicePort>(json!({"port": 80, "targetPort": target})).unwrap()
        };
        assert_eq!(target_port(&pod, &port(json!("web"))), Some(8080));
        assert_eq!(target_port(&pod, &port(json!("dns"))), None, "another protocol");
        assert_eq!(target_port(&pod, &port(json!(81))), Some(81));
    }
}
