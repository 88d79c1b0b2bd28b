//! The Container Runtime Interface v1 as Rust traits over its own messages: the seam between kubelet and runtime.
//!
//! The built-in runtime implements them in process; a client of a CRI socket implements them over gRPC.
pub use k8s_cri::v1::*;
use tokio::sync::mpsc::Receiver;
use tonic::Status;

/// Annotation of a mount's [`ImageSpec`]: the place in the image that is mounted (CRI's `image_sub_path`, which these messages do
/// not have yet).
pub const IMAGE_SUB_PATH: &str = "pintle.dev/image-sub-path";

/// Sandboxes and containers: CRI `RuntimeService`.
#[async_trait::async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    /// CRI `Version`.
    async fn version(&self, request: VersionRequest) -> Result<VersionResponse, Status>;
    /// CRI `RunPodSandbox`.
    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Status>;
    /// CRI `StopPodSandbox`.
    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse, Status>;
    /// CRI `RemovePodSandbox`.
    async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse, Status>;
    /// CRI `PodSandboxStatus`.
    async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Status>;
    /// CRI `ListPodSandbox`.
    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Status>;
    /// CRI `CreateContainer`.
    async fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status>;
    /// CRI `StartContainer`.
    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Status>;
    /// CRI `StopContainer`.
    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Status>;
    /// CRI `RemoveContainer`.
    async fn remove_container(&self, request: RemoveContainerRequest) -> Result<RemoveContainerResponse, Status>;
    /// CRI `ListContainers`.
    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Status>;
    /// CRI `ContainerStatus`.
    async fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Status>;
    /// CRI `UpdateContainerResources`.
    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Status>;
    /// CRI `ReopenContainerLog`.
    async fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Status>;
    /// CRI `ExecSync`.
    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status>;
    /// CRI `Exec`.
    async fn exec(&self, request: ExecRequest) -> Result<ExecResponse, Status>;
    /// CRI `Attach`.
    async fn attach(&self, request: AttachRequest) -> Result<AttachResponse, Status>;
    /// CRI `PortForward`.
    async fn port_forward(&self, request: PortForwardRequest) -> Result<PortForwardResponse, Status>;
    /// CRI `ContainerStats`.
    async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Status>;
    /// CRI `ListContainerStats`.
    async fn list_container_stats(
        &self,
        request: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse, Status>;
    /// CRI `PodSandboxStats`.
    async fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Status>;
    /// CRI `ListPodSandboxStats`.
    async fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Status>;
    /// CRI `UpdateRuntimeConfig`.
    async fn update_runtime_config(
        &self,
        request: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse, Status>;
    /// CRI `Status`.
    async fn status(&self, request: StatusRequest) -> Result<StatusResponse, Status>;
    /// CRI `ListMetricDescriptors`.
    async fn list_metric_descriptors(
        &self,
        request: ListMetricDescriptorsRequest,
    ) -> Result<ListMetricDescriptorsResponse, Status>;
    /// CRI `ListPodSandboxMetrics`.
    async fn list_pod_sandbox_metrics(
        &self,
        request: ListPodSandboxMetricsRequest,
    ) -> Result<ListPodSandboxMetricsResponse, Status>;
    /// CRI `RuntimeConfig`.
    async fn runtime_config(&self, request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Status>;
    /// CRI `GetContainerEvents`: what happened to containers from now on. A reader that falls behind loses its stream and
    /// lists again.
    async fn get_container_events(&self) -> Result<Receiver<ContainerEventResponse>, Status>;
}

/// Images: CRI `ImageService`.
#[async_trait::async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// CRI `ListImages`.
    async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Status>;
    /// CRI `ImageStatus`.
    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status>;
    /// CRI `PullImage`.
    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Status>;
    /// CRI `RemoveImage`.
    async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Status>;
    /// CRI `ImageFsInfo`.
    async fn image_fs_info(&self, request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Status>;
}
