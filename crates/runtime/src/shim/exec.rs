//! Running a further process in a container.
//!
//! Done here and not by `libcontainer`, whose tenants would run without the container's seccomp profile.
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxSeccomp, Process};
use libcontainer::syscall::syscall::create_syscall;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};

use super::socket;
use super::start::{self, Progress, Stdio};
use crate::cgroup::Cgroups;

/// What to run: the content of the file that an exec request names.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecProcess {
    /// The process.
    pub process: Process,
    /// The container's seccomp profile.
    pub seccomp: Option<LinuxSeccomp>,
}

/// Where to run.
#[derive(Debug)]
pub struct Target<'a> {
    /// The container's first process.
    pub pid: i32,
    /// The container's group.
    pub cgroup: &'a str,
    /// The machine's control groups.
    pub cgroups: &'a Cgroups,
}

/// The helper's main function: reports over `progress` and ends the process.
pub fn run(file: &Path, target: &Target<'_>, stdio: Option<Stdio>, progress: &OwnedFd) -> ! {
    if let Err(error) = enter(file, target, stdio, progress) {
        // If the shim is gone there is nobody left to tell.
        socket::send(progress.as_fd(), &Progress::Failed(error), &[]).ok();
        // SAFETY: ends the helper without running anything of the shim's.
        unsafe { libc::_exit(1) };
    }
    // SAFETY: as above.
    unsafe { libc::_exit(0) }
}

fn enter(file: &Path, target: &Target<'_>, stdio: Option<Stdio>, progress: &OwnedFd) -> Result<(), String> {
    // As for the container's first process: a refusal changes nothing the program could see.
    nix::sys::prctl::set_thp_disable(false).ok();
    let text = fs::read(file).map_err(|error| format!("cannot read the process to run: {error}"))?;
    fs::remove_file(file).map_err(|error| format!("cannot remove {}: {error}", file.display()))?;
    let what: ExecProcess = serde_json::from_slice(&text).map_err(|error| format!("bad process to run: {error}"))?;

    target.cgroups.join(target.cgroup, 0).map_err(|error| error.to_string())?;
    if let Some(score) = what.process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| format!("cannot set oom_score_adj to {score}: {error}"))?;
    }
    // Nobody in the container may look into this process, which still has the host's files open.
    // SAFETY: prctl with integers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    join_namespaces(target.pid).map_err(|error| format!("cannot enter the container's namespaces: {error}"))?;

    // SAFETY: the helper has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(|error| format!("cannot fork: {error}"))? {
        ForkResult::Parent { child } => socket::send(progress.as_fd(), &Progress::Created { pid: child.as_raw() }, &[])
            .map_err(|error| format!("cannot tell the shim: {error}")),
        ForkResult::Child => {
            let error = become_process(&what, stdio, progress);
            socket::send(progress.as_fd(), &Progress::Failed(error), &[]).ok();
            // SAFETY: as above.
            unsafe { libc::_exit(127) }
        }
    }
}

fn join_namespaces(pid: i32) -> io::Result<()> {
    let kinds = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let mut namespaces = Vec::new();
    for (name, flag) in kinds {
        let theirs = File::open(format!("/proc/{pid}/ns/{name}"))?;
        let ours = fs::metadata(format!("/proc/self/ns/{name}"))?;
        if theirs.metadata()?.ino() != ours.ino() {
            namespaces.push((theirs, flag));
        }
    }
    for (file, flag) in namespaces {
        setns(file, flag)?;
    }
    Ok(())
}

/// Turns the caller into the process; returns why that failed.
fn become_process(what: &ExecProcess, stdio: Option<Stdio>, progress: &OwnedFd) -> String {
    match prepare(what, stdio, progress) {
        Ok(program) => start::exec(&program, what.process.args().as_deref().unwrap_or_default()),
        Err(error) => error,
    }
}

fn prepare(what: &ExecProcess, stdio: Option<Stdio>, progress: &OwnedFd) -> Result<std::path::PathBuf, String> {
    let process = &what.process;
    let syscall = create_syscall();
    let failed = |what: &'static str| move |error: &dyn std::fmt::Display| format!("cannot {what}: {error}");

    nix::unistd::setsid().map_err(|e| failed("make a session")(&e))?;
    match stdio {
        Some(stdio) => {
            for (fd, to) in [(&stdio.stdin, 0), (&stdio.stdout, 1), (&stdio.stderr, 2)] {
                // SAFETY: dup2 on descriptors of this process; 0 to 2 are meant to be replaced.
                if unsafe { libc::dup2(fd.as_raw_fd(), to) } < 0 {
                    return Err(failed("connect the standard streams")(&io::Error::last_os_error()));
                }
            }
        }
        None => terminal(process, progress).map_err(|e| failed("make a terminal")(&e))?,
    }
    for rlimit in process.rlimits().iter().flatten() {
        syscall.set_rlimit(rlimit).map_err(|e| failed("set resource limits")(&e))?;
    }
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        // SAFETY: prctl with integers only.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    }
    if let Some(umask) = process.user().umask() {
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
    }
    // First as root, which may enter directories that the user may not; a directory that root may not enter (on a
    // file system that denies it) is tried again as the user.
    let cwd = process.cwd();
    let entered = std::env::set_current_dir(cwd);
    let user = process.user();
    let groups: Vec<libc::gid_t> = user.additional_gids().clone().unwrap_or_default();
    // SAFETY: the list lives until after the call.
    if unsafe { libc::setgroups(groups.len(), groups.as_ptr()) } < 0 {
        return Err(failed("set the supplementary groups")(&io::Error::last_os_error()));
    }
    // SAFETY: keeps the permitted capabilities over the change of user; prctl with integers only.
    unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) };
    if let (Some(seccomp), false) = (&what.seccomp, no_new_privileges) {
        libcontainer::seccomp::initialize_seccomp(seccomp).map_err(|e| failed("set the seccomp profile")(&e))?;
    }
    // SAFETY: changes the ids of this process only.
    if unsafe { libc::setresgid(user.gid(), user.gid(), user.gid()) } < 0
        || unsafe { libc::setresuid(user.uid(), user.uid(), user.uid()) } < 0
    {
        return Err(failed("change the user")(&io::Error::last_os_error()));
    }
    libcontainer::capabilities::reset_effective(syscall.as_ref()).map_err(|e| failed("reset capabilities")(&e))?;
    if let Some(capabilities) = process.capabilities() {
        libcontainer::capabilities::drop_privileges(capabilities, syscall.as_ref())
            .map_err(|e| failed("set capabilities")(&e))?;
    }
    if let Err(error) = entered {
        std::env::set_current_dir(cwd).map_err(|_| format!("chdir to cwd ({:?}) failed: {error}", cwd.display()))?;
    }
    if let (Some(seccomp), true) = (&what.seccomp, no_new_privileges) {
        libcontainer::seccomp::initialize_seccomp(seccomp).map_err(|e| failed("set the seccomp profile")(&e))?;
    }

    let env = process.env().clone().unwrap_or_default();
    for (name, _) in std::env::vars_os() {
        // SAFETY: this process has one thread.
        unsafe { std::env::remove_var(name) };
    }
    for entry in &env {
        if let Some((name, value)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
    }
    if std::env::var_os("HOME").is_none() {
        // SAFETY: as above.
        unsafe { std::env::set_var("HOME", home(user.uid())) };
    }
    let program = start::find_program(process.args().as_deref().unwrap_or_default(), &env)?;
    // SAFETY: marks descriptors to be closed by exec; `progress` tells of a failing exec until then.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    Ok(program)
}

/// The home directory of a user by the container's `/etc/passwd`.
fn home(uid: u32) -> String {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(uid)))
        .and_then(|fields| fields.get(5).map(|home| (*home).to_owned()))
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

/// Makes a terminal of the container the caller's controlling terminal and standard streams.
fn terminal(process: &Process, progress: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::fcntl::open("/dev/pts/ptmx", flags, Mode::empty())?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let peer_flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, peer_flags) };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    if let Some(size) = process.console_size() {
        let size = libc::winsize {
            ws_row: u16::try_from(size.height()).unwrap_or(0),
            ws_col: u16::try_from(size.width()).unwrap_or(0),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize.
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
    // The user has to be able to open the terminal by its name.
    // SAFETY: plain system calls on descriptors of this process.
    unsafe {
        libc::fchown(slave, process.user().uid(), libc::gid_t::MAX);
        if libc::ioctl(slave, libc::TIOCSCTTY, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        for to in 0..3 {
            if libc::dup2(slave, to) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    socket::send(progress.as_fd(), &Progress::Running, &[master.as_fd()])
}
