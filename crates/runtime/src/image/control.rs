//! The command line's way to the images of a running node: one JSON request on a Unix socket, one JSON answer.
//!
//! Without a running node the command line opens the store itself; its lock keeps the two apart.
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::archive;
use super::store::{ImageStore, Record};

/// The longest request.
const MAX_REQUEST: u64 = 64 << 10;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Load the images of an archive.
    Load {
        /// The archive, by an absolute path.
        path: PathBuf,
        /// A name for a single image that has none.
        names: Vec<String>,
    },
    /// Take all images of the store of another node on this machine.
    Share {
        /// The other node's root.
        root: PathBuf,
    },
    /// List all images.
    List,
    /// Remove a name or an image.
    Remove {
        /// A reference or an id.
        name: String,
    },
}

/// Why the images could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node runs with this directory, or it does not answer.
    #[error("cannot reach the running node at {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The node could not do it.
    #[error("{0}")]
    Failed(String),
}

/// Where a node listens.
pub fn socket(state: &Path) -> PathBuf {
    state.join("images.sock")
}

/// Does what is asked of a store.
pub fn execute(store: &ImageStore, request: &Request, in_use: &BTreeSet<String>) -> Result<Vec<Arc<Record>>, String> {
    match request {
        Request::Load { path, names } => archive::load(store, path, names).map_err(|error| error.to_string()),
        Request::Share { root } => store.share_from(root).map_err(|error| error.to_string()),
        Request::List => Ok(store.list()),
        Request::Remove { name } => match store.find(name) {
            Some(record) => {
                store.remove(name, in_use).map_err(|error| error.to_string())?;
                Ok(vec![record])
            }
            None => Err(format!("image {name:?} is not here")),
        },
    }
}

/// Asks the node whose state directory this is.
pub async fn ask(state: &Path, request: &Request) -> Result<Vec<Record>, Error> {
    let path = socket(state);
    let failed = |source| Error::Io { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).await.map_err(failed)?;
    let text = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    stream.write_all(&text).await.map_err(failed)?;
    stream.shutdown().await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(failed)?;
    let answer: Result<Vec<Record>, String> = serde_json::from_slice(&answer).map_err(|error| failed(error.into()))?;
    answer.map_err(Error::Failed)
}

/// Answers one client.
pub(crate) async fn answer(
    mut stream: UnixStream,
    execute: impl FnOnce(Request) -> Result<Vec<Arc<Record>>, String> + Send + 'static,
) -> io::Result<()> {
    let mut text = Vec::new();
    (&mut stream).take(MAX_REQUEST).read_to_end(&mut text).await?;
    let answer = match serde_json::from_slice(&text) {
        Ok(request) => tokio::task::spawn_blocking(move || execute(request)).await.map_err(io::Error::other)?,
        Err(error) => Err(format!("bad request: {error}")),
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await
}
