//! `pintle down`, `status`, `reset` and `kubeconfig`: what is done to a cluster from outside its process.
use crate::cli::{DownArgs, KubeconfigArgs, ResetArgs, StatusArgs};
use crate::instance::{Instance, Paths, write_private};
use crate::{kubeconfig, machine};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kube::Api;
use kube::api::ListParams;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Pause before a cluster that is starting is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Stops the cluster's process and, if asked, the containers of its pods.
pub fn down(args: &DownArgs) -> Result<()> {
    let paths = Paths::new(&args.data_dir.path())?;
    let Some(instance) = paths.load()? else {
        println!("there is no cluster in {}", paths.data.display());
        return Ok(());
    };
    let ran = stop(&paths)?;
    machine::stop_agents(&paths, &instance)?;
    if args.pods {
        crate::node::stop_pods(&paths, &instance)?;
        println!("the cluster and its pods are stopped; `pintle up` starts them again");
    } else if ran {
        println!("the cluster is stopped; its pods keep running (`pintle down --pods` stops them too)");
    } else {
        println!("the cluster was not running");
    }
    Ok(())
}

/// Ends the process that runs the cluster and waits until it is gone. Whether there was one.
fn stop(paths: &Paths) -> Result<bool> {
    let Some(pid) = paths.owner()? else { return Ok(false) };
    match kill(Pid::from_raw(pid), Signal::SIGTERM) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => bail!("cannot stop process {pid}: {error}"),
    }
    paths.wait_released()?;
    Ok(true)
}

/// Stops everything and removes every trace of the cluster.
pub fn reset(args: &ResetArgs) -> Result<()> {
    let paths = Paths::new(&args.data_dir.path())?;
    if !paths.data.exists() {
        println!("there is no cluster in {}", paths.data.display());
        return Ok(());
    }
    let instance = paths.load()?;
    if instance.is_none() && !paths.is_ours()? {
        bail!("{} holds something other than a cluster; nothing was removed", paths.data.display());
    }
    if !args.yes && !confirmed(&paths)? {
        bail!("nothing was removed");
    }
    stop(&paths)?;
    if let Some(instance) = &instance {
        for node in instance.machine.iter().flat_map(|machine| &machine.nodes) {
            machine::remove(&paths, instance, &node.name)?;
        }
        crate::node::purge(&paths, instance)?;
        forget_kubeconfigs(instance)?;
        remove_dir(&instance.run_dir())?;
    }
    remove_dir(&paths.data)?;
    println!("the cluster in {} is gone", paths.data.display());
    Ok(())
}

fn confirmed(paths: &Paths) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this removes all data in {}; say --yes to do it", paths.data.display());
    }
    print!("This removes the cluster and all data in {}. Continue? [y/N] ", paths.data.display());
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Removes the files that were written for the user, and the cluster's context from merged ones.
fn forget_kubeconfigs(instance: &Instance) -> Result<()> {
    let name = kubeconfig::context_name(&instance.node_name, &instance.id);
    for path in &instance.kubeconfigs {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match kubeconfig::remove(&text, &name)? {
            Some(rest) => write_private(path, rest.as_bytes())?,
            None if text.contains(&format!("127.0.0.1:{}", instance.https_port)) => std::fs::remove_file(path)?,
            None => {}
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Prints the administrator's kubeconfig or merges it into the user's.
pub fn kubeconfig(args: &KubeconfigArgs) -> Result<()> {
    let paths = Paths::new(&args.data_dir.path())?;
    let mut instance = known(&paths)?;
    let text = std::fs::read_to_string(paths.kubeconfig()).context("the cluster has not been started yet")?;
    if !args.merge {
        print!("{text}");
        return Ok(());
    }
    let file = merge_into_user_file(&text, &mut instance)?;
    paths.save(&instance)?;
    println!("merged into {}", file.display());
    Ok(())
}

/// Adds the cluster to the user's kubeconfig and remembers that.
pub fn merge_into_user_file(text: &str, instance: &mut Instance) -> Result<std::path::PathBuf> {
    let file = kubeconfig::user_file()?;
    let existing = match std::fs::read_to_string(&file) {
        Ok(existing) => existing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let merged = kubeconfig::merge(&existing, text, &kubeconfig::context_name(&instance.node_name, &instance.id))?;
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    write_private(&file, merged.as_bytes())?;
    if !instance.kubeconfigs.contains(&file) {
        instance.kubeconfigs.push(file.clone());
    }
    Ok(file)
}

fn known(paths: &Paths) -> Result<Instance> {
    let instance = paths.load()?;
    instance.with_context(|| format!("there is no cluster in {}; `pintle up` makes one", paths.data.display()))
}

/// What `pintle status --json` prints.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    running: bool,
    pid: Option<i32>,
    version: &'static str,
    server: String,
    kubeconfig: std::path::PathBuf,
    nodes: Vec<NodeStatus>,
    pods: usize,
    pods_running: usize,
    memory_bytes: u64,
    processes: usize,
}

#[derive(serde::Serialize)]
struct NodeStatus {
    name: String,
    ready: bool,
    reason: String,
}

/// Prints how the cluster is; exit code 0 if it runs and every node is Ready, 3 if it does not run, 1 otherwise.
pub fn status(args: &StatusArgs) -> Result<ExitCode> {
    let paths = Paths::new(&args.data_dir.path())?;
    let Some(instance) = paths.load()? else {
        println!("there is no cluster in {}", paths.data.display());
        return Ok(ExitCode::from(3));
    };
    let pid = paths.owner()?;
    let (processes, memory_bytes) = usage(pid, &instance.id, &paths);
    let mut status = Status {
        running: pid.is_some(),
        pid,
        version: env!("CARGO_PKG_VERSION"),
        server: instance.server.clone().unwrap_or_else(|| format!("https://127.0.0.1:{}", instance.https_port)),
        kubeconfig: paths.kubeconfig(),
        nodes: Vec::new(),
        pods: 0,
        pods_running: 0,
        memory_bytes,
        processes,
    };
    let asked = match pid {
        // A node knows its own state only: the server says the rest.
        Some(_) if instance.server.is_none() => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask(&paths, &mut status))
        }
        _ => Ok(()),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print_status(&status, asked.as_ref().err());
    }
    let healthy = asked.is_ok() && status.nodes.iter().all(|node| node.ready);
    Ok(ExitCode::from(match (status.running, healthy) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 3,
    }))
}

/// Waits until the cluster that runs in `paths` is Ready (with `nodes`: its first node too), and returns its process.
/// `None`: no process has it; one that was just killed holds it for a moment.
pub fn await_ready(paths: &Paths, nodes: bool, patience: Duration) -> Result<Option<i32>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = Instant::now() + patience;
    loop {
        let Some(pid) = paths.owner()? else { return Ok(None) };
        let ready = async {
            let found = Api::<Node>::all(client(paths).await?).list(&ListParams::default()).await?;
            anyhow::Ok(!nodes || found.iter().any(|node| ready(node).is_some_and(|c| c.status == "True")))
        };
        match runtime.block_on(ready) {
            Ok(true) => return Ok(Some(pid)),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("the cluster runs (process {pid}) but does not answer"));
            }
            Ok(false) if Instant::now() > end => {
                bail!("the cluster runs (process {pid}) but no node is Ready; its log is {}", paths.log().display());
            }
            Ok(false) | Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// The administrator's client of a cluster of this machine.
async fn client(paths: &Paths) -> Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(paths.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

async fn ask(paths: &Paths, status: &mut Status) -> Result<()> {
    let client = client(paths).await?;
    for node in Api::<Node>::all(client.clone()).list(&ListParams::default()).await? {
        let ready = ready(&node);
        status.nodes.push(NodeStatus {
            ready: ready.is_some_and(|condition| condition.status == "True"),
            reason: ready.and_then(|condition| condition.reason.clone()).unwrap_or_default(),
            name: node.metadata.name.unwrap_or_default(),
        });
    }
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await?;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    status.pods = pods.items.len();
    status.pods_running = pods.items.iter().filter(|pod| phase(pod).as_deref() == Some("Running")).count();
    Ok(())
}

fn print_status(status: &Status, problem: Option<&anyhow::Error>) {
    match status.pid {
        Some(pid) => println!("cluster     running (process {pid})"),
        None => println!("cluster     stopped"),
    }
    println!("server      {}", status.server);
    if status.kubeconfig.exists() {
        println!("kubeconfig  {}", status.kubeconfig.display());
    }
    for node in &status.nodes {
        let state = if node.ready { "Ready" } else { "NotReady" };
        println!("node        {} {state} ({})", node.name, node.reason);
    }
    if status.running && !status.nodes.is_empty() {
        println!("pods        {} running of {}", status.pods_running, status.pods);
    }
    println!("memory      {} MiB in {} processes of Pintle", status.memory_bytes >> 20, status.processes);
    if let Some(problem) = problem {
        println!("problem     the API does not answer: {problem:#}");
    }
}

/// How many processes of Pintle the cluster has, and their proportional memory in bytes.
fn usage(pid: Option<i32>, id: &str, paths: &Paths) -> (usize, u64) {
    let nodes = paths.data.join("nodes");
    let Ok(entries) = std::fs::read_dir("/proc") else { return (0, 0) };
    let mut total = (0, 0);
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let shim = || {
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = cmdline.split(|byte| *byte == 0).skip(1);
            match words.next() {
                Some(b"shim" | b"hold") => words.any(|word| String::from_utf8_lossy(word).contains(id)),
                Some(b"agent") => words.any(|word| Path::new(OsStr::from_bytes(word)).starts_with(&nodes)),
                _ => false,
            }
        };
        if Some(number) == pid || shim() {
            total.0 += 1;
            total.1 += pss(&entry.path());
        }
    }
    total
}

fn pss(process: &Path) -> u64 {
    let rollup = std::fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) << 10
}
