//! Cluster DNS, served from memory: [`run`] answers the cluster's names as "Kubernetes DNS-Based Service Discovery"
//! 1.1 describes them and forwards other names to the host's resolvers, on each node; [`publish`] makes all of them the
//! Service `kube-system/kube-dns`.
//!
//! `index` follows the API, `zone` answers from it (pure), `forward` asks others, `server` speaks UDP and TCP.
mod forward;
mod index;
pub mod publish;
mod resolv_conf;
mod server;
mod zone;

use hickory_proto::rr::Name;
use pintle_client::Informers;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Settings of one node's DNS server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen on this node, UDP and TCP; at most one address of each family. Pods reach it through the
    /// Service, so the port is free to choose (the same for all).
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, usually `cluster.local`.
    pub cluster_domain: String,
    /// The addresses of the Service `kube-system/kube-dns`.
    pub cluster_ips: Vec<IpAddr>,
    /// The host's resolver configuration, usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// Why DNS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's domain is no domain name.
    #[error("cluster domain {domain:?} is not a domain name: {error}")]
    Domain {
        /// What was configured.
        domain: String,
        /// What is wrong with it.
        error: hickory_proto::ProtoError,
    },
    /// An address cannot be listened on.
    #[error("cannot serve DNS on {address}: {error}; choose another address or port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Serves until `stop`.
pub async fn run(config: Config, informers: Informers, stop: CancellationToken) -> Result<(), Error> {
    let domain = Name::from_ascii(config.cluster_domain.trim_end_matches('.')).map(|name| {
        // Answers carry absolute names.
        let mut name = name.to_lowercase();
        name.set_fqdn(true);
        name
    });
    let domain = domain.map_err(|error| Error::Domain { domain: config.cluster_domain.clone(), error })?;
    let mut listeners = Vec::new();
    for address in &config.listen {
        let bound = server::Listener::bind(*address).await;
        listeners.push(bound.map_err(|error| Error::Listen { address: *address, error })?);
    }
    let serve = async {
        let index = index::Index::follow(&informers).await;
        let own = config.cluster_ips.iter().map(|ip| SocketAddr::new(*ip, 53)).chain(config.listen.iter().copied());
        let forwarder = forward::Forwarder::new(config.resolv_conf.clone(), own.collect());
        let server = Arc::new(server::Server::new(zone::Zone::new(domain), index, forwarder));
        for listener in listeners {
            listener.spawn(server.clone(), stop.clone());
        }
        stop.cancelled().await;
    };
    tokio::select! {
        () = serve => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}
