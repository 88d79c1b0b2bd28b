//! What flow control shows: metrics with upstream's names, and the tables below `/debug/api_priority_and_fairness/`.
// upstream: apiserver pkg/util/flowcontrol/metrics, apf_controller_debug.go
use super::FlowControl;
use super::level::{Level, Waiter};
use super::queue_set::Rejection;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// upstream: requestDurationSecondsBuckets
const BUCKETS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const REJECTIONS: [Rejection; 3] = [Rejection::ConcurrencyLimit, Rejection::QueueFull, Rejection::TimeOut];

/// What became of a schema's requests.
#[derive(Debug, Default)]
pub(super) struct Counters {
    dispatched: AtomicU64,
    rejected: [AtomicU64; 3],
    executing: AtomicI64,
    waited: Histogram,
    waited_in_vain: Histogram,
    executed: Histogram,
}

impl Counters {
    pub(super) fn dispatched(&self) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self, why: Rejection) {
        self.rejected[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn began(&self) {
        self.executing.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn executed(&self, took: Duration) {
        self.executing.fetch_sub(1, Ordering::Relaxed);
        self.executed.observe(took);
    }

    pub(super) fn waited(&self, took: Duration, executes: bool) {
        if executes { &self.waited } else { &self.waited_in_vain }.observe(took);
    }
}

#[derive(Debug, Default)]
struct Histogram {
    /// Not cumulative; the last is above all bounds.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let bucket = BUCKETS.partition_point(|bound| *bound < took.as_secs_f64());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut count = 0;
        for (i, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            let bound = BUCKETS.get(i).map_or("+Inf".to_owned(), ToString::to_string);
            line(out, &format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), count);
        }
        let seconds = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        line(out, &format!("{name}_sum"), labels, seconds);
        line(out, &format!("{name}_count"), labels, count);
    }
}

fn line(out: &mut String, name: &str, labels: &str, value: impl Display) {
    writeln!(out, "{name}{{{labels}}} {value}").expect("writing into a string");
}

fn head(out: &mut String, name: &str, stability: &str, kind: &str, help: &str) -> String {
    let name = format!("apiserver_flowcontrol_{name}");
    writeln!(out, "# HELP {name} [{stability}] {help}\n# TYPE {name} {kind}").expect("writing into a string");
    name
}

impl FlowControl {
    /// All metrics in Prometheus' text form.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        self.level_metrics(&mut out);
        self.schema_metrics(&mut out);
        out
    }

    fn level_metrics(&self, out: &mut String) {
        let levels = &self.0.config.load().levels;
        let mut gauge = |name: &str, stability: &str, help: &str, value: &dyn Fn(&Level) -> f64| {
            let name = head(out, name, stability, "gauge", help);
            for level in levels {
                line(out, &name, &format!("priority_level=\"{}\"", level.name), value(level));
            }
        };
        let help = "Nominal number of execution seats configured for each priority level";
        gauge("nominal_limit_seats", "BETA", help, &|level| level.seats().limits.nominal as f64);
        gauge("request_concurrency_limit", "ALPHA", help, &|level| level.seats().limits.nominal as f64);
        let help = "Configured lower bound on number of execution seats available to each priority level";
        gauge("lower_limit_seats", "ALPHA", help, &|level| level.seats().limits.min as f64);
        let help = "Configured upper bound on number of execution seats available to each priority level";
        gauge("upper_limit_seats", "ALPHA", help, &|level| level.seats().limits.max as f64);
        let help = "current derived number of execution seats available to each priority level";
        gauge("current_limit_seats", "ALPHA", help, &|level| level.seats().current as f64);
        let help = "High watermark, over last adjustment period, of demand_seats";
        gauge("demand_seats_high_watermark", "ALPHA", help, &|level| level.seats().wanted.high as f64);
        let help = "Time-weighted average, over last adjustment period, of demand_seats";
        gauge("demand_seats_average", "ALPHA", help, &|level| level.seats().wanted.average);
        let help = "Time-weighted standard deviation, over last adjustment period, of demand_seats";
        gauge("demand_seats_stdev", "ALPHA", help, &|level| level.seats().wanted.deviation);
        gauge("demand_seats_smoothed", "ALPHA", "Smoothed seat demands", &|level| level.seats().wanted.smoothed);
    }

    fn schema_metrics(&self, out: &mut String) {
        let config = self.0.config.load();
        let mut waiting: BTreeMap<String, usize> = BTreeMap::new();
        for level in &config.levels {
            level.look(|set| {
                for (_, _, waiter) in set.waiters() {
                    *waiting.entry(waiter.schema.clone()).or_default() += 1;
                }
            });
        }
        let labels = |schema: &super::config::Schema| {
            format!("flow_schema=\"{}\",priority_level=\"{}\"", schema.rules.name, schema.rules.level)
        };
        let help = "Number of requests rejected by API Priority and Fairness subsystem";
        let name = head(out, "rejected_requests_total", "BETA", "counter", help);
        for schema in &config.schemas {
            for why in REJECTIONS {
                let count = schema.counters.rejected[why as usize].load(Ordering::Relaxed);
                if count > 0 {
                    line(out, &name, &format!("{},reason=\"{}\"", labels(schema), why.reason()), count);
                }
            }
        }
        type Value<'a> = &'a dyn Fn(&super::config::Schema) -> i64;
        let mut each = |name: &str, stability: &str, kind: &str, help: &str, value: Value<'_>| {
            let name = head(out, name, stability, kind, help);
            for schema in &config.schemas {
                line(out, &name, &labels(schema), value(schema));
            }
        };
        let help = "Number of requests executed by API Priority and Fairness subsystem";
        each("dispatched_requests_total", "BETA", "counter", help, &|schema| {
            i64::try_from(schema.counters.dispatched.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
        });
        let queued = |schema: &super::config::Schema| {
            i64::try_from(waiting.get(&schema.rules.name).copied().unwrap_or(0)).unwrap_or(i64::MAX)
        };
        let help = "Number of requests currently pending in queues of the API Priority and Fairness subsystem";
        each("current_inqueue_requests", "BETA", "gauge", help, &queued);
        let help = "Number of seats currently pending in queues of the API Priority and Fairness subsystem";
        each("current_inqueue_seats", "ALPHA", "gauge", help, &queued);
        let executing = |schema: &super::config::Schema| schema.counters.executing.load(Ordering::Relaxed);
        let help = "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API \
                    Priority and Fairness subsystem";
        each("current_executing_requests", "BETA", "gauge", help, &executing);
        let help = "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any \
                    stage otherwise) requests in the API Priority and Fairness subsystem";
        each("current_executing_seats", "BETA", "gauge", help, &executing);
        let help = "Length of time a request spent waiting in its queue";
        let name = head(out, "request_wait_duration_seconds", "BETA", "histogram", help);
        for schema in &config.schemas {
            let (labels, counters) = (labels(schema), &schema.counters);
            counters.waited.write(out, &name, &format!("execute=\"true\",{labels}"));
            counters.waited_in_vain.write(out, &name, &format!("execute=\"false\",{labels}"));
        }
        let help = "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API \
                    Priority and Fairness subsystem";
        let name = head(out, "request_execution_seconds", "ALPHA", "histogram", help);
        for schema in &config.schemas {
            schema.counters.executed.write(out, &name, &format!("{},type=\"regular\"", labels(schema)));
        }
    }

    /// The table that `what` (`dump_queues`, …) names.
    pub fn dump(&self, what: &str, details: bool) -> Option<String> {
        match what {
            "dump_priority_levels" => Some(self.dump_priority_levels()),
            "dump_queues" => Some(self.dump_queues()),
            "dump_requests" => Some(self.dump_requests(details)),
            _ => None,
        }
    }

    /// The levels.
    pub(super) fn dump_priority_levels(&self) -> String {
        let mut rows = vec![texts([
            "PriorityLevelName",
            "ActiveQueues",
            "IsIdle",
            "IsQuiescing",
            "WaitingRequests",
            "ExecutingRequests",
            "DispatchedRequests",
            "RejectedRequests",
            "TimedoutRequests",
            "CancelledRequests",
        ])];
        for level in &self.0.config.load().levels {
            let (active, waiting, executing) = level.look(|set| {
                let active = set.states().filter(|queue| queue.waiting > 0).count();
                (active, set.waiting(), set.executing())
            });
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
            rows.push(vec![
                level.name.clone(),
                active.to_string(),
                (waiting + executing == 0).to_string(),
                false.to_string(),
                waiting.to_string(),
                executing.to_string(),
                count(&level.counts.dispatched),
                count(&level.counts.rejected),
                count(&level.counts.timed_out),
                count(&level.counts.cancelled),
            ]);
        }
        table(&rows)
    }

    fn dump_queues(&self) -> String {
        let mut rows = vec![texts([
            "PriorityLevelName",
            "Index",
            "PendingRequests",
            "ExecutingRequests",
            "SeatsInUse",
            "NextDispatchR",
            "InitialSeatsSum",
            "MaxSeatsSum",
            "TotalWorkSum",
        ])];
        for level in &self.0.config.load().levels {
            level.look(|set| {
                for (index, queue) in set.states().enumerate() {
                    let (waiting, executing) = (queue.waiting.to_string(), queue.executing.to_string());
                    rows.push(vec![
                        level.name.clone(),
                        index.to_string(),
                        waiting.clone(),
                        executing.clone(),
                        executing,
                        format!("{:.8}ss", queue.next),
                        waiting.clone(),
                        waiting,
                        format!("{:.8}ss", queue.waiting as f64 * 0.003),
                    ]);
                }
            });
        }
        table(&rows)
    }

    /// The requests that wait.
    pub(super) fn dump_requests(&self, details: bool) -> String {
        let mut header = texts([
            "PriorityLevelName",
            "FlowSchemaName",
            "QueueIndex",
            "RequestIndexInQueue",
            "FlowDistingsher",
            "ArriveTime",
            "InitialSeats",
            "FinalSeats",
            "AdditionalLatency",
            "StartTime",
        ]);
        if details {
            let more = ["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];
            header.extend(texts(more));
        }
        let mut rows = vec![header];
        for level in &self.0.config.load().levels {
            level.look(|set| {
                let waiters = set.waiters();
                rows.extend(waiters.map(|(queue, at, waiter)| request_row(level, queue, at, waiter, details)));
            });
        }
        table(&rows)
    }
}

fn request_row(level: &Arc<Level>, queue: usize, at: usize, waiter: &Waiter, details: bool) -> Vec<String> {
    let mut row = vec![
        level.name.clone(),
        waiter.schema.clone(),
        queue.to_string(),
        at.to_string(),
        waiter.flow.clone(),
        waiter.arrived.to_string(),
        "1".to_owned(),
        "0".to_owned(),
        "0s".to_owned(),
        "0001-01-01T00:00:00Z".to_owned(),
    ];
    if details {
        let info = &waiter.info;
        let version = match info.api_group.as_str() {
            "" => info.api_version.clone(),
            group => format!("{group}/{}", info.api_version),
        };
        row.extend([
            waiter.user.clone(),
            info.verb.to_owned(),
            info.path.clone(),
            info.namespace.clone(),
            info.name.clone(),
            version,
            info.resource.clone(),
            info.subresource.clone(),
        ]);
    }
    row
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

/// Rows with their columns below each other, as Go's tabwriter sets them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count() + 2).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).max(8)).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            match column + 1 == row.len() {
                true => out.push_str(cell),
                false => write!(out, "{:1$}", format!("{cell},"), widths[column]).expect("writing into a string"),
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [texts(["Name", "Index", "Last"]), texts(["workload-low", "10", "x"])];
        assert_eq!(table(&rows), "Name,         Index,  Last\nworkload-low, 10,     x\n");
    }

    #[test]
    fn histograms_are_cumulative() {
        let histogram = Histogram::default();
        for millis in [0, 5, 6, 40_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut out = String::new();
        histogram.write(&mut out, "h", "a=\"b\"");
        for line in
            ["h_bucket{a=\"b\",le=\"0\"} 1", "h_bucket{a=\"b\",le=\"0.005\"} 2", "h_bucket{a=\"b\",le=\"0.02\"} 3"]
        {
            assert!(out.contains(line), "{out}");
        }
        assert!(out.contains("h_bucket{a=\"b\",le=\"+Inf\"} 4") && out.contains("h_sum{a=\"b\"} 40.011"), "{out}");
    }
}
