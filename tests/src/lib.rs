//! Whole-cluster tests: the real binary, the real kubectl, real containers. Start at [`Host`] and [`Cluster`].
//!
//! Each test runs in a network namespace of its own and ends by checking that nothing of it is left. They need root, the
//! binary (`PINTLE`) and the examples' images (`PINTLE_IMAGES`), which `./test` provides.
#![allow(clippy::unwrap_used)]
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a condition of a cluster may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine of its own as far as the network goes: a namespace with an interface, an address and a default route.
pub struct Host {
    name: String,
    /// The address of its interface.
    pub address: &'static str,
}

impl Host {
    /// A new namespace; `test` names it.
    pub fn new(test: &str) -> Self {
        let host = Host { name: format!("pt-{test}-{}", std::process::id()), address: "198.51.100.2" };
        let name = &host.name;
        let peer = format!("ptp{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", name]));
        for line in [
            "link set lo up".to_owned(),
            format!("link add eth0 type veth peer name {peer}"),
            format!("link set {peer} up"),
            "link set eth0 up".to_owned(),
            format!("addr add {}/24 dev eth0", host.address),
            "route add default via 198.51.100.1".to_owned(),
        ] {
            run(host.command("ip").args(line.split(' ')));
        }
        host
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// Links, nftables tables and routes that the host did not have when it was made.
    fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for link in json(self.command("ip").args(["-j", "link"])).as_array().unwrap() {
            let name = link["ifname"].as_str().unwrap().to_owned();
            if !["lo", "eth0", "ifb0", "ifb1"].contains(&name.as_str()) && !name.starts_with("ptp") {
                found.push(format!("link {name}"));
            }
        }
        found.extend(
            text(self.command("nft").args(["list", "tables"])).lines().map(|table| format!("nftables {table}")),
        );
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// A disk of its own, in memory; dropped, it is unmounted.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// An empty disk of `mib` MiB.
    pub fn new(mib: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("pintle-disk-").tempdir().unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(dir.path()));
        Disk(dir)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left; returns the file that takes it.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let block = vec![1; 64 << 10];
        let full = std::iter::repeat_with(|| std::io::Write::write_all(&mut file, &block)).find_map(Result::err);
        assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.path()));
    }
}

/// One cluster on a host; dropped, it is reset and every trace is looked for.
pub struct Cluster<'a> {
    host: &'a Host,
    dir: tempfile::TempDir,
}

impl<'a> Cluster<'a> {
    /// A cluster that is up: its node is Ready.
    pub fn up(host: &'a Host) -> Self {
        let cluster = Cluster::new(host);
        let output = cluster.start(&[]);
        assert!(output.status.success(), "up failed:\n{}", show(&output));
        cluster
    }

    /// A cluster that has not been started.
    pub fn new(host: &'a Host) -> Self {
        Cluster::below(host, &std::env::temp_dir())
    }

    /// A cluster that has not been started, with its files below `parent`.
    pub fn below(host: &'a Host, parent: &Path) -> Self {
        Cluster { host, dir: tempfile::Builder::new().prefix("pintle-test-").tempdir_in(parent).unwrap() }
    }

    /// `pintle up --detach` with further flags.
    pub fn start(&self, flags: &[&str]) -> Output {
        let kubeconfig = self.kubeconfig();
        let mut command = self.pintle(&["up", "--detach", "--kubeconfig"]);
        command.arg(kubeconfig).args(flags).output().unwrap()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The kubeconfig that `up` wrote.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// `pintle` with the cluster's data directory.
    pub fn pintle(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(binary());
        let nested = args.first().is_some_and(|verb| ["image", "node", "token"].contains(verb));
        let (verbs, rest) = args.split_at(if nested { 2 } else { 1 });
        command.args(verbs).arg("--data-dir").arg(self.data()).args(rest);
        command
    }

    /// Loads images of the examples by name.
    pub fn load_images(&self, names: &[&str]) {
        let dir = PathBuf::from(
            std::env::var_os("PINTLE_IMAGES").expect("PINTLE_IMAGES names the examples' images; run ./test"),
        );
        for name in names {
            let tar = dir.join(format!("{name}.tar"));
            run(self.pintle(&["image", "load"]).arg(&tar));
        }
    }

    /// `kubectl` with the cluster's kubeconfig.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = self.host.command("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        command
    }

    /// Runs `kubectl`, which must succeed, and returns what it printed.
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        text(&mut self.kubectl(args))
    }

    /// Runs `kubectl`, which must fail, and returns what it said.
    pub fn kubectl_err(&self, args: &[&str]) -> String {
        let output = self.kubectl(args).output().unwrap();
        assert!(!output.status.success(), "kubectl {args:?} succeeded:\n{}", show(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// An object as JSON.
    pub fn get(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl_ok(&[&["get", "-o", "json"], args].concat())).unwrap()
    }

    /// Fetches a URL from the host; the body, or curl's error.
    pub fn curl(&self, url: &str) -> Result<String, String> {
        self.curl_with(&[url])
    }

    /// The same with further flags.
    pub fn curl_with(&self, args: &[&str]) -> Result<String, String> {
        let mut command = self.host.command("curl");
        let output = command.args(["-sS", "--fail", "--max-time", "10"]).args(args).output().unwrap();
        if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(show(&output)) }
    }

    /// The process that runs the cluster.
    pub fn pid(&self) -> i32 {
        let status: Value = json(&mut self.pintle(&["status", "--json"]));
        status["pid"].as_i64().expect("the cluster runs").try_into().unwrap()
    }

    /// Requests `url` again and again, each over a connection of its own, until stopped.
    pub fn load(&self, url: &str) -> Load {
        let script = "ok=0; bad=0; while [ ! -e \"$2\" ]; do if curl -sS --fail --max-time 10 -o /dev/null \"$1\"; \
                      then ok=$((ok+1)); else bad=$((bad+1)); fi; done; echo $ok $bad";
        let stop = self.dir.path().join("stop-load");
        let mut command = self.host.command("sh");
        let child = command.args(["-c", script, "load", url]).arg(&stop).stdout(Stdio::piped()).spawn().unwrap();
        Load { child: Some(child), stop }
    }

    /// Resets the cluster and fails if a trace of it is left.
    pub fn reset(self) {
        let id = self.id();
        run(&mut self.pintle(&["reset", "--yes"]));
        let left = self.traces(id.as_deref());
        assert!(left.is_empty(), "reset left behind: {left:#?}");
    }

    fn id(&self) -> Option<String> {
        let text = std::fs::read(self.data().join("instance.json")).ok()?;
        serde_json::from_slice::<Value>(&text).unwrap()["id"].as_str().map(str::to_owned)
    }

    fn traces(&self, id: Option<&str>) -> Vec<String> {
        let mut found = self.host.leftovers();
        let data = self.data();
        let (data, id) = (data.to_str().unwrap(), id.unwrap_or("an id that nothing has"));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        found.extend(
            mounts.lines().filter(|line| line.contains(data) || line.contains(id)).map(|line| format!("mount {line}")),
        );
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let cmdline = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
            if cmdline.contains(data) || cmdline.contains(id) {
                found.push(format!("process {cmdline}"));
            }
        }
        for path in [data, self.kubeconfig().to_str().unwrap(), &format!("/run/pintle/{id}")] {
            if Path::new(path).exists() {
                found.push(format!("file {path}"));
            }
        }
        let cgroups = text(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{id}*")]));
        found.extend(cgroups.lines().map(|dir| format!("cgroup {dir}")));
        found
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if !self.data().exists() {
            return;
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data().join("pintle.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the last lines of pintle.log, newest first:\n{}", lines.join("\n"));
            {
                let args = ["get", "pods,events", "-A", "-o", "wide"];
                eprintln!("{}", show(&self.kubectl(&args).output().unwrap()));
            }
        }
        let output = self.pintle(&["reset", "--yes"]).output().unwrap();
        if !std::thread::panicking() {
            assert!(output.status.success(), "reset failed:\n{}", show(&output));
        }
    }
}

/// Requests that go on in the background.
pub struct Load {
    child: Option<Child>,
    stop: PathBuf,
}

impl Load {
    /// Stops and returns how many requests were answered and how many were not.
    pub fn stop(mut self) -> (u64, u64) {
        std::fs::write(&self.stop, "").unwrap();
        let output = self.child.take().expect("it is stopped once").wait_with_output().unwrap();
        std::fs::remove_file(&self.stop).unwrap();
        let counts = String::from_utf8(output.stdout).unwrap();
        let mut counts = counts.split_whitespace().map(|word| word.parse().unwrap());
        (counts.next().unwrap(), counts.next().unwrap())
    }
}

/// A test that fails leaves no load behind.
impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    PathBuf::from(std::env::var_os("PINTLE").expect("PINTLE names the binary under test; run ./test"))
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) {
    text(command);
}

/// Runs a command that must succeed and returns what it printed.
pub fn text(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", show(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: &mut Command) -> Value {
    let text = text(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command:?} printed {text:?}: {error}"))
}

/// Standard output and error of a command.
pub fn show(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until `check` gives a value; `what` says what is waited for.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
}
