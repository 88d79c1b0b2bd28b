//! A runtime in memory: containers run until a test ends them.
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use pintle_runtime::cri::*;
use std::collections::{HashMap, HashSet};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

#[derive(Default)]
pub struct FakeRuntime {
    state: Mutex<State>,
    changed: Notify,
    root: std::path::PathBuf,
}

#[derive(Default)]
struct State {
    sandboxes: Vec<PodSandboxStatus>,
    containers: Vec<(String, ContainerStatus, ContainerConfig)>,
    listeners: Vec<mpsc::Sender<ContainerEventResponse>>,
    next: i64,
    /// Images that cannot be pulled.
    missing: HashSet<String>,
    /// What an exec answers, by the command's first word.
    exec: HashMap<String, i32>,
    /// What happened, in order.
    log: Vec<String>,
    /// Containers that ignore being asked to stop, by name.
    stubborn: HashSet<String>,
}

fn gone<T>(what: &str) -> Result<T, Status> {
    Err(Status::not_found(format!("{what} not found")))
}

impl FakeRuntime {
    pub fn new(root: &std::path::Path) -> Self {
        FakeRuntime { root: root.to_owned(), ..Default::default() }
    }

    fn number(&self) -> i64 {
        let mut state = self.state.lock();
        state.next += 1;
        state.next
    }

    fn log(&self, what: String) {
        self.state.lock().log.push(what);
        self.changed.notify_waiters();
    }

    pub fn history(&self) -> Vec<String> {
        self.state.lock().log.clone()
    }

    /// Waits until the history holds `what`.
    pub async fn seen(&self, what: &str) {
        loop {
            let changed = self.changed.notified();
            if self.history().iter().any(|line| line == what) {
                return;
            }
            changed.await;
        }
    }

    pub fn make_missing(&self, image: &str, missing: bool) {
        let mut state = self.state.lock();
        if missing {
            state.missing.insert(image.into())
        } else {
            state.missing.remove(image)
        };
    }

    pub fn answer_exec(&self, command: &str, exit_code: i32) {
        self.state.lock().exec.insert(command.into(), exit_code);
    }

    pub fn make_stubborn(&self, name: &str) {
        self.state.lock().stubborn.insert(name.into());
    }

    pub fn config_of(&self, name: &str) -> Option<ContainerConfig> {
        let state = self.state.lock();
        let found = state.containers.iter().rev().find(|(_, _, config)| config.metadata.as_ref().unwrap().name == name);
        found.map(|(_, _, config)| config.clone())
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    /// Ends the running instance of container `name`.
    pub fn exit(&self, name: &str, exit_code: i32) {
        let id = {
            let state = self.state.lock();
            let found = state
                .containers
                .iter()
                .find(|(_, status, _)| status.state == 1 && status.metadata.as_ref().unwrap().name == name);
            found.unwrap_or_else(|| panic!("{name} does not run")).1.id.clone()
        };
        self.end(&id, exit_code);
    }

    fn end(&self, id: &str, exit_code: i32) {
        let name = {
            let mut state = self.state.lock();
            let finished = Timestamp::now().as_nanosecond() as i64;
            let Some((_, status, _)) = state.containers.iter_mut().find(|(_, status, _)| status.id == id) else {
                return;
            };
            if status.state != 1 {
                return;
            }
            status.state = 2;
            status.exit_code = exit_code;
            status.reason = if exit_code == 0 { "Completed".into() } else { "Error".into() };
            status.finished_at = finished;
            status.metadata.as_ref().unwrap().name.clone()
        };
        self.log(format!("exited {name}"));
        self.tell(id);
    }

    fn tell(&self, id: &str) {
        let mut state = self.state.lock();
        let Some((sandbox, _, _)) = state.containers.iter().find(|(_, status, _)| status.id == id) else { return };
        let sandbox = state.sandboxes.iter().find(|one| one.id == *sandbox).cloned();
        let event =
            ContainerEventResponse { container_id: id.into(), pod_sandbox_status: sandbox, ..Default::default() };
        state.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
    }
}

fn matches(labels: &HashMap<String, String>, selector: Option<&HashMap<String, String>>) -> bool {
    selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait::async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: VersionRequest) -> Result<VersionResponse, Status> {
        Ok(VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() })
    }
    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Status> {
        let (config, number) = (request.config.unwrap(), self.number());
        let id = format!("sandbox-{number}");
        let network = PodSandboxNetworkStatus { ip: format!("10.1.0.{number}"), ..Default::default() };
        self.state.lock().sandboxes.push(PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: number,
            network: Some(network),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        });
        self.log("sandbox".into());
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }
    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse, Status> {
        if let Some(one) = self.state.lock().sandboxes.iter_mut().find(|one| one.id == request.pod_sandbox_id) {
            one.state = 1;
        }
        Ok(StopPodSandboxResponse {})
    }
    async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse, Status> {
        {
            let mut state = self.state.lock();
            state.sandboxes.retain(|one| one.id != request.pod_sandbox_id);
            state.containers.retain(|(sandbox, _, _)| *sandbox != request.pod_sandbox_id);
        }
        self.log("removed sandbox".into());
        Ok(RemovePodSandboxResponse {})
    }
    async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Status> {
        let state = self.state.lock();
        match state.sandboxes.iter().find(|one| one.id == request.pod_sandbox_id) {
            Some(one) => Ok(PodSandboxStatusResponse { status: Some(one.clone()), ..Default::default() }),
            None => gone("sandbox"),
        }
    }
    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Status> {
        let selector = request.filter.map(|filter| filter.label_selector);
        let state = self.state.lock();
        let items = state.sandboxes.iter().filter(|one| matches(&one.labels, selector.as_ref()));
        let items = items.map(|one| PodSandbox {
            id: one.id.clone(),
            metadata: one.metadata.clone(),
            state: one.state,
            created_at: one.created_at,
            labels: one.labels.clone(),
            ..Default::default()
        });
        Ok(ListPodSandboxResponse { items: items.collect() })
    }
    async fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        let (config, number) = (request.config.unwrap(), self.number());
        let id = format!("container-{number}");
        let name = config.metadata.as_ref().unwrap().name.clone();
        let status = ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            created_at: number,
            image: config.image.clone(),
            image_ref: "sha256:fake".into(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: self.root.join(&config.log_path).to_string_lossy().into_owned(),
            resources: config
                .linux
                .as_ref()
                .map(|linux| ContainerResources { linux: linux.resources.clone(), windows: None }),
            ..Default::default()
        };
        self.state.lock().containers.push((request.pod_sandbox_id, status, config));
        self.log(format!("created {name}"));
        Ok(CreateContainerResponse { container_id: id })
    }
    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Status> {
        let name = {
            let mut state = self.state.lock();
            let found = state.containers.iter_mut().find(|(_, status, _)| status.id == request.container_id);
            let Some((_, status, _)) = found else { return gone("container") };
            status.state = 1;
            status.started_at = Timestamp::now().as_nanosecond() as i64;
            status.metadata.as_ref().unwrap().name.clone()
        };
        self.log(format!("started {name}"));
        self.tell(&request.container_id);
        Ok(StartContainerResponse {})
    }
    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Status> {
        let (name, stubborn) = {
            let state = self.state.lock();
            let found = state.containers.iter().find(|(_, status, _)| status.id == request.container_id);
            let Some((_, status, _)) = found else { return gone("container") };
            let name = status.metadata.as_ref().unwrap().name.clone();
            (name.clone(), state.stubborn.contains(&name))
        };
        self.log(format!("stopping {name} within {}s", request.timeout));
        if stubborn {
            tokio::time::sleep(std::time::Duration::from_secs(request.timeout as u64)).await;
        }
        self.end(&request.container_id, if stubborn { 137 } else { 143 });
        Ok(StopContainerResponse {})
    }
    async fn remove_container(&self, request: RemoveContainerRequest) -> Result<RemoveContainerResponse, Status> {
        self.state.lock().containers.retain(|(_, status, _)| status.id != request.container_id);
        Ok(RemoveContainerResponse {})
    }
    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Status> {
        let selector = request.filter.map(|filter| filter.label_selector);
        let state = self.state.lock();
        let all = state.containers.iter().filter(|(_, status, _)| matches(&status.labels, selector.as_ref()));
        let all = all.map(|(sandbox, status, _)| Container {
            id: status.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            metadata: status.metadata.clone(),
            state: status.state,
            labels: status.labels.clone(),
            ..Default::default()
        });
        Ok(ListContainersResponse { containers: all.collect() })
    }
    async fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Status> {
        let state = self.state.lock();
        match state.containers.iter().find(|(_, status, _)| status.id == request.container_id) {
            Some((_, status, _)) => Ok(ContainerStatusResponse { status: Some(status.clone()), ..Default::default() }),
            None => gone("container"),
        }
    }
    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
        let command = request.cmd.first().cloned().unwrap_or_default();
        let exit_code = self.state.lock().exec.get(&command).copied().unwrap_or(0);
        self.log(format!("exec {command}"));
        Ok(ExecSyncResponse { exit_code, ..Default::default() })
    }
    async fn status(&self, _: StatusRequest) -> Result<StatusResponse, Status> {
        Ok(StatusResponse::default())
    }
    async fn get_container_events(&self) -> Result<mpsc::Receiver<ContainerEventResponse>, Status> {
        let (sender, receiver) = mpsc::channel(1000);
        self.state.lock().listeners.push(sender);
        Ok(receiver)
    }
    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Status> {
        let name = {
            let mut state = self.state.lock();
            let found = state.containers.iter_mut().find(|(_, status, _)| status.id == request.container_id);
            let Some((_, status, _)) = found else { return gone("container") };
            status.resources = Some(ContainerResources { linux: request.linux, windows: None });
            status.metadata.as_ref().unwrap().name.clone()
        };
        self.log(format!("updated {name}"));
        Ok(UpdateContainerResourcesResponse {})
    }
    async fn reopen_container_log(&self, _: ReopenContainerLogRequest) -> Result<ReopenContainerLogResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn exec(&self, _: ExecRequest) -> Result<ExecResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn attach(&self, _: AttachRequest) -> Result<AttachResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn port_forward(&self, _: PortForwardRequest) -> Result<PortForwardResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn container_stats(&self, _: ContainerStatsRequest) -> Result<ContainerStatsResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn list_container_stats(&self, _: ListContainerStatsRequest) -> Result<ListContainerStatsResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn pod_sandbox_stats(&self, _: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn list_pod_sandbox_stats(
        &self,
        _: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn update_runtime_config(
        &self,
        _: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn list_metric_descriptors(
        &self,
        _: ListMetricDescriptorsRequest,
    ) -> Result<ListMetricDescriptorsResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn list_pod_sandbox_metrics(
        &self,
        _: ListPodSandboxMetricsRequest,
    ) -> Result<ListPodSandboxMetricsResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
    async fn runtime_config(&self, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Status> {
        Err(Status::unimplemented("fake"))
    }
}

#[async_trait::async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self, _: ListImagesRequest) -> Result<ListImagesResponse, Status> {
        Ok(ListImagesResponse::default())
    }
    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
        let name = request.image.unwrap().image;
        let missing = self.state.lock().missing.contains(name.trim_end_matches(":latest"));
        let image = Image { id: "sha256:fake".into(), size: 1234, ..Default::default() };
        Ok(ImageStatusResponse { image: (!missing).then_some(image), ..Default::default() })
    }
    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Status> {
        let name = request.image.unwrap().image;
        self.log(format!("pull {name}"));
        match self.state.lock().missing.contains(name.trim_end_matches(":latest")) {
            true => gone(&name),
            false => Ok(PullImageResponse { image_ref: "sha256:fake".into() }),
        }
    }
    async fn remove_image(&self, _: RemoveImageRequest) -> Result<RemoveImageResponse, Status> {
        Ok(RemoveImageResponse {})
    }
    async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Status> {
        Ok(ImageFsInfoResponse::default())
    }
}
