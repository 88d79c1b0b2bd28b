//! The garbage collector: deletes objects whose owners are gone, and carries out foreground and orphaning deletions. It
//! watches the metadata of every deletable resource and acts only when the [`graph`] says so.
mod decide;
mod graph;

use crate::Context;
use crate::deletions::Deletions;
use crate::discovery::{Resource, served};
use crate::error::{Error, is_conflict, is_not_found, is_reason, unless_not_found};
use decide::{Decision, Owner, decide};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use graph::{FOREGROUND, Graph, Identity, ORPHAN, Uid, Work};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use pintle_client::WorkQueue;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const WORKERS: usize = 10;
/// New kinds are watched so long after the change that brought them: a CRD is served a little after it is written.
const REDISCOVER_AFTER: Duration = Duration::from_secs(1);
/// The queue starts without the first list of a resource after this long: one that hangs must not hold up the others.
const FIRST_LISTS: Duration = Duration::from_secs(30);

/// What workers share.
struct Collector {
    client: Client,
    graph: Mutex<Graph>,
    /// (group, kind) → resource.
    kinds: Mutex<HashMap<(String, String), Resource>>,
    queue: WorkQueue<Work>,
    /// Who wants to know what is gone.
    deletions: Deletions,
}

/// One event of one resource's watch.
type Change = (usize, Option<Event<ObjectMeta>>);

/// Runs the collector until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("generic-garbage-collector");
    let collector = Arc::new(Collector {
        client,
        graph: Mutex::default(),
        kinds: Mutex::default(),
        queue: WorkQueue::new(),
        deletions: cx.deletions.clone(),
    });
    let listed = Arc::new(Notify::new());
    let watching = tokio::spawn(watch(collector.clone(), listed.clone()));
    let _abort = AbortOnDrop(watching.abort_handle());
    tokio::select! { () = listed.notified() => {} () = tokio::time::sleep(FIRST_LISTS) => {} }
    let queue = collector.queue.clone();
    queue.run("garbage-collector", WORKERS, cx.stop, move |work| act(collector.clone(), work)).await;
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Events tell of each other and own nothing that matters.
fn ignored(resource: &Resource) -> bool {
    resource.api.plural == "events"
}

/// Keeps the graph: one task for the watches of all resources.
async fn watch(collector: Arc<Collector>, listed: Arc<Notify>) {
    let mut watched: Vec<Watched> = Vec::new();
    let mut streams: SelectAll<BoxStream<'static, Change>> = SelectAll::new();
    let mut rediscover = Some(tokio::time::Instant::now());
    loop {
        let due = async {
            match rediscover {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {
                rediscover = None;
                if let Err(error) = collector.discover(&mut watched, &mut streams).await {
                    tracing::debug!(%error, "discovery failed, will retry");
                    rediscover = Some(tokio::time::Instant::now() + REDISCOVER_AFTER);
                }
            }
            Some((index, event)) = streams.next() => {
                let Some(resource) = watched.get_mut(index) else { continue };
                let Some(event) = event else { continue };
                if resource.brings_kinds && !matches!(event, Event::Init | Event::InitApply(_)) {
                    rediscover.get_or_insert_with(|| tokio::time::Instant::now() + REDISCOVER_AFTER);
                }
                let work = collector.note(resource, event);
                work.into_iter().for_each(|work| collector.queue.add(work));
                if watched.iter().all(|resource| resource.listed) {
                    listed.notify_one();
                }
            }
        }
    }
}

/// One resource under watch.
struct Watched {
    resource: Resource,
    api_version: Arc<str>,
    kind: Arc<str>,
    known: HashSet<Uid>,
    fresh: HashSet<Uid>,
    listed: bool,
    brings_kinds: bool,
    stop: tokio_util::sync::CancellationToken,
}

impl Collector {
    /// Watches what is served now and was not before; lets go of what is no longer served.
    async fn discover(
        &self,
        watched: &mut Vec<Watched>,
        streams: &mut SelectAll<BoxStream<'static, Change>>,
    ) -> Result<(), Error> {
        let mut resources = served(&self.client).await?.resources;
        *self.kinds.lock() = resources
            .iter()
            .map(|resource| ((resource.api.group.clone(), resource.api.kind.clone()), resource.clone()))
            .collect();
        resources.retain(|resource| resource.supports(&["delete", "list", "watch"]) && !ignored(resource));
        for old in watched.iter_mut().filter(|old| !resources.contains(&old.resource)) {
            old.stop.cancel();
            old.listed = true;
        }
        for resource in resources {
            if watched.iter().any(|old| old.resource == resource && !old.stop.is_cancelled()) {
                continue;
            }
            let stop = tokio_util::sync::CancellationToken::new();
            streams.push(stream(&self.client, &resource, watched.len(), stop.clone()));
            watched.push(Watched {
                api_version: resource.api.api_version.as_str().into(),
                kind: resource.api.kind.as_str().into(),
                known: HashSet::new(),
                fresh: HashSet::new(),
                listed: false,
                brings_kinds: matches!(resource.api.plural.as_str(), "customresourcedefinitions" | "apiservices"),
                stop,
                resource,
            });
        }
        Ok(())
    }

    fn note(&self, watched: &mut Watched, event: Event<ObjectMeta>) -> Vec<Work> {
        let mut graph = self.graph.lock();
        match event {
            Event::Init => {
                watched.fresh.clear();
                Vec::new()
            }
            Event::InitApply(meta) => {
                watched.fresh.extend(meta.uid.as_deref().map(Uid::from));
                graph.seen(&watched.api_version, &watched.kind, &meta)
            }
            Event::InitDone => {
                watched.listed = true;
                let fresh = std::mem::take(&mut watched.fresh);
                let stale = std::mem::replace(&mut watched.known, fresh);
                stale.iter().filter(|uid| !watched.known.contains(*uid)).flat_map(|uid| graph.gone(uid)).collect()
            }
            Event::Apply(meta) => {
                watched.known.extend(meta.uid.as_deref().map(Uid::from));
                graph.seen(&watched.api_version, &watched.kind, &meta)
            }
            Event::Delete(meta) => {
                let uid = meta.uid.as_deref().unwrap_or_default();
                watched.known.remove(uid);
                let work = graph.gone(uid);
                drop(graph);
                let api = &watched.resource.api;
                self.deletions.tell(&api.group, &api.plural, meta.namespace.as_deref().unwrap_or_default());
                work
            }
        }
    }

    fn api(&self, identity: &Identity) -> Option<Api<DynamicObject>> {
        let group = identity.api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.lock();
        let resource = kinds.get(&(group.to_owned(), identity.kind.as_ref().to_owned()))?;
        Some(if resource.namespaced {
            Api::namespaced_with(self.client.clone(), &identity.namespace, &resource.api)
        } else {
            Api::all_with(self.client.clone(), &resource.api)
        })
    }

    fn gone(&self, uid: &str) {
        let work = self.graph.lock().gone(uid);
        work.into_iter().for_each(|work| self.queue.add(work));
    }
}

fn stream(
    client: &Client,
    resource: &Resource,
    index: usize,
    stop: tokio_util::sync::CancellationToken,
) -> BoxStream<'static, Change> {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &resource.api);
    let plural = resource.api.plural.clone();
    watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .map(move |event| match event {
            Ok(event) => (index, Some(slim(event))),
            Err(error) => {
                tracing::debug!(resource = plural, %error, "watch interrupted, will resume");
                (index, None)
            }
        })
        .take_until(async move { stop.cancelled().await })
        .boxed()
}

fn slim(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<ObjectMeta> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(object.metadata),
        Event::Apply(object) => Event::Apply(object.metadata),
        Event::Delete(object) => Event::Delete(object.metadata),
    }
}

async fn act(collector: Arc<Collector>, work: Work) -> Result<Option<Duration>, Error> {
    match work {
        Work::Delete(uid) => attempt_to_delete(&collector, &uid).await,
        Work::Orphan(uid) => orphan_dependents(&collector, &uid).await,
    }
}

async fn attempt_to_delete(collector: &Collector, uid: &Uid) -> Result<Option<Duration>, Error> {
    let Some(node) = collector.graph.lock().get(uid).cloned() else { return Ok(None) };
    if node.being_deleted && !node.deleting_dependents {
        return Ok(None);
    }
    let Some(api) = collector.api(&node.identity) else {
        // An unknown kind: whether the object exists cannot be said, so nothing is deleted for it.
        return Ok(None);
    };
    let live = match api.get_metadata_opt(&node.identity.name).await {
        Ok(live) => live.map(|live| live.metadata).filter(|live| live.uid.as_deref() == Some(uid)),
        // A reference of a namespaced kind from a cluster-scoped object names no place.
        Err(error) if is_reason(&error, "BadRequest") => None,
        Err(error) => return Err(error.into()),
    };
    let Some(live) = live else {
        collector.gone(uid);
        return Ok(None);
    };
    if node.is_virtual {
        // It exists; its watch will tell.
        return Ok(None);
    }
    if node.deleting_dependents {
        return finish_foreground(collector, uid, &api, &live).await;
    }
    let mut owners = Vec::new();
    for owner in live.owner_references.iter().flatten() {
        owners.push((owner.uid.clone(), owner_state(collector, owner, &node.identity).await?));
    }
    let dependents = collector.graph.lock().dependents(uid);
    let deleting = dependents.iter().any(|(_, dependent)| dependent.deleting_dependents);
    let named: &str = &node.identity.name;
    match decide(&live, &owners, !dependents.is_empty(), deleting) {
        Decision::Keep => {}
        Decision::Release(gone) => drop_owners(&api, named, uid, &gone).await?,
        Decision::Delete { policy, unblock_owners } => {
            if unblock_owners {
                unblock(&api, &live).await?;
            }
            let params = DeleteParams {
                propagation_policy: Some(policy),
                preconditions: Some(Preconditions { uid: Some(uid.to_string()), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(named, &params).await {
                Err(error) if is_not_found(&error) => collector.gone(uid),
                Err(error) if is_conflict(&error) => return Err(Error::Stale(named.to_owned())),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
    }
    Ok(None)
}

async fn owner_state(
    collector: &Collector,
    owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
    dependent: &Identity,
) -> Result<Owner, Error> {
    let identity = Identity {
        api_version: owner.api_version.as_str().into(),
        kind: owner.kind.as_str().into(),
        namespace: dependent.namespace.clone(),
        name: owner.name.as_str().into(),
    };
    // An unknown kind may be one that is not served just now.
    let Some(api) = collector.api(&identity) else { return Ok(Owner::Solid) };
    let live = match api.get_metadata_opt(&owner.name).await {
        Ok(live) => live.map(|live| live.metadata).filter(|live| live.uid.as_ref() == Some(&owner.uid)),
        Err(error) if is_reason(&error, "BadRequest") => None,
        Err(error) => return Err(error.into()),
    };
    Ok(match live {
        None => Owner::Absent,
        Some(live) => {
            let foreground = live.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND);
            if live.deletion_timestamp.is_some() && foreground { Owner::Waiting } else { Owner::Solid }
        }
    })
}

/// Lets a foreground deletion end, or pushes the dependents that it waits for.
async fn finish_foreground(
    collector: &Collector,
    uid: &Uid,
    api: &Api<DynamicObject>,
    live: &ObjectMeta,
) -> Result<Option<Duration>, Error> {
    let blocking = collector.graph.lock().blocking(uid);
    if blocking.is_empty() {
        remove_finalizer(api, live, FOREGROUND).await?;
    }
    for (dependent, node) in blocking {
        if !node.deleting_dependents {
            collector.queue.add(Work::Delete(dependent));
        }
    }
    Ok(None)
}

async fn orphan_dependents(collector: &Collector, uid: &Uid) -> Result<Option<Duration>, Error> {
    let (node, dependents) = {
        let graph = collector.graph.lock();
        (graph.get(uid).cloned(), graph.dependents(uid))
    };
    let Some(node) = node else { return Ok(None) };
    for (dependent, of) in dependents {
        if let Some(api) = collector.api(&of.identity) {
            drop_owners(&api, &of.identity.name, &dependent, &[uid.to_string()]).await?;
        }
    }
    let Some(api) = collector.api(&node.identity) else { return Ok(None) };
    let live = api.get_metadata_opt(&node.identity.name).await?.map(|live| live.metadata);
    if let Some(live) = live.filter(|live| live.uid.as_deref() == Some(uid)) {
        remove_finalizer(&api, &live, ORPHAN).await?;
    }
    Ok(None)
}

/// Takes the references to the owners of these UIDs off the object.
async fn drop_owners(api: &Api<DynamicObject>, named: &str, uid: &str, owners: &[String]) -> Result<(), Error> {
    let Some(live) = unless_not_found(api.get_metadata(named).await)?.map(|live| live.metadata) else { return Ok(()) };
    if live.uid.as_deref() != Some(uid) {
        return Ok(());
    }
    let kept: Vec<_> =
        live.owner_references.iter().flatten().filter(|owner| !owners.contains(&owner.uid)).cloned().collect();
    patch(api, &live, json!({"ownerReferences": kept})).await
}

/// Lets the owners of the object go before it.
async fn unblock(api: &Api<DynamicObject>, live: &ObjectMeta) -> Result<(), Error> {
    let mut owners = live.owner_references.clone().unwrap_or_default();
    owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
    patch(api, live, json!({"ownerReferences": owners})).await
}

async fn remove_finalizer(api: &Api<DynamicObject>, live: &ObjectMeta, finalizer: &str) -> Result<(), Error> {
    let kept: Vec<_> = live.finalizers.iter().flatten().filter(|kept| *kept != finalizer).cloned().collect();
    patch(api, live, json!({"finalizers": kept})).await
}

/// A merge patch of metadata that applies only to the state it was made from; it works for every kind.
async fn patch(api: &Api<DynamicObject>, live: &ObjectMeta, mut fields: serde_json::Value) -> Result<(), Error> {
    fields["resourceVersion"] = json!(live.resource_version);
    fields["uid"] = json!(live.uid);
    let named = live.name.as_deref().unwrap_or_default();
    let patch = Patch::Merge(json!({"metadata": fields}));
    unless_not_found(api.patch_metadata(named, &PatchParams::default(), &patch).await).map(|_| ())
}
