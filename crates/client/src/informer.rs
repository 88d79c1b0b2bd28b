//! Shared informers: one list-and-watch per kind and process, an indexed local copy, and handlers called in order.
use futures::StreamExt;
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
    /// The object is gone; its last known state.
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
    objects: RwLock<HashMap<ObjectKey, Arc<K>>>,
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
                listed.get_or_insert_default().insert(key_of(&object), Arc::new(object));
            }
            Event::InitDone => {
                self.replace(listed.take().unwrap_or_default());
                self.0.synced.send_replace(true);
            }
            Event::Apply(object) => {
                let (handlers, new) = (self.0.handlers.lock(), Arc::new(object));
                let old = self.0.objects.write().insert(key_of(new.as_ref()), new.clone());
                notify(&handlers, &old.as_ref().map_or(Change::Added(&new), |old| Change::Updated(old, &new)));
            }
            Event::Delete(object) => {
                let (handlers, object) = (self.0.handlers.lock(), Arc::new(object));
                self.0.objects.write().remove(&key_of(object.as_ref()));
                notify(&handlers, &Change::Deleted(&object));
            }
        }
    }

    /// Makes the copy equal to `fresh` and tells handlers the difference.
    fn replace(&self, fresh: HashMap<ObjectKey, Arc<K>>) {
        let handlers = self.0.handlers.lock();
        let stale = std::mem::replace(&mut *self.0.objects.write(), fresh.clone());
        for (key, new) in &fresh {
            match stale.get(key) {
                None => notify(&handlers, &Change::Added(new)),
                Some(old) if old.meta().resource_version != new.meta().resource_version => {
                    notify(&handlers, &Change::Updated(old, new));
                }
                Some(_) => {}
            }
        }
        for (_, old) in stale.iter().filter(|(key, _)| !fresh.contains_key(*key)) {
            notify(&handlers, &Change::Deleted(old));
        }
    }

    /// Calls `handler` for every object now known (as [`Change::Added`]) and every later change, in order. Handlers must be
    /// quick: they usually add a key to a [`crate::WorkQueue`]. They must not register further handlers.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in self.0.objects.read().values() {
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
        self.0.objects.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.objects.read().values().cloned().collect()
    }

    /// All objects of `namespace`, in no order.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.objects.read().iter().filter(|((ns, _), _)| ns == namespace).map(|(_, object)| object.clone()).collect()
    }
}

fn notify<K>(handlers: &[Handler<K>], change: &Change<'_, K>) {
    for handler in handlers {
        handler(change);
    }
}

/// The informers of one process: each kind is watched once, whoever asks.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    stop: CancellationToken,
    started: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// Informers that read through `client` until `stop`.
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        Informers { client, stop, started: Arc::default() }
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
}
