//! Kubernetes' channels over WebSocket, and byte streams tunnelled in it.
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::portforward;
use super::session::{Output, Remote, Size, Wanted};
use crate::runtime::Inner;

/// The connection.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: `[255, channel]` ends a channel.
const CLOSE: u8 = 255;

/// How long a client may take to answer the end of the session.
const GOODBYE: Duration = Duration::from_secs(5);

/// The protocols for exec and attach, best first. The unnamed one is the oldest.
pub(crate) const EXEC_PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// The protocols for port-forward, best first.
pub(crate) const PORT_FORWARD_PROTOCOLS: [&str; 3] =
    ["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// Takes over a connection after the handshake.
pub(crate) async fn server(upgraded: Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await
}

fn is_base64(protocol: &str) -> bool {
    protocol.contains("base64")
}

/// A message with a channel's number in front.
fn encode(protocol: &str, channel: u8, data: &[u8]) -> Message {
    if is_base64(protocol) {
        // The number is a digit there.
        return Message::text(format!("{channel}{}", STANDARD.encode(data)));
    }
    let mut message = Vec::with_capacity(1 + data.len());
    message.push(channel);
    message.extend_from_slice(data);
    Message::binary(message)
}

/// A message's channel and data; `None` for one that carries nothing.
fn decode(protocol: &str, message: Message) -> Option<(u8, Bytes)> {
    let mut data = match message {
        Message::Binary(data) => data,
        Message::Text(text) => Bytes::from(text),
        _ => return None,
    };
    if data.is_empty() {
        return None;
    }
    let channel = data.split_to(1)[0];
    if is_base64(protocol) {
        return Some((channel.wrapping_sub(b'0'), STANDARD.decode(&data).ok()?.into()));
    }
    Some((channel, data))
}

/// Turns the connection into a client of exec or attach.
pub(crate) async fn remote(socket: Socket, protocol: &'static str, wanted: Wanted) -> Remote {
    let (mut sink, mut source) = socket.split();
    let (stdin_sender, stdin) = mpsc::channel::<Bytes>(16);
    let (resize_sender, resize) = mpsc::channel(4);
    let (output, mut outputs) = mpsc::channel::<Output>(16);
    tokio::spawn(async move {
        // An empty message on the first channel tells the client that it is connected.
        let first = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        let mut result = sink.send(encode(protocol, first, &[])).await;
        while result.is_ok() {
            result = match outputs.recv().await {
                Some(Output::Stdout(data)) if wanted.stdout => sink.send(encode(protocol, STDOUT, &data)).await,
                Some(Output::Stderr(data)) if wanted.stderr => sink.send(encode(protocol, STDERR, &data)).await,
                Some(Output::Stdout(_) | Output::Stderr(_)) => Ok(()),
                Some(Output::Status(status)) => {
                    let message = encode(protocol, ERROR, &old_status(protocol, &status));
                    match sink.send(message).await {
                        Ok(()) => break,
                        error => error,
                    }
                }
                None => break,
            };
        }
        end(match result {
            Ok(()) => sink.send(goodbye()).await,
            error => error,
        });
    });
    let closed = output.clone();
    tokio::spawn(async move {
        let mut stdin = Some(stdin_sender);
        loop {
            let message = tokio::select! {
                message = source.next() => message,
                // The session is over. Going before the client has read everything could take it away again.
                () = closed.closed() => {
                    let rest = async { while let Some(Ok(_)) = source.next().await {} };
                    tokio::time::timeout(GOODBYE, rest).await.ok();
                    break;
                }
            };
            let Some(Ok(message)) = message else { break };
            match decode(protocol, message) {
                Some((STDIN, data)) => {
                    if let Some(sender) = &stdin
                        && sender.send(data).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Some((RESIZE, data)) => {
                    if let Ok(size) = serde_json::from_slice::<Size>(&data) {
                        // A session that ends takes no sizes.
                        resize_sender.send(size).await.ok();
                    }
                }
                Some((CLOSE, data)) if protocol.starts_with("v5") && data.first() == Some(&STDIN) => stdin = None,
                _ => {}
            }
        }
    });
    Remote { stdin: wanted.stdin.then_some(stdin), resize, output }
}

/// Before v4 a failure was its message, and success nothing.
fn old_status(protocol: &str, status: &Bytes) -> Bytes {
    if protocol.starts_with("v4") || protocol.starts_with("v5") {
        return status.clone();
    }
    let status: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Bytes::new();
    }
    Bytes::from(status["message"].as_str().unwrap_or_default().to_owned())
}

fn end(result: Result<(), Error>) {
    if let Err(error) = result
        && !matches!(error, Error::ConnectionClosed | Error::AlreadyClosed)
    {
        tracing::debug!(%error, "a WebSocket client went away");
    }
}

/// The orderly end: clients take a close without a code for a broken connection.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// The bytes that are tunnelled in the connection's binary messages.
pub(crate) fn tunnel(socket: Socket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut sink, mut source) = socket.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(32 << 10);
            match read.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => {
                    if let Err(error) = sink.send(Message::binary(buffer.freeze())).await {
                        return end(Err(error));
                    }
                }
                Ok(_) | Err(_) => return end(sink.send(goodbye()).await),
            }
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            if let Message::Binary(data) = message
                && write.write_all(&data).await.is_err()
            {
                return;
            }
        }
        // The other half may be gone already.
        write.shutdown().await.ok();
    });
    ours
}

/// The oldest port-forward: two channels for each port, data and errors, that both begin with the port's number.
pub(crate) async fn port_forward(
    inner: &Arc<Inner>,
    sandbox: &str,
    ports: &[u16],
    socket: Socket,
    protocol: &'static str,
) {
    let (mut sink, mut source) = socket.split();
    let (messages, mut outgoing) = mpsc::channel::<(u8, Bytes)>(16);
    let mut inputs: Vec<mpsc::Sender<Bytes>> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let Ok(data) = u8::try_from(index * 2) else { break };
        let (sender, incoming) = mpsc::channel(16);
        inputs.push(sender);
        let (inner, sandbox, port, messages) = (inner.clone(), sandbox.to_owned(), *port, messages.clone());
        tokio::spawn(async move {
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            if messages.send((data, number.clone())).await.is_err() || messages.send((data + 1, number)).await.is_err()
            {
                return;
            }
            let to_client = messages.clone();
            let send = move |bytes: Bytes| {
                let to_client = to_client.clone();
                async move { to_client.send((data, bytes)).await.map_err(|_| std::io::ErrorKind::BrokenPipe.into()) }
            };
            if let Err(error) = portforward::forward(&inner, &sandbox, port, incoming, send).await {
                // The client may be gone.
                messages.send((data + 1, Bytes::from(error))).await.ok();
            }
        });
    }
    drop(messages);
    let writing = async {
        while let Some((channel, data)) = outgoing.recv().await {
            if let Err(error) = sink.send(encode(protocol, channel, &data)).await {
                return end(Err(error));
            }
        }
        end(sink.send(goodbye()).await);
    };
    let reading = async {
        while let Some(Ok(message)) = source.next().await {
            if let Some((channel, data)) = decode(protocol, message)
                && channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel / 2))
            {
                // A port whose connection has ended takes no more.
                input.send(data).await.ok();
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_numbers_or_digits() {
        assert_eq!(encode("v4.channel.k8s.io", 1, b"x"), Message::binary(vec![1, b'x']));
        assert_eq!(encode("v4.base64.channel.k8s.io", 1, b"x"), Message::text("1eA=="));
        let (channel, data) = decode("base64.channel.k8s.io", Message::text("0eA==")).unwrap();
        assert_eq!((channel, data.as_ref()), (0, &b"x"[..]));
        assert!(decode("v5.channel.k8s.io", Message::binary(Vec::new())).is_none());
    }

    #[test]
    fn old_protocols_get_text() {
        let failure = Bytes::from_static(br#"{"status":"Failure","message":"m"}"#);
        assert_eq!(old_status("channel.k8s.io", &failure), "m");
        assert_eq!(old_status("channel.k8s.io", &Bytes::from_static(br#"{"status":"Success"}"#)), "");
        assert_eq!(old_status("v4.channel.k8s.io", &failure), failure);
    }
}
