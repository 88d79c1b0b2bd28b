//! One cluster of Pintle for a measurement, and commands that must succeed.
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cluster with a data directory of its own; reset when dropped.
pub struct Cluster {
    /// The binary.
    pub pintle: PathBuf,
    /// Where all its files are.
    pub dir: tempfile::TempDir,
}

impl Cluster {
    /// A cluster that has not been started.
    pub fn new(pintle: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pintle-bench-").tempdir()?;
        let pintle = pintle.canonicalize().with_context(|| format!("{}: build it first", pintle.display()))?;
        Ok(Cluster { pintle, dir })
    }

    /// A command of the binary on this cluster.
    pub fn command(&self, verbs: &[&str]) -> Command {
        let mut command = Command::new(&self.pintle);
        command.args(verbs).arg("--data-dir").arg(self.data());
        command
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts it; returns when the node is Ready.
    pub fn up(&self) -> Result<()> {
        run(self.command(&["up"]).arg("--detach").arg("--kubeconfig").arg(self.kubeconfig()))?;
        Ok(())
    }

    /// Ends it; the pods run on.
    pub fn down(&self) -> Result<()> {
        run(&mut self.command(&["down"]))?;
        Ok(())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// What `pintle status` says.
    pub fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&run(self.command(&["status"]).arg("--json"))?)?)
    }

    /// The process that runs it.
    pub fn pid(&self) -> Result<i32> {
        let pid = self.status()?["pid"].as_i64().context("the cluster does not run")?;
        Ok(pid.try_into()?)
    }

    /// A client of its API.
    pub async fn client(&self) -> Result<kube::Client> {
        client_of(&self.kubeconfig()).await
    }

    /// Makes an image of busybox's `applets` and gives it to the cluster.
    pub fn load_busybox(&self, name: &str, applets: &[&str]) -> Result<()> {
        let root = self.dir.path().join("image");
        std::fs::create_dir_all(root.join("bin"))?;
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).context("install busybox-static")?;
        for applet in applets {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        let tar = self.dir.path().join("busybox.tar");
        let mut pack = Command::new(&self.pintle);
        run(pack.args(["image", "pack"]).arg(&root).args(["--name", name]).arg("--output").arg(&tar))?;
        run(self.command(&["image", "load"]).arg(&tar))?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = run(self.command(&["reset"]).arg("--yes")) {
            eprintln!("cannot reset the cluster: {error:#}");
        }
    }
}

/// A client with this kubeconfig.
pub async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    let config = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Runs a command that must succeed; returns what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        anyhow::bail!("{command:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
