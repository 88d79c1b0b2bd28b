//! `grpc.health.v1.Health/Check` over plain HTTP/2.
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::time::Duration;
use tokio::net::TcpStream;

const SERVING: i32 = 1;
const UNIMPLEMENTED: &str = "12";

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks whether `service` is serving; the error is the probe's output.
pub async fn check(host: &str, port: u16, service: &str, agent: &str, timeout: Duration) -> Result<(), String> {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let connect = tokio::time::timeout(timeout, TcpStream::connect((host, port))).await;
    let Ok(Ok(stream)) = connect else {
        let seconds = timeout.as_secs();
        return Err(format!(
            "timeout: failed to connect service {address:?} within {seconds}s: context deadline exceeded"
        ));
    };
    match tokio::time::timeout(timeout, ask(stream, &address, service, agent)).await {
        Ok(result) => result,
        Err(_) => Err(format!("timeout: health rpc did not complete within {}s", timeout.as_secs())),
    }
}

async fn ask(stream: TcpStream, address: &str, service: &str, agent: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc probe failed: {error}");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let message = CheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", agent)
        .body(Full::new(frame.freeze()))
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, 64 * 1024).collect().await.map_err(|error| failed(&error))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let data = body.to_bytes();
    connection.abort();
    let of = |map: &HeaderMap, name: &str| map.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    let code = of(&trailers, "grpc-status").or_else(|| of(&head.headers, "grpc-status")).unwrap_or_else(|| "2".into());
    let text = of(&trailers, "grpc-message").or_else(|| of(&head.headers, "grpc-message")).unwrap_or_default();
    if code == UNIMPLEMENTED {
        return Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {text}"
        ));
    }
    if code != "0" {
        return Err(failed(&format!("rpc error: code = {code} desc = {text}")));
    }
    match parse(&data) {
        Some(SERVING) => Ok(()),
        status => {
            let name = match status {
                Some(2) => "NOT_SERVING",
                Some(3) => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with {name:?})"))
        }
    }
}

fn parse(data: &Bytes) -> Option<i32> {
    CheckResponse::decode(data.get(5..)?).ok().map(|response| response.status)
}
