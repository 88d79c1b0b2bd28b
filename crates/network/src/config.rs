//! What the node's network needs to know about its cluster.
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// Settings of one node's network.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's short id: 8 lower-case hex characters. Part of every name that is visible on the host.
    pub cluster_id: String,
    /// The Node object's name.
    pub node_name: String,
    /// The node's own pod CIDRs, at most one of each family; the first is the primary one.
    pub pod_cidrs: Vec<IpNet>,
    /// The CIDRs of all pods of the cluster: traffic from pods to anywhere else is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// The CIDRs of Services.
    pub service_cidrs: Vec<IpNet>,
    /// Other networks that reach the outside through this node, as the nodes of the same machine do.
    pub neighbours: Vec<IpNet>,
    /// The node's own addresses.
    pub node_ips: Vec<IpAddr>,
    /// MTU of the pods' interfaces, in bytes.
    pub mtu: u32,
    /// The directory for the network's own state (address allocations).
    pub data_dir: PathBuf,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The cluster id would not give valid and unique names.
    #[error("cluster id {0:?} must be 8 lower-case hexadecimal characters")]
    ClusterId(String),
    /// There is no pod CIDR, or two of one family.
    #[error("one pod CIDR, or one of each family, is needed; got {0:?}")]
    PodCidrs(Vec<IpNet>),
    /// A pod CIDR has no room for pods.
    #[error("pod CIDR {0} is too small: it must hold at least 8 addresses")]
    TooSmall(IpNet),
}

impl Config {
    /// Whether the settings can be used.
    pub fn validate(&self) -> Result<(), Error> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.cluster_id.len() != 8 || !self.cluster_id.bytes().all(hex) {
            return Err(Error::ClusterId(self.cluster_id.clone()));
        }
        let of_family = |v4: bool| self.pod_cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == v4).count();
        if self.pod_cidrs.is_empty() || of_family(true) > 1 || of_family(false) > 1 {
            return Err(Error::PodCidrs(self.pod_cidrs.clone()));
        }
        match self.pod_cidrs.iter().find(|cidr| cidr.max_prefix_len() - cidr.prefix_len() < 3) {
            Some(cidr) => Err(Error::TooSmall(*cidr)),
            None => Ok(()),
        }
    }

    /// The node's own addresses in its pod CIDRs: the pods' gateways, and the source of host-to-pod traffic. They are
    /// present as soon as the pod network is open, whatever happens to the node's other interfaces.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.pod_cidrs.iter().map(|cidr| nth(cidr, 1)).collect()
    }
}

/// Address number `offset` of `cidr`.
pub(crate) fn nth(cidr: &IpNet, offset: u32) -> IpAddr {
    match cidr {
        IpNet::V4(cidr) => IpAddr::V4((u32::from(cidr.network()).wrapping_add(offset)).into()),
        IpNet::V6(cidr) => IpAddr::V6((u128::from(cidr.network()).wrapping_add(offset.into())).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(id: &str, cidrs: &[&str]) -> Config {
        Config {
            cluster_id: id.into(),
            node_name: "node".into(),
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            cluster_cidrs: vec![],
            service_cidrs: vec![],
            neighbours: vec![],
            node_ips: vec![],
            mtu: 1500,
            data_dir: "/nonexistent".into(),
        }
    }

    #[test]
    fn bad_ids_and_cidrs_are_refused() {
        assert_eq!(config("0123abcd", &["10.1.0.0/24", "fd00::/64"]).validate(), Ok(()));
        assert!(matches!(config("0123ABCD", &["10.1.0.0/24"]).validate(), Err(Error::ClusterId(_))));
        assert!(matches!(config("0123abc", &["10.1.0.0/24"]).validate(), Err(Error::ClusterId(_))));
        assert!(matches!(config("0123abcd", &[]).validate(), Err(Error::PodCidrs(_))));
        assert!(matches!(config("0123abcd", &["10.1.0.0/24", "10.2.0.0/24"]).validate(), Err(Error::PodCidrs(_))));
        assert!(matches!(config("0123abcd", &["10.1.0.0/30"]).validate(), Err(Error::TooSmall(_))));
    }

    #[test]
    fn the_gateway_is_the_first_address() {
        let gateways = config("0123abcd", &["10.1.4.0/24", "fd00:4::/64"]).gateways();
        assert_eq!(gateways, vec!["10.1.4.1".parse::<IpAddr>().unwrap(), "fd00:4::1".parse().unwrap()]);
    }
}
