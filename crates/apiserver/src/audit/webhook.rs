//! Audit events for a webhook: sent in batches, tried again when that fails. Start at [`start`].
// upstream: apiserver plugin/pkg/audit/webhook
use super::backend::{Backend, Entry, Errors, Mode};
use crate::remote::{Backoff, Remote};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a batch is tried.
const ATTEMPTS: u32 = 5;
/// How many batches are on their way at the same time.
const PARALLEL: usize = 16;

/// How events are sent.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How requests wait.
    pub mode: Mode,
    /// How many events wait at most.
    pub buffer: usize,
    /// How many events are sent together at most.
    pub batch: usize,
    /// How long an event waits for others.
    pub wait: Duration,
    /// Batches per second, and how many may be sent at once after a pause; none: as fast as they come.
    pub throttle: Option<(f64, u32)>,
    /// The wait before the second attempt.
    pub backoff: Duration,
    /// The size in bytes above which an event loses its objects.
    pub size_limit: Option<usize>,
}

/// Sends to `remote` what the backend is given.
pub fn start(remote: Remote, config: Config) -> Backend {
    let (queue, entries) = mpsc::channel(config.buffer.max(1));
    let errors = Errors::default();
    let sender = Sender { remote: Arc::new(remote), config, errors: errors.clone() };
    tokio::spawn(run(sender, entries));
    Backend::new("webhook", config.mode, config.size_limit, queue, errors)
}

#[derive(Clone)]
struct Sender {
    remote: Arc<Remote>,
    config: Config,
    errors: Errors,
}

async fn run(sender: Sender, mut entries: mpsc::Receiver<Entry>) {
    let waits = sender.config.mode != Mode::Batch;
    let (slots, mut bucket) = (Arc::new(Semaphore::new(PARALLEL)), sender.config.throttle.map(Bucket::new));
    while let Some(first) = entries.recv().await {
        let mut batch = Batch::default();
        let mut full = batch.add(first) || waits || batch.events.len() >= sender.config.batch;
        let due = Instant::now() + sender.config.wait;
        while !full {
            tokio::select! {
                entry = entries.recv() => match entry {
                    Some(entry) => full = batch.add(entry) || batch.events.len() >= sender.config.batch,
                    None => full = true,
                },
                () = tokio::time::sleep_until(due) => full = true,
            }
        }
        if let Some(bucket) = &mut bucket {
            bucket.take().await;
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let sender = sender.clone();
        let sent = async move {
            sender.send(batch).await;
            drop(slot);
        };
        tokio::spawn(sent);
    }
}

#[derive(Default)]
struct Batch {
    events: Vec<Bytes>,
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Batch {
    /// Takes one entry more; true if the batch is to be sent now.
    fn add(&mut self, entry: Entry) -> bool {
        match entry {
            Entry::Event(event, done) => {
                self.events.push(event);
                self.waiting.extend(done);
                false
            }
            Entry::Flush(done) => {
                self.waiting.push(done);
                true
            }
        }
    }

    fn body(&self) -> Bytes {
        let mut body = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
        for (i, event) in self.events.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(event);
        }
        body.extend_from_slice(b"]}\n");
        body.into()
    }
}

impl Sender {
    async fn send(&self, batch: Batch) {
        let sent = batch.events.is_empty() || self.try_to_send(&batch.body()).await;
        if !sent {
            self.errors.add(batch.events.len());
        }
        for done in batch.waiting {
            // Who waited may be gone: its client has left.
            done.send(sent).ok();
        }
    }

    async fn try_to_send(&self, body: &Bytes) -> bool {
        let mut backoff = Backoff::new(self.config.backoff, ATTEMPTS);
        loop {
            let Err(error) = self.remote.post(body, TIMEOUT).await else { return true };
            let Some(wait) = backoff.next() else {
                tracing::error!(%error, "audit events cannot be sent to the webhook and are lost");
                return false;
            };
            tracing::warn!(%error, "audit events cannot be sent to the webhook, will retry");
            tokio::time::sleep(wait).await;
        }
    }
}

/// So many tokens a second, and so many at once after a pause.
struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new((per_second, burst): (f64, u32)) -> Self {
        let burst = f64::from(burst);
        Bucket { per_second, burst, tokens: burst, at: Instant::now() }
    }

    async fn take(&mut self) {
        let now = Instant::now();
        self.tokens = self.burst.min(self.tokens + (now - self.at).as_secs_f64() * self.per_second) - 1.0;
        self.at = now;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / self.per_second)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_then_the_rate_holds() {
        let mut bucket = Bucket::new((10.0, 2));
        let start = Instant::now();
        for _ in 0..4 {
            bucket.take().await;
        }
        let took = start.elapsed().as_millis();
        assert!((195..=205).contains(&took), "{took}");
    }

    #[test]
    fn a_batch_is_one_list() {
        let mut batch = Batch::default();
        assert!(!batch.add(Entry::Event(Bytes::from_static(b"{\"a\":1}"), None)));
        assert!(!batch.add(Entry::Event(Bytes::from_static(b"{\"b\":2}"), None)));
        let list: serde_json::Value = serde_json::from_slice(&batch.body()).unwrap();
        assert_eq!((&list["kind"], &list["items"][1]["b"]), (&"EventList".into(), &2.into()));
    }
}
