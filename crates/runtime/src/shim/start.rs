//! Starting a container: a forked helper mounts its root, lets `libcontainer` create it and starts it.
//!
//! The helper's memory, mount namespace and state go away with it; the container's first process becomes the shim's child.
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Component, Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::protocol::{MAX_MESSAGE, Overlay, StartContainer};
use super::socket;
use crate::cgroup::Cgroups;
use crate::image::layer::make_directories;

/// What the helper tells the shim.
#[derive(Debug, Serialize, Deserialize)]
pub enum Progress {
    /// The first process exists, waiting. The terminal's master side comes along.
    Created {
        /// Its pid on the host.
        pid: i32,
    },
    /// The program runs.
    Running,
    /// It failed, and why.
    Failed(String),
}

/// The standard streams of the container's side.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// The helper's main function: reports over `progress` and ends the process.
pub fn run(request: &StartContainer, cgroups: &Cgroups, stdio: Option<Stdio>, progress: &OwnedFd) -> ! {
    // libcontainer knows the hierarchies with controllers only.
    let result = cgroups
        .join_named(&request.cgroup)
        .map_err(|error| error.to_string())
        .and_then(|()| start(request, stdio, progress.as_fd()));
    let message = match &result {
        Ok(()) => Progress::Running,
        Err(error) => Progress::Failed(error.clone()),
    };
    // If the shim is gone there is nobody left to tell.
    socket::send(progress.as_fd(), &message, &[]).ok();
    // SAFETY: ends the helper without running anything of the shim's.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

fn start(request: &StartContainer, stdio: Option<Stdio>, progress: BorrowedFd<'_>) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("cannot make a mount namespace: {error}"))?;
    for image in &request.image_mounts {
        mount_overlay(&image.overlay, &image.target)?;
    }
    let rootfs = request.bundle.join("rootfs");
    mount_overlay(&request.overlay, &rootfs)?;

    make_working_directory(request, &rootfs)?;

    let (mut failure, executor_fd) = pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let executor = Program { failure: executor_fd.as_raw_fd() };
    let mut builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(&request.oci_root)
        .map_err(|error| error.to_string())?;
    let mut console = None;
    match stdio {
        Some(stdio) => {
            builder = builder.with_stdin(stdio.stdin).with_stdout(stdio.stdout).with_stderr(stdio.stderr);
        }
        None => {
            std::env::set_current_dir(&request.bundle).map_err(|error| format!("cannot enter the bundle: {error}"))?;
            let listener = UnixListener::bind("console.sock").map_err(|error| format!("console socket: {error}"))?;
            builder = builder.with_console_socket(Some(request.bundle.join("console.sock")));
            console = Some(listener);
        }
    }
    let container = builder.as_init(&request.bundle).with_systemd(false).build();
    drop(executor_fd);
    let container = container.map_err(|error| {
        // The program's own message, if it got that far, says it best.
        let mut text = String::new();
        failure.read_to_string(&mut text).ok();
        if text.is_empty() { chain(&error) } else { text }
    })?;
    let pid = container.pid().ok_or("the container has no process")?.as_raw();
    let master = match &console {
        Some(listener) => Some(receive_master(listener)?),
        None => None,
    };
    let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    socket::send(progress, &Progress::Created { pid }, &fds)
        .map_err(|error| format!("cannot tell the shim: {error}"))?;
    go(&request.oci_root.join(&request.id))?;
    let mut text = String::new();
    failure.read_to_string(&mut text).map_err(|error| format!("cannot read from the container: {error}"))?;
    if text.is_empty() { Ok(()) } else { Err(text) }
}

/// A working directory that the image lacks is made, as other runtimes do.
fn make_working_directory(request: &StartContainer, rootfs: &Path) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Config {
        process: Process,
    }
    #[derive(Deserialize)]
    struct Process {
        cwd: PathBuf,
    }
    let failed = |error: &dyn std::fmt::Display| format!("cannot make the working directory: {error}");
    let text = std::fs::read(request.bundle.join("config.json")).map_err(|error| failed(&error))?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let root = std::fs::File::open(rootfs).map_err(|error| failed(&error))?;
    let relative: PathBuf = config.process.cwd.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    // Where something else stands in the way, the start itself tells.
    make_directories(root.as_fd(), &relative).ok();
    Ok(())
}

/// An error with its causes, those that add something.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Lets the created container's first process go on to its program.
fn go(state: &Path) -> Result<(), String> {
    std::env::set_current_dir(state).map_err(|error| format!("cannot enter the container's state: {error}"))?;
    let mut socket = std::os::unix::net::UnixStream::connect(libcontainer::notify_socket::NOTIFY_FILE)
        .map_err(|error| format!("cannot start the container: {error}"))?;
    socket.write_all(b"start container").map_err(|error| format!("cannot start the container: {error}"))
}

fn receive_master(listener: &UnixListener) -> Result<OwnedFd, String> {
    let (stream, _) = listener.accept().map_err(|error| format!("no terminal: {error}"))?;
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut buffer = vec![0; MAX_MESSAGE.min(4096)];
    let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
    let message = nix::sys::socket::recvmsg::<nix::sys::socket::UnixAddr>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        nix::sys::socket::MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .map_err(|error| format!("no terminal: {error}"))?;
    for part in message.cmsgs().map_err(|error| format!("no terminal: {error}"))? {
        if let nix::sys::socket::ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel just installed this descriptor for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err("no terminal came from the container".to_owned())
}

/// Mounts layers at `target`; read-only if there is no upper directory.
fn mount_overlay(overlay: &Overlay, target: &Path) -> Result<(), String> {
    let error =
        |error: &dyn std::fmt::Display| format!("cannot mount the root file system at {}: {error}", target.display());
    // Short paths relative to the layers' directory: the options have to fit into one page.
    std::env::set_current_dir(&overlay.base).map_err(|e| error(&e))?;
    let lower = overlay.lower.join(":");
    if overlay.upper.as_os_str().is_empty() && overlay.lower.len() == 1 {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(lower.as_str()), target, None::<&str>, flags, None::<&str>).map_err(|e| error(&e))?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        return mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(|e| error(&e));
    }
    let options = if overlay.upper.as_os_str().is_empty() {
        format!("lowerdir={lower}")
    } else {
        format!("lowerdir={lower},upperdir={},workdir={}", overlay.upper.display(), overlay.work.display())
    };
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str())).map_err(|e| error(&e))
}

fn pipe() -> std::io::Result<(std::fs::File, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    Ok((std::fs::File::from(read), write))
}

/// Runs the container's program; tells over a pipe why it could not.
#[derive(Clone)]
struct Program {
    failure: RawFd,
}

impl Program {
    fn fail(&self, text: &str) {
        // SAFETY: the descriptor is this process' copy of the pipe's writing side, open until exec.
        let mut pipe = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(self.failure) });
        pipe.write_all(text.as_bytes()).ok();
    }
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args = process.args().as_deref().unwrap_or_default();
        let error = match find_program(args, process.env().as_deref().unwrap_or_default()) {
            Ok(program) => exec(&program, args),
            Err(error) => error,
        };
        self.fail(&error);
        Err(ExecutorError::Other(error))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let fail = |text: &str| {
            self.fail(text);
            ExecutorValidationError::ArgValidationError(text.to_owned())
        };
        let process = spec.process().as_ref().ok_or_else(|| fail("the spec has no process"))?;
        let args = process.args().as_deref().unwrap_or_default();
        find_program(args, process.env().as_deref().unwrap_or_default()).map_err(|error| fail(&error))?;
        Ok(())
    }
}

/// Replaces the process by `program`; returns why that failed.
pub fn exec(program: &Path, args: &[String]) -> String {
    let Ok(path) = CString::new(program.as_os_str().as_bytes()) else {
        return format!("exec {program:?}: the path holds a NUL byte");
    };
    let args: Result<Vec<CString>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    let Ok(args) = args else { return format!("exec {program:?}: an argument holds a NUL byte") };
    match nix::unistd::execv(&path, &args) {
        Err(error) => format!("exec {}: {}", program.display(), error.desc().to_lowercase()),
    }
}

/// The file that `args` runs, looked up in `PATH` of `env`, with the messages that Kubernetes' users know.
pub fn find_program(args: &[String], env: &[String]) -> Result<PathBuf, String> {
    let name = args.first().ok_or("no command specified")?;
    let executable = |path: &Path| {
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(std::io::Error::from_raw_os_error(libc::EISDIR));
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(std::io::Error::from_raw_os_error(libc::EACCES));
        }
        Ok(())
    };
    let describe = |error: &std::io::Error| match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(format!("exec: {name:?}: stat {name}: no such file or directory"))
            }
            Err(error) => Err(format!("exec: {name:?}: {}", describe(&error))),
        };
    }
    let search = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = None;
    for directory in search.split(':') {
        let path = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => denied = Some(error),
            Err(_) => {}
        }
    }
    match denied {
        Some(error) => Err(format!("exec: {name:?}: {}", describe(&error))),
        None => Err(format!("exec: {name:?}: executable file not found in $PATH")),
    }
}
