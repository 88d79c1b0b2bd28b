//! A body sent over a WebSocket, message by message, to clients that open one where others read a response.
// upstream: apimachinery pkg/util/httpstream/wsstream, Reader
use crate::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pintle_api::status::ApiError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

/// How the bytes of the body become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// As they are; also without a name.
    Binary,
    /// As text.
    Base64,
}

const PROTOCOLS: [(&str, Protocol); 2] =
    [("binary.k8s.io", Protocol::Binary), ("base64.binary.k8s.io", Protocol::Base64)];

/// Whether the client asks for a WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// The first protocol the client offers that is known, with its name; the unnamed one when it offers none.
fn negotiate(headers: &HeaderMap) -> Result<(Option<&'static str>, Protocol), ApiError> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|list| list.split(',')).map(str::trim).collect();
    if offered.is_empty() {
        return Ok((None, Protocol::Binary));
    }
    let known = offered.iter().find_map(|name| PROTOCOLS.iter().find(|(known, _)| known == name));
    let (name, protocol) = known
        .ok_or_else(|| ApiError::bad_request(format!("none of the WebSocket protocols {offered:?} is supported")))?;
    Ok((Some(*name), *protocol))
}

/// Takes the client's connection over and sends `body` there.
pub fn answer(mut parts: Parts, body: Body) -> Result<Response<Body>, ApiError> {
    let (name, protocol) = negotiate(&parts.headers)?;
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| ApiError::bad_request("the WebSocket handshake has no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(ApiError::internal)?;
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| ApiError::bad_request("the connection cannot become a WebSocket"))?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => send(TokioIo::new(upgraded), protocol, body).await,
            Err(error) => tracing::debug!(%error, "a WebSocket client went away"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = name {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(response)
}

fn message(protocol: Protocol, data: Bytes) -> Message {
    match protocol {
        Protocol::Binary => Message::binary(data),
        Protocol::Base64 => Message::text(STANDARD.encode(data)),
    }
}

async fn send<S>(stream: S, protocol: Protocol, mut body: Body)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut source) = WebSocketStream::from_raw_socket(stream, Role::Server, None).await.split();
    // An empty message tells the client that it is connected.
    let mut sent = sink.send(message(protocol, Bytes::new())).await;
    while sent.is_ok() {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // What the client says is of no interest, only that it left.
            said = source.next() => match said {
                Some(Ok(said)) if !said.is_close() => continue,
                _ => return,
            },
        };
        sent = match frame.map(|frame| frame.map(hyper::body::Frame::into_data)) {
            Some(Ok(Ok(data))) => sink.send(message(protocol, data)).await,
            Some(Ok(Err(_))) => Ok(()),
            Some(Err(error)) => {
                tracing::debug!(%error, "a body ended early");
                break;
            }
            None => break,
        };
    }
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if let Err(error) = sink.send(Message::Close(Some(goodbye))).await {
        tracing::debug!(%error, "a WebSocket client went away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_known_protocol_is_taken() {
        let chosen = |offers: &[&'static str]| {
            let pairs = offers.iter().map(|offer| (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer)));
            negotiate(&pairs.collect()).ok()
        };
        assert_eq!(chosen(&[]), Some((None, Protocol::Binary)));
        let base64 = "base64.binary.k8s.io";
        assert_eq!(chosen(&["x, base64.binary.k8s.io", "binary.k8s.io"]), Some((Some(base64), Protocol::Base64)));
        assert_eq!(chosen(&["x"]), None);
    }

    #[tokio::test]
    async fn a_body_arrives_as_messages_and_ends_with_a_normal_close() {
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(send(ours, Protocol::Binary, Body::from(Bytes::from_static(b"log\n"))));
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let mut next = async || client.next().await.unwrap().unwrap();
        assert_eq!(next().await, Message::binary(Bytes::new()));
        assert_eq!(next().await, Message::binary(&b"log\n"[..]));
        assert!(matches!(next().await, Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
    }
}
