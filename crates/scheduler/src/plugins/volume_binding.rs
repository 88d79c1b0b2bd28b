//! A pod goes where its volumes are or can be made.
use super::Cycle;
use crate::cache::NodeInfo;
use crate::framework::{Objects, Plugin, Reasons, Rejection};
use crate::pod_info::PodInfo;
use crate::selector::Labels;
use crate::volumes::{
    NO_PROVISIONER, SELECTED_NODE, annotation, best_match, bound_volume, claim_of, class_of, reaches, wanted,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

const NAME: Plugin = Plugin::VolumeBinding;

/// The claims of a pod by how far they are.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// Those that wait for the pod's node, the smallest first.
    waiting: Vec<Arc<PersistentVolumeClaim>>,
    /// The volumes of their classes.
    volumes: Arc<HashMap<String, Vec<Arc<PersistentVolume>>>>,
}

/// What has to be done about one claim before the pod can be bound.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    /// Name the node to the provisioner.
    Provision(String),
    /// Reserve this volume for the claim.
    Reserve {
        /// The claim.
        claim: String,
        /// The volume.
        volume: String,
    },
}

/// The pod's claims, `None` if it has none, or what no node can help against.
pub fn prepare(pod: &PodInfo, objects: &dyn Objects) -> Result<Option<Claims>, Box<Rejection>> {
    let no = |reason: String| Box::new(Rejection::final_(NAME, reason));
    let mut claims = Vec::new();
    for volume in pod.volumes() {
        let Some(name) = claim_of(&pod.pod, volume) else { continue };
        let Some(claim) = objects.claim(pod.namespace(), &name) else {
            return Err(no(match volume.ephemeral {
                Some(_) => {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                }
                None => format!("persistentvolumeclaim \"{name}\" not found"),
            }));
        };
        let status = claim.status.as_ref();
        if status.and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            return Err(no(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
            )));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(no(format!("persistentvolumeclaim \"{name}\" is being deleted")));
        }
        if volume.ephemeral.is_some() && !is_owned(&claim, pod) {
            let owner =
                format!("{}/{name} was not created for pod {}/{}", pod.namespace(), pod.namespace(), pod.name());
            return Err(no(format!("PVC {owner} (pod is not owner)")));
        }
        claims.push(claim);
    }
    if claims.is_empty() {
        return Ok(None);
    }
    let mut found = Claims::default();
    let mut volumes = HashMap::new();
    for claim in claims {
        if bound_volume(&claim).is_some() {
            found.bound.push(claim);
            continue;
        }
        let name = class_of(&claim);
        let waits = objects.class(name).is_some_and(|class| waits_for_consumer(&class));
        let prebound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|n| !n.is_empty());
        if !waits || prebound {
            return Err(no("pod has unbound immediate PersistentVolumeClaims".into()));
        }
        volumes.entry(name.to_owned()).or_insert_with(|| objects.volumes_of_class(name));
        found.waiting.push(claim);
    }
    found.waiting.sort_by_key(|claim| wanted(claim).unwrap_or(0));
    found.volumes = Arc::new(volumes);
    Ok(Some(found))
}

fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

fn is_owned(claim: &PersistentVolumeClaim, pod: &PodInfo) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == pod.uid())
}

/// Whether the pod's claims can be used on `node`.
pub fn filter(cycle: &Cycle<'_>, claims: &Claims, node: &NodeInfo) -> Result<(), Rejection> {
    steps(cycle.pod, cycle.objects, claims, node).map(drop)
}

/// What has to be done so that the pod's claims can be used on `node`, or why that is impossible (upstream:
/// `FindPodVolumes`).
pub fn steps(
    pod: &PodInfo,
    objects: &dyn Objects,
    claims: &Claims,
    node: &NodeInfo,
) -> Result<Vec<ClaimStep>, Rejection> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    for claim in &claims.bound {
        match bound_volume(claim).and_then(|name| objects.volume(name)) {
            None => reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into()),
            Some(volume) if !reaches(&volume, node) => {
                reasons.push("node(s) didn't match PersistentVolume's node affinity".into());
            }
            Some(_) => continue,
        }
        break;
    }
    let mut steps = Vec::new();
    match unbound(pod, objects, claims, node, &mut steps) {
        Ok(()) => {}
        Err(reason) => reasons.push(reason.into()),
    }
    match reasons.len() {
        0 => Ok(steps),
        1 => Err(Rejection { plugin: NAME, reasons: Reasons::One(reasons.remove(0)), resolvable: false }),
        _ => Err(Rejection { plugin: NAME, reasons: Reasons::Many(reasons), resolvable: false }),
    }
}

fn unbound(
    pod: &PodInfo,
    objects: &dyn Objects,
    claims: &Claims,
    node: &NodeInfo,
    steps: &mut Vec<ClaimStep>,
) -> Result<(), &'static str> {
    const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
    let name = |claim: &PersistentVolumeClaim| claim.metadata.name.clone().unwrap_or_default();
    let selected = |claim: &PersistentVolumeClaim| match annotation(claim, SELECTED_NODE) {
        Some(node) => Some(node.to_owned()),
        None => objects.assumed_node(pod.namespace(), claim.metadata.name.as_deref().unwrap_or_default()),
    };
    let (decided, open): (Vec<_>, Vec<_>) = claims.waiting.iter().partition(|claim| selected(claim).is_some());
    if decided.iter().any(|claim| selected(claim).is_some_and(|selected| selected != node.name())) {
        return Err(NO_VOLUME);
    }
    let mut provision = decided;
    let mut taken: Vec<&str> = Vec::new();
    for claim in open {
        let volumes = claims.volumes.get(class_of(claim)).map(Vec::as_slice).unwrap_or_default();
        let key = format!("{}/{}", pod.namespace(), name(claim));
        let usable = |volume: &PersistentVolume| {
            let volume_name = volume.metadata.name.as_deref().unwrap_or_default();
            !taken.contains(&volume_name)
                && objects.assumed_for(volume_name).is_none_or(|other| other == key)
                && reaches(volume, node)
        };
        match best_match(claim, volumes, usable) {
            Some(volume) => {
                let volume = volume.metadata.name.as_deref().unwrap_or_default();
                taken.push(volume);
                steps.push(ClaimStep::Reserve { claim: name(claim), volume: volume.to_owned() });
            }
            None => provision.push(claim),
        }
    }
    for claim in provision {
        let Some(class) = objects.class(class_of(claim)) else { return Err(NO_VOLUME) };
        let made_by_hand = class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER;
        if made_by_hand || !in_topology(class.allowed_topologies.as_deref(), node.labels()) {
            return Err(NO_VOLUME);
        }
        if !has_room(claim, &class, objects, node) {
            return Err("node(s) did not have enough free storage");
        }
        steps.push(ClaimStep::Provision(name(claim)));
    }
    Ok(())
}

/// Whether a node is where a class makes volumes (upstream: `MatchTopologySelectorTerms`).
fn in_topology(terms: Option<&[TopologySelectorTerm]>, labels: Option<&Labels>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let fits = |term: &TopologySelectorTerm| {
        let mut wanted = term.match_label_expressions.iter().flatten();
        wanted.all(|wanted| label(&wanted.key).is_some_and(|value| wanted.values.contains(value)))
    };
    terms.is_none_or(|terms| terms.is_empty() || terms.iter().any(fits))
}

/// Whether the driver says that it has room for the claim on the node; drivers that say nothing have.
fn has_room(claim: &PersistentVolumeClaim, class: &StorageClass, objects: &dyn Objects, node: &NodeInfo) -> bool {
    let Some(wanted) = wanted(claim) else { return true };
    let driver = objects.csi_driver(&class.provisioner);
    if driver.and_then(|driver| driver.spec.storage_capacity) != Some(true) {
        return true;
    }
    objects.capacities().iter().any(|capacity| {
        let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
        let limit = limit.and_then(|limit| pintle_api::quantity::Quantity::parse(&limit.0).ok());
        let here = capacity.node_topology.as_ref().map(crate::selector::Selector::new);
        Some(&capacity.storage_class_name) == class.metadata.name.as_ref()
            && limit.is_some_and(|limit| limit.value() >= wanted)
            && here.is_some_and(|here| here.matches(node.labels()))
    })
}
