//! What to do about claims and volumes: [`claim_plan`] and [`volume_plan`] are pure functions; [`bound_volume`] and
//! [`bound_claim`] are the two halves of a binding. (upstream: pkg/controller/volume/persistentvolume)
use super::matching::{best, claim_class, is_for, modes_differ, objection};
use crate::claim::{name, namespace, uid};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use std::sync::Arc;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";

/// An event to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

fn normal(reason: &'static str, message: impl Into<String>) -> Told {
    Told { warning: false, reason, message: message.into() }
}

fn warning(reason: &'static str, message: impl Into<String>) -> Told {
    Told { warning: true, reason, message: message.into() }
}

/// What to do about a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimPlan {
    /// Write the default storage class into it.
    SetClass(String),
    /// Bind it to this volume (or finish that).
    Bind(Arc<PersistentVolume>),
    /// Ask this provisioner for a volume.
    Provision { provisioner: String, told: Told },
    /// It stays (or becomes) `Pending`.
    Pending(Option<Told>),
    /// Its volume is lost.
    Lost(Told),
}

/// What a claim's plan depends on, besides the claim.
pub struct Surroundings<'a> {
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The claim's class, if it exists.
    pub class: Option<&'a StorageClass>,
    /// The cluster's default class.
    pub default_class: Option<String>,
    /// Pods that wait for a node and use the claim.
    pub waiting_pods: Vec<String>,
}

fn annotated<'a, K: kube::Resource>(object: &'a K, key: &str) -> Option<&'a String> {
    object.meta().annotations.as_ref()?.get(key)
}

/// True if volumes of `class` are chosen when a pod is scheduled.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Decides about `claim`.
pub fn claim_plan(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> ClaimPlan {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let named = around.volumes.iter().find(|volume| name(volume.as_ref()) == wanted);
    if annotated(claim, BIND_COMPLETED).is_some() {
        return bound_claim_plan(claim, wanted, named);
    }
    if wanted.is_empty() {
        return unbound_claim_plan(claim, around);
    }
    let Some(volume) = named else { return ClaimPlan::Pending(None) };
    if is_for(volume, claim) {
        return ClaimPlan::Bind(volume.clone());
    }
    if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
        let text = format!("volume {:?} already bound to a different claim.", name(volume.as_ref()));
        return ClaimPlan::Pending(Some(warning("FailedBinding", text)));
    }
    match objection(volume, claim) {
        Some(why) => {
            let text = format!("Cannot bind to requested volume {:?}: {why}", name(volume.as_ref()));
            ClaimPlan::Pending(Some(warning("VolumeMismatch", text)))
        }
        None => ClaimPlan::Bind(volume.clone()),
    }
}

fn bound_claim_plan(claim: &PersistentVolumeClaim, wanted: &str, named: Option<&Arc<PersistentVolume>>) -> ClaimPlan {
    if wanted.is_empty() {
        let text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return ClaimPlan::Lost(warning("ClaimLost", text));
    }
    let Some(volume) = named else {
        let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return ClaimPlan::Lost(warning("ClaimLost", text));
    };
    match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
        Some(reference) if reference.uid.as_deref() != Some(uid(claim)) => {
            let text = "Two claims are bound to the same volume, this one is bound incorrectly";
            ClaimPlan::Lost(warning("ClaimMisbound", text))
        }
        _ => ClaimPlan::Bind(volume.clone()),
    }
}

fn unbound_claim_plan(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> ClaimPlan {
    let class_name = claim_class(claim);
    let chosen_node = annotated(claim, SELECTED_NODE).is_some();
    let delayed = !chosen_node && around.class.is_some_and(waits_for_consumer);
    if let Some(volume) = best(claim, around.volumes, delayed) {
        return ClaimPlan::Bind(volume);
    }
    if class_name.is_none()
        && let Some(default) = &around.default_class
    {
        return ClaimPlan::SetClass(default.clone());
    }
    if delayed {
        return ClaimPlan::Pending(Some(match around.waiting_pods.as_slice() {
            [] => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [pod] => normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        }));
    }
    let class_name = class_name.unwrap_or_default();
    if class_name.is_empty() {
        let text = "no persistent volumes available for this claim and no storage class is set";
        return ClaimPlan::Pending(Some(normal("FailedBinding", text)));
    }
    let Some(class) = around.class else {
        let text = format!("storageclass.storage.k8s.io {class_name:?} not found");
        return ClaimPlan::Pending(Some(warning("ProvisioningFailed", text)));
    };
    let provisioner = class.provisioner.clone();
    if provisioner.starts_with("kubernetes.io/") {
        let text = format!("no volume plugin matched name: {provisioner}");
        return ClaimPlan::Pending(Some(warning("ProvisioningFailed", text)));
    }
    let told = normal(
        "ExternalProvisioning",
        format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
             registered."
        ),
    );
    ClaimPlan::Provision { provisioner, told }
}

/// The volume with the claim's reference and the phase it then has, or `None` if it is so already.
pub fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut bound = volume.clone();
    let spec = bound.spec.get_or_insert_default();
    if spec.claim_ref.as_ref().is_some_and(|reference| reference.uid.as_deref() == Some(uid(claim))) {
        return None;
    }
    if spec.claim_ref.is_none() {
        bound.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    bound.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: Some(namespace(claim).to_owned()),
        name: Some(name(claim).to_owned()),
        uid: Some(uid(claim).to_owned()),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
    Some(bound)
}

/// The claim with the volume's name, or `None` if it is so already.
pub fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let mut bound = claim.clone();
    let spec = bound.spec.get_or_insert_default();
    let annotations = bound.metadata.annotations.get_or_insert_default();
    if spec.volume_name.as_deref().unwrap_or_default() != name(volume) {
        spec.volume_name = Some(name(volume).to_owned());
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    (bound.spec != claim.spec || bound.metadata.annotations != claim.metadata.annotations).then_some(bound)
}

/// The claim with the status of one that is bound to `volume`, or `None` if it is so already.
pub fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<PersistentVolumeClaim> {
    let mut updated = claim.clone();
    let status = updated.status.get_or_insert_default();
    let before = status.clone();
    let was = status.phase.replace(phase.to_owned());
    match volume.and_then(|volume| volume.spec.as_ref()) {
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            // A bound claim's capacity follows its resize, not its volume.
            if was.as_deref() != Some("Bound") || status.capacity.is_none() {
                status.capacity.clone_from(&spec.capacity);
            }
            status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
        }
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
    }
    (*status != before).then_some(updated)
}

/// What to do about a volume.
#[derive(Debug, PartialEq)]
pub enum VolumePlan {
    /// Its phase should be this.
    Phase(&'static str),
    /// The claim's turn: it must be looked at.
    WakeClaim,
    /// Its claim is gone: mark it `Released`, then do as the reclaim policy says.
    Reclaim,
    /// Free it from a claim that got another volume.
    Unbind,
    /// The claim that it is reserved for wants another mode.
    Mismatch,
}

/// Decides about `volume`, whose claim by name is `claim`.
pub fn volume_plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumePlan {
    let Some(spec) = &volume.spec else { return VolumePlan::Phase("Available") };
    let Some(reference) = &spec.claim_ref else { return VolumePlan::Phase("Available") };
    let bound_to = reference.uid.as_deref().unwrap_or_default();
    if bound_to.is_empty() {
        return VolumePlan::Phase("Available");
    }
    let Some(claim) = claim.filter(|claim| uid(*claim) == bound_to) else { return VolumePlan::Reclaim };
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default() {
        "" if modes_differ(claim, volume) => VolumePlan::Mismatch,
        "" => VolumePlan::WakeClaim,
        bound if bound == name(volume) => VolumePlan::Phase("Bound"),
        _ if annotated(volume, PROVISIONED_BY).is_some()
            && spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete") =>
        {
            VolumePlan::Reclaim
        }
        _ => VolumePlan::Unbind,
    }
}

/// The volume without its claim: entirely if the controller bound it, else still reserved by name.
pub fn unbound_volume(volume: &PersistentVolume) -> PersistentVolume {
    let mut freed = volume.clone();
    let by_controller =
        freed.metadata.annotations.as_mut().and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER));
    let spec = freed.spec.get_or_insert_default();
    if by_controller.is_some() {
        spec.claim_ref = None;
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
        reference.resource_version = None;
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::super::matching::tests::{claim, volume};
    use super::*;
    use serde_json::json;

    fn class(mode: &str, provisioner: &str) -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "a"}, "provisioner": provisioner, "volumeBindingMode": mode}),
        )
        .unwrap()
    }

    fn around<'a>(volumes: &'a [Arc<PersistentVolume>], class: Option<&'a StorageClass>) -> Surroundings<'a> {
        Surroundings { volumes, class, default_class: None, waiting_pods: Vec::new() }
    }

    #[test]
    fn a_claim_waits_for_its_first_consumer_and_is_then_provisioned() {
        let waiting = class("WaitForFirstConsumer", "pintle.dev/local-path");
        let mut pvc = claim(json!("a"), "1Gi");
        let ClaimPlan::Pending(Some(told)) = claim_plan(&pvc, &around(&[], Some(&waiting))) else {
            panic!("must wait")
        };
        assert_eq!(told.reason, "WaitForFirstConsumer");
        pvc.metadata.annotations = Some([(SELECTED_NODE.to_owned(), "n".to_owned())].into());
        let plan = claim_plan(&pvc, &around(&[], Some(&waiting)));
        assert!(matches!(plan, ClaimPlan::Provision { provisioner, .. } if provisioner == "pintle.dev/local-path"));
    }

    #[test]
    fn a_claim_without_class_gets_the_default_and_one_with_an_unknown_class_says_so() {
        let mut surroundings = around(&[], None);
        surroundings.default_class = Some("a".into());
        assert_eq!(claim_plan(&claim(json!(null), "1Gi"), &surroundings), ClaimPlan::SetClass("a".into()));
        let ClaimPlan::Pending(Some(told)) = claim_plan(&claim(json!("b"), "1Gi"), &surroundings) else { panic!() };
        assert_eq!(told.message, "storageclass.storage.k8s.io \"b\" not found");
    }

    #[test]
    fn a_binding_goes_volume_first_then_claim_and_ends() {
        let (free, pvc) = (volume("v", "1Gi", json!(null)), claim(json!("a"), "1Gi"));
        assert_eq!(claim_plan(&pvc, &around(std::slice::from_ref(&free), None)), ClaimPlan::Bind(free.clone()));
        let taken = bound_volume(&free, &pvc).unwrap();
        assert_eq!(volume_plan(&taken, Some(&pvc)), VolumePlan::WakeClaim);
        let pvc = bound_claim(&pvc, &taken).unwrap();
        assert_eq!(volume_plan(&taken, Some(&pvc)), VolumePlan::Phase("Bound"));
        let pvc = claim_status(&pvc, "Bound", Some(&taken)).unwrap();
        assert_eq!(pvc.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "1Gi");
        let (volumes, claim) = ([Arc::new(taken.clone())], &pvc);
        assert!(matches!(claim_plan(claim, &around(&volumes, None)), ClaimPlan::Bind(_)));
        assert!(bound_volume(&taken, claim).is_none() && bound_claim(claim, &taken).is_none());
        assert_eq!(claim_status(claim, "Bound", Some(&taken)), None);
    }

    #[test]
    fn a_volume_outlives_its_claim_as_released_and_a_claim_its_volume_as_lost() {
        let pvc = claim(json!("a"), "1Gi");
        let taken = bound_volume(&volume("v", "1Gi", json!(null)), &pvc).unwrap();
        assert_eq!(volume_plan(&taken, None), VolumePlan::Reclaim);
        let bound = bound_claim(&pvc, &taken).unwrap();
        assert!(matches!(claim_plan(&bound, &around(&[], None)), ClaimPlan::Lost(told) if told.reason == "ClaimLost"));
    }

    #[test]
    fn a_volume_whose_claim_chose_another_is_freed() {
        let mut pvc = claim(json!("a"), "1Gi");
        let taken = bound_volume(&volume("v", "1Gi", json!(null)), &pvc).unwrap();
        pvc.spec.as_mut().unwrap().volume_name = Some("other".into());
        assert_eq!(volume_plan(&taken, Some(&pvc)), VolumePlan::Unbind);
        assert_eq!(unbound_volume(&taken).spec.unwrap().claim_ref, None);
    }
}
