//! Forwarding connections to ports on a sandbox's loopback.
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::spdy::{Outgoing, Stream};
use crate::runtime::Inner;
use crate::shim::protocol::Request;

/// Connects inside the sandbox, to IPv4 or else IPv6.
async fn connect(inner: &Inner, sandbox: &str, port: u16) -> Result<TcpStream, String> {
    let sandbox = inner.sandbox(sandbox).map_err(|error| error.message().to_owned())?;
    let mut failure = String::new();
    for ipv6 in [false, true] {
        match connect_once(&sandbox.shim, port, ipv6).await {
            Ok(stream) => return Ok(stream),
            // The first one is what people expect to read about.
            Err(error) if failure.is_empty() => failure = error,
            Err(_) => {}
        }
    }
    Err(format!("failed to connect to localhost:{port} inside the pod: {failure}"))
}

async fn connect_once(shim: &crate::shim_client::ShimClient, port: u16, ipv6: bool) -> Result<TcpStream, String> {
    let (_, fds) = shim.call(&Request::Connect { port, ipv6 }, &[]).await.map_err(|error| error.to_string())?;
    let fd = fds.into_iter().next().ok_or("the shim gave no socket")?;
    let stream = TcpStream::from_std(std::net::TcpStream::from(fd)).map_err(|error| error.to_string())?;
    // It may still be connecting.
    stream.writable().await.map_err(|error| error.to_string())?;
    match stream.take_error() {
        Ok(None) => Ok(stream),
        Ok(Some(error)) | Err(error) => Err(error.to_string()),
    }
}

/// Copies between the client and a port of the pod until both directions have ended.
pub(crate) async fn forward<F, R>(
    inner: &Inner,
    sandbox: &str,
    port: u16,
    mut incoming: mpsc::Receiver<Bytes>,
    send: F,
) -> Result<(), String>
where
    F: Fn(Bytes) -> R + Send,
    R: Future<Output = io::Result<()>> + Send,
{
    let describe =
        |error: &dyn std::fmt::Display| format!("error forwarding port {port} to pod {sandbox}, uid : {error}");
    let stream = connect(inner, sandbox, port).await.map_err(|error| describe(&error))?;
    let (mut read, mut write) = stream.into_split();
    let up = async {
        while let Some(data) = incoming.recv().await {
            write.write_all(&data).await?;
        }
        write.shutdown().await
    };
    let down = async {
        loop {
            let mut buffer = BytesMut::with_capacity(32 << 10);
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            send(buffer.freeze()).await?;
        }
    };
    tokio::pin!(up, down);
    // When the pod has closed, nothing more can come; when the client has closed, the pod may still answer.
    tokio::select! {
        result = &mut down => result,
        result = &mut up => match result {
            Ok(()) => down.await,
            error => error,
        },
    }
    .map_err(|error: io::Error| describe(&error))
}

/// Serves the streams of a SPDY connection: for each forwarded connection one for errors and one for data.
pub(crate) async fn serve(inner: &Arc<Inner>, sandbox: &str, mut streams: mpsc::Receiver<Stream>) {
    let mut waiting: HashMap<String, Outgoing> = HashMap::new();
    while let Some(stream) = streams.recv().await {
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let request = header("requestid");
        match (header("streamtype").as_str(), header("port").parse::<u16>()) {
            ("error", _) => {
                waiting.insert(request, stream.outgoing);
            }
            ("data", Ok(port)) if port > 0 => {
                let errors = waiting.remove(&request);
                let (inner, sandbox) = (inner.clone(), sandbox.to_owned());
                tokio::spawn(async move {
                    let data = stream.outgoing.clone();
                    let send = move |bytes: Bytes| {
                        let data = data.clone();
                        async move { data.data(&bytes).await }
                    };
                    let result = forward(&inner, &sandbox, port, stream.incoming, send).await;
                    finish(&stream.outgoing, errors, result).await
                });
            }
            // Upstream resets what it does not understand.
            _ => {
                stream.outgoing.finish().await.ok();
            }
        }
    }
}

/// Tells how it ended and closes both streams.
async fn finish(data: &Outgoing, errors: Option<Outgoing>, result: Result<(), String>) -> io::Result<()> {
    if let Some(errors) = errors {
        if let Err(error) = result {
            errors.data(error.as_bytes()).await?;
        }
        errors.finish().await?;
    }
    data.finish().await
}
