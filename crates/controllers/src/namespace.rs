//! The namespace controller: deletes everything in a namespace that is being deleted, then lets it go.
//! (upstream: pkg/controller/namespace/deletion)
mod conditions;

use crate::Context;
use crate::claim::{name, namespace};
use crate::discovery::{Resource, served};
use crate::error::{Error, is_not_found, is_reason, message};
use conditions::Progress;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, Informer, Kind};
use std::time::Duration;

const WORKERS: usize = 3;
/// The finalizer in `spec.finalizers` that this controller answers for.
const FINALIZER: &str = "kubernetes";
/// How long to wait for other controllers to take their finalizers off.
const FINALIZER_ESTIMATE: i64 = 15;

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("namespace-controller");
    let (namespaces, pods, claims) =
        (cx.informers.of::<Namespace>(), cx.informers.of::<Pod>(), cx.informers.of::<PersistentVolumeClaim>());
    let queue = WorkQueue::<String>::new();
    let added = queue.clone();
    namespaces.on_change(move |change| {
        let namespace = change.object();
        if namespace.metadata.deletion_timestamp.is_some() && !matches!(change, Change::Deleted(_)) {
            added.add(name(namespace.as_ref()).to_owned());
        }
    });
    // The last pod or claim of a namespace goes later than it is deleted: look again at once when it does.
    wake_when_gone(&pods, &namespaces, &queue);
    wake_when_gone(&claims, &namespaces, &queue);
    tokio::join!(namespaces.synced(), pods.synced());
    queue
        .run("namespace", WORKERS, cx.stop, move |named| {
            let (client, namespaces) = (client.clone(), namespaces.clone());
            async move {
                match namespaces.get("", &named) {
                    Some(known) if known.metadata.deletion_timestamp.is_some() => sync(&client, &named).await,
                    _ => Ok(None),
                }
            }
        })
        .await;
}

fn wake_when_gone<K: Kind>(objects: &Informer<K>, namespaces: &Informer<Namespace>, queue: &WorkQueue<String>) {
    let (namespaces, queue) = (namespaces.clone(), queue.clone());
    objects.on_change(move |change| {
        let Change::Deleted(object) = change else { return };
        let in_namespace = namespace(object.as_ref());
        if namespaces.get("", in_namespace).is_some_and(|known| known.metadata.deletion_timestamp.is_some()) {
            queue.add(in_namespace.to_owned());
        }
    });
}

async fn sync(client: &Client, named: &str) -> Result<Option<Duration>, Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(mut namespace) = api.get_opt(named).await? else { return Ok(None) };
    if namespace.metadata.deletion_timestamp.is_none() {
        return Ok(None);
    }
    let status = namespace.status.get_or_insert_default();
    if status.phase.as_deref() != Some("Terminating") {
        status.phase = Some("Terminating".to_owned());
        namespace = api.replace_status(named, &PostParams::default(), &namespace).await?;
    }
    let finalizers =
        |namespace: &Namespace| namespace.spec.clone().and_then(|spec| spec.finalizers).unwrap_or_default();
    if !finalizers(&namespace).iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(None);
    }
    let (progress, estimate) = delete_content(client, &namespace).await;
    let done = progress.remaining.is_empty() && progress.failures.is_empty() && progress.discovery_failure.is_none();
    if progress.apply(namespace.status.get_or_insert_default(), Timestamp::now()) {
        namespace = api.replace_status(named, &PostParams::default(), &namespace).await?;
    }
    if !done {
        let left = progress.failures.join(", ");
        if !progress.failures.is_empty() || progress.discovery_failure.is_some() || estimate == 0 {
            return Err(Error::Unfinished(format!("content of namespace {named} remains: {left}")));
        }
        return Ok(Some(Duration::from_secs(u64::try_from(estimate / 2 + 1).unwrap_or(1))));
    }
    let mut kept = finalizers(&namespace);
    kept.retain(|finalizer| finalizer != FINALIZER);
    namespace.spec.get_or_insert_default().finalizers = Some(kept);
    match api.replace_subresource("finalize", named, &PostParams::default(), &namespace).await {
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(None),
    }
}

/// Deletes what is in the namespace: pods first, so that nothing they use goes before them. Returns what is left and for how
/// many seconds that may be normal.
async fn delete_content(client: &Client, namespace: &Namespace) -> (Progress, i64) {
    let (mut progress, mut estimate) = (Progress::default(), 0);
    let mut resources = match served(client).await {
        Ok(served) => {
            if !served.stale.is_empty() {
                let text = format!(
                    "Discovery failed for some groups, {} failing: {}",
                    served.stale.len(),
                    served.stale.join(", ")
                );
                progress.discovery_failure = Some(text);
            }
            served.resources
        }
        Err(error) => {
            progress.discovery_failure = Some(error.to_string());
            Vec::new()
        }
    };
    resources.retain(|resource| resource.namespaced && resource.supports(&["delete", "list"]));
    let is_pods = |resource: &Resource| resource.api.group.is_empty() && resource.api.plural == "pods";
    resources.sort_by_key(|resource| !is_pods(resource));
    for resource in &resources {
        match delete_resource(client, namespace, resource).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                let key = format!("{}.{}", resource.api.plural, resource.api.group);
                progress.remaining.insert(key, left.len());
                for finalizer in left.iter().flat_map(|meta| meta.finalizers.iter().flatten()) {
                    *progress.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
                estimate = estimate.max(normal_seconds(namespace, &left));
            }
            Err(error) => progress.failures.push(error),
        }
        if is_pods(resource) && !progress.remaining.is_empty() {
            break;
        }
    }
    (progress, estimate)
}

/// For how long these objects may be expected to stay: their grace period, or the time others need for finalizers.
fn normal_seconds(namespace: &Namespace, left: &[ObjectMeta]) -> i64 {
    let grace = left.iter().filter_map(|meta| meta.deletion_grace_period_seconds).max().unwrap_or(0);
    let since = namespace
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(0, |time| Timestamp::now().duration_since(time.0).as_secs());
    if grace > since {
        grace
    } else if left.iter().any(|meta| meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())) {
        FINALIZER_ESTIMATE
    } else {
        0
    }
}

async fn delete_resource(
    client: &Client,
    namespace: &Namespace,
    resource: &Resource,
) -> Result<Vec<ObjectMeta>, String> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), name(namespace), &resource.api);
    let params = DeleteParams::background();
    if list(&api).await?.is_empty() {
        return Ok(Vec::new());
    }
    let gone = |error: &kube::Error| is_not_found(error) || is_reason(error, "MethodNotAllowed");
    if resource.supports(&["deletecollection"]) {
        match api.delete_collection(&params, &ListParams::default()).await {
            Err(error) if !gone(&error) => return Err(message(&error)),
            _ => {}
        }
    } else {
        for object in list(&api).await? {
            let named = object.name.as_deref().unwrap_or_default();
            match api.delete(named, &params).await {
                Err(error) if !gone(&error) => return Err(message(&error)),
                _ => {}
            }
        }
    }
    list(&api).await
}

async fn list(api: &Api<DynamicObject>) -> Result<Vec<ObjectMeta>, String> {
    match api.list_metadata(&ListParams::default()).await {
        Ok(list) => Ok(list.items.into_iter().map(|item| item.metadata).collect()),
        Err(error) if is_not_found(&error) || is_reason(&error, "MethodNotAllowed") => Ok(Vec::new()),
        Err(error) => Err(message(&error)),
    }
}
