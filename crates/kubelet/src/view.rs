//! What the runtime knows about one pod, read from CRI: the observed state that every decision starts from.
use crate::pods::{PodExt, labels};
use k8s_openapi::api::core::v1::Pod;
use pintle_runtime::cri::{self, ContainerState, PodSandboxState, RuntimeService};
use std::collections::HashMap;

/// A pod's sandboxes and containers as the runtime reports them.
#[derive(Clone, Debug, Default)]
pub struct PodView {
    /// Sandboxes, the newest first.
    pub sandboxes: Vec<cri::PodSandboxStatus>,
    /// Containers of all sandboxes and attempts, the newest first.
    pub containers: Vec<ContainerView>,
}

/// One container instance.
#[derive(Clone, Debug, Default)]
pub struct ContainerView {
    /// The runtime's id, without the `<runtime>://` prefix.
    pub id: String,
    /// Name in the pod's spec.
    pub name: String,
    /// Its sandbox, when the runtime listed it.
    pub sandbox_id: String,
    /// CRI state.
    pub state: State,
    /// How many instances came before it.
    pub restart_count: i32,
    /// Hash of the spec it was made from.
    pub hash: Option<String>,
    /// Exit code; meaningful once exited.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// Termination message.
    pub message: String,
    /// Image as asked for.
    pub image: String,
    /// Reference of the image in use (digest or id).
    pub image_id: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 when it never started.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 while it runs.
    pub finished_at: i64,
    /// First user of the container, when the runtime reports it.
    pub user: Option<cri::LinuxContainerUser>,
    /// Host path of its log.
    pub log_path: String,
    /// Resources it runs with, when the runtime reports them.
    pub resources: Option<cri::LinuxContainerResources>,
    /// The memory request it was made with, in bytes.
    pub memory_request: Option<i64>,
}

/// A container's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Exited.
    Exited,
    /// The runtime does not know.
    #[default]
    Unknown,
}

impl State {
    /// Upstream's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Exited => "exited",
            State::Unknown => "unknown",
        }
    }
}

impl PodView {
    /// The newest instance of container `name`.
    pub fn find(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The instance with this id.
    pub fn find_id(&self, id: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.id == id)
    }

    /// Containers that run now.
    pub fn running(&self) -> impl Iterator<Item = &ContainerView> {
        self.containers.iter().filter(|container| container.state == State::Running)
    }

    /// The newest sandbox if it is ready.
    pub fn ready_sandbox(&self) -> Option<&cri::PodSandboxStatus> {
        self.sandboxes.first().filter(|sandbox| sandbox.state == PodSandboxState::SandboxReady as i32)
    }

    /// The pod's addresses: those of its newest sandbox, when that is ready.
    pub fn ips(&self) -> Vec<String> {
        let Some(network) = self.ready_sandbox().and_then(|sandbox| sandbox.network.as_ref()) else {
            return Vec::new();
        };
        let more = network.additional_ips.iter().map(|ip| ip.ip.clone());
        std::iter::once(network.ip.clone()).chain(more).filter(|ip| !ip.is_empty()).collect()
    }

    /// Whether a regular container of `pod` was ever made here.
    pub fn any_regular_created(&self, pod: &Pod) -> bool {
        pod.containers().iter().any(|container| self.find(&container.name).is_some())
    }

    /// Whether a regular container of `pod` exists in the newest sandbox (upstream: HasAnyActiveRegularContainerStarted).
    pub fn any_active_regular_started(&self, pod: &Pod) -> bool {
        let Some(sandbox) = self.sandboxes.first() else { return false };
        let regular = |name: &str| pod.containers().iter().any(|container| container.name == name);
        self.containers.iter().any(|container| container.sandbox_id == sandbox.id && regular(&container.name))
    }
}

/// Reads the state of the pod `uid`. Termination messages of containers in `known` are not read from disk again.
pub async fn read(
    runtime: &dyn RuntimeService,
    uid: &str,
    known: &mut HashMap<String, String>,
) -> Result<PodView, tonic::Status> {
    let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let sandboxes = runtime.list_pod_sandbox(cri::ListPodSandboxRequest {
        filter: Some(cri::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() }),
    });
    let containers = runtime.list_containers(cri::ListContainersRequest {
        filter: Some(cri::ContainerFilter { label_selector: selector, ..Default::default() }),
    });
    let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
    let mut view = PodView::default();
    for sandbox in sandboxes.items {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id, verbose: false };
        match runtime.pod_sandbox_status(request).await {
            Ok(response) => view.sandboxes.extend(response.status),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    for container in containers.containers {
        let request = cri::ContainerStatusRequest { container_id: container.id, verbose: false };
        match runtime.container_status(request).await {
            Ok(cri::ContainerStatusResponse { status: Some(status), .. }) => {
                view.containers.push(container_view(&status, container.pod_sandbox_id, known));
            }
            Ok(_) => {}
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    view.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
    view.containers.sort_by_key(|container| std::cmp::Reverse((container.created_at, container.restart_count)));
    Ok(view)
}

fn container_view(
    status: &cri::ContainerStatus,
    sandbox_id: String,
    known: &mut HashMap<String, String>,
) -> ContainerView {
    let annotation = |key: &str| status.annotations.get(key);
    let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let state = match status.state() {
        ContainerState::ContainerCreated => State::Created,
        ContainerState::ContainerRunning => State::Running,
        ContainerState::ContainerExited => State::Exited,
        ContainerState::ContainerUnknown => State::Unknown,
    };
    let message = match state {
        State::Exited => {
            known.entry(status.id.clone()).or_insert_with(|| crate::termination_message::read(status)).clone()
        }
        _ => status.message.clone(),
    };
    ContainerView {
        id: status.id.clone(),
        name: status.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default(),
        sandbox_id,
        state,
        restart_count: annotation(labels::RESTART_COUNT)
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| i32::try_from(attempt).unwrap_or(i32::MAX)),
        hash: annotation(labels::CONTAINER_HASH).cloned(),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message,
        image: status
            .image
            .as_ref()
            .map(|image| match image.user_specified_image.as_str() {
                "" => image.image.clone(),
                asked => asked.to_owned(),
            })
            .unwrap_or_default(),
        image_id: if status.image_ref.is_empty() { status.image_id.clone() } else { status.image_ref.clone() },
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        user: status.user.as_ref().and_then(|user| user.linux.clone()),
        log_path: status.log_path.clone(),
        resources: status.resources.as_ref().and_then(|resources| resources.linux.clone()),
        memory_request: annotation(labels::MEMORY_REQUEST).and_then(|bytes| bytes.parse().ok()),
    }
}
