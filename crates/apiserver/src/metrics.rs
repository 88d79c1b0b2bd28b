//! What the server counts, in Prometheus' text form with upstream's names.
use crate::request_info::RequestInfo;
use http::StatusCode;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// upstream: the buckets of apiserver_request_duration_seconds.
const BUCKETS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    60.0,
];

/// Labels of a request, without its code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    verb: String,
}

#[derive(Default)]
struct Observed {
    by_code: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

/// Writes the metrics of another part of the process.
type Source = Box<dyn Fn() -> String + Send + Sync>;

#[derive(Default)]
struct Counters {
    requests: Mutex<BTreeMap<Labels, Observed>>,
    reading: AtomicI64,
    writing: AtomicI64,
    long_running: Mutex<BTreeMap<Labels, i64>>,
    authentications: [AtomicU64; 2],
    authorizations: [AtomicU64; 2],
    /// Group, version, resource, subresource and the release that removes it, of what is deprecated and was asked for.
    deprecated: Mutex<Vec<[String; 5]>>,
    others: RwLock<Vec<Source>>,
}

/// The server's counters; clones share them.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Counters>);

/// A request under way; counts it when it ends, or when it is dropped because the client went away.
pub struct Record {
    metrics: Metrics,
    labels: Option<Labels>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Reading,
    Writing,
    LongRunning,
}

impl Metrics {
    /// Counts a request that begins.
    pub fn begin(&self, info: &RequestInfo) -> Record {
        let kind = match info.verb {
            _ if info.is_long_running() => Kind::LongRunning,
            "get" | "list" | "head" | "options" => Kind::Reading,
            _ => Kind::Writing,
        };
        let labels = info.is_resource_request.then(|| Labels {
            group: info.api_group.clone(),
            version: info.api_version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope: match (info.name.is_empty(), info.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
            verb: match info.verb {
                "create" => "POST".into(),
                "update" => "PUT".into(),
                verb => verb.to_uppercase(),
            },
        });
        self.count(kind, labels.as_ref(), 1);
        Record { metrics: self.clone(), labels, kind }
    }

    fn count(&self, kind: Kind, labels: Option<&Labels>, by: i64) {
        match kind {
            Kind::Reading => drop(self.0.reading.fetch_add(by, Ordering::Relaxed)),
            Kind::Writing => drop(self.0.writing.fetch_add(by, Ordering::Relaxed)),
            Kind::LongRunning => {
                let Some(labels) = labels else { return };
                let mut running = self.0.long_running.lock();
                match running.get_mut(labels) {
                    Some(count) => *count += by,
                    None => drop(running.insert(labels.clone(), by)),
                }
                running.retain(|_, count| *count > 0);
            }
        }
    }

    /// Counts that somebody could, or could not, be named.
    pub fn authenticated(&self, known: bool) {
        self.0.authentications[usize::from(known)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that somebody was, or was not, allowed to do something.
    pub fn authorized(&self, allowed: bool) {
        self.0.authorizations[usize::from(allowed)].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that something deprecated was asked for, which the release `removed` (empty: none yet) will not have.
    pub fn deprecated(&self, info: &RequestInfo, removed: &str) {
        let labels = [&info.api_group, &info.api_version, &info.resource, &info.subresource, removed];
        let mut known = self.0.deprecated.lock();
        if !known.iter().any(|known| known.iter().eq(labels)) {
            known.push(labels.map(str::to_owned));
        }
    }

    /// All metrics in text form.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("writing into a string");
        for source in self.0.others.read().iter() {
            out.push_str(&source());
        }
        out
    }

    /// Shows the metrics of another part of the process, too.
    pub fn add(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        self.0.others.write().push(Box::new(source));
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let requests = self.0.requests.lock();
        writeln!(
            out,
            "# HELP apiserver_request_total [STABLE] Counter of apiserver requests by verb, resource, scope and code."
        )?;
        writeln!(out, "# TYPE apiserver_request_total counter")?;
        for (labels, observed) in requests.iter() {
            for (code, count) in &observed.by_code {
                writeln!(
                    out,
                    "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",{}}} {count}",
                    labels.text()
                )?;
            }
        }
        writeln!(
            out,
            "# HELP apiserver_request_duration_seconds [STABLE] Response latency in seconds by verb, resource and scope."
        )?;
        writeln!(out, "# TYPE apiserver_request_duration_seconds histogram")?;
        for (labels, observed) in requests.iter() {
            let name = "apiserver_request_duration_seconds";
            let labels = labels.text();
            for (bound, count) in BUCKETS.iter().zip(observed.buckets) {
                writeln!(out, "{name}_bucket{{component=\"apiserver\",dry_run=\"\",{labels},le=\"{bound}\"}} {count}")?;
            }
            writeln!(
                out,
                "{name}_bucket{{component=\"apiserver\",dry_run=\"\",{labels},le=\"+Inf\"}} {}",
                observed.count
            )?;
            writeln!(out, "{name}_sum{{component=\"apiserver\",dry_run=\"\",{labels}}} {}", observed.seconds)?;
            writeln!(out, "{name}_count{{component=\"apiserver\",dry_run=\"\",{labels}}} {}", observed.count)?;
        }
        writeln!(out, "# HELP apiserver_current_inflight_requests [STABLE] Requests under way, by kind.")?;
        writeln!(out, "# TYPE apiserver_current_inflight_requests gauge")?;
        for (kind, gauge) in [("mutating", &self.0.writing), ("readOnly", &self.0.reading)] {
            let count = gauge.load(Ordering::Relaxed);
            writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {count}")?;
        }
        writeln!(out, "# HELP apiserver_longrunning_requests [STABLE] Watches and streams under way.")?;
        writeln!(out, "# TYPE apiserver_longrunning_requests gauge")?;
        for (labels, count) in self.0.long_running.lock().iter() {
            writeln!(out, "apiserver_longrunning_requests{{component=\"apiserver\",{}}} {count}", labels.text())?;
        }
        writeln!(
            out,
            "# HELP apiserver_requested_deprecated_apis [STABLE] Gauge of deprecated APIs that have been requested, broken out by \
             API group, version, resource, subresource, and removed_release."
        )?;
        writeln!(out, "# TYPE apiserver_requested_deprecated_apis gauge")?;
        for [group, version, resource, subresource, removed] in self.0.deprecated.lock().iter() {
            writeln!(
                out,
                "apiserver_requested_deprecated_apis{{group=\"{group}\",removed_release=\"{removed}\",\
                 resource=\"{resource}\",subresource=\"{subresource}\",version=\"{version}\"}} 1"
            )?;
        }
        writeln!(out, "# HELP authentication_attempts [ALPHA] Counter of authenticated attempts.")?;
        writeln!(out, "# TYPE authentication_attempts counter")?;
        for (result, count) in ["failure", "success"].iter().zip(&self.0.authentications) {
            writeln!(out, "authentication_attempts{{result=\"{result}\"}} {}", count.load(Ordering::Relaxed))?;
        }
        writeln!(
            out,
            "# HELP authorization_attempts_total [ALPHA] Counter of authorization attempts broken down by result."
        )?;
        writeln!(out, "# TYPE authorization_attempts_total counter")?;
        for (result, count) in ["denied", "allowed"].iter().zip(&self.0.authorizations) {
            writeln!(out, "authorization_attempts_total{{result=\"{result}\"}} {}", count.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

impl Labels {
    fn text(&self) -> String {
        format!(
            "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.group, self.resource, self.scope, self.subresource, self.verb, self.version
        )
    }
}

impl Record {
    /// Counts the answer. A watch or stream goes on: its record is to be kept as long.
    pub fn end(self, status: StatusCode, took: Duration) -> Option<Self> {
        // Paths that lead nowhere must not fill the table.
        if let Some(labels) = self.labels.as_ref().filter(|_| status != StatusCode::NOT_FOUND) {
            let mut requests = self.metrics.0.requests.lock();
            if !requests.contains_key(labels) {
                requests.insert(labels.clone(), Observed::default());
            }
            if let Some(observed) = requests.get_mut(labels) {
                *observed.by_code.entry(status.as_u16()).or_default() += 1;
                observed.count += 1;
                observed.seconds += took.as_secs_f64();
                for (bound, count) in BUCKETS.iter().zip(&mut observed.buckets) {
                    *count += u64::from(took.as_secs_f64() <= *bound);
                }
            }
        }
        matches!(self.kind, Kind::LongRunning).then_some(self)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.count(self.kind, self.labels.as_ref(), -1);
    }
}
