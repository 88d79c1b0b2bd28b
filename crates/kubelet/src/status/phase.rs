//! The phase of a pod from the statuses of its containers.
use crate::pods::{PodExt, is_sidecar, should_restart};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

/// What a container's status says, in the words the phase is decided by.
enum Seen {
    Missing,
    Running {
        started: bool,
    },
    /// Exited, or waiting to run again after this exit code.
    Stopped {
        exit_code: i32,
        terminated: bool,
    },
    Waiting,
}

fn seen(container: &Container, statuses: &[ContainerStatus]) -> Seen {
    let Some(status) = statuses.iter().find(|status| status.name == container.name) else { return Seen::Missing };
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return Seen::Running { started: status.started == Some(true) };
    }
    if let Some(terminated) = state.terminated {
        return Seen::Stopped { exit_code: terminated.exit_code, terminated: true };
    }
    if state.waiting.is_none() {
        return Seen::Missing;
    }
    match status.last_state.as_ref().and_then(|last| last.terminated.as_ref()) {
        Some(terminated) => Seen::Stopped { exit_code: terminated.exit_code, terminated: false },
        None => Seen::Waiting,
    }
}

/// The phase of `pod`. `terminal`: no container will run again. `initialized`: a regular container has started.
// upstream: pkg/kubelet, getPhase
pub fn phase(pod: &Pod, statuses: &[ContainerStatus], terminal: bool, initialized: bool) -> &'static str {
    let (mut pending_init, mut pending_sidecars) = (0, 0);
    let (mut unknown, mut running, mut waiting, mut stopped, mut final_stops, mut succeeded) = (0, 0, 0, 0, 0, 0);
    let mut failed_for_good = false;
    for container in pod.init_containers() {
        match (seen(container, statuses), is_sidecar(container)) {
            (Seen::Stopped { exit_code, .. }, false) => {
                failed_for_good |= exit_code != 0 && !should_restart(container, pod, exit_code);
            }
            (_, false) => pending_init += 1,
            (Seen::Running { started }, true) => {
                running += 1;
                pending_sidecars += usize::from(!started);
            }
            (Seen::Stopped { .. }, true) => {}
            (Seen::Waiting, true) => {
                waiting += 1;
                pending_sidecars += 1;
            }
            (Seen::Missing, true) => unknown += 1,
        }
    }
    for container in pod.containers() {
        match seen(container, statuses) {
            Seen::Missing => unknown += 1,
            Seen::Running { .. } => running += 1,
            Seen::Waiting => waiting += 1,
            Seen::Stopped { exit_code, terminated } => {
                stopped += 1;
                final_stops += usize::from(!should_restart(container, pod, exit_code));
                succeeded += usize::from(terminated && exit_code == 0);
            }
        }
    }
    if failed_for_good {
        return "Failed";
    }
    if pending_init > 0 || (pending_sidecars > 0 && !initialized) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        let ended = if stopped == succeeded { "Succeeded" } else { "Failed" };
        let ends = (terminal && !pod.is_static()) || stopped == final_stops;
        return if ends { ended } else { "Running" };
    }
    "Pending"
}
