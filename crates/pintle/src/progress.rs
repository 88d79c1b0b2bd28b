//! What a person sees while a cluster starts, and how a detached start hears of it.
//!
//! A detached start is the same program in a session of its own; it tells its parent each step through a pipe, one line a
//! message, and the parent prints them and leaves when the cluster is ready.
use anyhow::{Context, Result, bail};
use nix::fcntl;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// Names the pipe's descriptor to the detached process.
pub const PIPE: &str = "PINTLE_PROGRESS_FD";

/// Where progress goes.
pub struct Progress {
    out: Mutex<Out>,
    start: Instant,
}

enum Out {
    Terminal,
    Pipe(File),
    Silent,
}

/// One message of a start.
#[derive(Debug, PartialEq, Eq)]
enum Message<'a> {
    Step(&'a str),
    Ready(&'a str),
    Failed(&'a str),
}

impl<'a> Message<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (kind, text) = line.split_once(' ')?;
        match kind {
            "step" => Some(Message::Step(text)),
            "ready" => Some(Message::Ready(text)),
            "failed" => Some(Message::Failed(text)),
            _ => None,
        }
    }
}

impl Progress {
    /// Progress of this process: to the parent if it was started detached, else to the terminal.
    #[allow(unsafe_code)]
    pub fn new() -> Self {
        let pipe = std::env::var(PIPE).ok().and_then(|number| number.parse::<i32>().ok());
        // SAFETY: `detach` made the descriptor for this process and nothing else in it uses that number.
        let pipe = pipe.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        // It is for this process alone, not for those that it starts.
        let own = fcntl::FcntlArg::F_SETFD(fcntl::FdFlag::FD_CLOEXEC);
        let out = pipe.filter(|pipe| fcntl::fcntl(pipe, own).is_ok()).map_or(Out::Terminal, Out::Pipe);
        Progress { out: Mutex::new(out), start: Instant::now() }
    }

    /// A step is done.
    pub fn step(&self, text: &str) {
        let elapsed = self.start.elapsed();
        self.say(&format!("step {:>6.2} s  {text}", elapsed.as_secs_f64()));
    }

    /// The cluster is ready; nothing is said afterwards.
    pub fn ready(&self, text: &str) {
        self.say(&format!("ready {text}"));
        if let Ok(mut out) = self.out.lock() {
            *out = Out::Silent;
        }
    }

    /// The start failed. Whether somebody was told.
    pub fn failed(&self, text: &str) -> bool {
        for line in text.lines() {
            self.say(&format!("failed {line}"));
        }
        true
    }

    fn say(&self, line: &str) {
        let Ok(mut out) = self.out.lock() else { return };
        match &mut *out {
            Out::Terminal => print(line),
            Out::Pipe(pipe) => {
                if writeln!(pipe, "{line}").is_err() {
                    *out = Out::Silent;
                }
            }
            Out::Silent => {}
        }
    }
}

fn print(line: &str) {
    match Message::parse(line) {
        Some(Message::Step(text)) if std::io::stderr().is_terminal() => eprintln!("\x1b[32m✓\x1b[0m {text}"),
        Some(Message::Step(text)) => eprintln!("{text}"),
        Some(Message::Ready(text)) => println!("{text}"),
        Some(Message::Failed(text)) => eprintln!("pintle: {text}"),
        None => {}
    }
}

/// Starts this program again with the same arguments in the background, its output going to `log`; returns when it is
/// ready, or with an error when it failed (what it said has been printed).
#[allow(unsafe_code)]
pub fn detach(log: &Path) -> Result<()> {
    let (read, write) = nix::unistd::pipe2(fcntl::OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let log_file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let fd = write.as_raw_fd();
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"));
    command.env(PIPE, fd.to_string()).stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
    // SAFETY: only async-signal-safe calls on a descriptor that this process keeps open until the spawn returned.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            let inherited = std::os::fd::BorrowedFd::borrow_raw(fd);
            fcntl::fcntl(inherited, fcntl::FcntlArg::F_SETFD(fcntl::FdFlag::empty()))?;
            Ok(())
        });
    }
    let mut child = command.spawn().context("cannot start in the background")?;
    drop(write);
    let mut failed = false;
    for line in BufReader::new(File::from(read)).lines() {
        let line = line?;
        print(&line);
        match Message::parse(&line) {
            Some(Message::Ready(_)) => return Ok(()),
            Some(Message::Failed(_)) => failed = true,
            Some(Message::Step(_)) | None => {}
        }
    }
    let status = child.wait()?;
    if !failed {
        eprintln!("pintle: the cluster ended while starting ({status}); its log is {}", log.display());
    }
    bail!(Reported)
}

/// The reader has been told already.
#[derive(Debug, thiserror::Error)]
#[error("the cluster did not start")]
pub struct Reported;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe() {
        assert_eq!(Message::parse("step   0.10 s  ok"), Some(Message::Step("  0.10 s  ok")));
        assert_eq!(Message::parse("ready a b"), Some(Message::Ready("a b")));
        assert_eq!(Message::parse("failed port 6443"), Some(Message::Failed("port 6443")));
        assert_eq!(Message::parse("panicked"), None);
    }
}
