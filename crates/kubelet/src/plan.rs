//! What to do next for a pod: a pure function of its spec, of what the runtime shows and of probe results.
// upstream: pkg/kubelet/kuberuntime, computePodActions and computeInitContainerActions
use crate::pods::{PodExt, container_hash, is_sidecar, should_restart};
use crate::probes::{Outcome, ProbeResults};
use crate::resources;
use crate::view::{ContainerView, PodView, State};
use k8s_openapi::api::core::v1::{Container, Pod};
use pintle_runtime::cri::{NamespaceMode, PodSandboxState};

/// The next steps for a pod, in the order in which they are taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// Stop everything, the sandbox included.
    pub kill_pod: bool,
    /// Make a sandbox.
    pub create_sandbox: bool,
    /// The sandbox to use, or the one that was found wanting.
    pub sandbox_id: String,
    /// Number of the sandbox to make.
    pub attempt: u32,
    /// Containers to stop.
    pub kill: Vec<Kill>,
    /// Ephemeral containers to start, by index.
    pub ephemeral: Vec<usize>,
    /// Init containers to start, by index, in order.
    pub init: Vec<usize>,
    /// Regular containers to start, by index.
    pub start: Vec<usize>,
    /// Running containers, by name and id, whose resources change while they run.
    pub update: Vec<(String, String)>,
}

/// A container to stop, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Message of the `Killing` event.
    pub message: String,
    /// Which probe's grace period counts.
    pub reason: KillReason,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// The pod ends, or the container changed.
    Other,
    /// Its startup probe failed.
    StartupProbe,
    /// Its liveness probe failed.
    LivenessProbe,
}

/// Whether the pod needs a new sandbox, the number of the next one and the id of the present one.
// upstream: pkg/kubelet/kuberuntime/util, PodSandboxChanged
pub fn sandbox_changed(pod: &Pod, view: &PodView) -> (bool, u32, String) {
    let Some(newest) = view.sandboxes.first() else { return (true, 0, String::new()) };
    let ready = |state: i32| state == PodSandboxState::SandboxReady as i32;
    let attempt = newest.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    if view.sandboxes.iter().filter(|sandbox| ready(sandbox.state)).count() > 1 || !ready(newest.state) {
        return (true, attempt + 1, newest.id.clone());
    }
    let options =
        newest.linux.as_ref().and_then(|linux| linux.namespaces.as_ref()).and_then(|all| all.options.as_ref());
    let expected = if pod.host_network() { NamespaceMode::Node } else { NamespaceMode::Pod };
    if options.map_or(NamespaceMode::Pod as i32, |options| options.network) != expected as i32 {
        return (true, attempt + 1, String::new());
    }
    if !pod.host_network() && newest.network.as_ref().is_some_and(|network| network.ip.is_empty()) {
        return (true, attempt + 1, newest.id.clone());
    }
    (false, attempt, newest.id.clone())
}

/// Decides the next steps.
pub fn actions(pod: &Pod, view: &PodView, probes: &ProbeResults) -> Actions {
    let (changed, attempt, sandbox_id) = sandbox_changed(pod, view);
    let mut plan = Actions { kill_pod: changed, create_sandbox: changed, sandbox_id, attempt, ..Default::default() };
    if changed {
        with_new_sandbox(pod, view, &mut plan);
        return plan;
    }
    for (index, container) in pod.ephemeral_containers().iter().enumerate() {
        if view.find(&container.name).is_none() {
            plan.ephemeral.push(index);
        }
    }
    let initialized = init_actions(pod, view, probes, &mut plan);
    if plan.kill_pod || !initialized {
        return plan;
    }
    let mut keep = 0;
    for (index, container) in pod.containers().iter().enumerate() {
        let Some(found) = view.find(&container.name).filter(|found| found.state == State::Running) else {
            if needs_start(container, pod, view) {
                plan.start.push(index);
                if let Some(unknown) = view.find(&container.name).filter(|found| found.state == State::Unknown) {
                    let message =
                        format!("Container is in {:?} state, try killing it before restart", unknown.state.as_str());
                    plan.kill.push(kill(unknown, message, KillReason::Other));
                }
            }
            continue;
        };
        let Some((mut message, reason, changed)) = verdict(container, found, probes) else {
            match resize(pod, container, found) {
                Some(Resize::Restart(message)) => {
                    plan.start.push(index);
                    plan.kill.push(kill(found, message, KillReason::Other));
                }
                Some(Resize::InPlace) => plan.update.push((found.name.clone(), found.id.clone())),
                None => {}
            }
            keep += 1;
            continue;
        };
        let policy = container.restart_policy.as_deref().unwrap_or(pod.restart_policy());
        if changed || policy != "Never" {
            message.push_str(", will be restarted");
            plan.start.push(index);
        }
        plan.kill.push(kill(found, message, reason));
    }
    if keep == 0 && plan.start.is_empty() {
        plan.kill_pod = true;
        plan.init.clear();
    }
    plan
}

fn with_new_sandbox(pod: &Pod, view: &PodView, plan: &mut Actions) {
    if pod.restart_policy() == "Never" && plan.attempt != 0 && !view.containers.is_empty() {
        plan.create_sandbox = false;
        return;
    }
    let succeeded = |container: &Container| {
        view.find(&container.name).is_some_and(|found| found.state == State::Exited && found.exit_code == 0)
    };
    let start: Vec<usize> = (pod.containers().iter().enumerate())
        .filter(|(_, container)| {
            let policy = container.restart_policy.as_deref().unwrap_or(pod.restart_policy());
            !(policy == "OnFailure" && succeeded(container))
        })
        .map(|(index, _)| index)
        .collect();
    if start.is_empty() && view.any_regular_created(pod) {
        plan.create_sandbox = false;
        return;
    }
    if pod.init_containers().is_empty() {
        plan.start = start;
    } else {
        plan.init = vec![0];
    }
}

/// Whether a running container must be stopped: the event's message, which probe said so, and whether it changed.
fn verdict(container: &Container, found: &ContainerView, probes: &ProbeResults) -> Option<(String, KillReason, bool)> {
    let name = &container.name;
    if definition_changed(container, found) {
        return Some((format!("Container {name} definition changed"), KillReason::Other, true));
    }
    if probes.liveness(&found.id) == Some(Outcome::Failure) {
        return Some((format!("Container {name} failed liveness probe"), KillReason::LivenessProbe, false));
    }
    if probes.startup(&found.id) == Some(Outcome::Failure) {
        return Some((format!("Container {name} failed startup probe"), KillReason::StartupProbe, false));
    }
    None
}

/// How a running container gets other resources.
enum Resize {
    /// While it runs.
    InPlace,
    /// By a restart, with the event's message.
    Restart(String),
}

/// Whether a running container has other resources than it was granted, and how it gets them.
// upstream: pkg/kubelet/kuberuntime, computePodResizeAction
fn resize(pod: &Pod, container: &Container, found: &ContainerView) -> Option<Resize> {
    let wanted = resources::container(pod, container, 1);
    let (cpu, memory) = resources::differ(&wanted, found.resources.as_ref()?);
    let request = found.memory_request.is_some_and(|request| request != resources::memory_request(container));
    let restarts = |name: &str| {
        let policies = container.resize_policy.as_deref().unwrap_or_default();
        policies.iter().any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
    };
    if cpu && restarts("cpu") || (memory || request) && restarts("memory") {
        return Some(Resize::Restart(format!("Container {} resize requires restart", container.name)));
    }
    (cpu || memory).then_some(Resize::InPlace)
}

/// Whether some running container does not have the resources yet that it was granted.
pub fn is_resizing(pod: &Pod, view: &PodView) -> bool {
    let sidecars = pod.init_containers().iter().filter(|container| is_sidecar(container));
    sidecars.chain(pod.containers()).any(|container| {
        let running = view.find(&container.name).filter(|found| found.state == State::Running);
        running.is_some_and(|found| resize(pod, container, found).is_some())
    })
}

fn definition_changed(container: &Container, found: &ContainerView) -> bool {
    found.hash.as_ref().is_some_and(|hash| *hash != container_hash(container))
}

fn kill(found: &ContainerView, message: String, reason: KillReason) -> Kill {
    Kill { id: found.id.clone(), name: found.name.clone(), message, reason }
}

/// Whether a container that does not run should (upstream: ShouldContainerBeRestarted).
pub fn needs_start(container: &Container, pod: &Pod, view: &PodView) -> bool {
    if pod.is_deleting() {
        return false;
    }
    match view.find(&container.name) {
        None => true,
        Some(found) => match found.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited => should_restart(container, pod, found.exit_code),
        },
    }
}

fn init_failed(found: &ContainerView) -> bool {
    match found.state {
        State::Exited => found.exit_code != 0,
        State::Unknown => true,
        State::Created | State::Running => false,
    }
}

/// Plans the init containers; true when the pod is initialized.
fn init_actions(pod: &Pod, view: &PodView, probes: &ProbeResults, plan: &mut Actions) -> bool {
    let inits = pod.init_containers();
    if inits.is_empty() {
        return true;
    }
    let mut initialized = pod.containers().iter().any(|container| {
        view.find(&container.name).is_some_and(|found| matches!(found.state, State::Created | State::Running))
    });
    let mut previously = initialized;
    // Backwards: finished init containers may have been removed from the runtime, the last one found counts.
    for (index, container) in inits.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(found) = view.find(&container.name) else {
            if previously && sidecar {
                plan.init.push(index);
            }
            continue;
        };
        if previously && !sidecar {
            continue;
        }
        let last = index + 1 == inits.len();
        match found.state {
            State::Created => plan.init.push(index),
            State::Running if sidecar => {
                if sidecar_started(index, container, found, probes, plan) {
                    if last {
                        initialized = true;
                    } else if !previously {
                        plan.init.push(index + 1);
                    }
                    check_sidecar(index, pod, found, probes, plan);
                }
            }
            State::Running => {}
            State::Exited if sidecar => plan.init.push(index),
            State::Exited if init_failed(found) => {
                if !needs_start(container, pod, view) {
                    plan.kill_pod = true;
                    plan.init.clear();
                    return false;
                }
                plan.init.push(index);
            }
            State::Exited if last => initialized = true,
            State::Exited => plan.init.push(index + 1),
            State::Unknown => {
                let policy = container.restart_policy.as_deref().unwrap_or(pod.restart_policy());
                if !sidecar && policy == "Never" {
                    plan.kill_pod = true;
                    plan.init.clear();
                    return false;
                }
                let message =
                    format!("Init container is in {:?} state, try killing it before restart", found.state.as_str());
                plan.kill.push(kill(found, message, KillReason::Other));
                plan.init.push(index);
            }
        }
        previously = true;
    }
    if !previously {
        plan.init.push(0);
    }
    plan.init.reverse();
    initialized
}

/// Whether a running sidecar counts as started; plans its restart when its startup probe failed.
fn sidecar_started(
    index: usize,
    container: &Container,
    found: &ContainerView,
    probes: &ProbeResults,
    plan: &mut Actions,
) -> bool {
    if container.startup_probe.is_none() {
        return true;
    }
    match probes.startup(&found.id) {
        Some(Outcome::Success) => true,
        Some(Outcome::Failure) => {
            let message = format!("Init container {} failed startup probe", container.name);
            plan.kill.push(kill(found, message, KillReason::StartupProbe));
            plan.init.push(index);
            false
        }
        _ => false,
    }
}

fn check_sidecar(index: usize, pod: &Pod, found: &ContainerView, probes: &ProbeResults, plan: &mut Actions) {
    let container = &pod.init_containers()[index];
    let (message, reason) = if definition_changed(container, found) {
        (format!("Init container {} definition changed", container.name), KillReason::Other)
    } else if probes.liveness(&found.id) == Some(Outcome::Failure) {
        (format!("Init container {} failed liveness probe", container.name), KillReason::LivenessProbe)
    } else {
        match resize(pod, container, found) {
            Some(Resize::Restart(message)) => (message, KillReason::Other),
            Some(Resize::InPlace) => return plan.update.push((found.name.clone(), found.id.clone())),
            None => return,
        }
    };
    plan.kill.push(kill(found, message, reason));
    plan.init.push(index);
}

#[cfg(test)]
mod tests;
