//! Which of Kubernetes' own APIs are served: what `--runtime-config` says. Start at [`RuntimeConfig::parse`].
// upstream: apiserver pkg/server/resourceconfig/helpers.go and pkg/server/options/api_enablement.go
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    custom::version::stage,
    features::{FeatureGates, SettingError, go_bool},
    field::go_quote,
    scheme::{Resource, Scheme, api_version},
};

/// Group versions that upstream knows and serves nothing of any more.
const RETIRED: [(&str, &str); 20] = [
    ("apps", "v1beta1"),
    ("apps", "v1beta2"),
    ("authentication.k8s.io", "v1alpha1"),
    ("authentication.k8s.io", "v1beta1"),
    ("authorization.k8s.io", "v1beta1"),
    ("batch", "v1beta1"),
    ("discovery.k8s.io", "v1beta1"),
    ("events.k8s.io", "v1beta1"),
    ("extensions", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta2"),
    ("flowcontrol.apiserver.k8s.io", "v1beta3"),
    ("imagepolicy.k8s.io", "v1alpha1"),
    ("node.k8s.io", "v1alpha1"),
    ("node.k8s.io", "v1beta1"),
    ("policy", "v1beta1"),
    ("rbac.authorization.k8s.io", "v1alpha1"),
    ("rbac.authorization.k8s.io", "v1beta1"),
    ("scheduling.k8s.io", "v1beta1"),
    ("storage.k8s.io", "v1alpha1"),
];

/// Resources of alpha and beta versions that have a feature gate besides.
// upstream: pkg/registry/<group>/rest
const GATED: [(&str, &str, &str); 5] = [
    ("certificates.k8s.io", "clustertrustbundles", "ClusterTrustBundle"),
    ("certificates.k8s.io", "podcertificaterequests", "PodCertificateRequest"),
    ("scheduling.k8s.io", "podgroups", "GenericWorkload"),
    ("scheduling.k8s.io", "workloads", "GenericWorkload"),
    ("storagemigration.k8s.io", "storageversionmigrations", "StorageVersionMigrator"),
];

/// Whether resources hang on this feature gate.
pub fn is_gate(name: &str) -> bool {
    GATED.iter().any(|(.., gate)| *gate == name)
}

/// Keys that stand for many versions, the later ones stronger.
const SWEEPING: [&str; 4] = ["api/all", "api/ga", "api/beta", "api/alpha"];

/// Which APIs are switched on and off, other than by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    sweeping: BTreeMap<&'static str, bool>,
    versions: BTreeMap<(String, String), bool>,
    resources: BTreeMap<(String, String, String), bool>,
}

/// What a key that names an API is made of.
fn split(key: &str) -> Option<(&str, &str, Option<&str>)> {
    match key.split('/').collect::<Vec<_>>()[..] {
        [group, version] => Some((group, version, None)),
        [group, version, resource] => Some((group, version, Some(resource))),
        _ => None,
    }
}

impl RuntimeConfig {
    /// Reads `api/beta=true,storage.k8s.io/v1beta1=false,apps/v1/deployments=true`.
    pub fn parse(text: &str) -> Result<RuntimeConfig, SettingError> {
        let fail = |text: String| Err(SettingError(text));
        let mut entries: BTreeMap<&str, &str> = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            entries.insert(key.trim(), value.trim());
        }
        if entries.len() == 1 && entries.get("api/all") == Some(&"false") {
            return fail("invalid runtime-config with only api/all=false".to_owned());
        }
        let scheme = Scheme::all();
        let versions = || {
            let served = scheme.group_versions().iter().map(|gv| (gv.group.as_str(), gv.version.as_str()));
            served.chain(RETIRED)
        };
        let named = || entries.iter().filter(|(key, _)| !SWEEPING.contains(key));
        let mut unknown = BTreeSet::new();
        for (key, _) in named() {
            let Some((group, version, _)) = split(key) else {
                return fail(format!("runtime-config invalid key {key}"));
            };
            if !versions().any(|(g, _)| g == group) {
                unknown.insert(api_version(group, version));
            }
        }
        if !unknown.is_empty() {
            return fail(format!("unknown api groups {}", unknown.into_iter().collect::<Vec<_>>().join(",")));
        }
        let mut config = RuntimeConfig::default();
        for key in SWEEPING {
            match entries.get(key) {
                Some(&"true") => drop(config.sweeping.insert(key, true)),
                Some(&"false") => drop(config.sweeping.insert(key, false)),
                Some(value) => return fail(format!("invalid value {key}={value}")),
                None => {}
            }
        }
        for (key, value) in named() {
            let Some((group, version, resource)) = split(key) else { continue };
            if !versions().any(|known| known == (group, version)) {
                return fail(format!("group version {group}/{version} that has not been registered"));
            }
            let on = match *value {
                "" => true,
                value => go_bool(value)
                    .map_err(|why| SettingError(format!("invalid value of {key}: {value}, err: {why}")))?,
            };
            let (group, version) = (group.to_owned(), version.to_owned());
            match resource {
                None => drop(config.versions.insert((group, version), on)),
                Some(resource) if resource.to_lowercase() == resource => {
                    config.resources.insert((group, version, resource.to_owned()), on);
                }
                Some(resource) => {
                    let quoted = go_quote(resource);
                    return fail(format!(
                        "invalid key {key}: group/version/resource and resource is always lowercase plural, not {quoted}"
                    ));
                }
            }
        }
        Ok(config)
    }

    /// The key that switches off what flow control needs, if there is one.
    // upstream: pkg/controlplane/apiserver/options/validation.go, validateAPIPriorityAndFairness
    pub fn without_flow_control(&self) -> Option<&'static str> {
        let own = ("flowcontrol.apiserver.k8s.io".to_owned(), "v1".to_owned());
        let settings = [
            ("flowcontrol.apiserver.k8s.io/v1", self.versions.get(&own)),
            ("api/ga", self.sweeping.get("api/ga")),
            ("api/all", self.sweeping.get("api/all")),
        ];
        let (key, on) = settings.into_iter().find_map(|(key, on)| Some((key, *on?)))?;
        (!on).then_some(key)
    }

    /// Whether `resource` is served, its gate left aside.
    fn asks_for(&self, resource: &Resource) -> bool {
        let Resource { group, version, plural, .. } = resource;
        let stage = stage(version);
        let explicit = self.resources.get(&(group.clone(), version.clone(), plural.clone()));
        let explicit = explicit.or_else(|| self.versions.get(&(group.clone(), version.clone())));
        explicit.copied().unwrap_or_else(|| {
            let swept = |key: &str| key == "api/all" || key.strip_prefix("api/") == Some(stage);
            let said = SWEEPING.iter().rev().find_map(|key| self.sweeping.get(key).filter(|_| swept(key)));
            said.copied().unwrap_or(stage == "ga")
        })
    }

    /// Whether `resource` is served.
    pub fn serves(&self, resource: &Resource, gates: &FeatureGates) -> bool {
        let gate = GATED.iter().find(|(group, plural, _)| *group == resource.group && *plural == resource.plural);
        self.asks_for(resource) && gate.is_none_or(|(.., gate)| gates.enabled(gate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(config: &str, gates: &str) -> Vec<String> {
        let (config, gates) = (RuntimeConfig::parse(config).unwrap(), FeatureGates::parse(gates).unwrap());
        let versions = Scheme::served(&config, &gates);
        let versions = versions.group_versions().iter().map(|gv| api_version(&gv.group, &gv.version));
        versions.filter(|gv| gv.contains("alpha") || gv.contains("beta")).collect()
    }

    #[test]
    fn versions_are_switched_on_by_stage_by_name_and_by_resource() {
        assert!(served("", "AllAlpha=true,AllBeta=true").is_empty());
        assert_eq!(served("storage.k8s.io/v1beta1", ""), ["storage.k8s.io/v1beta1"]);
        assert_eq!(served("coordination.k8s.io/v1alpha2/leasecandidates=true", ""), ["coordination.k8s.io/v1alpha2"]);
        let beta = served("api/beta=true,networking.k8s.io/v1beta1=false", "");
        assert!(beta.contains(&"resource.k8s.io/v1beta2".to_owned()), "{beta:?}");
        assert!(!beta.iter().any(|gv| gv.starts_with("networking") || gv.contains("alpha")), "{beta:?}");
    }

    #[test]
    fn everything_is_what_upstream_serves_of_everything() {
        let without_gates = [
            "networking.k8s.io/v1beta1",
            "storage.k8s.io/v1beta1",
            "admissionregistration.k8s.io/v1beta1",
            "admissionregistration.k8s.io/v1alpha1",
            "coordination.k8s.io/v1beta1",
            "coordination.k8s.io/v1alpha2",
            "resource.k8s.io/v1beta2",
            "resource.k8s.io/v1beta1",
            "resource.k8s.io/v1alpha3",
            "internal.apiserver.k8s.io/v1alpha1",
        ];
        assert_eq!(served("api/all=true", ""), without_gates);
        assert_eq!(served("api/all=true", "AllAlpha=true,AllBeta=true").len(), without_gates.len() + 4);
    }

    #[test]
    fn stable_apis_can_be_switched_off() {
        let config = RuntimeConfig::parse("batch/v1/cronjobs=false").unwrap();
        let scheme = Scheme::served(&config, &FeatureGates::default());
        assert!(
            scheme.by_plural("batch", "v1", "cronjobs").is_none() && scheme.by_plural("batch", "v1", "jobs").is_some()
        );
        assert_eq!(config.without_flow_control(), None);
        let config = RuntimeConfig::parse("api/all=false,apps/v1=true").unwrap();
        assert_eq!(config.without_flow_control(), Some("api/all"));
    }

    #[test]
    fn wrong_settings_are_refused_in_upstreams_words() {
        let refused = |text: &str| RuntimeConfig::parse(text).unwrap_err().0;
        assert_eq!(refused("api/all=false"), "invalid runtime-config with only api/all=false");
        assert_eq!(refused("nope"), "runtime-config invalid key nope");
        assert_eq!(refused("nope/v1=true,x/v2/y"), "unknown api groups nope/v1,x/v2");
        assert_eq!(refused("storage.k8s.io/v9=true"), "group version storage.k8s.io/v9 that has not been registered");
        assert_eq!(refused("api/beta=1"), "invalid value api/beta=1");
        assert_eq!(
            refused("storage.k8s.io/v1beta1=maybe"),
            "invalid value of storage.k8s.io/v1beta1: maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
        assert_eq!(
            refused("storage.k8s.io/v1/StorageClasses=true"),
            "invalid key storage.k8s.io/v1/StorageClasses: group/version/resource and resource is always lowercase \
             plural, not \"StorageClasses\""
        );
        assert_eq!(RuntimeConfig::parse("policy/v1beta1=true"), RuntimeConfig::parse("policy/v1beta1"));
    }
}
