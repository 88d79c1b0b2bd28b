//! Volumes that only one pod (or only readers) may use at a time.
use super::Cycle;
use crate::cache::{Cache, NodeInfo};
use crate::framework::{Objects, Plugin, Rejection};
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::Volume;

const NAME: Plugin = Plugin::VolumeRestrictions;

/// What the filter needs (upstream: `preFilterState`).
#[derive(Clone, Debug, Default)]
pub struct State {
    has_disks: bool,
    /// The pod's claims that only one pod may use.
    single: Vec<String>,
    /// How often other pods use one of them.
    users: i64,
}

pub fn prepare(pod: &PodInfo, cache: &Cache, objects: &dyn Objects) -> Result<State, Box<Rejection>> {
    let mut state = State { has_disks: pod.volumes().iter().any(is_disk), ..State::default() };
    for claim in pod.volumes().iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()) {
        let name = &claim.claim_name;
        let Some(claim) = objects.claim(pod.namespace(), name) else {
            return Err(Box::new(Rejection::final_(NAME, format!("persistentvolumeclaim \"{name}\" not found"))));
        };
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
        if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            state.single.push(name.clone());
            state.users += i64::from(cache.claim_users(pod.namespace(), name) > 0);
        }
    }
    Ok(state)
}

impl State {
    /// Whether the filter has something to say about the pod.
    pub fn speaks(&self) -> bool {
        self.has_disks || self.users > 0
    }

    pub fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        let disks = || cycle.pod.volumes().iter().filter(|volume| is_disk(volume));
        let taken = |pod: &PodInfo| disks().any(|disk| pod.volumes().iter().any(|other| conflict(disk, other)));
        if self.has_disks && node.pods.iter().any(|pod| taken(pod)) {
            return Err(Rejection::resolvable(NAME, "node(s) had no available disk"));
        }
        if self.users > 0 {
            let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already \
                          in-use by another pod";
            return Err(Rejection::resolvable(NAME, reason));
        }
        Ok(())
    }

    /// A pod comes or leaves.
    pub fn change(&mut self, incoming: &PodInfo, pod: &PodInfo, by: i64) {
        if self.single.is_empty() || incoming.namespace() != pod.namespace() {
            return;
        }
        let claims = pod.volumes().iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
        self.users += by * claims.filter(|claim| self.single.contains(&claim.claim_name)).count() as i64;
    }
}

fn is_disk(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.rbd.is_some()
        || volume.iscsi.is_some()
}

/// Whether two pods on one node cannot both have these volumes (upstream: `isVolumeConflict`).
fn conflict(a: &Volume, b: &Volume) -> bool {
    let both_read = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk) {
        return a.pd_name == b.pd_name && !both_read(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi) {
        return a.iqn == b.iqn && !both_read(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let pool = |pool: &Option<String>| pool.clone().unwrap_or_else(|| "rbd".into());
        return a.monitors.iter().any(|monitor| b.monitors.contains(monitor))
            && pool(&a.pool) == pool(&b.pool)
            && a.image == b.image
            && !both_read(a.read_only, b.read_only);
    }
    false
}
