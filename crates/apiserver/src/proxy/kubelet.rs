//! Where a node's kubelet is, and how it is trusted. Start at [`Kubelets::of_node`].
use super::transport::Backend;
use crate::registry::Registry;
use crate::value::Read;
use pintle_api::status::ApiError;
use pintle_pki::{ClusterPki, Error};
use rustls::ClientConfig;
use serde_json::Value;
use std::sync::Arc;

/// The port of kubelets that do not say theirs.
const DEFAULT_PORT: u16 = 10250;
/// The kinds of addresses, best first.
const ADDRESS_TYPES: [&str; 5] = ["InternalIP", "Hostname", "InternalDNS", "ExternalIP", "ExternalDNS"];

/// Finds kubelets; clones share the TLS configuration.
#[derive(Clone, Debug)]
pub struct Kubelets {
    tls: Arc<ClientConfig>,
}

impl Kubelets {
    /// Kubelets whose certificates the authority of `pki` issued; the API server shows its kubelet client certificate.
    pub fn new(pki: &ClusterPki) -> Result<Self, Error> {
        Ok(Kubelets { tls: Arc::new(pki.client_tls(Some(pki.kubelet_client().clone()))?) })
    }

    /// The kubelet of the node `name`.
    pub async fn of_node(&self, name: &str, registry: &Registry) -> Result<Backend, ApiError> {
        let nodes = registry.resource("", "nodes")?;
        let node = registry.get(&nodes, "", name).await?;
        let host = address(&node).ok_or_else(|| {
            let types = ADDRESS_TYPES.join(" ");
            ApiError::internal(format_args!("no preferred addresses found; known addresses: [], wanted [{types}]"))
        })?;
        let port = node.field("status").field("daemonEndpoints").field("kubeletEndpoint").int("Port");
        let port = u16::try_from(port).ok().filter(|port| *port != 0).unwrap_or(DEFAULT_PORT);
        Ok(Backend { host: host.to_owned(), port, tls: Some(self.tls.clone()), name: None })
    }
}

fn address(node: &Value) -> Option<&str> {
    let addresses = node.field("status").items("addresses");
    ADDRESS_TYPES.iter().find_map(|wanted| {
        let found = addresses.iter().find(|address| address.text("type") == *wanted)?;
        Some(found.text("address")).filter(|text| !text.is_empty())
    })
}
