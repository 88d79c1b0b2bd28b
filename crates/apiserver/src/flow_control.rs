//! API priority and fairness: how many requests run at the same time, and whose turn it is. Start at [`FlowControl::admit`].
//!
//! A request is matched with a FlowSchema, which names its priority level. Each level has seats; a request without one waits
//! in a queue that it shares with few other flows, or is turned away.
// upstream: apiserver pkg/util/flowcontrol, pkg/server/filters/priority-and-fairness.go
mod allocation;
mod config;
mod level;
mod queue_set;
mod report;
mod schema;
pub(crate) mod status;

use crate::bootstrap;
use crate::follow::follow;
use crate::registry::Registry;
use crate::request_info::RequestInfo;
use allocation::rebalance;
use arc_swap::ArcSwap;
use bytes::Bytes;
use config::{Config, Objects, Schema};
use http::HeaderMap;
use http::header::HeaderName;
use level::Running;
use parking_lot::Mutex;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use serde_json::Value;
use status::Pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// The API group of the objects that configure this.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The seats of the server. upstream: --max-requests-inflight and --max-mutating-requests-inflight
pub const DEFAULT_SEATS: usize = 600;
/// How often seats are lent anew. upstream: borrowingAdjustmentPeriod
const LENDING_PERIOD: Duration = Duration::from_secs(10);

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Decides when requests run; clones share everything.
#[derive(Clone, Debug)]
pub struct FlowControl(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ArcSwap<Config>,
    objects: Mutex<Objects>,
    pending: Pending,
}

/// A request that may run: until this is dropped it has a seat.
#[derive(Debug)]
pub struct Permit {
    schema: Arc<Schema>,
    running: Option<Running>,
}

/// A request that may not run.
#[derive(Debug)]
pub struct Refused(Arc<Schema>);

impl Permit {
    /// Names schema and level in the answer.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        self.schema.write_headers(headers);
    }
}

impl Refused {
    /// Names schema and level in the answer.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        self.0.write_headers(headers);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.schema.counters.executed(running.since().elapsed());
        }
    }
}

impl Schema {
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(LEVEL_UID, self.level_uid.clone());
        headers.insert(SCHEMA_UID, self.uid.clone());
    }
}

impl FlowControl {
    /// Follows the objects in `registry` and shares `seats` among the levels until `stop`.
    pub async fn start(registry: &Registry, seats: usize, stop: &CancellationToken) -> Result<Self, ApiError> {
        let built_in = bootstrap::flow_control()?;
        let objects = Mutex::new(Objects::new(seats, &built_in));
        let control = FlowControl(Arc::new(Inner { config: <_>::default(), objects, pending: Pending::default() }));
        control.digest(|_| {});
        for (plural, set) in [
            ("prioritylevelconfigurations", Objects::set_level as fn(&mut _, &_, _)),
            ("flowschemas", Objects::set_schema),
        ] {
            let followed = control.clone();
            let apply = move |_: &str, name: &str, stored: Option<&Bytes>| {
                let object = stored.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
                followed.digest(|objects| set(objects, name, object));
            };
            let resource = registry.resource(GROUP, plural)?;
            follow(registry, &resource, stop.clone(), Box::new(apply)).await?;
        }
        tokio::spawn(control.clone().lend(stop.clone()));
        Ok(control)
    }

    /// Takes a change of the objects over.
    fn digest(&self, change: impl FnOnce(&mut Objects)) {
        let mut objects = self.0.objects.lock();
        change(&mut objects);
        let (config, conditions) = objects.digest(Instant::now());
        self.0.config.store(Arc::new(config));
        self.0.pending.set(conditions);
    }

    async fn lend(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LENDING_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while tokio::select! { _ = ticks.tick() => true, () = stop.cancelled() => false } {
            let (config, now) = (self.0.config.load_full(), Instant::now());
            let asked: Vec<_> = config.levels.iter().map(|level| level.wanted(now)).collect();
            for (level, seats) in config.levels.iter().zip(rebalance(&asked)) {
                level.set_seats(seats, now);
            }
        }
    }

    /// Waits for a seat, at most for `limit`; none is needed for streams.
    pub async fn admit(&self, user: &UserInfo, info: &RequestInfo, limit: Duration) -> Result<Option<Permit>, Refused> {
        if info.is_long_running() && info.verb != "watch" {
            return Ok(None);
        }
        let Some(schema) = self.0.config.load().classify(user, info) else { return Ok(None) };
        let flow = schema.rules.flow(user, info);
        let entered = schema.level.enter(&schema, flow, user, info, limit).await;
        match entered {
            Ok(running) => {
                schema.counters.dispatched();
                Ok(Some(Permit { schema, running: Some(running) }))
            }
            Err(why) => {
                schema.counters.rejected(why);
                Err(Refused(schema))
            }
        }
    }

    pub(crate) fn pending(&self) -> &Pending {
        &self.0.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use http::Method;
    use serde_json::json;

    fn level(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": spec})
    }

    fn control(seats: usize) -> FlowControl {
        let objects = Mutex::new(Objects::new(seats, &bootstrap::flow_control().unwrap()));
        let control = FlowControl(Arc::new(Inner { config: <_>::default(), objects, pending: Pending::default() }));
        control.digest(|objects| {
            let queuing = json!({"queues": 8, "handSize": 2, "queueLengthLimit": 2});
            let limited =
                json!({"nominalConcurrencyShares": 1, "limitResponse": {"type": "Queue", "queuing": queuing}});
            objects.set_level("narrow", Some(level("narrow", json!({"type": "Limited", "limited": limited}))));
            let rule = json!({
                "subjects": [{"kind": "User", "user": {"name": "eve"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
                                   "clusterScope": true}],
            });
            let spec =
                json!({"matchingPrecedence": 10, "priorityLevelConfiguration": {"name": "narrow"}, "rules": [rule]});
            objects.set_schema("eves", Some(level("eves", spec)));
        });
        control
    }

    fn pods() -> RequestInfo {
        RequestInfo::parse(&Method::GET, &"/api/v1/namespaces/a/pods/p".parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_seat_waits_and_then_gives_up() {
        let control = control(1);
        let (eve, info, limit) = (UserInfo::new("eve", &[]), pods(), Duration::from_secs(15));
        // Shares of one seat round up to one for each level.
        let first = control.admit(&eve, &info, limit).now_or_never().unwrap().unwrap();
        let begin = Instant::now();
        let refused = control.admit(&eve, &info, limit).await.unwrap_err();
        assert_eq!(begin.elapsed(), limit);
        let mut headers = HeaderMap::new();
        refused.write_headers(&mut headers);
        assert_eq!(headers[&SCHEMA_UID], "uid-eves");
        assert_eq!(headers[&LEVEL_UID], "uid-narrow");
        let waiting = tokio::spawn({
            let (control, eve, info) = (control.clone(), eve.clone(), info.clone());
            async move { control.admit(&eve, &info, limit).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(first);
        waiting.await.unwrap().unwrap();
        let metrics = control.metrics();
        for line in [
            "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"eves\",priority_level=\"narrow\"} 2",
            "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"eves\",priority_level=\"narrow\",reason=\"time-out\"} 1",
            "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"narrow\"} 1",
            "apiserver_flowcontrol_current_executing_requests{flow_schema=\"eves\",priority_level=\"narrow\"} 0",
        ] {
            assert!(metrics.lines().any(|known| known == line), "{line}\n{metrics}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_gives_its_place_back() {
        let control = control(1);
        let (eve, info, limit) = (UserInfo::new("eve", &[]), pods(), Duration::from_secs(15));
        let first = control.admit(&eve, &info, limit).await.unwrap();
        let mut waiting = Box::pin(control.admit(&eve, &info, limit));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(control.dump_requests(true).contains("eve"), "{}", control.dump_requests(true));
        drop(first);
        // It was let go, and never looked.
        drop(waiting);
        assert!(control.admit(&eve, &info, limit).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_exempt_never_wait_and_streams_are_not_counted() {
        let control = control(1);
        let admin = UserInfo::new("admin", &["system:masters"]);
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(control.admit(&admin, &pods(), Duration::ZERO).now_or_never().unwrap().unwrap());
        }
        let logs = RequestInfo::parse(&Method::GET, &"/api/v1/namespaces/a/pods/p/log".parse().unwrap());
        assert!(control.admit(&UserInfo::new("eve", &[]), &logs, Duration::ZERO).await.unwrap().is_none());
        let levels = control.dump_priority_levels();
        let exempt = levels.lines().find(|line| line.starts_with("exempt,")).unwrap();
        assert_eq!(exempt.split(',').map(str::trim).collect::<Vec<_>>()[5], "100", "{levels}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_schema_whose_level_is_missing_is_passed_over_and_told_so() {
        let control = control(600);
        control.digest(|objects| objects.set_level("narrow", None));
        let eve = UserInfo::new("eve", &[]);
        let permit = control.admit(&eve, &pods(), Duration::ZERO).await.unwrap().unwrap();
        assert_eq!(permit.schema.rules.name, "catch-all");
        let told = control.pending().take();
        let (name, condition) = told.iter().find(|(name, _)| *name == "eves").unwrap();
        assert_eq!((name.as_str(), condition.dangling), ("eves", true));
    }
}
