//! The command line: what `pintle --help` shows. Flags and the keys of the config file have the same names.
mod api_server;

pub use api_server::ApiServerOptions;

use clap::{Args, Parser, Subcommand, ValueHint};
use std::net::IpAddr;
use std::path::PathBuf;

/// Kubernetes in one program: control plane, node, container runtime, network and DNS.
///
/// `sudo pintle up` starts a cluster of one node and prints where its kubeconfig is; `pintle down` stops it,
/// `pintle reset` removes every trace of it.
#[derive(Debug, Parser)]
#[command(name = "pintle", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine: the control plane and a node in one process
    Up(UpArgs),
    /// Stop the cluster; pods keep running and are taken up again by the next `up`
    Down(DownArgs),
    /// Show whether the cluster runs, its node, and what it uses
    Status(StatusArgs),
    /// Stop everything and remove every trace: processes, mounts, network, files, all data
    Reset(ResetArgs),
    /// Start a control plane without a node
    Server(ServerArgs),
    /// Start a node of a cluster whose control plane runs elsewhere
    Agent(AgentArgs),
    /// Make, list and revoke the tokens that let machines join as nodes
    #[command(subcommand)]
    Token(TokenCommand),
    /// Add, drain and remove nodes on this machine
    #[command(subcommand)]
    Node(NodeCommand),
    /// Print the administrator's kubeconfig, or merge it into ~/.kube/config
    Kubeconfig(KubeconfigArgs),
    /// Load, list, remove and make container images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print the version of Pintle and of the Kubernetes API it serves
    Version,
    /// Print a completion script for a shell
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which cluster a command is about.
#[derive(Args, Clone, Debug)]
pub struct DataDir {
    /// Where the cluster keeps its state; each cluster on a machine has its own [default: /var/lib/pintle]
    #[arg(long, value_name = "DIR", env = "PINTLE_DATA_DIR", value_hint = ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
    /// The cluster's name, for several on one machine: short for --data-dir /var/lib/pintle-NAME
    #[arg(long = "name", value_name = "NAME", value_parser = cluster_name)]
    cluster: Option<String>,
}

impl DataDir {
    /// The directory that was asked for. A name wins over the environment; beside --data-dir it has nothing to say.
    pub fn path(&self) -> PathBuf {
        match (&self.data_dir, &self.cluster) {
            (_, Some(name)) => PathBuf::from(format!("{DEFAULT_DATA_DIR}-{name}")),
            (Some(dir), None) => dir.clone(),
            (None, None) => PathBuf::from(DEFAULT_DATA_DIR),
        }
    }
}

/// Where a cluster without a name is.
const DEFAULT_DATA_DIR: &str = "/var/lib/pintle";

/// A name that can be part of a directory's.
fn cluster_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || !text.chars().all(fits) {
        return Err("a cluster's name is made of lower-case letters, digits and '-'".to_owned());
    }
    Ok(text.to_owned())
}

/// `pintle up`.
#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// The cluster.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Return once the node is Ready; the cluster goes on in the background
    #[arg(long)]
    pub detach: bool,
    /// What can also stand in the config file.
    #[command(flatten)]
    pub options: Options,
}

/// `pintle server`.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// The cluster.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Return once the API is ready; the control plane goes on in the background
    #[arg(long)]
    pub detach: bool,
    /// What can also stand in the config file.
    #[command(flatten)]
    pub options: Options,
}

/// `pintle agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// The node's files.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Return once the node is Ready; it goes on in the background
    #[arg(long)]
    pub detach: bool,
    /// The address of the cluster's API server, https://ADDRESS:PORT [default: that of the last start]
    #[arg(long, value_name = "URL", env = "PINTLE_SERVER", value_hint = ValueHint::Url)]
    pub server: Option<String>,
    /// What `pintle token create` printed; needed for the first start only
    #[arg(long, value_name = "TOKEN", env = "PINTLE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Read the token from this file
    #[arg(long, value_name = "FILE", conflicts_with = "token", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
    /// Take the images of the node that keeps them in this directory
    #[arg(long, value_name = "DIR", hide = true)]
    pub share_images: Option<PathBuf>,
    /// The node's settings.
    #[command(flatten)]
    pub node: NodeOptions,
}

/// Settings of a node alone, as flags of `pintle agent`.
#[derive(Args, Clone, Debug)]
pub struct NodeOptions {
    /// The node's name [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's address [default: that of the interface with the default route]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// Labels of the node, key=value, separated by commas
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Mirrors of image registries, registry=mirror, separated by commas (http:// in front of a mirror without TLS)
    #[arg(long, value_name = "MIRRORS", value_delimiter = ',')]
    pub registry_mirrors: Vec<String>,
    /// Serve the node agent on this port [default: 10250]
    #[arg(long, value_name = "PORT")]
    pub kubelet_port: Option<u16>,
    /// How many pods the node takes [default: 110]
    #[arg(long, value_name = "N")]
    pub max_pods: Option<u32>,
    /// What to log: error, warn, info, debug, trace, or per module as in `info,pintle_kubelet=debug` [default: info]
    #[arg(long, value_name = "FILTER", env = "PINTLE_LOG")]
    pub log_level: Option<String>,
    /// How to log: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl From<NodeOptions> for Options {
    fn from(node: NodeOptions) -> Self {
        Options {
            node_name: node.node_name,
            node_ip: node.node_ip,
            node_labels: node.node_labels,
            registry_mirrors: node.registry_mirrors,
            kubelet_port: node.kubelet_port,
            max_pods: node.max_pods,
            log_level: node.log_level,
            log_format: node.log_format,
            ..Options::default()
        }
    }
}

/// `pintle token …`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it: give it to `pintle agent --token` on the machine that is to join
    Create {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
        /// How long it is valid: a number with a unit (30m, 24h), or `never`
        #[arg(long, value_name = "TIME", default_value = "24h")]
        ttl: String,
        /// It makes one node only
        #[arg(long)]
        one_time: bool,
        /// For people
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// List the tokens, without their secrets
    Ls {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Revoke tokens; nodes that have joined stay
    Rm {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
        /// Tokens or their ids.
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// `pintle node …`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Add a node on this machine, in namespaces of its own
    Add {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
        /// The nodes' names [default: the first node's with a number]
        names: Vec<String>,
    },
    /// Keep new pods off a node and evict those that run there
    Drain {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
        /// The node.
        name: String,
    },
    /// Remove nodes of this machine from the cluster, with all that runs on them
    Rm {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
        /// The nodes.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Settings that flags and the config file share; a flag wins over the file.
#[derive(Args, Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Read settings from this YAML file; its keys are the names of these flags
    #[arg(long, value_name = "FILE", env = "PINTLE_CONFIG", value_hint = ValueHint::FilePath)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Write the administrator's kubeconfig here [default: DATA-DIR/kubeconfig]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Also add the cluster to ~/.kube/config and make it the current context
    #[arg(long)]
    pub merge_kubeconfig: bool,
    /// The node's name [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's address [default: that of the interface with the default route]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// Labels of the node, key=value, separated by commas
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Mirrors of image registries, registry=mirror, separated by commas (http:// in front of a mirror without TLS)
    #[arg(long, value_name = "MIRRORS", value_delimiter = ',')]
    pub registry_mirrors: Vec<String>,
    /// Serve the API on this port [default: 6443, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub https_port: Option<u16>,
    /// Serve the API on this address only
    #[arg(long, value_name = "ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// Serve the node agent on this port [default: 10250, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub kubelet_port: Option<u16>,
    /// Further names and addresses that the API server's certificate is for, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Addresses of pods [default: 10.42.0.0/16, or the next free range]
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<ipnet::Ipv4Net>,
    /// Addresses of Services [default: 10.43.0.0/16, or the next free range]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<ipnet::Ipv4Net>,
    /// Run this many nodes on this machine; all but the first in namespaces of their own [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub nodes: Option<u8>,
    /// How packets get from node to node: vxlan, or host-gw if the nodes share a subnet [default: vxlan; host-gw with --nodes]
    #[arg(long, value_name = "MODE")]
    pub network_mode: Option<NetworkMode>,
    /// Answer Services of type LoadBalancer at the nodes' addresses; false leaves them to somebody else [default: true]
    #[arg(long, value_name = "BOOL")]
    pub load_balancer: Option<bool>,
    /// Answer Ingresses at the node's ports; false leaves them to somebody else [default: true where the ports are free]
    #[arg(long, value_name = "BOOL")]
    pub ingress: Option<bool>,
    /// Answer HTTP for Ingresses on this port [default: 80]
    #[arg(long, value_name = "PORT")]
    pub ingress_http_port: Option<u16>,
    /// Answer HTTPS for Ingresses on this port [default: 443]
    #[arg(long, value_name = "PORT")]
    pub ingress_https_port: Option<u16>,
    /// The domain of the cluster's DNS names [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// How many pods the node takes [default: 110]
    #[arg(long, value_name = "N")]
    pub max_pods: Option<u32>,
    /// Read the scheduler's profiles from this KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub scheduler_config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or per module as in `info,pintle_kubelet=debug` [default: info]
    #[arg(long, value_name = "FILTER", env = "PINTLE_LOG")]
    pub log_level: Option<String>,
    /// How to log: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What operators switch on in the API server. In the config file these stand among the others.
    #[command(flatten)]
    #[serde(skip)]
    pub api_server: ApiServerOptions,
}

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// In UDP between the nodes' addresses.
    #[default]
    Vxlan,
    /// Routed as they are.
    HostGw,
}

impl std::fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NetworkMode::Vxlan => "vxlan",
            NetworkMode::HostGw => "host-gw",
        })
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

/// `pintle down`.
#[derive(Args, Clone, Debug)]
pub struct DownArgs {
    /// The cluster.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Stop the pods' containers too
    #[arg(long)]
    pub pods: bool,
}

/// `pintle status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The cluster.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pintle reset`.
#[derive(Args, Clone, Debug)]
pub struct ResetArgs {
    /// The cluster.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `pintle kubeconfig`.
#[derive(Args, Clone, Debug)]
pub struct KubeconfigArgs {
    /// The cluster.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Add the cluster to ~/.kube/config and make it the current context
    #[arg(long)]
    pub merge: bool,
}

/// `pintle image …`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Take images from a tar file (OCI layout or docker-archive) into the node's store
    Load {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
        /// The tar files.
        #[arg(required = true, value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// List the node's images
    Ls {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Remove images from the node
    Rm {
        /// The cluster.
        #[command(flatten)]
        data_dir: DataDir,
        /// Names or ids.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Make an image tar from a directory that becomes its root file system
    Pack(PackArgs),
}

/// `pintle image pack`.
#[derive(Args, Clone, Debug)]
pub struct PackArgs {
    /// The directory
    #[arg(value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
    /// The image's name, e.g. example.org/app:1.0
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Write the tar file here
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// The command, a word per flag
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// The command's default arguments, a word per flag
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// Environment, NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The directory that the command starts in
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The user (and group) that the command runs as
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_name_stands_for_a_data_directory() {
        let path = |args: &[&str]| match Cli::parse_from([&["pintle", "down"], args].concat()).command {
            Command::Down(args) => args.data_dir.path(),
            _ => unreachable!("it was `down`"),
        };
        assert_eq!(path(&["--name", "dev"]), PathBuf::from("/var/lib/pintle-dev"));
        assert_eq!(path(&["--data-dir", "/x"]), PathBuf::from("/x"));
        assert!(Cli::try_parse_from(["pintle", "down", "--name", "../x"]).is_err());
    }

    #[test]
    fn every_option_has_the_same_name_in_the_config_file() {
        let flags: Vec<String> = Cli::command()
            .find_subcommand("up")
            .expect("up exists")
            .get_arguments()
            .filter_map(|arg| arg.get_long().map(str::to_owned))
            .filter(|name| !["data-dir", "name", "detach", "config", "help", "version"].contains(&name.as_str()))
            .collect();
        for flag in flags {
            let error = crate::options::parse(&format!("{flag}: {{}}")).err().map(|e| e.to_string());
            assert!(!error.unwrap_or_default().contains("unknown field"), "{flag} is not a key of the config file");
        }
    }
}
