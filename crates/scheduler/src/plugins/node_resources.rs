//! Nodes need room for what a pod asks for; among those that have it, the profile's strategy decides.
use super::Cycle;
use crate::cache::NodeInfo;
use crate::framework::{MAX_SCORE, Plugin, Reasons, Rejection};
use crate::pod_info::PodInfo;
use crate::resources::Resources;
use std::borrow::Cow;

const NAME: Plugin = Plugin::NodeResourcesFit;

/// How full nodes are scored (upstream: `ScoringStrategy`).
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// Emptier is better.
    LeastAllocated,
    /// Fuller is better.
    MostAllocated,
    /// As the line through these points of utilisation in percent and score says.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// Settings of the plugin (upstream: `NodeResourcesFitArgs`).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Extended resources that somebody else looks after.
    pub ignored: Vec<String>,
    /// Prefixes of such resources.
    pub ignored_groups: Vec<String>,
    /// How nodes are scored.
    pub strategy: Strategy,
    /// By which resources, with weights.
    pub resources: Vec<(String, i64)>,
    /// The resources whose use is to be balanced.
    pub balanced: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: vec![("cpu".into(), 1), ("memory".into(), 1)],
            balanced: vec!["cpu".into(), "memory".into()],
        }
    }
}

/// Whether `node` has room for the pod.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    fits(cycle.pod, &cycle.profile.resources, node)
}

/// Whether `node` has room for `pod` (upstream: `fitsRequest`).
fn fits(pod: &PodInfo, settings: &Settings, node: &NodeInfo) -> Result<(), Rejection> {
    let (wanted, has, used) = (&pod.requests, &node.allocatable, &node.requested);
    let short = |wanted: i64, has: i64, used: i64| wanted > 0 && wanted > has - used;
    let crowded = node.pods.len() + 1 > node.allowed_pods;
    let plain = !crowded
        && !short(wanted.milli_cpu, has.milli_cpu, used.milli_cpu)
        && !short(wanted.memory, has.memory, used.memory)
        && !short(wanted.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage);
    if plain && wanted.scalar.is_empty() {
        return Ok(());
    }
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut resolvable = true;
    if crowded {
        reasons.push("Too many pods".into());
    }
    for (name, wanted, has, used) in [
        ("Insufficient cpu", wanted.milli_cpu, has.milli_cpu, used.milli_cpu),
        ("Insufficient memory", wanted.memory, has.memory, used.memory),
        ("Insufficient ephemeral-storage", wanted.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage),
    ] {
        if short(wanted, has, used) {
            reasons.push(name.into());
            resolvable &= wanted <= has;
        }
    }
    for (name, amount) in wanted.scalar.iter().filter(|(_, amount)| *amount > 0) {
        let group = name.split('/').next().unwrap_or_default();
        let ignored = settings.ignored.iter().any(|ignored| ignored.as_str() == &**name)
            || settings.ignored_groups.iter().any(|ignored| ignored == group);
        if !(ignored && is_extended(name)) && *amount > has.scalar(name) - used.scalar(name) {
            reasons.push(format!("Insufficient {name}").into());
            resolvable &= *amount <= has.scalar(name);
        }
    }
    match reasons.len() {
        0 => Ok(()),
        1 => Err(Rejection { plugin: NAME, reasons: Reasons::One(reasons.remove(0)), resolvable }),
        _ => Err(Rejection { plugin: NAME, reasons: Reasons::Many(reasons), resolvable }),
    }
}

/// Whether a resource is one that Kubernetes itself does not know (upstream: `IsExtendedResourceName`).
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Whether the empty node would have room for the pod, and whether it has more of something asked for than before.
pub fn node_change_helps(pod: &PodInfo, old: Option<&NodeInfo>, new: &NodeInfo) -> bool {
    if fits(pod, &Settings::default(), new).is_err() {
        return false;
    }
    let Some(old) = old else { return true };
    let (wanted, was, is) = (&pod.requests, &old.allocatable, &new.allocatable);
    new.allowed_pods > old.allowed_pods
        || (wanted.milli_cpu > 0 && is.milli_cpu > was.milli_cpu)
        || (wanted.memory > 0 && is.memory > was.memory)
        || (wanted.ephemeral_storage > 0 && is.ephemeral_storage > was.ephemeral_storage)
        || wanted.scalar.iter().any(|(name, amount)| *amount > 0 && is.scalar(name) > was.scalar(name))
}

/// Whether a pod that asks for less now leaves something that `pod` wants.
pub fn scale_down_helps(pod: &PodInfo, old: &Resources, new: &Resources) -> bool {
    let wanted = &pod.requests;
    (wanted.milli_cpu > 0 && old.milli_cpu > new.milli_cpu)
        || (wanted.memory > 0 && old.memory > new.memory)
        || (wanted.ephemeral_storage > 0 && old.ephemeral_storage > new.ephemeral_storage)
        || wanted.scalar.iter().any(|(name, amount)| *amount > 0 && old.scalar(name) > new.scalar(name))
}

/// The amounts of one resource: what a node has, what its pods count for, what the pod adds. `None` if the resource does not
/// count for this pod and node.
fn amounts(
    name: &str,
    has: &Resources,
    used: &Resources,
    real: &Resources,
    pod: &Resources,
) -> Option<(i64, i64, i64)> {
    let (has, used, adds) = match name {
        "cpu" => (has.milli_cpu, used.milli_cpu, pod.milli_cpu),
        "memory" => (has.memory, used.memory, pod.memory),
        "ephemeral-storage" => (has.ephemeral_storage, real.ephemeral_storage, pod.ephemeral_storage),
        name => match pod.scalar(name) {
            0 => return None,
            adds => (has.scalar(name), real.scalar(name), adds),
        },
    };
    (has != 0).then_some((has, used, adds))
}

/// How full each node would be, as the strategy likes it.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
    let settings = &cycle.profile.resources;
    let one = |node: &&NodeInfo| {
        let (mut sum, mut weights) = (0, 0);
        for (name, weight) in &settings.resources {
            let pod = &cycle.pod.non_zero;
            let Some((has, used, adds)) = amounts(name, &node.allocatable, &node.non_zero, &node.requested, pod) else {
                continue;
            };
            let full = used + adds;
            let score = match &settings.strategy {
                Strategy::LeastAllocated if full > has => 0,
                Strategy::LeastAllocated => (has - full) * MAX_SCORE / has,
                Strategy::MostAllocated => full.min(has) * MAX_SCORE / has,
                Strategy::RequestedToCapacityRatio(shape) => {
                    let score = on_line(shape, if full > has { 100 } else { full * 100 / has });
                    if score <= 0 {
                        continue;
                    }
                    score
                }
            };
            sum += score * weight;
            weights += weight;
        }
        match (&settings.strategy, weights) {
            (_, 0) => 0,
            (Strategy::RequestedToCapacityRatio(_), _) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    };
    nodes.iter().map(one).collect()
}

/// The value at `x` of the line through `points`, level outside them (upstream: `BuildBrokenLinearFunction`).
fn on_line(points: &[(i64, i64)], x: i64) -> i64 {
    let Some(at) = points.iter().position(|(px, _)| x <= *px) else {
        return points.last().map_or(0, |(_, y)| *y);
    };
    let (x1, y1) = points[at];
    match at.checked_sub(1).map(|before| points[before]) {
        None => y1,
        Some((x0, y0)) => y0 + (y1 - y0) * (x - x0) / (x1 - x0).max(1),
    }
}

/// Nodes on which the pod makes the use of resources more even are better. A pod that asks for nothing is not scored.
pub fn balance(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let (names, pod) = (&cycle.profile.resources.balanced, &cycle.pod.requests);
    let asks = names.iter().any(|name| match name.as_str() {
        "cpu" => pod.milli_cpu != 0,
        "memory" => pod.memory != 0,
        "ephemeral-storage" => pod.ephemeral_storage != 0,
        name => pod.scalar(name) != 0,
    });
    if !asks {
        return None;
    }
    let one = |node: &&NodeInfo| {
        let all =
            names.iter().filter_map(|name| amounts(name, &node.allocatable, &node.requested, &node.requested, pod));
        let with = evenness(all.clone().map(|(has, used, adds)| fraction(used + adds, has)));
        let without = evenness(all.map(|(has, used, _)| fraction(used, has)));
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    };
    Some(nodes.iter().map(one).collect())
}

fn fraction(used: i64, has: i64) -> f64 {
    (used as f64 / has as f64).min(1.0)
}

/// 100 if all fractions are equal, less by their standard deviation.
fn evenness(fractions: impl Iterator<Item = f64> + Clone) -> i64 {
    let count = fractions.clone().count();
    let deviation = match count {
        0 | 1 => 0.0,
        2 => {
            let mut pair = fractions;
            let (a, b) = (pair.next().unwrap_or(0.0), pair.next().unwrap_or(0.0));
            ((a - b) / 2.0).abs()
        }
        _ => {
            let mean = fractions.clone().sum::<f64>() / count as f64;
            (fractions.map(|fraction| (fraction - mean).powi(2)).sum::<f64>() / count as f64).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn node(cpu: &str, memory: &str, extra: serde_json::Value) -> NodeInfo {
        let mut allocatable = json!({ "cpu": cpu, "memory": memory, "pods": "10" });
        for (name, amount) in extra.as_object().into_iter().flatten() {
            allocatable[name] = amount.clone();
        }
        let mut info = NodeInfo::default();
        let node = json!({ "metadata": { "name": "n" }, "status": { "allocatable": allocatable } });
        info.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        info
    }

    fn pod(requests: serde_json::Value) -> PodInfo {
        let spec = json!({ "containers": [{ "name": "c", "resources": { "requests": requests } }] });
        PodInfo::new(Arc::new(serde_json::from_value(json!({ "metadata": { "uid": "u" }, "spec": spec })).unwrap()))
    }

    fn rejected(pod: &PodInfo, node: &NodeInfo, settings: &Settings) -> (Vec<String>, bool) {
        let rejection = fits(pod, settings, node).unwrap_err();
        (rejection.reasons.iter().map(str::to_owned).collect(), rejection.resolvable)
    }

    #[test]
    fn every_resource_that_is_short_is_named() {
        let mut info = node("1", "1Gi", json!({ "example.com/gpu": "2" }));
        let settings = Settings::default();
        assert!(fits(&pod(json!({ "cpu": "1", "example.com/gpu": "2" })), &settings, &info).is_ok());
        let greedy = pod(json!({ "cpu": "2", "memory": "2Gi", "example.com/gpu": "1" }));
        let reasons = vec!["Insufficient cpu".to_owned(), "Insufficient memory".into()];
        assert_eq!(rejected(&greedy, &info, &settings), (reasons, false), "the node is too small for good");
        info.add(Arc::new(pod(json!({ "cpu": "600m", "example.com/gpu": "2" }))));
        let again = pod(json!({ "cpu": "600m", "example.com/gpu": "1" }));
        let reasons = vec!["Insufficient cpu".to_owned(), "Insufficient example.com/gpu".into()];
        assert_eq!(rejected(&again, &info, &settings), (reasons, true));
        let ignoring = Settings { ignored_groups: vec!["example.com".into()], ..Settings::default() };
        assert_eq!(rejected(&again, &info, &ignoring), (vec!["Insufficient cpu".to_owned()], true));
        info.allowed_pods = 1;
        assert_eq!(rejected(&pod(json!({})), &info, &settings), (vec!["Too many pods".to_owned()], true));
    }

    #[test]
    fn the_line_is_level_outside_its_points() {
        let points = [(10, 0), (50, 100), (90, 20)];
        let at = |x| on_line(&points, x);
        assert_eq!((at(0), at(10), at(30), at(50), at(70), at(100)), (0, 0, 50, 100, 60, 20));
    }

    #[test]
    fn evenness_falls_with_the_deviation() {
        let even = |fractions: &[f64]| evenness(fractions.iter().copied());
        assert_eq!((even(&[0.5, 0.5]), even(&[1.0, 0.0]), even(&[0.3])), (100, 50, 100));
        assert_eq!(even(&[0.0, 0.0, 0.9]), 57);
    }
}
