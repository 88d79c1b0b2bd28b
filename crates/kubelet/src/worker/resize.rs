//! In-place resize: what the node grants of a pod's new wishes, how running containers get it, and the conditions that say so.
// upstream: pkg/kubelet/allocation; pkg/kubelet/kuberuntime, doPodResizeAction; KEP 1287
use super::Worker;
use crate::allocation::Resize;
use crate::cgroups::{self, Change};
use crate::events::Severity;
use crate::kubelet::Kubelet;
use crate::pods::{PodExt, is_sidecar};
use crate::resources;
use crate::view::PodView;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use pintle_runtime::cri;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";
/// How often a resize that found no room is looked at again although no pod has left.
const RETRY: Duration = Duration::from_secs(180);

/// A resize that waits, or goes on.
#[derive(Default)]
pub struct Resizing {
    pending: Option<PodCondition>,
    in_progress: Option<PodCondition>,
}

impl Resizing {
    /// The conditions that tell of it.
    pub fn conditions(&self) -> Vec<PodCondition> {
        self.pending.iter().chain(&self.in_progress).cloned().collect()
    }

    /// Whether running containers are to get other resources.
    pub fn is_in_progress(&self) -> bool {
        self.in_progress.is_some()
    }

    /// Takes up what an earlier process published.
    pub fn resume(&mut self, pod: &Pod) {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        for condition in conditions {
            match condition.type_.as_str() {
                PENDING => self.pending = Some(condition.clone()),
                IN_PROGRESS => self.in_progress = Some(condition.clone()),
                _ => {}
            }
        }
    }

    /// Notes that the runtime could not change the resources.
    pub fn failed(&mut self, kubelet: &Kubelet, pod: &Pod, error: &str) {
        let before = self.in_progress.take();
        let generation = before.as_ref().map_or(pod.metadata.generation, |before| before.observed_generation);
        let now = condition(IN_PROGRESS, "Error", error, generation, before.as_ref());
        if before.as_ref() != Some(&now) {
            let message = summary("Pod resize error", pod, generation, error);
            kubelet.recorder.pod(pod, Severity::Warning, "ResizeError", message);
        }
        self.in_progress = Some(now);
    }

    /// Ends the resize once every running container has what it was granted; makes the pod's own limits final then.
    pub fn settle(&mut self, kubelet: &Kubelet, pod: &Pod, view: &PodView) -> Result<(), String> {
        if self.in_progress.is_none() || crate::plan::is_resizing(pod, view) {
            return Ok(());
        }
        cgroups::update(&kubelet.config, pod, Change::All)?;
        let generation = self.in_progress.take().and_then(|condition| condition.observed_generation);
        let message = summary("Pod resize completed", pod, generation, "");
        kubelet.recorder.pod(pod, Severity::Normal, "ResizeCompleted", message);
        Ok(())
    }
}

fn condition(
    type_: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    before: Option<&PodCondition>,
) -> PodCondition {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let reason = some(reason);
    let since = before.filter(|before| before.reason == reason).and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason,
        message: some(message),
        observed_generation: generation,
        last_transition_time: since.or_else(|| Some(Time(crate::status::seconds(Timestamp::now())))),
        last_probe_time: None,
    }
}

/// An event's message: what happened, and the resources that were asked for.
fn summary(what: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<serde_json::Value> {
        let one = |container: &Container| json!({"name": container.name, "resources": container.resources.clone().unwrap_or_default()});
        containers.iter().map(one).collect()
    };
    let mut resources = json!({"containers": list(pod.containers()), "generation": generation.unwrap_or(0)});
    if !pod.init_containers().is_empty() {
        resources["initContainers"] = list(pod.init_containers()).into();
    }
    if !error.is_empty() {
        resources["error"] = error.into();
    }
    format!("{what}: {resources}")
}

impl Worker {
    /// Has new wishes of the pod granted, if there is room; returns the pod as it was granted.
    pub(super) fn follow_resize(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let kubelet = self.kubelet.clone();
        let node = kubelet.nodes.get("", &kubelet.config.node_name);
        let generation = pod.metadata.generation;
        match kubelet.allocations.resize(pod, node.as_deref()) {
            Resize::None => self.resizing.pending = None,
            Resize::Granted => {
                self.resizing.pending = None;
                self.resizing.in_progress = Some(condition(IN_PROGRESS, "", "", generation, None));
                let message = summary("Pod resize started", pod, generation, "");
                kubelet.recorder.pod(pod, Severity::Normal, "ResizeStarted", message);
            }
            Resize::Deferred(rejection) => {
                let before = self.resizing.pending.take();
                let now = condition(PENDING, "Deferred", &rejection.message, generation, before.as_ref());
                if before.is_none_or(|before| before.reason != now.reason || before.observed_generation != generation) {
                    let message = summary("Pod resize Deferred", pod, generation, &rejection.message);
                    kubelet.recorder.pod(pod, Severity::Warning, "ResizeDeferred", message);
                }
                self.resizing.pending = Some(now);
                self.due(Instant::now() + RETRY);
            }
        }
        kubelet.allocations.allocated(pod)
    }

    /// Gives running containers, by name and id, the resources they were granted.
    pub(super) async fn update_resources(&self, pod: &Pod, update: &[(String, String)]) -> Result<(), String> {
        let kubelet = &self.kubelet;
        self.fits_what_is_used(pod, update).await?;
        let sidecars = pod.init_containers().iter().filter(|container| is_sidecar(container));
        for container in sidecars.chain(pod.containers()) {
            let Some((_, id)) = update.iter().find(|(name, _)| *name == container.name) else { continue };
            let linux = resources::container(pod, container, kubelet.machine_memory);
            let request = cri::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(linux),
                ..Default::default()
            };
            kubelet.runtime.update_container_resources(request).await.map_err(|status| crate::rpc_text(&status))?;
        }
        Ok(())
    }

    /// Refuses a memory limit below what is in use: the kernel would kill the container.
    // upstream: validateMemoryResizeAction
    async fn fits_what_is_used(&self, pod: &Pod, update: &[(String, String)]) -> Result<(), String> {
        let mut errors = Vec::new();
        for (name, id) in update {
            let Some(container) = pod.container_spec(name) else { continue };
            let limit = resources::container(pod, &container, 1).memory_limit_in_bytes;
            let request = cri::ContainerStatsRequest { container_id: id.clone() };
            let Ok(answer) = self.kubelet.runtime.container_stats(request).await else { continue };
            let usage = answer.stats.and_then(|stats| stats.memory?.usage_bytes).map_or(0, |usage| usage.value);
            if limit > 0 && usage >= u64::try_from(limit).unwrap_or(u64::MAX) {
                errors.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({usage})"
                ));
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(format!("cannot decrease memory limits: {}", errors[0])),
            _ => Err(format!("cannot decrease memory limits: [{}]", errors.join(", "))),
        }
    }
}
