//! What to do about a StatefulSet: [`plan`] is a pure function of it, its revisions and its pods.
//! (upstream: pkg/controller/statefulset)
use crate::claim::{controller_ref, name};
use crate::controller_revision::HASH_LABEL;
use crate::int_or_percent::scaled;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::sync::Arc;

pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the pod and, before it, those of its claims that are missing.
    Create(Box<Pod>),
    /// Put the pod's own labels right.
    Correct(Box<Pod>),
    /// Delete the pod.
    Delete { pod: Arc<Pod> },
}

/// What to do, in this order, and the status as observed.
#[derive(Debug)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub status: StatefulSetStatus,
    /// When a ready pod becomes available.
    pub again: Option<SignedDuration>,
}

/// The two templates between which a rollout moves.
pub struct Revisions<'a> {
    pub current: &'a ControllerRevision,
    pub current_template: &'a PodTemplateSpec,
    pub update: &'a ControllerRevision,
}

/// The pod's number in its set: the part of its name after the last dash.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    name(pod).strip_prefix(name(set))?.strip_prefix('-')?.parse().ok()
}

fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map(String::as_str).unwrap_or_default()
}

/// Replicas of the set.
pub fn wanted(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0)
}

/// How outdated pods are replaced.
struct Rolling {
    partition: i32,
    /// How many pods may be unavailable; `None` if pods go one after the other, each when the one before is available.
    max_unavailable: Option<usize>,
}

/// How pods are updated, or `None` if only when someone deletes them.
fn rolling(set: &StatefulSet) -> Option<Rolling> {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let limit = rolling.max_unavailable.as_ref().map(|value| scaled(Some(value), wanted(set), false).max(1));
    Some(Rolling {
        partition: rolling.partition.unwrap_or(0),
        max_unavailable: limit.map(|limit| usize::try_from(limit).unwrap_or(1)),
    })
}

/// The claim of a volume template for one pod.
pub fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, number: i32) -> String {
    format!("{}-{}-{number}", name(template), name(set))
}

/// The claims that the pod of that number needs.
pub fn claims(set: &StatefulSet, number: i32) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(template, set, number));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            claim.status = None;
            claim
        })
        .collect()
}

fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &ControllerRevision, number: i32) -> Pod {
    let mut pod = crate::pod_control::from_template(template, crate::claim::namespace(set), controller_ref(set));
    let named = format!("{}-{number}", name(set));
    pod.metadata.generate_name = Some(format!("{}-", name(set)));
    pod.metadata.name = Some(named.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), named.clone());
    labels.insert(POD_INDEX.to_owned(), number.to_string());
    labels.insert(HASH_LABEL.to_owned(), name(revision).to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(named);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|service| !service.is_empty());
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let volumes = spec.volumes.get_or_insert_default();
    for template in templates {
        volumes.retain(|volume| volume.name != name(template));
        volumes.push(Volume {
            name: name(template).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, set, number),
                read_only: Some(false),
            }),
            ..Volume::default()
        });
    }
    pod
}

/// Whether claims go (when the set is deleted, when it is scaled down).
fn retention(set: &StatefulSet) -> (bool, bool) {
    let policy =
        set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.clone()).unwrap_or_default();
    let deletes = |policy: Option<String>| policy.as_deref() == Some("Delete");
    (deletes(policy.when_deleted), deletes(policy.when_scaled))
}

/// The owners that `claim` of `pod` must have by the retention policy, or `None` if it has them or is someone else's matter.
// upstream: isClaimOwnerUpToDate, updateClaimOwnerRefForSetAndPod
pub fn claim_owners(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<Vec<OwnerReference>> {
    let listed = claim.metadata.owner_references.clone().unwrap_or_default();
    let (of_set, of_pod) = (controller_ref(set), controller_ref(pod));
    let named = |owner: &OwnerReference, wanted: &OwnerReference| {
        owner.api_version == wanted.api_version && owner.kind == wanted.kind && owner.name == wanted.name
    };
    let ours = |owner: &OwnerReference| named(owner, &of_set) || named(owner, &of_pod);
    let stale = |owner: &OwnerReference| {
        [&of_set, &of_pod].into_iter().any(|wanted| named(owner, wanted) && owner.uid != wanted.uid)
    };
    if listed.iter().any(stale) {
        return None;
    }
    let (when_deleted, when_scaled) = retention(set);
    let mut wanted: Vec<OwnerReference> = listed.iter().filter(|owner| !ours(owner)).cloned().collect();
    let foreign = wanted.iter().any(|owner| owner.controller == Some(true));
    if !foreign || !(when_deleted || when_scaled) {
        let range = start(set)..start(set) + self::wanted(set);
        let scaled_away = !ordinal(set, pod).is_some_and(|number| range.contains(&number));
        if scaled_away && when_scaled {
            wanted.push(of_pod);
        } else if when_deleted {
            wanted.push(of_set);
        }
    }
    let facts = |owners: &[OwnerReference]| -> Vec<(String, bool)> {
        let mut facts: Vec<_> =
            owners.iter().map(|owner| (owner.uid.clone(), owner.controller == Some(true))).collect();
        facts.sort();
        facts
    };
    (facts(&wanted) != facts(&listed)).then_some(wanted)
}

/// The pod with the labels that make it this set's, or `None` if it has them.
fn corrected(set: &StatefulSet, pod: &Pod, number: i32) -> Option<Pod> {
    let labels = pod.metadata.labels.as_ref();
    let right = |key: &str, value: &str| labels.and_then(|labels| labels.get(key)).is_some_and(|is| is == value);
    let named = format!("{}-{number}", name(set));
    if right(POD_NAME, &named) && right(POD_INDEX, &number.to_string()) {
        return None;
    }
    let mut pod = pod.clone();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), named);
    labels.insert(POD_INDEX.to_owned(), number.to_string());
    Some(pod)
}

/// Decides about `set` with its pods `owned`.
pub fn plan(set: &StatefulSet, revisions: &Revisions<'_>, owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut status = observed(set, revisions, owned, now);
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let again = owned.iter().filter_map(|pod| pods::available_in(pod, min_ready, now)).min();
    let mut steps = Vec::new();
    if set.metadata.deletion_timestamp.is_none() {
        let updated = decide(set, revisions, owned, min_ready, now, &mut steps);
        status.current_replicas = status.current_replicas.map(|count| (count - updated).max(0));
    }
    // The rollout is over: what was being rolled out is what runs.
    let all = Some(status.replicas);
    if rolling(set).is_some()
        && status.updated_replicas == all
        && status.ready_replicas == all
        && status.replicas == wanted(set)
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    for count in [&mut status.current_replicas, &mut status.updated_replicas, &mut status.ready_replicas] {
        *count = count.filter(|count| *count != 0);
    }
    Plan { steps, status, again }
}

fn observed(set: &StatefulSet, revisions: &Revisions<'_>, owned: &[Arc<Pod>], now: Timestamp) -> StatefulSetStatus {
    let before = set.status.clone().unwrap_or_default();
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let count =
        |test: &dyn Fn(&Pod) -> bool| i32::try_from(owned.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX);
    let living = |pod: &Pod| !pods::is_deleting(pod);
    let running = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
    StatefulSetStatus {
        replicas: count(&|_| true),
        ready_replicas: Some(count(&running)),
        available_replicas: Some(count(&|pod| running(pod) && pods::is_available(pod, min_ready, now))),
        current_replicas: Some(count(&|pod| living(pod) && revision_of(pod) == name(revisions.current))),
        updated_replicas: Some(count(&|pod| living(pod) && revision_of(pod) == name(revisions.update))),
        current_revision: Some(name(revisions.current).to_owned()),
        update_revision: Some(name(revisions.update).to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: before.collision_count,
        conditions: before.conditions,
    }
}

/// Finds the steps; returns how many of them delete a pod because its template is outdated.
// upstream: updateStatefulSet
fn decide(
    set: &StatefulSet,
    revisions: &Revisions<'_>,
    owned: &[Arc<Pod>],
    min_ready: i32,
    now: Timestamp,
    steps: &mut Vec<Step>,
) -> i32 {
    let (first, count) = (start(set), wanted(set));
    let ordered = set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref()) != Some("Parallel");
    let healthy =
        |pod: &Pod| !pods::is_deleting(pod) && pods::phase(pod) == "Running" && pods::is_available(pod, min_ready, now);
    let at = |number: i32| owned.iter().find(|pod| ordinal(set, pod) == Some(number));
    let current_size = set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
    for number in first..first + count {
        let Some(pod) = at(number) else {
            steps.push(Step::Create(Box::new(versioned(set, revisions, number, current_size))));
            if ordered {
                return 0;
            }
            continue;
        };
        if pods::is_terminal(pod) {
            if !pods::is_deleting(pod) {
                steps.push(Step::Delete { pod: pod.clone() });
            }
            if ordered {
                return 0;
            }
            continue;
        }
        if ordered && !healthy(pod) {
            return 0;
        }
        if let Some(right) = corrected(set, pod, number).filter(|_| !pods::is_deleting(pod)) {
            steps.push(Step::Correct(Box::new(right)));
        }
    }
    let mut condemned: Vec<&Arc<Pod>> = owned
        .iter()
        .filter(|pod| ordinal(set, pod).is_some_and(|number| number < first || number >= first + count))
        .collect();
    condemned.sort_by_key(|pod| std::cmp::Reverse(ordinal(set, pod)));
    // Of pods that are unwell only the lowest may go: the set must not lose more while it is in trouble.
    let unwell = (first..first + count).any(|number| !at(number).is_some_and(|pod| healthy(pod)));
    let lowest = condemned.iter().rev().find(|pod| !healthy(pod)).filter(|_| !unwell).copied();
    for pod in &condemned {
        if pods::is_deleting(pod) {
            if ordered {
                return 0;
            }
            continue;
        }
        let last_resort = lowest.is_some_and(|lowest| Arc::ptr_eq(lowest, pod));
        if ordered && !healthy(pod) && !last_resort {
            return 0;
        }
        steps.push(Step::Delete { pod: (*pod).clone() });
        if ordered {
            return 0;
        }
    }
    let Some(rolling) = rolling(set) else { return 0 };
    let lowest = first + rolling.partition.min(count);
    let outdated = |pod: &Pod| revision_of(pod) != name(revisions.update) && !pods::is_deleting(pod);
    let mut allowed = match rolling.max_unavailable {
        Some(limit) => {
            let missing = (first..first + count).filter(|number| !at(*number).is_some_and(|pod| healthy(pod)));
            limit.saturating_sub(missing.count())
        }
        None => 1,
    };
    let mut updated = 0;
    for number in (lowest..first + count).rev() {
        let Some(pod) = at(number) else {
            if rolling.max_unavailable.is_none() {
                break;
            }
            continue;
        };
        if allowed == 0 {
            break;
        }
        if outdated(pod) {
            steps.push(Step::Delete { pod: pod.clone() });
            updated += 1;
            allowed -= 1;
        } else if rolling.max_unavailable.is_none() && !healthy(pod) {
            break;
        }
    }
    updated
}

/// A new pod of that number, of the current or the new template. (upstream: newVersionedStatefulSetPod)
fn versioned(set: &StatefulSet, revisions: &Revisions<'_>, number: i32, current_size: i32) -> Pod {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    let partition = strategy.rolling_update.and_then(|rolling| rolling.partition);
    let stays = match (strategy.type_.as_deref(), partition) {
        (Some("OnDelete"), _) => false,
        (_, Some(partition)) => number < start(set) + partition,
        _ => number < start(set) + current_size,
    };
    let template = set.spec.as_ref().map(|spec| &spec.template);
    match template {
        Some(template) if !stays => pod(set, template, revisions.update, number),
        _ => pod(set, revisions.current_template, revisions.current, number),
    }
}
