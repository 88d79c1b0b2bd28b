//! Talking to a pod's shim from the async side.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::shim::protocol::{MAX_MESSAGE, Reply, Request, SOCKET};
use crate::shim::socket;

/// Why the shim did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached.
    #[error("the pod's shim does not answer: {0}")]
    Io(#[from] io::Error),
    /// It closed the connection.
    #[error("the pod's shim ended")]
    Closed,
    /// It said why.
    #[error("{0}")]
    Failed(String),
    /// It answered something else.
    #[error("the pod's shim gave an answer to another question: {0:?}")]
    Unexpected(Box<Reply>),
}

/// One connection.
#[derive(Debug)]
pub struct Connection(AsyncFd<OwnedFd>);

impl Connection {
    /// Takes a socket that does not block.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd stays the same open descriptor as long as it lives.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// Sends a message.
    pub async fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |fd| socket::send(fd.as_fd(), message, fds)).await
    }

    /// Receives a message.
    pub async fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), Error> {
        let received = self.0.async_io(Interest::READABLE, |fd| {
            let mut buffer = vec![0; MAX_MESSAGE];
            socket::receive(fd.as_fd(), &mut buffer)
        });
        received.await?.ok_or(Error::Closed)
    }

    /// Receives an answer; a failure is an error.
    pub async fn reply(&self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        match self.receive().await? {
            (Reply::Failed(reason), _) => Err(Error::Failed(reason)),
            answer => Ok(answer),
        }
    }
}

/// A pod's shim, by its sandbox's state directory.
#[derive(Clone, Debug)]
pub struct ShimClient {
    directory: PathBuf,
}

impl ShimClient {
    /// The shim of a sandbox.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Starts a shim whose `shim.json` is written, and waits until its namespaces are there.
    pub async fn spawn(executable: &Path, directory: &Path) -> Result<Self, Error> {
        let (ours, theirs) = socket::pair()?;
        crate::shim::set_nonblocking(&ours)?;
        let mut command = tokio::process::Command::new(executable);
        command.arg0("pintle").arg("shim").arg(directory).env_clear();
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        drop(command);
        let connection = Connection::new(ours)?;
        let answer = connection.reply().await;
        // The shim outlives this process; while it runs it also wants to be waited for.
        tokio::spawn(async move { child.wait().await.ok() });
        match answer? {
            (Reply::Ready, _) => Ok(Self::new(directory)),
            (other, _) => Err(Error::Unexpected(Box::new(other))),
        }
    }

    /// A new connection.
    pub fn connect(&self) -> Result<Connection, Error> {
        Ok(Connection::new(socket::connect_in(&self.directory, SOCKET)?)?)
    }

    /// Asks one thing.
    pub async fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let connection = self.connect()?;
        connection.send(request, fds).await?;
        connection.reply().await
    }

    /// Asks for something that is just done.
    pub async fn order(&self, request: &Request) -> Result<(), Error> {
        match self.call(request, &[]).await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(Error::Unexpected(Box::new(other))),
        }
    }
}
