//! The per-pod shim: the same binary, re-executed as `pintle shim <state directory>`. [`main`] is its whole life.
//!
//! One thread and one poll loop hold the sandbox's namespaces, start containers through forked helpers, write their logs,
//! reap, and answer over a Unix socket. It outlives `pintle` and ends when the sandbox is stopped.
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

pub mod protocol;
pub mod socket;

mod containers;
pub(crate) mod exec;
pub(crate) mod log;
mod sandbox;
mod server;
mod start;
mod told;

pub(crate) use containers::set_nonblocking;
use protocol::{CONFIG, Reply, SOCKET, SandboxConfig};

/// Runs a shim. `args` are the words after `pintle shim`: the sandbox's state directory. Standard input is the socket
/// over which the answer [`Reply::Ready`] (or [`Reply::Failed`]) goes.
///
/// Has to be called before anything else in the process: no other thread may exist.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // One huge page would be most of what a shim uses. The helpers give them back to containers; a refusal only costs memory.
    nix::sys::prctl::set_thp_disable(true).ok();
    // What the caller of `pintle up` had open does not stay open as long as a pod lives.
    // SAFETY: nothing but the standard streams is in use yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    // SAFETY: descriptor 0 is this process' own standard input, and nothing else in it uses that.
    let parent = unsafe { OwnedFd::from_raw_fd(libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3)) };
    let directory = args.into_iter().next().map(PathBuf::from);
    let result = directory.ok_or_else(|| "usage: pintle shim <state directory>".to_owned()).and_then(|directory| {
        let server = set_up(&directory)?;
        socket::send(parent.as_fd(), &Reply::Ready, &[])
            .map_err(|error| format!("nobody waits for the shim: {error}"))?;
        Ok(server)
    });
    match result {
        Ok(mut server) => {
            drop(parent);
            server.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            if socket::send(parent.as_fd(), &Reply::Failed(error.clone()), &[]).is_err() {
                eprintln!("pintle shim: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn set_up(directory: &std::path::Path) -> Result<server::Server, String> {
    std::env::set_current_dir(directory).map_err(|error| format!("cannot enter {}: {error}", directory.display()))?;
    let text = fs::read(CONFIG).map_err(|error| format!("cannot read {CONFIG}: {error}"))?;
    let config: SandboxConfig = serde_json::from_slice(&text).map_err(|error| format!("bad {CONFIG}: {error}"))?;
    drop(text);
    detach().map_err(|error| format!("cannot become a shim: {error}"))?;
    let cgroups = crate::cgroup::Cgroups::detect().map_err(|error| error.to_string())?;
    if !config.shim_cgroup.is_empty() {
        cgroups.create(&config.shim_cgroup).map_err(|error| error.to_string())?;
        cgroups.join(&config.shim_cgroup, 0).map_err(|error| error.to_string())?;
    }
    let signals = server::block_signals().map_err(|error| format!("cannot take signals: {error}"))?;
    let init = sandbox::set_up(&config)?;
    fs::write("shim.pid", std::process::id().to_string()).map_err(|error| format!("cannot write shim.pid: {error}"))?;
    let listener = socket::listen_here(SOCKET).map_err(|error| format!("cannot listen: {error}"))?;
    Ok(server::Server::new(cgroups, signals, listener, init))
}

/// Leaves the parent's session, takes in orphans, and lets go of the streams.
fn detach() -> std::io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: prctl with integers only; 0 to 2 become /dev/null.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if null < 0 {
            return Err(std::io::Error::last_os_error());
        }
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        libc::close(null);
    }
    Ok(())
}
