//! The scheduler: finds a node for each pod that has none. Start at [`run`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`queue`] | which pod is tried next, and when again |
//! | [`cache`], [`pod_info`], [`resources`], [`volumes`] | what is known of the cluster, kept up change by change |
//! | [`algorithm`], [`framework`], [`plugins`] | the decision: filters, scores |
//! | [`preemption`] | room for important pods |
//! | [`bind`] | what follows a decision |
pub mod algorithm;
pub mod bind;
pub mod cache;
pub mod framework;
pub mod plugins;
pub mod pod_info;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod volumes;

use algorithm::{FitError, Profile};
use cache::{Cache, has_ended};
use framework::Cycle;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use parking_lot::Mutex;
use pintle_api::user::UserInfo;
use pintle_client::informer::Change as ObjectChange;
use pintle_client::recorder::{EventType, Recorder};
use pintle_client::{Clients, Informer, Informers};
use pod_info::PodInfo;
use preemption::Candidate;
use queue::{Attempt, Change, SchedulingQueue};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use volumes::Volumes;

/// How many pods may be on their way from decision to binding.
const BINDINGS: usize = 128;

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `schedulerName` are ours.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { scheduler_name: "default-scheduler".into() }
    }
}

/// Schedules pods until `stop`.
pub async fn run(config: Config, clients: Clients, informers: Informers, stop: CancellationToken) {
    let client = clients.user(UserInfo::new("system:kube-scheduler", &[]));
    let scheduler = Arc::new(Scheduler {
        profile: Profile { filters: plugins::filters(), scores: plugins::scores() },
        cache: Mutex::default(),
        queue: SchedulingQueue::default(),
        volumes: Volumes::new(&informers),
        namespaces: informers.of(),
        volume_changes: watch::Sender::new(0),
        recorder: Recorder::events_v1(client.clone(), &config.scheduler_name, &config.scheduler_name),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        client,
    });
    scheduler.follow(&config, &informers);
    let (nodes, pods) = (informers.of::<Node>(), informers.of::<Pod>());
    let synced = async {
        tokio::join!(nodes.synced(), pods.synced(), scheduler.volumes.synced(), scheduler.namespaces.synced())
    };
    tokio::select! {
        _ = synced => {}
        () = stop.cancelled() => return,
    }
    loop {
        let attempt = tokio::select! {
            attempt = scheduler.queue.next() => attempt,
            () = stop.cancelled() => return,
        };
        scheduler.clone().schedule(attempt).await;
    }
}

struct Scheduler {
    profile: Profile,
    cache: Mutex<Cache>,
    queue: SchedulingQueue,
    volumes: Volumes,
    namespaces: Informer<Namespace>,
    /// Ticks whenever a claim or volume changed.
    volume_changes: watch::Sender<u64>,
    recorder: Recorder,
    bindings: Arc<Semaphore>,
    client: Client,
}

impl Scheduler {
    /// Keeps cache and queue up with the cluster.
    fn follow(self: &Arc<Self>, config: &Config, informers: &Informers) {
        let this = self.clone();
        informers.of::<Node>().on_change(move |change| {
            match change {
                ObjectChange::Deleted(node) => {
                    this.cache.lock().remove_node(node.metadata.name.as_deref().unwrap_or_default());
                }
                ObjectChange::Added(node) | ObjectChange::Updated(_, node) => this.cache.lock().set_node(node),
            }
            if matters(change) {
                this.queue.changed(Change::Node);
            }
        });
        let (this, name) = (self.clone(), config.scheduler_name.clone());
        informers.of::<Pod>().on_change(move |change| this.pod_changed(change, &name));
        let this = self.clone();
        let volume_changed = move || {
            this.volume_changes.send_modify(|ticks| *ticks += 1);
            this.queue.changed(Change::Volume);
        };
        let changed = volume_changed.clone();
        self.volumes.claims.on_change(move |_| changed());
        let changed = volume_changed.clone();
        self.volumes.volumes.on_change(move |_| changed());
        informers.of::<StorageClass>().on_change(move |_| volume_changed());
    }

    fn pod_changed(&self, change: &ObjectChange<'_, Pod>, scheduler_name: &str) {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let placed = spec.and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
        if matches!(change, ObjectChange::Deleted(_)) {
            self.queue.remove(uid);
            self.cache.lock().remove_pod(uid);
            if placed {
                self.queue.changed(Change::PodGone);
            }
        } else if placed {
            self.queue.remove(uid);
            self.cache.lock().set_pod(pod);
            self.queue.changed(if has_ended(pod) { Change::PodGone } else { Change::PodPlaced });
        } else if spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler") == scheduler_name
        {
            let gated = spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
            if gated || has_ended(pod) || pod.metadata.deletion_timestamp.is_some() {
                self.queue.remove(uid);
            } else if let ObjectChange::Updated(old, new) = change
                && old.spec == new.spec
                && old.metadata.labels == new.metadata.labels
            {
                // Our own status patch, mostly: nothing that a decision depends on.
            } else {
                self.queue.add(Arc::new(PodInfo::new(pod.clone())));
            }
        }
    }

    /// Decides about one pod; binding goes on beside the next decision.
    async fn schedule(self: Arc<Self>, attempt: Attempt) {
        let decision = {
            let mut cache = self.cache.lock();
            let cycle =
                Cycle { pod: &attempt.pod, cache: &cache, volumes: &self.volumes, namespaces: &self.namespaces };
            match self.profile.select(&cycle) {
                Ok(node) => {
                    let steps = bind::claim_steps(&attempt.pod, &node, &cache, &self.volumes);
                    cache.assume(attempt.pod.clone(), &node);
                    Ok((node, steps))
                }
                Err(error) => {
                    let preempted = preemption::find(&self.profile, &cycle, &error);
                    Err((error, preempted))
                }
            }
        };
        match decision {
            Ok((node, steps)) => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                tokio::spawn(async move {
                    self.bind(&attempt, &node, &steps).await;
                    drop(permit);
                });
            }
            Err((error, preempted)) => self.unschedulable(&attempt, *error, preempted).await,
        }
    }

    async fn bind(&self, attempt: &Attempt, node: &str, steps: &[bind::ClaimStep]) {
        let pod = &attempt.pod;
        let bound = async {
            if !steps.is_empty() {
                let changes = self.volume_changes.subscribe();
                bind::bind_volumes(&self.client, pod, node, steps, &self.volumes, changes).await?;
            }
            bind::bind_pod(&self.client, pod, node).await
        };
        match bound.await {
            Ok(()) => {
                self.queue.done(attempt);
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.record(pod, EventType::Normal, "Scheduled", "Binding", message);
            }
            Err(error) => {
                tracing::debug!(pod = pod.name(), node, %error, "binding failed");
                self.cache.lock().forget(pod.uid());
                if is_gone(&error) {
                    return self.queue.done(attempt);
                }
                self.queue.changed(Change::PodGone);
                self.queue.failed(attempt, HashSet::new());
                self.record(pod, EventType::Warning, "FailedScheduling", "Scheduling", error.to_string());
                self.report(pod, "SchedulerError", &error.to_string(), None).await;
            }
        }
    }

    async fn unschedulable(&self, attempt: &Attempt, mut error: FitError, preempted: Result<Candidate, String>) {
        let nominated = match &preempted {
            Ok(candidate) => {
                self.evict(&attempt.pod, candidate).await;
                Some(candidate.node.clone())
            }
            Err(message) => {
                error.preemption = format!("preemption: {message}");
                None
            }
        };
        let message = error.to_string();
        self.queue.failed(attempt, error.plugins());
        self.record(&attempt.pod, EventType::Warning, "FailedScheduling", "Scheduling", message.clone());
        self.report(&attempt.pod, "Unschedulable", &message, nominated.as_deref()).await;
    }

    /// Asks the victims of a preemption to leave.
    async fn evict(&self, pod: &PodInfo, candidate: &Candidate) {
        for victim in &candidate.victims {
            let pods = Api::<Pod>::namespaced(self.client.clone(), victim.namespace());
            let by = pod.pod.metadata.uid.as_deref().unwrap_or_default();
            let message = format!("preempted by pod {by} on node {}", candidate.node);
            let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": "default-scheduler: preempting to accommodate a higher priority pod", "lastTransitionTime": now() });
            let patch = json!({ "status": { "conditions": [condition] } });
            if let Err(error) =
                pods.patch_status(victim.name(), &PatchParams::default(), &Patch::Strategic(patch)).await
            {
                tracing::debug!(pod = victim.name(), %error, "cannot say why a pod is preempted");
            }
            match pods.delete(victim.name(), &DeleteParams::default()).await {
                Ok(_) => self.record(victim, EventType::Normal, "Preempted", "Preempting", message),
                Err(error) => tracing::debug!(pod = victim.name(), %error, "cannot preempt"),
            }
        }
    }

    /// Writes why the pod has no node into its status, if it does not say so already.
    async fn report(&self, pod: &PodInfo, reason: &str, message: &str, nominated: Option<&str>) {
        let status = pod.pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        let same = known.is_some_and(|condition| {
            condition.status == "False"
                && condition.reason.as_deref() == Some(reason)
                && condition.message.as_deref() == Some(message)
        });
        if same && nominated.is_none() {
            return;
        }
        let since = known
            .filter(|condition| condition.status == "False")
            .and_then(|condition| condition.last_transition_time.clone());
        let since = since.map_or_else(|| json!(now()), |time| json!(time));
        let condition = json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": pod.pod.metadata.generation });
        let mut patch = json!({ "status": { "conditions": [condition] } });
        if let Some(node) = nominated {
            patch["status"]["nominatedNodeName"] = node.into();
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), pod.namespace());
        if let Err(error) = pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            tracing::debug!(pod = pod.name(), %error, "cannot report why a pod is not scheduled");
        }
    }

    fn record(&self, pod: &PodInfo, kind: EventType, reason: &str, action: &str, message: String) {
        let regarding = kube::Resource::object_ref(pod.pod.as_ref(), &());
        self.recorder.event_with(regarding, None, kind, reason, action, message);
    }
}

fn now() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now())
}

/// Whether the pod or its place is gone for good: nothing to try again.
fn is_gone(error: &bind::Error) -> bool {
    matches!(error, bind::Error::Api(error) if matches!(error.as_ref(), kube::Error::Api(status) if status.code == 404))
}

/// Whether a change of a node can make a difference to a pod: not its heartbeat.
fn matters(change: &ObjectChange<'_, Node>) -> bool {
    let ObjectChange::Updated(old, new) = change else { return true };
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}
