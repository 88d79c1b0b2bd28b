//! Which endpoints of a Service port take which traffic on this node.
//!
//! upstream: pkg/proxy/topology.go, `CategorizeEndpoints`
use super::model::{Endpoint, ServicePort};

/// This node, as endpoint hints name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTopology {
    /// The Node's name.
    pub name: String,
    /// Its `topology.kubernetes.io/zone` label; may be empty.
    pub zone: String,
}

/// The endpoints by use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Categories {
    /// For traffic under the `Cluster` policy.
    pub cluster: Vec<Endpoint>,
    /// For traffic under the `Local` policy.
    pub local: Vec<Endpoint>,
    /// Whether the Service has usable endpoints anywhere.
    pub any: bool,
}

impl Categories {
    /// Every endpoint that is reachable from this node, once.
    pub fn reachable(&self) -> Vec<&Endpoint> {
        let mut all: Vec<&Endpoint> = self.cluster.iter().chain(&self.local).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Sorts `endpoints` by use: ready ones, or, if there are none, those that terminate but still serve.
pub fn categorize(port: &ServicePort, endpoints: &[Endpoint], node: &NodeTopology) -> Categories {
    let mut categories = Categories::default();
    let select = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Endpoint> {
        endpoints.iter().filter(|endpoint| wanted(endpoint)).cloned().collect()
    };
    let fallback = |endpoint: &Endpoint| !endpoint.ready && endpoint.serving && endpoint.terminating;
    if port.uses_cluster_endpoints() {
        let prefers = preference(endpoints, node);
        categories.cluster = select(&|endpoint| endpoint.ready && prefers.admits(endpoint, node));
        if categories.cluster.is_empty() {
            categories.cluster = select(&fallback);
        }
        categories.any = !categories.cluster.is_empty();
    }
    if port.uses_local_endpoints() {
        categories.any |= endpoints.iter().any(|endpoint| endpoint.ready || fallback(endpoint));
        categories.local = select(&|endpoint| endpoint.local && endpoint.ready);
        if categories.local.is_empty() {
            categories.local = select(&|endpoint| endpoint.local && fallback(endpoint));
        }
    }
    categories
}

enum Preference {
    None,
    Node,
    Zone,
}

impl Preference {
    fn admits(&self, endpoint: &Endpoint, node: &NodeTopology) -> bool {
        match self {
            Preference::None => true,
            Preference::Node => endpoint.node_hints.contains(&node.name),
            Preference::Zone => endpoint.zone_hints.contains(&node.zone),
        }
    }
}

/// Hints count only if every ready endpoint has one and at least one names this node, or its zone.
fn preference(endpoints: &[Endpoint], node: &NodeTopology) -> Preference {
    let ready = || endpoints.iter().filter(|endpoint| endpoint.ready);
    if ready().next().is_none() {
        Preference::None
    } else if ready().all(|endpoint| !endpoint.node_hints.is_empty())
        && ready().any(|endpoint| endpoint.node_hints.contains(&node.name))
    {
        Preference::Node
    } else if ready().all(|endpoint| !endpoint.zone_hints.is_empty())
        && ready().any(|endpoint| endpoint.zone_hints.contains(&node.zone))
    {
        Preference::Zone
    } else {
        Preference::None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{endpoint, port};
    use super::*;

    fn node() -> NodeTopology {
        NodeTopology { name: "here".into(), zone: "z1".into() }
    }

    fn ips(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|endpoint| endpoint.ip.to_string()).collect()
    }

    #[test]
    fn ready_endpoints_are_used_and_serving_terminating_ones_only_without_them() {
        let ready = endpoint("10.0.0.1", true);
        let mut leaving = endpoint("10.0.0.2", true);
        (leaving.ready, leaving.terminating) = (false, true);
        let mut dead = leaving.clone();
        (dead.ip, dead.serving) = ("10.0.0.3".parse().unwrap(), false);
        let all = [ready, leaving.clone(), dead.clone()];
        assert_eq!(ips(&categorize(&port(), &all, &node()).cluster), ["10.0.0.1"]);
        assert_eq!(ips(&categorize(&port(), &all[1..], &node()).cluster), ["10.0.0.2"]);
        assert!(!categorize(&port(), &[dead], &node()).any);
    }

    #[test]
    fn the_local_policy_uses_this_nodes_endpoints_alone() {
        let mut port = port();
        port.internal_local = true;
        let all = [endpoint("10.0.0.1", false), endpoint("10.0.0.2", true)];
        let categories = categorize(&port, &all, &node());
        assert_eq!((ips(&categories.cluster), ips(&categories.local)), (vec![], vec!["10.0.0.2".to_owned()]));
        let categories = categorize(&port, &all[..1], &node());
        assert!(categories.any && categories.local.is_empty());
    }

    #[test]
    fn hints_steer_to_the_same_node_or_zone_if_all_endpoints_have_them() {
        let mut near = endpoint("10.0.0.1", true);
        let mut far = endpoint("10.0.0.2", false);
        near.zone_hints.insert("z1".into());
        assert_eq!(categorize(&port(), &[near.clone(), far.clone()], &node()).cluster.len(), 2);
        far.zone_hints.insert("z2".into());
        assert_eq!(ips(&categorize(&port(), &[near.clone(), far.clone()], &node()).cluster), ["10.0.0.1"]);
        near.node_hints.insert("elsewhere".into());
        far.node_hints.insert("here".into());
        assert_eq!(ips(&categorize(&port(), &[near, far], &node()).cluster), ["10.0.0.2"]);
    }
}
