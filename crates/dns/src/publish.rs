//! Keeps the Service `kube-system/kube-dns` and this node's EndpointSlice of it.
use crate::Config;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use pintle_client::informer::Change;
use pintle_client::{Clients, Informers, WorkQueue};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
/// The service account that upstream's cluster DNS runs as.
const ACCOUNT: &str = "coredns";

/// Makes both objects and puts them right whenever somebody changes them, until `stop`.
pub async fn keep(config: &Config, clients: &Clients, informers: &Informers, stop: CancellationToken) {
    let queue = WorkQueue::<()>::new();
    let to = queue.clone();
    informers.of::<Service>().on_change(move |change| {
        let meta = &change.object().metadata;
        if meta.namespace.as_deref() == Some(NAMESPACE) && meta.name.as_deref() == Some(SERVICE) {
            to.add(());
        }
    });
    let (to, ours) = (queue.clone(), slice_names(config));
    informers.of::<EndpointSlice>().on_change(move |change: &Change<'_, EndpointSlice>| {
        let meta = &change.object().metadata;
        if meta.namespace.as_deref() == Some(NAMESPACE) && meta.name.as_ref().is_some_and(|name| ours.contains(name)) {
            to.add(());
        }
    });
    queue.add(());
    let client = clients.controller(ACCOUNT);
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let wanted = Arc::new(Wanted { service: service(config), slices: endpoint_slices(config) });
    queue
        .run("dns", 1, stop, move |()| {
            let (services, slices, wanted) = (services.clone(), slices.clone(), wanted.clone());
            async move {
                ensure(&services, SERVICE, &wanted.service).await?;
                for (name, slice) in &wanted.slices {
                    ensure(&slices, name, slice).await?;
                }
                Ok::<_, Error>(None)
            }
        })
        .await;
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Decode(#[from] serde_json::Error),
}

struct Wanted {
    service: Value,
    slices: Vec<(String, Value)>,
}

/// Makes `name` as `wanted`, or changes what differs from it.
async fn ensure<K>(api: &Api<K>, name: &str, wanted: &Value) -> Result<(), Error>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    match api.get_opt(name).await? {
        None => match api.create(&PostParams::default(), &serde_json::from_value(wanted.clone())?).await {
            // Another node was faster.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            result => Ok(result.map(drop)?),
        },
        Some(found) if contains(&serde_json::to_value(&found)?, wanted) => Ok(()),
        Some(_) => Ok(api.patch(name, &PatchParams::default(), &Patch::Merge(wanted)).await.map(drop)?),
    }
}

/// Whether `object` has all that `wanted` says; lists must have the same length.
fn contains(object: &Value, wanted: &Value) -> bool {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => wanted.iter().all(|(field, value)| {
            let typed = field == "apiVersion" || field == "kind";
            typed || object.get(field).is_some_and(|found| contains(found, value))
        }),
        (Value::Array(object), Value::Array(wanted)) => {
            object.len() == wanted.len() && object.iter().zip(wanted).all(|(found, value)| contains(found, value))
        }
        (object, wanted) => object == wanted,
    }
}

fn service(config: &Config) -> Value {
    let families: Vec<&str> = config.cluster_ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": SERVICE,
            "namespace": NAMESPACE,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": config.cluster_ips.first(),
            "clusterIPs": config.cluster_ips,
            "ipFamilies": families,
            "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "protocol": "TCP"},
            ],
        },
    })
}

fn slice_names(config: &Config) -> Vec<String> {
    endpoint_slices(config).into_iter().map(|(name, _)| name).collect()
}

/// One slice for each family.
fn endpoint_slices(config: &Config) -> Vec<(String, Value)> {
    let slice = |address: &std::net::SocketAddr| {
        let (family, suffix) = if address.is_ipv4() { ("IPv4", "") } else { ("IPv6", "-ipv6") };
        let name = format!("{SERVICE}-{}{suffix}", config.node_name);
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": SERVICE,
                    "endpointslice.kubernetes.io/managed-by": "pintle-dns",
                },
            },
            "addressType": family,
            "endpoints": [{
                "addresses": [address.ip()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": config.node_name,
            }],
            "ports": [
                {"name": "dns", "port": address.port(), "protocol": "UDP"},
                {"name": "dns-tcp", "port": address.port(), "protocol": "TCP"},
            ],
        });
        (name, object)
    };
    config.listen.iter().map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_added_is_no_difference_but_what_they_changed_is() {
        let wanted = json!({"kind": "x", "spec": {"ports": [{"port": 53}]}});
        assert!(contains(&json!({"spec": {"ports": [{"port": 53, "targetPort": 53}], "type": "ClusterIP"}}), &wanted));
        assert!(!contains(&json!({"spec": {"ports": [{"port": 54}]}}), &wanted));
        assert!(!contains(&json!({"spec": {"ports": [{"port": 53}, {"port": 54}]}}), &wanted));
        assert!(!contains(&json!({}), &wanted));
    }
}
