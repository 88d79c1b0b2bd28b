//! Running processes in containers: CRI `ExecSync`, and what the streaming server does with `Exec` and `Attach`.
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tonic::Status;

use crate::cri::ExecSyncResponse;
use crate::records::ContainerPhase;
use crate::runtime::Inner;
use crate::sandboxes::{internal, new_id};
use crate::shim::exec::ExecProcess;
use crate::shim::protocol::{Reply, Request};
use crate::shim_client::Connection;

/// More output than this of one stream is cut, as in the kubelet's own client.
const MAX_OUTPUT: usize = 16 << 20;
/// How long output is waited for when the process has ended but others hold its streams.
const DRAIN: Duration = Duration::from_secs(2);

/// A running process.
#[derive(Debug)]
pub(crate) struct Running {
    connection: Connection,
    /// The terminal's master side, if it has one.
    pub master: Option<OwnedFd>,
}

impl Running {
    /// Waits for its end; the exit code.
    pub async fn wait(&self) -> Result<i32, Status> {
        match self.connection.reply().await {
            Ok((Reply::ExecExited { code }, _)) => Ok(code),
            Ok((other, _)) => Err(internal("failed to exec in container")(&format!("{other:?}"))),
            Err(error) => Err(internal("failed to exec in container")(&error)),
        }
    }

    /// Kills it.
    pub async fn kill(&self) -> Result<(), Status> {
        let sent = self.connection.send(&Request::KillExec, &[]).await;
        sent.map_err(|error| internal("failed to kill the process")(&error))
    }
}

/// The standard streams of a process: the sides that it gets.
#[derive(Debug)]
pub(crate) struct Streams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Inner {
    /// Starts a process in a running container; with a terminal if there are no `streams`.
    pub async fn exec(&self, id: &str, command: &[String], streams: Option<Streams>) -> Result<Running, Status> {
        let container = self.container(id)?;
        let record = container.record.lock().clone();
        if record.phase != ContainerPhase::Running {
            return Err(Status::failed_precondition(format!(
                "failed to exec in container: container \"{}\" is in {:?} state",
                record.id, record.phase
            )));
        }
        let sandbox = self.sandbox(&record.sandbox_id)?;
        let failed = internal("failed to exec in container");
        let file = self.write_process(&record.id, command, streams.is_none())?;
        let request = Request::Exec { id: record.id, process: file.clone(), tty: streams.is_none() };
        let connection = sandbox.shim.connect().map_err(|error| failed(&error))?;
        let fds: Vec<_> = streams
            .iter()
            .flat_map(|streams| [&streams.stdin, &streams.stdout, &streams.stderr])
            .map(AsFd::as_fd)
            .collect();
        connection.send(&request, &fds).await.map_err(|error| failed(&error))?;
        drop(fds);
        drop(streams);
        match connection.reply().await {
            Ok((Reply::ExecStarted { .. }, fds)) => Ok(Running { connection, master: fds.into_iter().next() }),
            Ok((other, _)) => Err(failed(&format!("{other:?}"))),
            Err(error) => {
                // Taken by the process, unless it never came so far.
                crate::runtime::remove_path(&file).ok();
                Err(failed(&format!(
                    "OCI runtime exec failed: exec failed: unable to start container process: {error}"
                )))
            }
        }
    }

    /// The container's own process with another command line, in a file for the shim.
    fn write_process(&self, id: &str, command: &[String], tty: bool) -> Result<PathBuf, Status> {
        let failed = internal("failed to exec in container");
        let mut spec = self.spec(id)?;
        let mut process = spec["process"].take();
        process["args"] = serde_json::json!(command);
        process["terminal"] = serde_json::json!(tty);
        if tty
            && let Some(env) = process["env"].as_array_mut()
            && !env.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")))
        {
            env.push(serde_json::json!("TERM=xterm"));
        }
        let seccomp = spec["linux"]["seccomp"].take();
        let process = ExecProcess {
            process: serde_json::from_value(process).map_err(|error| failed(&error))?,
            seccomp: serde_json::from_value(seccomp).map_err(|error| failed(&error))?,
        };
        let path = self.bundle(id).join(format!("exec-{}.json", &new_id()?[..16]));
        let text = serde_json::to_vec(&process).map_err(|error| failed(&error))?;
        std::fs::write(&path, text).map_err(|error| failed(&error))?;
        Ok(path)
    }

    /// CRI `ExecSync`. No timeout if it is zero.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse, Status> {
        let failed = internal("failed to exec in container");
        let (stdout, their_stdout) = output_pipe().map_err(|error| failed(&error))?;
        let (stderr, their_stderr) = output_pipe().map_err(|error| failed(&error))?;
        let stdin = std::fs::File::open("/dev/null").map_err(|error| failed(&error))?;
        let streams = Streams { stdin: stdin.into(), stdout: their_stdout, stderr: their_stderr };
        let running = self.exec(id, command, Some(streams)).await?;
        let reading = tokio::spawn(async move { tokio::join!(read_all(stdout), read_all(stderr)) });
        let exit_code = if timeout.is_zero() {
            running.wait().await?
        } else if let Ok(ended) = tokio::time::timeout(timeout, running.wait()).await {
            ended?
        } else {
            running.kill().await?;
            reading.abort();
            return Err(Status::deadline_exceeded(format!(
                "failed to exec in container: timeout {timeout:?} exceeded: context deadline exceeded"
            )));
        };
        let (stdout, stderr) = match tokio::time::timeout(DRAIN, reading).await {
            Ok(read) => read.map_err(|error| failed(&error))?,
            Err(_) => (Vec::new(), Vec::new()),
        };
        Ok(ExecSyncResponse { stdout, stderr, exit_code })
    }
}

/// A pipe: our reading side, their writing side.
pub(crate) fn output_pipe() -> std::io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(read)?, write))
}

async fn read_all(pipe: pipe::Receiver) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut limited = pipe.take(MAX_OUTPUT as u64);
    // What came before an error counts.
    limited.read_to_end(&mut bytes).await.ok();
    // A process that writes more is not to be stopped by a full pipe.
    let mut rest = limited.into_inner();
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.ok();
    bytes
}
