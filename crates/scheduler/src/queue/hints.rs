//! Which event wakes which pod: each plugin says whether an event can change its mind (upstream: the plugins'
//! `EventsToRegister` and `QueueingHintFn`).
use super::events::{Event, NodeChange};
use crate::algorithm::Profile;
use crate::cache::{NodeInfo, taints};
use crate::framework::Plugin;
use crate::plugins::taint_toleration::{tolerates_all, tolerates_unschedulable};
use crate::plugins::{node_resources, pod_topology_spread};
use crate::pod_info::{PodInfo, Term, bound_node, ports_conflict};
use crate::volumes::claim_of;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

/// The plugins that an event can concern at all; the others need not be asked.
pub fn concerned(event: &Event) -> &'static [Plugin] {
    match event {
        Event::NodeAdded(_) => &[
            Plugin::NodeUnschedulable,
            Plugin::NodeName,
            Plugin::TaintToleration,
            Plugin::NodeAffinity,
            Plugin::NodePorts,
            Plugin::NodeResourcesFit,
            Plugin::VolumeBinding,
            Plugin::VolumeZone,
            Plugin::PodTopologySpread,
            Plugin::InterPodAffinity,
            Plugin::Extender,
        ],
        Event::NodeUpdated { .. } => &[
            Plugin::NodeUnschedulable,
            Plugin::TaintToleration,
            Plugin::NodeAffinity,
            Plugin::NodeResourcesFit,
            Plugin::VolumeBinding,
            Plugin::VolumeZone,
            Plugin::PodTopologySpread,
            Plugin::InterPodAffinity,
            Plugin::Extender,
        ],
        Event::NodeRemoved(_) => &[Plugin::PodTopologySpread, Plugin::Extender],
        Event::PodAssigned(_) => &[Plugin::PodTopologySpread, Plugin::InterPodAffinity, Plugin::Extender],
        Event::PodUpdated { .. } => &[
            Plugin::NodeUnschedulable,
            Plugin::TaintToleration,
            Plugin::NodeResourcesFit,
            Plugin::PodTopologySpread,
            Plugin::InterPodAffinity,
            Plugin::Extender,
        ],
        Event::PodGone(_) => &[
            Plugin::NodePorts,
            Plugin::NodeResourcesFit,
            Plugin::VolumeRestrictions,
            Plugin::NodeVolumeLimits,
            Plugin::PodTopologySpread,
            Plugin::InterPodAffinity,
            Plugin::Extender,
        ],
        Event::Claim { .. } => {
            &[Plugin::VolumeRestrictions, Plugin::NodeVolumeLimits, Plugin::VolumeBinding, Plugin::VolumeZone]
        }
        Event::Volume | Event::Class { .. } => &[Plugin::VolumeBinding, Plugin::VolumeZone],
        Event::CsiNode { .. } => &[Plugin::NodeVolumeLimits, Plugin::VolumeBinding],
        Event::Capacity => &[Plugin::VolumeBinding],
        Event::Detached => &[Plugin::NodeVolumeLimits],
    }
}

/// Whether `event` can make `plugin` accept `pod`.
pub fn may_help(plugin: Plugin, pod: &PodInfo, event: &Event, profile: &Profile) -> bool {
    let node = match event {
        Event::NodeAdded(new) => Some((None, new)),
        Event::NodeUpdated { old, new, .. } => Some((Some(old), new)),
        _ => None,
    };
    let change = match event {
        Event::NodeUpdated { change, .. } => *change,
        _ => NodeChange::default(),
    };
    match (plugin, event) {
        (Plugin::Extender, _) => true,
        (Plugin::NodeUnschedulable, Event::PodUpdated { new, .. }) => {
            new.uid() == pod.uid() && tolerates_unschedulable(new)
        }
        (Plugin::NodeUnschedulable, _) => {
            node.is_some_and(|(old, new)| old.is_none_or(|old| old.unschedulable) && !new.unschedulable)
        }
        (Plugin::NodeName, _) => node.is_some_and(|(_, new)| bound_node(&pod.pod) == Some(new.name())),
        (Plugin::TaintToleration, Event::PodUpdated { new, change, .. }) => {
            new.uid() == pod.uid() && change.tolerations
        }
        (Plugin::TaintToleration, _) => {
            let tolerated = |node: &NodeInfo| node.node.as_ref().is_some_and(|node| tolerates_all(pod, taints(node)));
            node.is_some_and(|(old, new)| !old.is_some_and(|old| tolerated(old)) && tolerated(new))
        }
        (Plugin::NodeAffinity, _) => {
            let meets = |node: &NodeInfo| {
                pod.node_requirement.as_ref().is_none_or(|wanted| wanted.matches(node.name(), node.labels()))
            };
            let enforced = |node: &NodeInfo| {
                profile.added_requirement.as_ref().is_none_or(|added| added.matches(node.name(), node.labels()))
            };
            node.is_some_and(|(old, new)| {
                meets(new) && enforced(new) && !old.is_some_and(|old| meets(old) && enforced(old))
            })
        }
        (Plugin::NodePorts, Event::NodeAdded(_)) => true,
        (Plugin::NodePorts, Event::PodGone(gone)) => {
            gone.ports.iter().any(|freed| pod.ports.iter().any(|wanted| ports_conflict(freed, wanted)))
        }
        (Plugin::NodeResourcesFit, Event::PodGone(_)) => true,
        (Plugin::NodeResourcesFit, Event::PodUpdated { old, new, change }) => {
            change.scale_down
                && (new.uid() == pod.uid()
                    || (bound_node(&new.pod).is_some()
                        && node_resources::scale_down_helps(pod, &old.requests, &new.requests)))
        }
        (Plugin::NodeResourcesFit, _) => node.is_some_and(|(old, new)| {
            (old.is_none() || change.allocatable) && node_resources::node_change_helps(pod, old.map(|old| &**old), new)
        }),
        (Plugin::VolumeRestrictions, Event::PodGone(gone)) => {
            gone.namespace() == pod.namespace() && uses_volumes(gone)
                || gone.volumes().iter().any(|v| {
                    v.iscsi.is_some()
                        || v.rbd.is_some()
                        || v.gce_persistent_disk.is_some()
                        || v.aws_elastic_block_store.is_some()
                })
        }
        (Plugin::NodeVolumeLimits, Event::PodGone(gone)) => uses_volumes(gone),
        (Plugin::VolumeRestrictions | Plugin::NodeVolumeLimits, Event::Claim { claim, added }) => {
            *added && uses_claim(pod, claim)
        }
        (Plugin::VolumeBinding | Plugin::VolumeZone, Event::Claim { claim, .. }) => uses_claim(pod, claim),
        (Plugin::VolumeZone, Event::Class { added }) => *added,
        (Plugin::NodeVolumeLimits, Event::CsiNode { .. } | Event::Detached) => true,
        (Plugin::VolumeBinding, Event::CsiNode { added }) => *added,
        (Plugin::VolumeBinding | Plugin::VolumeZone, Event::Volume | Event::Class { .. } | Event::Capacity) => true,
        (Plugin::VolumeBinding | Plugin::VolumeZone, _) => node.is_some_and(|(old, _)| old.is_none() || change.labels),
        (Plugin::PodTopologySpread, event) => spread(pod, event, profile),
        (Plugin::InterPodAffinity, event) => affinity(pod, event),
        _ => false,
    }
}

fn uses_volumes(pod: &PodInfo) -> bool {
    pod.volumes().iter().any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
}

fn uses_claim(pod: &PodInfo, claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.namespace.as_deref() == Some(pod.namespace())
        && pod.volumes().iter().any(|volume| claim_of(&pod.pod, volume) == claim.metadata.name)
}

fn spread(pod: &PodInfo, event: &Event, profile: &Profile) -> bool {
    let hard = pod_topology_spread::hard(pod, &profile.spread);
    let selected = |other: &PodInfo| {
        let mut selectors = hard.selectors.iter().flatten();
        other.namespace() == pod.namespace() && selectors.any(|selector| selector.matches(other.labels()))
    };
    let has_keys = |node: &NodeInfo| hard.keys.iter().all(|key| node.label(key).is_some());
    match event {
        Event::PodAssigned(other) | Event::PodGone(other) => selected(other),
        Event::PodUpdated { old, new, change } => {
            let itself = new.uid() == pod.uid();
            let differs = hard
                .selectors
                .iter()
                .flatten()
                .any(|selector| selector.matches(old.labels()) != selector.matches(new.labels()));
            (itself && change.tolerations && hard.honours_taints)
                || (change.labels && (itself || new.namespace() == pod.namespace()) && differs)
        }
        Event::NodeAdded(node) | Event::NodeRemoved(node) => has_keys(node),
        Event::NodeUpdated { old, new, change } => {
            let moved = hard.keys.iter().any(|key| old.label(key) != new.label(key));
            has_keys(old) != has_keys(new) || (has_keys(new) && (moved || change.taints))
        }
        _ => false,
    }
}

fn affinity(pod: &PodInfo, event: &Event) -> bool {
    let (near, far) = (pod.required_affinity(), pod.required_anti_affinity());
    let means_all = |terms: &[Term], other: &PodInfo| {
        let means = |term: &Term| term.matcher.matches(other.namespace(), other.labels(), |_| None);
        // The labels of namespaces are not looked up here: better once too often.
        !terms.is_empty() && terms.iter().all(|term| term.matcher.namespace_selector.is_some() || means(term))
    };
    match event {
        Event::PodAssigned(other) => means_all(near, other),
        Event::PodGone(other) => means_all(far, other) || means_all(other.required_anti_affinity(), pod),
        Event::PodUpdated { old, new, change } if change.labels => {
            new.uid() == pod.uid()
                || (!means_all(near, old) && means_all(near, new))
                || (means_all(far, old) && !means_all(far, new))
        }
        Event::NodeAdded(node) => !far.is_empty() || near.iter().any(|term| node.label(&term.topology_key).is_some()),
        Event::NodeUpdated { old, new, change } if change.labels => {
            let labels = |term: &Term| {
                (old.label(&term.topology_key).map(str::to_owned), new.label(&term.topology_key).map(str::to_owned))
            };
            near.iter().map(labels).any(|(old, new)| new.is_some() && old != new)
                || far.iter().map(labels).any(|(old, new)| old.is_some() && old != new)
        }
        _ => false,
    }
}
