//! The root CA publisher: every namespace has a ConfigMap `kube-root-ca.crt` with the certificate that its pods trust.
use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, is_already_exists, is_namespace_terminating};
use crate::serviceaccount::is_active;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, ObjectMeta, PostParams};
use pintle_client::WorkQueue;
use pintle_client::informer::Change;
use std::collections::BTreeMap;
use std::time::Duration;

const CONFIG_MAP: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such \
    as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
    clusters.";

/// The ConfigMap to write, or `None` if `current` is right.
fn wanted(current: Option<&ConfigMap>, root_ca: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(KEY.to_owned(), root_ca.to_owned())]);
    let described = |map: &ConfigMap| {
        map.metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(DESCRIPTION))
            .is_some_and(|text| text == TEXT)
    };
    if current.is_some_and(|current| current.data.as_ref() == Some(&data) && described(current)) {
        return None;
    }
    let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(CONFIG_MAP.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    });
    map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.to_owned(), TEXT.to_owned());
    map.data = Some(data);
    Some(map)
}

/// Runs the publisher until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("root-ca-cert-publisher");
    let (namespaces, maps) = (cx.informers.of::<Namespace>(), cx.informers.of::<ConfigMap>());
    let queue = WorkQueue::<String>::new();
    let added = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            added.add(name(change.object().as_ref()).to_owned());
        }
    });
    let added = queue.clone();
    maps.on_change(move |change| {
        if name(change.object().as_ref()) == CONFIG_MAP {
            added.add(namespace(change.object().as_ref()).to_owned());
        }
    });
    tokio::join!(namespaces.synced(), maps.synced());
    let config = cx.config.clone();
    queue
        .run("root-ca-cert-publisher", 1, cx.stop, move |in_namespace| {
            let (client, namespaces, maps, config) = (client.clone(), namespaces.clone(), maps.clone(), config.clone());
            async move {
                if !namespaces.get("", &in_namespace).is_some_and(|namespace| is_active(&namespace)) {
                    return Ok::<_, Error>(None::<Duration>);
                }
                let current = maps.get(&in_namespace, CONFIG_MAP);
                let Some(map) = wanted(current.as_deref(), &config.root_ca_pem) else { return Ok(None) };
                let api = Api::namespaced(client, &in_namespace);
                let result = if current.is_none() {
                    api.create(&PostParams::default(), &map).await
                } else {
                    api.replace(CONFIG_MAP, &PostParams::default(), &map).await
                };
                match result {
                    Err(error) if !is_already_exists(&error) && !is_namespace_terminating(&error) => Err(error.into()),
                    _ => Ok(None),
                }
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_certificate_is_published_and_a_right_one_left_alone() {
        let first = wanted(None, "one").unwrap();
        assert_eq!(wanted(Some(&first), "one"), None);
        assert_eq!(wanted(Some(&first), "two").unwrap().data.unwrap()[KEY], "two");
    }
}
