//! Which pod is tried next, and when a pod that did not fit is tried again (upstream: `PriorityQueue` with queueing hints).
//!
//! Pods to try are ordered by priority and age. A pod that was rejected waits until an event comes that can help against one
//! of the plugins that rejected it; it then also waits for the rest of its back-off, unless there is nothing else to try.
pub mod events;
pub mod hints;

#[cfg(test)]
mod tests;

use crate::algorithm::Profile;
use crate::framework::{Plugin, PluginSet};
use crate::pod_info::PodInfo;
use events::{Event, PodChange, is_gated};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Without any event that helps, a rejected pod is tried again after this (`podMaxInUnschedulablePodsDuration`).
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(300);
/// Back-offs end at multiples of this, so that priority decides among pods whose wait ends about the same time.
const BACKOFF_WINDOW: Duration = Duration::from_secs(1);

/// How long a pod waits after its first failure, and at most.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure; each further one doubles it.
    pub initial: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => self.initial.saturating_mul(1 << doublings.min(20)).min(self.max),
        }
    }
}

/// A pod that waits to be placed.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried, the attempt under way included.
    pub attempts: u32,
    /// When it was first to be tried.
    pub since: Instant,
    /// When it came into the queue last.
    added: Instant,
    /// How often it was rejected.
    rejections: u32,
    /// How often in a row it failed for another reason.
    errors: u32,
    /// Which plugins rejected it.
    rejected_by: PluginSet,
    gated: bool,
    order: u64,
}

/// The order in which pods are tried: priority, age.
type Key = (Reverse<i32>, Instant, u64);

impl Queued {
    fn key(&self) -> Key {
        (Reverse(self.pod.priority()), self.added, self.order)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Active(Key),
    Backoff(Instant, Key),
    ErrorBackoff(Instant, Key),
    Unschedulable(Instant, u64),
}

/// A pod that is being tried.
#[derive(Debug)]
struct InFlight {
    /// The number of the first event that came after the attempt began.
    first_event: u64,
    /// The newest state of the pod, if it changed.
    changed: Option<Arc<PodInfo>>,
    gone: bool,
}

struct State {
    active: BTreeMap<Key, Queued>,
    backoff: BTreeMap<(Instant, Key), Queued>,
    error_backoff: BTreeMap<(Instant, Key), Queued>,
    /// By age, for the limit.
    unschedulable: BTreeMap<(Instant, u64), Queued>,
    /// Which of those each plugin rejected.
    rejected: HashMap<Plugin, BTreeSet<(Instant, u64)>>,
    places: HashMap<String, Place>,
    in_flight: HashMap<String, InFlight>,
    /// Events since the oldest attempt under way began, with the number of the first.
    events: VecDeque<Event>,
    first_event: u64,
    orders: u64,
    epoch: Instant,
}

/// How many pods wait where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "upstream's names of the queues")]
pub struct Lengths {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// The queue; shared by reference.
pub struct SchedulingQueue {
    state: Mutex<State>,
    profiles: Arc<[Profile]>,
    pace: Backoff,
    wake: Notify,
}

impl SchedulingQueue {
    /// An empty queue for the pods of `profiles`.
    pub fn new(profiles: Arc<[Profile]>, pace: Backoff) -> Self {
        let state = State {
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            error_backoff: BTreeMap::new(),
            unschedulable: BTreeMap::new(),
            rejected: HashMap::new(),
            places: HashMap::new(),
            in_flight: HashMap::new(),
            events: VecDeque::new(),
            first_event: 0,
            orders: 0,
            epoch: Instant::now(),
        };
        SchedulingQueue { state: Mutex::new(state), profiles, pace, wake: Notify::new() }
    }

    fn profile(&self, pod: &PodInfo) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == pod.scheduler_name())
    }

    fn holds(&self, pod: &PodInfo) -> bool {
        is_gated(&pod.pod) && self.profile(pod).is_some_and(|profile| profile.gates)
    }

    /// A pod that has no node is new.
    pub fn add(&self, pod: Arc<PodInfo>) {
        let mut state = self.state.lock();
        if let Some(in_flight) = state.in_flight.get_mut(pod.uid()) {
            (in_flight.changed, in_flight.gone) = (Some(pod), false);
            return;
        }
        state.take(pod.uid());
        let now = Instant::now();
        state.orders += 1;
        let gated = self.holds(&pod);
        let order = state.orders;
        let rejected_by = if gated { PluginSet::from_iter([Plugin::SchedulingGates]) } else { PluginSet::default() };
        let queued =
            Queued { pod, attempts: 0, since: now, added: now, rejections: 0, errors: 0, rejected_by, gated, order };
        if gated {
            state.shelve(queued);
        } else {
            state.activate(queued);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// A pod that has no node changed from `old` to `new`.
    pub fn update(&self, old: &Arc<PodInfo>, new: Arc<PodInfo>) {
        let change = PodChange::between(old, &new);
        let mut state = self.state.lock();
        if let Some(in_flight) = state.in_flight.get_mut(new.uid()) {
            in_flight.changed = Some(new.clone());
            if change.any() {
                state.log(Event::PodUpdated { old: old.clone(), new, change });
            }
            return;
        }
        let Some(place) = state.places.get(new.uid()).copied() else {
            drop(state);
            return self.add(new);
        };
        let Some(mut queued) = state.take(new.uid()) else { return };
        queued.pod = new.clone();
        match place {
            Place::Active(_) => state.activate(queued),
            Place::Backoff(until, _) => state.back_off(queued, until),
            Place::ErrorBackoff(until, _) => state.back_off_for_error(queued, until),
            Place::Unschedulable(..) if queued.gated => {
                if self.holds(&new) {
                    state.shelve(queued);
                    return;
                }
                queued.gated = false;
                (queued.rejected_by, queued.since) = (PluginSet::default(), Instant::now());
                state.activate(queued);
            }
            Place::Unschedulable(..) => {
                let event = Event::PodUpdated { old: old.clone(), new, change };
                if change.any() && self.helps(&queued, &event) {
                    self.requeue(&mut state, queued);
                } else {
                    state.shelve(queued);
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A pod is gone or has got its node.
    pub fn remove(&self, uid: &str) {
        let mut state = self.state.lock();
        state.take(uid);
        if let Some(in_flight) = state.in_flight.get_mut(uid) {
            in_flight.gone = true;
        }
    }

    /// Whether an event could matter to anybody; saves making one.
    pub fn cares(&self) -> bool {
        let state = self.state.lock();
        !state.in_flight.is_empty() || !state.unschedulable.is_empty()
    }

    /// Something happened: pods that it may help are tried again, apart from the pod `but`.
    pub fn happened(&self, event: Event, but: Option<&str>) {
        let mut state = self.state.lock();
        let mut helped: BTreeSet<(Instant, u64)> = BTreeSet::new();
        for plugin in hints::concerned(&event) {
            for key in state.rejected.get(plugin).into_iter().flatten() {
                let Some(queued) = state.unschedulable.get(key) else { continue };
                let allowed = !queued.gated && but != Some(queued.pod.uid()) && !helped.contains(key);
                if allowed
                    && let Some(profile) = self.profile(&queued.pod)
                    && hints::may_help(*plugin, &queued.pod, &event, profile)
                {
                    helped.insert(*key);
                }
            }
        }
        for key in &helped {
            let uid = state.unschedulable.get(key).map(|queued| queued.pod.uid().to_owned());
            if let Some(queued) = uid.and_then(|uid| state.take(&uid)) {
                self.requeue(&mut state, queued);
            }
        }
        state.log(event);
        drop(state);
        if !helped.is_empty() {
            self.wake.notify_one();
        }
    }

    fn helps(&self, queued: &Queued, event: &Event) -> bool {
        let Some(profile) = self.profile(&queued.pod) else { return true };
        let concerned = hints::concerned(event).iter();
        concerned
            .filter(|plugin| queued.rejected_by.contains(**plugin))
            .any(|plugin| hints::may_help(*plugin, &queued.pod, event, profile))
    }

    /// To the active pods, or to those that back off while its back-off runs.
    fn requeue(&self, state: &mut State, queued: Queued) {
        let until = state.window(queued.added + self.pace.after(queued.rejections));
        if until > state.window(Instant::now()) {
            state.back_off(queued, until);
        } else {
            state.activate(queued);
        }
    }

    /// The next pod to try. Cancel-safe; exactly one task may wait here.
    pub async fn next(&self) -> Queued {
        loop {
            let notified = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                let due = self.release(&mut state, Instant::now());
                if let Some(mut queued) = state.pop() {
                    queued.attempts += 1;
                    let in_flight = InFlight { first_event: state.next_event(), changed: None, gone: false };
                    state.in_flight.insert(queued.pod.uid().to_owned(), in_flight);
                    return queued;
                }
                due
            };
            match due {
                Some(due) => tokio::select! { () = notified => {} () = tokio::time::sleep_until(due) => {} },
                None => notified.await,
            }
        }
    }

    /// Moves pods whose wait is over to the active ones; returns when the next wait ends by time alone.
    fn release(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let window = state.window(now);
        while let Some(entry) = state.backoff.first_entry().filter(|entry| entry.key().0 <= window) {
            let queued = entry.remove();
            state.activate(queued);
        }
        while let Some(entry) = state.error_backoff.first_entry().filter(|entry| entry.key().0 <= window) {
            let queued = entry.remove();
            state.activate(queued);
        }
        let stale = |queued: &Queued| !queued.gated && queued.added + UNSCHEDULABLE_LIMIT <= now;
        let late: Vec<String> = state
            .unschedulable
            .values()
            .take_while(|queued| queued.added + UNSCHEDULABLE_LIMIT <= now)
            .filter(|queued| stale(queued))
            .map(|queued| queued.pod.uid().to_owned())
            .collect();
        for uid in late {
            if let Some(queued) = state.take(&uid) {
                self.requeue(state, queued);
            }
        }
        let limit = state.unschedulable.values().find(|queued| !queued.gated);
        [
            state.backoff.first_key_value().map(|((until, _), _)| *until),
            state.error_backoff.first_key_value().map(|((until, _), _)| *until),
            limit.map(|queued| queued.added + UNSCHEDULABLE_LIMIT),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The attempt is over: the pod has a node, or needs none.
    pub fn done(&self, uid: &str) {
        let mut state = self.state.lock();
        state.in_flight.remove(uid);
        state.forget_events();
    }

    /// The attempt failed; `rejected_by` names the plugins that kept the pod from every node, nothing an error that only time
    /// helps against. Returns the pod's newest state, `None` if it is gone or waits already.
    pub fn failed(&self, queued: Queued, rejected_by: PluginSet) -> Option<Arc<PodInfo>> {
        let mut state = self.state.lock();
        let in_flight = state.in_flight.remove(queued.pod.uid())?;
        let newest = (!in_flight.gone).then(|| in_flight.changed.unwrap_or_else(|| queued.pod.clone()));
        if let Some(newest) = &newest {
            let queued = Queued { pod: newest.clone(), rejected_by, added: Instant::now(), ..queued };
            self.put_back(&mut state, queued, in_flight.first_event);
        }
        state.forget_events();
        drop(state);
        self.wake.notify_one();
        newest
    }

    /// A pod whose attempt was [`Self::done`] is to be tried again after all, as it is now.
    pub fn retry(&self, queued: Queued, now: Arc<PodInfo>) {
        let mut state = self.state.lock();
        if state.places.contains_key(now.uid()) || state.in_flight.contains_key(now.uid()) {
            return;
        }
        let queued = Queued { pod: now, rejected_by: PluginSet::default(), added: Instant::now(), ..queued };
        let since = state.next_event();
        self.put_back(&mut state, queued, since);
        drop(state);
        self.wake.notify_one();
    }

    fn put_back(&self, state: &mut State, mut queued: Queued, first_event: u64) {
        if queued.rejected_by.is_empty() {
            queued.errors += 1;
            let until = state.window(queued.added + self.pace.after(queued.errors));
            return state.back_off_for_error(queued, until);
        }
        queued.rejections += 1;
        queued.errors = 0;
        // An event in the middle of the attempt may have helped already.
        let skip = usize::try_from(first_event - state.first_event).unwrap_or(usize::MAX);
        if state.events.iter().skip(skip).any(|event| self.helps(&queued, event)) {
            self.requeue(state, queued);
        } else {
            state.shelve(queued);
        }
    }

    /// How many pods wait where.
    pub fn lengths(&self) -> Lengths {
        let state = self.state.lock();
        let gated = state.unschedulable.values().filter(|queued| queued.gated).count();
        Lengths {
            active: state.active.len(),
            backoff: state.backoff.len() + state.error_backoff.len(),
            unschedulable: state.unschedulable.len() - gated,
            gated,
        }
    }
}

impl State {
    /// The start of the window that `at` lies in.
    fn window(&self, at: Instant) -> Instant {
        let windows = at.saturating_duration_since(self.epoch).as_secs() / BACKOFF_WINDOW.as_secs();
        self.epoch + BACKOFF_WINDOW.saturating_mul(u32::try_from(windows).unwrap_or(u32::MAX))
    }

    fn activate(&mut self, queued: Queued) {
        self.places.insert(queued.pod.uid().to_owned(), Place::Active(queued.key()));
        self.active.insert(queued.key(), queued);
    }

    fn back_off(&mut self, queued: Queued, until: Instant) {
        self.places.insert(queued.pod.uid().to_owned(), Place::Backoff(until, queued.key()));
        self.backoff.insert((until, queued.key()), queued);
    }

    fn back_off_for_error(&mut self, queued: Queued, until: Instant) {
        self.places.insert(queued.pod.uid().to_owned(), Place::ErrorBackoff(until, queued.key()));
        self.error_backoff.insert((until, queued.key()), queued);
    }

    fn shelve(&mut self, queued: Queued) {
        let key = (queued.added, queued.order);
        self.places.insert(queued.pod.uid().to_owned(), Place::Unschedulable(key.0, key.1));
        for plugin in queued.rejected_by.iter() {
            self.rejected.entry(plugin).or_default().insert(key);
        }
        self.unschedulable.insert(key, queued);
    }

    fn take(&mut self, uid: &str) -> Option<Queued> {
        match self.places.remove(uid)? {
            Place::Active(key) => self.active.remove(&key),
            Place::Backoff(until, key) => self.backoff.remove(&(until, key)),
            Place::ErrorBackoff(until, key) => self.error_backoff.remove(&(until, key)),
            Place::Unschedulable(added, order) => {
                let queued = self.unschedulable.remove(&(added, order))?;
                for plugin in queued.rejected_by.iter() {
                    if let Some(keys) = self.rejected.get_mut(&plugin) {
                        keys.remove(&(added, order));
                    }
                }
                Some(queued)
            }
        }
    }

    /// The first active pod; without any, one whose back-off has not ended yet (upstream: SchedulerPopFromBackoffQ).
    fn pop(&mut self) -> Option<Queued> {
        let first = self.active.pop_first().map(|(_, queued)| queued);
        let queued = first.or_else(|| self.backoff.pop_first().map(|(_, queued)| queued))?;
        self.places.remove(queued.pod.uid());
        Some(queued)
    }

    fn next_event(&self) -> u64 {
        self.first_event + self.events.len() as u64
    }

    fn log(&mut self, event: Event) {
        if !self.in_flight.is_empty() {
            self.events.push_back(event);
        }
    }

    /// Drops events from before every attempt under way.
    fn forget_events(&mut self) {
        let needed = self.in_flight.values().map(|attempt| attempt.first_event).min().unwrap_or(self.next_event());
        let gone = usize::try_from(needed - self.first_event).unwrap_or(usize::MAX).min(self.events.len());
        self.events.drain(..gone);
        self.first_event = needed;
    }
}
