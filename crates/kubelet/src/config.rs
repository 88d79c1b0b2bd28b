//! What the kubelet needs to know before it starts; names follow upstream's `KubeletConfiguration` where one exists.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Configuration of one node agent.
#[derive(Clone)]
pub struct Config {
    /// The Node's name; the client must act as `system:node:<node_name>`.
    pub node_name: String,
    /// Addresses of this node, the primary one first (one, or one of each family).
    pub node_ips: Vec<IpAddr>,
    /// Labels the Node gets besides the standard ones.
    pub node_labels: BTreeMap<String, String>,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain, for example `cluster.local`.
    pub cluster_domain: String,
    /// Where pods' directories live (upstream: `/var/lib/kubelet`).
    pub root_dir: PathBuf,
    /// Where pods' logs live (upstream: `/var/log/pods`).
    pub pod_logs_dir: PathBuf,
    /// Directory of static pods' manifests; it is made when it is missing. `None`: the node has no static pods.
    pub static_pod_path: Option<PathBuf>,
    /// Address of the kubelet's own server; `None` runs without one (component tests).
    pub server: Option<ServerConfig>,
    /// Cgroup under which `kubepods` is made, relative to each hierarchy's root, for example `/pintle-1a2b3c4d`.
    pub cgroup_root: String,
    /// Whether to make and remove the pods' cgroups (component tests without root do not).
    pub manage_cgroups: bool,
    /// Most pods this node takes.
    pub max_pods: u32,
    /// Short identity of the cluster, used in every host-visible name.
    pub cluster_id: String,
    /// Size at which a container's log is rotated, in bytes.
    pub container_log_max_size: u64,
    /// How many log files of one container are kept, the current one included.
    pub container_log_max_files: u32,
    /// The host's resolver configuration, for pods with `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// First and longest delay between restarts of a failing container.
    pub crash_loop_back_off: (Duration, Duration),
    /// Disk usage in percent at which unused images are removed, and down to which.
    pub image_gc_thresholds: (u8, u8),
}

/// The kubelet's own HTTPS server.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Certificate and client verification: client certificates are optional and verified by the cluster's client CA.
    pub tls: Arc<rustls::ServerConfig>,
}

impl Config {
    /// A configuration with upstream's defaults for everything that has one.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, root_dir: impl Into<PathBuf>) -> Self {
        let root_dir = root_dir.into();
        Config {
            node_name: node_name.into(),
            node_ips: vec![node_ip],
            node_labels: BTreeMap::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            pod_logs_dir: root_dir.join("logs"),
            root_dir,
            static_pod_path: None,
            server: None,
            cgroup_root: "/pintle".into(),
            manage_cgroups: true,
            max_pods: 110,
            cluster_id: String::new(),
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
            resolv_conf: "/etc/resolv.conf".into(),
            crash_loop_back_off: (Duration::from_secs(10), Duration::from_secs(300)),
            image_gc_thresholds: (85, 80),
        }
    }

    /// The directory of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// The directory of one pod's logs.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
