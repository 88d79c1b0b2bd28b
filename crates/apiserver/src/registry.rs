//! The generic registry: reads and writes objects of every resource by the same rules. Start at [`Registry`].
//!
//! This is the way in for the API server's own parts too (admission, authorization, special endpoints): nothing else
//! touches the store.
mod create;
mod delete;
pub(crate) mod metadata;
pub mod ownership;
mod read;
mod update;
mod write;

use crate::conversion::Converters;
use crate::watch_cache::WatchCache;
use arc_swap::ArcSwap;
use pintle_api::scheme::{Resource, Scheme};
use pintle_api::status::ApiError;
use pintle_store::Store;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub use delete::{DeleteOptions, Deleted};
pub(crate) use metadata::ensure_namespace;
pub use metadata::{FOREGROUND_DELETION, ORPHAN_DEPENDENTS};
pub use read::ObjectList;
pub use update::Change;
pub use write::{Write, Written, is_storage_version};

/// A cheap handle on all stored objects.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    scheme: ArcSwap<Scheme>,
    /// The resources that are no custom ones.
    own: Arc<Scheme>,
    cache: Arc<WatchCache>,
    converters: Converters,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("cache", &self.0.cache).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry of the resources of `scheme`, kept in `store`; it follows the store's changes until `stop`.
    pub fn new(store: Arc<dyn Store>, scheme: Arc<Scheme>, stop: CancellationToken) -> Self {
        let cache = WatchCache::start(store.clone(), stop);
        for resource in scheme.resources().filter(|resource| resource.is_stored()) {
            cache.ring(resource.storage_prefix().as_bytes());
        }
        Registry(Arc::new(Inner {
            store,
            own: scheme.clone(),
            scheme: ArcSwap::new(scheme),
            cache,
            converters: Converters::default(),
        }))
    }

    /// The resources that are served now.
    pub fn scheme(&self) -> Arc<Scheme> {
        self.0.scheme.load_full()
    }

    /// The resources that this server has without any custom ones.
    pub(crate) fn own_scheme(&self) -> Arc<Scheme> {
        self.0.own.clone()
    }

    /// Serves the resources of `scheme` from now on. Watches of custom resources whose definition changed end.
    pub(crate) fn set_scheme(&self, scheme: Arc<Scheme>) {
        let custom = |scheme: &Scheme| -> Vec<Arc<Resource>> {
            scheme.resources().filter(|resource| resource.custom.is_some()).cloned().collect()
        };
        for resource in custom(&scheme) {
            self.0.cache.ring(resource.storage_prefix().as_bytes());
        }
        let before = self.0.scheme.swap(scheme);
        for resource in custom(&before) {
            self.0.cache.ring(resource.storage_prefix().as_bytes()).wake();
        }
    }

    /// Whether the objects of `resource` are still served in the form that it says.
    pub(crate) fn is_current(&self, resource: &Resource) -> bool {
        let Some(custom) = &resource.custom else { return true };
        let scheme = self.0.scheme.load();
        let now = scheme.by_plural(&resource.group, &resource.version, &resource.plural);
        now.and_then(|now| now.custom.as_ref()).is_some_and(|now| now.fingerprint == custom.fingerprint)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// The recent changes of all resources.
    pub fn cache(&self) -> &Arc<WatchCache> {
        &self.0.cache
    }

    /// The resource `plural` of `group` in its preferred version.
    pub fn resource(&self, group: &str, plural: &str) -> Result<Arc<Resource>, ApiError> {
        self.0.scheme.load().preferred(group, plural).cloned().ok_or_else(ApiError::unknown_path)
    }
}

/// The key of one object.
pub fn object_key(resource: &Resource, namespace: &str, name: &str) -> Vec<u8> {
    let mut key = resource.storage_prefix();
    if resource.namespaced {
        key.push_str(namespace);
        key.push('/');
    }
    key.push_str(name);
    key.into_bytes()
}

/// What all keys of `resource` in `namespace` (empty: all namespaces) begin with.
pub fn collection_prefix(resource: &Resource, namespace: &str) -> Vec<u8> {
    let mut prefix = resource.storage_prefix();
    if resource.namespaced && !namespace.is_empty() {
        prefix.push_str(namespace);
        prefix.push('/');
    }
    prefix.into_bytes()
}

/// The first key after all that begin with `prefix`, which ends in `/`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// How the store's troubles reach a client.
pub fn store_error(error: pintle_store::Error) -> ApiError {
    match error {
        pintle_store::Error::Compacted { .. } => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        ),
        pintle_store::Error::Closed => ApiError::service_unavailable("the server is shutting down"),
        other => ApiError::internal(other),
    }
}

/// Reads stored bytes as an object.
pub fn decode_stored(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::internal(format_args!("a stored object is damaged: {error}")))
}
