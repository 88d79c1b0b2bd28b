//! Exec and attach over SPDY: one stream for each of stdin, stdout, stderr, error and resize.
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::session::{Output, Remote, Size, Wanted};
use super::spdy::{Outgoing, Stream};

/// The protocols, best first.
pub(crate) const PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);

/// Waits for the client's streams and makes a client of exec or attach of them; `None` if they do not come.
pub(crate) async fn remote(mut streams: mpsc::Receiver<Stream>, protocol: &str, wanted: Wanted) -> Option<Remote> {
    let resizes = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let expected = [true, wanted.stdin, wanted.stdout, wanted.stderr, resizes].into_iter().filter(|yes| *yes).count();
    let (mut stdin, mut resize) = (None, None);
    let (mut stdout, mut stderr, mut error) = (None, None, None);
    for _ in 0..expected {
        let stream = tokio::time::timeout(OPENING, streams.recv()).await.ok()??;
        match stream.headers.get("streamtype").map(String::as_str) {
            Some("stdin") => stdin = Some(stream),
            Some("stdout") => stdout = Some(stream.outgoing),
            Some("stderr") => stderr = Some(stream.outgoing),
            Some("error") => error = Some(stream.outgoing),
            Some("resize") => resize = Some(stream),
            _ => return None,
        }
    }
    let error = error?;
    let (size_sender, sizes) = mpsc::channel(4);
    if let Some(mut resize) = resize {
        tokio::spawn(async move {
            // Sizes are JSON values one after the other.
            let mut text = Vec::new();
            while let Some(data) = resize.incoming.recv().await {
                text.extend_from_slice(&data);
                let mut values = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
                let mut sizes = Vec::new();
                while let Some(Ok(size)) = values.next() {
                    sizes.push(size);
                }
                let read = values.byte_offset();
                text.drain(..read);
                for size in sizes {
                    if size_sender.send(size).await.is_err() {
                        return;
                    }
                }
                if text.len() > 4096 {
                    return;
                }
            }
        });
    }
    let (output, outputs) = mpsc::channel(16);
    let json = protocol == "v4.channel.k8s.io";
    tokio::spawn(async move {
        let writing = write(outputs, stdout, stderr, error, json);
        tokio::pin!(writing);
        tokio::select! {
            // The client may have gone: what it was sent is lost with it.
            result = &mut writing => { result.ok(); }
            // The connection ended; dropping the receiver tells the session.
            () = ended(streams) => {}
        }
    });
    Some(Remote { stdin: stdin.map(|stream| stream.incoming), resize: sizes, output })
}

async fn ended(mut streams: mpsc::Receiver<Stream>) {
    while streams.recv().await.is_some() {}
}

async fn write(
    mut outputs: mpsc::Receiver<Output>,
    stdout: Option<Outgoing>,
    stderr: Option<Outgoing>,
    error: Outgoing,
    json: bool,
) -> std::io::Result<()> {
    while let Some(output) = outputs.recv().await {
        match output {
            Output::Stdout(data) => {
                if let Some(stdout) = &stdout {
                    stdout.data(&data).await?;
                }
            }
            Output::Stderr(data) => {
                if let Some(stderr) = &stderr {
                    stderr.data(&data).await?;
                }
            }
            Output::Status(status) => {
                error.data(&text(&status, json)).await?;
                break;
            }
        }
    }
    for stream in [stdout, stderr, Some(error)].into_iter().flatten() {
        stream.finish().await?;
    }
    Ok(())
}

/// Before v4 a failure was its message, and success nothing.
fn text(status: &Bytes, json: bool) -> Bytes {
    if json {
        return status.clone();
    }
    let status: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
    let message = status["message"].as_str().filter(|_| status["status"] != "Success");
    Bytes::from(message.unwrap_or_default().to_owned())
}
