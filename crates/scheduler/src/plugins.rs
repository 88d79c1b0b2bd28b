//! The plugins, one file each. A decision goes [`prepare`] (upstream: PreFilter), [`filter`] for each node, [`score`] over
//! those that are left; preemption tries changes with [`pod_added`] and [`pod_removed`].
mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_resources;
mod node_volume_limits;
pub mod pod_topology_spread;
pub mod taint_toleration;
pub mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use crate::algorithm::Profile;
use crate::cache::{Cache, NodeInfo, RequirementId};
use crate::framework::{MAX_SCORE, Objects, Plugin, Rejection};
use crate::pod_info::PodInfo;

/// What a decision is about and may read.
#[derive(Clone, Copy)]
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// Nodes and the pods on them.
    pub cache: &'a Cache,
    /// Other objects.
    pub objects: &'a dyn Objects,
    /// Plugins and their settings.
    pub profile: &'a Profile,
}

/// What the plugins have worked out for a pod before they see a node.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The filters that have something to say about the pod.
    pub filters: Vec<Plugin>,
    /// The only nodes in question by name, with the plugins that say so.
    pub names: Option<Vec<String>>,
    tolerated: Vec<bool>,
    tolerates_unschedulable: bool,
    requirement: Option<RequirementId>,
    spread: pod_topology_spread::State,
    affinity: inter_pod_affinity::State,
    restrictions: volume_restrictions::State,
    zones: volume_zone::State,
    claims: volume_binding::Claims,
}

/// What no node can help against, or else what the filters need (upstream: PreFilter).
pub fn prepare(
    pod: &PodInfo,
    cache: &mut Cache,
    objects: &dyn Objects,
    profile: &Profile,
) -> Result<State, Box<Rejection>> {
    cache.tidy();
    let spec = pod.spec();
    let slots = cache.slots();
    let mut state = State {
        tolerated: taint_toleration::tolerated_lists(pod, cache),
        tolerates_unschedulable: taint_toleration::tolerates_unschedulable(pod),
        requirement: pod.node_requirement.as_ref().map(|required| cache.requirements.of(required, slots)),
        ..State::default()
    };
    for plugin in &profile.filters {
        let speaks = match plugin {
            Plugin::NodeUnschedulable => !state.tolerates_unschedulable,
            Plugin::NodeName => spec.and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| !name.is_empty()),
            Plugin::TaintToleration => state.tolerated.iter().any(|tolerated| !tolerated),
            Plugin::NodeAffinity => {
                state.names = node_affinity::names(pod)?;
                state.requirement.is_some() || profile.added_requirement.is_some()
            }
            Plugin::NodePorts => !pod.ports.is_empty(),
            Plugin::NodeResourcesFit => true,
            Plugin::VolumeRestrictions => {
                state.restrictions = volume_restrictions::prepare(pod, cache, objects)?;
                state.restrictions.speaks()
            }
            Plugin::NodeVolumeLimits => node_volume_limits::speaks(pod),
            Plugin::VolumeBinding => match volume_binding::prepare(pod, objects)? {
                Some(claims) => {
                    state.claims = claims;
                    true
                }
                None => false,
            },
            Plugin::VolumeZone => {
                state.zones = volume_zone::prepare(pod, objects)?;
                state.zones.speaks()
            }
            Plugin::PodTopologySpread => {
                state.spread = pod_topology_spread::prepare(pod, cache, objects, profile, &state);
                state.spread.speaks()
            }
            Plugin::InterPodAffinity => {
                state.affinity = inter_pod_affinity::prepare(pod, cache);
                state.affinity.speaks()
            }
            _ => false,
        };
        if speaks {
            state.filters.push(*plugin);
        }
    }
    Ok(state)
}

/// Whether the pod can be on `node`: the first filter that objects says why not.
pub fn filter(cycle: &Cycle<'_>, state: &State, node: &NodeInfo) -> Result<(), Rejection> {
    for plugin in &state.filters {
        match plugin {
            Plugin::NodeUnschedulable if node.unschedulable => {
                return Err(Rejection::final_(*plugin, "node(s) were unschedulable"));
            }
            Plugin::NodeName if cycle.pod.spec().and_then(|spec| spec.node_name.as_deref()) != Some(node.name()) => {
                return Err(Rejection::final_(*plugin, "node(s) didn't match the requested node name"));
            }
            Plugin::TaintToleration if !tolerates(state, node) => {
                return Err(Rejection::final_(*plugin, "node(s) had untolerated taint(s)"));
            }
            Plugin::NodeAffinity => node_affinity::filter(cycle, state, node)?,
            Plugin::NodePorts if node.has_port_conflict(&cycle.pod.ports) => {
                let reason = "node(s) didn't have free ports for the requested pod ports";
                return Err(Rejection::resolvable(*plugin, reason));
            }
            Plugin::NodeResourcesFit => node_resources::filter(cycle, node)?,
            Plugin::VolumeRestrictions => state.restrictions.filter(cycle, node)?,
            Plugin::NodeVolumeLimits => node_volume_limits::filter(cycle, node)?,
            Plugin::VolumeBinding => volume_binding::filter(cycle, &state.claims, node)?,
            Plugin::VolumeZone => state.zones.filter(node)?,
            Plugin::PodTopologySpread => state.spread.filter(cycle, node)?,
            Plugin::InterPodAffinity => state.affinity.filter(cycle, node)?,
            _ => {}
        }
    }
    Ok(())
}

fn tolerates(state: &State, node: &NodeInfo) -> bool {
    state.tolerated.get(node.taint_list).copied().unwrap_or(true)
}

/// Whether `node` meets what the pod requires of nodes.
fn meets_requirement(cache: &Cache, state: &State, node: &NodeInfo) -> bool {
    state.requirement.is_none_or(|requirement| cache.requirements.met(requirement, node))
}

/// The unbound claims of the pod and what they could have.
pub fn claims(state: &State) -> &volume_binding::Claims {
    &state.claims
}

/// A pod comes to `node`, as far as the state is concerned (upstream: AddPod).
pub fn pod_added(cycle: &Cycle<'_>, state: &mut State, node: &NodeInfo, pod: &PodInfo) {
    changed(cycle, state, node, pod, 1);
}

/// A pod leaves `node`, as far as the state is concerned (upstream: RemovePod).
pub fn pod_removed(cycle: &Cycle<'_>, state: &mut State, node: &NodeInfo, pod: &PodInfo) {
    changed(cycle, state, node, pod, -1);
}

fn changed(cycle: &Cycle<'_>, state: &mut State, node: &NodeInfo, pod: &PodInfo, by: i64) {
    if state.filters.contains(&Plugin::PodTopologySpread) {
        let included = |spread: &pod_topology_spread::State, at| spread.includes(cycle.cache, state, at, node);
        let counted = state.spread.counted(cycle, node, pod, included);
        state.spread.change(&counted, by);
    }
    if state.filters.contains(&Plugin::InterPodAffinity) {
        state.affinity.change(cycle, node, pod, by);
    }
    state.restrictions.change(cycle.pod, pod, by);
}

/// What scores need to know before they see nodes.
#[derive(Debug, Default)]
pub struct ScoreState {
    spread: pod_topology_spread::SoftState,
    preferences: inter_pod_affinity::Preferences,
}

/// Looks up what the scores of `pod` count (upstream: the part of PreScore that depends on the pod alone).
pub fn prepare_scores(pod: &PodInfo, cache: &mut Cache, objects: &dyn Objects, profile: &Profile) -> ScoreState {
    let mut state = ScoreState::default();
    for (plugin, _) in &profile.scores {
        match plugin {
            Plugin::PodTopologySpread => {
                state.spread = pod_topology_spread::prepare_soft(pod, cache, objects, profile);
            }
            Plugin::InterPodAffinity => {
                state.preferences = inter_pod_affinity::prepare_preferences(pod, cache, profile);
            }
            _ => {}
        }
    }
    state
}

/// The scores of `nodes` by all plugins together.
pub fn score(cycle: &Cycle<'_>, state: &State, scores: &ScoreState, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for (plugin, weight) in &cycle.profile.scores {
        let scores = match plugin {
            Plugin::TaintToleration => taint_toleration::score(cycle, nodes),
            Plugin::NodeAffinity => node_affinity::score(cycle, nodes),
            Plugin::NodeResourcesFit => Some(node_resources::score(cycle, nodes)),
            Plugin::NodeResourcesBalancedAllocation => node_resources::balance(cycle, nodes),
            Plugin::PodTopologySpread => pod_topology_spread::score(cycle, state, &scores.spread, nodes),
            Plugin::InterPodAffinity => inter_pod_affinity::score(cycle, &scores.preferences, nodes),
            Plugin::ImageLocality => image_locality::score(cycle, nodes),
            _ => None,
        };
        for (total, score) in totals.iter_mut().zip(scores.into_iter().flatten()) {
            *total += score.clamp(0, MAX_SCORE) * weight;
        }
    }
    totals
}
