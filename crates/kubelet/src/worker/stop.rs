//! Stopping: one container with its `preStop` hook, a whole pod in order, and the removal of what is left.
// upstream: pkg/kubelet/kuberuntime, killContainer and termination order; pkg/kubelet, SyncTerminatingPod, SyncTerminatedPod
use super::Worker;
use crate::events::Severity;
use crate::kubelet::Kubelet;
use crate::plan::KillReason;
use crate::pods::{PodExt, is_sidecar};
use crate::status::containers::terminated_unknown;
use crate::view::{ContainerView, PodView, State};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use pintle_runtime::cri;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A container always gets this long to shut down, in seconds.
const MINIMUM_GRACE: i64 = 2;

impl Worker {
    /// Ends all containers and the sandbox, then publishes the final status.
    pub(super) async fn terminate(&mut self, pod: &Arc<Pod>) -> Result<(), String> {
        let view = self.view().await?;
        self.probes.stop_restarts();
        let mut pod = pod.clone();
        if !pod.is_terminal() || view.running().next().is_some() {
            self.publish(&pod, &view, false);
        }
        let grace_of = |worker: &Worker, pod: &Pod| {
            let asked = (pod.is_deleting() || worker.desk.removed()).then(|| pod.grace_period().max(1));
            asked.into_iter().chain(worker.evicted.as_ref().and_then(|evicted| evicted.grace)).min()
        };
        let mut grace = grace_of(self, &pod);
        // Killed again with less time whenever the grace period becomes shorter.
        while let Some(shorter) = {
            let kill = self.kill_pod(&pod, &view, grace);
            tokio::pin!(kill);
            loop {
                tokio::select! {
                    result = &mut kill => {
                        result?;
                        break None;
                    }
                    () = self.desk.hurry.notified() => {
                        let newer = self.desk.pod();
                        let shorter = grace_of(self, &newer);
                        if shorter.is_some_and(|shorter| shorter < grace.unwrap_or(i64::MAX)) {
                            break Some((newer, shorter));
                        }
                    }
                }
            }
        } {
            (pod, grace) = shorter;
        }
        self.probes.stop();
        let view = self.view().await?;
        let running: Vec<&str> = view.running().map(|container| container.id.as_str()).collect();
        if !running.is_empty() {
            return Err(format!("detected running containers after a successful KillPod, CRI violation: {running:?}"));
        }
        let pod = self.desk.pod();
        if !pod.is_terminal() {
            self.publish(&pod, &view, true);
        }
        Ok(())
    }

    /// Gives back what the pod used and allows the API to forget it.
    pub(super) async fn release(&mut self, pod: &Arc<Pod>) -> Result<(), String> {
        let kubelet = self.kubelet.clone();
        let status = kubelet.statuses.get(&self.uid).or_else(|| pod.status.clone()).unwrap_or_default();
        kubelet.volumes.tear_down(&self.uid).await?;
        crate::cgroups::remove(&kubelet.config, &self.uid)?;
        kubelet.images.forget(&self.uid);
        kubelet.allocations.release(&self.uid);
        kubelet.statuses.set(pod, final_status(pod, status), true);
        Ok(())
    }

    /// Removes the pod's containers, sandboxes and logs after the API has forgotten it.
    pub(super) async fn remove(&mut self, pod: &Arc<Pod>) {
        match self.view().await {
            Ok(view) => {
                for sandbox in &view.sandboxes {
                    remove_sandbox(&self.kubelet, &sandbox.id).await;
                }
            }
            Err(error) => tracing::warn!(pod = pod.described(), error, "cannot list the pod's sandboxes"),
        }
        super::remove_dir(&self.kubelet.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()));
    }

    /// Stops all running containers (sidecars after the others, the last one first) and the sandboxes.
    pub(super) async fn kill_pod(&self, pod: &Arc<Pod>, view: &PodView, grace: Option<i64>) -> Result<(), String> {
        let order = Order::new(pod, view);
        let kills = view.running().map(|container| {
            self.kill_container(pod, &container.id, &container.name, None, KillReason::Other, Some((grace, &order)))
        });
        for result in join_all(kills).await {
            result?;
        }
        for sandbox in &view.sandboxes {
            let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
            match self.kubelet.runtime.stop_pod_sandbox(request).await {
                Err(status) if status.code() != tonic::Code::NotFound => return Err(crate::rpc_text(&status)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Stops one container. `pod_end`: the whole pod ends, with this grace period and order.
    pub(super) async fn kill_container(
        &self,
        pod: &Arc<Pod>,
        id: &str,
        name: &str,
        message: Option<&str>,
        reason: KillReason,
        pod_end: Option<(Option<i64>, &Order)>,
    ) -> Result<(), String> {
        let kubelet = &self.kubelet;
        let spec = pod.container_spec(name);
        let text = message.map_or_else(|| format!("Stopping container {name}"), ToOwned::to_owned);
        kubelet.recorder.container(pod, name, Severity::Normal, "Killing", text);
        let probe_grace = spec.as_ref().and_then(|spec| match reason {
            KillReason::StartupProbe => spec.startup_probe.as_ref()?.termination_grace_period_seconds,
            KillReason::LivenessProbe => spec.liveness_probe.as_ref()?.termination_grace_period_seconds,
            KillReason::Other => None,
        });
        let own = pod.metadata.deletion_grace_period_seconds.or(probe_grace).unwrap_or_else(|| pod.grace_period());
        let grace = pod_end.and_then(|(grace, _)| grace).unwrap_or(own);
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let hook = spec.as_ref().and_then(|spec| spec.lifecycle.as_ref()?.pre_stop.clone());
        if let (Some(hook), Some(spec), true) = (hook, &spec, grace > 0) {
            let ips = self.kubelet.statuses.get(&self.uid).and_then(|status| status.pod_ip);
            let run = crate::hooks::run(kubelet, pod, spec, id, &hook, ips.as_deref());
            if let Ok(Err(error)) = tokio::time::timeout_at(deadline, run).await {
                tracing::debug!(pod = pod.described(), container = name, error, "preStop hook failed");
                let message = "PreStopHook failed";
                kubelet.recorder.container(pod, name, Severity::Warning, "FailedPreStopHook", message);
            }
        }
        if let Some((_, order)) = pod_end {
            order.wait_for_turn(name, deadline).await;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = i64::try_from(left.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX).max(MINIMUM_GRACE);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: left };
        let result = kubelet.runtime.stop_container(request).await;
        if let Some((_, order)) = pod_end {
            order.ended(name);
        }
        match result {
            Err(status) if status.code() != tonic::Code::NotFound => Err(crate::rpc_text(&status)),
            _ => Ok(()),
        }
    }

    /// Removes a dead container and its log.
    pub(super) async fn remove_container(&self, pod: &Pod, container: &ContainerView) {
        let request = cri::RemoveContainerRequest { container_id: container.id.clone() };
        if let Err(status) = self.kubelet.runtime.remove_container(request).await {
            tracing::warn!(pod = pod.described(), error = status.message(), "cannot remove a dead container");
            return;
        }
        crate::logs::remove(std::path::Path::new(&container.log_path));
    }
}

/// The order in which a pod's containers end: each waits for those listed for it.
pub struct Order {
    /// Names a container waits for.
    before: HashMap<String, Vec<String>>,
    ended: watch::Sender<Vec<String>>,
}

impl Order {
    /// Sidecars end after all regular containers and after the sidecars that were started later.
    pub fn new(pod: &Pod, view: &PodView) -> Self {
        let running = |name: &str| view.find(name).is_some_and(|found| found.state == State::Running);
        let mut waits_for: Vec<String> =
            pod.containers().iter().map(|one| one.name.clone()).filter(|name| running(name)).collect();
        let mut before = HashMap::new();
        for sidecar in pod.init_containers().iter().rev().filter(|one| is_sidecar(one) && running(&one.name)) {
            before.insert(sidecar.name.clone(), waits_for.clone());
            waits_for.push(sidecar.name.clone());
        }
        Order { before, ended: watch::Sender::new(Vec::new()) }
    }

    async fn wait_for_turn(&self, name: &str, deadline: Instant) {
        let Some(before) = self.before.get(name) else { return };
        let mut ended = self.ended.subscribe();
        let turn = ended.wait_for(|ended| before.iter().all(|name| ended.contains(name)));
        if tokio::time::timeout_at(deadline, turn).await.is_err() {
            tracing::debug!(container = name, "grace period over before the containers it waits for ended");
        }
    }

    fn ended(&self, name: &str) {
        self.ended.send_modify(|ended| ended.push(name.to_owned()));
    }
}

/// Stops and removes a sandbox with its containers; problems are logged.
pub async fn remove_sandbox(kubelet: &Kubelet, id: &str) {
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let result = match kubelet.runtime.stop_pod_sandbox(stop).await {
        Ok(_) => kubelet.runtime.remove_pod_sandbox(remove).await.map(drop),
        Err(status) => Err(status),
    };
    match result {
        Err(status) if status.code() != tonic::Code::NotFound => {
            tracing::warn!(sandbox = id, error = status.message(), "cannot remove a sandbox");
        }
        _ => {}
    }
}

/// A status in which every container that ran has ended and the phase is final.
// upstream: pkg/kubelet/status, TerminatePod
fn final_status(pod: &Pod, mut status: PodStatus) -> PodStatus {
    let lost = "The container could not be located when the pod was terminated";
    let end = |list: &mut [ContainerStatus]| {
        for status in list.iter_mut().filter(|one| one.state.as_ref().is_none_or(|state| state.terminated.is_none())) {
            status.state = terminated_unknown(lost);
            status.ready = false;
            status.started = Some(false);
        }
    };
    let ran = |status: &ContainerStatus| {
        let some = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.as_ref().is_some_and(|state| state.terminated.is_some() || state.running.is_some())
        };
        some(&status.state) || some(&status.last_state)
    };
    let inits = status.init_container_statuses.get_or_insert_default();
    let initialized = pod.init_containers().is_empty() || status.container_statuses.iter().flatten().any(ran);
    let touched = inits.iter().rposition(ran).map_or(0, |last| last + 1);
    end(&mut inits[..touched]);
    if inits.is_empty() {
        status.init_container_statuses = None;
    }
    if initialized && let Some(list) = status.container_statuses.as_mut() {
        end(list);
    }
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) && !pod.is_static() {
        status.phase = Some("Failed".to_owned());
    }
    let reason = if status.phase.as_deref() == Some("Succeeded") { "PodCompleted" } else { "PodFailed" };
    for one in status.conditions.iter_mut().flatten() {
        if matches!(one.type_.as_str(), "Ready" | "ContainersReady") && one.status == "True" {
            one.status = "False".to_owned();
            one.reason = Some(reason.to_owned());
            one.message = None;
        }
    }
    status
}
