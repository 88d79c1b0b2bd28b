//! History is forgotten after five to ten minutes. Start at [`run`].
use pintle_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// upstream: --etcd-compaction-interval.
const INTERVAL: Duration = Duration::from_secs(300);

/// Compacts `store` every five minutes to what was its newest revision five minutes before, until `stop`.
pub async fn run(store: Arc<dyn Store>, stop: CancellationToken) {
    let mut before = store.revision();
    while tokio::select! { () = tokio::time::sleep(INTERVAL) => true, () = stop.cancelled() => false } {
        if let Err(error) = store.compact(before).await {
            tracing::warn!(%error, "the store could not be compacted");
        }
        before = store.revision();
    }
}
