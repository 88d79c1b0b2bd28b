//! The network edge: accepts TCP, speaks TLS and HTTP/1.1 or HTTP/2, and hands requests to the [`ApiServer`].
use crate::ApiServer;
use crate::body::BoxError;
use arc_swap::ArcSwap;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// upstream: genericapiserver, ReadHeaderTimeout.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
const DRAIN: Duration = Duration::from_secs(5);

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate authorities for client certificates cannot be used.
    #[error("the client certificate authorities cannot be used: {0}")]
    ClientVerifier(#[from] rustls::server::VerifierBuilderError),
    /// A certificate or protocol setting was refused.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A connection's other end, attached to each request as an extension.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address that connected.
    pub address: SocketAddr,
    /// The verified client certificate chain, leaf first; empty if none was presented.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// A serving certificate that can be replaced while connections are accepted.
#[derive(Debug)]
pub struct SwappableCertificate(ArcSwap<CertifiedKey>);

impl SwappableCertificate {
    /// Serves `key` until [`SwappableCertificate::replace`].
    pub fn new(key: CertifiedKey) -> Self {
        SwappableCertificate(ArcSwap::from_pointee(key))
    }

    /// New handshakes use `key`; established connections go on.
    pub fn replace(&self, key: CertifiedKey) {
        self.0.store(Arc::new(key));
    }
}

impl ResolvesServerCert for SwappableCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS that serves `certificate` and verifies client certificates, where given, against `client_authorities`.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    client_authorities: RootCertStore,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client_authorities), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves `server` on `listener` until `stop`; then finishes what is under way, for a few seconds at most.
pub async fn serve(server: ApiServer, listener: TcpListener, tls: Arc<ServerConfig>, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let graceful = Arc::new(GracefulShutdown::new());
    while let Some(accepted) = tokio::select! { a = listener.accept() => Some(a), () = stop.cancelled() => None } {
        match accepted {
            Ok((stream, address)) => {
                let connection = connection(server.clone(), acceptor.clone(), stream, address, graceful.watcher());
                tokio::spawn(connection);
            }
            Err(error) => {
                // Out of file descriptors, mostly: the next accept would fail at once, too.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful)
        && tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err()
    {
        tracing::debug!("connections were still open at the end of the drain");
    }
}

async fn connection(
    server: ApiServer,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    watcher: hyper_util::server::graceful::Watcher,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = Peer { address, certificates: certificates.iter().map(|c| c.clone().into_owned()).collect() };
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let server = server.clone();
        async move {
            let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
            Ok::<_, std::convert::Infallible>(server.handle(request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection.into_owned()).await {
        tracing::debug!(%address, error, "connection ended");
    }
}
