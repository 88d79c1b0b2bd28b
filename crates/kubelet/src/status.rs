//! The pod status the API shows: a pure function of the pod, of what the runtime shows and of why starts failed.
// upstream: pkg/kubelet, generateAPIPodStatus, getPhase, convertToAPIContainerStatuses; pkg/kubelet/status
pub mod conditions;
pub mod containers;
mod phase;

use crate::pods::PodExt;
use crate::probes::{Outcome, ProbeResults};
use crate::resources::aggregate;
use crate::view::PodView;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use std::collections::HashMap;

pub use phase::phase;

/// Why containers could not start last time: name → (reason, message).
pub type StartFailures = HashMap<String, (String, String)>;

/// Everything besides pod and view that a status depends on.
pub struct Inputs<'a> {
    /// The status last published, or the API's.
    pub previous: &'a PodStatus,
    /// Why containers could not start.
    pub failures: &'a StartFailures,
    /// Results of probes.
    pub probes: &'a ProbeResults,
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// Whether no container of the pod will run again.
    pub terminal: bool,
    /// `(reason, message)` when the kubelet itself ends the pod (deadline, eviction, rejection).
    pub evicted: Option<(&'a str, &'a str)>,
    /// Prefix of container ids: `<runtime>://`.
    pub runtime_name: &'a str,
    /// Conditions that come from elsewhere: of a resize that waits or goes on, of an eviction.
    pub more: &'a [PodCondition],
    /// The present time.
    pub now: Timestamp,
}

/// The status of `pod`.
pub fn generate(pod: &Pod, view: &PodView, inputs: &Inputs<'_>) -> PodStatus {
    let previous = inputs.previous;
    let api = pod.status.clone().unwrap_or_default();
    let mut status = PodStatus {
        container_statuses: containers::statuses(pod, view, inputs, containers::Kind::Regular),
        init_container_statuses: containers::statuses(pod, view, inputs, containers::Kind::Init),
        ephemeral_container_statuses: containers::statuses(pod, view, inputs, containers::Kind::Ephemeral),
        qos_class: Some(crate::resources::qos_class(pod).to_owned()),
        observed_generation: pod.metadata.generation,
        start_time: previous.start_time.clone().or(api.start_time).or_else(|| Some(Time(seconds(inputs.now)))),
        nominated_node_name: api.nominated_node_name,
        resource_claim_statuses: api.resource_claim_statuses,
        extended_resource_claim_status: api.extended_resource_claim_status,
        resize: api.resize,
        allocated_resources: aggregate::to_list(aggregate::requests(pod)),
        resources: Some(effective_resources(pod)),
        ..Default::default()
    };
    set_ips(pod, view, inputs, &mut status);
    let all: Vec<ContainerStatus> = all_statuses(&status);
    let mut phase = phase(pod, &all, inputs.terminal, view.any_active_regular_started(pod));
    let old_phase = previous.phase.as_deref().unwrap_or_default();
    let terminal = |phase: &str| matches!(phase, "Succeeded" | "Failed");
    if terminal(pod.phase()) {
        phase = pod.phase();
    } else if !terminal(phase) && terminal(old_phase) {
        phase = old_phase;
    }
    if phase == old_phase {
        status.reason = previous.reason.clone().or(api.reason);
        status.message = previous.message.clone().or(api.message);
    }
    if let Some((reason, message)) = inputs.evicted.filter(|_| !terminal(pod.phase())) {
        phase = "Failed";
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
    status.phase = Some(phase.to_owned());
    mark_started_and_ready(pod, inputs, &mut status);
    let mut conditions = conditions::generate(pod, view, &status, previous, seconds(inputs.now));
    let new: Vec<_> =
        inputs.more.iter().filter(|one| conditions.iter().all(|known| known.type_ != one.type_)).cloned().collect();
    conditions.extend(new);
    status.conditions = Some(conditions);
    status
}

/// The resources of the whole pod.
fn effective_resources(pod: &Pod) -> ResourceRequirements {
    ResourceRequirements {
        requests: aggregate::to_list(aggregate::requests(pod)),
        limits: aggregate::to_list(aggregate::limits(pod)),
        claims: None,
    }
}

fn all_statuses(status: &PodStatus) -> Vec<ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()).cloned().collect()
}

fn set_ips(pod: &Pod, view: &PodView, inputs: &Inputs<'_>, status: &mut PodStatus) {
    status.host_ip = inputs.host_ips.first().cloned();
    let host_ips = inputs.host_ips.iter().map(|ip| HostIP { ip: ip.clone() });
    status.host_ips = Some(host_ips.collect::<Vec<_>>()).filter(|ips| !ips.is_empty());
    let mut ips = if pod.host_network() { inputs.host_ips.to_vec() } else { view.ips() };
    if ips.is_empty() {
        // A pod keeps the address it had until it gets another one.
        ips = inputs.previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect::<Vec<_>>()).filter(|ips| !ips.is_empty());
}

/// Sets `started` and `ready` from probe results.
// upstream: pkg/kubelet/prober, UpdatePodStatus
fn mark_started_and_ready(pod: &Pod, inputs: &Inputs<'_>, status: &mut PodStatus) {
    let mark = |list: &mut Option<Vec<ContainerStatus>>, init: bool| {
        for status in list.iter_mut().flatten() {
            let Some(container) = pod.container_spec(&status.name) else { continue };
            let id = bare_id(status.container_id.as_deref().unwrap_or_default()).to_owned();
            let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
            let started = running
                && match inputs.probes.startup(&id) {
                    Some(outcome) => outcome == Outcome::Success,
                    None => container.startup_probe.is_none(),
                };
            status.started = Some(started);
            if init && !crate::pods::is_sidecar(&container) {
                let exit = status.state.as_ref().and_then(|state| state.terminated.as_ref());
                status.ready = exit.is_some_and(|terminated| terminated.exit_code == 0);
                continue;
            }
            let probed = match inputs.probes.readiness(&id) {
                Some(outcome) => outcome == Outcome::Success,
                None => container.readiness_probe.is_none(),
            };
            status.ready = started && running && probed;
        }
    };
    mark(&mut status.container_statuses, false);
    mark(&mut status.init_container_statuses, true);
}

/// A container id without its `<runtime>://` prefix.
pub fn bare_id(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, bare)| bare)
}

/// `time` cut to seconds, as the API keeps it.
pub fn seconds(time: Timestamp) -> Timestamp {
    time.round(TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Floor)).unwrap_or(time)
}

/// A CRI time (nanoseconds since the epoch) as the API keeps it.
pub fn from_nanos(nanos: i64) -> Option<Time> {
    let time = Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_nanos(nanos)).ok()?;
    (nanos > 0).then(|| Time(seconds(time)))
}

#[cfg(test)]
mod tests;
