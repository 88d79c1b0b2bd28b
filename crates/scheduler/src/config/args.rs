//! Arguments of plugins (`pluginConfig`).
use super::{Error, invalid};
use crate::algorithm::Profile;
use crate::framework::Plugin;
use crate::plugins::node_affinity::preferences;
use crate::plugins::node_resources::Strategy;
use crate::plugins::pod_topology_spread::Defaults;
use crate::selector::NodeRequirement;
use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DefaultPreemptionArgs {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterPodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeResourcesFitArgs {
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<ResourceSpec>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BalancedAllocationArgs {
    #[serde(default)]
    resources: Vec<ResourceSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodTopologySpreadArgs {
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeBindingArgs {
    bind_timeout_seconds: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeAffinityArgs {
    added_affinity: Option<NodeAffinity>,
}

/// Gives the plugin `name` of `profile` its arguments.
pub fn apply(profile: &mut Profile, name: &str, mut args: Value, field: &str) -> Result<(), Error> {
    if let Some(args) = args.as_object_mut() {
        for (key, expected) in
            [("apiVersion", "kubescheduler.config.k8s.io/v1".to_owned()), ("kind", format!("{name}Args"))]
        {
            if let Some(given) = args.remove(key)
                && given != expected.as_str()
            {
                return Err(invalid(format!("{field}.args.{key}"), format!("must be \"{expected}\"")));
            }
        }
    }
    if args.is_null() {
        args = Value::Object(serde_json::Map::new());
    }
    let field = format!("{field}.args");
    match Plugin::named(name) {
        Some(Plugin::DefaultPreemption) => preemption(profile, decode(args, &field)?, &field),
        Some(Plugin::InterPodAffinity) => affinity(profile, decode(args, &field)?, &field),
        Some(Plugin::NodeResourcesFit) => fit(profile, decode(args, &field)?, &field),
        Some(Plugin::NodeResourcesBalancedAllocation) => {
            let args: BalancedAllocationArgs = decode(args, &field)?;
            if !args.resources.is_empty() {
                if args.resources.iter().any(|resource| !matches!(resource.weight, 0 | 1)) {
                    return Err(invalid(format!("{field}.resources"), "weight must be 1"));
                }
                profile.resources.balanced = args.resources.into_iter().map(|resource| resource.name).collect();
            }
            Ok(())
        }
        Some(Plugin::PodTopologySpread) => spread(profile, decode(args, &field)?, &field),
        Some(Plugin::VolumeBinding) => {
            let args: VolumeBindingArgs = decode(args, &field)?;
            let seconds = args.bind_timeout_seconds.unwrap_or(600);
            profile.bind_timeout = u64::try_from(seconds).map_err(|_| {
                invalid(
                    format!("{field}.bindTimeoutSeconds"),
                    "invalid BindTimeoutSeconds, should not be a negative value",
                )
            })?;
            Ok(())
        }
        Some(Plugin::NodeAffinity) => {
            let args: NodeAffinityArgs = decode(args, &field)?;
            if let Some(added) = args.added_affinity {
                let required = added.required_during_scheduling_ignored_during_execution;
                profile.added_requirement = required.as_ref().map(NodeRequirement::of_selector);
                let preferred = added.preferred_during_scheduling_ignored_during_execution;
                profile.added_preferences = preferences(preferred.as_deref().unwrap_or_default());
            }
            Ok(())
        }
        // Arguments of a plugin that is not there are nobody's business.
        _ => Ok(()),
    }
}

fn decode<T: DeserializeOwned>(args: Value, field: &str) -> Result<T, Error> {
    serde_json::from_value(args).map_err(|error| invalid(field, error.to_string()))
}

fn preemption(profile: &mut Profile, args: DefaultPreemptionArgs, field: &str) -> Result<(), Error> {
    let share = args.min_candidate_nodes_percentage.unwrap_or(10);
    let number = args.min_candidate_nodes_absolute.unwrap_or(100);
    if !(0..=100).contains(&share) {
        return Err(invalid(format!("{field}.minCandidateNodesPercentage"), "not in valid range [0, 100]"));
    }
    if number < 0 || (share == 0 && number == 0) {
        return Err(invalid(format!("{field}.minCandidateNodesAbsolute"), "cannot be zero at the same time"));
    }
    profile.preemption_candidates = (share, number);
    Ok(())
}

fn affinity(profile: &mut Profile, args: InterPodAffinityArgs, field: &str) -> Result<(), Error> {
    let weight = args.hard_pod_affinity_weight.unwrap_or(1);
    if !(0..=100).contains(&weight) {
        return Err(invalid(format!("{field}.hardPodAffinityWeight"), "not in valid range [0, 100]"));
    }
    profile.affinity.hard_weight = weight;
    profile.affinity.ignore_preferences_of_others = args.ignore_preferred_terms_of_existing_pods;
    Ok(())
}

fn fit(profile: &mut Profile, args: NodeResourcesFitArgs, field: &str) -> Result<(), Error> {
    let settings = &mut profile.resources;
    (settings.ignored, settings.ignored_groups) = (args.ignored_resources, args.ignored_resource_groups);
    let Some(strategy) = args.scoring_strategy else { return Ok(()) };
    if !strategy.resources.is_empty() {
        if strategy.resources.iter().any(|resource| !(0..=100).contains(&resource.weight)) {
            let problem = "resource weight not in valid range [1, 100]";
            return Err(invalid(format!("{field}.scoringStrategy.resources"), problem));
        }
        let weight = |resource: ResourceSpec| (resource.name, resource.weight.max(1));
        settings.resources = strategy.resources.into_iter().map(weight).collect();
    }
    settings.strategy = match strategy.kind.as_deref() {
        None | Some("LeastAllocated") => Strategy::LeastAllocated,
        Some("MostAllocated") => Strategy::MostAllocated,
        Some("RequestedToCapacityRatio") => {
            let shape = strategy.requested_to_capacity_ratio.map(|ratio| ratio.shape).unwrap_or_default();
            let rising = shape.windows(2).all(|pair| pair[0].utilization < pair[1].utilization);
            let in_range = |p: &Point| (0..=100).contains(&p.utilization) && (0..=10).contains(&p.score);
            if shape.is_empty() || !rising || !shape.iter().all(in_range) {
                let field = format!("{field}.scoringStrategy.requestedToCapacityRatio.shape");
                let problem = "at least one point is needed, utilization rising from 0 to 100, scores from 0 to 10";
                return Err(invalid(field, problem));
            }
            // Scores of the configuration go to 10, those of nodes to 100.
            Strategy::RequestedToCapacityRatio(shape.iter().map(|p| (p.utilization, p.score * 10)).collect())
        }
        Some(other) => {
            let problem = format!("Unsupported value: \"{other}\"");
            return Err(invalid(format!("{field}.scoringStrategy.type"), problem));
        }
    };
    Ok(())
}

fn spread(profile: &mut Profile, args: PodTopologySpreadArgs, field: &str) -> Result<(), Error> {
    match args.defaulting_type.as_deref() {
        None | Some("" | "System") if args.default_constraints.is_empty() => profile.spread = Defaults::default(),
        None | Some("" | "System") => {
            let problem = "when .defaultConstraints are specified";
            return Err(invalid(format!("{field}.defaultingType"), problem));
        }
        Some("List") => {
            if args.default_constraints.iter().any(|constraint| constraint.label_selector.is_some()) {
                let problem = "constraint must not define a selector, as they deduced for each pod";
                return Err(invalid(format!("{field}.defaultConstraints"), problem));
            }
            profile.spread = Defaults { constraints: args.default_constraints, system: false };
        }
        Some(other) => {
            return Err(invalid(format!("{field}.defaultingType"), format!("Unsupported value: \"{other}\"")));
        }
    }
    Ok(())
}
