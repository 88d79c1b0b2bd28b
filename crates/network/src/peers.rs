//! The way to the pods of other nodes. Start at [`run`]; [`peers`] says who they are, [`Wanted::plan`] what the kernel must
//! hold for them.
//!
//! With [`Mode::Vxlan`] the packets travel in UDP between the nodes' addresses: a link `pt<id>vx`, and for each other node
//! a route, a neighbour and a forwarding entry. Nothing is learned from the network: the Ethernet address of a node's link
//! follows from its pod CIDR, so that Node objects say all there is to know. With [`Mode::HostGateway`] the nodes route to
//! each other directly.
use crate::config::{Config, nth};
use crate::names;
use crate::netlink::Netlink;
use crate::netlink::overlay::{Mac, NextHop, NodeRoute, Vxlan};
use crate::pod_network::{Error, step};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use pintle_client::Informers;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What VXLAN adds to a packet in IPv4, in bytes: outer Ethernet is the underlay's business, inner Ethernet is not.
pub const VXLAN_OVERHEAD_V4: u32 = 50;
/// The same in IPv6.
pub const VXLAN_OVERHEAD_V6: u32 = 70;
/// Linux' own VXLAN port, as other overlays use it.
const VXLAN_PORT: u16 = 8472;
/// Pause before a refused change is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How packets get from node to node; the same on all nodes of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In UDP between the nodes' addresses: works wherever the nodes reach each other.
    #[default]
    Vxlan,
    /// Routed as they are: the nodes share a subnet, or the routers between them know the pods' networks.
    HostGateway,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Its pods' networks.
    pub pod_cidrs: Vec<IpNet>,
}

/// The nodes other than `own` to which a way can be made.
pub fn peers(nodes: &[Arc<Node>], own: &str) -> BTreeSet<Peer> {
    let peer = |node: &Arc<Node>| {
        let name = node.metadata.name.clone().filter(|name| name != own)?;
        let listed = node.status.as_ref()?.addresses.as_ref()?.iter().filter(|address| address.type_ == "InternalIP");
        let addresses: Vec<IpAddr> = listed.filter_map(|address| address.address.parse().ok()).collect();
        let pod_cidrs = pod_cidrs(node);
        (!addresses.is_empty() && !pod_cidrs.is_empty()).then_some(Peer { name, addresses, pod_cidrs })
    };
    nodes.iter().filter_map(peer).collect()
}

/// The pods' networks of a Node.
pub fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.is_none()));
    listed.filter_map(|text| text.parse().ok()).collect()
}

/// The Ethernet address of the VXLAN link of the node with these pod CIDRs.
fn mac(pod_cidrs: &[IpNet]) -> Option<Mac> {
    let gateway = nth(pod_cidrs.first()?, 1);
    let bytes = match gateway {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d, _, _, _, _, _, _, _, _] = address.octets();
            [a, b, c, d]
        }
    };
    let [a, b, c, d] = bytes;
    // Locally administered, unicast.
    Some([0x0a, 0x70, a, b, c, d])
}

/// What the kernel must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    routes: BTreeSet<NodeRoute>,
    neighbours: BTreeSet<(IpAddr, Mac)>,
    forwardings: BTreeSet<(Mac, IpAddr)>,
}

impl Wanted {
    /// The way to `peers` through the VXLAN link `device`.
    fn through_vxlan(peers: &BTreeSet<Peer>, device: u32, config: &Config) -> Self {
        let mut wanted = Wanted::default();
        for peer in peers {
            let (Some(mac), Some(machine)) = (mac(&peer.pod_cidrs), peer.addresses.first()) else { continue };
            wanted.forwardings.insert((mac, *machine));
            for cidr in &peer.pod_cidrs {
                let gateway = nth(cidr, 1);
                let source = config.gateways().into_iter().find(|own| own.is_ipv4() == gateway.is_ipv4());
                wanted.neighbours.insert((gateway, mac));
                wanted.routes.insert(NodeRoute { destination: cidr.trunc(), device, gateway, source });
            }
        }
        wanted
    }

    /// The direct way to `peers`; `next_hop` is the kernel's way to an address. Also the peers that cannot be reached.
    fn direct(peers: &BTreeSet<Peer>, mut next_hop: impl FnMut(IpAddr) -> Option<NextHop>) -> (Self, Vec<String>) {
        let (mut wanted, mut unreachable) = (Wanted::default(), Vec::new());
        for peer in peers {
            for cidr in &peer.pod_cidrs {
                let address = peer.addresses.iter().find(|address| address.is_ipv4() == cidr.addr().is_ipv4());
                let Some((address, hop)) = address.and_then(|address| Some((*address, next_hop(*address)?))) else {
                    unreachable.push(peer.name.clone());
                    continue;
                };
                let gateway = hop.gateway.unwrap_or(address);
                let route = NodeRoute { destination: cidr.trunc(), device: hop.device, gateway, source: None };
                wanted.routes.insert(route);
            }
        }
        (wanted, unreachable)
    }
}

/// Keeps the way to the other nodes' pods until `stop`. What was made stays, so that traffic flows while nobody runs.
pub async fn run(config: Config, mode: Mode, informers: Informers, stop: CancellationToken) {
    let nodes = informers.of::<Node>();
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    nodes.on_change(move |_| notify.notify_one());
    let work = async {
        nodes.synced().await;
        let mut done: Option<BTreeSet<Peer>> = None;
        loop {
            let notified = changed.notified();
            let now = peers(&nodes.list(), &config.node_name);
            let mut retry = false;
            if done.as_ref() != Some(&now) {
                let (config, to_do) = (config.clone(), now.clone());
                let applied = tokio::task::spawn_blocking(move || apply(&config, mode, &to_do)).await;
                match applied.unwrap_or_else(|error| Err(step("finish the work")(io::Error::other(error)))) {
                    Ok(unreachable) if unreachable.is_empty() => done = Some(now),
                    Ok(unreachable) => {
                        let nodes = unreachable.join(", ");
                        tracing::warn!(nodes, "there is no route to the address of these nodes, will try again");
                        retry = true;
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot make the way to the other nodes, will try again");
                        retry = true;
                    }
                }
            }
            tokio::select! {
                () = notified => {}
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    };
    tokio::select! { () = work => {} () = stop.cancelled() => {} }
}

/// Makes the kernel hold what `peers` need; the names of those that cannot be reached.
fn apply(config: &Config, mode: Mode, peers: &BTreeSet<Peer>) -> Result<Vec<String>, Error> {
    let mut host = Netlink::open().map_err(step("open a netlink socket"))?;
    let name = names::overlay_link(&config.cluster_id);
    let link = host.link_index(&name).map_err(step(format!("look for link {name}")))?;
    match mode {
        Mode::HostGateway => {
            let mut failed = None;
            let (wanted, unreachable) = Wanted::direct(peers, |address| match host.next_hop(address) {
                Ok(hop) => hop,
                Err(error) => {
                    failed = Some(error);
                    None
                }
            });
            if let Some(error) = failed {
                return Err(step("look up a route")(error));
            }
            if let Some(link) = link {
                host.delete_link(link).map_err(step(format!("delete link {name}")))?;
            }
            change_routes(&mut host, config, &wanted)?;
            Ok(unreachable)
        }
        Mode::Vxlan => {
            if peers.is_empty() && link.is_none() {
                return Ok(Vec::new());
            }
            let device = prepare_link(&mut host, config, &name)?;
            let wanted = Wanted::through_vxlan(peers, device, config);
            change_entries(&mut host, device, &wanted).map_err(step(format!("set the entries of {name}")))?;
            change_routes(&mut host, config, &wanted)?;
            Ok(Vec::new())
        }
    }
}

fn prepare_link(host: &mut Netlink, config: &Config, name: &str) -> Result<u32, Error> {
    let failed = |what: &str| step(format!("{what} link {name}"));
    let mac = mac(&config.pod_cidrs).ok_or_else(|| failed("address")(io::ErrorKind::InvalidInput.into()))?;
    let vni = u32::from_str_radix(&config.cluster_id, 16).unwrap_or(1) & 0x00ff_ffff;
    let index = match host.link_index(name).map_err(failed("look for"))? {
        Some(index) => {
            host.set_mtu(index, config.mtu).map_err(failed("set the MTU of"))?;
            index
        }
        None => {
            let vxlan = Vxlan { name, vni: vni.max(1), port: VXLAN_PORT, mtu: config.mtu, mac };
            host.add_vxlan(&vxlan).map_err(failed("add"))?;
            let index = host.link_index(name).map_err(failed("look for"))?;
            index.ok_or_else(|| failed("find")(io::ErrorKind::NotFound.into()))?
        }
    };
    host.set_up(index).map_err(failed("set up"))?;
    // The source of what is masqueraded on its way to another node.
    for gateway in config.gateways() {
        host.add_address(index, gateway).map_err(failed("give an address to"))?;
    }
    Ok(index)
}

fn change_entries(host: &mut Netlink, device: u32, wanted: &Wanted) -> io::Result<()> {
    let forwardings: BTreeSet<(Mac, IpAddr)> = host.forwardings(device)?.into_iter().collect();
    for (mac, machine) in forwardings.difference(&wanted.forwardings) {
        host.delete_forwarding(device, *mac, *machine)?;
    }
    for (mac, machine) in wanted.forwardings.difference(&forwardings) {
        host.set_forwarding(device, *mac, *machine)?;
    }
    let neighbours: BTreeSet<(IpAddr, Mac)> = host.neighbours(device)?.into_iter().collect();
    let wanted_addresses: BTreeSet<IpAddr> = wanted.neighbours.iter().map(|(address, _)| *address).collect();
    for (address, _) in neighbours.iter().filter(|(address, _)| !wanted_addresses.contains(address)) {
        host.delete_neighbour(device, *address)?;
    }
    for (address, mac) in wanted.neighbours.difference(&neighbours) {
        host.set_neighbour(device, *address, *mac)?;
    }
    Ok(())
}

fn change_routes(host: &mut Netlink, config: &Config, wanted: &Wanted) -> Result<(), Error> {
    let known = cluster_routes(host, &config.cluster_cidrs)?;
    let destinations: BTreeSet<IpNet> = wanted.routes.iter().map(|route| route.destination).collect();
    for route in wanted.routes.difference(&known) {
        host.set_node_route(route).map_err(step(format!("route {} to its node", route.destination)))?;
    }
    for route in known.difference(&wanted.routes).filter(|route| !destinations.contains(&route.destination)) {
        host.delete_node_route(route).map_err(step(format!("remove the route to {}", route.destination)))?;
    }
    Ok(())
}

/// The routes to nodes of the cluster whose pods are in `cluster_cidrs`.
fn cluster_routes(host: &mut Netlink, cluster_cidrs: &[IpNet]) -> Result<BTreeSet<NodeRoute>, Error> {
    let all = host.node_routes().map_err(step("list routes"))?;
    Ok(all.into_iter().filter(|route| cluster_cidrs.iter().any(|cidr| cidr.contains(&route.destination))).collect())
}

/// Removes the routes to the cluster's other nodes.
pub(crate) fn purge(host: &mut Netlink, cluster_cidrs: &[IpNet]) -> Result<(), Error> {
    for route in cluster_routes(host, cluster_cidrs)? {
        host.delete_node_route(&route).map_err(step(format!("remove the route to {}", route.destination)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> Arc<Node> {
        let addresses: Vec<_> =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
                "status": {"addresses": addresses}}),
            )
            .unwrap(),
        )
    }

    fn config() -> Config {
        Config {
            cluster_id: "0123abcd".into(),
            node_name: "a".into(),
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
            cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            service_cidrs: vec![],
            neighbours: vec![],
            node_ips: vec![],
            mtu: 1450,
            data_dir: "/nonexistent".into(),
        }
    }

    #[test]
    fn only_other_nodes_with_address_and_pod_network_are_peers() {
        let nodes = [
            node("a", &["192.0.2.1"], &["10.1.0.0/24"]),
            node("b", &["192.0.2.2"], &["10.1.1.0/24"]),
            node("c", &[], &["10.1.2.0/24"]),
            node("d", &["192.0.2.4"], &[]),
        ];
        let found: Vec<String> = peers(&nodes, "a").into_iter().map(|peer| peer.name).collect();
        assert_eq!(found, ["b"]);
    }

    #[test]
    fn through_vxlan_each_peer_has_a_route_a_neighbour_and_a_machine() {
        let peers = peers(&[node("b", &["192.0.2.2"], &["10.1.1.0/24"])], "a");
        let wanted = Wanted::through_vxlan(&peers, 7, &config());
        let gateway: IpAddr = "10.1.1.1".parse().unwrap();
        let mac = [0x0a, 0x70, 10, 1, 1, 1];
        assert_eq!(wanted.forwardings, BTreeSet::from([(mac, "192.0.2.2".parse().unwrap())]));
        assert_eq!(wanted.neighbours, BTreeSet::from([(gateway, mac)]));
        let route = NodeRoute {
            destination: "10.1.1.0/24".parse().unwrap(),
            device: 7,
            gateway,
            source: Some("10.1.0.1".parse().unwrap()),
        };
        assert_eq!(wanted.routes, BTreeSet::from([route]));
    }

    #[test]
    fn the_direct_way_leads_to_the_node_or_to_the_router_before_it() {
        let peers = peers(
            &[
                node("b", &["192.0.2.2"], &["10.1.1.0/24"]),
                node("c", &["198.51.100.3"], &["10.1.2.0/24"]),
                node("d", &["203.0.113.4"], &["10.1.3.0/24"]),
            ],
            "a",
        );
        let router: IpAddr = "192.0.2.254".parse().unwrap();
        let (wanted, unreachable) = Wanted::direct(&peers, |address| match address.to_string().as_str() {
            "192.0.2.2" => Some(NextHop { device: 2, gateway: None }),
            "198.51.100.3" => Some(NextHop { device: 2, gateway: Some(router) }),
            _ => None,
        });
        let gateways: Vec<IpAddr> = wanted.routes.iter().map(|route| route.gateway).collect();
        assert_eq!(gateways, ["192.0.2.2".parse().unwrap(), router]);
        assert_eq!(unreachable, ["d"]);
    }
}
