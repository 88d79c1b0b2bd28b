//! What the scheduler knows of claims, volumes and storage classes.
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use pintle_client::{Informer, Informers};
use std::sync::Arc;

/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Set on a claim: the node whose storage the provisioner is to use.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Set on a claim once its binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// Informers of everything that says where a pod's volumes can be.
pub struct Volumes {
    /// Claims.
    pub claims: Informer<PersistentVolumeClaim>,
    /// Volumes.
    pub volumes: Informer<PersistentVolume>,
    /// Classes.
    pub classes: Informer<StorageClass>,
}

/// How far a claim is on its way to a volume.
pub enum ClaimState {
    /// Bound to this volume.
    Bound(Arc<PersistentVolume>),
    /// Bound to a volume that does not exist.
    Lost,
    /// Waits for a first consumer; its class makes volumes on demand.
    Provisionable,
    /// Waits for a first consumer; one of the existing volumes has to be found.
    Static(Vec<Arc<PersistentVolume>>),
    /// Somebody else binds it, without waiting for a pod.
    Immediate,
}

impl Volumes {
    /// Reads through `informers`.
    pub fn new(informers: &Informers) -> Self {
        Volumes { claims: informers.of(), volumes: informers.of(), classes: informers.of() }
    }

    /// Waits until everything has been listed once.
    pub async fn synced(&self) {
        tokio::join!(self.claims.synced(), self.volumes.synced(), self.classes.synced());
    }

    /// How far `claim` is.
    pub fn state(&self, claim: &PersistentVolumeClaim) -> ClaimState {
        let spec = claim.spec.clone().unwrap_or_default();
        let annotation = |name: &str| claim.metadata.annotations.as_ref().and_then(|a| a.get(name));
        if let Some(volume) =
            spec.volume_name.as_deref().filter(|name| !name.is_empty() && annotation(BIND_COMPLETED).is_some())
        {
            return self.volumes.get("", volume).map_or(ClaimState::Lost, ClaimState::Bound);
        }
        let class = spec.storage_class_name.as_deref().and_then(|name| self.classes.get("", name));
        let Some(class) = class.filter(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
        else {
            return ClaimState::Immediate;
        };
        let candidates = self.candidates(claim);
        if candidates.is_empty() && class.provisioner != NO_PROVISIONER {
            return ClaimState::Provisionable;
        }
        ClaimState::Static(candidates)
    }

    /// Free volumes that would do for `claim`, the smallest first.
    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let mut fitting: Vec<_> = self.volumes.list().into_iter().filter(|volume| fits(volume, claim)).collect();
        fitting.sort_by_key(|volume| capacity(volume));
        fitting
    }
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let size = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    size.and_then(|size| pintle_api::quantity::Quantity::parse(&size.0).ok())
        .map_or(0, pintle_api::quantity::Quantity::value)
}

fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(volume_spec), Some(claim_spec)) = (&volume.spec, &claim.spec) else { return false };
    let ours = |reference: &k8s_openapi::api::core::v1::ObjectReference| {
        reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace
    };
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let free = match &volume_spec.claim_ref {
        Some(reference) => ours(reference),
        None => phase == Some("Available"),
    };
    let wanted = claim_spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    let wanted = wanted
        .and_then(|size| pintle_api::quantity::Quantity::parse(&size.0).ok())
        .map_or(0, pintle_api::quantity::Quantity::value);
    let modes = claim_spec.access_modes.iter().flatten();
    free && volume_spec.storage_class_name.as_deref().unwrap_or("")
        == claim_spec.storage_class_name.as_deref().unwrap_or("")
        && volume_spec.volume_mode.as_deref().unwrap_or("Filesystem")
            == claim_spec.volume_mode.as_deref().unwrap_or("Filesystem")
        && capacity(volume) >= wanted
        && modes.clone().all(|mode| volume_spec.access_modes.iter().flatten().any(|offered| offered == mode))
        && claim_spec
            .selector
            .as_ref()
            .is_none_or(|selector| crate::plugins::selects(selector, volume.metadata.labels.as_ref()))
}

/// The claims that `pod` uses, generic ephemeral volumes included, by name.
pub fn claim_names(pod: &crate::pod_info::PodInfo) -> Vec<String> {
    let volumes = pod.spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral)
    {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
        (None, None) => None,
    };
    volumes.iter().filter_map(name).collect()
}
