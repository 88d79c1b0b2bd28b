//! Keeps something in memory current with all objects of one resource. Start at [`follow`].
//!
//! Authorization, authentication and admission ask about roles, pods or service accounts on every request: they keep
//! what they need of them in a form of their own, which this module feeds.
use crate::registry::{Registry, collection_prefix, object_key, store_error};
use bytes::Bytes;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use pintle_store::{Error, Revision, Watch};
use std::collections::HashSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The wait before a failed read is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// One object's new state: namespace (empty for cluster-scoped resources), name, and the encoding as it is stored, or
/// `None` when it is gone.
pub type Apply = Box<dyn FnMut(&str, &str, Option<&Bytes>) + Send>;

/// Calls `apply` for every object of `resource` now, and then for every change until `stop`. When this returns, the
/// present state has been applied.
pub async fn follow(
    registry: &Registry,
    resource: &Resource,
    stop: CancellationToken,
    apply: Apply,
) -> Result<(), ApiError> {
    let prefix = collection_prefix(resource, "");
    let mut follower = Follower { registry: registry.clone(), resource: resource.clone(), prefix, apply };
    let mut known = HashSet::new();
    let mut watch = follower.list(&mut known).await?;
    tokio::spawn(async move {
        let run = async {
            loop {
                match watch.next().await {
                    Ok(events) => {
                        for event in events {
                            if event.current.is_some() {
                                known.insert(event.key.clone());
                            } else {
                                known.remove(&event.key);
                            }
                            follower.apply_one(&event.key, event.current.as_ref().map(|kv| &kv.value));
                        }
                    }
                    Err(Error::Closed) => return,
                    Err(error) => {
                        tracing::debug!(resource = %follower.resource.plural, %error, "reading anew");
                        watch = follower.list_again(&mut known).await;
                    }
                }
            }
        };
        tokio::select! { () = stop.cancelled() => {} () = run => {} }
    });
    Ok(())
}

struct Follower {
    registry: Registry,
    resource: Resource,
    prefix: Vec<u8>,
    apply: Apply,
}

impl Follower {
    /// Applies the present state; `known` is what was applied before, and after.
    async fn list(&mut self, known: &mut HashSet<Bytes>) -> Result<Box<dyn Watch>, ApiError> {
        let (stored, revision) = self.registry.list_keyed(&self.resource, "").await?;
        let mut fresh = HashSet::with_capacity(stored.len());
        for kv in &stored {
            fresh.insert(kv.key.clone());
            self.apply_one(&kv.key, Some(&kv.value));
        }
        for gone in known.difference(&fresh) {
            self.apply_one(gone, None);
        }
        *known = fresh;
        self.watch(revision)
    }

    async fn list_again(&mut self, known: &mut HashSet<Bytes>) -> Box<dyn Watch> {
        loop {
            match self.list(known).await {
                Ok(watch) => return watch,
                Err(error) => tracing::warn!(resource = %self.resource.plural, %error, "cannot read, will retry"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn watch(&self, after: Revision) -> Result<Box<dyn Watch>, ApiError> {
        self.registry.store().watch(&self.prefix, after).map_err(store_error)
    }

    fn apply_one(&mut self, key: &[u8], value: Option<&Bytes>) {
        let Some(rest) = key.strip_prefix(self.prefix.as_slice()).and_then(|rest| std::str::from_utf8(rest).ok())
        else {
            return;
        };
        let (namespace, name) =
            if self.resource.namespaced { rest.split_once('/').unwrap_or(("", rest)) } else { ("", rest) };
        debug_assert_eq!(object_key(&self.resource, namespace, name), key);
        (self.apply)(namespace, name, value);
    }
}
