//! A work queue of keys as client-go's: a key is processed by one worker at a time, added again while being processed it
//! runs once more afterwards, failures come back with exponential back-off. Bounded by the number of distinct keys.
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First delay after a failure; doubles with each one in a row (client-go's default controller rate limiter).
const BASE_DELAY: Duration = Duration::from_millis(5);
/// The longest delay after failures.
const MAX_DELAY: Duration = Duration::from_secs(1000);

/// A deduplicating, delaying, rate-limited queue of keys; clones share it.
pub struct WorkQueue<K>(Arc<Inner<K>>);

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue(self.0.clone())
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    dirty: HashSet<K>,
    processing: HashSet<K>,
    failures: HashMap<K, u32>,
    delayed: HashMap<K, Instant>,
}

impl<K: Clone + Eq + Hash + Send + 'static> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            failures: HashMap::new(),
            delayed: HashMap::new(),
        };
        WorkQueue(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }))
    }

    /// Marks `key` as needing work.
    pub fn add(&self, key: K) {
        self.0.state.lock().push(key);
        self.0.wake.notify_one();
    }

    /// Adds `key` after `delay`; of several delays for one key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = Instant::now() + delay;
        let mut state = self.0.state.lock();
        let at = state.delayed.entry(key).or_insert(due);
        *at = due.min(*at);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Adds `key` after its back-off, which grows with each call until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = BASE_DELAY.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(MAX_DELAY);
            *failures = failures.saturating_add(1).min(31);
            delay
        };
        self.add_after(key, delay);
    }

    /// Ends the back-off of `key`.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// Runs `workers` loops that call `reconcile` for each key until `stop`. `Ok(Some(d))` comes back after `d`; an error is
    /// logged and comes back after the back-off.
    pub async fn run<F, Fut, E>(self, name: &'static str, workers: usize, stop: CancellationToken, reconcile: F)
    where
        K: std::fmt::Debug + Sync,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Duration>, E>> + Send + 'static,
        E: std::fmt::Display + Send,
    {
        let reconcile = Arc::new(reconcile);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..workers {
            let (queue, stop, reconcile) = (self.clone(), stop.clone(), reconcile.clone());
            tasks.spawn(async move {
                while let Some(key) = tokio::select! { key = queue.next() => Some(key), () = stop.cancelled() => None }
                {
                    match reconcile(key.clone()).await {
                        Ok(again) => {
                            queue.forget(&key);
                            if let Some(delay) = again {
                                queue.add_after(key.clone(), delay);
                            }
                        }
                        Err(error) => {
                            tracing::debug!(controller = name, ?key, %error, "reconcile failed, will retry");
                            queue.add_rate_limited(key.clone());
                        }
                    }
                    queue.done(&key);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Takes the next key; the caller must call [`WorkQueue::done`] for it. Cancel-safe.
    pub async fn next(&self) -> K {
        loop {
            let notified = self.0.wake.notified();
            let due = {
                let mut state = self.0.state.lock();
                let due = state.release_due(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return key;
                }
                due
            };
            match due {
                Some(at) => tokio::select! { () = notified => {} () = tokio::time::sleep_until(at) => {} },
                None => notified.await,
            }
        }
    }

    /// Ends the processing of `key`; it runs again at once if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.0.state.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.0.wake.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn push(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }

    /// Moves due keys to the ready ones; returns when the next is due.
    fn release_due(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<K> = self.delayed.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.delayed.remove(&key);
            self.push(key);
        }
        self.delayed.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn is_empty(queue: &WorkQueue<&'static str>) -> bool {
        tokio::time::timeout(Duration::ZERO, queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_processed_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(is_empty(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_processed_runs_again_only_after_done() {
        let queue = WorkQueue::new();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(is_empty(&queue).await);
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_counts() {
        let (queue, start) = (WorkQueue::new(), Instant::now());
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"a");
        assert!(is_empty(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_doubles_up_to_its_limit_and_forget_ends_it() {
        let queue = WorkQueue::new();
        let mut waits = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            queue.next().await;
            queue.done(&"a");
            waits.push(start.elapsed());
        }
        assert_eq!(waits[..3], [5, 10, 20].map(Duration::from_millis));
        assert_eq!(waits[19], MAX_DELAY);
        queue.forget(&"a");
        let start = Instant::now();
        queue.add_rate_limited("a");
        queue.next().await;
        assert_eq!(start.elapsed(), BASE_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn every_waiting_worker_is_woken_for_its_key() {
        let queue = WorkQueue::new();
        let workers: Vec<_> =
            (0..3).map(|_| queue.clone()).map(|queue| tokio::spawn(async move { queue.next().await })).collect();
        tokio::task::yield_now().await;
        for key in ["a", "b", "c"] {
            queue.add(key);
        }
        let mut taken = Vec::new();
        for worker in workers {
            taken.push(worker.await.unwrap());
        }
        taken.sort_unstable();
        assert_eq!(taken, ["a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_reconcile_is_retried_until_it_succeeds() {
        let (queue, stop, runs) = (WorkQueue::new(), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        queue.add("a");
        let (counted, stopper) = (runs.clone(), stop.clone());
        queue
            .run("test", 2, stop, move |_| {
                let (runs, stopper) = (counted.clone(), stopper.clone());
                async move {
                    if runs.fetch_add(1, Ordering::SeqCst) == 3 {
                        stopper.cancel();
                        return Ok(None);
                    }
                    Err("not yet")
                }
            })
            .await;
        assert_eq!(runs.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_can_ask_to_come_back() {
        let (queue, stop, start) = (WorkQueue::new(), CancellationToken::new(), Instant::now());
        queue.add("a");
        let stopper = stop.clone();
        queue
            .run("test", 1, stop, move |_| {
                let done = start.elapsed() >= Duration::from_secs(7);
                if done {
                    stopper.cancel();
                }
                async move { Ok::<_, Infallible>((!done).then_some(Duration::from_secs(7))) }
            })
            .await;
        assert_eq!(start.elapsed().as_secs(), 7);
    }
}
