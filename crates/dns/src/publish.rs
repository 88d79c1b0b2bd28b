//! Keeps the Service `kube-system/kube-dns` and, for each Node, the EndpointSlice with the node's own listener. Start at
//! [`keep`].
//!
//! Every endpoint is hinted to its own node, so that a pod asks the listener of the node it runs on, and another node's if
//! that one is gone.
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use pintle_client::index::SERVICE_NAME;
use pintle_client::informer::Change;
use pintle_client::{Clients, Informers, WorkQueue};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
/// The service account that upstream's cluster DNS runs as.
const ACCOUNT: &str = "coredns";

/// What is published.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses of the Service.
    pub cluster_ips: Vec<IpAddr>,
    /// The port of every node's listener, at the first address of each of the node's pod CIDRs.
    pub port: u16,
}

/// Makes the objects and puts them right whenever somebody changes them, until `stop`. Once for a cluster.
pub async fn keep(config: Config, clients: Clients, informers: Informers, stop: CancellationToken) {
    // The name of a Node; empty: the Service.
    let queue = WorkQueue::<String>::new();
    let to = queue.clone();
    informers.of::<Service>().on_change(move |change| {
        let meta = &change.object().metadata;
        if meta.namespace.as_deref() == Some(NAMESPACE) && meta.name.as_deref() == Some(SERVICE) {
            to.add(String::new());
        }
    });
    let to = queue.clone();
    informers.of::<EndpointSlice>().on_change(move |change: &Change<'_, EndpointSlice>| {
        let slice = change.object();
        let meta = &slice.metadata;
        let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if meta.namespace.as_deref() == Some(NAMESPACE) && service.is_some_and(|service| service == SERVICE) {
            slice
                .endpoints
                .iter()
                .flatten()
                .filter_map(|endpoint| endpoint.node_name.clone())
                .for_each(|node| to.add(node));
        }
    });
    let (to, nodes) = (queue.clone(), informers.of::<Node>());
    nodes.on_change(move |change| {
        let slices = |node: &Node| endpoint_slices(node, config.port);
        match change {
            Change::Updated(old, new) if slices(old) == slices(new) => {}
            Change::Added(node) | Change::Updated(_, node) => to.add(node.metadata.name.clone().unwrap_or_default()),
            Change::Deleted(_) => {}
        }
    });
    queue.add(String::new());
    let client = clients.controller(ACCOUNT);
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let config = Arc::new(config);
    queue
        .run("dns", 1, stop, move |name| {
            let (services, slices, nodes, config) = (services.clone(), slices.clone(), nodes.clone(), config.clone());
            async move {
                if name.is_empty() {
                    ensure(&services, SERVICE, &service(&config)).await?;
                } else if let Some(node) = nodes.get("", &name) {
                    for (name, slice) in endpoint_slices(&node, config.port) {
                        ensure(&slices, &name, &slice).await?;
                    }
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

/// The node's slices, one for each family; none before it has a pod CIDR. They go with the Node.
fn endpoint_slices(node: &Node, port: u16) -> Vec<(String, Value)> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let gone = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown");
    let cidrs = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    let slice = |address: IpAddr| {
        let (family, suffix) = if address.is_ipv4() { ("IPv4", "") } else { ("IPv6", "-ipv6") };
        let slice = format!("{SERVICE}-{name}{suffix}");
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": slice,
                "namespace": NAMESPACE,
                "labels": {SERVICE_NAME: SERVICE, "endpointslice.kubernetes.io/managed-by": "pintle-dns"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}],
            },
            "addressType": family,
            "endpoints": [{
                "addresses": [address],
                "conditions": {"ready": !gone, "serving": !gone, "terminating": false},
                "hints": {"forNodes": [{"name": name}]},
                "nodeName": name,
            }],
            "ports": [
                {"name": "dns", "port": port, "protocol": "UDP"},
                {"name": "dns-tcp", "port": port, "protocol": "TCP"},
            ],
        });
        (slice, object)
    };
    cidrs.filter_map(|text| first_address(text.parse().ok()?)).map(slice).collect()
}

/// Where a node's own listener is in its pod CIDR.
fn first_address(cidr: IpNet) -> Option<IpAddr> {
    Some(match cidr {
        IpNet::V4(cidr) => IpAddr::V4(u32::from(cidr.network()).checked_add(1)?.into()),
        IpNet::V6(cidr) => IpAddr::V6(u128::from(cidr.network()).checked_add(1)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_own_listener_and_a_vanished_one_is_not_asked() {
        let node = |ready: &str| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n1", "uid": "u"}, "spec": {"podCIDRs": ["10.42.3.0/24"]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
            )
            .unwrap()
        };
        let [(name, slice)] = endpoint_slices(&node("True"), 10053).try_into().unwrap();
        assert_eq!(name, "kube-dns-n1");
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.42.3.1"]));
        assert_eq!(slice["endpoints"][0]["hints"]["forNodes"][0]["name"], "n1");
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
        let [(_, slice)] = endpoint_slices(&node("Unknown"), 10053).try_into().unwrap();
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], false);
        assert!(endpoint_slices(&Node::default(), 10053).is_empty());
    }

    #[test]
    fn what_others_added_is_no_difference_but_what_they_changed_is() {
        let wanted = json!({"kind": "x", "spec": {"ports": [{"port": 53}]}});
        assert!(contains(&json!({"spec": {"ports": [{"port": 53, "targetPort": 53}], "type": "ClusterIP"}}), &wanted));
        assert!(!contains(&json!({"spec": {"ports": [{"port": 54}]}}), &wanted));
        assert!(!contains(&json!({"spec": {"ports": [{"port": 53}, {"port": 54}]}}), &wanted));
        assert!(!contains(&json!({}), &wanted));
    }
}
