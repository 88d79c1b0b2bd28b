//! The runtime as CRI `RuntimeService` and `ImageService`.
use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tonic::Status;

use crate::cgroup::Limits;
use crate::cri::{self, ImageService, RuntimeService};
use crate::image::pull::pull;
use crate::image::reference::Reference;
use crate::image::store;
use crate::records::{ContainerPhase, ContainerRecord};
use crate::runtime::Runtime;
use crate::sandboxes::internal;
use crate::shim::protocol::Request;
use crate::status;
use crate::streaming::{Target, Wanted};

fn matches(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn seconds(timeout: i64) -> Duration {
    Duration::from_secs(u64::try_from(timeout).unwrap_or(0))
}

#[async_trait::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: cri::VersionRequest) -> Result<cri::VersionResponse, Status> {
        Ok(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "pintle".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: cri::RunPodSandboxRequest) -> Result<cri::RunPodSandboxResponse, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("the sandbox has no configuration"))?;
        let id = self.inner.run_sandbox(config, request.runtime_handler).await?;
        Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: cri::StopPodSandboxRequest,
    ) -> Result<cri::StopPodSandboxResponse, Status> {
        self.inner.stop_sandbox(&request.pod_sandbox_id).await?;
        Ok(cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: cri::RemovePodSandboxRequest,
    ) -> Result<cri::RemovePodSandboxResponse, Status> {
        self.inner.remove_sandbox(&request.pod_sandbox_id).await?;
        Ok(cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: cri::PodSandboxStatusRequest,
    ) -> Result<cri::PodSandboxStatusResponse, Status> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        let record = sandbox.record.lock().clone();
        let containers = self.inner.containers_of(&record.id);
        let statuses = containers.iter().map(|container| status::container(&container.record.lock(), &self.inner));
        Ok(cri::PodSandboxStatusResponse {
            status: Some(status::sandbox(&record)),
            info: HashMap::new(),
            containers_statuses: statuses.collect(),
            timestamp: crate::shim::log::now_nanoseconds(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: cri::ListPodSandboxRequest,
    ) -> Result<cri::ListPodSandboxResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let sandboxes: Vec<_> = self.inner.sandboxes.lock().values().cloned().collect();
        let items = sandboxes
            .iter()
            .map(|sandbox| status::sandbox_entry(&sandbox.record.lock()))
            .filter(|item| {
                item.id.starts_with(&filter.id)
                    && filter.state.as_ref().is_none_or(|state| state.state == item.state)
                    && matches(&filter.label_selector, &item.labels)
            })
            .collect();
        Ok(cri::ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("the container has no configuration"))?;
        let container_id = self.inner.create_container(&request.pod_sandbox_id, config).await?;
        Ok(cri::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: cri::StartContainerRequest,
    ) -> Result<cri::StartContainerResponse, Status> {
        self.inner.start_container(&request.container_id).await?;
        Ok(cri::StartContainerResponse {})
    }

    async fn stop_container(&self, request: cri::StopContainerRequest) -> Result<cri::StopContainerResponse, Status> {
        self.inner.stop_container(&request.container_id, seconds(request.timeout)).await?;
        Ok(cri::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: cri::RemoveContainerRequest,
    ) -> Result<cri::RemoveContainerResponse, Status> {
        self.inner.remove_container(&request.container_id).await?;
        Ok(cri::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: cri::ListContainersRequest,
    ) -> Result<cri::ListContainersResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let containers: Vec<_> = self.inner.containers.lock().values().cloned().collect();
        let items = containers
            .iter()
            .map(|container| status::container_entry(&container.record.lock()))
            .filter(|item| {
                item.id.starts_with(&filter.id)
                    && item.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                    && filter.state.as_ref().is_none_or(|state| state.state == item.state)
                    && matches(&filter.label_selector, &item.labels)
            })
            .collect();
        Ok(cri::ListContainersResponse { containers: items })
    }

    async fn container_status(
        &self,
        request: cri::ContainerStatusRequest,
    ) -> Result<cri::ContainerStatusResponse, Status> {
        let container = self.inner.container(&request.container_id)?;
        let record = container.record.lock().clone();
        let mut info = HashMap::new();
        if request.verbose {
            info.insert("info".to_owned(), serde_json::json!({"pid": record.pid}).to_string());
        }
        Ok(cri::ContainerStatusResponse { status: Some(status::container(&record, &self.inner)), info })
    }

    async fn update_container_resources(
        &self,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Result<cri::UpdateContainerResourcesResponse, Status> {
        let container = self.inner.container(&request.container_id)?;
        let wanted = request.linux.unwrap_or_default();
        let _guard = container.lifecycle.lock().await;
        let mut record = container.record.lock().clone();
        if record.phase == ContainerPhase::Running {
            self.inner
                .cgroups
                .update(&record.cgroup, &limits(&wanted))
                .map_err(|error| internal("failed to update resources")(&error))?;
        }
        let linux = record.config.0.linux.get_or_insert_default();
        merge_resources(linux.resources.get_or_insert_default(), wanted);
        self.inner.save_container(&record).map_err(|error| internal("failed to update resources")(&error))?;
        container.record.lock().config = record.config;
        Ok(cri::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: cri::ReopenContainerLogRequest,
    ) -> Result<cri::ReopenContainerLogResponse, Status> {
        let container = self.inner.container(&request.container_id)?;
        let (id, sandbox_id, phase) = {
            let record = container.record.lock();
            (record.id.clone(), record.sandbox_id.clone(), record.phase)
        };
        if phase != ContainerPhase::Running {
            return Err(Status::failed_precondition("container is not running"));
        }
        let sandbox = self.inner.sandbox(&sandbox_id)?;
        let reopened = sandbox.shim.order(&Request::ReopenLog { id }).await;
        reopened.map_err(|error| internal("failed to reopen the log")(&error))?;
        Ok(cri::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse, Status> {
        self.inner.exec_sync(&request.container_id, &request.cmd, seconds(request.timeout)).await
    }

    async fn exec(&self, request: cri::ExecRequest) -> Result<cri::ExecResponse, Status> {
        let container = self.running(&request.container_id, "exec")?;
        if request.tty && request.stderr {
            return Err(Status::invalid_argument("tty and stderr cannot both be true"));
        }
        let wanted = Wanted { tty: request.tty, stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
        let url = self.inner.streaming.url(Target::Exec { container, command: request.cmd, wanted })?;
        Ok(cri::ExecResponse { url })
    }

    async fn attach(&self, request: cri::AttachRequest) -> Result<cri::AttachResponse, Status> {
        let container = self.running(&request.container_id, "attach")?;
        if request.tty && request.stderr {
            return Err(Status::invalid_argument("tty and stderr cannot both be true"));
        }
        let wanted = Wanted { tty: request.tty, stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
        let url = self.inner.streaming.url(Target::Attach { container, wanted })?;
        Ok(cri::AttachResponse { url })
    }

    async fn port_forward(&self, request: cri::PortForwardRequest) -> Result<cri::PortForwardResponse, Status> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        let (sandbox, stopped) = {
            let record = sandbox.record.lock();
            (record.id.clone(), record.stopped)
        };
        if stopped {
            return Err(Status::failed_precondition(format!("sandbox container \"{sandbox}\" is not running")));
        }
        let ports = request.port.iter().filter_map(|port| u16::try_from(*port).ok()).collect();
        let url = self.inner.streaming.url(Target::PortForward { sandbox, ports })?;
        Ok(cri::PortForwardResponse { url })
    }

    async fn container_stats(
        &self,
        request: cri::ContainerStatsRequest,
    ) -> Result<cri::ContainerStatsResponse, Status> {
        let container = self.inner.container(&request.container_id)?;
        let id = container.record.lock().id.clone();
        let stats = self.inner.stats_of(|record| record.id == id).await?;
        Ok(cri::ContainerStatsResponse { stats: stats.into_iter().next() })
    }

    async fn list_container_stats(
        &self,
        request: cri::ListContainerStatsRequest,
    ) -> Result<cri::ListContainerStatsResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let wanted = |record: &ContainerRecord| {
            record.phase == ContainerPhase::Running
                && record.id.starts_with(&filter.id)
                && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
                && matches(&filter.label_selector, &record.config.0.labels)
        };
        Ok(cri::ListContainerStatsResponse { stats: self.inner.stats_of(wanted).await? })
    }

    async fn pod_sandbox_stats(
        &self,
        request: cri::PodSandboxStatsRequest,
    ) -> Result<cri::PodSandboxStatsResponse, Status> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        Ok(cri::PodSandboxStatsResponse { stats: Some(self.inner.sandbox_stats(&sandbox).await?) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: cri::ListPodSandboxStatsRequest,
    ) -> Result<cri::ListPodSandboxStatsResponse, Status> {
        let filter = request.filter.unwrap_or_default();
        let sandboxes: Vec<_> = self.inner.sandboxes.lock().values().cloned().collect();
        let mut stats = Vec::new();
        for sandbox in sandboxes {
            let wanted = {
                let record = sandbox.record.lock();
                !record.stopped
                    && record.id.starts_with(&filter.id)
                    && matches(&filter.label_selector, &record.config.0.labels)
            };
            if wanted {
                stats.push(self.inner.sandbox_stats(&sandbox).await?);
            }
        }
        Ok(cri::ListPodSandboxStatsResponse { stats })
    }

    async fn update_runtime_config(
        &self,
        _: cri::UpdateRuntimeConfigRequest,
    ) -> Result<cri::UpdateRuntimeConfigResponse, Status> {
        // The node's pod range goes to the pod network directly.
        Ok(cri::UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, _: cri::StatusRequest) -> Result<cri::StatusResponse, Status> {
        let network = self.inner.config.network.ready().await;
        let condition = |kind: &str, result: &Result<(), String>, reason: &str| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: result.is_ok(),
            reason: if result.is_ok() { String::new() } else { reason.to_owned() },
            message: result.as_ref().err().cloned().unwrap_or_default(),
        };
        let conditions =
            vec![condition("RuntimeReady", &Ok(()), ""), condition("NetworkReady", &network, "NetworkPluginNotReady")];
        let features = cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        Ok(cri::StatusResponse {
            status: Some(cri::RuntimeStatus { conditions }),
            info: HashMap::new(),
            runtime_handlers: ["", "runc"]
                .map(|name| cri::RuntimeHandler { name: name.to_owned(), features: Some(features) })
                .into(),
            features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true }),
        })
    }

    async fn list_metric_descriptors(
        &self,
        _: cri::ListMetricDescriptorsRequest,
    ) -> Result<cri::ListMetricDescriptorsResponse, Status> {
        Ok(cri::ListMetricDescriptorsResponse { descriptors: Vec::new() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: cri::ListPodSandboxMetricsRequest,
    ) -> Result<cri::ListPodSandboxMetricsResponse, Status> {
        Ok(cri::ListPodSandboxMetricsResponse { pod_metrics: Vec::new() })
    }

    async fn runtime_config(&self, _: cri::RuntimeConfigRequest) -> Result<cri::RuntimeConfigResponse, Status> {
        let cgroup_driver = cri::CgroupDriver::Cgroupfs as i32;
        Ok(cri::RuntimeConfigResponse { linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver }) })
    }

    async fn get_container_events(&self) -> Result<Receiver<cri::ContainerEventResponse>, Status> {
        Ok(self.subscribe())
    }
}

impl Runtime {
    /// The full id of a container that runs.
    fn running(&self, id: &str, what: &str) -> Result<String, Status> {
        let container = self.inner.container(id)?;
        let record = container.record.lock();
        if record.phase != ContainerPhase::Running {
            return Err(Status::failed_precondition(format!(
                "failed to {what} in container: container is in {:?} state",
                record.phase
            )));
        }
        Ok(record.id.clone())
    }
}

fn limits(wanted: &cri::LinuxContainerResources) -> Limits {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let number = |number: i64| Some(number).filter(|number| *number != 0);
    Limits {
        cpu_shares: u64::try_from(wanted.cpu_shares).ok().filter(|shares| *shares > 0),
        cpu_quota: number(wanted.cpu_quota),
        cpu_period: u64::try_from(wanted.cpu_period).ok().filter(|period| *period > 0),
        memory: number(wanted.memory_limit_in_bytes),
        pids: None,
        cpus: text(&wanted.cpuset_cpus),
        mems: text(&wanted.cpuset_mems),
        unified: wanted.unified.clone().into_iter().collect(),
    }
}

/// Zero and empty mean "as it is".
fn merge_resources(current: &mut cri::LinuxContainerResources, wanted: cri::LinuxContainerResources) {
    let number = |current: &mut i64, wanted: i64| {
        if wanted != 0 {
            *current = wanted;
        }
    };
    number(&mut current.cpu_period, wanted.cpu_period);
    number(&mut current.cpu_quota, wanted.cpu_quota);
    number(&mut current.cpu_shares, wanted.cpu_shares);
    number(&mut current.memory_limit_in_bytes, wanted.memory_limit_in_bytes);
    number(&mut current.memory_swap_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    number(&mut current.oom_score_adj, wanted.oom_score_adj);
    if !wanted.cpuset_cpus.is_empty() {
        current.cpuset_cpus = wanted.cpuset_cpus;
    }
    if !wanted.cpuset_mems.is_empty() {
        current.cpuset_mems = wanted.cpuset_mems;
    }
    current.unified.extend(wanted.unified);
}

fn image(record: &store::Record) -> cri::Image {
    let user = record.config.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    cri::Image {
        id: record.id.clone(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.size,
        uid: match uid {
            Some(value) => Some(cri::Int64Value { value }),
            None if user.is_empty() => Some(cri::Int64Value { value: 0 }),
            None => None,
        },
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: Some(cri::ImageSpec::default()),
        pinned: record.pinned,
    }
}

#[async_trait::async_trait]
impl ImageService for Runtime {
    async fn list_images(&self, request: cri::ListImagesRequest) -> Result<cri::ListImagesResponse, Status> {
        let wanted =
            request.filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|name| !name.is_empty());
        let records = match wanted {
            Some(name) => self.inner.images.find(&name).into_iter().collect(),
            None => self.inner.images.list(),
        };
        Ok(cri::ListImagesResponse { images: records.iter().map(|record| image(record)).collect() })
    }

    async fn image_status(&self, request: cri::ImageStatusRequest) -> Result<cri::ImageStatusResponse, Status> {
        let name = request.image.unwrap_or_default().image;
        let found = self.inner.images.find(&name).map(|record| image(&record));
        Ok(cri::ImageStatusResponse { image: found, info: HashMap::new() })
    }

    async fn pull_image(&self, request: cri::PullImageRequest) -> Result<cri::PullImageResponse, Status> {
        let name = request.image.unwrap_or_default().image;
        match pull(&self.inner.images, &name, request.auth.as_ref(), &self.inner.config.registries).await {
            Ok(record) => Ok(cri::PullImageResponse { image_ref: record.id.clone() }),
            Err(error) => {
                let normal = Reference::parse(&name).map_or_else(|_| name.clone(), |reference| reference.to_string());
                let text = format!("failed to pull and unpack image \"{normal}\": {error}");
                Err(if error.is_not_found() { Status::not_found(text) } else { Status::unknown(text) })
            }
        }
    }

    async fn remove_image(&self, request: cri::RemoveImageRequest) -> Result<cri::RemoveImageResponse, Status> {
        let name = request.image.unwrap_or_default().image;
        let inner = self.inner.clone();
        let removed = tokio::task::spawn_blocking(move || inner.images.remove(&name, &inner.images_in_use()));
        let failed = internal("failed to remove image");
        removed.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        Ok(cri::RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: cri::ImageFsInfoRequest) -> Result<cri::ImageFsInfoResponse, Status> {
        let inner = self.inner.clone();
        let info = tokio::task::spawn_blocking(move || inner.image_fs_info());
        info.await.map_err(|error| internal("failed to look at the disk")(&error))
    }
}
