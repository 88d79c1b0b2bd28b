//! Wires a node: pod network, service proxy, DNS, container runtime, kubelet.
use crate::control_plane::ControlPlane;
use crate::instance::{Instance, Paths};
use crate::progress::Progress;
use crate::start::{Components, Settings};
use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use pintle_api::user::UserInfo;
use pintle_client::Informers;
use pintle_network::Network;
use pintle_runtime::Runtime;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The port of the node's DNS listener.
const DNS_PORT: u16 = 10053;

/// A running node.
pub struct Node {
    kubelet: pintle_kubelet::Handle,
}

impl Node {
    /// Starts everything; [`Node::ready`] says when pods can run.
    pub async fn start(
        settings: &Settings,
        control_plane: &ControlPlane,
        stop: &CancellationToken,
        components: &mut Components,
        progress: &Progress,
    ) -> Result<Self> {
        let network_config = network_config(settings)?;
        let network = Network::open(network_config.clone()).await.context("the pod network")?;
        let gateway = network.gateways().first().copied().context("the pod network has a gateway")?;
        let config = runtime_config(&settings.paths, &settings.instance, Arc::new(network))?;
        let runtime = Arc::new(Runtime::open(config).await.context("the container runtime")?);
        progress.step("pod network and container runtime");

        let proxy_client = control_plane.clients.user(UserInfo::new("system:kube-proxy", &[]));
        let informers = Informers::new(proxy_client, stop.clone());
        let proxy = pintle_network::run(network_config, informers, stop.clone());
        components.spawn(async move { ("service proxy", proxy.await.map_err(Into::into)) });
        let dns = pintle_dns::run(
            dns_config(settings, gateway),
            control_plane.clients.clone(),
            control_plane.informers.clone(),
            stop.clone(),
        );
        components.spawn(async move { ("DNS", dns.await.map_err(Into::into)) });

        let config = pintle_storage::Config {
            node_name: settings.instance.node_name.clone(),
            directory: settings.paths.data.join("storage"),
        };
        let storage =
            pintle_storage::run(config, control_plane.clients.clone(), control_plane.informers.clone(), stop.clone());
        components.spawn(async move {
            storage.await;
            ("local-path provisioner", Ok(()))
        });

        let config = kubelet_config(settings, control_plane)?;
        let user = UserInfo::new(format!("system:node:{}", settings.instance.node_name), &["system:nodes"]);
        let client = control_plane.clients.user(user);
        let kubelet =
            pintle_kubelet::run(config, client, runtime.clone(), runtime, stop.clone()).await.context("the kubelet")?;
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

/// The first node of a cluster takes the first /24 of the pods' range.
fn pod_cidr(instance: &Instance) -> Result<Ipv4Net> {
    let length = instance.cluster_cidr.prefix_len().max(24);
    let first = instance.cluster_cidr.subnets(length).ok().and_then(|mut subnets| subnets.next());
    first.context("the range of pod addresses is too small")
}

fn network_dir(paths: &Paths) -> PathBuf {
    paths.data.join("network")
}

fn network_config(settings: &Settings) -> Result<pintle_network::Config> {
    let instance = &settings.instance;
    Ok(pintle_network::Config {
        cluster_id: instance.id.clone(),
        node_name: instance.node_name.clone(),
        pod_cidrs: vec![IpNet::V4(pod_cidr(instance)?)],
        cluster_cidrs: vec![instance.cluster_cidr.into()],
        service_cidrs: vec![instance.service_cidr.into()],
        node_ips: vec![settings.node_ip],
        mtu: 1500,
        data_dir: network_dir(&settings.paths),
    })
}

fn cgroup_root(instance: &Instance) -> String {
    format!("/pintle-{}", instance.id)
}

fn runtime_config(
    paths: &Paths,
    instance: &Instance,
    network: Arc<dyn pintle_runtime::pod_network::PodNetwork>,
) -> Result<pintle_runtime::Config> {
    Ok(pintle_runtime::Config {
        root: runtime_root(paths),
        state: runtime_state(instance),
        cgroup_parent: cgroup_root(instance),
        executable: std::env::current_exe().context("cannot find this program")?,
        network,
        insecure_registries: Vec::new(),
        image_directory: Some(paths.data.join("images")),
    })
}

fn dns_config(settings: &Settings, gateway: std::net::IpAddr) -> pintle_dns::Config {
    pintle_dns::Config {
        listen: vec![SocketAddr::new(gateway, DNS_PORT)],
        cluster_domain: settings.instance.cluster_domain.clone(),
        cluster_ips: vec![settings.instance.dns_ip().into()],
        node_name: settings.instance.node_name.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
    }
}

fn kubelet_config(settings: &Settings, control_plane: &ControlPlane) -> Result<pintle_kubelet::Config> {
    let (instance, options) = (&settings.instance, &settings.options);
    let mut config =
        pintle_kubelet::Config::new(&instance.node_name, settings.node_ip, settings.paths.data.join("kubelet"));
    config.node_labels = labels(&options.node_labels)?;
    config.cluster_dns = vec![instance.dns_ip().into()];
    config.cluster_domain.clone_from(&instance.cluster_domain);
    config.static_pod_path = Some(settings.paths.data.join("manifests"));
    config.cluster_id.clone_from(&instance.id);
    config.cgroup_root = cgroup_root(instance);
    config.max_pods = options.max_pods.unwrap_or(config.max_pods);
    let serving = control_plane.pki.kubelet_serving(&instance.node_name, &[settings.node_ip])?;
    let address = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), instance.kubelet_port);
    config.server =
        Some(pintle_kubelet::ServerConfig { address, tls: Arc::new(control_plane.pki.kubelet_tls(serving)?) });
    Ok(config)
}

fn labels(pairs: &[String]) -> Result<std::collections::BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) =
            text.split_once('=').with_context(|| format!("--node-labels {text}: a label is key=value"))?;
        anyhow::Ok((key.to_owned(), value.to_owned()))
    };
    pairs.iter().map(pair).collect()
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
    runtime.block_on(pintle_network::purge(&instance.id, &network_dir(paths))).context("the pod network")
}

/// Where the node keeps images and records.
pub fn runtime_root(paths: &Paths) -> PathBuf {
    paths.data.join("runtime")
}

/// Where the running node listens.
pub fn runtime_state(instance: &Instance) -> PathBuf {
    instance.run_dir().join("runtime")
}
