//! One probe of one container instance: when it runs, and when its result counts.
// upstream: pkg/kubelet/prober, worker.go
use super::check::{self, Verdict};
use super::{Kind, Outcome, ProbeResults};
use crate::events::Severity;
use crate::kubelet::Kubelet;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Everything one probe needs.
pub struct Task {
    pub kubelet: Arc<Kubelet>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub id: String,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    pub kind: Kind,
    pub spec: Probe,
    pub pod_ip: String,
    pub results: Arc<Mutex<ProbeResults>>,
    pub started: watch::Sender<bool>,
    pub wake: Arc<dyn Fn() + Send + Sync>,
    pub adopted: bool,
}

/// Counts results in a row until one of them counts.
struct Thresholds {
    success: i32,
    failure: i32,
    last: Option<bool>,
    run: i32,
}

impl Thresholds {
    fn new(spec: &Probe) -> Self {
        Thresholds {
            success: spec.success_threshold.unwrap_or(1),
            failure: spec.failure_threshold.unwrap_or(3),
            last: None,
            run: 0,
        }
    }

    /// The outcome, once a threshold is reached.
    fn note(&mut self, success: bool) -> Option<Outcome> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        match success {
            true => (self.run >= self.success).then_some(Outcome::Success),
            false => (self.run >= self.failure).then_some(Outcome::Failure),
        }
    }
}

impl Task {
    /// Probes until the container must restart, has started (startup), or the task is dropped.
    pub async fn run(self) {
        let period = Duration::from_secs(u64::try_from(self.spec.period_seconds.unwrap_or(10)).unwrap_or(10).max(1));
        let delay = Duration::from_secs(u64::try_from(self.spec.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let age = Timestamp::now().as_nanosecond().saturating_sub(i128::from(self.started_at));
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        let mut first = Instant::now() + delay.saturating_sub(age);
        if self.adopted {
            // Not all probes of a node at once after a restart.
            first += period.mul_f64(fastrand::f64());
        }
        tokio::time::sleep_until(first).await;
        if self.kind != Kind::Startup && self.started.subscribe().wait_for(|started| *started).await.is_err() {
            return;
        }
        let mut timer = interval_at(Instant::now(), period);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut thresholds = Thresholds::new(&self.spec);
        loop {
            timer.tick().await;
            let Some(success) = self.probe_once().await else { continue };
            let Some(outcome) = thresholds.note(success) else { continue };
            let changed = self.results.lock().set(&self.id, self.kind, outcome);
            if self.kind == Kind::Startup && outcome == Outcome::Success {
                self.started.send_replace(true);
            }
            if changed {
                (self.wake)();
            }
            if self.kind == Kind::Startup || (self.kind == Kind::Liveness && outcome == Outcome::Failure) {
                return;
            }
        }
    }

    /// Runs the probe; `None` when it could not be run at all.
    async fn probe_once(&self) -> Option<bool> {
        let target = check::Target {
            runtime: self.kubelet.runtime.as_ref(),
            container: &self.container,
            id: &self.id,
            pod_ip: &self.pod_ip,
        };
        let verdict = check::run(&self.spec, &target).await;
        let warn = |reason: &str, message: String| {
            self.kubelet.recorder.container(&self.pod, &self.container.name, Severity::Warning, reason, message);
        };
        let kind = self.kind.as_str();
        match verdict {
            Verdict::Success => Some(true),
            Verdict::Warning(output) => {
                warn("ProbeWarning", format!("{kind} probe warning: {output}"));
                Some(true)
            }
            Verdict::Failure(output) => {
                warn("Unhealthy", format!("{kind} probe failed: {output}"));
                Some(false)
            }
            Verdict::Error(error) => {
                warn("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {error}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_count_after_their_threshold_in_a_row() {
        let spec = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Default::default() };
        let mut thresholds = Thresholds::new(&spec);
        let got: Vec<_> = [false, false, true, false, false, false, true, true].map(|ok| thresholds.note(ok)).into();
        let (yes, no) = (Some(Outcome::Success), Some(Outcome::Failure));
        assert_eq!(got, [None, None, None, None, None, no, None, yes]);
    }
}
