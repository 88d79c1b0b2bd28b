//! A priority level at work: requests take seats, wait for them, and give them back. Start at [`Level::enter`].
use super::allocation::{self, Limits, Wanted};
use super::config::Schema;
use super::queue_set::{Arrival, QueueSet, Queuing, Rejection, Slot, Ticket};
use crate::request_info::RequestInfo;
use parking_lot::Mutex;
use pintle_api::user::UserInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A level.
#[derive(Debug)]
pub(super) struct Level {
    pub name: String,
    /// Whether its requests never wait.
    pub exempt: bool,
    set: Mutex<QueueSet<Waiter>>,
    seats: Mutex<Seats>,
    pub counts: Counts,
}

/// What became of a level's requests.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub dispatched: AtomicU64,
    pub rejected: AtomicU64,
    pub timed_out: AtomicU64,
    pub cancelled: AtomicU64,
}

/// What a level may have, wants and has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seats {
    pub limits: Limits,
    pub wanted: Wanted,
    pub current: usize,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    go: oneshot::Sender<()>,
    pub schema: String,
    pub flow: String,
    pub arrived: jiff::Timestamp,
    pub user: String,
    pub info: RequestInfo,
}

/// A request that has a seat until this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    level: Arc<Level>,
    slot: Slot,
    since: Instant,
}

impl Running {
    /// When it got its seat.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.level.finish(self.slot, self.since);
    }
}

/// A request in a queue; dropped, it leaves it.
struct Place<'a> {
    level: &'a Level,
    ticket: Option<Ticket>,
}

impl Place<'_> {
    /// Leaves the queue; the slot if the request was let go meanwhile.
    fn leave(&mut self) -> Option<Slot> {
        let ticket = self.ticket.take()?;
        let cancelled = self.level.set.lock().cancel(ticket, Instant::now());
        (!cancelled).then(|| ticket.slot())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        self.level.counts.cancelled.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = self.leave() {
            self.level.finish(slot, Instant::now());
        }
    }
}

impl Level {
    pub(super) fn new(name: &str, exempt: bool, queuing: Queuing, limits: Limits, now: Instant) -> Self {
        let current = if exempt { usize::MAX } else { limits.initial() };
        Level {
            name: name.to_owned(),
            exempt,
            set: Mutex::new(QueueSet::new(queuing, current, now)),
            seats: Mutex::new(Seats { limits, current: limits.initial(), ..Seats::default() }),
            counts: Counts::default(),
        }
    }

    /// Takes a changed configuration over.
    pub(super) fn configure(&self, queuing: Queuing, limits: Limits) {
        self.set.lock().set_queuing(queuing);
        self.seats.lock().limits = limits;
    }

    /// What the level asks for, by what was asked of it since the last time.
    pub(super) fn wanted(&self, now: Instant) -> allocation::Level {
        let observed = self.set.lock().take_demand(now);
        let mut seats = self.seats.lock();
        seats.wanted.update(observed);
        allocation::Level { exempt: self.exempt, limits: seats.limits, wanted: seats.wanted }
    }

    /// Gives the level so many seats.
    pub(super) fn set_seats(&self, seats: usize, now: Instant) {
        self.seats.lock().current = seats;
        if !self.exempt {
            self.set.lock().set_limit(seats, now, let_go);
        }
    }

    pub(super) fn seats(&self) -> Seats {
        *self.seats.lock()
    }

    /// Looks at the queues.
    pub(super) fn look<R>(&self, look: impl FnOnce(&QueueSet<Waiter>) -> R) -> R {
        look(&self.set.lock())
    }

    /// Takes a seat; waits for one at most for `limit`.
    pub(super) async fn enter(
        self: &Arc<Self>,
        schema: &Schema,
        flow: &str,
        user: &UserInfo,
        info: &RequestInfo,
        limit: Duration,
    ) -> Result<Running, Rejection> {
        let now = Instant::now();
        let hash = if self.exempt { 0 } else { schema.rules.hash(flow) };
        let mut receiver = None;
        let waiter = || {
            let (go, gone) = oneshot::channel();
            receiver = Some(gone);
            Waiter {
                go,
                schema: schema.rules.name.clone(),
                flow: flow.to_owned(),
                arrived: jiff::Timestamp::now(),
                user: user.name.clone(),
                info: info.clone(),
            }
        };
        let arrival = self.set.lock().arrive(hash, now, waiter);
        let slot = match (arrival, receiver) {
            (Arrival::Run(slot), _) => slot,
            (Arrival::Wait(ticket), Some(gone)) => {
                let waited = self.wait(ticket, gone, limit).await;
                schema.counters.waited(now.elapsed(), waited.is_ok());
                waited?
            }
            (Arrival::Wait(_), None) => return Err(Rejection::QueueFull),
            (Arrival::Rejected(why), _) => {
                self.counts.rejected.fetch_add(1, Ordering::Relaxed);
                return Err(why);
            }
        };
        self.counts.dispatched.fetch_add(1, Ordering::Relaxed);
        schema.counters.began();
        Ok(Running { level: self.clone(), slot, since: Instant::now() })
    }

    async fn wait(&self, ticket: Ticket, gone: oneshot::Receiver<()>, limit: Duration) -> Result<Slot, Rejection> {
        let mut place = Place { level: self, ticket: Some(ticket) };
        let let_go = matches!(tokio::time::timeout(limit, gone).await, Ok(Ok(())));
        if let_go {
            place.ticket = None;
            return Ok(ticket.slot());
        }
        let slot = place.leave();
        if slot.is_none() {
            self.counts.rejected.fetch_add(1, Ordering::Relaxed);
            self.counts.timed_out.fetch_add(1, Ordering::Relaxed);
        }
        slot.ok_or(Rejection::TimeOut)
    }

    fn finish(&self, slot: Slot, since: Instant) {
        let now = Instant::now();
        self.set.lock().finish(slot, now.saturating_duration_since(since), now, let_go);
    }
}

fn let_go(waiter: Waiter) -> bool {
    waiter.go.send(()).is_ok()
}
