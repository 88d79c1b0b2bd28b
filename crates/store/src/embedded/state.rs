//! What readers see: the live keys, the history behind them, and the watches on them.
use super::Options;
use super::history::History;
use super::watchers::{Watcher, Watchers};
use crate::{Error, Event, KeyValue, RangeResult, Revision};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

pub(super) struct State {
    revision: Revision,
    live: BTreeMap<Bytes, KeyValue>,
    history: History,
    watchers: Watchers,
}

impl State {
    pub(super) fn new(revision: Revision, live: BTreeMap<Bytes, KeyValue>, options: &Options) -> Self {
        let (history, watchers) = (History::new(revision, options.history_bytes), Watchers::new(options.watch_lag));
        State { revision, live, history, watchers }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.live.get(key).cloned()
    }

    pub(super) fn range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        revision: Option<Revision>,
    ) -> Result<RangeResult, Error> {
        let revision = revision.unwrap_or(self.revision);
        self.history.check(revision, self.revision)?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        if start >= end {
            return Ok(RangeResult { items: Vec::new(), revision, remaining: 0 });
        }
        let live = self.live.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end))).map(|(_, kv)| kv);
        let (mut items, mut remaining) = (Vec::new(), 0);
        let mut take = |kv: &KeyValue| if items.len() < limit { items.push(kv.clone()) } else { remaining += 1 };
        let past = self.history.undo(revision, start, end);
        if past.is_empty() {
            live.for_each(&mut take);
        } else {
            // Two ordered sequences: unchanged live keys, and keys as they were before they changed.
            let mut then = past.values().flatten().peekable();
            for kv in live.filter(|kv| !past.contains_key(&kv.key)) {
                while let Some(earlier) = then.next_if(|earlier| earlier.key < kv.key) {
                    take(earlier);
                }
                take(kv);
            }
            then.for_each(&mut take);
        }
        Ok(RangeResult { items, revision, remaining })
    }

    pub(super) fn watch(&mut self, prefix: &[u8], after: Revision) -> Result<Watcher, Error> {
        self.history.check(after, self.revision)?;
        let past = self.history.after(after).filter(|event| event.key.starts_with(prefix)).cloned().collect();
        Ok(self.watchers.add(prefix, past))
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        self.history.check(revision, self.revision)?;
        self.history.forget(revision);
        Ok(())
    }

    /// Shows durable changes to everyone.
    pub(super) fn apply(&mut self, changes: Vec<Event>, revision: Revision) {
        self.watchers.publish(&changes);
        for change in changes {
            match &change.current {
                Some(kv) => self.live.insert(change.key.clone(), kv.clone()),
                None => self.live.remove(&change.key),
            };
            self.history.push(change);
        }
        self.revision = revision;
    }

    pub(super) fn close(&mut self) {
        self.watchers.close();
    }
}
