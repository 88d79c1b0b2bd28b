//! Keeps one object of a kind, of one name, in every namespace: [`run`] drives the controllers that do nothing else.
use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, is_already_exists, is_namespace_terminating};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::Resource;
use kube::api::{Api, PostParams};
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, Kind};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// True if `namespace` still takes new objects.
fn is_active(namespace: &Namespace) -> bool {
    namespace.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Terminating")
        && namespace.metadata.deletion_timestamp.is_none()
}

/// Keeps the object `named` as `wanted` says, given the one that is there: `None` if that is right. Runs as the controller
/// `identity` until the context stops.
pub(crate) async fn run<K>(
    cx: Context,
    identity: &'static str,
    named: &'static str,
    wanted: impl Fn(Option<&K>) -> Option<K> + Send + Sync + 'static,
) where
    K: Kind + Serialize + Resource<Scope = NamespaceResourceScope>,
{
    let client = cx.clients.controller(identity);
    let (namespaces, objects) = (cx.informers.of::<Namespace>(), cx.informers.of::<K>());
    let queue = WorkQueue::<String>::new();
    let added = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            added.add(name(change.object().as_ref()).to_owned());
        }
    });
    let added = queue.clone();
    objects.on_change(move |change| {
        if name(change.object().as_ref()) == named {
            added.add(namespace(change.object().as_ref()).to_owned());
        }
    });
    tokio::join!(namespaces.synced(), objects.synced());
    let wanted = Arc::new(wanted);
    queue
        .run(identity, 1, cx.stop, move |in_namespace| {
            let (client, namespaces, objects) = (client.clone(), namespaces.clone(), objects.clone());
            let wanted = wanted.clone();
            async move {
                if !namespaces.get("", &in_namespace).is_some_and(|namespace| is_active(&namespace)) {
                    return Ok::<_, Error>(None::<Duration>);
                }
                let current = objects.get(&in_namespace, named);
                let Some(object) = wanted(current.as_deref()) else { return Ok(None) };
                let api: Api<K> = Api::namespaced(client, &in_namespace);
                let result = if current.is_none() {
                    api.create(&PostParams::default(), &object).await
                } else {
                    api.replace(named, &PostParams::default(), &object).await
                };
                match result {
                    Err(error) if !is_already_exists(&error) && !is_namespace_terminating(&error) => Err(error.into()),
                    _ => Ok(None),
                }
            }
        })
        .await;
}
