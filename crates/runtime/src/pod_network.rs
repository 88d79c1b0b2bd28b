//! What the runtime asks of the pod network: the CNI ADD, DEL and CHECK of a sandbox, in process.
use std::net::IpAddr;
use std::path::Path;

/// A sandbox that is to be attached: the CNI runtime arguments.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// The sandbox's id: CNI's container id.
    pub sandbox_id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// Ports of the node that lead into the pod (`hostPort`).
    pub port_mappings: Vec<PortMapping>,
    /// The pod's annotations (bandwidth limits).
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// One `hostPort` of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port on the node.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// The node's address to listen on; all of them if `None`.
    pub host_ip: Option<IpAddr>,
}

/// Wires sandboxes to the pod network. Each call is idempotent.
#[async_trait::async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the network namespace at `netns` its interface, addresses and routes; returns the pod's addresses,
    /// the primary one first. `lo` is up afterwards.
    async fn setup(&self, netns: &Path, attachment: &Attachment) -> Result<Vec<IpAddr>, String>;
    /// Takes everything back that `setup` made; succeeds if there is nothing (or the namespace is gone).
    async fn teardown(&self, netns: &Path, attachment: &Attachment) -> Result<(), String>;
    /// Whether pods can be attached now; the error is the node's `NetworkReady` message.
    async fn ready(&self) -> Result<(), String>;
}
