//! The ServiceAccount controller: every namespace has a ServiceAccount `default`.
use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, is_already_exists, is_namespace_terminating};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use pintle_client::WorkQueue;
use pintle_client::informer::Change;
use std::time::Duration;

const DEFAULT: &str = "default";

/// True if `namespace` still takes new objects.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    namespace.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Terminating")
        && namespace.metadata.deletion_timestamp.is_none()
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("service-account-controller");
    let (namespaces, accounts) = (cx.informers.of::<Namespace>(), cx.informers.of::<ServiceAccount>());
    let queue = WorkQueue::<String>::new();
    let added = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            added.add(name(change.object().as_ref()).to_owned());
        }
    });
    let added = queue.clone();
    accounts.on_change(move |change| {
        if let Change::Deleted(account) = change
            && name(account.as_ref()) == DEFAULT
        {
            added.add(namespace(account.as_ref()).to_owned());
        }
    });
    tokio::join!(namespaces.synced(), accounts.synced());
    queue
        .run("serviceaccount", 1, cx.stop, move |in_namespace| {
            let (client, namespaces, accounts) = (client.clone(), namespaces.clone(), accounts.clone());
            async move {
                let active = namespaces.get("", &in_namespace).is_some_and(|namespace| is_active(&namespace));
                if !active || accounts.get(&in_namespace, DEFAULT).is_some() {
                    return Ok::<_, Error>(None::<Duration>);
                }
                let account = ServiceAccount {
                    metadata: ObjectMeta { name: Some(DEFAULT.to_owned()), ..ObjectMeta::default() },
                    ..ServiceAccount::default()
                };
                match Api::namespaced(client, &in_namespace).create(&PostParams::default(), &account).await {
                    Err(error) if !is_already_exists(&error) && !is_namespace_terminating(&error) => Err(error.into()),
                    _ => Ok(None),
                }
            }
        })
        .await;
}
