//! A pod goes where its volumes are or can be made.
use super::node_affinity::matches_node_selector;
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, Rejection};
use crate::volumes::{ClaimState, claim_names};
use k8s_openapi::api::core::v1::PersistentVolume;

pub struct VolumeBinding;

const NAME: &str = "VolumeBinding";

/// What keeps a pod from every node: claims that do not exist or that nobody has bound yet (upstream: PreFilter).
pub fn unplaceable(cycle: &Cycle<'_>) -> Option<Rejection> {
    for name in claim_names(cycle.pod) {
        let Some(claim) = cycle.volumes.claims.get(cycle.pod.namespace(), &name) else {
            return Some(Rejection::final_(NAME, format!("persistentvolumeclaim \"{name}\" not found")));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(Rejection::final_(NAME, format!("persistentvolumeclaim \"{name}\" is being deleted")));
        }
        match cycle.volumes.state(&claim) {
            ClaimState::Immediate => {
                return Some(Rejection::final_(NAME, "pod has unbound immediate PersistentVolumeClaims"));
            }
            ClaimState::Bound(_) | ClaimState::Lost | ClaimState::Provisionable | ClaimState::Static(_) => {}
        }
    }
    None
}

impl Filter for VolumeBinding {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        for name in claim_names(cycle.pod) {
            let Some(claim) = cycle.volumes.claims.get(cycle.pod.namespace(), &name) else { continue };
            match cycle.volumes.state(&claim) {
                ClaimState::Bound(volume) if !reaches(&volume, node) => {
                    return Err(Rejection::final_(NAME, "node(s) didn't match PersistentVolume's node affinity"));
                }
                ClaimState::Lost => {
                    return Err(Rejection::final_(
                        NAME,
                        "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                    ));
                }
                ClaimState::Static(volumes) if !volumes.iter().any(|volume| reaches(volume, node)) => {
                    return Err(Rejection::final_(NAME, "node(s) didn't find available persistent volumes to bind"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether the volume can be used on `node`.
pub fn reaches(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|selector| matches_node_selector(selector, node))
}
