//! The conditions the kubelet owns, and the others kept as they are.
use crate::pods::{PodExt, is_sidecar};
use crate::view::PodView;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Condition types that only the kubelet writes.
pub const OWNED: [&str; 7] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
];

struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Verdict { status: true, reason: "", message: String::new() }
    }
    fn no(reason: &'static str, message: String) -> Self {
        Verdict { status: false, reason, message }
    }
}

/// All conditions of `pod`, given the rest of its new status.
pub fn generate(
    pod: &Pod,
    view: &PodView,
    status: &PodStatus,
    previous: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let api = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut all: Vec<PodCondition> = api.filter(|one| !OWNED.contains(&one.type_.as_str())).cloned().collect();
    for disruption in previous.conditions.iter().flatten().filter(|one| one.type_ == "DisruptionTarget") {
        if !all.iter().any(|one| one.type_ == disruption.type_) {
            all.push(disruption.clone());
        }
    }
    let phase = status.phase.as_deref().unwrap_or_default();
    let statuses = super::all_statuses(status);
    let containers_ready = containers_ready(pod, &statuses, phase);
    let ready = if containers_ready.status {
        gates(pod, &all)
    } else {
        Verdict::no(containers_ready.reason, containers_ready.message.clone())
    };
    let sandbox = Verdict { status: !crate::plan::sandbox_changed(pod, view).0, ..Verdict::yes() };
    let owned = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(pod, &statuses, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::yes()),
    ];
    for (type_, verdict) in owned {
        let status = if verdict.status { "True" } else { "False" };
        let old = previous.conditions.iter().flatten().find(|one| one.type_ == type_);
        let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
        all.push(PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(verdict.reason.to_owned()).filter(|reason| !reason.is_empty()),
            message: Some(verdict.message).filter(|message| !message.is_empty()),
            last_probe_time: None,
            last_transition_time: since.or(Some(Time(now))),
            observed_generation: pod.metadata.generation,
        });
    }
    all
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == name)
}

fn listed(what: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
}

fn joined(unknown: &[&str], what: &str, others: &[&str]) -> String {
    [listed("unknown", unknown), listed(what, others)].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn containers_ready(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = pod.init_containers().iter().filter(|container| is_sidecar(container));
    for container in sidecars.chain(pod.containers()) {
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", String::new());
    }
    if phase == "Failed" {
        return Verdict::no("PodFailed", String::new());
    }
    match joined(&unknown, "unready", &unready) {
        message if message.is_empty() => Verdict::yes(),
        message => Verdict::no("ContainersNotReady", message),
    }
}

fn gates(pod: &Pod, conditions: &[PodCondition]) -> Verdict {
    let gates = pod.pod_spec().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let mut messages = Vec::new();
    for gate in gates {
        let name = &gate.condition_type;
        match conditions.iter().find(|one| one.type_ == *name) {
            None => messages.push(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
            Some(one) if one.status != "True" => {
                let status = &one.status;
                messages.push(format!("the status of pod readiness gate {name:?} is not \"True\", but {status}"));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", messages.join(", ")) }
}

fn initialized(pod: &Pod, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pod.init_containers() {
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done = if is_sidecar(container) { status.started == Some(true) } else { status.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { reason: "PodCompleted", ..Verdict::yes() };
    }
    let started =
        pod.containers().iter().filter_map(|container| find(statuses, &container.name)).any(|status| {
            status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        });
    match joined(&unknown, "incomplete", &incomplete) {
        message if started || message.is_empty() => Verdict::yes(),
        message => Verdict::no("ContainersNotInitialized", message),
    }
}
