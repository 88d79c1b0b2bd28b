//! The recent changes of every resource, shared by all watchers: one store watch fills one bounded ring per resource, and
//! each change is encoded once per wire form, however many watch it. Start at [`WatchCache`].
use crate::selection::project;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use pintle_store::{Error, Revision, Store};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio_util::sync::CancellationToken;

/// All keys of objects begin so.
pub const ROOT: &str = "/registry/";

/// How much one ring may hold; a watcher that falls further behind is ended and must list again.
const RING_BYTES: usize = 16 << 20;
const RING_EVENTS: usize = 16_384;
/// How long changes are kept at most; upstream keeps at least 75 seconds of them.
const RING_AGE: Duration = Duration::from_secs(180);
/// What it takes to tell one watcher of a change, about. A ring's watchers are told no more often than all of them can be:
/// what happens meanwhile reaches them together, which costs each connection one write.
const TELLING: Duration = Duration::from_micros(5);
/// With fewer watchers than this each change is told at once.
const CROWD: usize = 64;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It is new (to the watcher).
    Added,
    /// It changed.
    Modified,
    /// It is gone (from the watcher's selection).
    Deleted,
}

impl EventType {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// The wire form of an event: encoding and served version; forms that differ between watchers of one form are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameForm {
    /// A number of the caller's choice for encoding and served version.
    pub form: u64,
    /// The type that the frame tells.
    pub event: EventType,
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// The store key.
    pub key: Bytes,
    /// The revision of the change.
    pub revision: Revision,
    /// The object after the change, none if it was removed.
    pub current: Option<Bytes>,
    /// The object before the change, none if it is new.
    pub previous: Option<Bytes>,
    seen: Instant,
    frames: Mutex<Vec<(FrameForm, Bytes)>>,
    projections: OnceLock<(Option<Value>, Option<Value>)>,
}

impl Change {
    /// What selectors look at, of the object before and after the change.
    pub fn projections(&self, kind: &str) -> &(Option<Value>, Option<Value>) {
        let of = |stored: &Option<Bytes>| stored.as_ref().map(|stored| project(kind, stored));
        self.projections.get_or_init(|| (of(&self.previous), of(&self.current)))
    }

    /// The frame of `form`, made by `make` when it is first asked for.
    pub fn frame(&self, form: FrameForm, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut frames = self.frames.lock();
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == form) {
            return frame.clone();
        }
        let frame = make();
        frames.push((form, frame.clone()));
        frame
    }

    fn weight(&self) -> usize {
        // The previous state is the current one of an earlier change, and a frame doubles the current state.
        256 + 2 * self.current.as_ref().or(self.previous.as_ref()).map_or(0, Bytes::len)
    }
}

/// The reader asked for changes that are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct TooOld {
    /// What was asked for.
    pub requested: Revision,
    /// The oldest revision from which all changes are known.
    pub oldest: Revision,
}

#[derive(Debug, Default)]
struct Changes {
    kept: VecDeque<Arc<Change>>,
    /// How many changes were ever dropped from the front: the position of `kept[0]`.
    first: u64,
    bytes: usize,
    /// All changes after this revision are in `kept`.
    complete_after: Revision,
}

/// The recent changes of one resource.
#[derive(Debug)]
pub struct Ring {
    changes: RwLock<Changes>,
    changed: Arc<Notify>,
    told: Mutex<Told>,
}

/// When the watchers were told last.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// Whether they are about to be told.
    due: bool,
}

impl Ring {
    fn new(complete_after: Revision) -> Self {
        let changes = RwLock::new(Changes { complete_after, ..Changes::default() });
        Ring { changes, changed: Arc::default(), told: Mutex::default() }
    }

    fn push(&self, change: Change) {
        let mut changes = self.changes.write();
        let now = change.seen;
        changes.bytes += change.weight();
        changes.kept.push_back(Arc::new(change));
        loop {
            let full = changes.bytes > RING_BYTES || changes.kept.len() > RING_EVENTS;
            let superfluous = |oldest: &Arc<Change>| full || oldest.seen + RING_AGE < now;
            if !changes.kept.front().is_some_and(superfluous) {
                break;
            }
            let Some(oldest) = changes.kept.pop_front() else { break };
            changes.first += 1;
            changes.bytes -= oldest.weight();
            changes.complete_after = oldest.revision;
        }
    }

    fn reset(&self, complete_after: Revision) {
        let mut changes = self.changes.write();
        changes.first += changes.kept.len() as u64 + 1;
        changes.kept.clear();
        changes.bytes = 0;
        changes.complete_after = complete_after;
    }

    /// The position of the first change after `revision`.
    pub fn position_after(&self, revision: Revision) -> Result<u64, TooOld> {
        let changes = self.changes.read();
        if revision < changes.complete_after {
            return Err(TooOld { requested: revision, oldest: changes.complete_after });
        }
        let skipped = changes.kept.partition_point(|change| change.revision <= revision);
        Ok(changes.first + skipped as u64)
    }

    /// Appends at most `limit` changes from `position` on to `out` and returns the position after them; `None` when the
    /// reader fell so far behind that changes were dropped.
    pub fn read(&self, position: u64, limit: usize, out: &mut Vec<Arc<Change>>) -> Option<u64> {
        let changes = self.changes.read();
        let skip = usize::try_from(position.checked_sub(changes.first)?).ok()?;
        let before = out.len();
        out.extend(changes.kept.iter().skip(skip).take(limit).cloned());
        Some(position + (out.len() - before) as u64)
    }

    /// Makes all readers look again, though nothing was pushed.
    pub fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Tells the watchers that something was pushed: at once, or together with what is pushed until they can all be told.
    fn tell(self: &Arc<Self>) {
        // Each watcher holds the ring, and so does the map of rings.
        let watchers = Arc::strong_count(self);
        let pause =
            if watchers < CROWD { Duration::ZERO } else { TELLING * u32::try_from(watchers).unwrap_or(u32::MAX) };
        let now = Instant::now();
        let mut told = self.told.lock();
        if told.due {
            return;
        }
        match told.at.map(|at| at + pause).filter(|next| *next > now) {
            None => {
                told.at = Some(now);
                drop(told);
                self.wake();
            }
            Some(next) => {
                told.due = true;
                let ring = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(next.into()).await;
                    *ring.told.lock() = Told { at: Some(Instant::now()), due: false };
                    ring.wake();
                });
            }
        }
    }

    /// Completes when something is pushed after this call.
    pub fn changed(&self) -> OwnedNotified {
        self.changed.clone().notified_owned()
    }
}

/// The rings of all resources.
pub struct WatchCache {
    rings: RwLock<HashMap<Box<[u8]>, Arc<Ring>>>,
    progress: AtomicU64,
    progressed: Notify,
}

impl std::fmt::Debug for WatchCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchCache").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

impl WatchCache {
    /// Follows `store` until `stop`.
    pub fn start(store: Arc<dyn Store>, stop: CancellationToken) -> Arc<Self> {
        let progress = store.revision();
        let cache = Arc::new(WatchCache {
            rings: RwLock::default(),
            progress: AtomicU64::new(progress),
            progressed: Notify::new(),
        });
        let follower = cache.clone();
        tokio::spawn(async move {
            tokio::select! { () = follower.follow(&*store) => {}, () = stop.cancelled() => {} }
        });
        cache
    }

    /// The changes of the resource whose keys begin with `prefix` (`/registry/pods/`).
    pub fn ring(&self, prefix: &[u8]) -> Arc<Ring> {
        if let Some(ring) = self.rings.read().get(prefix) {
            return ring.clone();
        }
        let mut rings = self.rings.write();
        rings.entry(prefix.into()).or_insert_with(|| Arc::new(Ring::new(self.progress()))).clone()
    }

    /// All changes up to this revision are in the rings.
    pub fn progress(&self) -> Revision {
        self.progress.load(Ordering::Acquire)
    }

    /// Completes when all changes up to `revision` are in the rings.
    pub async fn reached(&self, revision: Revision) {
        loop {
            let progressed = self.progressed.notified();
            if self.progress() >= revision {
                return;
            }
            progressed.await;
        }
    }

    async fn follow(&self, store: &dyn Store) {
        loop {
            match self.follow_once(store).await {
                Error::Closed => return,
                error => {
                    tracing::warn!(%error, "the watch cache starts again: watchers must list again");
                    let revision = store.revision();
                    self.progress.store(revision, Ordering::Release);
                    for ring in self.rings.read().values() {
                        ring.reset(revision);
                        ring.changed.notify_waiters();
                    }
                }
            }
        }
    }

    async fn follow_once(&self, store: &dyn Store) -> Error {
        let mut watch = match store.watch(ROOT.as_bytes(), self.progress()) {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        loop {
            match watch.next().await {
                Ok(events) => self.publish(events),
                Err(error) => return error,
            }
        }
    }

    fn publish(&self, events: Vec<pintle_store::Event>) {
        let now = Instant::now();
        let mut touched: Vec<Arc<Ring>> = Vec::new();
        let Some(newest) = events.last().map(|event| event.revision) else { return };
        for event in events {
            let Some(ring) = self.ring_of_key(&event.key) else { continue };
            ring.push(Change {
                key: event.key,
                revision: event.revision,
                current: event.current.map(|kv| kv.value),
                previous: event.previous.map(|kv| kv.value),
                seen: now,
                frames: Mutex::default(),
                projections: OnceLock::new(),
            });
            if !touched.iter().any(|known| Arc::ptr_eq(known, &ring)) {
                touched.push(ring);
            }
        }
        self.progress.store(newest, Ordering::Release);
        self.progressed.notify_waiters();
        for ring in touched {
            ring.tell();
        }
    }

    /// The ring that `key` belongs to: `/registry/<resource>/…` or `/registry/<group>/<resource>/…`.
    fn ring_of_key(&self, key: &[u8]) -> Option<Arc<Ring>> {
        let rings = self.rings.read();
        let slashes = key.iter().enumerate().skip(ROOT.len()).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        slashes.take(2).find_map(|slash| rings.get(&key[..=slash])).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: Revision) -> Change {
        let object = Some(Bytes::from(vec![b'x'; 1 << 20]));
        let (frames, projections) = <_>::default();
        Change {
            key: Bytes::new(),
            revision,
            current: object,
            previous: None,
            seen: Instant::now(),
            frames,
            projections,
        }
    }

    #[test]
    fn a_ring_answers_from_the_revision_it_still_knows_and_refuses_older_ones() {
        let ring = Ring::new(10);
        for revision in 11..15 {
            ring.push(change(revision));
        }
        assert_eq!(ring.position_after(9), Err(TooOld { requested: 9, oldest: 10 }));
        let position = ring.position_after(12).unwrap();
        let mut out = Vec::new();
        assert_eq!(ring.read(position, 10, &mut out), Some(position + 2));
        assert_eq!(out.iter().map(|change| change.revision).collect::<Vec<_>>(), [13, 14]);
    }

    #[test]
    fn a_reader_that_fell_behind_is_told_so() {
        let ring = Ring::new(0);
        let position = ring.position_after(0).unwrap();
        for revision in 1..20 {
            ring.push(change(revision));
        }
        assert_eq!(ring.read(position, 10, &mut Vec::new()), None);
        assert!(ring.position_after(1).is_err() && ring.position_after(18).is_ok());
    }

    #[test]
    fn a_frame_is_made_once() {
        let change = change(1);
        let form = FrameForm { form: 0, event: EventType::Added };
        change.frame(form, || Bytes::from_static(b"a"));
        assert_eq!(change.frame(form, || unreachable!("made before")), Bytes::from_static(b"a"));
    }
}
