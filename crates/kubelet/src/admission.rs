//! Whether this node takes a pod that is bound to it: a pure function of the pod, the Node and the pods it already has.
// upstream: pkg/kubelet/lifecycle, predicate.go; pkg/scheduler, AdmissionCheck; pkg/kubelet/sysctl
mod affinity;
mod sysctls;

use crate::pods::{PodExt, is_sidecar};
use crate::resources::aggregate;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use pintle_api::quantity::Quantity;
use std::collections::BTreeMap;

/// The reason of [`Rejection`]s for labels that do not match.
pub const NODE_AFFINITY: &str = "NodeAffinity";

/// Why the node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One word: `OutOfcpu`, `NodeAffinity`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Rejection {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Rejection { reason: reason.to_owned(), message: message.into() }
    }

    fn predicate(name: &str, why: &str) -> Self {
        Rejection::new(name, format!("Predicate {name} failed: {why}"))
    }
}

/// What a pod takes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// milliCPU, bytes, or pieces by the resource's name.
    amounts: BTreeMap<String, i64>,
    /// Ports of the host: address, protocol, number.
    ports: Vec<(String, String, i32)>,
}

impl Demand {
    /// What `pod` takes.
    pub fn of(pod: &Pod) -> Self {
        let amounts = aggregate::requests(pod).into_iter().map(|(name, amount)| {
            let amount = in_units(&name, amount);
            (name, amount)
        });
        let sidecars = pod.init_containers().iter().filter(|container| is_sidecar(container));
        let ports = pod.containers().iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
        Demand {
            amounts: amounts.collect(),
            ports: ports
                .filter_map(|port| {
                    let number = port.host_port.filter(|number| *number > 0)?;
                    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                    Some((port.host_ip.clone().unwrap_or_default(), protocol, number))
                })
                .collect(),
        }
    }

    fn amount(&self, name: &str) -> i64 {
        self.amounts.get(name).copied().unwrap_or(0)
    }

    /// Whether it takes no more CPU and memory than `other`.
    pub fn fits_in(&self, other: &Demand) -> bool {
        ["cpu", "memory"].iter().all(|name| self.amount(name) <= other.amount(name))
    }
}

fn in_units(name: &str, amount: Quantity) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

/// Whether `node` takes `pod` beside `others`.
pub fn check(pod: &Pod, demand: &Demand, node: &Node, others: &[&Demand]) -> Result<(), Rejection> {
    if pod.pod_spec().and_then(|spec| spec.os.as_ref()).is_some_and(|os| os.name != "linux") {
        return Err(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    sysctls::check(pod)?;
    fits(demand, node, others)?;
    if !affinity::matches(pod, node) {
        return Err(Rejection::predicate(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    if pod.pod_spec().and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| Some(name) != node_name(node)) {
        return Err(Rejection::predicate("NodeName", "node(s) didn't match the requested node name"));
    }
    if demand.ports.iter().any(|port| others.iter().flat_map(|other| &other.ports).any(|taken| collide(port, taken))) {
        return Err(Rejection::predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerations = pod.pod_spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let untolerated =
        |taint: &Taint| taint.effect == "NoExecute" && !tolerations.iter().any(|one| tolerates(one, taint));
    if !pod.is_static() && taints.into_iter().any(untolerated) {
        return Err(Rejection::predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

fn node_name(node: &Node) -> Option<&str> {
    node.metadata.name.as_deref()
}

/// Whether `node` has room for `demand` beside `others`.
pub fn fits(demand: &Demand, node: &Node, others: &[&Demand]) -> Result<(), Rejection> {
    let Some(allocatable) = node.status.as_ref().and_then(|status| status.allocatable.as_ref()) else { return Ok(()) };
    let room = |name: &str| Quantity::parse(&allocatable.get(name)?.0).ok().map(|amount| in_units(name, amount));
    let out_of = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Err(Rejection { reason: format!("OutOf{name}"), message })
    };
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if let Some(capacity) = room("pods").filter(|capacity| pods >= *capacity) {
        return out_of("pods", 1, pods, capacity);
    }
    let first = ["cpu", "memory", "ephemeral-storage"];
    let rest = demand.amounts.keys().map(String::as_str).filter(|name| !first.contains(name));
    for name in first.into_iter().chain(rest) {
        let requested = demand.amount(name);
        // Resources that the node does not know are managed elsewhere.
        let Some(capacity) = room(name).filter(|_| requested > 0) else { continue };
        let used: i64 = others.iter().map(|other| other.amount(name)).sum();
        if requested > capacity - used {
            return out_of(name, requested, used, capacity);
        }
    }
    Ok(())
}

fn collide(a: &(String, String, i32), b: &(String, String, i32)) -> bool {
    let every = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
    a.2 == b.2 && a.1 == b.1 && (every(&a.0) || every(&b.0) || a.0 == b.0)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same =
        |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == is);
    if !same(&toleration.effect, &taint.effect) || !same(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"zone": "a"}},
            "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}}}))
        .unwrap()
    }

    fn verdict(spec: serde_json::Value, others: &[serde_json::Value]) -> Result<(), (String, String)> {
        let pod = |mut spec: serde_json::Value| -> Pod {
            let tolerations = json!([{"key": "k", "operator": "Exists"}]);
            if spec["tolerations"].is_null() {
                spec["tolerations"] = tolerations;
            }
            serde_json::from_value(json!({"spec": spec})).unwrap()
        };
        let others: Vec<Demand> = others.iter().map(|spec| Demand::of(&pod(spec.clone()))).collect();
        let pod = pod(spec);
        check(&pod, &Demand::of(&pod), &node(), &others.iter().collect::<Vec<_>>())
            .map_err(|rejection| (rejection.reason, rejection.message))
    }

    fn cpu(amount: &str) -> serde_json::Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
    }

    #[test]
    fn a_pod_needs_room_beside_the_others() {
        assert_eq!(verdict(cpu("2"), &[]), Ok(()));
        let message = "Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000";
        assert_eq!(verdict(cpu("1500m"), &[cpu("600m")]), Err(("OutOfcpu".into(), message.into())));
        let none = json!({"containers": []});
        assert_eq!(verdict(none.clone(), &[none.clone(), none]).unwrap_err().0, "OutOfpods");
    }

    #[test]
    fn labels_ports_taints_and_sysctls_must_suit() {
        let reason = |spec, others: &[serde_json::Value]| verdict(spec, others).unwrap_err().0;
        assert_eq!(reason(json!({"containers": [], "nodeSelector": {"zone": "b"}}), &[]), "NodeAffinity");
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
        assert_eq!(reason(port.clone(), &[port]), "NodePorts");
        assert_eq!(reason(json!({"containers": [], "tolerations": []}), &[]), "TaintToleration");
        let sysctl =
            |name: &str| json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        assert_eq!(verdict(sysctl("kernel.shm_rmid_forced"), &[]), Ok(()));
        let message = "forbidden sysctl: \"kernel.msgmax\" not allowlisted";
        assert_eq!(verdict(sysctl("kernel.msgmax"), &[]), Err(("SysctlForbidden".into(), message.into())));
    }
}
