//! Probes: their results, and the tasks that run them.
mod check;
mod grpc;
mod task;

use crate::kubelet::Kubelet;
use crate::pods::{PodExt, is_sidecar};
use crate::view::{ContainerView, PodView, State};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus, Probe};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What a probe says about a container now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not decided yet (startup only).
    Unknown,
    /// The last threshold reached was that of success.
    Success,
    /// The last threshold reached was that of failure.
    Failure,
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `startupProbe`
    Startup,
    /// `livenessProbe`
    Liveness,
    /// `readinessProbe`
    Readiness,
}

/// Results by container id; none for a container without that probe.
#[derive(Clone, Debug, Default)]
pub struct ProbeResults(HashMap<(String, Kind), Outcome>);

impl ProbeResults {
    /// The result of one probe of a container instance.
    pub fn get(&self, id: &str, kind: Kind) -> Option<Outcome> {
        self.0.get(&(id.to_owned(), kind)).copied()
    }
    /// The startup probe's result.
    pub fn startup(&self, id: &str) -> Option<Outcome> {
        self.get(id, Kind::Startup)
    }
    /// The liveness probe's result.
    pub fn liveness(&self, id: &str) -> Option<Outcome> {
        self.get(id, Kind::Liveness)
    }
    /// The readiness probe's result.
    pub fn readiness(&self, id: &str) -> Option<Outcome> {
        self.get(id, Kind::Readiness)
    }
    /// Notes a result; true when it changed.
    pub fn set(&mut self, id: &str, kind: Kind, outcome: Outcome) -> bool {
        self.0.insert((id.to_owned(), kind), outcome) != Some(outcome)
    }
}

impl Kind {
    /// As events word it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    /// The probe of this kind that `container` has.
    pub fn spec(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

/// The probes of one pod: a task for each probe of each running container instance.
pub struct ProbeSet {
    results: Arc<Mutex<ProbeResults>>,
    tasks: HashMap<(String, Kind), AbortOnDropHandle<()>>,
    started: HashMap<String, watch::Sender<bool>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl ProbeSet {
    /// No probes yet; `wake` is called whenever a result changes.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        ProbeSet { results: Arc::default(), tasks: HashMap::new(), started: HashMap::new(), wake: Arc::new(wake) }
    }

    /// The results now.
    pub fn results(&self) -> ProbeResults {
        self.results.lock().clone()
    }

    /// Starts probes of containers that have begun to run, ends those of containers that do not run any more.
    pub fn follow(&mut self, kubelet: &Arc<Kubelet>, pod: &Arc<Pod>, view: &PodView, previous: Option<&PodStatus>) {
        self.tasks.retain(|(id, _), _| view.running().any(|running| running.id == *id));
        self.started.retain(|id, _| view.running().any(|running| running.id == *id));
        self.results.lock().0.retain(|(id, _), _| view.find_id(id).is_some());
        let ips = if pod.host_network() { kubelet.node.host_ips.clone() } else { view.ips() };
        let sidecars = pod.init_containers().iter().filter(|container| is_sidecar(container));
        for container in pod.containers().iter().chain(sidecars) {
            let Some(found) = view.find(&container.name).filter(|found| found.state == State::Running) else {
                continue;
            };
            for kind in KINDS {
                let key = (found.id.clone(), kind);
                let Some(spec) = kind.spec(container).filter(|_| !self.tasks.contains_key(&key)) else { continue };
                let before = adopted(kubelet, found, previous);
                let initial = initial(kind, before);
                self.results.lock().set(&found.id, kind, initial);
                let started =
                    container.startup_probe.is_none() || before.is_some_and(|status| status.started == Some(true));
                let sender = self.started.entry(found.id.clone()).or_insert_with(|| watch::Sender::new(started));
                if kind == Kind::Startup && initial == Outcome::Success {
                    continue;
                }
                let task = task::Task {
                    kubelet: kubelet.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    id: found.id.clone(),
                    started_at: found.started_at,
                    kind,
                    spec: spec.clone(),
                    pod_ip: ips.first().cloned().unwrap_or_default(),
                    results: self.results.clone(),
                    started: sender.clone(),
                    wake: self.wake.clone(),
                    adopted: before.is_some(),
                };
                self.tasks.insert(key, AbortOnDropHandle::new(tokio::spawn(task.run())));
            }
        }
    }

    /// Ends the probes that could restart a container.
    pub fn stop_restarts(&mut self) {
        self.tasks.retain(|(_, kind), _| *kind == Kind::Readiness);
    }

    /// Ends all probes.
    pub fn stop(&mut self) {
        self.tasks.clear();
    }
}

/// The published status of a container that ran before this process.
fn adopted<'a>(
    kubelet: &Kubelet,
    found: &ContainerView,
    previous: Option<&'a PodStatus>,
) -> Option<&'a ContainerStatus> {
    if i128::from(found.started_at) >= kubelet.since.as_nanosecond() {
        return None;
    }
    let previous = previous?;
    let lists = [&previous.container_statuses, &previous.init_container_statuses];
    let mut all = lists.into_iter().flat_map(|list| list.iter().flatten());
    all.find(|status| status.container_id.as_deref().is_some_and(|id| crate::status::bare_id(id) == found.id))
}

/// The result before the first probe; an adopted container keeps what was said of it.
fn initial(kind: Kind, before: Option<&ContainerStatus>) -> Outcome {
    match kind {
        Kind::Startup if before.is_some_and(|status| status.started == Some(true)) => Outcome::Success,
        Kind::Startup => Outcome::Unknown,
        Kind::Liveness => Outcome::Success,
        Kind::Readiness if before.is_some_and(|status| status.ready) => Outcome::Success,
        Kind::Readiness => Outcome::Failure,
    }
}
