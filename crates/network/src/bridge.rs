//! The bridge on which the nodes of one machine meet. [`prepare`] makes it; [`Host::attach`] wires a node to it.
use crate::names;
use crate::netlink::{LOOPBACK, Netlink, Route, VethPair, any_net};
use crate::pod_network::{Error, step};
use ipnet::IpNet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

/// The node's end of its link.
const NODE_LINK: &str = "eth0";
/// Its MTU in bytes: no packet leaves the machine on it.
const MTU: u32 = 1500;

/// The host's end of the link of node `number`.
pub fn node_link(cluster_id: &str, number: u8) -> String {
    names::node_link(cluster_id, number)
}

/// Makes the bridge of the cluster and gives it `host`, the host's address with the prefix of the nodes' network.
pub fn prepare(cluster_id: &str, host: IpNet) -> Result<(), Error> {
    let name = names::bridge(cluster_id);
    let failed = |what: &str| step(format!("{what} link {name}"));
    let mut netlink = Netlink::open().map_err(step("open a netlink socket"))?;
    if netlink.link_index(&name).map_err(failed("look for"))?.is_none() {
        netlink.add_holder(&name, MTU).map_err(failed("add"))?;
    }
    let index = netlink.link_index(&name).map_err(failed("look for"))?;
    let index = index.ok_or_else(|| failed("find")(io::ErrorKind::NotFound.into()))?;
    netlink.set_up(index).map_err(failed("set up"))?;
    netlink.add_network_address(index, host).map_err(failed("give an address to"))
}

/// A hold on the host's network for a process that leaves it.
pub struct Host(Netlink);

impl Host {
    /// Of the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Netlink::open().map(Host)
    }

    /// Wires the calling thread's (new) network namespace to the bridge on the host: `link` is the host's end, `address`
    /// the node's with the network's prefix, `gateway` the host's.
    pub fn attach(mut self, cluster_id: &str, link: &str, address: IpNet, gateway: IpAddr) -> Result<(), Error> {
        let host = &mut self.0;
        let failed = |what: &str| step(format!("{what} link {link}"));
        let bridge = names::bridge(cluster_id);
        let bridge = host.link_index(&bridge).map_err(failed("look for the bridge of"))?;
        let bridge = bridge.ok_or_else(|| failed("find the bridge of")(io::ErrorKind::NotFound.into()))?;
        if let Some(old) = host.link_index(link).map_err(failed("look for"))? {
            host.delete_link(old).map_err(failed("delete"))?;
        }
        let netns = File::open("/proc/thread-self/ns/net").map_err(step("open the node's network namespace"))?;
        let pair = VethPair { name: link, peer: NODE_LINK, peer_netns: netns.as_fd(), mtu: MTU };
        host.add_veth(&pair).map_err(failed("add"))?;
        let index = host.link_index(link).map_err(failed("look for"))?;
        let index = index.ok_or_else(|| failed("find")(io::ErrorKind::NotFound.into()))?;
        // Where the kernel filters bridged packets (br_netfilter), one that a node sends to the NodePort of the host and that is
        // for a pod of that same node goes back by the port by which it came.
        host.set_controller(index, bridge).map_err(failed("connect to the bridge"))?;
        host.set_up(index).map_err(failed("set up"))?;

        let mut node = Netlink::open().map_err(step("open a netlink socket in the node"))?;
        let in_node = |what: &str| step(format!("{what} in the node's network namespace"));
        node.set_up(LOOPBACK).map_err(in_node("set up lo"))?;
        let eth0 = node.link_index(NODE_LINK).map_err(in_node("look for eth0"))?;
        let eth0 = eth0.ok_or_else(|| in_node("find eth0")(io::ErrorKind::NotFound.into()))?;
        node.set_up(eth0).map_err(in_node("set up eth0"))?;
        node.add_network_address(eth0, address).map_err(in_node("give eth0 its address"))?;
        let source = Some(address.addr());
        let route = Route { destination: any_net(gateway), device: eth0, gateway: Some(gateway), source };
        node.set_route(&route).map_err(in_node("set the default route"))
    }
}
