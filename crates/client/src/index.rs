//! [`Index`]: groups an informer's objects by keys that a function reads from them (namespace, owner, node, label).
use crate::informer::{Change, Informer, Kind, ObjectKey, key_of};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// Names one grouping of a kind, so that all users of a process share it.
pub type IndexName = &'static str;

/// Objects grouped by the UID of their managing controller (`ownerReferences[].controller`), or by [`orphans`].
pub const BY_CONTROLLER: IndexName = "controller-uid";

/// EndpointSlices grouped by `namespace/name` of the Service that they belong to, whoever maintains them.
pub const BY_SERVICE: IndexName = "service";

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

type Groups<K> = RwLock<HashMap<String, HashMap<ObjectKey, Arc<K>>>>;

/// The objects of one informer by the keys of one function; clones share it. It is current before any handler that was
/// registered after it sees a change.
pub struct Index<K>(Arc<Groups<K>>);

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Index(self.0.clone())
    }
}

impl<K: Kind> Index<K> {
    /// Groups the objects of `informer` by the keys that `keys` reads from each.
    pub fn new(informer: &Informer<K>, keys: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Self {
        let groups: Arc<Groups<K>> = Arc::default();
        let index = Index(groups.clone());
        informer.on_change(move |change| {
            let mut groups = groups.write();
            match change {
                Change::Added(new) => insert(&mut groups, new, keys(new)),
                Change::Updated(old, new) => {
                    let kept = keys(new);
                    remove(&mut groups, old, keys(old).into_iter().filter(|key| !kept.contains(key)));
                    insert(&mut groups, new, kept);
                }
                Change::Deleted(old) => remove(&mut groups, old, keys(old)),
            }
        });
        index
    }

    /// The objects under `key`, in no order.
    pub fn get(&self, key: &str) -> Vec<Arc<K>> {
        self.0.read().get(key).map(|group| group.values().cloned().collect()).unwrap_or_default()
    }

    /// How many objects are under `key`.
    pub fn count(&self, key: &str) -> usize {
        self.0.read().get(key).map_or(0, HashMap::len)
    }
}

fn insert<K: Kind>(
    groups: &mut HashMap<String, HashMap<ObjectKey, Arc<K>>>,
    object: &Arc<K>,
    keys: impl IntoIterator<Item = String>,
) {
    for key in keys {
        groups.entry(key).or_default().insert(key_of(object.as_ref()), object.clone());
    }
}

fn remove<K: Kind>(
    groups: &mut HashMap<String, HashMap<ObjectKey, Arc<K>>>,
    object: &Arc<K>,
    keys: impl IntoIterator<Item = String>,
) {
    for key in keys {
        if let Some(group) = groups.get_mut(&key) {
            group.remove(&key_of(object.as_ref()));
            if group.is_empty() {
                groups.remove(&key);
            }
        }
    }
}

/// The UID of the controller that manages `object`, or [`orphans`] of its namespace, for [`BY_CONTROLLER`].
pub fn controller_uid<K: Kind>(object: &K) -> Vec<String> {
    let meta = object.meta();
    let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    vec![
        controller.map_or_else(
            || orphans(meta.namespace.as_deref().unwrap_or_default()),
            |controller| controller.uid.clone(),
        ),
    ]
}

/// The Service that an EndpointSlice belongs to, by its label.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.clone().unwrap_or_default(), service.clone()))
}

/// The keys of an EndpointSlice in [`BY_SERVICE`].
pub(crate) fn service_key(slice: &EndpointSlice) -> Vec<String> {
    service_of(slice).map(|(namespace, service)| format!("{namespace}/{service}")).into_iter().collect()
}

/// The key in [`BY_CONTROLLER`] of a namespace's objects that no controller manages.
pub fn orphans(namespace: &str) -> String {
    format!("orphans/{namespace}")
}
