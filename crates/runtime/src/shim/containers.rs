//! A container in the shim: its state, its output on the way into log and attached clients.
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use super::log::{Log, MAX_LINE, Pending, Stream};
use super::protocol::ContainerState;

/// How far a container is.
#[derive(Debug)]
pub enum Phase {
    /// A helper is creating it; its answer goes to the connection.
    Starting {
        /// The helper's messages.
        progress: OwnedFd,
        /// Who asked.
        connection: u64,
        /// How the first process ended, if it did before the helper said that it runs.
        ended: Option<i32>,
    },
    /// It runs.
    Running,
    /// It ended.
    Exited,
}

/// One output of a container.
#[derive(Debug)]
pub struct Output {
    /// The pipe's reading side or the terminal's master.
    pub fd: OwnedFd,
    /// Where its lines belong.
    pub stream: Stream,
    pending: Pending,
}

impl Output {
    /// An output that is read without blocking.
    pub fn new(fd: OwnedFd, stream: Stream) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self { fd, stream, pending: Pending::default() })
    }
}

/// A client that gets a copy of the output.
#[derive(Debug)]
pub struct Attachment {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    backlog: Vec<u8>,
    backlog_stream: Option<Stream>,
}

impl Attachment {
    /// Copies to `stdout` and `stderr`.
    pub fn new(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&stdout)?;
        set_nonblocking(&stderr)?;
        Ok(Self { stdout: Some(stdout), stderr: Some(stderr), backlog: Vec::new(), backlog_stream: None })
    }

    /// The descriptor that has to become writable before more output is read.
    pub fn waiting_for(&self) -> Option<i32> {
        let fd = match self.backlog_stream? {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn write(&mut self, stream: Stream, data: &[u8]) {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(fd) = slot else { return };
        match write_some(fd, data) {
            Ok(written) if written < data.len() => {
                self.backlog = data[written..].to_vec();
                self.backlog_stream = Some(stream);
            }
            Ok(_) => {}
            Err(_) => *slot = None,
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) {
        if let Some(stream) = self.backlog_stream.take() {
            let data = std::mem::take(&mut self.backlog);
            self.write(stream, &data);
        }
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }
}

/// Writes until the other side is full; an error means that it is gone.
fn write_some(fd: &OwnedFd, data: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < data.len() {
        match nix::unistd::write(fd, &data[written..]) {
            Ok(count) => written += count,
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// What the outside knows.
    pub state: ContainerState,
    /// How far it is.
    pub phase: Phase,
    /// Its group.
    pub cgroup: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its log.
    pub log: Log,
    /// Its outputs that are still open.
    pub outputs: Vec<Output>,
    /// The writing side of its standard input, or the terminal's master.
    pub input: Option<OwnedFd>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Close the standard input when the first attach ends.
    pub stdin_once: bool,
    /// Who reads along.
    pub attachments: Vec<Attachment>,
}

impl Container {
    /// Whether output may be read: nobody attached is behind.
    pub fn may_read(&self) -> bool {
        self.attachments.iter().all(|attachment| attachment.waiting_for().is_none())
    }

    /// Reads an output once. Returns whether there may be more.
    pub fn read_output(&mut self, fd: i32, buffer: &mut [u8]) -> bool {
        let Some(index) = self.outputs.iter().position(|output| output.fd.as_raw_fd() == fd) else { return false };
        let output = &mut self.outputs[index];
        match nix::unistd::read(&output.fd, &mut buffer[..MAX_LINE]) {
            Ok(count) if count > 0 => {
                self.log.write(output.stream, &mut output.pending, &buffer[..count]);
                for attachment in &mut self.attachments {
                    attachment.write(output.stream, &buffer[..count]);
                }
                true
            }
            Err(nix::errno::Errno::EINTR) => true,
            Err(nix::errno::Errno::EAGAIN) => false,
            // The end, or a terminal whose last user is gone (EIO).
            Ok(_) | Err(_) => {
                let mut output = self.outputs.remove(index);
                self.log.finish(output.stream, &mut output.pending);
                if self.outputs.is_empty() {
                    self.attachments.clear();
                }
                false
            }
        }
    }

    /// Reads all that is there now.
    pub fn drain(&mut self, buffer: &mut [u8]) {
        let fds: Vec<i32> = self.outputs.iter().map(|output| output.fd.as_raw_fd()).collect();
        for fd in fds {
            while self.may_read() && self.read_output(fd, buffer) {}
        }
    }

    /// Writes `exit.json`, for the case that nobody can ask this shim any more.
    pub fn record_exit(&self) {
        let temporary = self.bundle.join("exit.json.new");
        let written = serde_json::to_vec(&self.state)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&temporary, text))
            .and_then(|()| fs::rename(&temporary, self.bundle.join("exit.json")));
        // Without the file only a crash of the shim loses the exit code; there is nobody to tell here.
        written.ok();
    }
}

/// Makes reads and writes return instead of waiting.
pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL)?;
    let flags = nix::fcntl::OFlag::from_bits_truncate(flags) | nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    Ok(())
}
