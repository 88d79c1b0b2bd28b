//! A cordoned node takes only pods that tolerate that.
use super::taint_toleration::tolerates;
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, Rejection};
use k8s_openapi::api::core::v1::Taint;

pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        let spec = node.node.as_ref().and_then(|node| node.spec.as_ref());
        if !spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
            return Ok(());
        }
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if tolerates(cycle.pod, &taint) {
            return Ok(());
        }
        Err(Rejection::final_("NodeUnschedulable", "node(s) were unschedulable"))
    }
}
