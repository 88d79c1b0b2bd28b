//! The ingress: [`run`] answers HTTP and HTTPS at the node's ports as the cluster's Ingresses (networking.k8s.io/v1) say.
//!
//! `table` compiles what all Ingresses say (pure), `backends` follows what stands behind their Services, `certificates` their
//! Secrets; `listener` takes connections, `proxy` answers requests from that and `forward` asks the backends. `controller`
//! follows the API and keeps all of it current, without a connection that is dropped.
mod backends;
mod certificates;
mod controller;
mod forward;
mod listener;
mod options;
mod proxy;
mod table;
#[cfg(test)]
mod tests;

use certificates::Certificates;
use pintle_client::{Clients, Informers};
use proxy::Proxy;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::version::{TLS12, TLS13};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Settings of the ingress.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub bind: IpAddr,
    /// The port of plain HTTP.
    pub http_port: u16,
    /// The port of HTTPS.
    pub https_port: u16,
    /// What Ingresses say of where they are reached (`status.loadBalancer`).
    pub addresses: Vec<IpAddr>,
    /// The certificate of hosts that have none of their own.
    pub certificate: Arc<dyn ResolvesServerCert>,
}

/// Why the ingress cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be listened on.
    #[error("the ingress cannot listen on {address}: {error}; choose another port with {flag}, or --ingress=false")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
        /// The flag that sets the port.
        flag: &'static str,
    },
    /// The TLS library refuses the settings.
    #[error("TLS of the ingress: {0}")]
    Tls(#[from] rustls::Error),
}

/// An ingress that has its ports.
#[derive(Debug)]
pub struct Ingress {
    config: Config,
    http: TcpListener,
    https: TcpListener,
    tls: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl Ingress {
    /// Takes the ports.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let listen = async |port, flag| {
            let address = SocketAddr::new(config.bind, port);
            TcpListener::bind(address).await.map_err(|error| Error::Listen { address, error, flag })
        };
        let http = listen(config.http_port, "--ingress-http-port").await?;
        let https = listen(config.https_port, "--ingress-https-port").await?;
        let certificates = Arc::new(Certificates::new(config.certificate.clone()));
        let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Ingress { config, http, https, tls: Arc::new(tls), certificates })
    }

    /// Answers until `stop`.
    pub async fn run(self, clients: Clients, informers: Informers, stop: CancellationToken) {
        let proxy = Arc::new(Proxy::new(self.config.https_port));
        let following =
            controller::Controller::new(&self.config, &clients, &informers, &stop, proxy.clone(), self.certificates);
        let served = async {
            tokio::join!(
                listener::serve(self.http, proxy.clone(), None, stop.clone()),
                listener::serve(self.https, proxy.clone(), Some(self.tls), stop.clone()),
                following.run(&stop),
            )
        };
        served.await;
    }
}
