//! Services: what stays when a client leaves it out, what goes away when the type changes; see [`allocate`] for addresses
//! and ports.
mod allocate;
mod families;

use crate::defaults;
use crate::strategy::rules::{Rules, Status};
use crate::validation;
use crate::value::{Fill, Object, Read};
use pintle_api::names;
use serde_json::{Value, json};

/// The rules of services, but for allocation.
pub(crate) static SERVICE: Rules = Rules {
    default: Some(defaults::core::service),
    name: names::dns1123_label,
    status: Status::Own(|status| status.set("loadBalancer", json!({}))),
    create: list_cluster_ip,
    update: |new, old| {
        keep_allocations(new, old);
        drop_what_the_type_does_not_have(new, old);
    },
    validate: validation::service::create,
    validate_update: validation::service::update,
    validate_status_update: validation::service::update_status,
    hooks: Some(&allocate::Allocation),
    warnings: validation::warnings::service,
    create_on_update: true,
    returns_deleted: true,
    ..Rules::PLAIN
};

/// Whether services of this spec have cluster IPs.
pub(crate) fn needs_cluster_ip(spec: &Value) -> bool {
    spec.text("type") != "ExternalName"
}

/// Whether the ports of services of this spec have node ports.
pub(crate) fn needs_node_port(spec: &Value) -> bool {
    matches!(spec.text("type"), "NodePort" | "LoadBalancer")
}

/// Whether services of this spec have a port for health checks of nodes.
pub(crate) fn needs_health_check_node_port(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

fn externally_accessible(spec: &Value) -> bool {
    needs_node_port(spec) || (spec.text("type") == "ClusterIP" && !spec.is_zero("externalIPs"))
}

/// Fields that belong to the old type and that the client left as they were go away with it.
// upstream: pkg/registry/core/service, dropTypeDependentFields
fn drop_what_the_type_does_not_have(new: &mut Object, old: &Value) {
    let old = old.field("spec");
    let spec = new.field("spec").clone();
    let lost = |needs: fn(&Value) -> bool| needs(old) && !needs(&spec);
    let kept = |field: &str| old.field(field) == spec.field(field);
    let mut gone: Vec<&str> = Vec::new();
    if lost(needs_cluster_ip) {
        if kept("clusterIP") && kept("clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"].into_iter().filter(|f| kept(f)));
    }
    if lost(needs_health_check_node_port) && kept("healthCheckNodePort") {
        gone.push("healthCheckNodePort");
    }
    if lost(|spec| spec.text("type") == "LoadBalancer") {
        gone.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"].into_iter().filter(|f| kept(f)));
    }
    if lost(externally_accessible) && kept("externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    let node_ports = lost(needs_node_port) && same_node_ports(old, &spec);
    let target = new.child_or_new("spec");
    target.retain(|key, _| !gone.contains(&key.as_str()));
    if node_ports {
        for port in target.each("ports") {
            port.remove("nodePort");
        }
    }
    if spec.text("type") != "LoadBalancer" {
        new.child_or_new("status").set("loadBalancer", json!({}));
    }
}

/// `clusterIP` alone stands for a list of one.
fn list_cluster_ip(service: &mut Object) {
    let spec = service.child_or_new("spec");
    let ip = spec.text("clusterIP").to_owned();
    if !ip.is_empty() {
        spec.fill_zero("clusterIPs", vec![ip]);
    }
}

/// Addresses and ports that a client left out of an update stay as they are.
// upstream: pkg/registry/core/service/storage, patchAllocatedValues and normalizeClusterIPs
fn keep_allocations(new: &mut Object, old: &Value) {
    let old = old.field("spec");
    let both = |spec: &Object, needs: fn(&Value) -> bool| needs(old) && needs(&Value::Object(spec.clone()));
    let spec = new.child_or_new("spec");
    if both(spec, needs_cluster_ip) {
        for field in ["clusterIP", "clusterIPs"].into_iter().filter(|f| !old.is_zero(f)) {
            spec.fill_zero(field, old.field(field).clone());
        }
    }
    if both(spec, needs_node_port) {
        let used: Vec<i64> = spec.items("ports").iter().map(|p| p.int("nodePort")).collect();
        for port in spec.each("ports").filter(|p| p.is_zero("nodePort")) {
            let same = old.items("ports").iter().rfind(|p| p.text("name") == port.text("name"));
            let before = same.map(|p| p.int("nodePort")).filter(|p| *p != 0 && !used.contains(p));
            if let Some(number) = before {
                port.set("nodePort", number);
            }
        }
    }
    if both(spec, needs_health_check_node_port) && !old.is_zero("healthCheckNodePort") {
        spec.fill_zero("healthCheckNodePort", old.field("healthCheckNodePort").clone());
    }
    let same_list = spec.field("clusterIPs") == old.field("clusterIPs");
    let (ip, before) = (spec.text("clusterIP").to_owned(), old.text("clusterIP"));
    if ip != before && same_list {
        if ip.is_empty() {
            spec.remove("clusterIPs");
        } else {
            spec.set("clusterIPs", vec![ip]);
        }
    }
}

fn same_node_ports(old: &Value, new: &Value) -> bool {
    let ports = |spec: &Value| {
        let mut ports: Vec<i64> = spec.items("ports").iter().map(|p| p.int("nodePort")).filter(|&p| p != 0).collect();
        ports.sort_unstable();
        ports
    };
    let old = ports(old);
    ports(new).iter().all(|p| old.binary_search(p).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_without_addresses_and_ports_keeps_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                                  "ports": [{"port": 1, "nodePort": 30000}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 2}]}});
        keep_allocations(new.as_object_mut().unwrap(), &old);
        assert_eq!(
            new["spec"],
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                   "ports": [{"port": 2, "nodePort": 30000}]})
        );
    }

    #[test]
    fn a_node_port_service_that_becomes_cluster_ip_loses_its_node_ports() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "externalTrafficPolicy": "Cluster",
                                  "ports": [{"port": 1, "nodePort": 30000}]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        drop_what_the_type_does_not_have(new.as_object_mut().unwrap(), &old);
        assert_eq!(new["spec"], json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": [{"port": 1}]}));
    }
}
