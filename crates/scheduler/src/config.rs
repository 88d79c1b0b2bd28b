//! The scheduler's settings: [`Config::from_yaml`] reads a `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1).
mod args;
mod plugins;

use crate::algorithm::Profile;
use crate::queue::Backoff;
use plugins::PluginSets;
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// It is no such document.
    #[error("{0}")]
    Decode(String),
    /// A field says something that cannot be.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Invalid { field: field.into(), problem: problem.into() }
}

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// The profiles; pods choose one by `schedulerName`.
    pub profiles: Vec<Profile>,
    /// How long rejected pods wait.
    pub backoff: Backoff,
}

impl Default for Config {
    fn default() -> Self {
        Config { profiles: vec![Profile::default()], backoff: Backoff::default() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<ProfileSpec>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    extenders: Vec<serde_json::Value>,
    // What follows is about upstream's process and has no meaning here.
    #[serde(default, rename = "parallelism")]
    _parallelism: Option<i64>,
    #[serde(default, rename = "leaderElection")]
    _leader_election: Option<serde_json::Value>,
    #[serde(default, rename = "clientConnection")]
    _client_connection: Option<serde_json::Value>,
    #[serde(default, rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(default, rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(default, rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileSpec {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: PluginSets,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: serde_json::Value,
}

impl Config {
    /// Reads a `KubeSchedulerConfiguration`, in YAML or JSON.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        let document: Document = serde_saphyr::from_str(text).map_err(|error| Error::Decode(error.to_string()))?;
        if document.kind != "KubeSchedulerConfiguration" {
            return Err(invalid("kind", format!("no kind \"{}\" is registered", document.kind)));
        }
        if document.api_version != "kubescheduler.config.k8s.io/v1" {
            return Err(invalid("apiVersion", format!("no version \"{}\" is registered", document.api_version)));
        }
        if !document.extenders.is_empty() {
            return Err(invalid("extenders", "extenders are not supported"));
        }
        let percentage = percentage("percentageOfNodesToScore", document.percentage_of_nodes_to_score)?;
        let mut specs = document.profiles;
        if specs.is_empty() {
            specs.push(ProfileSpec::default());
        }
        let single = specs.len() == 1;
        let mut names = HashSet::new();
        let mut profiles = Vec::new();
        for (at, spec) in specs.into_iter().enumerate() {
            let field = format!("profiles[{at}]");
            let name = match spec.scheduler_name.clone() {
                Some(name) if !name.is_empty() => name,
                None if single => "default-scheduler".into(),
                _ => return Err(invalid(format!("{field}.schedulerName"), "Required value")),
            };
            if !names.insert(name.clone()) {
                return Err(invalid(format!("{field}.schedulerName"), format!("Duplicate value: \"{name}\"")));
            }
            profiles.push(profile(name, spec, &field, percentage)?);
        }
        let initial = document.pod_initial_backoff_seconds.unwrap_or(1);
        let max = document.pod_max_backoff_seconds.unwrap_or(10);
        if initial < 1 {
            return Err(invalid("podInitialBackoffSeconds", "must be greater than 0"));
        }
        if max < initial {
            return Err(invalid("podMaxBackoffSeconds", "must be greater than or equal to podInitialBackoffSeconds"));
        }
        let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
        Ok(Config { profiles, backoff: Backoff { initial: seconds(initial), max: seconds(max) } })
    }
}

fn percentage(field: &str, percentage: Option<i64>) -> Result<i64, Error> {
    match percentage {
        None => Ok(0),
        Some(share) if (0..=100).contains(&share) => Ok(share),
        Some(_) => Err(invalid(field, "not in valid range [0-100]")),
    }
}

fn profile(name: String, spec: ProfileSpec, field: &str, global: i64) -> Result<Profile, Error> {
    let mut profile = Profile { name, ..Profile::default() };
    profile.percentage = match spec.percentage_of_nodes_to_score {
        None => global,
        own => percentage(&format!("{field}.percentageOfNodesToScore"), own)?,
    };
    spec.plugins.apply(&mut profile, &format!("{field}.plugins"))?;
    let mut seen = HashSet::new();
    for (at, config) in spec.plugin_config.into_iter().enumerate() {
        let field = format!("{field}.pluginConfig[{at}]");
        if !seen.insert(config.name.clone()) {
            return Err(invalid(field, format!("Duplicate value: \"{}\"", config.name)));
        }
        args::apply(&mut profile, &config.name, config.args, &field)?;
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Plugin;

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    fn read(text: &str) -> Result<Config, Error> {
        Config::from_yaml(&format!("{HEAD}{text}"))
    }

    #[test]
    fn an_empty_configuration_is_the_default() {
        let config = read("").unwrap();
        let (read, default) = (&config.profiles[0], Profile::default());
        assert_eq!(
            (read.name.as_str(), &read.filters, &read.scores),
            ("default-scheduler", &default.filters, &default.scores)
        );
    }

    #[test]
    fn profiles_choose_plugins_weights_and_strategies() {
        let config = read(
            "percentageOfNodesToScore: 30\npodMaxBackoffSeconds: 60\nleaderElection: {leaderElect: false}\nprofiles:\n\
             - schedulerName: default-scheduler\n\
             - schedulerName: packed\n  percentageOfNodesToScore: 100\n  plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: NodeResourcesFit, weight: 5}]\n    multiPoint:\n      disabled: [{name: NodePorts}]\n  pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      apiVersion: kubescheduler.config.k8s.io/v1\n      kind: NodeResourcesFitArgs\n      scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}, {name: memory}]}\n",
        )
        .unwrap();
        assert_eq!((config.profiles[0].percentage, config.profiles[1].percentage), (30, 100));
        assert_eq!(config.backoff.max, Duration::from_secs(60));
        let packed = &config.profiles[1];
        assert_eq!(packed.scores, [(Plugin::NodeResourcesFit, 5)]);
        assert!(!packed.filters.contains(&Plugin::NodePorts));
        assert_eq!(packed.resources.resources, [("cpu".to_owned(), 3), ("memory".to_owned(), 1)]);
        assert_eq!(packed.resources.strategy, crate::plugins::node_resources::Strategy::MostAllocated);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_field() {
        for (text, field) in [
            ("percentageOfNodesToScore: 101", "percentageOfNodesToScore"),
            ("profiles: [{}, {}]", "profiles[0].schedulerName"),
            ("profiles: [{plugins: {filter: {enabled: [{name: Nonsense}]}}}]", "profiles[0].plugins.filter.enabled[0]"),
            (
                "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]",
                "profiles[0].pluginConfig[0].args.hardPodAffinityWeight",
            ),
            ("podInitialBackoffSeconds: 0", "podInitialBackoffSeconds"),
        ] {
            match read(text) {
                Err(Error::Invalid { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(read("profile: []"), Err(Error::Decode(_))), "unknown fields are refused");
    }
}
