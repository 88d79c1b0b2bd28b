//! The first process of a node on this machine: makes the node's namespaces, then keeps them and looks after the agent.
//! Start at [`main`].
//!
//! It is two processes in turn. The one that `pintle up` starts unshares, wires the node to the bridge, starts the second
//! as number 1 of the new PID namespace, and ends. The second mounts what a host of its own needs, starts the agent, and
//! takes in orphans. SIGTERM ends the agent, SIGUSR1 starts it again; SIGKILL ends the node.
use super::{Spec, cgroup};
use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pintle_runtime::cgroup::Cgroups;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The hidden verb of the command line: `pintle hold <spec>`.
pub const VERB: &str = "hold";
/// The second process is called with this besides.
const INIT: &str = "--init";
/// An agent that lived shorter is started again after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// `pintle hold <spec> [--init]`, before anything that costs memory.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let spec = args.next().unwrap_or_default();
    let init = args.next().is_some_and(|arg| arg == INIT);
    let result = read(Path::new(&spec)).and_then(|parsed| match init {
        false => enter(Path::new(&spec), &parsed),
        true => live(&parsed),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pintle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> Result<Spec> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

fn enter(path: &Path, spec: &Spec) -> Result<()> {
    let group = cgroup(&spec.cluster_id, &spec.name);
    let cgroups = Cgroups::detect()?;
    cgroups.create(&group)?;
    cgroups.join(&group, 0).context("cannot enter the node's cgroup")?;
    let host = pintle_network::bridge::Host::open().context("cannot open a netlink socket")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("cannot make namespaces")?;
    host.attach(&spec.cluster_id, &spec.link, spec.address, spec.gateway.into()).context("cannot wire the node")?;
    let mut child = Command::new(&spec.executable)
        .arg(VERB)
        .arg(path)
        .arg(INIT)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the node's first process")?;
    fs::write(&spec.pid, child.id().to_string()).with_context(|| format!("cannot write {}", spec.pid.display()))?;
    // It is the host's first process' child from now on, if it has not failed at once.
    match child.try_wait()? {
        Some(status) => bail!("the node's first process ended: {status}"),
        None => Ok(()),
    }
}

fn live(spec: &Spec) -> Result<()> {
    nix::unistd::setsid().context("cannot leave the session")?;
    nix::unistd::sethostname(&spec.name).context("cannot set the node's host name")?;
    let cgroups = Cgroups::detect()?;
    mounts(spec, &cgroups)?;
    // Processes may not live beside groups in cgroup v2.
    let own = Cgroups::detect()?;
    own.create("/init")?;
    own.join("/init", 0)?;
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGUSR1] {
        mask.add(signal);
    }
    mask.thread_block().context("cannot block signals")?;
    let signals = SignalFd::new(&mask).context("cannot wait for signals")?;
    let mut agent = Agent::new(spec);
    loop {
        agent.start_if_due();
        if !ready(&signals, agent.wait())? {
            continue;
        }
        let Some(info) = signals.read_signal().context("cannot read a signal")? else { continue };
        match Signal::try_from(i32::try_from(info.ssi_signo)?)? {
            Signal::SIGCHLD => {
                while let Some(pid) = reap() {
                    agent.ended(pid);
                }
            }
            Signal::SIGTERM => agent.stop(),
            _ => agent.wanted = true,
        }
    }
}

/// Waits for a signal, at most `limit`. Whether there is one.
fn ready(signals: &SignalFd, limit: Option<Duration>) -> Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let timeout = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error).context("cannot wait for signals"),
    }
}

/// A child that ended, or an orphan that this process took in.
fn reap() -> Option<Pid> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(_) => None,
        Ok(status) => status.pid(),
    }
}

/// The agent, looked after.
struct Agent<'a> {
    spec: &'a Spec,
    wanted: bool,
    running: Option<Pid>,
    started: Option<Instant>,
}

impl<'a> Agent<'a> {
    fn new(spec: &'a Spec) -> Self {
        Agent { spec, wanted: true, running: None, started: None }
    }

    /// How long until a start is due; `None`: none will be.
    fn wait(&self) -> Option<Duration> {
        let waits = self.wanted && self.running.is_none();
        waits.then(|| self.started.map_or(Duration::ZERO, |started| PAUSE.saturating_sub(started.elapsed())))
    }

    fn start_if_due(&mut self) {
        if self.wait() != Some(Duration::ZERO) {
            return;
        }
        self.started = Some(Instant::now());
        match self.spawn() {
            Ok(pid) => self.running = Some(pid),
            Err(error) => eprintln!("pintle: cannot start the agent, will try again: {error:#}"),
        }
    }

    fn spawn(&self) -> Result<Pid> {
        let log = fs::File::options().create(true).append(true).open(&self.spec.log)?;
        let mut command = Command::new(&self.spec.executable);
        command.args(&self.spec.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    fn ended(&mut self, pid: Pid) {
        if self.running == Some(pid) {
            self.running = None;
        }
    }

    fn stop(&mut self) {
        self.wanted = false;
        if let Some(pid) = self.running
            && let Err(error) = kill(pid, Signal::SIGTERM)
        {
            eprintln!("pintle: cannot stop the agent: {error}");
        }
    }
}

/// The file systems of a host of its own; all others are the machine's.
fn mounts(spec: &Spec, cgroups: &Cgroups) -> Result<()> {
    let none = None::<&str>;
    // The machine's mounts come and go here too, the node's stay here.
    for flags in [MsFlags::MS_SLAVE, MsFlags::MS_SHARED] {
        mount(none, "/", none, flags | MsFlags::MS_REC, none).context("cannot part the node's mounts")?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).context("cannot mount /proc")?;
    let hierarchies = cgroups.mounts();
    umount2("/sys", MntFlags::MNT_DETACH).context("cannot leave the machine's /sys")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, none).context("cannot mount /sys")?;
    if cgroups.is_v2() {
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, none).context("cannot mount cgroup2")?;
    } else {
        mount(Some("tmpfs"), "/sys/fs/cgroup", Some("tmpfs"), flags, Some("mode=755"))
            .context("cannot mount /sys/fs/cgroup")?;
    }
    for (path, controllers) in hierarchies {
        hierarchy(&path, &controllers).with_context(|| format!("cannot mount {}", path.display()))?;
    }
    mount(Some(spec.run.as_path()), "/run/pintle", none, MsFlags::MS_BIND, none)
        .context("cannot give the node a /run/pintle of its own")
}

/// Mounts one v1 hierarchy, with a link for each of several controllers.
fn hierarchy(path: &Path, controllers: &[String]) -> Result<()> {
    fs::create_dir_all(path)?;
    let mut options = controllers.join(",");
    if controllers.iter().all(|controller| controller.starts_with("name=")) {
        options.insert_str(0, "none,");
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup"), path, Some("cgroup"), flags, Some(options.as_str()))?;
    if let (true, Some(directory), Some(name)) = (controllers.len() > 1, path.parent(), path.file_name()) {
        for controller in controllers {
            std::os::unix::fs::symlink(name, directory.join(controller))?;
        }
    }
    Ok(())
}
