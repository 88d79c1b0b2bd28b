//! What the scheduler counts, under upstream's names.
use crate::cache::Cache;
use crate::framework::PluginSet;
use crate::queue::Lengths;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The pod is bound.
    Scheduled,
    /// No node would do.
    Unschedulable,
    /// Something went wrong.
    Error,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Scheduled => "scheduled",
            Outcome::Unschedulable => "unschedulable",
            Outcome::Error => "error",
        }
    }
}

/// A histogram whose bounds are `start` times powers of two.
#[derive(Clone, Debug)]
struct Histogram {
    start: f64,
    buckets: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    fn new(start: f64, buckets: usize) -> Self {
        Histogram { start, buckets: vec![0; buckets], sum: 0.0, count: 0 }
    }

    fn observe(&mut self, value: f64) {
        let mut bound = self.start;
        for bucket in &mut self.buckets {
            *bucket += u64::from(value <= bound);
            bound *= 2.0;
        }
        self.sum += value;
        self.count += 1;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let (comma, braces) = match labels {
            "" => ("", String::new()),
            labels => (",", format!("{{{labels}}}")),
        };
        let mut bound = self.start;
        for count in &self.buckets {
            writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}")?;
            bound *= 2.0;
        }
        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count)?;
        writeln!(out, "{name}_sum{braces} {}", self.sum)?;
        writeln!(out, "{name}_count{braces} {}", self.count)
    }
}

#[derive(Debug)]
struct Observed {
    attempts: BTreeMap<(String, Outcome), Histogram>,
    algorithm: Histogram,
    latency: BTreeMap<String, Histogram>,
    tries: Histogram,
    victims: Histogram,
    unschedulable: BTreeMap<(&'static str, String), u64>,
}

/// The counters.
#[derive(Debug)]
pub struct Metrics {
    observed: Mutex<Observed>,
    preemptions: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let observed = Observed {
            attempts: BTreeMap::new(),
            algorithm: Histogram::new(0.001, 15),
            latency: BTreeMap::new(),
            tries: Histogram::new(1.0, 5),
            victims: Histogram::new(1.0, 7),
            unschedulable: BTreeMap::new(),
        };
        Metrics { observed: Mutex::new(observed), preemptions: AtomicU64::new(0) }
    }
}

impl Metrics {
    /// A decision took so long.
    pub fn decided(&self, took: Duration) {
        self.observed.lock().algorithm.observe(took.as_secs_f64());
    }

    /// An attempt of a profile ended after `took`.
    pub fn attempted(&self, profile: &str, outcome: Outcome, took: Duration) {
        let mut observed = self.observed.lock();
        let key = (profile.to_owned(), outcome);
        observed.attempts.entry(key).or_insert_with(|| Histogram::new(0.001, 15)).observe(took.as_secs_f64());
    }

    /// A pod was bound at its `attempts`-th attempt, `waited` after it was first to be tried.
    pub fn bound(&self, attempts: u32, waited: Duration) {
        let mut observed = self.observed.lock();
        observed.tries.observe(f64::from(attempts));
        let label = if attempts >= 15 { "15+".to_owned() } else { attempts.to_string() };
        observed.latency.entry(label).or_insert_with(|| Histogram::new(0.01, 20)).observe(waited.as_secs_f64());
    }

    /// Plugins rejected a pod of a profile.
    pub fn rejected(&self, profile: &str, by: PluginSet) {
        let mut observed = self.observed.lock();
        for plugin in by.iter() {
            *observed.unschedulable.entry((plugin.name(), profile.to_owned())).or_insert(0) += 1;
        }
    }

    /// A pod tried to preempt others and found `victims`, if any would do.
    pub fn preempted(&self, victims: Option<usize>) {
        self.preemptions.fetch_add(1, Ordering::Relaxed);
        if let Some(victims) = victims {
            self.observed.lock().victims.observe(victims as f64);
        }
    }

    /// All metrics in text form.
    pub fn text(&self, queue: Lengths, cache: &Mutex<Cache>) -> String {
        let (nodes, pods, assumed) = cache.lock().sizes();
        let mut out = String::new();
        self.write(&mut out, queue, [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)])
            .expect("writing into a string");
        out
    }

    fn write(&self, out: &mut String, queue: Lengths, sizes: [(&str, usize); 3]) -> std::fmt::Result {
        let observed = self.observed.lock();
        let name = "scheduler_schedule_attempts_total";
        head(out, name, "counter", "[STABLE] Attempts to schedule pods, by result and profile.")?;
        for ((profile, outcome), histogram) in &observed.attempts {
            writeln!(out, "{name}{{profile=\"{profile}\",result=\"{}\"}} {}", outcome.name(), histogram.count)?;
        }
        let name = "scheduler_scheduling_attempt_duration_seconds";
        head(out, name, "histogram", "[STABLE] Attempt latency in seconds, decision and binding.")?;
        for ((profile, outcome), histogram) in &observed.attempts {
            histogram.write(out, name, &format!("profile=\"{profile}\",result=\"{}\"", outcome.name()))?;
        }
        let name = "scheduler_scheduling_algorithm_duration_seconds";
        head(out, name, "histogram", "[ALPHA] Decision latency in seconds.")?;
        observed.algorithm.write(out, name, "")?;
        let name = "scheduler_pod_scheduling_sli_duration_seconds";
        head(out, name, "histogram", "[BETA] From the queue to the binding, in seconds, by attempts.")?;
        for (attempts, histogram) in &observed.latency {
            histogram.write(out, name, &format!("attempts=\"{attempts}\""))?;
        }
        let name = "scheduler_pod_scheduling_attempts";
        head(out, name, "histogram", "[STABLE] Attempts until a pod was scheduled.")?;
        observed.tries.write(out, name, "")?;
        let name = "scheduler_preemption_victims";
        head(out, name, "histogram", "[STABLE] Victims per preemption.")?;
        observed.victims.write(out, name, "")?;
        let name = "scheduler_preemption_attempts_total";
        head(out, name, "counter", "[STABLE] Attempts to preempt.")?;
        writeln!(out, "{name} {}", self.preemptions.load(Ordering::Relaxed))?;
        let name = "scheduler_unschedulable_pods";
        head(out, name, "gauge", "[ALPHA] Rejections of pods, by plugin and profile.")?;
        for ((plugin, profile), count) in &observed.unschedulable {
            writeln!(out, "{name}{{plugin=\"{plugin}\",profile=\"{profile}\"}} {count}")?;
        }
        let name = "scheduler_pending_pods";
        head(out, name, "gauge", "[STABLE] Pods that wait, by queue.")?;
        for (of, count) in [
            ("active", queue.active),
            ("backoff", queue.backoff),
            ("gated", queue.gated),
            ("unschedulable", queue.unschedulable),
        ] {
            writeln!(out, "{name}{{queue=\"{of}\"}} {count}")?;
        }
        let name = "scheduler_cache_size";
        head(out, name, "gauge", "[ALPHA] What the scheduler's cache holds.")?;
        for (of, count) in sizes {
            writeln!(out, "{name}{{type=\"{of}\"}} {count}")?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_upstreams_names_and_cumulative_buckets() {
        let metrics = Metrics::default();
        metrics.attempted("default-scheduler", Outcome::Scheduled, Duration::from_millis(3));
        metrics.bound(20, Duration::from_secs(1));
        let lengths = Lengths { gated: 2, ..Lengths::default() };
        let text = metrics.text(lengths, &Mutex::default());
        for line in [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"scheduled\",le=\"0.002\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"scheduled\",le=\"0.004\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"15+\"} 1",
            "scheduler_pending_pods{queue=\"gated\"} 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }
}
