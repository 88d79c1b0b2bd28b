//! Auditing: who did what, by rules that the operator gives. Off unless there is a policy. Start at [`Audit`].
//!
//! A request that some rule wants recorded carries an [`AuditContext`]; everything that happens to it is written there, and
//! each stage of it goes to the backends as one event.
// upstream: apiserver pkg/audit, plugin/pkg/audit
pub mod backend;
pub mod context;
pub mod event;
pub mod log;
pub mod policy;
pub mod webhook;

pub use context::AuditContext;

use crate::request_info::RequestInfo;
use backend::{Backend, Encoded};
use event::{Event, Level};
use pintle_api::user::UserInfo;
use policy::Policy;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The policy and where events go; clones share both.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: Policy,
    backends: Vec<Backend>,
    events: AtomicU64,
    rejected: AtomicU64,
    levels: [AtomicU64; 4],
}

impl Audit {
    /// Records what `policy` asks for in `backends`.
    pub fn new(policy: Policy, backends: Vec<Backend>) -> Self {
        let (events, rejected, levels) = <_>::default();
        Audit(Arc::new(Inner { policy, backends, events, rejected, levels }))
    }

    /// The record of a request by `user`, if a rule wants one.
    pub fn begin(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        parts: &http::request::Parts,
        id: &str,
    ) -> Option<Arc<AuditContext>> {
        let config = self.0.policy.evaluate(user, info);
        self.0.levels[config.level as usize].fetch_add(1, Ordering::Relaxed);
        if config.level == Level::None {
            return None;
        }
        let event = Event::of_request(config.level, user, info, parts, id);
        Some(Arc::new(AuditContext::new(self.clone(), config, info.is_long_running(), event)))
    }

    /// Hands an event to the backends and waits where their mode says so. False if it must not go on without.
    async fn process(&self, event: &Encoded) -> bool {
        self.0.events.fetch_add(1, Ordering::Relaxed);
        let mut stored = true;
        for backend in &self.0.backends {
            stored &= backend.process(event).await;
        }
        if !stored {
            self.0.rejected.fetch_add(1, Ordering::Relaxed);
        }
        stored
    }

    /// Hands an event to the backends without waiting.
    fn process_later(&self, event: Encoded) {
        if self.0.backends.iter().all(|backend| !backend.waits()) {
            self.0.events.fetch_add(1, Ordering::Relaxed);
            self.0.backends.iter().for_each(|backend| backend.enqueue(&event));
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let audit = self.clone();
            runtime.spawn(async move { audit.process(&event).await });
        }
    }

    /// The size in bytes above which some backend wants an event without its objects.
    fn size_limit(&self) -> Option<usize> {
        self.0.backends.iter().filter_map(|backend| backend.size_limit).min()
    }

    /// Waits until everything that was handed over is where it belongs.
    pub async fn flush(&self) {
        for backend in &self.0.backends {
            backend.flush().await;
        }
    }

    /// What was recorded and lost, with upstream's names.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let mut counter = |name: &str, help: &str, samples: &BTreeMap<String, u64>| {
            let written = writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter")
                .and_then(|()| samples.iter().try_for_each(|(labels, count)| writeln!(out, "{name}{labels} {count}")));
            written.expect("writing into a string");
        };
        let one = |count: &AtomicU64| BTreeMap::from([(String::new(), count.load(Ordering::Relaxed))]);
        let help = "Counter of audit events generated and sent to the audit backend.";
        counter("apiserver_audit_event_total", help, &one(&self.0.events));
        let help = "Counter of apiserver requests rejected due to an error in audit logging backend.";
        counter("apiserver_audit_requests_rejected_total", help, &one(&self.0.rejected));
        let levels = [Level::None, Level::Metadata, Level::Request, Level::RequestResponse].map(|level| {
            let count = self.0.levels[level as usize].load(Ordering::Relaxed);
            (format!("{{level=\"{}\"}}", level.name()), count)
        });
        let help = "Counter of policy levels for audit events (1 per request).";
        counter("apiserver_audit_level_total", help, &levels.into_iter().collect());
        let errors = self.0.backends.iter().map(|b| (format!("{{plugin=\"{}\"}}", b.name), b.errors())).collect();
        let help = "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.";
        counter("apiserver_audit_error_total", help, &errors);
        out
    }
}
