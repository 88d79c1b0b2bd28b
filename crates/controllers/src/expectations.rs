//! What a controller has done that its local copy does not show yet, so that it does not do it twice.
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After this long an expectation is given up: the event must have been missed.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Expected {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

/// Outstanding creations (a count) and deletions (UIDs) per key (usually the owner's UID); clones share them.
#[derive(Clone, Default)]
pub struct Expectations(Arc<Mutex<HashMap<String, Expected>>>);

impl Expectations {
    /// True if nothing is outstanding for `key`.
    pub fn satisfied(&self, key: &str) -> bool {
        let mut all = self.0.lock();
        match all.get(key) {
            Some(expected) if expected.since.elapsed() < TIMEOUT => false,
            Some(_) => {
                all.remove(key);
                true
            }
            None => true,
        }
    }

    /// Expects `count` more objects to appear.
    pub fn expect_creations(&self, key: &str, count: usize) {
        self.update(key, |expected| expected.creations += count);
    }

    /// Expects the objects of these UIDs to go or to be marked for deletion.
    pub fn expect_deletions(&self, key: &str, uids: impl IntoIterator<Item = String>) {
        self.update(key, |expected| expected.deletions.extend(uids));
    }

    /// One object appeared, or its creation failed.
    pub fn created(&self, key: &str) {
        self.settle(key, |expected| expected.creations = expected.creations.saturating_sub(1));
    }

    /// The object of that UID went, or its deletion failed.
    pub fn deleted(&self, key: &str, uid: &str) {
        self.settle(key, |expected| {
            expected.deletions.remove(uid);
        });
    }

    /// Nothing is expected for `key` any more: it is gone.
    pub fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }

    fn update(&self, key: &str, change: impl FnOnce(&mut Expected)) {
        let mut all = self.0.lock();
        let expected = all.entry(key.to_owned()).or_insert_with(|| Expected {
            creations: 0,
            deletions: HashSet::new(),
            since: Instant::now(),
        });
        expected.since = Instant::now();
        change(expected);
        if expected.creations == 0 && expected.deletions.is_empty() {
            all.remove(key);
        }
    }

    fn settle(&self, key: &str, change: impl FnOnce(&mut Expected)) {
        let mut all = self.0.lock();
        if let Some(expected) = all.get_mut(key) {
            change(expected);
            if expected.creations == 0 && expected.deletions.is_empty() {
                all.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_waits_until_every_creation_and_deletion_is_seen() {
        let expectations = Expectations::default();
        expectations.expect_creations("a", 2);
        expectations.expect_deletions("a", ["u".to_owned()]);
        expectations.created("a");
        expectations.deleted("a", "u");
        assert!(!expectations.satisfied("a"));
        expectations.created("a");
        assert!(expectations.satisfied("a"));
        assert!(expectations.satisfied("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_missed_event_blocks_for_five_minutes_only() {
        let expectations = Expectations::default();
        expectations.expect_creations("a", 1);
        tokio::time::advance(TIMEOUT).await;
        assert!(expectations.satisfied("a"));
    }
}
