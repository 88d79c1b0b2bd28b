//! One pass over a living pod: publish what is, make what is missing.
// upstream: pkg/kubelet, SyncPod; pkg/kubelet/kuberuntime, SyncPod
use super::{Eviction, Worker};
use crate::events::Severity;
use crate::plan::{self, Actions};
use crate::pods::PodExt;
use crate::view::{PodView, State};
use crate::{cgroups, container_config};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use pintle_runtime::cri;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// When a resize that failed is tried again.
const RESIZE_RETRY: Duration = Duration::from_secs(10);

impl Worker {
    /// Brings the pod closer to what it should be; true when it has ended.
    pub(super) async fn sync(&mut self, pod: &Arc<Pod>) -> Result<bool, String> {
        let view = self.view().await?;
        if self.past_deadline(pod) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.kubelet.recorder.pod(pod, Severity::Normal, "DeadlineExceeded", message.clone());
            self.evicted = Some(Eviction { reason: "DeadlineExceeded".into(), message, grace: None, disrupted: false });
            self.publish(pod, &view, false);
            return Ok(true);
        }
        self.follow_probes(pod, &view);
        let first = self.kubelet.statuses.get(&self.uid).is_none();
        let plan = plan::actions(pod, &view, &self.probes.results());
        // The first status of a new pod says nothing new before its sandbox exists: the next one follows at once.
        if !(first && plan.create_sandbox && plan.attempt == 0) {
            let status = self.publish(pod, &view, false);
            if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                return Ok(true);
            }
        }
        let kubelet = self.kubelet.clone();
        let Some(volumes) = self.desk.end.run_until_cancelled(kubelet.volumes.set_up(pod)).await else {
            return Ok(false);
        };
        let volumes = match volumes {
            Ok(volumes) => volumes,
            Err(error) => {
                kubelet.recorder.pod(pod, Severity::Warning, "FailedMount", error.to_string());
                self.publish(pod, &view, false);
                return Err(error.to_string());
            }
        };
        if let Some(at) = volumes.renew_at {
            self.due(at);
        }
        self.apply(pod, view, plan, &volumes.mounted).await
    }

    fn follow_probes(&mut self, pod: &Arc<Pod>, view: &PodView) {
        let previous = self.kubelet.statuses.get(&self.uid).or_else(|| pod.status.clone());
        self.probes.follow(&self.kubelet, pod, view, previous.as_ref());
    }

    /// Whether `activeDeadlineSeconds` have passed; asks for a look when they will.
    fn past_deadline(&mut self, pod: &Pod) -> bool {
        let Some(seconds) = pod.pod_spec().and_then(|spec| spec.active_deadline_seconds) else { return false };
        let status = self.kubelet.statuses.get(&self.uid).or_else(|| pod.status.clone()).unwrap_or_default();
        let Some(start) = status.start_time else { return false };
        let active = Timestamp::now().duration_since(start.0);
        let active = Duration::try_from(active).unwrap_or_default();
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if active >= limit {
            return true;
        }
        self.due(Instant::now() + (limit - active));
        false
    }

    async fn apply(
        &mut self,
        pod: &Arc<Pod>,
        mut view: PodView,
        plan: Actions,
        volumes: &super::start::VolumeMap,
    ) -> Result<bool, String> {
        let kubelet = self.kubelet.clone();
        let mut changed = false;
        if plan.kill_pod {
            if plan.create_sandbox && !plan.sandbox_id.is_empty() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                kubelet.recorder.pod(pod, Severity::Normal, "SandboxChanged", message);
            }
            if !view.sandboxes.is_empty() {
                self.kill_pod(pod, &view, None).await?;
                changed = true;
            }
            if !plan.create_sandbox {
                let view = self.view().await?;
                let status = self.publish(pod, &view, false);
                return Ok(matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
            }
        }
        if self.resizing.is_in_progress() {
            cgroups::update(&kubelet.config, pod, cgroups::Change::Raise)?;
        }
        for kill in &plan.kill {
            self.kill_container(pod, &kill.id, &kill.name, Some(&kill.message), kill.reason, None).await?;
            changed = true;
        }
        if !plan.update.is_empty() {
            changed = true;
            if let Err(error) = self.update_resources(pod, &plan.update).await {
                self.resizing.failed(&self.kubelet, pod, &error);
                self.due(Instant::now() + RESIZE_RETRY);
            }
        }
        let sandbox_config = container_config::sandbox(pod, plan.attempt, &kubelet.config)?;
        let sandbox_id = if plan.create_sandbox {
            let id = self.create_sandbox(pod, &sandbox_config).await?;
            view = self.view().await?;
            changed = true;
            id
        } else {
            plan.sandbox_id.clone()
        };
        let sandbox = super::start::Sandbox { id: &sandbox_id, config: &sandbox_config, volumes, ips: &view.ips() };
        let ephemeral = pod.ephemeral_containers();
        for index in &plan.ephemeral {
            changed |= self.try_start(pod, &ephemeral[*index], &view, &sandbox).await;
        }
        for index in &plan.init {
            let container = &pod.init_containers()[*index];
            let started = self.try_start(pod, container, &view, &sandbox).await;
            changed |= started;
            if !started && !crate::pods::is_sidecar(container) {
                break;
            }
        }
        for index in &plan.start {
            changed |= self.try_start(pod, &pod.containers()[*index], &view, &sandbox).await;
        }
        let view = if changed { self.view().await? } else { view };
        self.resizing.settle(&self.kubelet, pod, &view)?;
        self.follow_probes(pod, &view);
        let status = self.publish(pod, &view, false);
        self.collect_garbage(pod, &view).await;
        if changed {
            // What was started may already have ended, or let the next init container start.
            self.desk.wake.notify_one();
        }
        Ok(matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")))
    }

    async fn create_sandbox(&mut self, pod: &Arc<Pod>, config: &cri::PodSandboxConfig) -> Result<String, String> {
        let kubelet = self.kubelet.clone();
        let failed = |cause: &str| {
            let message = format!("Failed to create pod sandbox: {cause}");
            kubelet.recorder.pod(pod, Severity::Warning, "FailedCreatePodSandBox", message.clone());
            message
        };
        cgroups::create(&kubelet.config, pod).map_err(|error| failed(&error))?;
        std::fs::create_dir_all(&config.log_directory).map_err(|error| failed(&error.to_string()))?;
        let runtime_handler = self.runtime_handler(pod).await.map_err(|error| failed(&error))?;
        if pod.pod_spec().and_then(|spec| spec.host_users) == Some(false) {
            // Better not at all than as the machine's root.
            return Err(failed(&format!("RuntimeClass handler {runtime_handler:?} does not support user namespaces")));
        }
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
        match kubelet.runtime.run_pod_sandbox(request).await {
            Ok(response) => Ok(response.pod_sandbox_id),
            Err(status) => {
                let message = failed(&crate::rpc_text(&status));
                if let Ok(view) = self.view().await {
                    self.publish(pod, &view, false);
                }
                Err(message)
            }
        }
    }

    /// Removes dead containers that nothing refers to: of each name the newest dead one stays, for its logs and last state.
    // upstream: pkg/kubelet/kuberuntime, evictContainers
    async fn collect_garbage(&self, pod: &Pod, view: &PodView) {
        let mut kept: Vec<&str> = Vec::new();
        let newest_sandbox = view.sandboxes.first().map(|sandbox| sandbox.id.as_str());
        for container in view.containers.iter().filter(|container| container.state == State::Exited) {
            if kept.contains(&container.name.as_str()) {
                self.remove_container(pod, container).await;
            } else {
                kept.push(&container.name);
            }
        }
        for sandbox in &view.sandboxes {
            let used = view.containers.iter().any(|container| container.sandbox_id == sandbox.id);
            let ready = sandbox.state == cri::PodSandboxState::SandboxReady as i32;
            if !used && !ready && Some(sandbox.id.as_str()) != newest_sandbox {
                super::remove_sandbox(&self.kubelet, &sandbox.id).await;
            }
        }
    }
}
