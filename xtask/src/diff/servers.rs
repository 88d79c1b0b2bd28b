//! The two servers under comparison, started together and stopped when dropped. Start at [`Servers::start`].
use super::Args;
use anyhow::{Context, Result};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Addresses of Services, the same on both sides.
const SERVICE_CIDR: &str = "10.96.0.0/12";

/// Upstream's API server and Pintle's.
pub struct Servers {
    script: PathBuf,
    ports: [u16; 2],
    pintle: PathBuf,
    directory: tempfile::TempDir,
}

impl Servers {
    /// Starts both.
    pub fn start(args: &Args) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("pintle-diff-").tempdir()?;
        let pintle =
            args.pintle.canonicalize().with_context(|| format!("{}: build it first", args.pintle.display()))?;
        let script = args.upstream.join("apiserver.sh").canonicalize().context("upstream's apiserver.sh")?;
        let servers = Servers { script, ports: [free_port()?, free_port()?], pintle, directory };
        run(servers.oracle("start"))?;
        let mut server = servers.pintle("server");
        server.args(["--detach", "--service-cidr", SERVICE_CIDR, "--bind-address", "127.0.0.1", "--https-port"]);
        server.arg(free_port()?.to_string()).arg("--kubeconfig").arg(servers.pintle_kubeconfig());
        run(server)?;
        Ok(servers)
    }

    /// The administrator's kubeconfig of upstream's server.
    pub fn upstream_kubeconfig(&self) -> PathBuf {
        self.directory.path().join("oracle/admin.kubeconfig")
    }

    /// The administrator's kubeconfig of Pintle's server.
    pub fn pintle_kubeconfig(&self) -> PathBuf {
        self.directory.path().join("pintle.kubeconfig")
    }

    /// A directory for files of the comparison.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    fn oracle(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.script);
        let [port, etcd] = self.ports.map(|port| port.to_string());
        command.arg(verb).env("RUN", self.directory.path().join("oracle")).env("PORT", port).env("EPORT", etcd);
        command
    }

    fn pintle(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.pintle);
        command.arg(verb).arg("--data-dir").arg(self.directory.path().join("pintle"));
        command
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let mut reset = self.pintle("reset");
        reset.arg("--yes");
        for command in [self.oracle("stop"), reset] {
            if let Err(error) = run(command) {
                eprintln!("cannot clean up: {error:#}");
            }
        }
    }
}

/// A port that was free a moment ago, and its neighbour too (etcd takes two).
fn free_port() -> Result<u16> {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
}

/// Runs a command that must succeed. Its output goes to a file: what it leaves in the background keeps the file open.
fn run(mut command: Command) -> Result<()> {
    let output = tempfile::NamedTempFile::new()?;
    let status = command.stdout(output.reopen()?).stderr(output.reopen()?).stdin(std::process::Stdio::null()).status();
    if !status.with_context(|| format!("{command:?}"))?.success() {
        anyhow::bail!("{command:?} failed: {}", std::fs::read_to_string(output.path())?);
    }
    Ok(())
}
