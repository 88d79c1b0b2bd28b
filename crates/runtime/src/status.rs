//! Sandboxes and containers as CRI messages.
use crate::cri;
use crate::records::{ContainerPhase, ContainerRecord, SandboxRecord};
use crate::runtime::Inner;

fn sandbox_state(record: &SandboxRecord) -> i32 {
    let state = if record.stopped { cri::PodSandboxState::SandboxNotready } else { cri::PodSandboxState::SandboxReady };
    state as i32
}

fn container_state(record: &ContainerRecord) -> i32 {
    let state = match record.phase {
        ContainerPhase::Created => cri::ContainerState::ContainerCreated,
        ContainerPhase::Running => cri::ContainerState::ContainerRunning,
        ContainerPhase::Exited => cri::ContainerState::ContainerExited,
    };
    state as i32
}

/// A sandbox in a list.
pub(crate) fn sandbox_entry(record: &SandboxRecord) -> cri::PodSandbox {
    let config = &record.config.0;
    cri::PodSandbox {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: sandbox_state(record),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

/// A sandbox's status.
pub(crate) fn sandbox(record: &SandboxRecord) -> cri::PodSandboxStatus {
    let config = &record.config.0;
    let mut ips = record.ips.iter();
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().cloned().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip: ip.clone() }).collect(),
    };
    let options = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = options.and_then(|security| security.namespace_options.clone());
    cri::PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: sandbox_state(record),
        created_at: record.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

/// A container in a list.
pub(crate) fn container_entry(record: &ContainerRecord) -> cri::Container {
    let config = &record.config.0;
    cri::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        state: container_state(record),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
    }
}

/// A container's status.
pub(crate) fn container(record: &ContainerRecord, inner: &Inner) -> cri::ContainerStatus {
    let config = &record.config.0;
    let mut image = config.image.clone().unwrap_or_default();
    // The name that people know, if the image still has one.
    if let Some(name) = inner.images.find(&record.image_id).and_then(|image| image.tags.first().cloned()) {
        let user_specified = std::mem::take(&mut image.user_specified_image);
        let known = crate::image::reference::Reference::parse(&user_specified).ok().and_then(|name| name.tagged());
        let has = |name: &String| inner.images.find(name).is_some_and(|image| image.id == record.image_id);
        image.image = known.filter(has).unwrap_or(name);
        image.user_specified_image = user_specified;
    }
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
    cri::ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: container_state(record),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: Some(image),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: record.log_path.clone(),
        resources: resources.map(|linux| cri::ContainerResources { linux: Some(linux), windows: None }),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: i64::from(record.uid),
                gid: i64::from(record.gid),
                supplemental_groups: record.groups.iter().map(|group| i64::from(*group)).collect(),
            }),
        }),
    }
}
