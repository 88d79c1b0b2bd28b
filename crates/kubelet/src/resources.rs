//! Resources of pods and containers in the kernel's terms: QoS class, CPU shares and quota, memory, OOM score.
// upstream: pkg/apis/core/v1/helper/qos; pkg/kubelet/cm, helpers_linux.go; pkg/kubelet/qos/policy.go
pub mod aggregate;

use crate::pods::{PodExt, is_sidecar};
use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pintle_runtime::cri;
use std::collections::BTreeMap;

/// `cpu.cfs_period_us`.
pub const CPU_PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Pod) -> &'static str {
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        match class {
            "Guaranteed" => return "Guaranteed",
            "Burstable" => return "Burstable",
            "BestEffort" => return "BestEffort",
            _ => {}
        }
    }
    compute_qos_class(pod)
}

fn compute_qos_class(pod: &Pod) -> &'static str {
    let own = pod.pod_spec().and_then(|spec| spec.resources.as_ref());
    let of_containers = || pod.containers().iter().chain(pod.init_containers()).map(|one| one.resources.as_ref());
    let all: Vec<Option<&ResourceRequirements>> = if own.is_some() { vec![own] } else { of_containers().collect() };
    let get = |list: Option<&BTreeMap<String, Quantity>>, name: &str| {
        list.and_then(|list| list.get(name))
            .and_then(|quantity| quantity::milli(&quantity.0))
            .filter(|value| *value > 0)
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in ["cpu", "memory"] {
            let limit = get(resources.and_then(|all| all.limits.as_ref()), name);
            let request = get(resources.and_then(|all| all.requests.as_ref()), name);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    quantity::milli(&list?.get(name)?.0)
}

/// A container's request (its limit when it has no request): milliCPU or thousandths of bytes.
fn request(container: &Container, name: &str) -> i128 {
    let resources = container.resources.as_ref();
    amount(resources.and_then(|all| all.requests.as_ref()), name).or_else(|| limit(container, name)).unwrap_or(0)
}

fn limit(container: &Container, name: &str) -> Option<i128> {
    amount(container.resources.as_ref().and_then(|all| all.limits.as_ref()), name).filter(|limit| *limit > 0)
}

/// CPU shares for a request in milliCPU.
pub fn shares(milli_cpu: i128) -> i64 {
    if milli_cpu == 0 {
        return MIN_SHARES;
    }
    i64::try_from(milli_cpu * 1024 / 1000).unwrap_or(MAX_SHARES).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota in microseconds a period for a limit in milliCPU.
pub fn quota(milli_cpu: i128) -> i64 {
    i64::try_from(milli_cpu * i128::from(CPU_PERIOD) / 1000).unwrap_or(i64::MAX).max(MIN_QUOTA)
}

fn bytes(thousandths: i128) -> i64 {
    i64::try_from(thousandths / 1000).unwrap_or(i64::MAX)
}

/// The CRI resources of a container.
pub fn container(pod: &Pod, container: &Container, machine_memory: i64) -> cri::LinuxContainerResources {
    // A container without a limit may use what its pod may.
    let of_pod = pod.pod_spec().and_then(|spec| spec.resources.as_ref()?.limits.as_ref());
    let limit = |name: &str| limit(container, name).or_else(|| amount(of_pod, name).filter(|limit| *limit > 0));
    let cpu_limit = limit("cpu");
    let hugepages = container.resources.as_ref().and_then(|all| all.limits.as_ref()).into_iter().flatten();
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: cpu_limit.map_or(0, quota),
        cpu_shares: shares(request(container, "cpu")),
        memory_limit_in_bytes: limit("memory").map_or(0, bytes),
        oom_score_adj: oom_score_adj(pod, container, machine_memory),
        hugepage_limits: hugepages
            .filter_map(|(name, quantity)| {
                let size = name.strip_prefix("hugepages-")?;
                let limit = u64::try_from(quantity::value(&quantity.0)?).ok()?;
                Some(cri::HugepageLimit { page_size: format!("{}B", size.trim_end_matches('i')), limit })
            })
            .collect(),
        ..Default::default()
    }
}

/// A container's memory request in bytes.
pub fn memory_request(container: &Container) -> i64 {
    bytes(request(container, "memory"))
}

/// A pod's overhead in CRI's terms.
pub fn overhead(list: &BTreeMap<String, Quantity>) -> cri::LinuxContainerResources {
    let (cpu, memory) = (amount(Some(list), "cpu").unwrap_or(0), amount(Some(list), "memory").unwrap_or(0));
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: if cpu > 0 { quota(cpu) } else { 0 },
        cpu_shares: shares(cpu),
        memory_limit_in_bytes: bytes(memory),
        ..Default::default()
    }
}

/// What differs between the resources a container should run with and those it runs with; a limit that went away stays.
pub fn differ(wanted: &cri::LinuxContainerResources, actual: &cri::LinuxContainerResources) -> (bool, bool) {
    let limit = |wanted: i64, actual: i64| wanted > 0 && wanted != actual;
    let cpu = limit(wanted.cpu_quota, actual.cpu_quota) || limit(wanted.cpu_shares, actual.cpu_shares);
    (cpu, limit(wanted.memory_limit_in_bytes, actual.memory_limit_in_bytes))
}

/// How readily the kernel kills the container when memory is short.
pub fn oom_score_adj(pod: &Pod, container: &Container, machine_memory: i64) -> i64 {
    if pod.pod_spec().and_then(|spec| spec.priority).is_some_and(|priority| priority >= 2_000_001_000) {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let wanted = bytes(request(container, "memory"));
            let share = i128::from(wanted) * 1000 / i128::from(machine_memory.max(1));
            let score = 1000 - i64::try_from(share).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// What a pod's cgroup is set to: its CPU request, and limits where every container has one.
pub struct PodTotals {
    /// Requested CPU in milliCPU.
    pub cpu_request: i64,
    /// CPU limit in milliCPU, when bounded.
    pub cpu_limit: Option<i64>,
    /// Memory limit in bytes, when bounded.
    pub memory_limit: Option<i64>,
}

/// Sums a pod's resources as the scheduler does: sidecars run along, other init containers run alone before.
pub fn totals(pod: &Pod) -> PodTotals {
    let own = pod.pod_spec().and_then(|spec| spec.resources.as_ref());
    let overhead = |name: &str| amount(pod.pod_spec().and_then(|spec| spec.overhead.as_ref()), name).unwrap_or(0);
    let requested = || {
        let own = own.and_then(|own| amount(own.requests.as_ref(), "cpu"));
        own.unwrap_or_else(|| sum(pod, |container| Some(request(container, "cpu"))).unwrap_or(0)) + overhead("cpu")
    };
    let limited = |name: &str| {
        let own = own.and_then(|own| amount(own.limits.as_ref(), name));
        own.or_else(|| sum(pod, |container| limit(container, name))).map(|limit| limit + overhead(name))
    };
    let narrow = |value: i128| i64::try_from(value).unwrap_or(i64::MAX);
    PodTotals {
        cpu_request: narrow(requested()),
        cpu_limit: limited("cpu").map(narrow),
        memory_limit: limited("memory").map(bytes),
    }
}

fn sum(pod: &Pod, of: impl Fn(&Container) -> Option<i128>) -> Option<i128> {
    let mut total = 0;
    for container in pod.containers() {
        total += of(container)?;
    }
    let (mut sidecars, mut peak) = (0, 0);
    for container in pod.init_containers() {
        let one = of(container)?;
        if is_sidecar(container) {
            sidecars += one;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + one);
        }
    }
    Some((total + sidecars).max(peak))
}

/// The CRI resources of a whole pod, for its cgroup.
pub fn pod(pod: &Pod) -> cri::LinuxContainerResources {
    let totals = totals(pod);
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_shares: shares(i128::from(totals.cpu_request)),
        cpu_quota: totals.cpu_limit.map_or(0, |limit| quota(i128::from(limit))),
        memory_limit_in_bytes: totals.memory_limit.unwrap_or(0),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod_with(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "a", "resources": resources}]}})).unwrap()
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        assert_eq!(qos_class(&pod_with(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod_with(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let all = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        assert_eq!(qos_class(&pod_with(all)), "Guaranteed");
    }

    #[test]
    fn cpu_and_memory_become_cgroup_values() {
        let pod = pod_with(json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}));
        let got = container(&pod, &pod.containers()[0], 1 << 30);
        assert_eq!((got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes), (256, 50_000, 64 << 20));
        assert_eq!(shares(0), 2);
        assert_eq!(oom_score_adj(&pod, &pod.containers()[0], 1 << 30), 938);
    }
}
