//! CustomResourceDefinitions at work: keeps the scheme current with them, writes their status, and empties the resources of those
//! that are deleted. Start at [`install`] and [`run`].
//!
//! | module | what it does |
//! |---|---|
//! | [`plan`] | decides which names are accepted and what the conditions say |
//! | [`approval`] | reads the approval that community groups need |
//! | [`rules`] | compiles and asks `x-kubernetes-validations` |
//! | [`cleanup`] | deletes the objects of a definition that is going away |
pub(crate) mod approval;
mod cleanup;
mod plan;
pub(crate) mod rules;

use crate::context::RequestContext;
use crate::follow::follow;
use crate::registry::{Registry, Write, store_error};
use bytes::Bytes;
use parking_lot::Mutex;
use pintle_api::custom::{Definition, Names};
use pintle_api::meta;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use plan::{Used, Verdict};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The finalizer that holds a deleted definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The plural name of definitions.
const PLURAL: &str = "customresourcedefinitions";

/// Puts the resources of all definitions into the scheme, so that the first request finds them.
pub async fn install(registry: &Registry) -> Result<(), ApiError> {
    let resource = registry.resource(pintle_api::custom::GROUP, PLURAL)?;
    let (stored, _) = registry.list_stored(&resource, "").await?;
    if stored.is_empty() {
        return Ok(());
    }
    let mut state = State::default();
    stored.into_iter().for_each(|bytes| state.note(None, Some(bytes)));
    let verdicts = state.judge();
    state.serve(registry, &verdicts);
    Ok(())
}

/// Follows the definitions until `stop`.
pub(crate) async fn run(registry: Registry, stop: CancellationToken) {
    let changes: Arc<Mutex<BTreeMap<String, Option<Bytes>>>> = Arc::default();
    let changed = Arc::new(Notify::new());
    let (inbox, wake) = (changes.clone(), changed.clone());
    let apply = Box::new(move |_: &str, name: &str, stored: Option<&Bytes>| {
        inbox.lock().insert(name.to_owned(), stored.cloned());
        wake.notify_one();
    });
    let resource = match registry.resource(pintle_api::custom::GROUP, PLURAL) {
        Ok(resource) => resource,
        Err(error) => return tracing::error!(%error, "definitions are not served"),
    };
    if let Err(error) = follow(&registry, &resource, stop.clone(), apply).await {
        return tracing::error!(%error, "definitions cannot be read");
    }
    let mut state = State::default();
    let mut cleanups: JoinSet<String> = JoinSet::new();
    loop {
        let batch = std::mem::take(&mut *changes.lock());
        if !batch.is_empty() {
            batch.into_iter().for_each(|(name, stored)| state.note(Some(&name), stored));
            let verdicts = state.judge();
            state.serve(&registry, &verdicts);
            state.write(&registry, &resource, &verdicts).await;
            state.start_cleanups(&registry, &stop, &mut cleanups);
        }
        tokio::select! {
            () = changed.notified() => {}
            Some(ended) = cleanups.join_next() => {
                if let Ok(name) = ended {
                    state.cleaning.remove(&name);
                    state.start_cleanups(&registry, &stop, &mut cleanups);
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// What is known of the definitions.
#[derive(Default)]
struct State {
    known: BTreeMap<String, Known>,
    /// The resources in the scheme, by definition, with what they were made from.
    served: HashMap<String, Served>,
    /// Definitions whose objects are being deleted, with the UID.
    cleaning: HashMap<String, String>,
}

struct Known {
    definition: Definition,
    stored: Bytes,
}

struct Served {
    fingerprint: (String, bool),
    resources: Vec<Arc<Resource>>,
}

impl State {
    /// Notes the new state of a definition; its name is only needed when it is gone.
    fn note(&mut self, name: Option<&str>, stored: Option<Bytes>) {
        let Some(stored) = stored else {
            name.map(|name| self.known.remove(name));
            return;
        };
        match serde_json::from_slice::<Definition>(&stored) {
            Ok(definition) => drop(self.known.insert(definition.metadata.name.clone(), Known { definition, stored })),
            Err(error) => tracing::warn!(name, %error, "a definition cannot be read"),
        }
    }

    /// What each definition's names and conditions are to be. Names that are accepted already keep others from taking them.
    fn judge(&self) -> BTreeMap<String, Verdict> {
        let mut used: HashMap<&str, Used> = HashMap::new();
        for known in self.known.values() {
            used.entry(&known.definition.spec.group).or_default().add(&known.definition.status.accepted_names);
        }
        let now = meta::now();
        let mut verdicts = BTreeMap::new();
        for (name, Known { definition, .. }) in &self.known {
            let used = used.entry(&definition.spec.group).or_default();
            let verdict = plan::judge(definition, used, &now);
            used.add(&verdict.accepted);
            verdicts.insert(name.clone(), verdict);
        }
        verdicts
    }

    /// Puts a new scheme in place if anything that clients see of the resources changed.
    fn serve(&mut self, registry: &Registry, verdicts: &BTreeMap<String, Verdict>) {
        let builtin = registry.own_scheme();
        let mut changed = false;
        self.served.retain(|name, _| {
            let stays = verdicts.get(name).is_some_and(|verdict| verdict.served);
            changed |= !stays;
            stays
        });
        for (name, verdict) in verdicts.iter().filter(|(_, verdict)| verdict.served) {
            let Some(Known { definition, stored }) = self.known.get(name) else { continue };
            let fingerprint = fingerprint(definition, &verdict.accepted);
            if self.served.get(name).is_some_and(|served| served.fingerprint == fingerprint) {
                continue;
            }
            let resources = definition.resources(stored, &verdict.accepted).into_iter();
            let own = |r: &Resource| builtin.by_plural(&r.group, &r.version, &r.plural).is_none();
            let resources = resources.filter(own).map(Arc::new).collect();
            self.served.insert(name.clone(), Served { fingerprint, resources });
            changed = true;
        }
        if changed {
            let all = self.served.values().flat_map(|served| served.resources.iter().cloned());
            registry.set_scheme(Arc::new(builtin.with_custom(all)));
        }
    }

    /// Writes what the verdicts change.
    async fn write(&self, registry: &Registry, resource: &Resource, verdicts: &BTreeMap<String, Verdict>) {
        let cx = RequestContext::system();
        for (name, verdict) in verdicts {
            let Some(known) = self.known.get(name).filter(|known| verdict.changes(&known.definition)) else { continue };
            let write = Write::internal(&cx, resource, "").subresource("status").managed_by("kube-apiserver");
            let version = &known.definition.metadata;
            let change = |object: &mut serde_json::Value| {
                let same = object["metadata"]["uid"] == version.uid.as_str()
                    && object["metadata"]["generation"] == version.generation;
                if !same {
                    // Its next event brings a new verdict.
                    return Err(ApiError::object_modified(resource.group_resource(), name));
                }
                verdict.apply(object);
                Ok(())
            };
            match registry.update_with(&write, name, change).await {
                Ok(_) => {}
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => tracing::warn!(name, %error, "the status of a definition cannot be written"),
            }
        }
    }

    fn start_cleanups(&mut self, registry: &Registry, stop: &CancellationToken, cleanups: &mut JoinSet<String>) {
        for (name, Known { definition, .. }) in &self.known {
            let metadata = &definition.metadata;
            let due = metadata.deletion_timestamp.is_some() && metadata.finalizers.iter().any(|f| f == FINALIZER);
            if due && !self.cleaning.contains_key(name) {
                self.cleaning.insert(name.clone(), metadata.uid.clone());
                cleanups.spawn(cleanup::run(registry.clone(), name.clone(), metadata.uid.clone(), stop.clone()));
            }
        }
    }
}

fn fingerprint(definition: &Definition, accepted: &Names) -> (String, bool) {
    let metadata = &definition.metadata;
    let text = format!("{}/{}/{accepted:?}", metadata.uid, metadata.generation);
    (text, metadata.deletion_timestamp.is_some())
}

/// A definition as it is stored, with its resource in the storage version; `None` if it is gone.
async fn stored_definition(
    registry: &Registry,
    name: &str,
) -> Result<Option<(Definition, Option<Resource>)>, ApiError> {
    let resource = registry.resource(pintle_api::custom::GROUP, PLURAL)?;
    let key = crate::registry::object_key(&resource, "", name);
    let Some(kv) = registry.store().get(&key).await.map_err(store_error)? else { return Ok(None) };
    let definition: Definition = serde_json::from_slice(&kv.value).map_err(ApiError::internal)?;
    let served = definition.stored_resource(&kv.value, &definition.status.accepted_names);
    Ok(Some((definition, served)))
}
