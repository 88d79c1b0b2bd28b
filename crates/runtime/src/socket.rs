//! The runtime on a Unix socket: CRI over gRPC, for `crictl`, `critest` and every other client of CRI.
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use futures::stream::{self, BoxStream, Stream, StreamExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Request, Response, Status};

use crate::cri::image_service_server::{ImageService as ImageRpc, ImageServiceServer};
use crate::cri::runtime_service_server::{RuntimeService as RuntimeRpc, RuntimeServiceServer};
use crate::cri::{self, ImageService, RuntimeService};
use crate::runtime::{Inner, Runtime};

/// The largest message, as the kubelet's own limit (`maxMsgSize`): a list of everything on a node has to fit.
const MAX_MESSAGE: usize = 16 << 20;

/// The socket of a state directory.
pub fn path(state: &Path) -> PathBuf {
    state.join("cri.sock")
}

/// Answers until the runtime is gone.
pub(crate) async fn serve(runtime: Weak<Inner>, listener: UnixListener) {
    let served = Served(runtime.clone());
    let sandboxes = RuntimeServiceServer::new(served.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let images =
        ImageServiceServer::new(served).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let server = tonic::transport::Server::builder().add_service(sandboxes).add_service(images);
    if let Err(error) = server.serve_with_incoming(connections(runtime, listener)).await {
        tracing::error!(%error, "the CRI socket is not served any more");
    }
}

fn connections(runtime: Weak<Inner>, listener: UnixListener) -> impl Stream<Item = std::io::Result<UnixStream>> {
    stream::unfold((runtime, listener), |(runtime, listener)| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        (runtime.strong_count() > 0).then_some((accepted, (runtime, listener)))
    })
}

/// The runtime as long as it is there.
#[derive(Clone)]
struct Served(Weak<Inner>);

impl Served {
    fn runtime(&self) -> Result<Runtime, Status> {
        let inner: Arc<Inner> = self.0.upgrade().ok_or_else(|| Status::unavailable("the runtime shuts down"))?;
        Ok(Runtime { inner })
    }
}

/// An rpc service whose methods are those of one of our traits, plus `more`.
macro_rules! served {
    ($service:ident as $ours:ident { $($method:ident: $request:ident -> $response:ident,)* } $($more:tt)*) => {
        #[tonic::async_trait]
        impl $service for Served {
            $(async fn $method(&self, request: Request<cri::$request>) -> Result<Response<cri::$response>, Status> {
                $ours::$method(&self.runtime()?, request.into_inner()).await.map(Response::new)
            })*
            $($more)*
        }
    };
}

served! {
    RuntimeRpc as RuntimeService {
        version: VersionRequest -> VersionResponse,
        run_pod_sandbox: RunPodSandboxRequest -> RunPodSandboxResponse,
        stop_pod_sandbox: StopPodSandboxRequest -> StopPodSandboxResponse,
        remove_pod_sandbox: RemovePodSandboxRequest -> RemovePodSandboxResponse,
        pod_sandbox_status: PodSandboxStatusRequest -> PodSandboxStatusResponse,
        list_pod_sandbox: ListPodSandboxRequest -> ListPodSandboxResponse,
        create_container: CreateContainerRequest -> CreateContainerResponse,
        start_container: StartContainerRequest -> StartContainerResponse,
        stop_container: StopContainerRequest -> StopContainerResponse,
        remove_container: RemoveContainerRequest -> RemoveContainerResponse,
        list_containers: ListContainersRequest -> ListContainersResponse,
        container_status: ContainerStatusRequest -> ContainerStatusResponse,
        update_container_resources: UpdateContainerResourcesRequest -> UpdateContainerResourcesResponse,
        reopen_container_log: ReopenContainerLogRequest -> ReopenContainerLogResponse,
        exec_sync: ExecSyncRequest -> ExecSyncResponse,
        exec: ExecRequest -> ExecResponse,
        attach: AttachRequest -> AttachResponse,
        port_forward: PortForwardRequest -> PortForwardResponse,
        container_stats: ContainerStatsRequest -> ContainerStatsResponse,
        list_container_stats: ListContainerStatsRequest -> ListContainerStatsResponse,
        pod_sandbox_stats: PodSandboxStatsRequest -> PodSandboxStatsResponse,
        list_pod_sandbox_stats: ListPodSandboxStatsRequest -> ListPodSandboxStatsResponse,
        update_runtime_config: UpdateRuntimeConfigRequest -> UpdateRuntimeConfigResponse,
        status: StatusRequest -> StatusResponse,
        list_metric_descriptors: ListMetricDescriptorsRequest -> ListMetricDescriptorsResponse,
        list_pod_sandbox_metrics: ListPodSandboxMetricsRequest -> ListPodSandboxMetricsResponse,
        runtime_config: RuntimeConfigRequest -> RuntimeConfigResponse,
    }

    type GetContainerEventsStream = BoxStream<'static, Result<cri::ContainerEventResponse, Status>>;

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let mut events = self.runtime()?.get_container_events().await?;
        let events = stream::poll_fn(move |context| events.poll_recv(context)).map(Ok);
        Ok(Response::new(events.boxed()))
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Result<Response<cri::CheckpointContainerResponse>, Status> {
        Err(Status::unimplemented("containers are not checkpointed"))
    }
}

served! {
    ImageRpc as ImageService {
        list_images: ListImagesRequest -> ListImagesResponse,
        image_status: ImageStatusRequest -> ImageStatusResponse,
        pull_image: PullImageRequest -> PullImageResponse,
        remove_image: RemoveImageRequest -> RemoveImageResponse,
        image_fs_info: ImageFsInfoRequest -> ImageFsInfoResponse,
    }
}
