//! Container statuses: what the runtime shows, joined with what was known before and why starts failed.
use super::{Inputs, from_nanos};
use crate::pods::{PodExt, is_sidecar};
use crate::view::{ContainerView, PodView, State};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, Pod, ResourceRequirements, VolumeMountStatus,
};

/// Which of a pod's container lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `spec.containers`
    Regular,
    /// `spec.initContainers`
    Init,
    /// `spec.ephemeralContainers`
    Ephemeral,
}

const LOST_EXIT_CODE: i32 = 137;

/// Statuses of one list of containers; `None` when the pod has none of the kind.
// upstream: pkg/kubelet, convertToAPIContainerStatuses
pub fn statuses(pod: &Pod, view: &PodView, inputs: &Inputs<'_>, kind: Kind) -> Option<Vec<ContainerStatus>> {
    let previous = inputs.previous;
    let ephemeral;
    let (containers, old) = match kind {
        Kind::Regular => (pod.containers(), &previous.container_statuses),
        Kind::Init => (pod.init_containers(), &previous.init_container_statuses),
        Kind::Ephemeral => {
            ephemeral = pod.ephemeral_containers();
            (ephemeral.as_slice(), &previous.ephemeral_container_statuses)
        }
    };
    let mut all: Vec<ContainerStatus> = (containers.iter())
        .map(|container| {
            let old = old.iter().flatten().find(|status| status.name == container.name);
            one(pod, view, inputs, kind, container, old)
        })
        .collect();
    if kind != Kind::Init {
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Some(all).filter(|all| !all.is_empty())
}

fn one(
    pod: &Pod,
    view: &PodView,
    inputs: &Inputs<'_>,
    kind: Kind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let default_reason = if pod.init_containers().is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let mut status = starting_point(container, old, default_reason);
    let instances: Vec<&ContainerView> = view.containers.iter().filter(|one| one.name == container.name).collect();
    match instances.first() {
        None => lost(pod, old, &mut status, default_reason),
        Some(newest) => {
            status = convert(container, newest, old, inputs.runtime_name);
            status.resources = actual_resources(pod, container, newest, old);
            if let Some(before) = instances.get(1) {
                status.last_state = convert(container, before, old, inputs.runtime_name).state;
            }
        }
    }
    if kind == Kind::Init && init_is_done(pod, view, container, instances.first().copied(), &mut status) {
        return status;
    }
    if crate::plan::needs_start(container, pod, view)
        && let Some((reason, message)) = inputs.failures.get(&container.name)
    {
        if status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
            status.last_state = status.state.take();
        }
        status.state = waiting(reason, message);
    }
    status
}

fn waiting(reason: &str, message: &str) -> Option<ContainerState> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let waiting = ContainerStateWaiting { reason: some(reason), message: some(message) };
    Some(ContainerState { waiting: Some(waiting), ..Default::default() })
}

fn starting_point(container: &Container, old: Option<&ContainerStatus>, reason: &str) -> ContainerStatus {
    if let Some(old) = old.filter(|old| old.state.as_ref().is_some_and(|state| state.terminated.is_some())) {
        return old.clone();
    }
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: waiting(reason, ""),
        restart_count: old.map_or(0, |old| old.restart_count),
        last_state: old.and_then(|old| old.last_state.clone()),
        volume_mounts: mount_statuses(container),
        ..Default::default()
    }
}

/// The container ran before and the runtime has forgotten it: it ended in a way nobody saw.
fn lost(pod: &Pod, old: Option<&ContainerStatus>, status: &mut ContainerStatus, default_reason: &str) {
    let ran = old.and_then(|old| old.state.as_ref()).is_some_and(|state| state.running.is_some());
    let waits = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    let default = waits.is_some_and(|waiting| waiting.reason.as_deref() == Some(default_reason));
    let known = status.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
    if !ran || !default || known {
        return;
    }
    let message = "The container could not be located when the pod was deleted.  The container used to be Running";
    status.last_state = terminated_unknown(message);
    if !pod.is_deleting() {
        status.restart_count += 1;
    }
}

/// The state of a container whose end nobody saw.
pub fn terminated_unknown(message: &str) -> Option<ContainerState> {
    let terminated = ContainerStateTerminated {
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(message.to_owned()),
        exit_code: LOST_EXIT_CODE,
        ..Default::default()
    };
    Some(ContainerState { terminated: Some(terminated), ..Default::default() })
}

/// Whether an init container is done for good; marks one that the runtime has forgotten as completed.
fn init_is_done(
    pod: &Pod,
    view: &PodView,
    container: &Container,
    found: Option<&ContainerView>,
    status: &mut ContainerStatus,
) -> bool {
    if found.is_some_and(|found| found.state == State::Exited && found.exit_code == 0) {
        return !is_sidecar(container);
    }
    let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    if found.is_none() && view.any_regular_created(pod) && !is_sidecar(container) && waits {
        let message = "Unable to get init container status from container runtime and pod has been initialized, \
                       treat it as exited normally";
        let terminated = ContainerStateTerminated {
            reason: Some("Completed".into()),
            message: Some(message.into()),
            ..Default::default()
        };
        status.state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
        return true;
    }
    false
}

fn convert(
    container: &Container,
    found: &ContainerView,
    old: Option<&ContainerStatus>,
    runtime_name: &str,
) -> ContainerStatus {
    let id = format!("{runtime_name}://{}", found.id);
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let state = match found.state {
        State::Running => Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: from_nanos(found.started_at) }),
            ..Default::default()
        }),
        State::Exited => Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(id.clone()),
                exit_code: found.exit_code,
                finished_at: from_nanos(found.finished_at),
                message: some(&found.message),
                reason: some(&found.reason),
                signal: None,
                started_at: from_nanos(found.started_at),
            }),
            ..Default::default()
        }),
        State::Unknown if old.and_then(|old| old.state.as_ref()).is_some_and(|state| state.running.is_some()) => {
            terminated_unknown("The container could not be located when the pod was terminated")
        }
        State::Created | State::Unknown => waiting("", ""),
    };
    ContainerStatus {
        name: found.name.clone(),
        image: found.image.clone(),
        image_id: found.image_id.clone(),
        restart_count: found.restart_count.max(old.map_or(0, |old| old.restart_count)),
        state,
        last_state: old.and_then(|old| last_state(old, &id)),
        container_id: Some(id),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        user: found.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.supplemental_groups.clone()).filter(|groups| !groups.is_empty()),
            }),
        }),
        volume_mounts: mount_statuses(container),
        ..Default::default()
    }
}

/// The resources a container runs with: what it was granted, or what it had while the runtime still changes them.
fn actual_resources(
    pod: &Pod,
    container: &Container,
    found: &ContainerView,
    old: Option<&ContainerStatus>,
) -> Option<ResourceRequirements> {
    let granted = || Some(container.resources.clone().unwrap_or_default());
    let Some(actual) = found.resources.as_ref().filter(|_| found.state == State::Running) else { return granted() };
    let wanted = crate::resources::container(pod, container, 1);
    if crate::resources::differ(&wanted, actual) == (false, false) {
        return granted();
    }
    let same = |old: &&ContainerStatus| old.container_id.as_deref().is_some_and(|id| super::bare_id(id) == found.id);
    old.filter(same).and_then(|old| old.resources.clone()).or_else(granted)
}

/// The end of the instance before `id`, as far as the last status tells.
fn last_state(old: &ContainerStatus, id: &str) -> Option<ContainerState> {
    let ended = old.state.as_ref().filter(|state| state.terminated.is_some());
    match old.container_id.as_deref() {
        Some(old_id) if old_id != id && ended.is_some() => ended.cloned(),
        _ => old.last_state.clone(),
    }
}

fn mount_statuses(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    container.volume_mounts.as_ref().map(|mounts| {
        let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: (mount.read_only == Some(true)).then(|| match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
                _ => "Disabled".to_owned(),
            }),
            ..Default::default()
        };
        mounts.iter().map(status).collect()
    })
}
