//! The network edge: accepts TCP, speaks TLS and HTTP/1.1 or HTTP/2, and hands requests to the [`ApiServer`].
use crate::ApiServer;
use crate::body::BoxError;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
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

/// A connection's other end, attached to each request as an extension.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address that connected.
    pub address: SocketAddr,
    /// The verified client certificate chain, leaf first; empty if none was presented.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Serves `server` on `listener` until `stop`; then finishes what is under way, for a few seconds at most.
pub async fn serve(server: ApiServer, listener: TcpListener, tls: Arc<ServerConfig>, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let graceful = GracefulShutdown::new();
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
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
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
