//! What leads to other nodes: a VXLAN link, its forwarding and neighbour entries, and routes through next hops.
use super::{Netlink, family, named_link, route_address};
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

/// Marks routes to other nodes' pods as Pintle's.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(112);

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A VXLAN link.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port at both ends.
    pub port: u16,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its own address.
    pub mac: Mac,
}

/// A route to another node's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    /// The node's pods.
    pub destination: IpNet,
    /// The device.
    pub device: u32,
    /// The next hop, taken as being on the device's link.
    pub gateway: IpAddr,
    /// The source address of the host's own packets.
    pub source: Option<IpAddr>,
}

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The device.
    pub device: u32,
    /// The router, if the destination is not on the device's link.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// Makes a VXLAN link without learning, down.
    pub fn add_vxlan(&mut self, vxlan: &Vxlan<'_>) -> io::Result<()> {
        let mut link = named_link(vxlan.name, vxlan.mtu);
        link.attributes.push(LinkAttribute::Address(vxlan.mac.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![
                InfoVxlan::Id(vxlan.vni),
                InfoVxlan::Port(vxlan.port),
                InfoVxlan::Learning(false),
            ])),
        ]));
        self.request(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Changes the MTU of a link.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Says which machine the Ethernet address `mac` is behind on a VXLAN link.
    pub fn set_forwarding(&mut self, index: u32, mac: Mac, machine: IpAddr) -> io::Result<()> {
        let message = forwarding(index, mac, machine);
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Forgets what [`Netlink::set_forwarding`] said; fine if it is gone.
    pub fn delete_forwarding(&mut self, index: u32, mac: Mac, machine: IpAddr) -> io::Result<()> {
        gone_is_fine(self.request(RouteNetlinkMessage::DelNeighbour(forwarding(index, mac, machine)), 0).map(drop))
    }

    /// The entries of a VXLAN link: Ethernet address and machine.
    pub fn forwardings(&mut self, index: u32) -> io::Result<Vec<(Mac, IpAddr)>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        let answers = self.request(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP)?;
        Ok(neighbours(answers, index).collect())
    }

    /// Gives the neighbour `address` on a link the Ethernet address `mac` for good.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
        let mut message = neighbour(index, family(address), NeighbourFlags::empty());
        message.attributes.push(NeighbourAttribute::Destination(destination(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Forgets a neighbour; fine if it is gone.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let mut message = neighbour(index, family(address), NeighbourFlags::empty());
        message.attributes.push(NeighbourAttribute::Destination(destination(address)));
        gone_is_fine(self.request(RouteNetlinkMessage::DelNeighbour(message), 0).map(drop))
    }

    /// The permanent neighbours on a link.
    pub fn neighbours(&mut self, index: u32) -> io::Result<Vec<(IpAddr, Mac)>> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        let answers = self.request(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP)?;
        Ok(neighbours(answers, index).map(|(mac, address)| (address, mac)).collect())
    }

    /// Adds or replaces a route to another node's pods.
    pub fn set_node_route(&mut self, route: &NodeRoute) -> io::Result<()> {
        let message = node_route(route);
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Removes a route to another node's pods; fine if it is gone.
    pub fn delete_node_route(&mut self, route: &NodeRoute) -> io::Result<()> {
        gone_is_fine(self.request(RouteNetlinkMessage::DelRoute(node_route(route)), 0).map(drop))
    }

    /// The routes that [`Netlink::set_node_route`] made, of whichever cluster.
    pub fn node_routes(&mut self) -> io::Result<Vec<NodeRoute>> {
        let answers = self.request(RouteNetlinkMessage::GetRoute(RouteMessage::default()), NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) if route.header.protocol == PROTOCOL => parse_node_route(&route),
                _ => None,
            })
            .collect())
    }

    /// The way to `address`; `None` if there is none, or it is the host's own.
    pub fn next_hop(&mut self, address: IpAddr) -> io::Result<Option<NextHop>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(route_address(address)));
        let answers = match self.request(RouteNetlinkMessage::GetRoute(message), 0) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                return Ok(None);
            }
            answers => answers?,
        };
        let route = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Unicast => Some(route),
            _ => None,
        });
        let mut hop = NextHop { device: 0, gateway: None };
        for attribute in route.into_iter().flat_map(|route| route.attributes) {
            match attribute {
                RouteAttribute::Oif(device) => hop.device = device,
                RouteAttribute::Gateway(gateway) => hop.gateway = ip(&gateway),
                _ => {}
            }
        }
        Ok((hop.device != 0).then_some(hop))
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV)) => Ok(()),
        result => result,
    }
}

fn neighbour(index: u32, family: AddressFamily, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = flags;
    message
}

fn forwarding(index: u32, mac: Mac, machine: IpAddr) -> NeighbourMessage {
    let mut message = neighbour(index, AddressFamily::Bridge, NeighbourFlags::Own);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(destination(machine)));
    message
}

fn destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}

/// The permanent entries of link `index` in a dump that may hold other links' too.
fn neighbours(answers: Vec<RouteNetlinkMessage>, index: u32) -> impl Iterator<Item = (Mac, IpAddr)> {
    answers.into_iter().filter_map(move |answer| {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else { return None };
        if message.header.ifindex != index || message.header.state != NeighbourState::Permanent {
            return None;
        }
        let (mut mac, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address = ip_of_bytes(bytes),
                _ => {}
            }
        }
        Some((mac?, address?))
    })
}

fn ip_of_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn node_route(route: &NodeRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    message.header.flags = RouteFlags::Onlink;
    message.attributes.push(RouteAttribute::Destination(route_address(route.destination.addr())));
    message.attributes.push(RouteAttribute::Gateway(route_address(route.gateway)));
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(route_address(source)));
    }
    message.attributes.push(RouteAttribute::Oif(route.device));
    message
}

fn parse_node_route(message: &RouteMessage) -> Option<NodeRoute> {
    let (mut destination, mut device, mut gateway, mut source) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => {}
        }
    }
    let destination = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    Some(NodeRoute { destination, device: device?, gateway: gateway?, source })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
