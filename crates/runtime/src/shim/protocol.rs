//! What `pintle` and a pod's shim say to each other: JSON messages over a `SOCK_SEQPACKET` Unix socket, with file
//! descriptors attached where a stream is handed over.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest message.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most file descriptors in one message.
pub const MAX_FDS: usize = 4;
/// The socket's name in the sandbox's state directory.
pub const SOCKET: &str = "shim.sock";
/// The configuration's name in the sandbox's state directory.
pub const CONFIG: &str = "shim.json";

/// How a shim sets up its sandbox: `shim.json` in its state directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// The sandbox's id.
    pub id: String,
    /// The group of the machine's control groups in which the shim itself runs; as it was started if empty.
    pub shim_cgroup: String,
    /// Make a network namespace (otherwise the pod is on the host's network).
    pub new_network: bool,
    /// Make an IPC namespace.
    pub new_ipc: bool,
    /// Make a PID namespace that all containers share, with an init that reaps.
    pub shared_pid: bool,
    /// The host name, in a UTS namespace of its own; the host's if empty.
    pub hostname: String,
    /// Namespaced kernel parameters.
    pub sysctls: Vec<(String, String)>,
    /// Size of `/dev/shm` in bytes; none is mounted if 0.
    pub shm_size: u64,
}

/// An overlay file system to be mounted as a container's root.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overlay {
    /// The directory that the lower paths are relative to.
    pub base: PathBuf,
    /// The layers, uppermost first, relative to `base`.
    pub lower: Vec<String>,
    /// The writable layer.
    pub upper: PathBuf,
    /// Overlayfs' own directory beside `upper`.
    pub work: PathBuf,
}

/// A container to start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StartContainer {
    /// The container's id.
    pub id: String,
    /// The OCI bundle: `config.json` and the empty directory `rootfs`.
    pub bundle: PathBuf,
    /// Where `libcontainer` keeps its state.
    pub oci_root: PathBuf,
    /// The root file system.
    pub overlay: Overlay,
    /// The group in the machine's control groups.
    pub cgroup: String,
    /// The CRI log file; output is dropped if empty.
    pub log_path: PathBuf,
    /// Run with a terminal.
    pub tty: bool,
    /// Keep a standard input open.
    pub stdin: bool,
    /// Close the standard input when the first attach ends.
    pub stdin_once: bool,
    /// Mounts to be made in the bundle before the start (image volumes).
    pub image_mounts: Vec<ImageMount>,
    /// Directories of the image to be bound into the root before the start.
    #[serde(default)]
    pub volumes: Vec<ImageVolume>,
}

/// An image that is mounted read-only at a directory, from where the spec binds it into the container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageMount {
    /// The layers.
    pub overlay: Overlay,
    /// Where to mount.
    pub target: PathBuf,
    /// The place in the image that is mounted; all of it if empty.
    #[serde(default)]
    pub sub_path: String,
}

/// A directory of the image that lives outside of the container's root (`VOLUME` in a Dockerfile).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageVolume {
    /// The path in the container.
    pub path: PathBuf,
    /// Where it lives; the image's content is copied there when it is empty.
    pub source: PathBuf,
}

/// A path of the node that is bound to a place in the bundle, from where the spec binds it into the container: that is how
/// it gets its own mount propagation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The path on the node.
    pub source: PathBuf,
    /// The place in the bundle.
    pub target: PathBuf,
    /// Later mounts of the node arrive in the container.
    pub slave: bool,
}

/// The name of the file with the [`Bind`]s in the bundle.
pub const BINDS: &str = "binds.json";

/// A request. Each connection carries one, except `Subscribe`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Send [`Event`]s from now on.
    Subscribe,
    /// Create and start a container. Answered when its program runs.
    Start(Box<StartContainer>),
    /// Send a signal to a container's first process, or to all of them.
    Kill {
        /// The container's id.
        id: String,
        /// The signal's number.
        signal: i32,
        /// Every process of the container.
        all: bool,
    },
    /// Run a process in a container. Without a terminal three descriptors come along: stdin, stdout, stderr. Answered
    /// by [`Reply::ExecStarted`] (with the terminal's master side), and when it ends by [`Reply::ExecExited`]. A second
    /// message `KillExec` on the same connection kills it.
    Exec {
        /// The container's id.
        id: String,
        /// A file with the OCI process to run; removed by the shim.
        process: PathBuf,
        /// Run with a terminal.
        tty: bool,
    },
    /// Kill the process of an earlier `Exec` on this connection.
    KillExec,
    /// Copy a container's output to the two descriptors that come along (stdout, stderr). The answer carries the
    /// terminal's master side or the writing side of stdin, if the container has one.
    Attach {
        /// The container's id.
        id: String,
    },
    /// The first attach ended: close the standard input of a `stdin_once` container.
    CloseStdin {
        /// The container's id.
        id: String,
    },
    /// Open the log file anew (it was rotated away).
    ReopenLog {
        /// The container's id.
        id: String,
    },
    /// Connect to a TCP port on the sandbox's loopback. The answer carries the socket, which may still be connecting.
    Connect {
        /// The port.
        port: u16,
        /// To `::1` instead of `127.0.0.1`.
        ipv6: bool,
    },
    /// What became of all containers.
    List,
    /// Forget an exited container.
    Forget {
        /// The container's id.
        id: String,
    },
    /// Kill everything and exit.
    Shutdown,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The sandbox's namespaces are there (sent once, on the connection that the shim was started with).
    Ready,
    /// Done.
    Done,
    /// A container runs.
    Started(ContainerState),
    /// A process runs.
    ExecStarted {
        /// Its pid on the host.
        pid: i32,
    },
    /// A process ended.
    ExecExited {
        /// Its exit code; 128 + the signal's number if it was killed.
        code: i32,
    },
    /// All containers.
    Containers(Vec<ContainerState>),
    /// It failed, and why.
    Failed(String),
}

/// What a shim tells its subscribers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A container's first process ended.
    Exited(ContainerState),
}

/// A container as its shim knows it. Also the content of `exit.json` in the bundle after the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The container's id.
    pub id: String,
    /// The first process' pid on the host.
    pub pid: i32,
    /// When it was started, in nanoseconds since 1970.
    pub started_at: i64,
    /// When it ended, in nanoseconds since 1970; 0 while it runs.
    pub finished_at: i64,
    /// The exit code; 128 + the signal's number if it was killed.
    pub exit_code: i32,
    /// The kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
}
