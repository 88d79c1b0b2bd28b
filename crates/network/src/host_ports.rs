//! The nft table for pods: `hostPort` mappings, masquerade of what leaves the cluster, and the guard of the host's
//! loopback services.
use crate::config::{Config, nth};
use crate::ipam::{HostPort, Lease};
use crate::names;
use crate::nft::Family;
use ipnet::IpNet;
use std::fmt::Write;
use std::net::IpAddr;

/// One element of a map or set of the pods table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Element {
    family: Family,
    set: &'static str,
    key: String,
    value: Option<String>,
}

/// The script that makes the pods tables from nothing, or replaces them, with the host ports of `leases`.
pub fn replace_tables(config: &Config, leases: &[Lease]) -> String {
    let mut script = String::new();
    for cidr in &config.pod_cidrs {
        table(&mut script, config, *cidr);
    }
    for lease in leases {
        script.push_str(&add(config, lease));
    }
    script
}

/// The script that adds the host ports of `lease`; empty if it has none.
pub fn add(config: &Config, lease: &Lease) -> String {
    let mut script = String::new();
    for Element { family, set, key, value } in elements(config, lease) {
        let value = value.map(|value| format!(" : {value}")).unwrap_or_default();
        let table = names::pods_table(&config.cluster_id);
        script.push_str(&format!("add element {} {table} {set} {{ {key}{value} }}\n", family.word()));
    }
    script
}

/// The script that removes the host ports of `lease`, also if they are gone already; empty if it has none.
pub fn remove(config: &Config, lease: &Lease) -> String {
    let table = names::pods_table(&config.cluster_id);
    let mut script = add(config, lease);
    for Element { family, set, key, .. } in elements(config, lease) {
        script.push_str(&format!("delete element {} {table} {set} {{ {key} }}\n", family.word()));
    }
    script
}

fn elements(config: &Config, lease: &Lease) -> Vec<Element> {
    let mut elements = Vec::new();
    if lease.host_ports.is_empty() {
        return elements;
    }
    for cidr in &config.pod_cidrs {
        let pod = nth(cidr, lease.offset);
        let family = Family::of(pod);
        elements.push(Element { family, set: "hairpins", key: format!("{pod} . {pod}"), value: None });
        for port in lease.host_ports.iter().filter(|port| applies(port, pod)) {
            let HostPort { protocol, host_port, container_port, host_ip } = port;
            let value = Some(format!("{pod} . {container_port}"));
            elements.push(match host_ip {
                Some(ip) => {
                    Element { family, set: "host-ports-on", key: format!("{ip} . {protocol} . {host_port}"), value }
                }
                None => Element { family, set: "host-ports", key: format!("{protocol} . {host_port}"), value },
            });
        }
    }
    elements
}

fn applies(port: &HostPort, pod: IpAddr) -> bool {
    port.host_ip.is_none_or(|ip| ip.is_ipv4() == pod.is_ipv4())
        && matches!(port.protocol.as_str(), "tcp" | "udp" | "sctp")
        && port.host_port != 0
}

fn table(script: &mut String, config: &Config, pod_cidr: IpNet) {
    let family = Family::of(pod_cidr.addr());
    let (ip, addr) = (family.word(), family.address_type());
    let table = names::pods_table(&config.cluster_id);
    let links = format!("\"{}*\"", names::link_prefix(&config.cluster_id));
    let mut inside: Vec<String> = config
        .cluster_cidrs
        .iter()
        .filter(|cidr| Family::of(cidr.addr()) == family)
        .map(|cidr| cidr.trunc().to_string())
        .collect();
    if !inside.contains(&pod_cidr.trunc().to_string()) {
        inside.push(pod_cidr.trunc().to_string());
    }
    let pods = pod_cidr.trunc();
    let neighbours: Vec<String> = (config.neighbours.iter())
        .filter(|network| Family::of(network.addr()) == family)
        .map(|network| network.trunc().to_string())
        .collect();
    inside.extend(neighbours.iter().cloned());
    let inside = inside.join(", ");
    let neighbours = if neighbours.is_empty() {
        String::new()
    } else {
        let sources = neighbours.join(", ");
        format!(
            "    {ip} saddr {{ {sources} }} {ip} daddr != {{ {inside} }} oifname != {links} masquerade fully-random\n"
        )
    };
    // Node-local services on the loopback addresses stay out of the pods' reach although route_localnet is on; the
    // guard sees packets before connection tracking gives replies their original (loopback) destination back.
    let (guard, localhost) = match family {
        Family::Ip => (
            format!(
                "  chain guard {{\n    type filter hook prerouting priority raw; policy accept;\n    \
                 iifname {links} ip daddr 127.0.0.0/8 drop\n    iifname {links} ip saddr 127.0.0.0/8 drop\n  }}\n"
            ),
            format!("    oifname {links} ip saddr 127.0.0.0/8 masquerade\n"),
        ),
        Family::Ip6 => (String::new(), String::new()),
    };
    // Writing to a String cannot fail.
    let written = write!(
        script,
        r#"add table {ip} {table}
delete table {ip} {table}
table {ip} {table} {{
  map host-ports {{ type inet_proto . inet_service : {addr} . inet_service; }}
  map host-ports-on {{ type {addr} . inet_proto . inet_service : {addr} . inet_service; }}
  set hairpins {{ type {addr} . {addr}; }}
{guard}  chain host-ports {{
    meta l4proto {{ tcp, udp, sctp }} dnat {ip} addr . port to {ip} daddr . meta l4proto . th dport map @host-ports-on
    fib daddr type local meta l4proto {{ tcp, udp, sctp }} dnat {ip} addr . port to meta l4proto . th dport map @host-ports
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat - 5; policy accept;
    jump host-ports
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    jump host-ports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{localhost}    ct status dnat {ip} saddr . {ip} daddr @hairpins masquerade fully-random
    {ip} saddr {pods} {ip} daddr != {{ {inside} }} oifname != {links} masquerade fully-random
{neighbours}  }}
}}
"#
    );
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            cluster_id: "0123abcd".into(),
            node_name: "node".into(),
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            service_cidrs: vec![],
            neighbours: vec![],
            node_ips: vec![],
            mtu: 1500,
            data_dir: "/nonexistent".into(),
        }
    }

    fn port(host_ip: Option<&str>) -> HostPort {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        HostPort { protocol: "tcp".into(), host_port: 8080, container_port: 80, host_ip }
    }

    #[test]
    fn a_host_port_is_mapped_in_every_family_that_it_names() {
        let script = add(&config(), &Lease { offset: 7, host_ports: vec![port(None)] });
        assert!(script.contains("add element ip pintle-0123abcd host-ports { tcp . 8080 : 10.1.0.7 . 80 }"));
        assert!(script.contains("add element ip6 pintle-0123abcd host-ports { tcp . 8080 : fd00:1::7 . 80 }"));
        let script = add(&config(), &Lease { offset: 7, host_ports: vec![port(Some("192.0.2.1"))] });
        assert!(script.contains("host-ports-on { 192.0.2.1 . tcp . 8080 : 10.1.0.7 . 80 }"));
        assert!(!script.contains("tcp . 8080 : fd00"));
    }

    #[test]
    fn a_pod_without_host_ports_needs_no_transaction() {
        assert_eq!(add(&config(), &Lease { offset: 7, host_ports: vec![] }), "");
        assert_eq!(remove(&config(), &Lease { offset: 7, host_ports: vec![] }), "");
    }

    #[test]
    fn the_nodes_own_pods_never_count_as_outside() {
        let mut config = config();
        config.cluster_cidrs.clear();
        let script = replace_tables(&config, &[]);
        assert!(script.contains("ip saddr 10.1.0.0/24 ip daddr != { 10.1.0.0/24 }"));
        assert!(script.contains("ip6 saddr fd00:1::/64 ip6 daddr != { fd00:1::/64 }"));
    }
}
