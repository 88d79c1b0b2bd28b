//! Running, stopping and removing pod sandboxes.
use std::io;
use std::path::Path;
use std::sync::Arc;

use tonic::Status;

use crate::cri::{DnsConfig, NamespaceMode, PodSandboxConfig, Protocol};
use crate::pod_network::{Attachment, PortMapping};
use crate::records::{ContainerPhase, SandboxRecord, Stored};
use crate::runtime::{Inner, Sandbox, remove_path};
use crate::shim::log::now_nanoseconds;
use crate::shim::protocol::{CONFIG, Request, SandboxConfig};
use crate::shim_client::{self, ShimClient};

/// The size of `/dev/shm`, as Docker's and containerd's.
const SHM_SIZE: u64 = 64 << 20;

pub(crate) fn internal(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Status + '_ {
    move |error| Status::internal(format!("{what}: {error}"))
}

/// A new id: 64 hexadecimal digits.
pub(crate) fn new_id() -> Result<String, Status> {
    let mut bytes = [0_u8; 32];
    // SAFETY: the buffer lives until after the call and its length is given.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(count) != Ok(bytes.len()) {
        return Err(internal("no random bytes")(&io::Error::last_os_error()));
    }
    Ok(crate::image::digest::hex(&bytes))
}

/// The namespace modes of a sandbox.
pub(crate) fn modes(config: &PodSandboxConfig) -> (bool, bool, NamespaceMode) {
    let options = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = options.and_then(|security| security.namespace_options.clone()).unwrap_or_default();
    let node = NamespaceMode::Node as i32;
    let pid = NamespaceMode::try_from(options.pid).unwrap_or(NamespaceMode::Container);
    (options.network == node, options.ipc == node, pid)
}

/// In a pod's own network anybody may listen on low ports and send pings, as with containerd 2.
const OWN_NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// The pod's sysctls, which go before the defaults of its own network.
fn sysctls(wanted: std::collections::HashMap<String, String>, host_network: bool) -> Vec<(String, String)> {
    let defaults = OWN_NETWORK_SYSCTLS.iter().filter(|(name, _)| !host_network && !wanted.contains_key(*name));
    let mut all: Vec<(String, String)> =
        defaults.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    all.extend(wanted);
    all
}

/// What the pod network is told.
pub(crate) fn attachment(id: &str, config: &PodSandboxConfig) -> Attachment {
    let metadata = config.metadata.clone().unwrap_or_default();
    let mapping = |mapping: &crate::cri::PortMapping| {
        let protocol = match Protocol::try_from(mapping.protocol) {
            Ok(Protocol::Udp) => "UDP",
            Ok(Protocol::Sctp) => "SCTP",
            Ok(Protocol::Tcp) | Err(_) => "TCP",
        };
        Some(PortMapping {
            protocol: protocol.to_owned(),
            host_port: u16::try_from(mapping.host_port).ok().filter(|port| *port > 0)?,
            container_port: u16::try_from(mapping.container_port).ok()?,
            host_ip: mapping.host_ip.parse().ok(),
        })
    };
    Attachment {
        sandbox_id: id.to_owned(),
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        port_mappings: config.port_mappings.iter().filter_map(mapping).collect(),
        annotations: config.annotations.clone().into_iter().collect(),
    }
}

/// The text of the pod's `/etc/resolv.conf`.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// Writes the files that containers find in their `/etc`.
fn write_files(state: &Path, config: &PodSandboxConfig, hostname: &str) -> io::Result<()> {
    std::fs::write(state.join("hostname"), format!("{hostname}\n"))?;
    let hosts = std::fs::read("/etc/hosts").unwrap_or_default();
    std::fs::write(state.join("hosts"), hosts)?;
    let resolv = match &config.dns_config {
        Some(dns) if !dns.servers.is_empty() || !dns.searches.is_empty() || !dns.options.is_empty() => {
            resolv_conf(dns).into_bytes()
        }
        _ => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
    };
    std::fs::write(state.join("resolv.conf"), resolv)
}

/// The name that processes of the sandbox see.
pub(crate) fn hostname(config: &PodSandboxConfig) -> String {
    if config.hostname.is_empty() {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().to_owned()
    } else {
        config.hostname.clone()
    }
}

/// Unmounts what a sandbox has in its state directory. Its shim does this itself, unless it was killed.
pub(crate) fn unmount(state: &Path) {
    for mount in ["netns", "pidns", "shm"] {
        while nix::mount::umount2(&state.join(mount), nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    }
}

impl Inner {
    /// CRI `RunPodSandbox`.
    pub async fn run_sandbox(self: &Arc<Self>, config: PodSandboxConfig, handler: String) -> Result<String, Status> {
        let metadata =
            config.metadata.clone().ok_or_else(|| Status::invalid_argument("the sandbox has no metadata"))?;
        if !handler.is_empty() && handler != "pintle" && handler != "runc" {
            return Err(Status::invalid_argument(format!("no runtime for \"{handler}\" is configured")));
        }
        let (host_network, host_ipc, pid) = modes(&config);
        let id = new_id()?;
        let state = self.sandbox_state(&id);
        let linux = config.linux.clone().unwrap_or_default();
        let record = SandboxRecord {
            id: id.clone(),
            created_at: now_nanoseconds(),
            config: Stored(config.clone()),
            ips: Vec::new(),
            host_network,
            runtime_handler: handler,
            cgroup: self.pod_cgroup(&linux.cgroup_parent, &id),
            stopped: false,
        };
        let sandbox = Arc::new(Sandbox {
            record: parking_lot::Mutex::new(record),
            shim: ShimClient::new(&state),
            lifecycle: tokio::sync::Mutex::default(),
        });
        {
            // Two sandboxes for one attempt at a pod would fight for its name.
            let mut sandboxes = self.sandboxes.lock();
            let taken = sandboxes.values().find(|s| s.record.lock().config.0.metadata.as_ref() == Some(&metadata));
            if let Some(taken) = taken {
                let id = taken.record.lock().id.clone();
                return Err(Status::already_exists(format!(
                    "failed to reserve sandbox name \"{}_{}_{}_{}\": name is reserved for \"{id}\"",
                    metadata.name, metadata.namespace, metadata.uid, metadata.attempt
                )));
            }
            sandboxes.insert(id.clone(), sandbox.clone());
        }
        let guard = sandbox.lifecycle.lock().await;
        let sysctls = sysctls(linux.sysctls, host_network);
        let shim = SandboxConfig {
            id: id.clone(),
            shim_cgroup: format!("{}/shims", self.config.cgroup_parent.trim_end_matches('/')),
            new_network: !host_network,
            new_ipc: !host_ipc,
            shared_pid: pid == NamespaceMode::Pod,
            hostname: if host_network { String::new() } else { config.hostname.clone() },
            sysctls,
            shm_size: if host_ipc { 0 } else { SHM_SIZE },
        };
        let started = self.start_sandbox(&sandbox, &state, &shim, &config).await;
        drop(guard);
        if let Err(error) = started {
            self.tear_down(&sandbox).await.ok();
            self.sandboxes.lock().remove(&id);
            self.remove_sandbox_files(&id);
            return Err(error);
        }
        Ok(id)
    }

    async fn start_sandbox(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        state: &Path,
        shim: &SandboxConfig,
        config: &PodSandboxConfig,
    ) -> Result<(), Status> {
        let failed = internal("failed to create pod sandbox");
        let prepare = || {
            std::fs::create_dir_all(state)?;
            std::fs::write(state.join(CONFIG), serde_json::to_vec(shim).map_err(io::Error::other)?)?;
            write_files(state, config, &hostname(config))
        };
        prepare().map_err(|error| failed(&error))?;
        ShimClient::spawn(&self.config.executable, state).await.map_err(|error| failed(&error))?;
        if shim.new_network {
            let attachment = attachment(&shim.id, config);
            let ips = self.config.network.setup(&state.join("netns"), &attachment).await;
            let ips = ips.map_err(|error| {
                Status::internal(format!("failed to setup network for sandbox \"{}\": {error}", shim.id))
            })?;
            sandbox.record.lock().ips = ips.iter().map(ToString::to_string).collect();
        }
        let record = sandbox.record.lock().clone();
        self.save_sandbox(&record).map_err(|error| failed(&error))?;
        self.follow(sandbox).await.map_err(|error| failed(&error))
    }

    /// CRI `StopPodSandbox`. An absent or stopped one is fine.
    pub async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _guard = sandbox.lifecycle.lock().await;
        self.tear_down(&sandbox).await
    }

    async fn tear_down(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Status> {
        let record = sandbox.record.lock().clone();
        let state = self.sandbox_state(&record.id);
        match sandbox.shim.order(&Request::Shutdown).await {
            Ok(()) => {
                // The exits were told before the answer; take them over before anyone asks.
                for container in self.containers_of(&record.id) {
                    if container.record.lock().phase == ContainerPhase::Running {
                        let mut exited = container.exited.subscribe();
                        // The sender lives in `container`.
                        exited.wait_for(|exited| *exited).await.ok();
                    }
                }
            }
            Err(shim_client::Error::Io(_) | shim_client::Error::Closed) => {}
            Err(error) => return Err(internal("failed to stop the sandbox")(&error)),
        }
        if !record.host_network {
            let attachment = attachment(&record.id, &record.config.0);
            self.config.network.teardown(&state.join("netns"), &attachment).await.map_err(|error| {
                Status::internal(format!("failed to destroy network for sandbox \"{}\": {error}", record.id))
            })?;
        }
        unmount(&state);
        let stopped = {
            let mut record = sandbox.record.lock();
            record.stopped = true;
            record.clone()
        };
        if self.sandboxes.lock().contains_key(&stopped.id) {
            self.save_sandbox(&stopped).map_err(|error| internal("cannot write the sandbox's record")(&error))?;
        }
        Ok(())
    }

    /// CRI `RemovePodSandbox`. An absent one is fine.
    pub async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let id = sandbox.record.lock().id.clone();
        self.stop_sandbox(&id).await?;
        for container in self.containers_of(&id) {
            let container = container.record.lock().id.clone();
            self.remove_container(&container).await?;
        }
        self.sandboxes.lock().remove(&id);
        let inner = self.clone();
        let cgroup = sandbox.record.lock().cgroup.clone();
        let files = id.clone();
        let removed = tokio::task::spawn_blocking(move || {
            inner.remove_sandbox_files(&files);
            // The kubelet's group of the pod is the kubelet's to remove; one that we made for it is not.
            if cgroup.ends_with(&files) {
                inner.cgroups.remove_if_empty(&cgroup);
            }
        });
        removed.await.map_err(|error| internal("cannot remove the sandbox")(&error))
    }

    fn remove_sandbox_files(&self, id: &str) {
        let record = self.config.root.join("sandboxes").join(format!("{id}.json"));
        for path in [self.sandbox_state(id), record] {
            if let Err(error) = remove_path(&path) {
                tracing::warn!(sandbox = id, path = %path.display(), %error, "cannot remove");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_ports_are_free_in_a_pods_own_network_unless_it_says_otherwise() {
        let own = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "1000".to_owned());
        let all = sysctls([own.clone()].into(), false);
        assert_eq!(all, [("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned()), own]);
        assert!(sysctls(std::collections::HashMap::new(), true).is_empty());
    }

    #[test]
    fn resolv_conf_has_the_pods_dns() {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let dns = DnsConfig {
            servers: list(&["10.96.0.10"]),
            searches: list(&["a.svc", "svc"]),
            options: list(&["ndots:5"]),
        };
        assert_eq!(resolv_conf(&dns), "search a.svc svc\nnameserver 10.96.0.10\noptions ndots:5\n");
    }

    #[test]
    fn only_ports_of_the_node_are_mapped() {
        let port = |host_port| crate::cri::PortMapping { host_port, container_port: 80, ..Default::default() };
        let config = PodSandboxConfig { port_mappings: vec![port(0), port(8080)], ..Default::default() };
        let mappings = attachment("x", &config).port_mappings;
        assert_eq!(mappings.len(), 1);
        assert_eq!((mappings[0].host_port, mappings[0].protocol.as_str()), (8080, "TCP"));
    }
}
