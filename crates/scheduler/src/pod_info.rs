//! A pod with what the scheduler needs of it worked out once.
use crate::resources::{Resources, non_zero_requests, requests};
use k8s_openapi::api::core::v1::{Affinity, Pod, PodAffinityTerm, PodSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A port of the node that a pod wants: address (empty or `0.0.0.0`: all), protocol, port.
pub type HostPort = (String, String, i32);

/// A pod and its precomputed needs.
#[derive(Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: Resources,
    /// What it counts for in scores.
    pub non_zero: Resources,
    /// Its host ports.
    pub ports: Vec<HostPort>,
}

impl PodInfo {
    /// Works out what `pod` needs.
    pub fn new(pod: Arc<Pod>) -> Self {
        PodInfo { requests: requests(&pod), non_zero: non_zero_requests(&pod), ports: host_ports(&pod), pod }
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// The pod's spec, which every pod of the API has.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The pod's priority.
    pub fn priority(&self) -> i32 {
        self.spec().and_then(|spec| spec.priority).unwrap_or(0)
    }

    /// The pod's labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }

    /// The pod's affinity rules.
    pub fn affinity(&self) -> Option<&Affinity> {
        self.spec().and_then(|spec| spec.affinity.as_ref())
    }

    /// Required terms of pod affinity.
    pub fn required_affinity(&self) -> &[PodAffinityTerm] {
        let affinity = self.affinity().and_then(|affinity| affinity.pod_affinity.as_ref());
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
    }

    /// Required terms of pod anti-affinity.
    pub fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        let affinity = self.affinity().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.clone().unwrap_or_default();
            Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
        })
        .collect()
}

/// Whether two host ports exclude each other on one node (upstream: `HostPortInfo.CheckConflict`).
pub fn ports_conflict(a: &HostPort, b: &HostPort) -> bool {
    let any = |address: &str| address.is_empty() || address == "0.0.0.0" || address == "::";
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || any(&a.0) || any(&b.0))
}
