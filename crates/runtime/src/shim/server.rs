//! The shim's poll loop: requests, helpers, output, exits.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, fork, pipe2};

use super::containers::{Attachment, Container, Output, Phase, set_nonblocking};
use super::log::{Log, Stream, now_nanoseconds};
use super::protocol::{ContainerState, Event, MAX_MESSAGE, Reply, Request, SOCKET, StartContainer};
use super::start::{self, Progress, Stdio};
use super::{exec, socket};
use crate::cgroup::Cgroups;

/// Blocks the signals that the loop takes from the returned descriptor.
pub fn block_signals() -> io::Result<OwnedFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals.thread_block()?;
    let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
    // SAFETY: the set lives until after the call; the result is a new descriptor.
    let fd = unsafe { libc::signalfd(-1, signals.as_ref(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A client.
#[derive(Debug)]
struct Connection {
    id: u64,
    fd: OwnedFd,
    subscribed: bool,
}

/// A process beside a container's first one.
#[derive(Debug)]
struct Exec {
    connection: u64,
    /// The helper's messages until the program runs.
    progress: Option<OwnedFd>,
    pid: i32,
    master: Option<OwnedFd>,
    failed: Option<String>,
    ended: Option<i32>,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    ContainerProgress(usize),
    ExecProgress(RawFd),
    Output(usize),
    Attachment(usize),
}

/// The shim's state.
#[derive(Debug)]
pub struct Server {
    cgroups: Cgroups,
    signals: OwnedFd,
    listener: OwnedFd,
    /// The shared PID namespace's init.
    init: Option<i32>,
    connections: Vec<Connection>,
    next_connection: u64,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    /// Children that ended before their helper told whose they are.
    strangers: Vec<(i32, i32)>,
    buffer: Vec<u8>,
    /// Who asked to shut down.
    closing: Option<u64>,
}

impl Server {
    /// A shim whose namespaces are there.
    pub fn new(cgroups: Cgroups, signals: OwnedFd, listener: OwnedFd, init: Option<i32>) -> Self {
        Self {
            cgroups,
            signals,
            listener,
            init,
            connections: Vec::new(),
            next_connection: 0,
            containers: Vec::new(),
            execs: Vec::new(),
            strangers: Vec::new(),
            buffer: vec![0; MAX_MESSAGE],
            closing: None,
        }
    }

    /// Serves until the sandbox is shut down.
    pub fn run(&mut self) {
        while !self.is_finished() {
            let (sources, mut fds) = self.poll_set();
            // SAFETY: the array lives until after the call and its length is given.
            let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
            if count < 0 {
                continue;
            }
            // Last first, so that an index into `containers` stays right when a later one is removed.
            for (source, fd) in sources.into_iter().zip(fds).rev() {
                if fd.revents != 0 {
                    self.handle(source, fd.fd);
                }
            }
        }
        self.clean_up();
    }

    fn is_finished(&self) -> bool {
        self.closing.is_some() && self.containers.iter().all(|container| matches!(container.phase, Phase::Exited))
    }

    fn clean_up(&mut self) {
        if let Some(init) = self.init {
            // SAFETY: kill and waitpid have no memory effects here; the pid is our own child.
            unsafe {
                libc::kill(init, libc::SIGKILL);
                libc::waitpid(init, std::ptr::null_mut(), 0);
            }
        }
        for mount in ["netns", "pidns", "shm"] {
            // Not every sandbox has all.
            nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).ok();
        }
        std::fs::remove_file(SOCKET).ok();
        if let Some(connection) = self.closing {
            self.reply(connection, &Reply::Done, &[]);
        }
    }

    fn poll_set(&self) -> (Vec<Source>, Vec<libc::pollfd>) {
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut add = |source, fd: RawFd, events| {
            sources.push(source);
            fds.push(libc::pollfd { fd, events, revents: 0 });
        };
        add(Source::Signals, self.signals.as_raw_fd(), libc::POLLIN);
        add(Source::Listener, self.listener.as_raw_fd(), libc::POLLIN);
        for connection in &self.connections {
            add(Source::Connection(connection.id), connection.fd.as_raw_fd(), libc::POLLIN);
        }
        for exec in &self.execs {
            if let Some(progress) = &exec.progress {
                add(Source::ExecProgress(progress.as_raw_fd()), progress.as_raw_fd(), libc::POLLIN);
            }
        }
        for (index, container) in self.containers.iter().enumerate() {
            if let Phase::Starting { progress, .. } = &container.phase {
                add(Source::ContainerProgress(index), progress.as_raw_fd(), libc::POLLIN);
            }
            if container.may_read() {
                for output in &container.outputs {
                    add(Source::Output(index), output.fd.as_raw_fd(), libc::POLLIN);
                }
            }
            for attachment in &container.attachments {
                if let Some(fd) = attachment.waiting_for() {
                    add(Source::Attachment(index), fd, libc::POLLOUT);
                }
            }
        }
        (sources, fds)
    }

    fn handle(&mut self, source: Source, fd: RawFd) {
        match source {
            Source::Signals => self.take_signals(),
            Source::Listener => self.accept(),
            Source::Connection(id) => self.take_request(id),
            Source::ContainerProgress(index) => self.container_progress(index),
            Source::ExecProgress(fd) => self.exec_progress(fd),
            Source::Output(index) => {
                if let Some(container) = self.containers.get_mut(index) {
                    container.read_output(fd, &mut self.buffer);
                }
            }
            Source::Attachment(index) => {
                if let Some(container) = self.containers.get_mut(index) {
                    container.attachments.iter_mut().for_each(Attachment::flush);
                    container.attachments.retain(|attachment| !attachment.is_closed());
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no address is asked for; the result is a new descriptor.
        let fd = unsafe { libc::accept4(self.listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        if fd >= 0 {
            self.next_connection += 1;
            // SAFETY: just made, owned by nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            self.connections.push(Connection { id: self.next_connection, fd, subscribed: false });
        }
    }

    fn reply(&mut self, connection: u64, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        if let Some(index) = self.connections.iter().position(|c| c.id == connection)
            && socket::send(self.connections[index].fd.as_fd(), reply, fds).is_err()
        {
            self.connections.remove(index);
        }
    }

    fn answer(&mut self, connection: u64, result: Result<(), String>) {
        let reply = match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(error),
        };
        self.reply(connection, &reply, &[]);
    }

    fn publish(&mut self, state: &ContainerState) {
        let event = Event::Exited(state.clone());
        self.connections
            .retain(|connection| !connection.subscribed || socket::send(connection.fd.as_fd(), &event, &[]).is_ok());
    }

    fn take_request(&mut self, id: u64) {
        let Some(connection) = self.connections.iter().find(|connection| connection.id == id) else { return };
        match socket::receive::<Request>(connection.fd.as_fd(), &mut self.buffer) {
            Ok(Some((request, fds))) => self.request(id, request, fds),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.connections.retain(|connection| connection.id != id),
        }
    }

    fn request(&mut self, connection: u64, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Subscribe => {
                if let Some(client) = self.connections.iter_mut().find(|client| client.id == connection) {
                    client.subscribed = true;
                }
                let states = self.states();
                self.reply(connection, &Reply::Containers(states), &[]);
            }
            Request::Start(request) => {
                if let Err(error) = self.start(connection, &request) {
                    self.reply(connection, &Reply::Failed(error), &[]);
                }
            }
            Request::Kill { id, signal, all } => {
                let result = self.kill(&id, signal, all);
                self.answer(connection, result);
            }
            Request::Exec { id, process, tty } => {
                if let Err(error) = self.exec(connection, &id, &process, tty, fds) {
                    self.reply(connection, &Reply::Failed(error), &[]);
                }
            }
            Request::KillExec => {
                if let Some(exec) = self.execs.iter().find(|exec| exec.connection == connection && exec.pid > 0) {
                    // SAFETY: kill has no memory effects; the pid is an unreaped descendant.
                    unsafe { libc::kill(exec.pid, libc::SIGKILL) };
                }
            }
            Request::Attach { id } => self.attach(connection, &id, fds),
            Request::CloseStdin { id } => {
                let result = self.find(&id).map(|container| {
                    if container.stdin_once && !container.tty {
                        container.input = None;
                    }
                });
                self.answer(connection, result);
            }
            Request::ReopenLog { id } => {
                let result = self.find(&id).and_then(|container| {
                    container.log.reopen().map_err(|error| format!("cannot open the log again: {error}"))
                });
                self.answer(connection, result);
            }
            Request::Connect { port, ipv6 } => match connect_loopback(port, ipv6) {
                Ok(socket) => self.reply(connection, &Reply::Done, &[socket.as_fd()]),
                Err(error) => self.reply(connection, &Reply::Failed(error.to_string()), &[]),
            },
            Request::List => {
                let states = self.states();
                self.reply(connection, &Reply::Containers(states), &[]);
            }
            Request::Forget { id } => {
                self.containers.retain(|c| c.state.id != id || !matches!(c.phase, Phase::Exited));
                self.containers.shrink_to_fit();
                self.answer(connection, Ok(()));
            }
            Request::Shutdown => {
                self.closing = Some(connection);
                for container in &self.containers {
                    if !matches!(container.phase, Phase::Exited) {
                        self.cgroups.kill(&container.cgroup);
                    }
                }
            }
        }
    }

    fn states(&self) -> Vec<ContainerState> {
        let known = |container: &&Container| !matches!(container.phase, Phase::Starting { .. });
        self.containers.iter().filter(known).map(|container| container.state.clone()).collect()
    }

    fn find(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers
            .iter_mut()
            .find(|container| container.state.id == id && !matches!(container.phase, Phase::Starting { .. }))
            .ok_or_else(|| format!("container {id:?} is not running"))
    }

    fn start(&mut self, connection: u64, request: &StartContainer) -> Result<(), String> {
        if self.closing.is_some() {
            return Err("the sandbox is being stopped".to_owned());
        }
        if self.containers.iter().any(|container| container.state.id == request.id) {
            return Err(format!("container {:?} was started before", request.id));
        }
        let failed = |error: io::Error| format!("cannot start a container: {error}");
        let log = Log::open(&request.log_path)
            .map_err(|error| format!("cannot open the log {}: {error}", request.log_path.display()))?;
        let (progress, theirs) = socket::pair().map_err(failed)?;
        let mut outputs = Vec::new();
        let mut input = None;
        let stdio = if request.tty {
            None
        } else {
            let (out_read, stdout) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
            let (err_read, stderr) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
            outputs.push(Output::new(out_read, Stream::Stdout).map_err(failed)?);
            outputs.push(Output::new(err_read, Stream::Stderr).map_err(failed)?);
            let stdin = if request.stdin {
                let (stdin, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
                input = Some(write);
                stdin
            } else {
                std::fs::File::open("/dev/null").map_err(failed)?.into()
            };
            Some(Stdio { stdin, stdout, stderr })
        };
        // SAFETY: the shim has one thread, so the child may do anything.
        match unsafe { fork() }.map_err(|error| failed(error.into()))? {
            ForkResult::Child => {
                drop(progress);
                self.let_go();
                reset_signals();
                start::run(request, &self.cgroups, stdio, &theirs)
            }
            ForkResult::Parent { .. } => {}
        }
        self.containers.push(Container {
            state: ContainerState { id: request.id.clone(), ..ContainerState::default() },
            phase: Phase::Starting { progress, connection, ended: None },
            cgroup: request.cgroup.clone(),
            bundle: request.bundle.clone(),
            log,
            outputs,
            input,
            tty: request.tty,
            stdin_once: request.stdin_once,
            attachments: Vec::new(),
        });
        Ok(())
    }

    /// For a forked helper: closes what clients know the shim by. A container that waits to be started would otherwise keep
    /// it open when the shim is killed, and clients would wait for answers for ever.
    fn let_go(&mut self) {
        self.connections.clear();
        self.execs.clear();
        for fd in [self.listener.as_raw_fd(), self.signals.as_raw_fd()] {
            // SAFETY: the helper never returns to the server, so nothing uses or closes the descriptor again.
            unsafe { libc::close(fd) };
        }
    }

    fn container_progress(&mut self, index: usize) {
        let Some(container) = self.containers.get_mut(index) else { return };
        let Phase::Starting { progress, connection, ended } = &mut container.phase else { return };
        let connection = *connection;
        let failure = match socket::receive::<Progress>(progress.as_fd(), &mut self.buffer) {
            Ok(Some((Progress::Created { pid }, fds))) => {
                container.state.pid = pid;
                *ended = take_stranger(&mut self.strangers, pid);
                if let Some(master) = fds.into_iter().next() {
                    let reader = master.try_clone().and_then(|fd| Output::new(fd, Stream::Stdout));
                    container.outputs.extend(reader);
                    container.input = Some(master);
                }
                return;
            }
            Ok(Some((Progress::Running, _))) => {
                let ended = *ended;
                container.state.started_at = now_nanoseconds();
                container.phase = Phase::Running;
                let state = container.state.clone();
                self.reply(connection, &Reply::Started(state), &[]);
                if let Some(status) = ended {
                    self.container_ended(index, status);
                }
                return;
            }
            Ok(Some((Progress::Failed(error), _))) => error,
            Ok(None) | Err(_) => "the helper that starts the container ended unexpectedly".to_owned(),
        };
        let container = self.containers.remove(index);
        self.cgroups.kill(&container.cgroup);
        self.reply(connection, &Reply::Failed(failure), &[]);
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<(), String> {
        let container = self.find(id)?;
        if !matches!(container.phase, Phase::Running) {
            return Ok(());
        }
        if all && signal == libc::SIGKILL {
            let cgroup = container.cgroup.clone();
            self.cgroups.kill(&cgroup);
            return Ok(());
        }
        // SAFETY: kill has no memory effects; the pid is our unreaped child.
        if unsafe { libc::kill(container.state.pid, signal) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ESRCH) {
                return Err(format!("cannot send signal {signal}: {error}"));
            }
        }
        Ok(())
    }

    fn exec(&mut self, connection: u64, id: &str, process: &Path, tty: bool, fds: Vec<OwnedFd>) -> Result<(), String> {
        let container = self.find(id)?;
        if !matches!(container.phase, Phase::Running) {
            return Err(format!("container {id:?} is not running"));
        }
        let (pid, cgroup) = (container.state.pid, container.cgroup.clone());
        let mut fds = fds.into_iter();
        let stdio = match (tty, fds.next(), fds.next(), fds.next()) {
            (true, ..) => None,
            (false, Some(stdin), Some(stdout), Some(stderr)) => Some(Stdio { stdin, stdout, stderr }),
            _ => return Err("the standard streams are missing".to_owned()),
        };
        let (progress, theirs) = socket::pair().map_err(|error| format!("cannot run a process: {error}"))?;
        // SAFETY: the shim has one thread, so the child may do anything.
        match unsafe { fork() }.map_err(|error| format!("cannot fork: {error}"))? {
            ForkResult::Child => {
                drop(progress);
                self.let_go();
                reset_signals();
                let target = exec::Target { pid, cgroup: &cgroup, cgroups: &self.cgroups };
                exec::run(process, &target, stdio, &theirs)
            }
            ForkResult::Parent { .. } => {}
        }
        self.execs.push(Exec { connection, progress: Some(progress), pid: 0, master: None, failed: None, ended: None });
        Ok(())
    }

    fn exec_progress(&mut self, fd: RawFd) {
        let is_it = |exec: &Exec| exec.progress.as_ref().is_some_and(|progress| progress.as_raw_fd() == fd);
        let Some(index) = self.execs.iter().position(is_it) else { return };
        let exec = &mut self.execs[index];
        let Some(progress) = &exec.progress else { return };
        match socket::receive::<Progress>(progress.as_fd(), &mut self.buffer) {
            Ok(Some((Progress::Created { pid }, _))) => {
                exec.pid = pid;
                exec.ended = take_stranger(&mut self.strangers, pid);
            }
            Ok(Some((Progress::Running, fds))) => exec.master = fds.into_iter().next(),
            Ok(Some((Progress::Failed(error), _))) => exec.failed = Some(error),
            // The socket closes when the program runs, or nothing is left that could run it.
            Ok(None) | Err(_) => {
                exec.progress = None;
                let connection = exec.connection;
                if exec.failed.is_some() || exec.pid == 0 {
                    let exec = self.execs.remove(index);
                    let error = exec.failed.unwrap_or_else(|| "the helper ended unexpectedly".to_owned());
                    self.reply(connection, &Reply::Failed(error), &[]);
                    return;
                }
                let (pid, ended, master) = (exec.pid, exec.ended, exec.master.take());
                let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
                self.reply(connection, &Reply::ExecStarted { pid }, &fds);
                if let Some(status) = ended {
                    self.execs.remove(index);
                    self.reply(connection, &Reply::ExecExited { code: exit_code(status) }, &[]);
                }
            }
        }
    }

    fn attach(&mut self, connection: u64, id: &str, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let result = self.find(id).and_then(|container| {
            if !matches!(container.phase, Phase::Running) {
                return Err(format!("container {id:?} is not running"));
            }
            let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
                return Err("the streams are missing".to_owned());
            };
            let attachment = Attachment::new(stdout, stderr).map_err(|error| error.to_string())?;
            let input = container.input.as_ref().map(OwnedFd::try_clone).transpose().map_err(|e| e.to_string())?;
            container.attachments.push(attachment);
            Ok(input)
        });
        match result {
            Ok(input) => {
                let fds: Vec<BorrowedFd<'_>> = input.iter().map(AsFd::as_fd).collect();
                self.reply(connection, &Reply::Done, &fds);
            }
            Err(error) => self.reply(connection, &Reply::Failed(error), &[]),
        }
    }

    fn take_signals(&mut self) {
        // SAFETY: an all-zero signalfd_siginfo is a valid value, and read gets its size.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: as above. SIGTERM and SIGHUP of whoever started pintle are not for the containers: they are dropped.
        while unsafe { libc::read(self.signals.as_raw_fd(), (&raw mut info).cast(), size) } > 0 {}
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one int.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                if pid < 0 && Errno::last() == Errno::EINTR {
                    continue;
                }
                break;
            }
            self.child_ended(pid, status);
        }
    }

    fn child_ended(&mut self, pid: i32, status: i32) {
        if self.init == Some(pid) {
            self.init = None;
            return;
        }
        if let Some(index) =
            self.containers.iter().position(|c| c.state.pid == pid && !matches!(c.phase, Phase::Exited))
        {
            if let Phase::Starting { ended, .. } = &mut self.containers[index].phase {
                *ended = Some(status);
            } else {
                self.container_ended(index, status);
            }
            return;
        }
        if let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) {
            if self.execs[index].progress.is_some() {
                self.execs[index].ended = Some(status);
            } else {
                let exec = self.execs.remove(index);
                self.reply(exec.connection, &Reply::ExecExited { code: exit_code(status) }, &[]);
            }
            return;
        }
        let starting = self.containers.iter().any(|c| matches!(c.phase, Phase::Starting { .. }) && c.state.pid == 0)
            || self.execs.iter().any(|exec| exec.pid == 0);
        if starting {
            self.strangers.push((pid, status));
        } else {
            self.strangers = Vec::new();
        }
    }

    fn container_ended(&mut self, index: usize, status: i32) {
        let container = &mut self.containers[index];
        container.state.exit_code = exit_code(status);
        container.state.oom_killed = self.cgroups.oom_kills(&container.cgroup) > 0;
        // What shares the host's or the pod's PID namespace does not end with the first process by itself.
        self.cgroups.kill(&container.cgroup);
        container.drain(&mut self.buffer);
        container.state.finished_at = now_nanoseconds();
        container.input = None;
        container.phase = Phase::Exited;
        container.record_exit();
        let state = container.state.clone();
        self.publish(&state);
    }
}

fn take_stranger(strangers: &mut Vec<(i32, i32)>, pid: i32) -> Option<i32> {
    let index = strangers.iter().position(|(known, _)| *known == pid)?;
    Some(strangers.swap_remove(index).1)
}

/// The exit code as Kubernetes shows it.
fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Gives a forked helper, and so the container, the signals that programs expect.
fn reset_signals() {
    // Neither call can fail with valid arguments.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).ok();
    // SAFETY: sets the default action; no handler of ours is involved.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.ok();
}

/// A TCP socket that is connecting to the sandbox's loopback.
fn connect_loopback(port: u16, ipv6: bool) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, socket};
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    set_nonblocking(&fd)?;
    let result = if ipv6 {
        let address = std::net::SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, port, 0, 0);
        connect(fd.as_raw_fd(), &SockaddrIn6::from(address))
    } else {
        connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port))
    };
    match result {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}
