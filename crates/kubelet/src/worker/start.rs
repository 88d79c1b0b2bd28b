//! Starting one container: its image, its configuration, create, start, and its `postStart` hook.
// upstream: pkg/kubelet/kuberuntime, startContainer and doBackOff
use super::Worker;
use crate::backoff::Backoff;
use crate::events::Severity;
use crate::plan::KillReason;
use crate::pods::{PodExt, container_hash};
use crate::view::{PodView, State};
use crate::volumes::Mounted;
use crate::{container_config, env};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use pintle_runtime::cri;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// A pod's volumes by name.
pub type VolumeMap = BTreeMap<String, Mounted>;

/// The sandbox that containers are started in.
#[derive(Clone, Copy)]
pub struct Sandbox<'a> {
    pub id: &'a str,
    pub config: &'a cri::PodSandboxConfig,
    pub volumes: &'a VolumeMap,
    pub ips: &'a [String],
}

/// Why a container did not start: its waiting reason and message.
struct NotStarted {
    reason: String,
    message: String,
    retry_at: Option<Instant>,
}

impl NotStarted {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        NotStarted { reason: reason.to_owned(), message: message.into(), retry_at: None }
    }
}

impl Worker {
    /// Starts `container` unless it must wait; notes why when it did not. True when something changed in the runtime.
    pub(super) async fn try_start(
        &mut self,
        pod: &Arc<Pod>,
        container: &Container,
        view: &PodView,
        sandbox: &Sandbox<'_>,
    ) -> bool {
        if self.desk.end.is_cancelled() {
            return false;
        }
        let result = match self.back_off(pod, container, view) {
            Some(waiting) => Err(waiting),
            None => self.start(pod, container, view, sandbox).await,
        };
        match result {
            Ok(()) => {
                self.failures.remove(&container.name);
                true
            }
            Err(failure) => {
                let retry_at = failure.retry_at.unwrap_or_else(|| Instant::now() + self.retry);
                if failure.retry_at.is_none() {
                    self.retry = (self.retry * 2).min(super::RETRY.1);
                }
                self.due(retry_at);
                self.failures.insert(container.name.clone(), (failure.reason, failure.message));
                false
            }
        }
    }

    /// Whether a container that has ended must wait before it starts again; if not, notes the new start.
    fn back_off(&mut self, pod: &Pod, container: &Container, view: &PodView) -> Option<NotStarted> {
        let dead = view.containers.iter().find(|one| one.name == container.name && one.state == State::Exited)?;
        let exit = self.exits.get(&dead.id).copied()?;
        let now = Instant::now();
        let (first, longest) = self.kubelet.config.crash_loop_back_off;
        let key = (container.name.clone(), container_hash(container));
        let backoff = self.restarts.entry(key).or_insert_with(|| Backoff::new(first, longest));
        let Some(until) = backoff.until(exit, now) else {
            backoff.next(exit, now);
            return None;
        };
        let pod_text = pod.described();
        let event = format!("Back-off restarting failed container {} in pod {pod_text}", container.name);
        self.kubelet.recorder.container(pod, &container.name, Severity::Warning, "BackOff", event);
        let delay = crate::images::go_duration(backoff.delay());
        let message = format!("back-off {delay} restarting failed container={} pod={pod_text}", container.name);
        Some(NotStarted { retry_at: Some(until), ..NotStarted::new("CrashLoopBackOff", message) })
    }

    async fn start(
        &mut self,
        pod: &Arc<Pod>,
        container: &Container,
        view: &PodView,
        sandbox: &Sandbox<'_>,
    ) -> Result<(), NotStarted> {
        let kubelet = self.kubelet.clone();
        let name = container.name.as_str();
        let warn = |message: String| kubelet.recorder.container(pod, name, Severity::Warning, "Failed", message);
        let secrets = self.pull_secrets(pod).await;
        if container.image_pull_policy.as_deref() == Some("Always") || self.must_pull(container).await {
            self.publish(pod, view, false);
        }
        let ensure = kubelet.images.ensure(pod, container, &secrets, sandbox.config);
        let image = match self.desk.end.run_until_cancelled(ensure).await {
            Some(Ok(image)) => image,
            Some(Err(error)) => {
                warn(format!("Error: {}", error.reason));
                return Err(NotStarted { reason: error.reason, message: error.message, retry_at: error.retry_at });
            }
            None => return Err(NotStarted::new("ContainerCreating", "")),
        };
        let volumes = self.with_image_volumes(pod, container, &secrets, sandbox).await?;
        let sandbox = &Sandbox { volumes: &volumes, ..*sandbox };
        let config_error = |message: String| {
            warn(format!("Error: {message}"));
            NotStarted::new("CreateContainerConfigError", message)
        };
        let config = self.configure(pod, container, view, sandbox, &image).await.map_err(config_error)?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let created = kubelet.runtime.create_container(request).await.map_err(|status| {
            warn(format!("Error: {}", status.message()));
            NotStarted::new("CreateContainerError", status.message())
        })?;
        let normal = |reason: &str, message: &str| {
            kubelet.recorder.container(pod, name, Severity::Normal, reason, message);
        };
        normal("Created", "Container created");
        let id = created.container_id;
        let start = kubelet.runtime.start_container(cri::StartContainerRequest { container_id: id.clone() }).await;
        start.map_err(|status| {
            warn(format!("Error: {}", status.message()));
            NotStarted::new("RunContainerError", status.message())
        })?;
        normal("Started", "Container started");
        self.post_start(pod, container, &id).await
    }

    async fn post_start(&mut self, pod: &Arc<Pod>, container: &Container, id: &str) -> Result<(), NotStarted> {
        let kubelet = self.kubelet.clone();
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ips = self.view().await.map(|view| view.ips()).unwrap_or_default();
        let hook = crate::hooks::run(&kubelet, pod, container, id, hook, ips.first().map(String::as_str));
        let Some(Err(error)) = self.desk.end.run_until_cancelled(hook).await else { return Ok(()) };
        let message = "PostStartHook failed";
        kubelet.recorder.container(pod, &container.name, Severity::Warning, "FailedPostStartHook", message);
        let reason = Some("FailedPostStartHook");
        if let Err(error) = self.kill_container(pod, id, &container.name, reason, KillReason::Other, None).await {
            tracing::warn!(pod = pod.described(), error, "cannot stop a container whose postStart hook failed");
        }
        Err(NotStarted::new("PostStartHookError", error))
    }

    /// The pod's volumes, with the images that `container` mounts as volumes present on the node.
    async fn with_image_volumes<'a>(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        secrets: &[Arc<Secret>],
        sandbox: &Sandbox<'a>,
    ) -> Result<Cow<'a, VolumeMap>, NotStarted> {
        let mut volumes = Cow::Borrowed(sandbox.volumes);
        let sources = pod.pod_spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        for volume in sources {
            let Some(source) = &volume.image else { continue };
            if !container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name) {
                continue;
            }
            let as_container = Container {
                name: container.name.clone(),
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Default::default()
            };
            let ensure = self.kubelet.images.ensure(pod, &as_container, secrets, sandbox.config);
            match self.desk.end.run_until_cancelled(ensure).await {
                Some(Ok(image)) => {
                    if let Some(mounted) = volumes.to_mut().get_mut(&volume.name) {
                        mounted.image = Some(image.reference);
                    }
                }
                Some(Err(error)) => {
                    return Err(NotStarted { reason: error.reason, message: error.message, retry_at: error.retry_at });
                }
                None => return Err(NotStarted::new("ContainerCreating", "")),
            }
        }
        Ok(volumes)
    }

    async fn must_pull(&self, container: &Container) -> bool {
        let image = container.image.clone().unwrap_or_default();
        let spec = cri::ImageSpec { image, ..Default::default() };
        !matches!(self.kubelet.images.find(&spec).await, Ok(Some(_)))
    }

    async fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Secret>> {
        let references = pod.pod_spec().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
        let mut secrets = Vec::new();
        for reference in references {
            match self.kubelet.objects.secret(pod.uid(), pod.namespace(), &reference.name).await {
                Ok(secret) => secrets.push(secret),
                Err(error) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        reference.name
                    );
                    tracing::debug!(%error, "image pull secret missing");
                    self.kubelet.recorder.pod(pod, Severity::Warning, "FailedToRetrieveImagePullSecret", message);
                }
            }
        }
        secrets
    }

    async fn configure(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        view: &PodView,
        sandbox: &Sandbox<'_>,
        image: &crate::images::Ready,
    ) -> Result<cri::ContainerConfig, String> {
        let kubelet = &self.kubelet;
        let ips = if pod.host_network() { &kubelet.node.host_ips } else { sandbox.ips };
        kubelet.services.synced().await;
        let services = kubelet.services.list();
        let context =
            env::Context { pod, pod_ips: ips, node: &kubelet.node, services: &services, volumes: sandbox.volumes };
        let env = env::build(&context, container, &kubelet.objects).await.map_err(|error| error.to_string())?;
        let target = match self.target(pod, container, view) {
            Some(Ok(id)) => Some(id),
            Some(Err(error)) => return Err(error),
            None => None,
        };
        let inputs = container_config::Inputs {
            pod,
            container,
            restart_count: self.restart_count(pod, container, view),
            image,
            env,
            volumes: sandbox.volumes,
            pod_ips: ips,
            target: target.as_deref(),
            machine_memory: kubelet.machine_memory,
        };
        container_config::container(inputs, &kubelet.config).map_err(|error| error.to_string())
    }

    /// The container whose processes an ephemeral container joins.
    fn target(&self, pod: &Pod, container: &Container, view: &PodView) -> Option<Result<String, String>> {
        let ephemeral = pod.pod_spec().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        let target = ephemeral.iter().find(|one| one.name == container.name)?.target_container_name.as_deref()?;
        if target.is_empty() {
            return None;
        }
        let found = view.find(target).filter(|found| found.state == State::Running);
        Some(found.map(|found| found.id.clone()).ok_or_else(|| format!("unable to find target container {target:?}")))
    }

    fn restart_count(&self, pod: &Pod, container: &Container, view: &PodView) -> i32 {
        if let Some(before) = view.find(&container.name) {
            return before.restart_count + 1;
        }
        let dir = self.kubelet.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()).join(&container.name);
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let numbers = files.filter_map(|file| file.file_name().to_str()?.split('.').next()?.parse::<i32>().ok());
        numbers.max().map_or(0, |last| last + 1)
    }
}
