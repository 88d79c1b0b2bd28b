//! What pods ask for and nodes have, as numbers.
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A container without a CPU request counts for this much when nodes are scored, in milliCPU (upstream:
/// `DefaultMilliCPURequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
/// A container without a memory request counts for this much when nodes are scored, in bytes (`DefaultMemoryRequest`).
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name, as the API has them.
type List = BTreeMap<String, Quantity>;

/// Amounts by resource.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Local ephemeral storage in bytes.
    pub ephemeral_storage: i64,
    /// Everything else, by name: huge pages in bytes, extended resources in units.
    pub scalar: Vec<(Arc<str>, i64)>,
}

impl PartialEq for Resources {
    /// Equal amounts; a resource of which there is none is as good as one that is not named.
    fn eq(&self, other: &Self) -> bool {
        let named = |resources: &Resources, of: &Resources| {
            resources.scalar.iter().all(|(name, amount)| of.scalar(name) == *amount)
        };
        (self.milli_cpu, self.memory, self.ephemeral_storage)
            == (other.milli_cpu, other.memory, other.ephemeral_storage)
            && named(self, other)
            && named(other, self)
    }
}

impl Resources {
    /// The amounts of a resource list; what cannot be read counts as zero (the API server refuses it anyway).
    pub fn from_list(list: &List) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in list {
            let Ok(quantity) = pintle_api::quantity::Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => resources.scalar.push((Arc::from(name.as_str()), quantity.value())),
            }
        }
        resources
    }

    /// The amount of a resource that has no field of its own.
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalar.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.ephemeral_storage == 0 && self.scalar.is_empty()
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
            self.set_scalar(name, with(self.scalar(name), *amount));
        }
    }

    fn set_scalar(&mut self, name: &Arc<str>, amount: i64) {
        match self.scalar.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = amount,
            None => self.scalar.push((name.clone(), amount)),
        }
    }

    /// Replaces the amounts that `list` names and that a pod may set as a whole: CPU, memory, huge pages.
    fn override_with(&mut self, list: &List) {
        let whole = Resources::from_list(list);
        for name in list.keys() {
            match name.as_str() {
                "cpu" => self.milli_cpu = whole.milli_cpu,
                "memory" => self.memory = whole.memory,
                name if name.starts_with("hugepages-") => self.set_scalar(&Arc::from(name), whole.scalar(name)),
                _ => {}
            }
        }
    }
}

/// What `pod` asks for (upstream: `resource.PodRequests`): its containers together, or what starting it takes if that is
/// more, plus the runtime's overhead; pod-level requests win where given. A container that is being resized counts with the
/// largest of what is wanted, allocated and in force.
pub fn requests(pod: &Pod) -> Resources {
    sum(pod, false)
}

/// The same with upstream's minima for containers that ask for nothing, so that scores see them.
pub fn non_zero_requests(pod: &Pod) -> Resources {
    sum(pod, true)
}

fn sum(pod: &Pod, minima: bool) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let status = pod.status.as_ref();
    let started = |of: Option<&[ContainerStatus]>, name: &str| {
        of.unwrap_or_default().iter().find(|status| status.name == name).cloned()
    };
    let infeasible = resize_is_infeasible(pod);
    let of = |container: &Container, status: Option<ContainerStatus>| {
        let wanted = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut requests = match status.as_ref().and_then(|status| status.resources.as_ref()) {
            Some(in_force) => {
                let allocated = status.as_ref().and_then(|status| status.allocated_resources.as_ref());
                largest(wanted.filter(|_| !infeasible), in_force.requests.as_ref(), allocated)
            }
            None => wanted.map(Resources::from_list).unwrap_or_default(),
        };
        let asked = |name: &str| wanted.is_some_and(|requests| requests.contains_key(name));
        if minima && !asked("cpu") {
            requests.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if minima && !asked("memory") {
            requests.memory = DEFAULT_MEMORY;
        }
        requests
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        let statuses = status.and_then(|status| status.container_statuses.as_deref());
        total.add(&of(container, started(statuses, &container.name)));
    }
    // Sidecars run on beside everything that starts after them; an ordinary init container runs alone with the sidecars
    // before it.
    let (mut sidecars, mut start) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            let statuses = status.and_then(|status| status.init_container_statuses.as_deref());
            let requests = of(container, started(statuses, &container.name));
            total.add(&requests);
            sidecars.add(&requests);
            start.raise_to(&sidecars);
        } else {
            let mut now = of(container, None);
            now.add(&sidecars);
            start.raise_to(&now);
        }
    }
    total.raise_to(&start);
    if let Some(wanted) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        total.override_with(wanted);
        if let Some(in_force) = status.and_then(|status| status.resources.as_ref()) {
            let allocated = status.and_then(|status| status.allocated_resources.as_ref());
            let largest = largest(Some(wanted).filter(|_| !infeasible), in_force.requests.as_ref(), allocated);
            for name in wanted.keys() {
                match name.as_str() {
                    "cpu" => total.milli_cpu = largest.milli_cpu,
                    "memory" => total.memory = largest.memory,
                    name if name.starts_with("hugepages-") => total.set_scalar(&Arc::from(name), largest.scalar(name)),
                    _ => {}
                }
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead));
    }
    total
}

fn largest(wanted: Option<&List>, in_force: Option<&List>, allocated: Option<&List>) -> Resources {
    let mut largest = Resources::default();
    for list in [wanted, in_force, allocated].into_iter().flatten() {
        largest.raise_to(&Resources::from_list(list));
    }
    largest
}

/// Upstream: `IsPodResizeInfeasible`.
fn resize_is_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let pending = conditions.iter().find(|condition| condition.type_ == "PodResizePending");
    pending.is_some_and(|condition| condition.reason.as_deref() == Some("Infeasible"))
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

    #[test]
    fn pod_level_requests_win_over_the_sum() {
        let spec = json!({
            "containers": [container("a", "100m", None)],
            "resources": { "requests": { "cpu": "2", "hugepages-2Mi": "4Mi" } }
        });
        let requests = requests(&pod(spec));
        assert_eq!((requests.milli_cpu, requests.scalar("hugepages-2Mi")), (2000, 4 << 20));
    }

    #[test]
    fn a_resize_counts_with_the_largest_until_it_is_in_force() {
        let mut pod = pod(json!({ "containers": [container("a", "200m", None)] }));
        let status = |reason: &str| {
            json!({
                "conditions": [{ "type": "PodResizePending", "status": "True", "reason": reason }],
                "containerStatuses": [{ "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "resources": { "requests": { "cpu": "500m" } }, "allocatedResources": { "cpu": "100m" } }]
            })
        };
        pod.status = serde_json::from_value(status("Deferred")).unwrap();
        assert_eq!(requests(&pod).milli_cpu, 500);
        pod.spec = serde_json::from_value(json!({ "containers": [container("a", "900m", None)] })).unwrap();
        assert_eq!(requests(&pod).milli_cpu, 900);
        pod.status = serde_json::from_value(status("Infeasible")).unwrap();
        assert_eq!(requests(&pod).milli_cpu, 500, "what cannot be had does not count");
    }
}
