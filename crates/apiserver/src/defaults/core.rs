//! Defaults of the core group, but for volumes (see `storage`).
use super::pod_spec::{pod_spec, template};
use crate::value::{Fill, Object, Read};
use pintle_api::quantity::Quantity;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Fills in a Pod: its spec, requests that follow from limits, host ports on the host network.
pub(crate) fn pod(object: &mut Object) {
    let spec = object.child_or_new("spec");
    for list in ["containers", "initContainers"] {
        spec.each(list).filter_map(|c| c.child("resources")).for_each(requests_from_limits);
    }
    spec.fill("enableServiceLinks", true);
    if spec.flag("hostNetwork") {
        for list in ["containers", "initContainers"] {
            for port in spec.each(list).flat_map(|c| c.each("ports")) {
                let number = port.field("containerPort").clone();
                port.fill_zero("hostPort", number);
            }
        }
    }
    if spec.int("terminationGracePeriodSeconds") < 0 {
        spec.set("terminationGracePeriodSeconds", 1);
    }
    pod_spec(spec);
    pod_level_requests(spec);
    if let Some(status) = object.child("status") {
        plural_of(status, "podIP", "podIPs", |ip| json!({"ip": ip}), |item| item.text("ip"));
    }
}

/// What a pod asks for as a whole follows from its containers' requests, then from its own limits.
// upstream: defaultPodRequests
fn pod_level_requests(spec: &mut Object) {
    if spec.field("resources").is_zero("limits") {
        return;
    }
    let mut sums: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in spec.items("containers") {
        for (name, amount) in container.field("resources").entries("requests") {
            if let Ok(amount) = Quantity::from_value(amount) {
                sums.entry(name.to_owned()).and_modify(|sum| *sum += amount).or_insert(amount);
            }
        }
    }
    let Some(resources) = spec.child("resources") else { return };
    let limits: Vec<(String, Value)> = resources.entries("limits").map(|(k, v)| (k.to_owned(), v.clone())).collect();
    let requests = resources.child_or_new("requests");
    for (name, sum) in sums.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        requests.fill(&name, sum.to_string());
    }
    for (name, limit) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.fill(&name, limit);
        }
    }
}

fn requests_from_limits(resources: &mut Object) {
    let Some(limits) = resources.field("limits").as_object().cloned() else { return };
    let requests = resources.child_or_new("requests");
    for (name, limit) in limits {
        requests.fill(&name, limit);
    }
}

/// Keeps an old single-valued field and the list that replaced it alike: where both are given and differ, the single
/// one counts, because old clients know only that.
fn plural_of(object: &mut Object, single: &str, list: &str, item: fn(&str) -> Value, text: fn(&Value) -> &str) {
    let one = object.text(single).to_owned();
    let first = object.items(list).first().map(text).unwrap_or_default().to_owned();
    if one.is_empty() && !first.is_empty() {
        object.set(single, first);
    } else if !one.is_empty() && one != first {
        object.set(list, vec![item(&one)]);
    }
}

/// Fills in a PodTemplate.
pub(crate) fn pod_template(object: &mut Object) {
    template(object);
}

/// Fills in a ReplicationController: its selector and labels follow from the template's.
pub(crate) fn replication_controller(object: &mut Object) {
    let labels = object.field("spec").field("template").field("metadata").field("labels").clone();
    let spec = object.child_or_new("spec");
    if labels.is_object() {
        spec.fill_zero("selector", labels.clone());
    }
    spec.fill("replicas", 1);
    template(spec);
    if labels.is_object() {
        object.child_or_new("metadata").fill_zero("labels", labels);
    }
}

/// Fills in a Service.
pub(crate) fn service(object: &mut Object) {
    let spec = object.child_or_new("spec");
    spec.fill_zero("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => _ = spec.remove("sessionAffinityConfig"),
        "ClientIP" if !spec.field("sessionAffinityConfig").field("clientIP").has("timeoutSeconds") => {
            spec.set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        _ => {}
    }
    spec.fill_zero("type", "ClusterIP");
    for port in spec.each("ports") {
        port.fill_zero("protocol", "TCP");
        let number = port.field("port").clone();
        port.fill_zero("targetPort", number);
    }
    let kind = spec.text("type").to_owned();
    let load_balancer = kind == "LoadBalancer";
    let external_ips = kind == "ClusterIP" && !spec.is_zero("externalIPs");
    if load_balancer || kind == "NodePort" || external_ips {
        spec.fill_zero("externalTrafficPolicy", "Cluster");
    }
    if load_balancer || matches!(kind.as_str(), "NodePort" | "ClusterIP") {
        spec.fill("internalTrafficPolicy", "Cluster");
    }
    if load_balancer {
        spec.fill("allocateLoadBalancerNodePorts", true);
        let ingress = object.child("status").and_then(|s| s.child("loadBalancer"));
        for point in ingress.into_iter().flat_map(|b| b.each("ingress")).filter(|p| !p.is_zero("ip")) {
            point.fill("ipMode", "VIP");
        }
    }
}

/// Fills in Endpoints.
pub(crate) fn endpoints(object: &mut Object) {
    for port in object.each("subsets").flat_map(|s| s.each("ports")) {
        port.fill_zero("protocol", "TCP");
    }
}

/// Fills in a Secret: its type, and the data that was given as text.
pub(crate) fn secret(object: &mut Object) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    if let Some(Value::Object(texts)) = object.remove("stringData")
        && !texts.is_empty()
    {
        let data = object.child_or_new("data");
        for (key, text) in texts {
            data.set(&key, STANDARD.encode(text.as_str().unwrap_or_default()));
        }
    }
    object.fill_zero("type", "Opaque");
}

/// Fills in a Namespace: the label that selectors find it by, and its phase.
pub(crate) fn namespace(object: &mut Object) {
    let metadata = object.child_or_new("metadata");
    let name = metadata.text("name").to_owned();
    if !name.is_empty() {
        metadata.child_or_new("labels").set("kubernetes.io/metadata.name", name);
    }
    object.child_or_new("status").fill_zero("phase", "Active");
}

/// Fills in a Node: all of its capacity can be allocated if nothing else is said.
pub(crate) fn node(object: &mut Object) {
    if let Some(spec) = object.child("spec") {
        plural_of(spec, "podCIDR", "podCIDRs", |cidr| json!(cidr), |item| item.as_str().unwrap_or_default());
    }
    let status = object.child_or_new("status");
    if !status.has("allocatable") && status.has("capacity") {
        let capacity = status.field("capacity").clone();
        status.set("allocatable", capacity);
    }
}

/// Fills in a LimitRange: what its `Container` items leave open follows from their bounds.
pub(crate) fn limit_range(object: &mut Object) {
    let items = object.child("spec").into_iter().flat_map(|s| s.each("limits"));
    for item in items.filter(|i| i.text("type") == "Container") {
        for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let Some(values) = item.field(source).as_object().cloned().filter(|v| !v.is_empty()) else { continue };
            let target = item.child_or_new(target);
            for (name, value) in values {
                target.fill(&name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(defaults: super::super::Defaults, mut object: Value) -> Value {
        defaults(object.as_object_mut().unwrap());
        object
    }

    #[test]
    fn a_limit_is_also_the_request_if_none_is_given() {
        let resources = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}});
        let pod = filled(pod, json!({"spec": {"containers": [{"name": "a", "image": "b", "resources": resources}]}}));
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
    }

    #[test]
    fn target_port_follows_port() {
        let service = filled(service, json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}}));
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "targetPort": 80, "protocol": "TCP"}));
        assert_eq!(service["spec"]["ports"][1]["targetPort"], "web");
        assert_eq!(service["spec"].get("externalTrafficPolicy"), None);
    }

    #[test]
    fn string_data_becomes_data() {
        let secret = filled(secret, json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "y"}}));
        assert_eq!(secret, json!({"data": {"a": "eA==", "b": "eQ=="}, "type": "Opaque"}));
    }

    #[test]
    fn the_single_address_counts_when_it_differs_from_the_list() {
        let node = filled(node, json!({"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}));
        assert_eq!(node["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
    }

    #[test]
    fn a_container_limit_range_is_completed() {
        let item = json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}});
        let range = filled(limit_range, json!({"spec": {"limits": [item]}}));
        assert_eq!(range["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    }
}
