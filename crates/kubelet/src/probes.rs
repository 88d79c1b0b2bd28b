//! Probes: their results, and the tasks that run them.
use std::collections::HashMap;

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
    /// Forgets a container instance.
    pub fn remove(&mut self, id: &str) {
        self.0.retain(|(known, _), _| known != id);
    }
}
