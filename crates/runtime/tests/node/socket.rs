//! CRI over the Unix socket.
use std::os::unix::fs::PermissionsExt;

use pintle_runtime::cri::image_service_client::ImageServiceClient;
use pintle_runtime::cri::runtime_service_client::RuntimeServiceClient;
use pintle_runtime::cri::{self, ContainerEventType};
use pintle_runtime::socket;

use crate::support::{Node, container, own};

pub async fn crictl_finds_the_runtime_at_its_socket(node: Node) {
    let path = socket::path(&node.directory.join("state"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "only the owner may connect");
    let uri = format!("unix://{}", path.display());
    let mut runtime = RuntimeServiceClient::connect(uri.clone()).await.unwrap();
    let mut images = ImageServiceClient::connect(uri).await.unwrap();

    let version = runtime.version(cri::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("pintle", "v1"));
    let listed = images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.images.len(), 1);

    let mut events = runtime.get_container_events(cri::GetEventsRequest::default()).await.unwrap().into_inner();
    let sandbox = node.sandbox(own()).await;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.0.clone(),
        config: Some(container("app", "exit 3")),
        sandbox_config: Some(sandbox.1.clone()),
    };
    let id = runtime.create_container(request).await.unwrap().into_inner().container_id;
    runtime.start_container(cri::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    loop {
        let event = events.message().await.unwrap().expect("the stream goes on");
        if event.container_id == id && event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
            break;
        }
    }
    let status = runtime.container_status(cri::ContainerStatusRequest { container_id: id, verbose: false });
    assert_eq!(status.await.unwrap().into_inner().status.unwrap().exit_code, 3);

    let gone = runtime.container_status(cri::ContainerStatusRequest { container_id: "none".into(), verbose: false });
    assert_eq!(gone.await.unwrap_err().code(), tonic::Code::NotFound);
}
