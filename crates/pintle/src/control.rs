//! The control socket of a running cluster: how `pintle image` reaches the node's image store.
//!
//! One request a connection, each way one line of JSON. The socket is root's alone.
use anyhow::{Context, Result, bail};
use pintle_runtime::Runtime;
use pintle_runtime::cri::{self, ImageService, ImageSpec, ListImagesRequest, RemoveImageRequest};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// The longest request line, in bytes.
const LINE: u64 = 64 << 10;

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Take the images of a tar file.
    LoadImages(PathBuf),
    /// List all images.
    ListImages,
    /// Remove an image by name or id.
    RemoveImage(String),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The names of the images that were loaded.
    Loaded(Vec<String>),
    /// All images.
    Images(Vec<Image>),
    /// It is done.
    Done,
    /// It failed.
    Error(String),
}

/// A line of `pintle image ls`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Image {
    /// Its names, or none.
    pub names: Vec<String>,
    /// The digest of its configuration.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The socket of a cluster.
pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Serves requests until `stop`.
pub async fn serve(path: PathBuf, runtime: Arc<Runtime>, stop: CancellationToken) -> Result<()> {
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("cannot replace the control socket");
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("the control socket failed")?;
                let runtime = runtime.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &runtime).await {
                        tracing::debug!(%error, "a control connection broke");
                    }
                });
            }
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn answer(mut stream: UnixStream, runtime: &Arc<Runtime>) -> Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(read).take(LINE).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => handle(request, runtime).await.unwrap_or_else(|error| Response::Error(format!("{error:#}"))),
        Err(error) => Response::Error(format!("not a request: {error}")),
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    Ok(())
}

async fn handle(request: Request, runtime: &Arc<Runtime>) -> Result<Response> {
    Ok(match request {
        Request::LoadImages(path) => Response::Loaded(load(runtime, path).await?),
        Request::ListImages => {
            let listed = runtime.list_images(ListImagesRequest { filter: None }).await.map_err(message)?;
            let image = |image: cri::Image| Image { names: image.repo_tags, id: image.id, size: image.size };
            Response::Images(listed.images.into_iter().map(image).collect())
        }
        Request::RemoveImage(name) => {
            let spec = ImageSpec { image: name, ..ImageSpec::default() };
            runtime.remove_image(RemoveImageRequest { image: Some(spec) }).await.map_err(message)?;
            Response::Done
        }
    })
}

/// Unpacks the tar's images beside everything else that goes on.
async fn load(runtime: &Arc<Runtime>, path: PathBuf) -> Result<Vec<String>> {
    let runtime = runtime.clone();
    let records =
        tokio::task::spawn_blocking(move || pintle_runtime::image::archive::load(runtime.images(), &path, &[]))
            .await??;
    Ok(records
        .iter()
        .flat_map(
            |record| {
                if record.tags.is_empty() { vec![record.id.clone()] } else { record.tags.iter().cloned().collect() }
            },
        )
        .collect())
}

fn message(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!(status.message().to_owned())
}

/// Asks the cluster whose run directory is `run_dir`.
pub fn ask(run_dir: &Path, request: &Request) -> Result<Response> {
    let path = path(run_dir);
    let stream = std::os::unix::net::UnixStream::connect(&path);
    let mut stream = stream.context("the cluster does not run here; start it with `pintle up`")?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line).context("the cluster hung up")? {
        Response::Error(error) => bail!(error),
        response => Ok(response),
    }
}
