//! ConfigMaps and Secrets that pods on this node refer to: each is watched by name while some pod needs it.
//!
//! The node authorizer allows a node exactly that, and a change reaches the pods' volumes without polling.
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher;
use kube::{Client, Resource};
use parking_lot::Mutex;
use pintle_client::Informer;
use pintle_client::informer::Kind;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a first read may take before the pod's sync fails and is tried again.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an object could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not exist; the pod is woken when it appears.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// Lower-case kind as upstream words it.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API server did not answer in time, or refuses.
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    NotSynced {
        /// Lower-case kind.
        kind: String,
    },
}

type Wake = Arc<dyn Fn(&str) + Send + Sync>;
type Entries<K> = Mutex<HashMap<(String, String), Entry<K>>>;

struct Entry<K> {
    informer: Informer<K>,
    stop: CancellationToken,
    pods: Arc<Mutex<HashSet<String>>>,
}

/// Watched objects; clones share them.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

struct Inner {
    client: Client,
    wake: Wake,
    config_maps: Entries<ConfigMap>,
    secrets: Entries<Secret>,
}

impl Objects {
    /// Objects read through `client`; `wake` is called with a pod's UID when one of its objects changes.
    pub fn new(client: Client, wake: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let (config_maps, secrets) = (Mutex::default(), Mutex::default());
        Objects(Arc::new(Inner { client, wake: Arc::new(wake), config_maps, secrets }))
    }

    /// A ConfigMap that pod `uid` refers to.
    pub async fn config_map(&self, uid: &str, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, Error> {
        self.get(&self.0.config_maps, uid, namespace, name).await
    }

    /// A Secret that pod `uid` refers to.
    pub async fn secret(&self, uid: &str, namespace: &str, name: &str) -> Result<Arc<Secret>, Error> {
        self.get(&self.0.secrets, uid, namespace, name).await
    }

    /// Ends the watches that only pod `uid` needed.
    pub fn release(&self, uid: &str) {
        release(&self.0.config_maps, uid);
        release(&self.0.secrets, uid);
    }

    async fn get<K>(&self, entries: &Entries<K>, uid: &str, namespace: &str, name: &str) -> Result<Arc<K>, Error>
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let informer = {
            let mut entries = entries.lock();
            let key = (namespace.to_owned(), name.to_owned());
            let entry = entries.entry(key).or_insert_with(|| self.watch(namespace, name));
            entry.pods.lock().insert(uid.to_owned());
            entry.informer.clone()
        };
        let kind = || K::kind(&()).to_lowercase();
        if tokio::time::timeout(SYNC_TIMEOUT, informer.synced()).await.is_err() {
            return Err(Error::NotSynced { kind: kind() });
        }
        informer.get(namespace, name).ok_or_else(|| Error::NotFound { kind: kind(), name: name.to_owned() })
    }

    fn watch<K>(&self, namespace: &str, name: &str) -> Entry<K>
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let stop = CancellationToken::new();
        let api = Api::namespaced(self.0.client.clone(), namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let informer: Informer<K> = Informer::start(api, config, stop.clone());
        let pods: Arc<Mutex<HashSet<String>>> = Arc::default();
        let (wake, interested) = (self.0.wake.clone(), pods.clone());
        informer.on_change(move |_| {
            let uids: Vec<String> = interested.lock().iter().cloned().collect();
            uids.iter().for_each(|uid| wake(uid));
        });
        Entry { informer, stop, pods }
    }
}

fn release<K>(entries: &Entries<K>, uid: &str) {
    entries.lock().retain(|_, entry| {
        let mut pods = entry.pods.lock();
        pods.remove(uid);
        let keep = !pods.is_empty();
        if !keep {
            entry.stop.cancel();
        }
        keep
    });
}
