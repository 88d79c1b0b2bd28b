//! Feature gates by upstream's names: which there are, what hangs on which, and which are on. Start at [`FeatureGates::parse`].
// upstream: component-base featuregate/feature_gate.go
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::LazyLock,
};

use crate::field::go_quote;

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless somebody asks.
    Alpha,
    /// On or off by default; behaviour may change.
    Beta,
    /// Part of Kubernetes.
    Stable,
    /// On its way out.
    Deprecated,
}

impl Stage {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
            Stage::Stable => "",
            Stage::Deprecated => "DEPRECATED",
        }
    }
}

/// A feature that has a gate.
#[derive(Clone, Debug)]
pub struct Feature {
    /// The name of the gate.
    pub name: &'static str,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it is on if nobody says otherwise.
    pub default: bool,
    /// Whether nobody may say otherwise.
    pub locked: bool,
    /// The gates that must be on where this one is.
    pub needs: Vec<&'static str>,
}

/// All features, sorted by name.
pub fn all() -> &'static [Feature] {
    static ALL: LazyLock<Vec<Feature>> = LazyLock::new(|| {
        let lines = include_str!("../schema/v1_36_features.tsv").lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| feature(line).expect("a test reads the embedded table")).collect()
    });
    &ALL
}

fn feature(line: &'static str) -> Option<Feature> {
    let mut parts = line.split('\t');
    let (name, stage, default, locked) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let stage = match stage {
        "Alpha" => Stage::Alpha,
        "Beta" => Stage::Beta,
        "GA" => Stage::Stable,
        "Deprecated" => Stage::Deprecated,
        _ => return None,
    };
    let needs = parts.next().unwrap_or_default().split(',').filter(|need| !need.is_empty()).collect();
    Some(Feature { name, stage, default: default == "true", locked: locked == "true", needs })
}

/// Why gates or APIs cannot be set as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(pub String);

/// Which features are on.
#[derive(Clone, PartialEq, Eq)]
pub struct FeatureGates {
    /// In the order of [`all`].
    on: Vec<bool>,
}

impl fmt::Debug for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().filter(|(feature, on)| *on != feature.default).map(|(f, on)| (f.name, on)))
            .finish()
    }
}

impl Default for FeatureGates {
    fn default() -> Self {
        FeatureGates { on: all().iter().map(|feature| feature.default).collect() }
    }
}

impl FeatureGates {
    /// Sets gates as `A=true,B=false` says; `AllAlpha` and `AllBeta` set those of a stage that are not named.
    pub fn parse(text: &str) -> Result<FeatureGates, SettingError> {
        let mut asked: BTreeMap<&str, bool> = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            // The name of the component may stand before the gate's.
            let part = part.strip_prefix("kube:").unwrap_or(part);
            let Some((name, value)) = part.split_once('=') else {
                return Err(SettingError(format!("missing bool value for {}", part.trim())));
            };
            let (name, value) = (name.trim(), value.trim());
            let on =
                go_bool(value).map_err(|why| SettingError(format!("invalid value of {name}={value}, err: {why}")))?;
            asked.insert(name, on);
        }
        let mut gates = FeatureGates::default();
        let mut errors = Vec::new();
        for (name, on) in &asked {
            let Some(at) = position(name) else {
                return Err(SettingError(format!("unrecognized feature gate: {name}")));
            };
            let feature = &all()[at];
            if feature.locked && feature.default != *on {
                let locked = feature.default;
                errors.push(format!("cannot set feature gate {name} to {on}, feature is locked to {locked}"));
                continue;
            }
            gates.on[at] = *on;
            let stage = match *name {
                "AllAlpha" => Stage::Alpha,
                "AllBeta" => Stage::Beta,
                _ => continue,
            };
            for (at, feature) in all().iter().enumerate() {
                let whole = matches!(feature.name, "AllAlpha" | "AllBeta");
                if feature.stage == stage && !whole && !asked.contains_key(feature.name) {
                    gates.on[at] = *on;
                }
            }
        }
        if errors.is_empty() {
            errors = gates.unmet();
        }
        if errors.is_empty() { Ok(gates) } else { Err(SettingError(aggregate(errors))) }
    }

    fn unmet(&self) -> Vec<String> {
        let on = self.iter().filter(|(_, on)| *on);
        let unmet = on.filter_map(|(feature, _)| {
            let off: Vec<&str> = feature.needs.iter().copied().filter(|need| !self.enabled(need)).collect();
            let name = feature.name;
            (!off.is_empty())
                .then(|| format!("{name} is enabled, but depends on features that are disabled: [{}]", off.join(" ")))
        });
        unmet.collect()
    }

    /// Whether the feature is on; one that does not exist is off.
    pub fn enabled(&self, name: &str) -> bool {
        position(name).is_some_and(|at| self.on[at])
    }

    /// All features, and whether they are on.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Feature, bool)> {
        all().iter().zip(self.on.iter().copied())
    }

    /// The metric `kubernetes_feature_enabled` in Prometheus' text form.
    pub fn metrics(&self) -> String {
        let mut out = String::from(
            "# HELP kubernetes_feature_enabled [BETA] This metric records the data about the stage and enablement of a k8s feature.\n\
             # TYPE kubernetes_feature_enabled gauge\n",
        );
        for (Feature { name, stage, .. }, on) in self.iter() {
            let (stage, on) = (stage.as_str(), u8::from(on));
            let written = writeln!(out, "kubernetes_feature_enabled{{name=\"{name}\",stage=\"{stage}\"}} {on}");
            written.expect("writing into a string");
        }
        out
    }
}

fn position(name: &str) -> Option<usize> {
    all().binary_search_by(|feature| feature.name.cmp(name)).ok()
}

/// A boolean as Go's flags are written, or Go's words for what is none.
pub(crate) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", go_quote(text))),
    }
}

/// One error as it is, several as a list.
fn aggregate(mut errors: Vec<String>) -> String {
    errors.dedup();
    match errors.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        FeatureGates::parse(text).unwrap_err().0
    }

    #[test]
    fn gates_are_set_by_name_or_by_stage() {
        assert_eq!(FeatureGates::parse("").unwrap(), FeatureGates::default());
        assert!(!FeatureGates::default().enabled("ClusterTrustBundle"));
        assert!(FeatureGates::parse("kube:ClusterTrustBundle=true").unwrap().enabled("ClusterTrustBundle"));
        let beta =
            FeatureGates::parse("AllBeta=true,ClusterTrustBundle=false,ClusterTrustBundleProjection=false").unwrap();
        assert!(beta.enabled("PodCertificateRequest") && !beta.enabled("ClusterTrustBundle"));
        assert!(
            !beta.enabled("GenericWorkload") && FeatureGates::parse("AllAlpha=1").unwrap().enabled("GenericWorkload")
        );
        assert!(beta.metrics().contains("kubernetes_feature_enabled{name=\"AllBeta\",stage=\"BETA\"} 1\n"));
    }

    #[test]
    fn gates_that_do_not_exist_are_locked_or_lack_another_are_refused() {
        assert_eq!(refused("Nope=true"), "unrecognized feature gate: Nope");
        assert_eq!(refused("AllAlpha"), "missing bool value for AllAlpha");
        assert_eq!(
            refused("AllAlpha=maybe"),
            "invalid value of AllAlpha=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
        assert_eq!(
            refused("ServiceAccountTokenPodNodeInfo=false"),
            "cannot set feature gate ServiceAccountTokenPodNodeInfo to false, feature is locked to true"
        );
        assert_eq!(
            refused("GangScheduling=true"),
            "GangScheduling is enabled, but depends on features that are disabled: [GenericWorkload]"
        );
    }
}
