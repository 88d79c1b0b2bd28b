//! Connections of clients: plain ones, those whose TLS ends here, and those that are passed on as they are.
use crate::proxy::{Origin, Proxy};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// More connections than this wait until others end, for each listener.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a client may take for its part of the TLS handshake, and for the head of a request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a client of HTTP/2 is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A ClientHello is no longer than this.
const MAX_HELLO: usize = 64 << 10;
/// Pause after the system had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers the clients of `listener` until `stop`; then lets requests under way end.
pub(crate) async fn serve(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) {
    let Ok(local) = listener.local_addr() else { return };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async { (places.clone().acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! { next = next => next, () = stop.cancelled() => return };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the ingress cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let origin = Origin { client, tls: tls.is_some(), port: local.port() };
        let (proxy, tls, stop) = (proxy.clone(), tls.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, origin, proxy, tls, stop).await {
                tracing::debug!(%client, %error, "a client went away");
            }
            drop(place);
        });
    }
}

async fn connection(
    stream: TcpStream,
    origin: Origin,
    proxy: Arc<Proxy>,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return http(stream, origin, proxy, stop).await };
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let (stream, host) = tokio::time::timeout(CLIENT_TIMEOUT, greeted(stream)).await.map_err(late)??;
    if let Some(addresses) = host.and_then(|host| proxy.passthrough(&host)) {
        return pass(stream, &addresses).await;
    }
    let accepting = TlsAcceptor::from(tls).accept(stream);
    let stream = tokio::time::timeout(CLIENT_TIMEOUT, accepting).await.map_err(late)??;
    http(stream, origin, proxy, stop).await
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    origin: Origin,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(CLIENT_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
    let service = service_fn(move |request| {
        let proxy = proxy.clone();
        async move { Ok::<_, Infallible>(proxy.answer(request, origin).await) }
    });
    let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

/// Joins a client with the first address that takes it.
async fn pass(mut client: Greeted, addresses: &[SocketAddr]) -> io::Result<()> {
    let mut failed = io::Error::new(io::ErrorKind::NotConnected, "no backend is ready");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(mut backend) => {
                tokio::io::copy_bidirectional(&mut client, &mut backend).await?;
                return Ok(());
            }
            Err(error) => failed = error,
        }
    }
    client.shutdown().await?;
    Err(failed)
}

/// Reads until the client has said which host it wants; nothing of it is lost.
async fn greeted(mut stream: TcpStream) -> io::Result<(Greeted, Option<String>)> {
    let (mut acceptor, mut said, mut chunk) = (Acceptor::default(), Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 || said.len() > MAX_HELLO {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        said.extend_from_slice(&chunk[..count]);
        acceptor.read_tls(&mut &chunk[..count])?;
        let host = match acceptor.accept() {
            Ok(None) => continue,
            Ok(Some(accepted)) => accepted.client_hello().server_name().map(str::to_owned),
            // The handshake proper tells the client what is wrong.
            Err(_) => None,
        };
        return Ok((Greeted { said, read: 0, stream }, host));
    }
}

/// A stream from whose beginning something was read already.
struct Greeted {
    said: Vec<u8>,
    read: usize,
    stream: TcpStream,
}

impl AsyncRead for Greeted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read == self.said.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = buffer.remaining().min(self.said.len() - self.read);
        buffer.put_slice(&self.said[self.read..self.read + count]);
        self.read += count;
        if self.read == self.said.len() {
            (self.said, self.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
