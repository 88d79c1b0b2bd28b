//! The node's network: [`PodNetwork`] wires pod sandboxes, [`run`] serves Services with nftables, [`purge`] removes
//! every trace of a cluster from the host.
//!
//! Pods are routed, not bridged: each sandbox has a veth pair and the host routes the pod's address to it, so every
//! packet passes the host's IP stack (and therefore the Service rules) whoever talks to whom.

mod bandwidth;
pub mod bridge;
pub mod config;
pub mod firewall;
mod host_ports;
mod ipam;
mod names;
mod netlink;
mod netns;
pub mod nft;
pub mod peers;
pub mod pod_network;
mod policy;
pub mod proxy;
mod purge;
mod sysctl;
mod table_watch;

pub use config::Config;
pub use pod_network::Network;
pub use proxy::run;
pub use purge::purge;
