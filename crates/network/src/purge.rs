//! Removes every trace of a cluster's network from the host.
use crate::netlink::Netlink;
use crate::pod_network::Error;
use crate::{names, nft, peers};
use ipnet::IpNet;
use std::io;
use std::path::Path;

/// Removes the links (with their routes), routes to other nodes (whose pods are in `cluster_cidrs`), nft tables and files
/// that the cluster `cluster_id` left in the calling thread's network namespace and under `data_dir`. Fine if there is
/// nothing.
pub async fn purge(cluster_id: &str, cluster_cidrs: &[IpNet], data_dir: &Path) -> Result<(), Error> {
    let mut script = String::new();
    for table in [names::pods_table(cluster_id), names::services_table(cluster_id), names::policy_table(cluster_id)] {
        for family in ["ip", "ip6"] {
            // Adding first makes deleting succeed when there is none.
            script.push_str(&format!("add table {family} {table}\ndelete table {family} {table}\n"));
        }
    }
    nft::apply(&script).await?;
    let failed = |step: &str| {
        let step = step.to_owned();
        move |error| Error::Kernel { step, error }
    };
    let mut host = Netlink::open().map_err(failed("open a netlink socket"))?;
    peers::purge(&mut host, cluster_cidrs)?;
    for (name, index) in host.links().map_err(failed("list links"))? {
        if name.starts_with(&names::link_prefix(cluster_id)) {
            host.delete_link(index).map_err(failed(&format!("delete link {name}")))?;
        }
    }
    match std::fs::remove_dir_all(data_dir.join("addresses")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(&format!("remove {}", data_dir.display()))(error))
        }
        _ => Ok(()),
    }
}
