//! Wires a node: pod network, service proxy, DNS, container runtime, kubelet.
use crate::cli::NetworkMode;
use crate::cli::Options;
use crate::instance::{Instance, Paths};
use crate::progress::Progress;
use crate::start::{Components, Settings};
use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use pintle_client::{Clients, Informers};
use pintle_network::Network;
use pintle_network::peers::{self, Mode};
use pintle_runtime::Runtime;
use pintle_runtime::image::pull::Registries;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The port of the node's DNS listener.
pub const DNS_PORT: u16 = 10053;
/// The MTU of an underlay that does not tell its own, in bytes.
const DEFAULT_MTU: u32 = 1500;
/// Pause before the API is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What the parts of a node act with: identities of their own in process, the node's over the network.
pub struct NodeAccess {
    /// For the provisioner.
    pub clients: Clients,
    /// For DNS, the provisioner, and the way to other nodes.
    pub informers: Informers,
    /// For the service proxy.
    pub proxy: Informers,
    /// The kubelet's client.
    pub node: kube::Client,
    /// TLS of the kubelet's server.
    pub tls: Arc<rustls::ServerConfig>,
}

/// A running node.
pub struct Node {
    kubelet: pintle_kubelet::Handle,
}

impl Node {
    /// Starts everything; [`Node::ready`] says when pods can run.
    pub async fn start(
        settings: &Settings,
        access: NodeAccess,
        stop: &CancellationToken,
        components: &mut Components,
        progress: &Progress,
    ) -> Result<Self> {
        let pod_cidrs = own_pod_cidrs(&access.node, &settings.instance.node_name).await?;
        take_over(settings, &pod_cidrs)?;
        let network_config = network_config(settings, pod_cidrs);
        let network = Network::open(network_config.clone()).await.context("the pod network")?;
        let gateway = network.gateways().first().copied().context("the pod network has a gateway")?;
        let config = runtime_config(&settings.paths, &settings.instance, &settings.options, Arc::new(network))?;
        let runtime = Arc::new(Runtime::open(config).await.context("the container runtime")?);
        progress.step("pod network and container runtime");

        let routes =
            peers::run(network_config.clone(), mode(&settings.instance), access.informers.clone(), stop.clone());
        components.spawn(async move {
            routes.await;
            ("the way to other nodes", Ok(()))
        });
        let proxy = pintle_network::run(network_config, access.proxy, stop.clone());
        components.spawn(async move { ("service proxy", proxy.await.map_err(Into::into)) });
        let dns = pintle_dns::run(dns_config(settings, gateway), access.informers.clone(), stop.clone());
        components.spawn(async move { ("DNS", dns.await.map_err(Into::into)) });

        let config = pintle_storage::Config {
            node_name: settings.instance.node_name.clone(),
            directory: settings.paths.data.join("storage"),
        };
        let storage = pintle_storage::run(config, access.clients, access.informers, stop.clone());
        components.spawn(async move {
            storage.await;
            ("local-path provisioner", Ok(()))
        });

        let config = kubelet_config(settings, access.tls)?;
        let kubelet = pintle_kubelet::run(config, access.node, runtime.clone(), runtime, stop.clone())
            .await
            .context("the kubelet")?;
        Ok(Node { kubelet })
    }

    /// Waits until the Node is Ready.
    pub async fn ready(&self) -> Result<()> {
        if self.kubelet.clone().ready().await {
            return Ok(());
        }
        bail!("the node stopped before it was Ready")
    }
}

/// The networks that the cluster gave the node's pods. The Node is made if there is none: without it there are none.
async fn own_pod_cidrs(client: &kube::Client, name: &str) -> Result<Vec<IpNet>> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let given = |node: Option<&NodeObject>| node.is_some_and(|node| !peers::pod_cidrs(node).is_empty());
    loop {
        let found = match nodes.get_opt(name).await {
            Ok(None) => {
                let mut node = NodeObject::default();
                node.metadata.name = Some(name.to_owned());
                match nodes.create(&PostParams::default(), &node).await {
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
                    made => made.map(Some),
                }
            }
            found => found,
        };
        match found {
            Ok(Some(node)) if given(Some(&node)) => return Ok(peers::pod_cidrs(&node)),
            Ok(_) => match await_condition(nodes.clone(), name, given).await {
                Ok(Some(node)) => return Ok(peers::pod_cidrs(&node)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot wait for the node's pod network, will try again"),
            },
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                bail!("the cluster does not take this node: {}", status.message)
            }
            Err(error) => tracing::warn!(%error, "cannot ask for the node's pod network, will try again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Ends what an earlier run left in other pod networks than those that the node has now: it was removed meanwhile.
fn take_over(settings: &Settings, pod_cidrs: &[IpNet]) -> Result<()> {
    let file = network_dir(&settings.paths).join("pod-cidrs");
    let text = pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    match std::fs::read_to_string(&file) {
        Ok(kept) if kept == text => return Ok(()),
        Ok(_) => {
            tracing::warn!(networks = text, "the node has another pod network now, its pods are ended");
            stop_pods(&settings.paths, &settings.instance)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
    std::fs::create_dir_all(network_dir(&settings.paths))?;
    crate::instance::write_private(&file, text.as_bytes())
}

fn mode(instance: &Instance) -> Mode {
    match instance.network_mode {
        NetworkMode::Vxlan => Mode::Vxlan,
        NetworkMode::HostGw => Mode::HostGateway,
    }
}

/// The MTU of pods: what the way to other nodes leaves of the MTU of the link with the node's address.
fn pod_mtu(settings: &Settings) -> u32 {
    let underlay = link_mtu(settings.node_ip).unwrap_or(DEFAULT_MTU);
    match (settings.instance.network_mode, settings.node_ip) {
        (NetworkMode::HostGw, _) => underlay,
        (NetworkMode::Vxlan, IpAddr::V4(_)) => underlay.saturating_sub(peers::VXLAN_OVERHEAD_V4),
        (NetworkMode::Vxlan, IpAddr::V6(_)) => underlay.saturating_sub(peers::VXLAN_OVERHEAD_V6),
    }
    .clamp(1280, 9000)
}

fn link_mtu(address: IpAddr) -> Option<u32> {
    let mut links = nix::ifaddrs::getifaddrs().ok()?;
    let link = links.find(|link| {
        let storage = link.address.as_ref();
        let v4 = storage.and_then(|one| one.as_sockaddr_in()).map(|one| IpAddr::V4(one.ip()));
        let v6 = storage.and_then(|one| one.as_sockaddr_in6()).map(|one| IpAddr::V6(one.ip()));
        v4.or(v6) == Some(address)
    })?;
    std::fs::read_to_string(format!("/sys/class/net/{}/mtu", link.interface_name)).ok()?.trim().parse().ok()
}

fn network_dir(paths: &Paths) -> PathBuf {
    paths.data.join("network")
}

fn network_config(settings: &Settings, pod_cidrs: Vec<IpNet>) -> pintle_network::Config {
    let instance = &settings.instance;
    pintle_network::Config {
        cluster_id: instance.id.clone(),
        node_name: instance.node_name.clone(),
        pod_cidrs,
        cluster_cidrs: vec![instance.cluster_cidr.into()],
        service_cidrs: vec![instance.service_cidr.into()],
        neighbours: instance.machine.iter().map(|machine| machine.network.into()).collect(),
        node_ips: vec![settings.node_ip],
        mtu: pod_mtu(settings),
        data_dir: network_dir(&settings.paths),
    }
}

fn cgroup_root(instance: &Instance) -> String {
    format!("/pintle-{}", instance.id)
}

fn runtime_config(
    paths: &Paths,
    instance: &Instance,
    options: &Options,
    network: Arc<dyn pintle_runtime::pod_network::PodNetwork>,
) -> Result<pintle_runtime::Config> {
    Ok(pintle_runtime::Config {
        root: runtime_root(paths),
        state: runtime_state(instance),
        cgroup_parent: cgroup_root(instance),
        executable: std::env::current_exe().context("cannot find this program")?,
        network,
        registries: Registries {
            mirrors: pairs(&options.registry_mirrors, "--registry-mirrors")?,
            ..Registries::default()
        },
        image_directory: Some(paths.data.join("images")),
    })
}

fn dns_config(settings: &Settings, gateway: IpAddr) -> pintle_dns::Config {
    pintle_dns::Config {
        listen: vec![SocketAddr::new(gateway, DNS_PORT)],
        cluster_domain: settings.instance.cluster_domain.clone(),
        cluster_ips: vec![settings.instance.dns_ip().into()],
        resolv_conf: "/etc/resolv.conf".into(),
    }
}

fn kubelet_config(settings: &Settings, tls: Arc<rustls::ServerConfig>) -> Result<pintle_kubelet::Config> {
    let (instance, options) = (&settings.instance, &settings.options);
    let mut config =
        pintle_kubelet::Config::new(&instance.node_name, settings.node_ip, settings.paths.data.join("kubelet"));
    config.node_labels = pairs(&options.node_labels, "--node-labels")?;
    config.cluster_dns = vec![instance.dns_ip().into()];
    config.cluster_domain.clone_from(&instance.cluster_domain);
    config.static_pod_path = Some(settings.paths.data.join("manifests"));
    config.cluster_id.clone_from(&instance.id);
    config.cgroup_root = cgroup_root(instance);
    config.max_pods = options.max_pods.unwrap_or(config.max_pods);
    let address = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), instance.kubelet_port);
    config.server = Some(pintle_kubelet::ServerConfig { address, tls });
    Ok(config)
}

/// What the flag `flag` says, each item key=value.
fn pairs(items: &[String], flag: &str) -> Result<std::collections::BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("{flag} {text}: an item is key=value"))?;
        anyhow::Ok((key.to_owned(), value.to_owned()))
    };
    items.iter().map(pair).collect()
}

/// Ends every container of the cluster on this machine; images and what pods keep on disk stay.
pub fn stop_pods(paths: &Paths, instance: &Instance) -> Result<()> {
    pintle_runtime::stop(&runtime_root(paths), &runtime_state(instance), &cgroup_root(instance))
        .context("the container runtime")
}

/// Ends every container of the cluster on this machine and takes back what the node made: mounts, cgroups, links, rules.
pub fn purge(paths: &Paths, instance: &Instance) -> Result<()> {
    pintle_runtime::purge(&runtime_root(paths), &runtime_state(instance), &cgroup_root(instance))
        .context("the container runtime")?;
    pintle_runtime::unmount_below(&paths.data.join("kubelet")).context("pods' volumes")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(pintle_network::purge(&instance.id, &[instance.cluster_cidr.into()], &network_dir(paths)))
        .context("the pod network")
}

/// Where the node keeps images and records.
pub fn runtime_root(paths: &Paths) -> PathBuf {
    paths.data.join("runtime")
}

/// Where the running node listens.
pub fn runtime_state(instance: &Instance) -> PathBuf {
    instance.run_dir().join("runtime")
}
