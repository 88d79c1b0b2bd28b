//! One cluster on this machine: where its files are, and what was chosen for it when it first started.
use crate::cli::{NetworkMode, Options};
use crate::machine::Machine;
use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where all clusters of the machine keep what does not survive a reboot.
const RUN: &str = "/run/pintle";

/// What is chosen once and then kept: names and numbers that nothing else on the machine uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Eight hex digits in every name that the host sees: links, nftables tables, cgroups, runtime directories.
    pub id: String,
    /// The API server's port.
    pub https_port: u16,
    /// The node agent's port.
    pub kubelet_port: u16,
    /// Addresses of pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// The domain of the cluster's DNS names.
    pub cluster_domain: String,
    /// The node's name.
    pub node_name: String,
    /// How packets get from node to node.
    #[serde(default)]
    pub network_mode: NetworkMode,
    /// The nodes on this machine beside the first.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// On a node whose control plane is elsewhere: where.
    #[serde(default)]
    pub server: Option<String>,
    /// Kubeconfig files that were written for the user, removed by `reset`.
    #[serde(default)]
    pub kubeconfigs: Vec<PathBuf>,
}

/// The files of a cluster.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `--data-dir`.
    pub data: PathBuf,
}

impl Paths {
    /// The layout below `data`.
    pub fn new(data: &Path) -> Result<Self> {
        let data = std::path::absolute(data).with_context(|| format!("{} is not a path", data.display()))?;
        Ok(Paths { data })
    }

    fn instance(&self) -> PathBuf {
        self.data.join("instance.json")
    }

    fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// The administrator's kubeconfig, always kept here.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// Where a detached cluster logs.
    pub fn log(&self) -> PathBuf {
        self.data.join("pintle.log")
    }

    /// The embedded store's file.
    pub fn store(&self) -> PathBuf {
        self.data.join("store.redb")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// The certificate of the cluster's authority (on a server with its key).
    pub fn authority(&self) -> PathBuf {
        self.pki().join("ca.pem")
    }

    /// What was chosen at the first start; `None` if the cluster never started.
    pub fn load(&self) -> Result<Option<Instance>> {
        let path = self.instance();
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps `instance` for later starts.
    pub fn save(&self, instance: &Instance) -> Result<()> {
        let text = serde_json::to_vec_pretty(instance).context("an instance is plain data")?;
        write_private(&self.instance(), &text)
    }

    /// Whether the directory holds nothing but what a start that failed early leaves.
    pub fn is_ours(&self) -> Result<bool> {
        let names = fs::read_dir(&self.data)?.map(|entry| entry.map(|entry| entry.file_name()));
        let names = names.collect::<std::io::Result<Vec<_>>>()?;
        Ok(names.iter().all(|name| name == "lock" || name == "pintle.log"))
    }

    /// Creates the data directory, for root only.
    pub fn create(&self) -> Result<()> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.data);
        made.with_context(|| format!("cannot create the data directory {}", self.data.display()))
    }

    /// Takes the cluster for this process until the returned file is dropped. Says who has it if it is taken.
    pub fn take(&self) -> Result<File> {
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o644).open(self.lock())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = self.owner()?.map_or_else(String::new, |pid| format!(" (process {pid})"));
                bail!("this cluster runs already{owner}; `pintle down --data-dir {}` stops it", self.data.display());
            }
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the data directory"),
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        Ok(file)
    }

    /// The process that runs the cluster now.
    pub fn owner(&self) -> Result<Option<i32>> {
        let mut file = match File::open(self.lock()) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.lock().display())),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                Ok(pid.trim().parse().ok())
            }
            Err(TryLockError::Error(error)) => Err(error).context("cannot look at the data directory's lock"),
        }
    }

    /// Waits until no process has the cluster.
    pub fn wait_released(&self) -> Result<()> {
        match File::open(self.lock()) {
            Ok(file) => file.lock_shared().context("cannot wait for the cluster to stop"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context("cannot wait for the cluster to stop"),
        }
    }
}

impl Instance {
    /// Chooses what a new cluster needs, avoiding every other cluster of the machine and every address in use.
    pub fn choose(options: &Options, node_name: String) -> Result<Self> {
        let others = registered()?;
        let used_ports: Vec<u16> = others.iter().flat_map(|other| [other.https_port, other.kubelet_port]).collect();
        let mut used = local_networks()?;
        used.extend(others.iter().flat_map(|other| [other.cluster_cidr, other.service_cidr]));
        used.extend(others.iter().filter_map(|other| Some(other.machine.as_ref()?.network)));
        let cluster_cidr = match options.cluster_cidr {
            Some(cidr) => cidr,
            None => free_network(&used, 42)?,
        };
        used.push(cluster_cidr);
        let service_cidr = match options.service_cidr {
            Some(cidr) => cidr,
            None => free_network(&used, 43)?,
        };
        used.push(service_cidr);
        let network_mode = match options.nodes {
            Some(2..) => NetworkMode::HostGw,
            _ => NetworkMode::Vxlan,
        };
        let https_port = options.https_port.map_or_else(|| free_port(6443, &used_ports), Ok)?;
        let taken = [used_ports, vec![https_port]].concat();
        Ok(Instance {
            id: format!("{:08x}", fastrand::u32(..)),
            https_port,
            kubelet_port: options.kubelet_port.map_or_else(|| free_port(10250, &taken), Ok)?,
            cluster_cidr,
            service_cidr,
            cluster_domain: options.cluster_domain.clone().unwrap_or_else(|| "cluster.local".into()),
            node_name,
            network_mode: options.network_mode.unwrap_or(network_mode),
            machine: Some(Machine::new(free_machine_network(&used)?)),
            server: None,
            kubeconfigs: Vec::new(),
        })
    }

    /// Says what `options` ask for that a cluster cannot change once it exists; takes over what it can.
    pub fn reconcile(&mut self, options: &Options) -> Result<()> {
        fn fixed<T: PartialEq + std::fmt::Display>(name: &str, asked: Option<&T>, is: &T) -> Result<()> {
            match asked {
                Some(asked) if asked != is => {
                    bail!(
                        "--{name} is {is} since the cluster's first start and cannot become {asked}; `pintle reset` starts anew"
                    )
                }
                _ => Ok(()),
            }
        }
        fixed("cluster-cidr", options.cluster_cidr.as_ref(), &self.cluster_cidr)?;
        fixed("service-cidr", options.service_cidr.as_ref(), &self.service_cidr)?;
        fixed("network-mode", options.network_mode.as_ref(), &self.network_mode)?;
        fixed("cluster-domain", options.cluster_domain.as_ref(), &self.cluster_domain)?;
        fixed("node-name", options.node_name.as_ref(), &self.node_name)?;
        self.https_port = options.https_port.unwrap_or(self.https_port);
        self.kubelet_port = options.kubelet_port.unwrap_or(self.kubelet_port);
        if self.machine.is_none() {
            let mut used = local_networks()?;
            used.extend([self.cluster_cidr, self.service_cidr]);
            self.machine = Some(Machine::new(free_machine_network(&used)?));
        }
        Ok(())
    }

    /// What does not survive a reboot: sockets, namespaces, process files.
    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN).join(&self.id)
    }

    /// Makes the run directory and registers the cluster for others to keep out of its way. A node of the same cluster on
    /// the same host is one of these others: both would use the same names.
    pub fn register(&self, paths: &Paths) -> Result<()> {
        let dir = self.run_dir();
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&dir)?;
        let owner = dir.join("data-dir");
        match fs::read_to_string(&owner) {
            Ok(other) if Path::new(&other) != paths.data && Path::new(&other).exists() => bail!(
                "this machine is a node of cluster {} already, with its data in {other}; \
                 `pintle node add` on its server gives it further nodes",
                self.id
            ),
            _ => write_private(&owner, paths.data.as_os_str().as_encoded_bytes())?,
        }
        write_private(&dir.join("instance.json"), &serde_json::to_vec(self)?)
    }

    /// The first address of the Service range: that of the `kubernetes` Service.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 1)
    }

    /// The tenth address of the Service range: that of the cluster's DNS.
    pub fn dns_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 10)
    }
}

fn nth(network: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()).saturating_add(n))
}

/// Every cluster that has run since the machine started.
fn registered() -> Result<Vec<Instance>> {
    let entries = match fs::read_dir(RUN) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {RUN}")),
    };
    let mut instances = Vec::new();
    for entry in entries {
        match fs::read(entry?.path().join("instance.json")) {
            Ok(text) => {
                instances
                    .push(serde_json::from_slice(&text).context("a cluster's entry under /run/pintle is damaged")?);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("cannot read a cluster's entry under /run/pintle"),
        }
    }
    Ok(instances)
}

/// The networks of the machine's own addresses and routes.
fn local_networks() -> Result<Vec<Ipv4Net>> {
    let addresses = nix::ifaddrs::getifaddrs().context("cannot read the machine's addresses")?;
    let mut networks: Vec<Ipv4Net> = addresses
        .filter_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            let mask = interface.netmask?.as_sockaddr_in()?.ip();
            Ipv4Net::with_netmask(address, mask).ok()
        })
        .collect();
    networks.extend(routes()?.into_iter().map(|(network, _)| network).filter(|network| network.prefix_len() > 0));
    Ok(networks)
}

/// IPv4 routes as /proc/net/route lists them: destination, interface.
fn routes() -> Result<Vec<(Ipv4Net, String)>> {
    let table = fs::read_to_string("/proc/net/route").context("cannot read the machine's routes")?;
    Ok(parse_routes(&table))
}

fn parse_routes(table: &str) -> Vec<(Ipv4Net, String)> {
    let number = |word: &str| u32::from_str_radix(word, 16).ok().map(|n| Ipv4Addr::from(n.to_le_bytes()));
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let network = Ipv4Net::with_netmask(number(words.get(1)?)?, number(words.get(7)?)?).ok()?;
            Some((network, (*words.first()?).to_owned()))
        })
        .collect()
}

/// The first of 10.`from`.0.0/16, 10.`from + 2`.0.0/16, … that overlaps nothing in `used`.
fn free_network(used: &[Ipv4Net], from: u8) -> Result<Ipv4Net> {
    (from..=255)
        .step_by(2)
        .filter_map(|second| Ipv4Net::new(Ipv4Addr::new(10, second, 0, 0), 16).ok())
        .find(|network| !used.iter().any(|other| other.contains(network) || network.contains(other)))
        .context("every network from 10.42.0.0/16 on is in use; choose with --cluster-cidr and --service-cidr")
}

/// A /24 for the bridge of the machine's nodes, which overlaps nothing in `used`.
fn free_machine_network(used: &[Ipv4Net]) -> Result<Ipv4Net> {
    let network = free_network(used, 41)?;
    Ok(Ipv4Net::new(network.network(), 24)?)
}

fn free_port(from: u16, taken: &[u16]) -> Result<u16> {
    (from..from.saturating_add(200))
        .filter(|port| !taken.contains(port))
        .find(|port| port_is_free(SocketAddr::from(([0, 0, 0, 0], *port))))
        .with_context(|| format!("no port from {from} on is free"))
}

/// Whether a server could listen at `address` now.
pub fn port_is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// The address of the interface that has the default route, else any that is not loopback.
pub fn detect_node_ip() -> Result<IpAddr> {
    let default = routes()?.into_iter().find(|(network, _)| network.prefix_len() == 0).map(|(_, interface)| interface);
    let mut fallback = None;
    for interface in nix::ifaddrs::getifaddrs().context("cannot read the machine's addresses")? {
        let Some(address) =
            interface.address.and_then(|address| address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        else {
            continue;
        };
        if default.as_deref() == Some(interface.interface_name.as_str()) {
            return Ok(address.into());
        }
        if !address.is_loopback() && !address.is_link_local() && !is_own_link(&interface.interface_name) {
            fallback = fallback.or(Some(address.into()));
        }
    }
    fallback.context("this machine has no address but loopback; name one with --node-ip")
}

/// Whether `name` is a link that a cluster of this machine made: `pt`, eight hex digits, and what it is.
fn is_own_link(name: &str) -> bool {
    name.strip_prefix("pt")
        .and_then(|rest| rest.get(..8))
        .is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Writes `path` in one step, readable by its owner only.
pub fn write_private(path: &Path, text: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    #[test]
    fn a_second_cluster_gets_networks_of_its_own() {
        assert_eq!(free_network(&[], 42).expect("free"), net("10.42.0.0/16"));
        assert_eq!(free_network(&[net("10.42.3.0/24")], 42).expect("free"), net("10.44.0.0/16"));
        assert_eq!(free_network(&[net("10.42.0.0/15"), net("10.44.0.0/16")], 42).expect("free"), net("10.46.0.0/16"));
        assert!(free_network(&[net("10.0.0.0/8")], 42).is_err());
    }

    #[test]
    fn routes_are_read_in_network_byte_order() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                     eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        let expected = vec![(net("0.0.0.0/0"), "eth0".to_owned()), (net("192.0.2.0/24"), "eth0".to_owned())];
        assert_eq!(parse_routes(table), expected);
    }

    #[test]
    fn what_cannot_change_is_refused_with_the_way_out() {
        let options = Options { cluster_domain: Some("a.example".into()), ..Options::default() };
        let mut instance = Instance::choose(&options, "node".into()).expect("chosen");
        instance.reconcile(&options).expect("the same is fine");
        let other = Options { cluster_domain: Some("b.example".into()), ..Options::default() };
        let error = instance.reconcile(&other).expect_err("refused").to_string();
        assert!(error.contains("--cluster-domain") && error.contains("pintle reset"), "{error}");
    }
}
