//! Names on the host, all derived from the cluster's id so that clusters never meet.

/// What all links of the cluster start with.
pub fn link_prefix(cluster_id: &str) -> String {
    format!("pt{cluster_id}")
}

/// The host side of a pod's veth pair: 15 characters, unique on the node because the address offset is.
pub fn pod_link(cluster_id: &str, offset: u32) -> String {
    format!("pt{cluster_id}{offset:05x}")
}

/// The link that holds the node's gateway addresses and the route to the Service CIDRs.
pub fn gateway_link(cluster_id: &str) -> String {
    format!("pt{cluster_id}gw")
}

/// The VXLAN link to the other nodes.
pub fn overlay_link(cluster_id: &str) -> String {
    format!("pt{cluster_id}vx")
}

/// The bridge of the nodes on one machine.
pub fn bridge(cluster_id: &str) -> String {
    format!("pt{cluster_id}br")
}

/// The host's end of a node's link to the bridge.
pub fn node_link(cluster_id: &str, number: u8) -> String {
    format!("pt{cluster_id}n{number}")
}

/// Whether `link` is named as [`pod_link`] names them.
pub fn is_pod_link(cluster_id: &str, link: &str) -> bool {
    let offset = link.strip_prefix(&link_prefix(cluster_id)).unwrap_or_default();
    offset.len() == 5 && offset.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The nft table for pods: masquerade, host ports, guards.
pub fn pods_table(cluster_id: &str) -> String {
    format!("pintle-{cluster_id}")
}

/// The nft table for Services.
pub fn services_table(cluster_id: &str) -> String {
    format!("pintle-{cluster_id}-services")
}

/// The nft table for NetworkPolicies.
pub fn policy_table(cluster_id: &str) -> String {
    format!("pintle-{cluster_id}-policy")
}
