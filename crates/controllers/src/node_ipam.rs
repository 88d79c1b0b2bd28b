//! Node IPAM: every node gets a pod network of its own from the cluster's. The decision is [`assign`].
use crate::Context;
use crate::claim::name;
use crate::error::{Error, unless_not_found};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use pintle_client::informer::Change;
use pintle_client::recorder::EventType::Normal;
use pintle_client::{Recorder, WorkQueue};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The node's pod networks.
fn networks(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.clone().unwrap_or_default();
    let listed = spec.pod_cidrs.unwrap_or_default();
    let texts = if listed.is_empty() { spec.pod_cidr.into_iter().collect() } else { listed };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The first network of `prefix` length in `cluster` that none of `used` overlaps.
fn free(cluster: &IpNet, prefix: u8, used: &[IpNet]) -> Option<IpNet> {
    let overlaps = |network: &IpNet| used.iter().any(|taken| taken.contains(network) || network.contains(taken));
    cluster.subnets(prefix).ok()?.find(|network| !overlaps(network))
}

/// One network of each family for a node, or `None` if a range is full.
fn assign(clusters: &[IpNet], masks: (u8, u8), used: &[IpNet]) -> Option<Vec<IpNet>> {
    clusters
        .iter()
        .map(|cluster| free(cluster, if cluster.addr().is_ipv4() { masks.0 } else { masks.1 }, used))
        .collect()
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    if cx.config.cluster_cidrs.is_empty() {
        return;
    }
    let client = cx.clients.controller("node-controller");
    let recorder = Recorder::core(client.clone(), "cidrAllocator", "");
    let nodes = cx.informers.of::<Node>();
    let queue = WorkQueue::<String>::new();
    // What was given out, also while the local copy does not show it yet.
    let given: Arc<Mutex<HashMap<String, Vec<IpNet>>>> = Arc::default();
    let (added, book) = (queue.clone(), given.clone());
    nodes.on_change(move |change| {
        let node = change.object();
        let (named, networks) = (name(node.as_ref()).to_owned(), networks(node));
        match change {
            Change::Deleted(_) => {
                book.lock().remove(&named);
            }
            _ if networks.is_empty() => added.add(named),
            _ => {
                book.lock().insert(named, networks);
            }
        }
    });
    nodes.synced().await;
    let config = cx.config.clone();
    queue
        .run("node-ipam", 1, cx.stop, move |named| {
            let (client, recorder, nodes, given, config) =
                (client.clone(), recorder.clone(), nodes.clone(), given.clone(), config.clone());
            async move {
                let Some(node) = nodes.get("", &named).filter(|node| networks(node).is_empty()) else {
                    return Ok::<_, Error>(None::<Duration>);
                };
                let chosen = {
                    let mut book = given.lock();
                    let used: Vec<IpNet> = book.values().flatten().copied().collect();
                    let masks = (config.node_mask_v4, config.node_mask_v6);
                    let chosen = book.get(&named).cloned().or_else(|| assign(&config.cluster_cidrs, masks, &used));
                    if let Some(chosen) = &chosen {
                        book.insert(named.clone(), chosen.clone());
                    }
                    chosen
                };
                let Some(chosen) = chosen else {
                    let text = format!("Node {named} status is now: CIDRNotAvailable");
                    recorder.event(node.as_ref(), Normal, "CIDRNotAvailable", text);
                    return Err(Error::Unfinished(format!("no pod network is left for node {named}")));
                };
                let texts: Vec<String> = chosen.iter().map(ToString::to_string).collect();
                let patch = Patch::Strategic(json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}}));
                let api: Api<Node> = Api::all(client);
                unless_not_found(api.patch(&named, &PatchParams::default(), &patch).await)?;
                Ok(None)
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn each_node_gets_the_first_free_network_of_each_family() {
        let clusters = [net("10.244.0.0/16"), net("fd00::/56")];
        let first = assign(&clusters, (24, 64), &[]).unwrap();
        assert_eq!(first, [net("10.244.0.0/24"), net("fd00::/64")]);
        let second = assign(&clusters, (24, 64), &first).unwrap();
        assert_eq!(second, [net("10.244.1.0/24"), net("fd00:0:0:1::/64")]);
    }

    #[test]
    fn a_full_range_gives_nothing() {
        let cluster = [net("10.0.0.0/24")];
        assert_eq!(assign(&cluster, (25, 64), &[net("10.0.0.0/25"), net("10.0.0.128/25")]), None);
    }
}
