//! Starting a container: a forked helper mounts its root, lets `libcontainer` create it and starts it.
//!
//! The helper's memory, mount namespace and state go away with it; the container's first process becomes the shim's child.
mod volumes;

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
use serde_json::Value;

use super::protocol::{BINDS, Bind, MAX_MESSAGE, Overlay, StartContainer};
use super::{socket, told};
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
    // The shim does without huge pages, programs in containers need not. A refusal changes nothing they could see.
    nix::sys::prctl::set_thp_disable(false).ok();
    // libcontainer knows the hierarchies with controllers only.
    let result = cgroups
        .join_named(&request.cgroup)
        .map_err(|error| error.to_string())
        .and_then(|()| start(request, cgroups, stdio, progress.as_fd()));
    let message = match &result {
        Ok(()) => Progress::Running,
        Err(error) => Progress::Failed(error.clone()),
    };
    // If the shim is gone there is nobody left to tell.
    socket::send(progress.as_fd(), &message, &[]).ok();
    // SAFETY: ends the helper without running anything of the shim's.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

fn start(
    request: &StartContainer,
    cgroups: &Cgroups,
    stdio: Option<Stdio>,
    progress: BorrowedFd<'_>,
) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("cannot make a mount namespace: {error}"))?;
    for image in &request.image_mounts {
        mount_overlay(&image.overlay, &image.target)?;
        if !image.sub_path.is_empty() {
            volumes::narrow(&image.target, &image.sub_path)?;
        }
    }
    let rootfs = request.bundle.join("rootfs");
    mount_overlay(&request.overlay, &rootfs)?;
    for volume in &request.volumes {
        volumes::bind(&rootfs, volume)?;
    }

    if !cgroups.is_v2() {
        mount_cgroups(request, cgroups)?;
    }
    bind_mounts(&request.bundle)?;
    make_directories_of_spec(request, &rootfs)?;

    let (mut failure, executor_fd) = pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let executor = Program { failure: executor_fd.as_raw_fd() };
    // Nobody else has set one in this process.
    tracing::subscriber::set_global_default(told::Errors(executor_fd.as_raw_fd())).ok();
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
        let mut text = String::new();
        // Without the details the error has to do.
        failure.read_to_string(&mut text).ok();
        match (told::reason(&text), told::detail(&text)) {
            (Some(reason), _) => reason.to_owned(),
            (None, Some(detail)) => format!("{}: {detail}", chain(&error)),
            (None, None) => chain(&error),
        }
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
    told::reason(&text).map_or(Ok(()), |reason| Err(reason.to_owned()))
}

/// Gathers the container's own groups of all v1 hierarchies in the bundle's directory `cgroup`, which the spec binds to
/// `/sys/fs/cgroup`: what `libcontainer` mounts there by itself could be written to.
fn mount_cgroups(request: &StartContainer, cgroups: &Cgroups) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot show the container its control groups: {error}");
    cgroups.create(&request.cgroup).map_err(|error| failed(&error))?;
    let directory = request.bundle.join("cgroup");
    std::fs::create_dir_all(&directory).map_err(|error| failed(&error))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &directory, Some("tmpfs"), flags, Some("mode=755")).map_err(|error| failed(&error))?;
    for (names, path) in cgroups.named_paths(&request.cgroup) {
        let target = directory.join(&names[0]);
        std::fs::create_dir(&target).map_err(|error| failed(&error))?;
        mount(Some(&path), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|error| failed(&error))?;
        for other in &names[1..] {
            std::os::unix::fs::symlink(&names[0], directory.join(other)).map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

/// Binds paths of the node into the bundle, with the propagation that they shall have in the container.
fn bind_mounts(bundle: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot prepare the mounts: {error}");
    let text = std::fs::read(bundle.join(BINDS)).map_err(|error| failed(&error))?;
    let binds: Vec<Bind> = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let none = None::<&str>;
    for Bind { source, target, slave } in binds {
        let failed =
            |error: &dyn std::fmt::Display| format!("cannot mount {:?}: {error}", source.display().to_string());
        std::fs::create_dir_all(bundle.join("mounts")).map_err(|error| failed(&error))?;
        if std::fs::metadata(&source).map_err(|error| failed(&error))?.is_dir() {
            std::fs::create_dir(&target).map_err(|error| failed(&error))?;
        } else {
            std::fs::File::create(&target).map_err(|error| failed(&error))?;
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&source), &target, none, flags, none).map_err(|error| failed(&error))?;
        let kind = if slave { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE };
        mount(none, &target, none, kind | MsFlags::MS_REC, none).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Makes the directories that the image lacks: the working directory, as other runtimes do, and those in which something
/// is mounted, through links that lead nowhere yet (`/var/run` to `/run`), with which `libcontainer` does not go on.
fn make_directories_of_spec(request: &StartContainer, rootfs: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot make the working directory: {error}");
    let text = std::fs::read(request.bundle.join("config.json")).map_err(|error| failed(&error))?;
    let spec: Value = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let root = std::fs::File::open(rootfs).map_err(|error| failed(&error))?;
    let mounts = spec["mounts"].as_array().into_iter().flatten();
    let mounts = mounts.filter_map(|mount| Path::new(mount["destination"].as_str()?).parent());
    for path in mounts.chain(spec["process"]["cwd"].as_str().map(Path::new)) {
        if !["/dev", "/proc", "/sys"].iter().any(|own| path.starts_with(own)) {
            let relative: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
            // Where something else stands in the way, the start itself tells.
            make_directories(root.as_fd(), &relative).ok();
        }
    }
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

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args = process.args().as_deref().unwrap_or_default();
        let error = match find_program(args, process.env().as_deref().unwrap_or_default()) {
            Ok(program) => exec(&program, args),
            Err(error) => error,
        };
        told::tell(self.failure, &error);
        Err(ExecutorError::Other(error))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let fail = |text: &str| {
            told::tell(self.failure, text);
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
