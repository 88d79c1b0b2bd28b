//! Nodes on this machine beside the first one, each in namespaces of its own: what a container engine is for other tools.
//! Start at [`Machine`] for what is kept, [`start`] for how a node comes to life; [`hold`] is the node's first process.
//!
//! A node is an ordinary `pintle agent` that sees a host of its own: network, mounts, processes, host name and cgroups. Its
//! first process outlives the agent and the cluster's main process, and with it the pods. The nodes meet on a bridge
//! `pt<id>br`, on which the first node (the host itself) has the first address.
pub mod hold;

use crate::instance::{Instance, Paths, write_private};
use crate::token::{self, Wish};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::SignedDuration;
use kube::Api;
use kube::runtime::wait::await_condition;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a node may take to become Ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the token of a node's first start is valid.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_mins(10);

/// The nodes of a cluster on this machine, but for the first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The network of the bridge; the host has its first address.
    pub network: ipnet::Ipv4Net,
    /// Mirrors of image registries, as of `--registry-mirrors`; nodes take them when their first process starts.
    #[serde(default)]
    pub registry_mirrors: Vec<String>,
    /// The nodes.
    #[serde(default)]
    pub nodes: Vec<MachineNode>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineNode {
    /// The Node's name.
    pub name: String,
    /// Its place on the bridge: the host number of its address, from 2 on.
    pub number: u8,
}

impl Machine {
    /// A machine without further nodes, with `network` for its bridge.
    pub fn new(network: ipnet::Ipv4Net) -> Self {
        Machine { network, registry_mirrors: Vec::new(), nodes: Vec::new() }
    }

    /// The address of the host on the bridge.
    pub fn host(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network.network()).saturating_add(number.into()))
    }

    /// A node more, called `name` or after the first one's name `first`.
    pub fn add(&mut self, name: Option<String>, first: &str) -> Result<MachineNode> {
        let free = |number: &u8| !self.nodes.iter().any(|node| node.number == *number);
        let number = (2..=254).find(free).context("this machine has as many nodes as its bridge has addresses")?;
        let name = name.unwrap_or_else(|| format!("{first}-{number}"));
        if name == first || self.nodes.iter().any(|node| node.name == name) {
            bail!("there is a node {name} already");
        }
        let node = MachineNode { name, number };
        self.nodes.push(node.clone());
        Ok(node)
    }
}

/// What the first process of a node needs to know; written for it by [`start`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The cluster.
    pub cluster_id: String,
    /// The Node's and host's name.
    pub name: String,
    /// The address on the bridge, with the prefix of its network.
    pub address: ipnet::IpNet,
    /// The host's address there.
    pub gateway: Ipv4Addr,
    /// The host's end of the link.
    pub link: String,
    /// What becomes the node's `/run/pintle`.
    pub run: PathBuf,
    /// Where the node's first process says its number.
    pub pid: PathBuf,
    /// The program.
    pub executable: PathBuf,
    /// The agent's arguments.
    pub arguments: Vec<String>,
    /// Where agent and first process log.
    pub log: PathBuf,
}

/// The files of a node.
pub struct NodePaths {
    /// The agent's.
    pub agent: Paths,
    run: PathBuf,
}

impl NodePaths {
    /// Those of the node `name` of the cluster in `paths`.
    pub fn of(paths: &Paths, instance: &Instance, name: &str) -> Self {
        let agent = Paths { data: paths.data.join("nodes").join(name) };
        NodePaths { agent, run: instance.run_dir().join("nodes").join(name) }
    }

    /// The node's `/run/pintle` as the host sees it.
    pub fn run(&self) -> PathBuf {
        self.run.join("run")
    }

    fn pid(&self) -> PathBuf {
        self.run.join("pid")
    }

    fn spec(&self) -> PathBuf {
        self.run.join("node.json")
    }

    fn token(&self) -> PathBuf {
        self.agent.data.join("token")
    }
}

/// Where a node keeps its images.
pub struct NodeStore {
    /// The node.
    pub name: String,
    /// The directory of its runtime's socket, as the host sees it.
    pub state: PathBuf,
}

/// Where the nodes keep their images.
pub fn image_stores(paths: &Paths, instance: &Instance) -> Vec<NodeStore> {
    let nodes = instance.machine.iter().flat_map(|machine| &machine.nodes);
    let store = |node: &MachineNode| {
        let run = NodePaths::of(paths, instance, &node.name).run();
        NodeStore { name: node.name.clone(), state: run.join(&instance.id).join("runtime") }
    };
    nodes.map(store).collect()
}

/// The group of the control groups in which the node lives.
fn cgroup(instance_id: &str, name: &str) -> String {
    format!("/pintle-{instance_id}/nodes/{name}")
}

/// The number of the node's first process, if it lives.
fn first_process(instance: &Instance, node: &NodePaths, name: &str) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(node.pid()).ok()?.trim().parse().ok()?;
    // The number may have been given to another process meanwhile.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = cgroup(&instance.id, name);
    groups.lines().any(|line| line.ends_with(&group) || line.contains(&format!("{group}/"))).then(|| Pid::from_raw(pid))
}

/// Brings the cluster's nodes on this machine to life, those that live already too; returns when they are Ready.
pub async fn start(paths: &Paths, instance: &Instance, client: &kube::Client, nodes: &[MachineNode]) -> Result<()> {
    let Some(machine) = instance.machine.as_ref().filter(|_| !nodes.is_empty()) else { return Ok(()) };
    let host = ipnet::IpNet::new(machine.host().into(), machine.network.prefix_len())?;
    pintle_network::bridge::prepare(&instance.id, host)
        .with_context(|| format!("the bridge {host} of the machine's nodes"))?;
    for node in nodes {
        begin(paths, instance, machine, client, node).await.with_context(|| format!("node {}", node.name))?;
    }
    for node in nodes {
        let log = NodePaths::of(paths, instance, &node.name).agent.log();
        let ready = await_condition(Api::<Node>::all(client.clone()), &node.name, |node: Option<&Node>| {
            node.is_some_and(is_ready)
        });
        match tokio::time::timeout(READY_TIMEOUT, ready).await {
            Ok(ready) => _ = ready.with_context(|| format!("cannot follow node {}", node.name))?,
            Err(_) => bail!(
                "node {} was not Ready within {} s; {} says why",
                node.name,
                READY_TIMEOUT.as_secs(),
                log.display()
            ),
        }
    }
    Ok(())
}

/// Whether the node says that it is Ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn begin(
    paths: &Paths,
    instance: &Instance,
    machine: &Machine,
    client: &kube::Client,
    node: &MachineNode,
) -> Result<()> {
    let files = NodePaths::of(paths, instance, &node.name);
    if let Some(first) = first_process(instance, &files, &node.name) {
        // It starts the agent unless that runs.
        return kill(first, Signal::SIGUSR1).context("cannot wake the node's first process");
    }
    files.agent.create()?;
    fs::DirBuilder::new().recursive(true).mode(0o711).create(files.run())?;
    let joined = files.agent.authority().exists() && files.agent.pki().join("kubelet-client.pem").exists();
    if !joined {
        let authority = pintle_pki::Trusted::open(&paths.authority())?.context("the cluster has no authority yet")?;
        let wish = Wish { life: Some(TOKEN_LIFE), one_time: true, description: format!("node {}", node.name) };
        let token = token::create(client, authority.public_key_hash()?, &wish).await?;
        write_private(&files.token(), token.to_string().as_bytes())?;
    } else if files.token().exists() {
        // It has done its work.
        fs::remove_file(files.token())?;
    }
    let executable = std::env::current_exe().context("cannot find this program")?;
    let text = |path: &Path| path.display().to_string();
    let spec = Spec {
        cluster_id: instance.id.clone(),
        name: node.name.clone(),
        address: ipnet::IpNet::new(machine.address(node.number).into(), machine.network.prefix_len())?,
        gateway: machine.host(),
        link: pintle_network::bridge::node_link(&instance.id, node.number),
        run: files.run(),
        pid: files.pid(),
        executable: executable.clone(),
        arguments: vec![
            "agent".into(),
            "--data-dir".into(),
            text(&files.agent.data),
            "--server".into(),
            format!("https://{}:{}", machine.host(), instance.https_port),
            "--node-name".into(),
            node.name.clone(),
            "--node-ip".into(),
            machine.address(node.number).to_string(),
            "--share-images".into(),
            text(&crate::node::runtime_root(paths)),
        ]
        .into_iter()
        .chain((!joined).then(|| ["--token-file".into(), text(&files.token())]).into_iter().flatten())
        .chain(machine.registry_mirrors.iter().flat_map(|mirror| ["--registry-mirrors".into(), mirror.clone()]))
        .collect(),
        log: files.agent.log(),
    };
    write_private(&files.spec(), &serde_json::to_vec(&spec)?)?;
    let log = fs::File::options().create(true).append(true).open(&spec.log)?;
    let status = Command::new(&executable)
        .arg(hold::VERB)
        .arg(files.spec())
        .env_remove(crate::progress::PIPE)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .status()
        .context("cannot start the node's first process")?;
    if !status.success() {
        bail!("the node's namespaces could not be made; {} says why", spec.log.display());
    }
    Ok(())
}

/// Ends the agents of the nodes; their pods go on.
pub fn stop_agents(paths: &Paths, instance: &Instance) -> Result<()> {
    let nodes = || instance.machine.iter().flat_map(|machine| &machine.nodes);
    for node in nodes() {
        let files = NodePaths::of(paths, instance, &node.name);
        if let Some(first) = first_process(instance, &files, &node.name) {
            kill(first, Signal::SIGTERM).with_context(|| format!("cannot stop node {}", node.name))?;
        }
    }
    for node in nodes() {
        NodePaths::of(paths, instance, &node.name).agent.wait_released()?;
    }
    Ok(())
}

/// Ends a node with everything in it and removes its files.
pub fn remove(paths: &Paths, instance: &Instance, name: &str) -> Result<()> {
    let files = NodePaths::of(paths, instance, name);
    let cgroups = pintle_runtime::cgroup::Cgroups::detect()?;
    // The first process takes all others of its namespace with it.
    if let Some(first) = first_process(instance, &files, name) {
        kill(first, Signal::SIGKILL).with_context(|| format!("cannot end node {name}"))?;
    }
    cgroups.remove(&cgroup(&instance.id, name))?;
    for directory in [&files.run, &files.agent.data] {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_and_a_freed_number_is_given_again() {
        let mut machine = Machine::new("10.41.0.0/24".parse().unwrap());
        assert_eq!(machine.host().to_string(), "10.41.0.1");
        assert_eq!(machine.add(None, "host").unwrap().name, "host-2");
        let named = machine.add(Some("worker".into()), "host").unwrap();
        assert_eq!((named.number, machine.address(named.number).to_string().as_str()), (3, "10.41.0.3"));
        assert!(machine.add(Some("worker".into()), "host").is_err());
        assert!(machine.add(Some("host".into()), "host").is_err());
        machine.nodes.remove(0);
        assert_eq!(machine.add(None, "host").unwrap().number, 2);
    }
}
