//! A node attaches no more volumes of a CSI driver than the driver allows it.
use super::Cycle;
use crate::cache::NodeInfo;
use crate::framework::{Objects, Plugin, Rejection};
use crate::pod_info::PodInfo;
use crate::volumes::{claim_of, class_of};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use std::collections::{BTreeMap, BTreeSet};

const NAME: Plugin = Plugin::NodeVolumeLimits;

/// Whether the pod has volumes that a driver could have to attach.
pub fn speaks(pod: &PodInfo) -> bool {
    pod.volumes().iter().any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
}

/// A volume: driver and handle.
type Attached = (String, String);

pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    let objects = cycle.objects;
    let mut limits = BTreeMap::new();
    if let Some(csi_node) = objects.csi_node(node.name()) {
        for driver in &csi_node.spec.drivers {
            if let Some(count) = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count) {
                limits.insert(driver.name.clone(), usize::try_from(count).unwrap_or(0));
            }
        }
    }
    let mut new = volumes(cycle.pod, objects).map_err(|claim| {
        let claim =
            format!("looking up PVC {}/{claim}: persistentvolumeclaim \"{claim}\" not found", cycle.pod.namespace());
        Rejection::final_(NAME, claim)
    })?;
    if new.is_empty() || limits.is_empty() {
        return Ok(());
    }
    let mut attached: BTreeSet<Attached> = BTreeSet::new();
    for pod in node.pods.iter().filter(|pod| speaks(pod)) {
        attached.extend(volumes(pod, objects).unwrap_or_else(|_| BTreeSet::new()));
    }
    new.retain(|volume| !attached.contains(volume));
    for attachment in objects.attachments(node.name()) {
        let name = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let csi = objects.volume(name).and_then(|volume| volume.spec.as_ref()?.csi.clone());
        if let Some(csi) = csi {
            attached.insert((attachment.spec.attacher.clone(), csi.volume_handle));
        }
    }
    for (driver, limit) in limits {
        let of_driver = |volumes: &BTreeSet<Attached>| volumes.iter().filter(|(name, _)| *name == driver).count();
        let more = of_driver(&new);
        if more > 0 && of_driver(&attached) + more > limit {
            return Err(Rejection::resolvable(NAME, "node(s) exceed max volume count"));
        }
    }
    Ok(())
}

/// The CSI volumes of a pod, or the name of a claim that does not exist.
fn volumes(pod: &PodInfo, objects: &dyn Objects) -> Result<BTreeSet<Attached>, String> {
    let mut volumes = BTreeSet::new();
    for volume in pod.volumes() {
        let Some(name) = claim_of(&pod.pod, volume) else { continue };
        let Some(claim) = objects.claim(pod.namespace(), &name) else { return Err(name) };
        volumes.extend(csi_volume(&claim, objects));
    }
    Ok(volumes)
}

/// The driver and handle of a claim's volume; one that has yet to be made counts for its class's driver.
fn csi_volume(claim: &PersistentVolumeClaim, objects: &dyn Objects) -> Option<Attached> {
    let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    if let Some(volume) = bound.and_then(|name| objects.volume(name)) {
        return volume.spec.as_ref()?.csi.as_ref().map(|csi| (csi.driver.clone(), csi.volume_handle.clone()));
    }
    let class = objects.class(class_of(claim))?;
    let (namespace, name) = (claim.metadata.namespace.as_deref()?, claim.metadata.name.as_deref()?);
    Some((class.provisioner.clone(), format!("unbound {namespace}/{name}")))
}
