//! The plugin framework: what filters and scores see, and what they say.
use crate::cache::{Cache, NodeInfo};
use crate::pod_info::PodInfo;
use crate::volumes::Volumes;
use k8s_openapi::api::core::v1::Namespace;
use pintle_client::Informer;

/// The highest score of a node by one plugin (upstream: `MaxNodeScore`).
pub const MAX_SCORE: i64 = 100;

/// Why a pod cannot be on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The plugin that says so.
    pub plugin: &'static str,
    /// Upstream's words.
    pub reasons: Vec<String>,
    /// Whether removing pods from the node could help.
    pub resolvable: bool,
}

impl Rejection {
    /// Removing pods could help.
    pub fn resolvable(plugin: &'static str, reason: impl Into<String>) -> Self {
        Rejection { plugin, reasons: vec![reason.into()], resolvable: true }
    }

    /// Removing pods cannot help.
    pub fn final_(plugin: &'static str, reason: impl Into<String>) -> Self {
        Rejection { plugin, reasons: vec![reason.into()], resolvable: false }
    }
}

/// What is known while one pod is placed.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// The nodes and their pods.
    pub cache: &'a Cache,
    /// Claims, volumes and classes.
    pub volumes: &'a Volumes,
    /// Namespaces, for selectors on their labels.
    pub namespaces: &'a Informer<Namespace>,
}

/// Says whether a pod can be on a node.
pub trait Filter: Send + Sync {
    /// `Err` if it cannot.
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection>;
}

/// Says how good a node is for a pod.
pub trait Score: Send + Sync {
    /// A number per node of `nodes`, in that order, from 0 to [`MAX_SCORE`].
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64>;
    /// How much it counts among the plugins.
    fn weight(&self) -> i64;
}

/// Scales raw scores so that the highest becomes [`MAX_SCORE`] (upstream: `DefaultNormalizeScore`).
pub fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        *score = if max == 0 { 0 } else { *score * MAX_SCORE / max };
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_scaled_to_the_best_node() {
        assert_eq!(normalize(vec![0, 5, 10], false), [0, 50, 100]);
        assert_eq!(normalize(vec![0, 5, 10], true), [100, 50, 0]);
        assert_eq!(normalize(vec![0, 0], true), [100, 100]);
    }
}
