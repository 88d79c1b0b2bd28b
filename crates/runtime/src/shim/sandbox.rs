//! The sandbox's namespaces, made and held by the shim itself.
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, fork, sethostname};

use super::protocol::SandboxConfig;

/// Makes the namespaces and what lives in them. Returns the pid of the shared PID namespace's init, if there is one.
///
/// The current directory is the sandbox's state directory; the network namespace stays reachable there as `netns`, a
/// shared PID namespace as `pidns`.
pub fn set_up(config: &SandboxConfig) -> Result<Option<i32>, String> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, config.new_network);
    flags.set(CloneFlags::CLONE_NEWIPC, config.new_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, !config.hostname.is_empty());
    unshare(flags).map_err(|error| format!("cannot make the sandbox's namespaces: {error}"))?;
    if !config.hostname.is_empty() {
        sethostname(&config.hostname).map_err(|error| format!("cannot set the host name: {error}"))?;
    }
    if config.new_network {
        loopback_up().map_err(|error| format!("cannot set lo up: {error}"))?;
        hold_netns().map_err(|error| format!("cannot keep the network namespace: {error}"))?;
    }
    if config.shm_size > 0 {
        mount_shm(config.shm_size).map_err(|error| format!("cannot mount /dev/shm: {error}"))?;
    }
    for (name, value) in &config.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value).map_err(|error| format!("cannot set the sysctl {name:?} to {value:?}: {error}"))?;
    }
    if config.shared_pid {
        return fork_init().map(Some).map_err(|error| format!("cannot make the pod's PID namespace: {error}"));
    }
    Ok(None)
}

fn hold_netns() -> io::Result<()> {
    fs::File::create("netns")?;
    mount(Some("/proc/self/ns/net"), "netns", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

fn mount_shm(size: u64) -> io::Result<()> {
    fs::create_dir_all("shm")?;
    let options = format!("mode=1777,size={size}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), "shm", Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives until after the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Forks the first process of a new PID namespace; it only reaps. The shim itself stays outside.
fn fork_init() -> io::Result<i32> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: the shim has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            // Later children of the shim belong into its own PID namespace again.
            let own = fs::File::open("/proc/self/ns/pid")?;
            nix::sched::setns(own, CloneFlags::CLONE_NEWPID)?;
            fs::File::create("pidns")?;
            let theirs = format!("/proc/{child}/ns/pid");
            mount(Some(theirs.as_str()), "pidns", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(child.as_raw())
        }
        ForkResult::Child => reap_forever(),
    }
}

fn reap_forever() -> ! {
    // SAFETY: only descriptors are closed, none of which this process will use.
    unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    // The signals that the shim takes through its signalfd are blocked here too: wait for them directly.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    loop {
        // SAFETY: waitpid with a null status has no memory effects.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        if signals.wait().is_err() {
            // SAFETY: ends this process without running anything of the shim's.
            unsafe { libc::_exit(1) };
        }
    }
}
