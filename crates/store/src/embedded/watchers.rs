//! Who waits for changes under which prefix. Each watch has a queue of its own, so that one that sleeps costs nothing
//! and one that lags is cut off without holding anyone up.
use crate::{Error, Event, Revision, Watch};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// The registered watches.
pub(super) struct Watchers {
    watchers: Vec<(Bytes, Weak<Queue>)>,
    lag: usize,
}

struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

struct Inner {
    events: VecDeque<Event>,
    end: End,
}

enum End {
    Open,
    /// Cut off: the first revision that was not delivered, the store's newest.
    Lagged(Revision, Revision),
    Closed,
}

/// One watch; dropping it ends it.
pub(super) struct Watcher(Arc<Queue>);

impl Watchers {
    pub(super) fn new(lag: usize) -> Self {
        Watchers { watchers: Vec::new(), lag }
    }

    pub(super) fn add(&mut self, prefix: &[u8], past: VecDeque<Event>) -> Watcher {
        self.watchers.retain(|(_, queue)| queue.strong_count() > 0);
        let inner = Inner { events: past, end: End::Open };
        let queue = Arc::new(Queue { inner: Mutex::new(inner), wake: Notify::new() });
        self.watchers.push((Bytes::copy_from_slice(prefix), Arc::downgrade(&queue)));
        Watcher(queue)
    }

    /// Hands the events of whole transactions to those whose prefix they fall under.
    pub(super) fn publish(&mut self, events: &[Event]) {
        let mut gone = false;
        for (prefix, queue) in &self.watchers {
            let mut matching = events.iter().filter(|event| event.key.starts_with(prefix)).peekable();
            if matching.peek().is_none() {
                continue;
            }
            let Some(queue) = queue.upgrade() else {
                gone = true;
                continue;
            };
            let mut inner = queue.inner.lock();
            if let End::Open = inner.end {
                let first = inner.events.front().map(|event| event.revision);
                inner.events.extend(matching.cloned());
                if inner.events.len() > self.lag {
                    let newest = events.last().map_or(0, |event| event.revision);
                    inner.end = End::Lagged(first.unwrap_or(newest), newest);
                    inner.events = VecDeque::new();
                }
            }
            drop(inner);
            queue.wake.notify_one();
        }
        if gone {
            self.watchers.retain(|(_, queue)| queue.strong_count() > 0);
        }
    }

    pub(super) fn close(&mut self) {
        for queue in self.watchers.drain(..).filter_map(|(_, queue)| queue.upgrade()) {
            queue.inner.lock().end = End::Closed;
            queue.wake.notify_one();
        }
    }
}

#[async_trait::async_trait]
impl Watch for Watcher {
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            {
                let mut inner = self.0.inner.lock();
                if !inner.events.is_empty() {
                    return Ok(std::mem::take(&mut inner.events).into());
                }
                match inner.end {
                    End::Open => {}
                    End::Lagged(requested, oldest) => return Err(Error::Compacted { requested, oldest }),
                    End::Closed => return Err(Error::Closed),
                }
            }
            // A permit is kept for a wake-up between the look and the wait; there is one waiter only.
            self.0.wake.notified().await;
        }
    }
}
