//! Eviction: pods leave before the node runs out of memory or disk, and pods that use more disk than they may.
// upstream: pkg/kubelet/eviction
mod limits;
mod pressure;
mod rank;

pub use limits::disk_use;
pub use pressure::Pressure;

use crate::admission::Rejection;
use crate::events::Severity;
use crate::kubelet::Kubelet;
use crate::node::{Disk, available_memory, disk};
use crate::pods::PodExt;
use crate::worker::Workers;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use pintle_api::quantity::Quantity;
use pintle_runtime::cri::{self, ImageService};
use rank::Usage;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the node is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The reason of a pod that was evicted.
const EVICTED: &str = "Evicted";
/// A pod from this priority on is needed by the node itself.
const CRITICAL: i32 = 2_000_000_000;

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Memory,
    Disk,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::Disk => "ephemeral-storage",
        }
    }
}

/// Whether the node needs the pod itself.
fn is_critical(pod: &Pod) -> bool {
    pod.is_static()
        || pod.is_mirror()
        || pod.pod_spec().and_then(|spec| spec.priority).is_some_and(|one| one >= CRITICAL)
}

/// Refuses pods that a node under pressure must not start.
pub fn admit(pod: &Pod, pressure: &Pressure) -> Result<(), Rejection> {
    let conditions = pressure.conditions();
    if conditions.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if conditions == ["MemoryPressure"] {
        let tolerates = |one: &Toleration| {
            one.operator.as_deref() == Some("Exists")
                && one.key.as_deref().is_none_or(|key| key.is_empty() || key == "node.kubernetes.io/memory-pressure")
                && one.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == "NoSchedule")
        };
        let tolerations = pod.pod_spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        if crate::resources::qos_class(pod) != "BestEffort" || tolerations.iter().any(tolerates) {
            return Ok(());
        }
    }
    let message = format!("The node had condition: [{}]. ", conditions.join(" "));
    Err(Rejection { reason: EVICTED.to_owned(), message })
}

/// Looks after the node until `stop`.
pub async fn run(kubelet: Arc<Kubelet>, workers: Workers, images: Arc<dyn ImageService>, stop: CancellationToken) {
    let manager = Manager { kubelet, workers, images };
    let mut timer = tokio::time::interval(LOOK_EVERY);
    let mut leaving = HashSet::new();
    loop {
        tokio::select! { _ = timer.tick() => {} () = stop.cancelled() => return }
        manager.look(&mut leaving).await;
    }
}

struct Manager {
    kubelet: Arc<Kubelet>,
    workers: Workers,
    images: Arc<dyn ImageService>,
}

impl Manager {
    /// Evicts at most one pod for lack of something, and every pod over its own limit. `leaving`: evicted before.
    async fn look(&self, leaving: &mut HashSet<String>) {
        let pods: Vec<Arc<Pod>> = self.workers.pods().into_iter().filter(|pod| !pod.is_terminal()).collect();
        leaving.retain(|uid| pods.iter().any(|pod| pod.uid() == uid));
        let candidates: Vec<&Arc<Pod>> = pods.iter().filter(|pod| !leaving.contains(pod.uid())).collect();
        let mut evicted = self.enforce_limits(&candidates).await;
        let (memory, full) = self.kubelet.pressure.look(&self.kubelet.config);
        // One that is leaving makes room soon: whether it was enough shows then.
        if evicted.is_empty() && leaving.is_empty() {
            if memory {
                evicted.extend(self.reclaim(Resource::Memory, &candidates).await);
            } else if full && !self.free_images().await {
                evicted.extend(self.reclaim(Resource::Disk, &candidates).await);
            }
        }
        leaving.extend(evicted);
    }

    /// Removes all images that no container uses; true when the disk has room then.
    async fn free_images(&self) -> bool {
        let message = "Attempting to reclaim ephemeral-storage";
        self.kubelet.recorder.node(Severity::Warning, "EvictionThresholdMet", message);
        crate::housekeeping::remove_unused_images(&self.kubelet, self.images.as_ref()).await;
        !crate::node::disk_pressure(disk(&self.kubelet.config.root_dir))
    }

    async fn stats(&self) -> Vec<cri::PodSandboxStats> {
        let request = cri::ListPodSandboxStatsRequest { filter: None };
        match self.kubelet.runtime.list_pod_sandbox_stats(request).await {
            Ok(answer) => answer.stats,
            Err(status) => {
                tracing::warn!(error = status.message(), "cannot read what pods use");
                Vec::new()
            }
        }
    }

    /// Evicts the pod that does best to leave; its UID.
    async fn reclaim(&self, resource: Resource, pods: &[&Arc<Pod>]) -> Option<String> {
        let stats = self.stats().await;
        let mut usages = Vec::new();
        for pod in pods.iter().filter(|pod| !is_critical(pod)) {
            let used = match resource {
                Resource::Memory => stats_of(&stats, pod).map_or(0, memory),
                Resource::Disk => disk_use(&self.kubelet, pod, stats_of(&stats, pod)).await.total(),
            };
            usages.push(Usage::new(pod, resource.name(), used));
        }
        rank::sort(&mut usages);
        let Some(worst) = usages.first() else {
            tracing::error!(resource = resource.name(), "the node is short of it and no pod can be evicted");
            return None;
        };
        let message = self.message(resource, worst.pod, stats_of(&stats, worst.pod));
        self.evict(worst.pod, message, true);
        Some(worst.pod.uid().to_owned())
    }

    // upstream: evictionMessage
    fn message(&self, resource: Resource, pod: &Pod, stats: Option<&cri::PodSandboxStats>) -> String {
        let name = resource.name();
        let mut message = format!("The node was low on resource: {name}. ");
        let (threshold, available) = match resource {
            Resource::Memory => ("100Mi".to_owned(), available_memory()),
            Resource::Disk => {
                let disk: Disk = disk(&self.kubelet.config.root_dir);
                ("10%".to_owned(), disk.free)
            }
        };
        message.push_str(&format!("Threshold quantity: {threshold}, available: {}Ki. ", available / 1024));
        let containers = stats.and_then(|stats| stats.linux.as_ref()).map(|linux| &linux.containers);
        for stats in containers.into_iter().flatten() {
            let stats_name = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
            let Some(container) = stats_name.and_then(|metadata| pod.container_spec(&metadata.name)) else { continue };
            let used = match resource {
                Resource::Memory => {
                    stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |used| used.value)
                }
                Resource::Disk => {
                    stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes).map_or(0, |used| used.value)
                }
            };
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let request = requests.and_then(|requests| requests.get(name)).map_or("0", |request| request.0.as_str());
            let requested = Quantity::parse(request).map_or(0, Quantity::value);
            if i64::try_from(used).unwrap_or(i64::MAX) > requested {
                message.push_str(&format!(
                    "Container {} was using {}Ki, request is {request}, has larger consumption of {name}. ",
                    container.name,
                    used / 1024
                ));
            }
        }
        message
    }

    /// Evicts pods that use more disk than they may; their UIDs.
    async fn enforce_limits(&self, pods: &[&Arc<Pod>]) -> Vec<String> {
        let limited: Vec<&&Arc<Pod>> = pods.iter().filter(|pod| limits::has_any(pod) && !is_critical(pod)).collect();
        if limited.is_empty() {
            return Vec::new();
        }
        let stats = self.stats().await;
        let mut evicted = Vec::new();
        for pod in limited {
            let used = disk_use(&self.kubelet, pod, stats_of(&stats, pod)).await;
            if let Some(message) = limits::exceeded(pod, &used) {
                self.evict(pod, message, false);
                evicted.push(pod.uid().to_owned());
            }
        }
        evicted
    }

    fn evict(&self, pod: &Pod, message: String, disrupted: bool) {
        tracing::warn!(pod = pod.described(), message, "evicting a pod");
        self.kubelet.recorder.pod(pod, Severity::Warning, EVICTED, message.clone());
        self.workers.evict(pod.uid(), EVICTED, message, disrupted);
    }
}

fn stats_of<'a>(stats: &'a [cri::PodSandboxStats], pod: &Pod) -> Option<&'a cri::PodSandboxStats> {
    stats.iter().find(|one| {
        let metadata = one.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
        metadata.is_some_and(|metadata| metadata.uid == pod.uid())
    })
}

fn memory(stats: &cri::PodSandboxStats) -> i64 {
    let used = stats.linux.as_ref().and_then(|linux| linux.memory?.working_set_bytes).map_or(0, |used| used.value);
    i64::try_from(used).unwrap_or(i64::MAX)
}

/// Bytes by the name of what uses them.
pub type Bytes = BTreeMap<String, i64>;

/// When something was last seen.
type Seen = Option<Instant>;
