//! Two pods of a node cannot have the same host port.
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, Rejection};

pub struct NodePorts;

impl Filter for NodePorts {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        if node.has_port_conflict(&cycle.pod.ports) {
            return Err(Rejection::resolvable(
                "NodePorts",
                "node(s) didn't have free ports for the requested pod ports",
            ));
        }
        Ok(())
    }
}
