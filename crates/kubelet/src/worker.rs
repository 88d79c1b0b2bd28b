//! One task for each pod: syncs it while it lives, ends it in order, removes what is left when the API has forgotten it.
// upstream: pkg/kubelet, pod_workers.go
mod admit;
mod resize;
mod start;
mod stop;
mod sync;

use crate::backoff::Backoff;
use crate::kubelet::Kubelet;
use crate::pods::PodExt;
use crate::probes::ProbeSet;
use crate::status::StartFailures;
use crate::view::{self, PodView};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use stop::remove_sandbox;

/// Delays after failed syncs: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long the containers of an evicted pod have to end, in seconds.
const EVICTION_GRACE: i64 = 1;

/// The workers of a node's pods, by UID; clones share them.
#[derive(Clone, Default)]
pub struct Workers(Arc<Mutex<HashMap<String, Arc<Desk>>>>);

/// Where a worker finds what it has to do.
struct Desk {
    wish: Mutex<Wish>,
    wake: Notify,
    /// Cancelled when the pod must end: stops waiting for images, volumes and hooks.
    end: CancellationToken,
    /// Told when the grace period becomes shorter while the pod ends.
    hurry: Notify,
    /// Cancelled when nothing of the pod is left.
    gone: CancellationToken,
}

struct Wish {
    pod: Arc<Pod>,
    /// The API has forgotten the pod.
    removed: bool,
    /// The node needs the pod to end.
    eviction: Option<Eviction>,
}

impl Workers {
    /// Gives the newest state of a pod to its worker; starts one for a new pod.
    pub fn update(&self, kubelet: &Arc<Kubelet>, pod: &Arc<Pod>, stop: &CancellationToken) {
        kubelet.statuses.observe(pod);
        let mut all = self.0.lock();
        if let Some(desk) = all.get(pod.uid()) {
            desk.update(pod);
            return;
        }
        let desk = Arc::new(Desk {
            wish: Mutex::new(Wish { pod: pod.clone(), removed: false, eviction: None }),
            wake: Notify::new(),
            end: CancellationToken::new(),
            hurry: Notify::new(),
            gone: CancellationToken::new(),
        });
        let gone = desk.gone.clone();
        desk.update(pod);
        all.insert(pod.uid().to_owned(), desk.clone());
        let (uid, workers, kubelet) = (pod.uid().to_owned(), self.clone(), kubelet.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            let statuses = kubelet.statuses.clone();
            let worker = Worker::new(kubelet, uid.clone(), desk);
            let finished = tokio::select! { () = worker.run() => true, () = stop.cancelled() => false };
            if finished {
                statuses.forget(&uid);
                workers.0.lock().remove(&uid);
                gone.cancel();
            }
        });
    }

    /// Tells a pod's worker that the API has forgotten it.
    pub fn removed(&self, pod: &Pod) {
        if let Some(desk) = self.0.lock().get(pod.uid()) {
            desk.wish.lock().removed = true;
            desk.end.cancel();
            desk.hurry.notify_one();
            desk.wake.notify_one();
        }
    }

    /// Cancelled once nothing of the pod `uid` is left.
    pub fn ended(&self, uid: &str) -> CancellationToken {
        if let Some(desk) = self.0.lock().get(uid) {
            return desk.gone.clone();
        }
        let gone = CancellationToken::new();
        gone.cancel();
        gone
    }

    /// Ends the pod `uid` at once for `reason`. `disrupted`: not for a fault of its own.
    pub fn evict(&self, uid: &str, reason: &str, message: String, disrupted: bool) {
        if let Some(desk) = self.0.lock().get(uid) {
            let eviction = Eviction { reason: reason.to_owned(), message, grace: Some(EVICTION_GRACE), disrupted };
            desk.wish.lock().eviction.get_or_insert(eviction);
            desk.end.cancel();
            desk.hurry.notify_one();
            desk.wake.notify_one();
        }
    }

    /// Makes the worker of pod `uid` look again.
    pub fn wake(&self, uid: &str) {
        if let Some(desk) = self.0.lock().get(uid) {
            desk.wake.notify_one();
        }
    }

    /// The pods of this node, with the newest status that this node has published.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods: Vec<Arc<Pod>> = self.0.lock().values().map(|desk| desk.pod()).collect();
        pods.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
        pods
    }

    /// Makes all workers look again.
    pub fn wake_all(&self) {
        self.0.lock().values().for_each(|desk| desk.wake.notify_one());
    }
}

impl Desk {
    fn update(&self, pod: &Arc<Pod>) {
        let mut wish = self.wish.lock();
        let before = wish.pod.metadata.deletion_grace_period_seconds;
        wish.pod = pod.clone();
        drop(wish);
        if pod.is_deleting() {
            self.end.cancel();
            if before != pod.metadata.deletion_grace_period_seconds {
                self.hurry.notify_one();
            }
        }
        self.wake.notify_one();
    }

    fn pod(&self) -> Arc<Pod> {
        self.wish.lock().pod.clone()
    }

    fn eviction(&self) -> Option<Eviction> {
        self.wish.lock().eviction.clone()
    }

    fn removed(&self) -> bool {
        self.wish.lock().removed
    }
}

/// Where a pod is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Syncing,
    Terminating,
    Terminated,
    Finished,
}

/// Why the kubelet ends a pod by itself.
#[derive(Clone, Debug)]
struct Eviction {
    reason: String,
    message: String,
    /// Seconds its containers have to end; as the pod says if `None`.
    grace: Option<i64>,
    /// The pod is not to blame, which its condition `DisruptionTarget` says.
    disrupted: bool,
}

struct Worker {
    kubelet: Arc<Kubelet>,
    uid: String,
    desk: Arc<Desk>,
    failures: StartFailures,
    /// By container name and spec hash.
    restarts: HashMap<(String, String), Backoff>,
    /// When exits were noticed, by container id.
    exits: HashMap<String, Instant>,
    /// Termination messages already read, by container id.
    messages: HashMap<String, String>,
    probes: ProbeSet,
    evicted: Option<Eviction>,
    /// The node has taken the pod.
    admitted: bool,
    resizing: resize::Resizing,
    retry: Duration,
    /// The earliest time at which something is due although nothing happens.
    next: Option<Instant>,
}

impl Worker {
    fn new(kubelet: Arc<Kubelet>, uid: String, desk: Arc<Desk>) -> Self {
        let bell = desk.clone();
        Worker {
            kubelet,
            uid,
            desk,
            failures: HashMap::new(),
            restarts: HashMap::new(),
            exits: HashMap::new(),
            messages: HashMap::new(),
            probes: ProbeSet::new(move || bell.wake.notify_one()),
            evicted: None,
            admitted: false,
            resizing: resize::Resizing::default(),
            retry: RETRY.0,
            next: None,
        }
    }

    async fn run(mut self) {
        let mut stage = Stage::Syncing;
        if self.desk.pod().is_terminal() {
            stage = Stage::Terminating;
        }
        loop {
            self.next = None;
            let pod = self.desk.pod();
            self.evicted = self.evicted.take().or_else(|| self.desk.eviction());
            let before = stage;
            let result = match stage {
                Stage::Syncing if pod.is_deleting() || self.desk.removed() || self.evicted.is_some() => {
                    stage = Stage::Terminating;
                    continue;
                }
                Stage::Syncing if !self.admitted && !self.admit(&pod).await => {
                    stage = Stage::Finished;
                    continue;
                }
                Stage::Syncing => {
                    let pod = self.follow_resize(&pod);
                    self.sync(&pod).await.map(|ended| {
                        if ended {
                            stage = Stage::Terminating;
                        }
                    })
                }
                Stage::Terminating => {
                    self.terminate(&self.kubelet.allocations.allocated(&pod)).await.map(|()| stage = Stage::Terminated)
                }
                Stage::Terminated => self.release(&pod).await.map(|()| stage = Stage::Finished),
                Stage::Finished if self.desk.removed() => {
                    self.remove(&pod).await;
                    return;
                }
                Stage::Finished => Ok(()),
            };
            match result {
                Ok(()) => self.retry = RETRY.0,
                Err(error) => {
                    tracing::warn!(pod = pod.described(), ?stage, error, "pod sync failed, will retry");
                    self.due(Instant::now() + self.retry);
                    self.retry = (self.retry * 2).min(RETRY.1);
                }
            }
            if stage != before || (stage == Stage::Finished && self.desk.removed()) {
                continue;
            }
            self.wait().await;
        }
    }

    /// Asks for another look at `at`, unless one is due earlier.
    fn due(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    async fn wait(&self) {
        match self.next {
            Some(at) => tokio::select! {
                () = self.desk.wake.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
            None => self.desk.wake.notified().await,
        }
    }

    async fn view(&mut self) -> Result<PodView, String> {
        let view = view::read(self.kubelet.runtime.as_ref(), &self.uid, &mut self.messages).await;
        let view = view.map_err(|status| crate::rpc_text(&status))?;
        let (now, wall) = (Instant::now(), Timestamp::now());
        for container in view.containers.iter().filter(|container| container.finished_at > 0) {
            self.exits.entry(container.id.clone()).or_insert_with(|| {
                let ago = i64::try_from(wall.as_nanosecond()).unwrap_or(i64::MAX) - container.finished_at;
                now.checked_sub(Duration::from_nanos(u64::try_from(ago).unwrap_or(0))).unwrap_or(now)
            });
        }
        let known = |id: &String| view.find_id(id).is_some();
        self.exits.retain(|id, _| known(id));
        self.messages.retain(|id, _| known(id));
        Ok(view)
    }

    /// Computes the pod's status and hands it to the status manager; returns it.
    fn publish(&self, pod: &Arc<Pod>, view: &PodView, terminal: bool) -> PodStatus {
        let status = self.status(pod, view, terminal);
        self.kubelet.statuses.set(pod, status.clone(), false);
        status
    }

    /// Conditions that neither containers nor probes tell.
    fn conditions(&self, pod: &Pod, ended: bool) -> Vec<PodCondition> {
        let Some(eviction) = self.evicted.as_ref().filter(|_| ended) else { return self.resizing.conditions() };
        let disruption = eviction.disrupted.then(|| PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(eviction.message.clone()),
            observed_generation: pod.metadata.generation,
            last_transition_time: Some(Time(crate::status::seconds(Timestamp::now()))),
            last_probe_time: None,
        });
        disruption.into_iter().collect()
    }

    fn status(&self, pod: &Pod, view: &PodView, terminal: bool) -> PodStatus {
        let previous = self.kubelet.statuses.get(&self.uid).or_else(|| pod.status.clone()).unwrap_or_default();
        // Nobody is told that the pod has failed before its containers have ended.
        let ended = view.running().next().is_none();
        let inputs = crate::status::Inputs {
            previous: &previous,
            failures: &self.failures,
            probes: &self.probes.results(),
            host_ips: &self.kubelet.node.host_ips,
            terminal,
            evicted: self
                .evicted
                .as_ref()
                .filter(|_| ended)
                .map(|evicted| (evicted.reason.as_str(), evicted.message.as_str())),
            runtime_name: &self.kubelet.runtime_name,
            more: &self.conditions(pod, ended),
            now: Timestamp::now(),
        };
        crate::status::generate(pod, view, &inputs)
    }
}

/// Removes a directory and what is in it; one that is missing is fine.
pub fn remove_dir(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove a directory");
        }
        _ => {}
    }
}
