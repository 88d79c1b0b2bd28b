//! Forgets UDP flows that lead to endpoints which no longer serve: UDP has no connection that ends, so a client that
//! keeps its port would be sent to a vanished pod for ever.
//!
//! upstream: pkg/proxy/conntrack/cleanup.go, `CleanStaleEntries`
use super::plan::UdpTargets;
use crate::nft::Family;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;

const HEADER: usize = 16;
/// The netlink header and netfilter's own behind it.
const PREAMBLE: usize = HEADER + 4;
const CTNETLINK: u16 = 1 << 8;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Flags in an attribute's type.
const TYPE_MASK: u16 = 0x3fff;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const UDP: u8 = 17;

/// One direction of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tuple {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

/// A flow, with the attributes that name it to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    original: Tuple,
    reply: Tuple,
    identity: Vec<u8>,
}

/// Deletes the UDP flows of Services that lead elsewhere than to a serving endpoint.
pub async fn forget_stale(family: Family, targets: impl Iterator<Item = &UdpTargets>) {
    let stale = Stale::new(targets);
    if stale.is_empty() {
        return;
    }
    let deleted = tokio::task::spawn_blocking(move || {
        let flows: Vec<Flow> = list(family)?.into_iter().filter(|flow| stale.matches(flow)).collect();
        delete(family, &flows).map(|()| flows.len())
    });
    match deleted.await {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => tracing::debug!(count, "forgot UDP flows to endpoints that are gone"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot forget UDP flows to endpoints that are gone"),
        Err(error) => tracing::error!(%error, "forgetting UDP flows failed"),
    }
}

/// Where flows may lead, by what clients used. A Service without any endpoint keeps its flows, as upstream.
struct Stale {
    addresses: HashMap<(IpAddr, u16), BTreeSet<(IpAddr, u16)>>,
    node_ports: HashMap<u16, BTreeSet<(IpAddr, u16)>>,
}

impl Stale {
    fn new<'a>(targets: impl Iterator<Item = &'a UdpTargets>) -> Self {
        let mut stale = Stale { addresses: HashMap::new(), node_ports: HashMap::new() };
        for target in targets.filter(|target| !target.endpoints.is_empty()) {
            for address in &target.addresses {
                stale.addresses.insert((*address, target.port), target.endpoints.clone());
            }
            if let Some(port) = target.node_port {
                stale.node_ports.insert(port, target.endpoints.clone());
            }
        }
        stale
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    fn matches(&self, flow: &Flow) -> bool {
        let to = flow.original.destination;
        let endpoints = self.addresses.get(&to).or_else(|| self.node_ports.get(&to.1));
        flow.original.protocol == UDP && endpoints.is_some_and(|endpoints| !endpoints.contains(&flow.reply.source))
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn message(kind: u16, flags: u16, family: Family, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(PREAMBLE + attributes.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(PREAMBLE + attributes.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    let address_family = if family == Family::Ip { libc::AF_INET } else { libc::AF_INET6 };
    message.extend([u8::try_from(address_family).unwrap_or_default(), 0, 0, 0]);
    message.extend(attributes);
    message
}

fn list(family: Family) -> io::Result<Vec<Flow>> {
    let socket = open()?;
    socket.send(&message(GET, DUMP, family, &[]), 0)?;
    let mut flows = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&datagram) {
            match kind {
                NLMSG_DONE => return Ok(flows),
                NLMSG_ERROR => check(body)?,
                _ => flows.extend(body.get(PREAMBLE - HEADER..).and_then(parse_flow)),
            }
        }
    }
}

fn delete(family: Family, flows: &[Flow]) -> io::Result<()> {
    if flows.is_empty() {
        return Ok(());
    }
    let socket = open()?;
    for flow in flows {
        socket.send(&message(DELETE, ACK, family, &flow.identity), 0)?;
        let (datagram, _) = socket.recv_from_full()?;
        for (_, body) in messages(&datagram).filter(|(kind, _)| *kind == NLMSG_ERROR) {
            match check(body) {
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// The error that an NLMSG_ERROR carries; zero is an acknowledgement.
fn check(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// Type and body of each message in a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([*datagram.get(4)?, *datagram.get(5)?]);
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Type, value and whole encoding of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        let padded = length.next_multiple_of(4).min(bytes.len());
        let (whole, rest) = bytes.split_at(padded);
        bytes = rest;
        Some((kind, value, whole))
    })
}

fn parse_flow(bytes: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut identity) = (None, None, Vec::new());
    for (kind, value, whole) in attributes(bytes) {
        match kind {
            CTA_TUPLE_ORIG => original = Some(parse_tuple(value)?),
            CTA_TUPLE_REPLY => reply = Some(parse_tuple(value)?),
            _ => {}
        }
        if matches!(kind, CTA_TUPLE_ORIG | CTA_ID | CTA_ZONE) {
            identity.extend(whole);
        }
    }
    Some(Flow { original: original?, reply: reply?, identity })
}

fn parse_tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut addresses, mut ports, mut protocol) = ([None; 2], [0; 2], 0);
    for (kind, value, _) in attributes(bytes) {
        match kind {
            1 => {
                for (kind, value, _) in attributes(value) {
                    let address = match value.len() {
                        4 => IpAddr::from(*value.first_chunk::<4>()?),
                        _ => IpAddr::from(*value.first_chunk::<16>()?),
                    };
                    // Odd types are sources, even ones destinations, of either family.
                    addresses[usize::from(kind + 1) % 2] = Some(address);
                }
            }
            2 => {
                for (kind, value, _) in attributes(value) {
                    match kind {
                        1 => protocol = *value.first()?,
                        2 => ports[0] = u16::from_be_bytes(*value.first_chunk()?),
                        3 => ports[1] = u16::from_be_bytes(*value.first_chunk()?),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Tuple { source: (addresses[0]?, ports[0]), destination: (addresses[1]?, ports[1]), protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(to: (&str, u16), endpoint: (&str, u16), protocol: u8) -> Flow {
        let client: (IpAddr, u16) = ("10.0.0.9".parse().unwrap(), 4000);
        let end = |(ip, port): (&str, u16)| (ip.parse().unwrap(), port);
        Flow {
            original: Tuple { source: client, destination: end(to), protocol },
            reply: Tuple { source: end(endpoint), destination: client, protocol },
            identity: vec![],
        }
    }

    fn targets(endpoints: &[(&str, u16)]) -> UdpTargets {
        UdpTargets {
            addresses: ["10.96.0.10".parse().unwrap()].into(),
            port: 53,
            node_port: Some(30053),
            endpoints: endpoints.iter().map(|(ip, port)| (ip.parse().unwrap(), *port)).collect(),
        }
    }

    #[test]
    fn only_udp_flows_of_services_to_other_endpoints_are_stale() {
        let targets = [targets(&[("10.0.0.1", 5353)])];
        let stale = Stale::new(targets.iter());
        assert!(stale.matches(&flow(("10.96.0.10", 53), ("10.0.0.2", 5353), UDP)));
        assert!(stale.matches(&flow(("192.0.2.1", 30053), ("10.0.0.2", 5353), UDP)));
        assert!(stale.matches(&flow(("10.96.0.10", 53), ("10.96.0.10", 53), UDP)));
        assert!(!stale.matches(&flow(("10.96.0.10", 53), ("10.0.0.1", 5353), UDP)));
        assert!(!stale.matches(&flow(("10.96.0.10", 53), ("10.0.0.2", 5353), 6)));
        assert!(!stale.matches(&flow(("10.96.0.99", 53), ("10.0.0.2", 5353), UDP)));
    }

    #[test]
    fn a_service_without_endpoints_keeps_its_flows() {
        let targets = [targets(&[])];
        assert!(Stale::new(targets.iter()).is_empty());
    }

    #[test]
    fn cut_off_messages_are_no_panic() {
        for length in 0..64 {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 37 % 251) as u8).collect();
            messages(&bytes).for_each(drop);
            assert!(parse_flow(&bytes).is_none());
        }
        assert!(attributes(&[0; 8]).next().is_none());
    }
}
