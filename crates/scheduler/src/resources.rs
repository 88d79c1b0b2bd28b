//! What pods ask for and nodes have, as numbers.
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// A container without a CPU request counts for this much when nodes are scored, in milliCPU (upstream:
/// `DefaultMilliCPURequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
/// A container without a memory request counts for this much when nodes are scored, in bytes (`DefaultMemoryRequest`).
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Local ephemeral storage in bytes.
    pub ephemeral_storage: i64,
    /// Everything else: huge pages in bytes, extended resources in units.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// The amounts of a resource list; what cannot be read counts as zero (the API server refuses it anyway).
    pub fn from_list(list: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in list {
            let Ok(quantity) = pintle_api::quantity::Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => {
                    resources.scalar.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each amount to that of `other`.
    fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_insert(0);
            *mine = with(*mine, *amount);
        }
    }
}

/// What `pod` asks for (upstream: `resource.PodRequests`): its containers together, or what starting it takes if that is
/// more, plus the runtime's overhead; pod-level requests win where given.
pub fn requests(pod: &Pod) -> Resources {
    sum(pod, |container| container_requests(container.resources.as_ref()))
}

/// The same with upstream's minima for containers that ask for nothing, so that scores see them.
pub fn non_zero_requests(pod: &Pod) -> Resources {
    sum(pod, |container| {
        let asked = |name: &str| {
            container.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|r| r.contains_key(name))
        };
        let mut requests = container_requests(container.resources.as_ref());
        if !asked("cpu") {
            requests.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asked("memory") {
            requests.memory = DEFAULT_MEMORY;
        }
        requests
    })
}

fn container_requests(resources: Option<&ResourceRequirements>) -> Resources {
    resources.and_then(|resources| resources.requests.as_ref()).map(Resources::from_list).unwrap_or_default()
}

fn sum(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    // Sidecars run on beside everything that starts after them; an ordinary init container runs alone with the sidecars
    // before it.
    let (mut sidecars, mut start) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let requests = of(container);
        let mut now = sidecars.clone();
        now.add(&requests);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = now.clone();
            total.add(&requests);
        }
        start.raise_to(&now);
    }
    total.raise_to(&start);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let pod_level = Resources::from_list(requests);
        for name in requests.keys() {
            match name.as_str() {
                "cpu" => total.milli_cpu = pod_level.milli_cpu,
                "memory" => total.memory = pod_level.memory,
                _ => {
                    if let Some(amount) = pod_level.scalar.get(name) {
                        total.scalar.insert(name.clone(), *amount);
                    }
                }
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn container(name: &str, cpu: &str, restart: Option<&str>) -> serde_json::Value {
        json!({ "name": name, "restartPolicy": restart, "resources": { "requests": { "cpu": cpu } } })
    }

    #[test]
    fn init_containers_count_only_while_they_need_more_than_the_pod() {
        let spec = json!({ "containers": [container("a", "100m", None), container("b", "200m", None)], "initContainers": [container("i", "250m", None)] });
        assert_eq!(requests(&pod(spec)).milli_cpu, 300);
        let spec =
            json!({ "containers": [container("a", "100m", None)], "initContainers": [container("i", "1", None)] });
        assert_eq!(requests(&pod(spec)).milli_cpu, 1000);
    }

    #[test]
    fn sidecars_count_beside_containers_and_later_init_containers() {
        let spec = json!({
            "containers": [container("a", "100m", None)],
            "initContainers": [container("s", "300m", Some("Always")), container("i", "500m", None)],
            "overhead": { "cpu": "10m" }
        });
        assert_eq!(requests(&pod(spec)).milli_cpu, 810);
    }

    #[test]
    fn scores_see_containers_that_ask_for_nothing() {
        let spec = json!({ "containers": [{ "name": "a" }, container("b", "0", None)] });
        let requests = non_zero_requests(&pod(spec));
        assert_eq!((requests.milli_cpu, requests.memory), (100, 2 * DEFAULT_MEMORY));
    }
}
