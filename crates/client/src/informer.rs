//! Shared informers: one list-and-watch per kind and process, an indexed local copy, and handlers called in order.
use crate::index::{self, BY_CONTROLLER, BY_SERVICE, Index, IndexName};
use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What an informer can hold: any typed Kubernetes kind.
pub trait Kind: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Kind for K {}

/// Where an object lives: (namespace, name); the namespace is empty for cluster-scoped kinds.
pub type ObjectKey = (String, String);

/// The key of `object`.
pub fn key_of<K: Resource>(object: &K) -> ObjectKey {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// One change of the local copy, given to handlers after the copy shows it.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// The object is new here (also for each object of the first list).
    Added(&'a Arc<K>),
    /// The object changed: before, after.
    Updated(&'a Arc<K>, &'a Arc<K>),
    /// The object is gone; the state in which the copy last showed it.
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The newest state the change knows.
    pub fn object(&self) -> &'a Arc<K> {
        match self {
            Change::Added(object) | Change::Updated(_, object) | Change::Deleted(object) => object,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// A local copy of one kind that follows the API server; clones share it.
pub struct Informer<K>(Arc<Inner<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer(self.0.clone())
    }
}

struct Inner<K> {
    /// By namespace (empty for cluster-scoped kinds), then name.
    objects: RwLock<HashMap<String, HashMap<String, Arc<K>>>>,
    /// Held while changes are delivered, so that a new handler sees each object exactly once and in order.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K: Kind> Informer<K> {
    /// Follows `api`, narrowed by `config` (selectors), until `stop`.
    pub fn start(api: Api<K>, config: watcher::Config, stop: CancellationToken) -> Self {
        let informer = Informer(Arc::new(Inner {
            objects: RwLock::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
        }));
        let this = informer.clone();
        tokio::spawn(async move {
            let mut stream = watcher::watcher(api, config).default_backoff().boxed();
            let mut listed: Option<HashMap<ObjectKey, Arc<K>>> = None;
            while let Some(event) = tokio::select! { event = stream.next() => event, () = stop.cancelled() => None } {
                match event {
                    Ok(event) => this.apply(event, &mut listed),
                    Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted, will resume"),
                }
            }
        });
        informer
    }

    fn apply(&self, event: Event<K>, listed: &mut Option<HashMap<ObjectKey, Arc<K>>>) {
        match event {
            Event::Init => *listed = Some(HashMap::new()),
            Event::InitApply(object) => {
                listed.get_or_insert_default().insert(key_of(&object), slim(object));
            }
            Event::InitDone => {
                self.replace(listed.take().unwrap_or_default());
                self.0.synced.send_replace(true);
            }
            Event::Apply(object) => {
                let (handlers, new) = (self.0.handlers.lock(), slim(object));
                let (namespace, name) = key_of(new.as_ref());
                let old = self.0.objects.write().entry(namespace).or_default().insert(name, new.clone());
                notify(&handlers, &old.as_ref().map_or(Change::Added(&new), |old| Change::Updated(old, &new)));
            }
            Event::Delete(object) => {
                let (handlers, object) = (self.0.handlers.lock(), slim(object));
                let (namespace, name) = key_of(object.as_ref());
                let mut objects = self.0.objects.write();
                let mut known = None;
                if let Some(named) = objects.get_mut(&namespace) {
                    known = named.remove(&name);
                    if named.is_empty() {
                        objects.remove(&namespace);
                    }
                }
                drop(objects);
                // The state that handlers know, so that an index finds what it filed.
                notify(&handlers, &Change::Deleted(&known.unwrap_or(object)));
            }
        }
    }

    /// Makes the copy equal to `fresh` and tells handlers the difference.
    fn replace(&self, fresh: HashMap<ObjectKey, Arc<K>>) {
        let handlers = self.0.handlers.lock();
        let mut by_namespace: HashMap<String, HashMap<String, Arc<K>>> = HashMap::new();
        for ((namespace, name), object) in &fresh {
            by_namespace.entry(namespace.clone()).or_default().insert(name.clone(), object.clone());
        }
        let stale = std::mem::replace(&mut *self.0.objects.write(), by_namespace);
        let before = |(namespace, name): &ObjectKey| stale.get(namespace).and_then(|named| named.get(name));
        for (key, new) in &fresh {
            match before(key) {
                None => notify(&handlers, &Change::Added(new)),
                Some(old) if old.meta().uid != new.meta().uid => {
                    notify(&handlers, &Change::Deleted(old));
                    notify(&handlers, &Change::Added(new));
                }
                Some(old) if old.meta().resource_version != new.meta().resource_version => {
                    notify(&handlers, &Change::Updated(old, new));
                }
                Some(_) => {}
            }
        }
        for old in stale.values().flat_map(HashMap::values).filter(|old| !fresh.contains_key(&key_of(old.as_ref()))) {
            notify(&handlers, &Change::Deleted(old));
        }
    }

    /// Calls `handler` for every object now known (as [`Change::Added`]) and every later change, in order. Handlers must be
    /// quick: they usually add a key to a [`crate::WorkQueue`]. They must not register further handlers.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in &self.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        // The sender lives in `self`, so the wait can only end with the value.
        if self.0.synced.subscribe().wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The object `name` in `namespace` (empty for cluster-scoped kinds).
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.0.objects.read().get(namespace).and_then(|named| named.get(name)).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.objects.read().values().flat_map(HashMap::values).cloned().collect()
    }

    /// All objects of `namespace`, in no order.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.objects.read().get(namespace).map(|named| named.values().cloned().collect()).unwrap_or_default()
    }
}

/// Drops `managedFields`: no component reads them and they are often half of an object. An update without them keeps the
/// server's.
fn slim<K: Kind>(mut object: K) -> Arc<K> {
    object.meta_mut().managed_fields = None;
    Arc::new(object)
}

fn notify<K>(handlers: &[Handler<K>], change: &Change<'_, K>) {
    for handler in handlers {
        handler(change);
    }
}

type Shared<T> = Arc<Mutex<HashMap<T, Box<dyn Any + Send + Sync>>>>;

/// The informers of one process: each kind is watched once, whoever asks.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    stop: CancellationToken,
    started: Shared<TypeId>,
    indexes: Shared<(TypeId, IndexName)>,
}

impl Informers {
    /// Informers that read through `client` until `stop`.
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        Informers { client, stop, started: Arc::default(), indexes: Arc::default() }
    }

    /// The informer of `K` over all namespaces; the first call starts it.
    pub fn of<K: Kind>(&self) -> Informer<K> {
        let mut started = self.started.lock();
        if let Some(informer) = started.get(&TypeId::of::<K>()).and_then(|any| any.downcast_ref::<Informer<K>>()) {
            return informer.clone();
        }
        let informer = Informer::start(Api::all(self.client.clone()), watcher::Config::default(), self.stop.clone());
        started.insert(TypeId::of::<K>(), Box::new(informer.clone()));
        informer
    }

    /// The objects of `K` by the UID of their managing controller.
    pub fn by_controller<K: Kind>(&self) -> Index<K> {
        self.index(BY_CONTROLLER, index::controller_uid::<K>)
    }

    /// The EndpointSlices by the Service (`namespace/name`) that they belong to.
    pub fn by_service(&self) -> Index<EndpointSlice> {
        self.index(BY_SERVICE, index::service_key)
    }

    /// The index `name` of `K`; the first call makes it with `keys`.
    pub fn index<K: Kind>(
        &self,
        name: IndexName,
        keys: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) -> Index<K> {
        let informer = self.of::<K>();
        let mut indexes = self.indexes.lock();
        let key = (TypeId::of::<K>(), name);
        if let Some(index) = indexes.get(&key).and_then(|any| any.downcast_ref::<Index<K>>()) {
            return index.clone();
        }
        let index = Index::new(&informer, keys);
        indexes.insert(key, Box::new(index.clone()));
        index
    }
}
