//! [`Network`]: the pod network of one node. Start reading at [`Network::open`].
use crate::bandwidth::{self, Limits, TokenBucket};
use crate::config::{self, Config, nth};
use crate::ipam::{self, HostPort, Ipam, Lease};
use crate::netlink::{LOOPBACK, Netlink, Route, VethPair, any_net, host_net};
use crate::nft::Family;
use crate::table_watch::{self, TableWatch};
use crate::{firewall, host_ports, names, netns, nft, sysctl};
use pintle_runtime::pod_network::{Attachment, PodNetwork};
use std::collections::HashSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fmt, io};
use tokio::task::spawn_blocking;

/// The pods' interface, as every CNI plugin names it.
const POD_LINK: &str = "eth0";

/// Pause after the tables could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Why the pod network failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// No address could be had or kept.
    #[error(transparent)]
    Ipam(#[from] ipam::Error),
    /// The pods' nft table could not be programmed.
    #[error(transparent)]
    Nft(#[from] nft::Error),
    /// The pod's bandwidth annotations cannot be honoured.
    #[error(transparent)]
    Bandwidth(#[from] bandwidth::Error),
    /// The kernel refused a step.
    #[error("cannot {step}: {error}")]
    Kernel {
        /// What was tried.
        step: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The pod network of one node; clones share it.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    config: Config,
    ipam: Ipam,
}

impl Network {
    /// Prepares the host (forwarding, the gateway link, the pods' nft table) and takes over the pods of an earlier run.
    pub async fn open(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let directory = config.data_dir.join("addresses");
        let size =
            config.pod_cidrs.iter().map(|cidr| 1u64 << (cidr.max_prefix_len() - cidr.prefix_len()).min(32)).min();
        let ipam = Ipam::open(&directory, size.unwrap_or(0))?;
        let network = Network(Arc::new(Inner { config, ipam }));
        network.blocking(Inner::recover).await?;
        match firewall::obstacles(&network.0.config.cluster_id).await {
            Ok(obstacles) => obstacles.iter().for_each(|obstacle| tracing::warn!("{obstacle}")),
            Err(error) => tracing::debug!(%error, "cannot look at the host's firewall"),
        }
        let watch = TableWatch::open().map_err(step("watch nftables"))?;
        network.0.program().await?;
        network.blocking(Inner::prepare_host).await?;
        tokio::spawn(keep_tables(watch, Arc::downgrade(&network.0)));
        Ok(network)
    }

    /// The addresses of this node in the pod CIDRs, see [`Config::gateways`].
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.0.config.gateways()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.0.clone();
        spawn_blocking(move || work(&inner)).await.unwrap_or_else(|error| {
            Err(Error::Kernel { step: "finish the work".into(), error: io::Error::other(error) })
        })
    }

    async fn attach(&self, netns: PathBuf, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        let ports: Vec<HostPort> = attachment.port_mappings.iter().map(HostPort::from).collect();
        let limits = bandwidth::parse(&attachment.annotations)?;
        let before = self.0.ipam.get(&attachment.sandbox_id);
        let lease = self.0.ipam.allocate(&attachment.sandbox_id, &ports)?;
        let mut script = before.filter(|before| before.host_ports != ports);
        let mut transaction = script.take().map(|old| host_ports::remove(&self.0.config, &old)).unwrap_or_default();
        transaction.push_str(&host_ports::add(&self.0.config, &lease));
        if !transaction.is_empty() {
            nft::apply(&transaction).await?;
        }
        self.blocking(move |inner| inner.wire(&netns, lease.offset, limits)).await
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        let Some(lease) = self.0.ipam.get(&attachment.sandbox_id) else { return Ok(()) };
        let script = host_ports::remove(&self.0.config, &lease);
        if !script.is_empty() {
            nft::apply(&script).await?;
        }
        let sandbox = attachment.sandbox_id.clone();
        self.blocking(move |inner| {
            let link = names::pod_link(&inner.config.cluster_id, lease.offset);
            let mut host = Netlink::open().map_err(step("open a netlink socket"))?;
            delete_link(&mut host, &link)?;
            Ok(inner.ipam.release(&sandbox)?)
        })
        .await
    }
}

#[async_trait::async_trait]
impl PodNetwork for Network {
    async fn setup(&self, netns: &Path, attachment: &Attachment) -> Result<Vec<IpAddr>, String> {
        self.attach(netns.to_owned(), attachment).await.map_err(|error| error.to_string())
    }

    async fn teardown(&self, _netns: &Path, attachment: &Attachment) -> Result<(), String> {
        self.detach(attachment).await.map_err(|error| error.to_string())
    }

    async fn ready(&self) -> Result<(), String> {
        let link = names::gateway_link(&self.0.config.cluster_id);
        let present = self.blocking(move |_| {
            let mut host = Netlink::open().map_err(step("open a netlink socket"))?;
            host.link_index(&link).map_err(step(format!("look for link {link}")))
        });
        match present.await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("the pod network's gateway link was removed; restart pintle".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Writes the pods' tables again whenever somebody removed them, as long as the network is in use.
async fn keep_tables(watch: TableWatch, network: Weak<Inner>) {
    loop {
        let removed = watch.removed().await;
        let Some(network) = network.upgrade() else { return };
        let kept = match removed {
            Ok(()) => network.restore().await,
            Err(error) => Err(step("watch nftables")(error)),
        };
        if let Err(error) = kept {
            tracing::error!(%error, "cannot keep the pods' nftables");
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl Inner {
    /// Makes or replaces the pods' tables.
    async fn program(&self) -> Result<(), Error> {
        let leases: Vec<Lease> = self.ipam.leases().into_iter().map(|(_, lease)| lease).collect();
        Ok(nft::apply(&host_ports::replace_tables(&self.config, &leases)).await?)
    }

    /// Makes the pods' tables if one is gone.
    async fn restore(&self) -> Result<(), Error> {
        let table = names::pods_table(&self.config.cluster_id);
        for gateway in self.config.gateways() {
            if !table_watch::exists(Family::of(gateway), &table).await? {
                tracing::warn!(table, "the pods' nftables were removed, writing them again");
                return self.program().await;
            }
        }
        Ok(())
    }

    /// Drops leases without a link (the machine was restarted) and links without a lease (a crash between the two).
    fn recover(&self) -> Result<(), Error> {
        let id = &self.config.cluster_id;
        let mut host = Netlink::open().map_err(step("open a netlink socket"))?;
        let links = host.links().map_err(step("list links"))?;
        let present: HashSet<&str> = links.iter().map(|(name, _)| name.as_str()).collect();
        self.ipam.retain(|offset| present.contains(names::pod_link(id, offset).as_str()))?;
        let leases = self.ipam.leases();
        let wanted: HashSet<String> = leases.iter().map(|(_, lease)| names::pod_link(id, lease.offset)).collect();
        for (name, index) in &links {
            if names::is_pod_link(id, name) && !wanted.contains(name) {
                host.delete_link(*index).map_err(step(format!("delete link {name}")))?;
            }
        }
        Ok(())
    }

    /// The link that holds the gateway addresses and attracts the host's packets to Services: they need a route, and
    /// get the gateway as their source, even if the host has no default route.
    fn prepare_host(&self) -> Result<(), Error> {
        let gateways = self.config.gateways();
        let (v4, v6) = (gateways.iter().any(IpAddr::is_ipv4), gateways.iter().any(IpAddr::is_ipv6));
        sysctl::enable_forwarding(v4, v6).map_err(step("turn on IP forwarding"))?;
        let link = names::gateway_link(&self.config.cluster_id);
        let mut host = Netlink::open().map_err(step("open a netlink socket"))?;
        let failed = |what: &str| step(format!("{what} {link}"));
        if host.link_index(&link).map_err(failed("look for link"))?.is_none() {
            host.add_holder(&link, self.config.mtu).map_err(failed("add link"))?;
        }
        let Some(device) = host.link_index(&link).map_err(failed("look for link"))? else {
            return Err(failed("find link")(io::ErrorKind::NotFound.into()));
        };
        host.set_up(device).map_err(failed("set up link"))?;
        for gateway in &gateways {
            host.add_address(device, *gateway).map_err(failed("give an address to link"))?;
        }
        for destination in &self.config.service_cidrs {
            let source = gateways.iter().find(|gateway| gateway.is_ipv4() == destination.addr().is_ipv4());
            let Some(source) = source else { continue };
            let route = Route { destination: destination.trunc(), device, gateway: None, source: Some(*source) };
            host.set_route(&route).map_err(failed("route Services to link"))?;
        }
        Ok(())
    }

    /// Gives the namespace at `path` the addresses at `offset`.
    fn wire(&self, path: &Path, offset: u32, limits: Limits) -> Result<Vec<IpAddr>, Error> {
        let addresses: Vec<IpAddr> = self.config.pod_cidrs.iter().map(|cidr| nth(cidr, offset)).collect();
        let gateways = self.config.gateways();
        let name = names::pod_link(&self.config.cluster_id, offset);
        let netns = File::open(path).map_err(step(format!("open network namespace {}", path.display())))?;
        let mut host = Netlink::open().map_err(step("open a netlink socket"))?;
        let mut pod = netns::inside(&netns, Netlink::open).map_err(step("enter the pod's network namespace"))?;

        let in_pod = |what: &str| step(format!("{what} in the pod's network namespace"));
        let mut eth0 = pod.link_index(POD_LINK).map_err(in_pod("look for eth0"))?;
        let mut here = host.link_index(&name).map_err(step(format!("look for link {name}")))?;
        if eth0.is_none() || here.is_none() {
            delete_link(&mut host, &name)?;
            let pair = VethPair { name: &name, peer: POD_LINK, peer_netns: netns.as_fd(), mtu: self.config.mtu };
            host.add_veth(&pair).map_err(step(format!("add link {name}")))?;
            eth0 = pod.link_index(POD_LINK).map_err(in_pod("look for eth0"))?;
            here = host.link_index(&name).map_err(step(format!("look for link {name}")))?;
        }
        let (Some(eth0), Some(here)) = (eth0, here) else {
            return Err(step(format!("find link {name}"))(io::ErrorKind::NotFound.into()));
        };

        self.tune(&name).map_err(step(format!("set kernel parameters of {name}")))?;
        host.set_up(here).map_err(step(format!("set up {name}")))?;
        pod.set_up(LOOPBACK).map_err(in_pod("set up lo"))?;
        if let Some(bits) = limits.ingress {
            let bucket = TokenBucket::new(bits);
            host.set_rate_limit(here, &bucket).map_err(step(format!("limit the bandwidth of {name}")))?;
        }
        if let Some(bits) = limits.egress {
            pod.set_rate_limit(eth0, &TokenBucket::new(bits)).map_err(in_pod("limit the bandwidth of eth0"))?;
        }
        pod.set_up(eth0).map_err(in_pod("set up eth0"))?;
        for (address, gateway) in addresses.iter().zip(&gateways) {
            host.add_address(here, *gateway).map_err(step(format!("give {gateway} to {name}")))?;
            pod.add_address(eth0, *address).map_err(in_pod("give eth0 its address"))?;
            let to_pod = Route { destination: host_net(*address), device: here, gateway: None, source: Some(*gateway) };
            host.set_route(&to_pod).map_err(step(format!("route {address} to {name}")))?;
            let to_gateway = Route { destination: host_net(*gateway), device: eth0, gateway: None, source: None };
            pod.set_route(&to_gateway).map_err(in_pod("set the gateway's route"))?;
            let to_all =
                Route { destination: any_net(*gateway), device: eth0, gateway: Some(*gateway), source: Some(*address) };
            pod.set_route(&to_all).map_err(in_pod("set the default route"))?;
        }
        Ok(addresses)
    }

    /// Kernel parameters of a pod's host side link.
    fn tune(&self, link: &str) -> io::Result<()> {
        // A pod can only send from its own address.
        sysctl::ensure(&format!("ipv4/conf/{link}/rp_filter"), "1")?;
        // 127.0.0.1:<nodePort> on the host leads here; the guard in the pods' table keeps the other direction shut.
        sysctl::ensure(&format!("ipv4/conf/{link}/route_localnet"), "1")?;
        let v6 = self.config.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6());
        let disable_ipv6 = format!("ipv6/conf/{link}/disable_ipv6");
        match sysctl::ensure(&disable_ipv6, if v6 { "0" } else { "1" }) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !v6 => return Ok(()),
            other => other?,
        }
        // Neighbour solicitations wait for duplicate address detection, which has nobody to ask on this link.
        sysctl::ensure(&format!("ipv6/conf/{link}/accept_dad"), "0")
    }
}

fn delete_link(host: &mut Netlink, name: &str) -> Result<(), Error> {
    let failed = || step(format!("delete link {name}"));
    match host.link_index(name).map_err(failed())? {
        Some(index) => host.delete_link(index).map_err(failed()),
        None => Ok(()),
    }
}

pub(crate) fn step(step: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Kernel { step: step.to_string(), error }
}
