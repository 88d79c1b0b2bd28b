//! Events are forgotten an hour after they were last written. Start at [`run`].
use crate::registry::{Registry, collection_prefix, prefix_end};
use pintle_api::meta::ObjectExt;
use pintle_store::{Compare, Error, KeyValue, Op};
use serde_json::Value;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// upstream: --event-ttl.
const TTL: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
const INTERVAL: Duration = Duration::from_secs(60);
/// How many events are looked at, and at most removed, in one transaction.
const BATCH: usize = 500;

/// Removes old events every minute until `stop`.
pub async fn run(registry: Registry, stop: CancellationToken) {
    while tokio::select! { () = tokio::time::sleep(INTERVAL) => true, () = stop.cancelled() => false } {
        if let Err(error) = sweep(&registry, jiff::Timestamp::now()).await {
            tracing::warn!(%error, "old events could not be removed");
        }
    }
}

/// Removes the events that were last written an hour before `now` or earlier.
pub async fn sweep(registry: &Registry, now: jiff::Timestamp) -> Result<(), Error> {
    let Ok(events) = registry.resource("", "events") else { return Ok(()) };
    let prefix = collection_prefix(&events, "");
    let (mut start, end) = (prefix.clone(), prefix_end(&prefix));
    loop {
        let page = registry.store().range(&start, &end, BATCH, None).await?;
        let old: Vec<&KeyValue> = page.items.iter().filter(|kv| is_old(&kv.value, now)).collect();
        if !old.is_empty() {
            let compares =
                old.iter().map(|kv| Compare { key: kv.key.clone(), mod_revision: kv.mod_revision }).collect();
            let ops = old.iter().map(|kv| Op::Delete { key: kv.key.clone() }).collect();
            // One that was written meanwhile keeps the others until the next sweep.
            registry.store().txn(compares, ops).await?;
        }
        match page.items.last() {
            Some(last) if page.remaining > 0 => start = [last.key.as_ref(), b"\0"].concat(),
            _ => return Ok(()),
        }
    }
}

fn is_old(stored: &[u8], now: jiff::Timestamp) -> bool {
    let Ok(event) = serde_json::from_slice::<Value>(stored) else { return false };
    let written = [
        Some(event.creation_timestamp()),
        event["lastTimestamp"].as_str(),
        event["eventTime"].as_str(),
        event["series"]["lastObservedTime"].as_str(),
    ];
    let newest = written.into_iter().flatten().filter_map(|time| time.parse::<jiff::Timestamp>().ok()).max();
    newest.is_some_and(|newest| now.duration_since(newest) >= TTL)
}
