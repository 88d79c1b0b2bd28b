//! Exec, attach and port-forward over the streaming server.
use futures::{SinkExt, StreamExt};
use pintle_runtime::cri::{self, RuntimeService};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::{Node, container, eventually, own};

type Client = WebSocketStream<TcpStream>;

async fn connect(url: &str, protocol: &'static str) -> Client {
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (client, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    client
}

/// All that comes on each channel, until the server closes.
async fn collect(client: &mut Client) -> [Vec<u8>; 4] {
    let mut channels = [const { Vec::new() }; 4];
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
    }
    channels
}

fn message(channel: u8, data: &[u8]) -> Message {
    Message::binary([&[channel], data].concat())
}

async fn exec(node: &Node, id: &str, script: &str, tty: bool) -> Client {
    let request = cri::ExecRequest {
        container_id: id.to_owned(),
        cmd: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    let url = node.runtime.exec(request).await.unwrap().url;
    connect(&url, "v5.channel.k8s.io").await
}

pub async fn exec_carries_streams_and_exit_code(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "sleep 1000").await;
    let mut client = exec(&node, &id, "cat; echo err >&2; exit 4", false).await;
    client.send(message(0, b"hello")).await.unwrap();
    client.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, stdout, stderr, status] = collect(&mut client).await;
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"hello"[..], &b"err\n"[..]));
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "4");

    // More than any buffer on the way holds.
    let mut client = exec(&node, &id, "dd if=/dev/zero bs=1M count=8 2>/dev/null", false).await;
    let [_, stdout, _, status] = collect(&mut client).await;
    assert_eq!(stdout.len(), 8 << 20);
    assert!(String::from_utf8(status).unwrap().contains("Success"));

    let mut client = exec(&node, &id, "true", false).await;
    let [.., status] = collect(&mut client).await;
    assert!(String::from_utf8(status).unwrap().contains("Success"));
}

pub async fn exec_with_a_terminal_has_its_size(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "sleep 1000").await;
    let mut client = exec(&node, &id, "read line; stty size; echo $line; test -t 0", true).await;
    client.send(message(4, br#"{"Width":123,"Height":45}"#)).await.unwrap();
    client.send(message(0, b"typed\n")).await.unwrap();
    let [_, stdout, _, status] = collect(&mut client).await;
    let text = String::from_utf8(stdout).unwrap();
    assert!(text.contains("45 123") && text.contains("typed"), "{text}");
    assert!(String::from_utf8(status).unwrap().contains("Success"));
}

pub async fn attach_joins_a_running_container(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "while read line; do echo got $line; done; echo end");
    config.stdin = true;
    config.stdin_once = true;
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    let request = cri::AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let url = node.runtime.attach(request).await.unwrap().url;
    let mut client = connect(&url, "v5.channel.k8s.io").await;
    client.send(message(0, b"one\n")).await.unwrap();
    client.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, stdout, ..] = collect(&mut client).await;
    assert_eq!(String::from_utf8(stdout).unwrap(), "got one\nend\n");
    assert_eq!(node.ended(&id).await.exit_code, 0);
    assert!(node.log("app.log").contains("got one"));
}

pub async fn a_container_with_a_terminal_can_be_attached(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "echo ready; read line; stty size; echo got $line");
    (config.stdin, config.tty) = (true, true);
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    eventually(async || Some(()).filter(|()| node.log("app.log").contains("ready"))).await;
    let request = cri::AttachRequest { container_id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
    let url = node.runtime.attach(request).await.unwrap().url;
    let mut client = connect(&url, "v4.channel.k8s.io").await;
    client.send(message(4, br#"{"Width":99,"Height":44}"#)).await.unwrap();
    client.send(message(0, b"two\n")).await.unwrap();
    let [_, stdout, ..] = collect(&mut client).await;
    let text = String::from_utf8(stdout).unwrap();
    assert!(text.contains("44 99") && text.contains("got two"), "{text}");
    assert_eq!(node.ended(&id).await.exit_code, 0);
}

pub async fn ports_of_the_pod_are_forwarded(node: Node) {
    let sandbox = node.sandbox(own()).await;
    node.run(&sandbox, "app", "while :; do echo served | nc -l -p 8080 127.0.0.1; done").await;
    let forwarded = eventually(async || {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.0.clone(), port: vec![8080, 9] };
        let url = node.runtime.port_forward(request).await.unwrap().url;
        let mut client = connect(&url, "v4.channel.k8s.io").await;
        let channels = collect(&mut client).await;
        (channels[0].len() > 2).then_some(channels)
    });
    let [data, _, other, error] = forwarded.await;
    assert_eq!(data, b"\x90\x1fserved\n");
    assert_eq!(other, [9, 0]);
    let error = String::from_utf8_lossy(&error).into_owned();
    assert!(error.contains("Connection refused"), "{error}");
}
