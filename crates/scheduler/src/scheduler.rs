//! [`Scheduler`]: takes pods from the queue one by one, decides, and carries the decisions out beside the next ones.
mod follow;
mod report;

use crate::algorithm::{Decision, Failure, Profile, schedule};
use crate::bind;
use crate::cache::Cache;
use crate::config::Config;
use crate::framework::{Plugin, PluginSet};
use crate::lookup::Lookup;
use crate::metrics::{Metrics, Outcome};
use crate::plugins::volume_binding::{ClaimStep, steps};
use crate::plugins::{Cycle, claims};
use crate::pod_info::PodInfo;
use crate::preemption::{self, Candidate};
use crate::queue::events::Event;
use crate::queue::{Queued, SchedulingQueue};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Client;
use parking_lot::Mutex;
use pintle_api::user::UserInfo;
use pintle_client::recorder::EventType;
use pintle_client::{Clients, Informer, Informers, Recorder};
use report::Nomination;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many decisions may be on their way to the API at once.
const IN_PROGRESS: usize = 128;

/// The scheduler; clones share it.
#[derive(Clone)]
pub struct Scheduler(Arc<Inner>);

struct Inner {
    profiles: Arc<[Profile]>,
    cache: Mutex<Cache>,
    queue: SchedulingQueue,
    lookup: Lookup,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    namespaces: Informer<Namespace>,
    /// Ticks whenever a claim or volume changed.
    volume_changes: watch::Sender<u64>,
    recorders: HashMap<String, Recorder>,
    in_progress: Arc<Semaphore>,
    metrics: Metrics,
    client: Client,
}

/// A pod that is to be placed, with its profile and when the attempt began.
struct Attempt {
    queued: Queued,
    profile: usize,
    began: Instant,
}

/// What a decision asks for.
enum Verdict {
    Bind { node: String, steps: Vec<ClaimStep> },
    Wait { failure: Box<Failure>, preemption: Preemption },
}

/// What became of the attempt to preempt.
enum Preemption {
    /// These pods are told to leave, and lower ones that waited for the node wait no more.
    Victims(Candidate, Vec<Arc<PodInfo>>),
    /// None; the pod keeps or loses the node it was promised.
    None { ends_nomination: bool },
}

impl Scheduler {
    /// A scheduler that reads through `informers` and writes as upstream's identity.
    pub fn new(config: Config, clients: &Clients, informers: &Informers) -> Self {
        let client = clients.user(UserInfo::new("system:kube-scheduler", &[]));
        let profiles: Arc<[Profile]> = config.profiles.into();
        let recorder = |profile: &Profile| {
            (profile.name.clone(), Recorder::events_v1(client.clone(), &profile.name, &profile.name))
        };
        Scheduler(Arc::new(Inner {
            recorders: profiles.iter().map(recorder).collect(),
            cache: Mutex::default(),
            queue: SchedulingQueue::new(profiles.clone(), config.backoff),
            lookup: Lookup::new(informers),
            nodes: informers.of(),
            pods: informers.of(),
            namespaces: informers.of(),
            volume_changes: watch::Sender::new(0),
            in_progress: Arc::new(Semaphore::new(IN_PROGRESS)),
            metrics: Metrics::default(),
            profiles,
            client,
        }))
    }

    /// The scheduler's metrics in text form.
    pub fn metrics(&self) -> String {
        self.0.metrics.text(self.0.queue.lengths(), &self.0.cache)
    }

    /// Schedules pods until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let inner = &self.0;
        inner.follow();
        let synced = async {
            let objects = async { tokio::join!(inner.nodes.synced(), inner.pods.synced(), inner.namespaces.synced()) };
            tokio::join!(objects, inner.lookup.synced())
        };
        tokio::select! {
            _ = synced => {}
            () = stop.cancelled() => return,
        }
        let mut start = 0;
        loop {
            let queued = tokio::select! {
                queued = inner.queue.next() => queued,
                () = stop.cancelled() => return,
            };
            let permit = tokio::select! {
                permit = inner.in_progress.clone().acquire_owned() => permit,
                () = stop.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            inner.attempt(queued, &mut start, permit);
            // A long queue must not keep what the decisions need from running.
            tokio::task::yield_now().await;
        }
    }
}

impl Inner {
    fn attempt(self: &Arc<Self>, queued: Queued, start: &mut usize, permit: OwnedSemaphorePermit) {
        let pod = queued.pod.clone();
        let Some(profile) = self.profiles.iter().position(|profile| profile.name == pod.scheduler_name()) else {
            return self.queue.done(pod.uid());
        };
        if pod.is_leaving() {
            self.queue.done(pod.uid());
            let message = format!("skip schedule deleting pod: {}/{}", pod.namespace(), pod.name());
            return self.record(&pod, None, EventType::Warning, "FailedScheduling", "Scheduling", message);
        }
        let attempt = Attempt { queued, profile, began: Instant::now() };
        let Some(verdict) = self.decide(&pod, profile, start) else { return self.queue.done(pod.uid()) };
        self.metrics.decided(attempt.began.elapsed());
        let this = self.clone();
        match verdict {
            Verdict::Bind { node, steps } => {
                self.queue.done(pod.uid());
                tokio::spawn(async move {
                    this.bind(attempt, &node, &steps).await;
                    drop(permit);
                });
            }
            Verdict::Wait { failure, preemption } => {
                self.metrics.rejected(pod.scheduler_name(), failure.error.plugins());
                tokio::spawn(async move {
                    this.wait(attempt, &failure, preemption).await;
                    drop(permit);
                });
            }
        }
    }

    /// Decides under the cache's lock; `None` if the pod has its node already.
    fn decide(&self, pod: &Arc<PodInfo>, profile: usize, start: &mut usize) -> Option<Verdict> {
        let profile = &self.profiles[profile];
        let mut cache = self.cache.lock();
        if cache.is_assumed(pod.uid()) {
            return None;
        }
        let decided =
            schedule(pod, &mut cache, &self.lookup, profile, start).and_then(|Decision { slot, node, state }| {
                match steps(pod, &self.lookup, claims(&state), cache.slot(slot)) {
                    Ok(steps) => Ok((node, steps)),
                    Err(rejection) => {
                        let mut error = crate::algorithm::FitError { nodes: cache.order().len(), ..Default::default() };
                        error.rejections.push((slot, rejection));
                        Err(Box::new(Failure { error, state: Some(state) }))
                    }
                }
            });
        match decided {
            Ok((node, steps)) => {
                self.lookup.assume(pod.namespace(), &node, &steps);
                cache.assume(pod.clone(), &node);
                Some(Verdict::Bind { node, steps })
            }
            Err(mut failure) => {
                let preemption = self.preempt(pod, &mut cache, profile, &mut failure);
                Some(Verdict::Wait { failure, preemption })
            }
        }
    }

    fn preempt(&self, pod: &Arc<PodInfo>, cache: &mut Cache, profile: &Profile, failure: &mut Failure) -> Preemption {
        if !profile.preempts || failure.error.nodes == 0 {
            cache.nominations.clear(pod.uid());
            return Preemption::None { ends_nomination: true };
        }
        let cycle = Cycle { pod, cache, objects: &self.lookup, profile };
        match preemption::find(&cycle, failure) {
            Ok(candidate) => {
                self.metrics.preempted(Some(candidate.victims.len()));
                let lower = cache.nominations.on(&candidate.node).iter();
                let lower: Vec<_> = lower.filter(|waiting| waiting.priority() < pod.priority()).cloned().collect();
                for waiting in &lower {
                    cache.nominations.clear(waiting.uid());
                }
                cache.nominations.set(pod.clone(), &candidate.node);
                Preemption::Victims(candidate, lower)
            }
            Err(refusal) => {
                self.metrics.preempted(None);
                failure.error.preemption = format!("preemption: {}", refusal.message);
                if refusal.ends_nomination {
                    cache.nominations.clear(pod.uid());
                }
                Preemption::None { ends_nomination: refusal.ends_nomination }
            }
        }
    }

    async fn bind(&self, attempt: Attempt, node: &str, steps: &[ClaimStep]) {
        let (pod, profile) = (attempt.queued.pod.clone(), &self.profiles[attempt.profile]);
        let bound = async {
            if !steps.is_empty() {
                self.announce(&pod, node).await;
                let (changes, timeout) = (self.volume_changes.subscribe(), Duration::from_secs(profile.bind_timeout));
                bind::bind_volumes(&self.client, &pod, node, steps, &self.lookup, timeout, changes).await?;
            }
            bind::bind_pod(&self.client, &pod, node).await
        };
        let bound = bound.await;
        self.lookup.forget(pod.namespace(), steps);
        match bound {
            Ok(()) => {
                self.metrics.attempted(&profile.name, Outcome::Scheduled, attempt.began.elapsed());
                self.metrics.bound(attempt.queued.attempts, attempt.queued.since.elapsed());
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.record(&pod, None, EventType::Normal, "Scheduled", "Binding", message);
            }
            Err(error) => {
                tracing::debug!(pod = pod.name(), node, %error, "binding failed");
                self.metrics.attempted(&profile.name, Outcome::Error, attempt.began.elapsed());
                self.cache.lock().forget(pod.uid());
                self.queue.happened(Event::PodGone(pod.clone()), None);
                let current = self.pods.get(pod.namespace(), pod.name());
                let current = current.filter(|current| current.metadata.uid == pod.pod.metadata.uid);
                let Some(current) = current.filter(|current| crate::pod_info::bound_node(current).is_none()) else {
                    return;
                };
                let current = Arc::new(PodInfo::new(current));
                self.queue.retry(attempt.queued, current.clone());
                self.failed(&current, "SchedulerError", &error.to_string(), Nomination::End).await;
            }
        }
    }

    /// The pod fits nowhere: victims of a preemption are told to leave, then it waits for something to change.
    async fn wait(&self, attempt: Attempt, failure: &Failure, preemption: Preemption) {
        let profile = &self.profiles[attempt.profile];
        self.metrics.attempted(&profile.name, Outcome::Unschedulable, attempt.began.elapsed());
        let nomination = match &preemption {
            Preemption::Victims(candidate, lower) => {
                for waiting in lower {
                    self.end_nomination(waiting).await;
                }
                if let Err(error) = self.evict(&attempt.queued.pod, candidate).await {
                    tracing::debug!(pod = attempt.queued.pod.name(), %error, "cannot preempt");
                }
                Nomination::Node(candidate.node.clone())
            }
            Preemption::None { ends_nomination: true } => Nomination::End,
            Preemption::None { ends_nomination: false } => Nomination::Keep,
        };
        let mut rejected_by = failure.error.plugins();
        if rejected_by.is_empty() {
            // Without any node every plugin that waits for one would have objected.
            rejected_by = PluginSet::from_iter([Plugin::NodeResourcesFit, Plugin::NodeUnschedulable, Plugin::Extender]);
        }
        let uid = attempt.queued.pod.uid().to_owned();
        match self.queue.failed(attempt.queued, rejected_by) {
            Some(newest) => self.failed(&newest, "Unschedulable", &failure.error.to_string(), nomination).await,
            None => self.cache.lock().nominations.clear(&uid),
        }
    }
}
