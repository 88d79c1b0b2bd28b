//! A pod that names its node goes there only.
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, Rejection};

pub struct NodeName;

impl Filter for NodeName {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        match cycle.pod.spec().and_then(|spec| spec.node_name.as_deref()) {
            Some(name) if !name.is_empty() && name != node.name() => {
                Err(Rejection::final_("NodeName", "node(s) didn't match the requested node name"))
            }
            _ => Ok(()),
        }
    }
}
