//! The scheduling queue: pods that can be tried now, pods that wait out a back-off, and pods that wait for something in the
//! cluster to change. No timer runs for a pod that only waits for a change.
use crate::pod_info::PodInfo;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The back-off after the first failed attempt; it doubles up to [`MAX_BACKOFF`] (upstream's defaults).
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A pod is tried again after this long even if nothing it waits for has changed.
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(300);

/// What has changed in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node is new, or what pods meet there has changed.
    Node,
    /// A pod was placed on a node or has changed there.
    PodPlaced,
    /// A pod has left its node.
    PodGone,
    /// A claim, volume or class.
    Volume,
}

impl Change {
    /// Whether the change can make a pod fit that `plugin` rejected (upstream: `EventsToRegister`).
    fn may_help(self, plugin: &str) -> bool {
        match plugin {
            "NodeResourcesFit" | "NodePorts" => matches!(self, Change::Node | Change::PodGone),
            "InterPodAffinity" | "PodTopologySpread" => self != Change::Volume,
            "VolumeBinding" => matches!(self, Change::Node | Change::Volume),
            _ => self == Change::Node,
        }
    }
}

/// A pod that was tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried, this time included.
    pub attempts: u32,
    /// The queue's clock when the attempt began.
    started: u64,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    added: u64,
}

#[derive(Debug)]
struct Waiting {
    entry: Entry,
    /// Before this the pod is not tried even if something helps.
    backoff_until: Instant,
    /// Which plugins rejected it; empty: any change helps.
    rejected_by: HashSet<&'static str>,
    /// Something helped while the back-off ran.
    helped: bool,
    limit: Instant,
}

/// What became of a pod while it was being tried.
#[derive(Debug)]
enum Meanwhile {
    Nothing,
    Changed(Arc<PodInfo>),
    Gone,
}

#[derive(Default)]
struct State {
    /// Pods to try, by priority (highest first) and then age.
    active: BTreeMap<(std::cmp::Reverse<i32>, u64), Entry>,
    waiting: HashMap<String, Waiting>,
    /// Pods being tried, by uid, with what has become of them meanwhile.
    in_flight: HashMap<String, Meanwhile>,
    /// What changed while pods were being tried.
    recent: Vec<(u64, Change)>,
    clock: u64,
}

/// The queue; shared by reference.
#[derive(Default)]
pub struct SchedulingQueue {
    state: Mutex<State>,
    wake: Notify,
}

impl SchedulingQueue {
    /// A pod that has no node is new or has changed: it is tried as soon as its back-off allows.
    pub fn add(&self, pod: Arc<PodInfo>) {
        let mut state = self.state.lock();
        if let Some(meanwhile) = state.in_flight.get_mut(pod.uid()) {
            *meanwhile = Meanwhile::Changed(pod);
            return;
        }
        let (mut attempts, mut backoff_until) = (0, None);
        state.active.retain(|_, entry| entry.pod.uid() != pod.uid());
        if let Some(waiting) = state.waiting.remove(pod.uid()) {
            attempts = waiting.entry.attempts;
            backoff_until = Some(waiting.backoff_until).filter(|until| *until > Instant::now());
        }
        state.clock += 1;
        let entry = Entry { attempts, added: state.clock, pod };
        match backoff_until {
            None => state.activate(entry),
            Some(until) => state.wait(entry, until, HashSet::new(), true),
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A pod is gone or has got its node.
    pub fn remove(&self, uid: &str) {
        let mut state = self.state.lock();
        state.active.retain(|_, entry| entry.pod.uid() != uid);
        state.waiting.remove(uid);
        if let Some(meanwhile) = state.in_flight.get_mut(uid) {
            *meanwhile = Meanwhile::Gone;
        }
    }

    /// Something changed: pods that it may help are tried again.
    pub fn changed(&self, change: Change) {
        let mut state = self.state.lock();
        if !state.in_flight.is_empty() {
            state.clock += 1;
            let now = state.clock;
            state.recent.push((now, change));
        }
        let helps = |waiting: &Waiting| {
            waiting.rejected_by.is_empty() || waiting.rejected_by.iter().any(|plugin| change.may_help(plugin))
        };
        let mut helped = false;
        for waiting in state.waiting.values_mut().filter(|waiting| helps(waiting)) {
            waiting.helped = true;
            helped = true;
        }
        drop(state);
        if helped {
            self.wake.notify_one();
        }
    }

    /// The next pod to try. Cancel-safe; exactly one task may wait here.
    pub async fn next(&self) -> Attempt {
        loop {
            let notified = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                let due = state.release(Instant::now());
                if let Some((_, entry)) = state.active.pop_first() {
                    state.in_flight.insert(entry.pod.uid().to_owned(), Meanwhile::Nothing);
                    state.clock += 1;
                    return Attempt { attempts: entry.attempts + 1, pod: entry.pod, started: state.clock };
                }
                due
            };
            match due {
                Some(due) => tokio::select! { () = notified => {} () = tokio::time::sleep_until(due) => {} },
                None => notified.await,
            }
        }
    }

    /// The attempt ended with a node or with a pod that needs none.
    pub fn done(&self, attempt: &Attempt) {
        self.state.lock().finish(attempt);
    }

    /// The attempt failed; `rejected_by` names the plugins that kept the pod from every node, nothing an error that only
    /// time helps against.
    pub fn failed(&self, attempt: &Attempt, rejected_by: HashSet<&'static str>) {
        let mut state = self.state.lock();
        // A change in the middle of the attempt may have helped already.
        let during = state.recent.iter().filter(|(at, _)| *at > attempt.started);
        let helped = rejected_by.is_empty()
            || during.clone().any(|(_, change)| rejected_by.iter().any(|plugin| change.may_help(plugin)));
        let (pod, helped) = match state.finish(attempt) {
            Meanwhile::Nothing => (attempt.pod.clone(), helped),
            Meanwhile::Changed(pod) => (pod, true),
            Meanwhile::Gone => return,
        };
        state.clock += 1;
        let entry = Entry { pod, attempts: attempt.attempts, added: state.clock };
        let doublings = attempt.attempts.saturating_sub(1).min(8);
        let backoff = BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
        state.wait(entry, Instant::now() + backoff, rejected_by, helped);
        drop(state);
        self.wake.notify_one();
    }
}

impl State {
    fn activate(&mut self, entry: Entry) {
        self.active.insert((std::cmp::Reverse(entry.pod.priority()), entry.added), entry);
    }

    fn wait(&mut self, entry: Entry, backoff_until: Instant, rejected_by: HashSet<&'static str>, helped: bool) {
        let limit = Instant::now() + UNSCHEDULABLE_LIMIT;
        let waiting = Waiting { backoff_until, rejected_by, helped, limit, entry };
        self.waiting.insert(waiting.entry.pod.uid().to_owned(), waiting);
    }

    fn finish(&mut self, attempt: &Attempt) -> Meanwhile {
        let meanwhile = self.in_flight.remove(attempt.pod.uid()).unwrap_or(Meanwhile::Nothing);
        if self.in_flight.is_empty() {
            self.recent.clear();
        }
        meanwhile
    }

    /// Moves pods whose wait is over to the active ones; returns when the next wait ends by time alone.
    fn release(&mut self, now: Instant) -> Option<Instant> {
        let end = |waiting: &Waiting| {
            if waiting.helped { waiting.backoff_until } else { waiting.limit.max(waiting.backoff_until) }
        };
        let over: Vec<String> =
            self.waiting.iter().filter(|(_, waiting)| end(waiting) <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in over {
            if let Some(waiting) = self.waiting.remove(&uid) {
                self.activate(waiting.entry);
            }
        }
        self.waiting.values().map(end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod =
            json!({ "metadata": { "name": name, "uid": name }, "spec": { "priority": priority, "containers": [] } });
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    async fn is_empty(queue: &SchedulingQueue, wait: Duration) -> bool {
        tokio::time::timeout(wait, queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn the_highest_priority_comes_first_then_the_oldest() {
        let queue = SchedulingQueue::default();
        for (name, priority) in [("old", 0), ("young", 0), ("vip", 5)] {
            queue.add(pod(name, priority));
        }
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(queue.next().await.pod.name().to_owned());
        }
        assert_eq!(order, ["vip", "old", "young"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_pod_waits_for_a_change_that_can_help_and_for_its_back_off() {
        let queue = SchedulingQueue::default();
        queue.add(pod("a", 0));
        let attempt = queue.next().await;
        queue.failed(&attempt, HashSet::from(["NodeResourcesFit"]));
        queue.changed(Change::Volume);
        assert!(is_empty(&queue, Duration::from_secs(60)).await, "a volume does not help");
        queue.changed(Change::PodGone);
        assert_eq!(queue.next().await.attempts, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_the_attempt_is_not_missed() {
        let queue = SchedulingQueue::default();
        queue.add(pod("a", 0));
        let attempt = queue.next().await;
        queue.changed(Change::Node);
        queue.failed(&attempt, HashSet::from(["NodeAffinity"]));
        let before = Instant::now();
        assert_eq!(queue.next().await.attempts, 2);
        assert_eq!(before.elapsed().as_secs(), 1, "after the back-off");
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_change_a_pod_is_tried_again_after_the_limit() {
        let queue = SchedulingQueue::default();
        queue.add(pod("a", 0));
        let attempt = queue.next().await;
        queue.failed(&attempt, HashSet::from(["NodeAffinity"]));
        let before = Instant::now();
        queue.next().await;
        assert_eq!(before.elapsed().as_secs(), UNSCHEDULABLE_LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_pod_never_comes() {
        let queue = SchedulingQueue::default();
        queue.add(pod("a", 0));
        queue.remove("a");
        queue.add(pod("b", 0));
        let attempt = queue.next().await;
        queue.remove("b");
        queue.failed(&attempt, HashSet::new());
        assert!(is_empty(&queue, Duration::from_secs(600)).await);
    }
}
