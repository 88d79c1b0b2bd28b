//! The window of past changes that watches and paged lists reach back into.
use crate::{Error, Event, KeyValue, Revision};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// What an event costs besides its values.
const EVENT_BYTES: usize = 256;

pub(super) struct History {
    events: VecDeque<Event>,
    bytes: usize,
    limit: usize,
    /// The oldest revision that can still be read; all events are newer.
    oldest: Revision,
}

impl History {
    pub(super) fn new(oldest: Revision, limit: usize) -> Self {
        History { events: VecDeque::new(), bytes: 0, limit, oldest }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.bytes += cost(&event);
        self.events.push_back(event);
        while self.bytes > self.limit
            && let Some(revision) = self.events.front().map(|event| event.revision)
        {
            self.forget(revision);
        }
    }

    /// Forgets every change up to and including `revision`.
    pub(super) fn forget(&mut self, revision: Revision) {
        self.oldest = self.oldest.max(revision);
        while let Some(event) = self.events.pop_front_if(|event| event.revision <= revision) {
            self.bytes -= cost(&event);
        }
        if self.events.capacity() > 4 * self.events.len().max(64) {
            self.events.shrink_to(2 * self.events.len());
        }
    }

    /// Refuses a revision that is compacted or lies in the future.
    pub(super) fn check(&self, requested: Revision, current: Revision) -> Result<(), Error> {
        if requested < self.oldest {
            return Err(Error::Compacted { requested, oldest: self.oldest });
        }
        if requested > current {
            return Err(Error::Future { requested, current });
        }
        Ok(())
    }

    /// The changes newer than `revision`, oldest first.
    pub(super) fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Event> {
        let start = self.events.partition_point(|event| event.revision <= revision);
        self.events.range(start..)
    }

    /// The state as of `revision` of each key in `start..end` that has changed since.
    pub(super) fn undo(&self, revision: Revision, start: &[u8], end: &[u8]) -> BTreeMap<Bytes, Option<KeyValue>> {
        let mut past = BTreeMap::new();
        for event in self.after(revision).filter(|event| &event.key[..] >= start && &event.key[..] < end) {
            past.entry(event.key.clone()).or_insert_with(|| event.previous.clone());
        }
        past
    }
}

fn cost(event: &Event) -> usize {
    let value = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.value.len());
    EVENT_BYTES + event.key.len() + value(&event.previous) + value(&event.current)
}
