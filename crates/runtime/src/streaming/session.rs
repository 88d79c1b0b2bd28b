//! Exec and attach, whatever transport the client came over.
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tonic::Status;

use crate::exec::{Streams, output_pipe};
use crate::records::ContainerPhase;
use crate::runtime::Inner;
use crate::sandboxes::internal;
use crate::shim::protocol::Request;

/// What goes to the client.
#[derive(Debug)]
pub(crate) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// How it ended: the JSON of a Status. The last message.
    Status(Bytes),
}

/// A size of the client's terminal.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Size {
    pub width: u16,
    pub height: u16,
}

/// The client. Its channels end when it goes away.
#[derive(Debug)]
pub(crate) struct Remote {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub resize: mpsc::Receiver<Size>,
    pub output: mpsc::Sender<Output>,
}

/// Which streams the client wants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The Status of an exit code.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// The Status of a failure of ours.
fn failure_status(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
}

/// Runs a process for the client, to its end.
pub(crate) async fn exec(inner: &Arc<Inner>, id: &str, command: &[String], wanted: Wanted, remote: Remote) {
    let output = remote.output.clone();
    let status = match run(inner, id, command, wanted, remote).await {
        Ok(code) => exit_status(code),
        Err(error) => failure_status(&format!("error executing command in container: {}", error.message())),
    };
    // The client may be gone.
    output.send(Output::Status(status.to_string().into())).await.ok();
}

async fn run(inner: &Arc<Inner>, id: &str, command: &[String], wanted: Wanted, remote: Remote) -> Result<i32, Status> {
    let failed = internal("failed to exec in container");
    if wanted.tty {
        let mut running = inner.exec(id, command, None).await?;
        let Some(master) = running.master.take() else { return Err(failed(&"no terminal")) };
        let master = Terminal::new(master).map_err(|error| failed(&error))?;
        let relay = tokio::spawn(terminal(master, remote));
        let code = running.wait().await;
        // Ends when the last user of the terminal is gone, or the client.
        relay.await.map_err(|error| failed(&error))?;
        return code;
    }
    let (stdout, their_stdout) = output_pipe().map_err(|error| failed(&error))?;
    let (stderr, their_stderr) = output_pipe().map_err(|error| failed(&error))?;
    let (their_stdin, stdin) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| failed(&error))?;
    let streams = Streams { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
    let running = inner.exec(id, command, Some(streams)).await?;
    let stdin = pipe::Sender::from_owned_fd(stdin).map_err(|error| failed(&error))?;
    let input = tokio::spawn(feed(remote.stdin, stdin));
    let relay = tokio::spawn(relay(stdout, stderr, remote.output));
    let code = running.wait().await;
    input.abort();
    relay.await.map_err(|error| failed(&error))?;
    code
}

/// Copies the client's input until its end; then the pipe is closed.
async fn feed(stdin: Option<mpsc::Receiver<Bytes>>, mut pipe: pipe::Sender) {
    let Some(mut stdin) = stdin else { return };
    while let Some(data) = stdin.recv().await {
        // The process may have closed its input.
        if tokio::io::AsyncWriteExt::write_all(&mut pipe, &data).await.is_err() {
            return;
        }
    }
}

/// Copies both outputs until their end, or until the client is gone.
async fn relay(stdout: pipe::Receiver, stderr: pipe::Receiver, output: mpsc::Sender<Output>) {
    let copying = async { tokio::join!(copy(stdout, &output, Output::Stdout), copy(stderr, &output, Output::Stderr)) };
    tokio::select! {
        _ = copying => {}
        () = output.closed() => {}
    }
}

async fn copy(mut pipe: pipe::Receiver, output: &mpsc::Sender<Output>, wrap: fn(Bytes) -> Output) {
    loop {
        let mut buffer = bytes::BytesMut::with_capacity(32 << 10);
        match tokio::io::AsyncReadExt::read_buf(&mut pipe, &mut buffer).await {
            Ok(count) if count > 0 => {
                if output.send(wrap(buffer.freeze())).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

/// The master's side of a terminal, or the input of a container.
#[derive(Debug)]
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        crate::shim::set_nonblocking(&fd)?;
        // SAFETY: an OwnedFd stays the same open descriptor as long as it lives.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    async fn read(&self) -> io::Result<Bytes> {
        let mut buffer = vec![0; 16 << 10];
        let count = self.0.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd.as_fd(), &mut buffer)?)).await?;
        buffer.truncate(count);
        Ok(buffer.into())
    }

    async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = self.0.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, data)?)).await?;
            data = &data[count..];
        }
        Ok(())
    }

    fn resize(&self, size: Size) {
        let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize. It fails only for what is no terminal, which has no size.
        unsafe { libc::ioctl(self.0.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
}

/// Joins the client and a terminal until either is gone.
async fn terminal(master: Terminal, mut remote: Remote) {
    let mut stdin = remote.stdin.take();
    let input = async {
        if let Some(stdin) = &mut stdin {
            while let Some(data) = stdin.recv().await {
                if master.write_all(&data).await.is_err() {
                    break;
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let resize = async {
        while let Some(size) = remote.resize.recv().await {
            master.resize(size);
        }
        std::future::pending::<()>().await;
    };
    let output = async {
        // EIO when the last user has closed the terminal.
        while let Ok(data) = master.read().await {
            if data.is_empty() || remote.output.send(Output::Stdout(data)).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = input => {}
        () = resize => {}
        () = output => {}
        () = remote.output.closed() => {}
    }
}

/// Attaches the client to a container until either is gone.
pub(crate) async fn attach(inner: &Arc<Inner>, id: &str, wanted: Wanted, remote: Remote) {
    let output = remote.output.clone();
    let status = match join(inner, id, wanted, remote).await {
        Ok(()) => exit_status(0),
        Err(error) => failure_status(&format!("error attaching to container: {}", error.message())),
    };
    output.send(Output::Status(status.to_string().into())).await.ok();
}

async fn join(inner: &Arc<Inner>, id: &str, wanted: Wanted, mut remote: Remote) -> Result<(), Status> {
    let failed = internal("failed to attach to container");
    let container = inner.container(id)?;
    let record = container.record.lock().clone();
    if record.phase != ContainerPhase::Running {
        return Err(failed(&format!("container is in {:?} state", record.phase)));
    }
    let sandbox = inner.sandbox(&record.sandbox_id)?;
    let (stdout, their_stdout) = output_pipe().map_err(|error| failed(&error))?;
    let (stderr, their_stderr) = output_pipe().map_err(|error| failed(&error))?;
    let request = Request::Attach { id: record.id.clone() };
    let (_, fds) = sandbox
        .shim
        .call(&request, &[their_stdout.as_fd(), their_stderr.as_fd()])
        .await
        .map_err(|error| failed(&error))?;
    drop((their_stdout, their_stderr));
    let input = fds.into_iter().next().filter(|_| wanted.stdin || wanted.tty);
    let input = input.map(Terminal::new).transpose().map_err(|error| failed(&error))?.map(Arc::new);
    let sized = input.clone().filter(|_| record.config.0.tty);
    let mut stdin = remote.stdin.take();
    let feed = async {
        // Closed at its end, or the container would wait for more.
        if let (Some(input), Some(stdin)) = (input, &mut stdin) {
            while let Some(data) = stdin.recv().await {
                if input.write_all(&data).await.is_err() {
                    break;
                }
            }
            drop(input);
            let request = Request::CloseStdin { id: record.id.clone() };
            sandbox.shim.order(&request).await.map_err(|error| failed(&error))?;
        }
        Ok::<(), Status>(())
    };
    let resize = async {
        while let Some(size) = remote.resize.recv().await {
            if let Some(terminal) = &sized {
                terminal.resize(size);
            }
        }
        std::future::pending::<()>().await;
    };
    let (output, relayed) = (remote.output.clone(), remote.output);
    let relay = async move { relay(stdout, stderr, relayed).await };
    tokio::pin!(relay);
    let mut feeding = Box::pin(feed);
    let mut fed = false;
    tokio::pin!(resize);
    loop {
        tokio::select! {
            () = &mut relay => break,
            () = output.closed() => break,
            () = &mut resize => {}
            result = &mut feeding, if !fed => { fed = true; result?; }
        }
    }
    drop(feeding);
    if !fed && wanted.stdin {
        // The container may have ended, and the shim with it.
        sandbox.shim.order(&Request::CloseStdin { id: record.id }).await.ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_as_kubectl_reads_them() {
        assert_eq!(exit_status(0)["status"], "Success");
        let status = exit_status(3);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
