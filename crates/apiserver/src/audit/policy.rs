//! `audit.k8s.io/v1` Policy: which requests are recorded, and how much of them. Start at [`Policy::parse`].
// upstream: apiserver pkg/audit/policy, pkg/apis/audit/validation
use super::event::{Level, Stage};
use crate::request_info::RequestInfo;
use pintle_api::decode;
use pintle_api::field::{FieldError, Path, aggregate};
use pintle_api::names::dns1123_subdomain;
use pintle_api::user::UserInfo;
use serde::Deserialize;
use serde_json::Value;

const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// Rules in their order; the first that matches decides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Stages,
    omit_managed_fields: bool,
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    fn of(names: &[String]) -> Self {
        let bits = names.iter().filter_map(|name| STAGES.iter().position(|known| known == name));
        Stages(bits.fold(0, |all, bit| all | 1 << bit))
    }

    /// Whether `stage` is one of them.
    pub fn contains(self, stage: Stage) -> bool {
        self.0 & 1 << stage as u8 != 0
    }
}

/// What the policy says about one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestConfig {
    /// How much is recorded.
    pub level: Level,
    /// The stages of which no events are written.
    pub omit_stages: Stages,
    /// Whether objects are recorded without their managed fields.
    pub omit_managed_fields: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    config: RequestConfig,
    file: RuleFile,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicyFile {
    api_version: String,
    kind: String,
    rules: Vec<RuleFile>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuleFile {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads a policy in YAML or JSON; the error says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Keys without a value mean nothing, as in Go.
        let mut value: Value = serde_saphyr::from_str(text).map_err(|error| format!("failed decoding: {error}"))?;
        decode::drop_nulls(&mut value);
        let file: PolicyFile = serde_json::from_value(value).map_err(|error| format!("failed decoding: {error}"))?;
        if file.api_version != "audit.k8s.io/v1" || file.kind != "Policy" {
            let (version, kind) = (file.api_version, file.kind);
            return Err(format!("unknown group version field {version}, Kind={kind} in policy"));
        }
        let errors = validate(&file);
        if !errors.is_empty() {
            return Err(aggregate(&errors));
        }
        if file.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        let omit_stages = Stages::of(&file.omit_stages);
        let rule = |rule: RuleFile| {
            let level = LEVELS.iter().position(|known| *known == rule.level);
            let config = RequestConfig {
                level: match level {
                    Some(1) => Level::Metadata,
                    Some(2) => Level::Request,
                    Some(3) => Level::RequestResponse,
                    _ => Level::None,
                },
                omit_stages: Stages(omit_stages.0 | Stages::of(&rule.omit_stages).0),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(file.omit_managed_fields),
            };
            Rule { config, file: rule }
        };
        let rules = file.rules.into_iter().map(rule).collect();
        Ok(Policy { rules, omit_stages, omit_managed_fields: file.omit_managed_fields })
    }

    /// What the first matching rule says; nothing is recorded where none matches.
    pub fn evaluate(&self, user: &UserInfo, info: &RequestInfo) -> RequestConfig {
        match self.rules.iter().find(|rule| rule.file.matches(user, info)) {
            Some(rule) => rule.config,
            None => RequestConfig {
                level: Level::None,
                omit_stages: self.omit_stages,
                omit_managed_fields: self.omit_managed_fields,
            },
        }
    }
}

impl RuleFile {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let one_of = |list: &[String], value: &str| list.is_empty() || list.iter().any(|known| known == value);
        if !one_of(&self.users, &user.name) || !one_of(&self.verbs, info.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !user.groups.iter().any(|group| self.user_groups.contains(group)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let inside = info.is_resource_request && one_of(&self.namespaces, &info.namespace);
            return inside && (self.resources.is_empty() || self.resources.iter().any(|some| some.matches(info)));
        }
        let matches_path = |spec: &String| {
            *spec == info.path || spec.strip_suffix('*').is_some_and(|start| info.path.starts_with(start))
        };
        self.non_resource_urls.is_empty()
            || !info.is_resource_request && self.non_resource_urls.iter().any(matches_path)
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.api_group && self.group != "*" {
            return false;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        let matches = |wanted: &String| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            match (resource, subresource) {
                ("*", "") => !wanted.ends_with('/'),
                ("*", subresource) if subresource != "*" => subresource == info.subresource,
                (resource, "*") => resource == info.resource,
                _ => resource == info.resource && subresource == info.subresource,
            }
        };
        self.resources.is_empty() || named && self.resources.iter().any(matches)
    }
}

fn validate(policy: &PolicyFile) -> Vec<FieldError> {
    let mut errors = validate_stages(&policy.omit_stages, &Path::root("omitStages"));
    let rules = Path::root("rules");
    for (i, rule) in policy.rules.iter().enumerate() {
        let path = rules.index(i);
        let level = path.child("level");
        match rule.level.as_str() {
            "" => errors.push(FieldError::required(&level, "")),
            known if LEVELS.contains(&known) => {}
            other => errors.push(FieldError::not_supported(&level, other, &LEVELS)),
        }
        let urls = path.child("nonResourceURLs");
        for (i, url) in rule.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            if !url.starts_with('/') {
                let detail = "non-resource URL rules must begin with a '/' character";
                errors.push(FieldError::invalid(&urls.index(i), url.as_str(), detail));
            }
            if url.find('*').is_some_and(|at| at + 1 != url.len()) {
                let detail = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(FieldError::invalid(&urls.index(i), url.as_str(), detail));
            }
        }
        let resources = path.child("resources");
        for some in &rule.resources {
            if !some.group.is_empty() && some.group != "*" {
                for detail in dns1123_subdomain(&some.group) {
                    errors.push(FieldError::invalid(&resources.child("group"), some.group.as_str(), detail));
                }
            }
            if some.resources.is_empty() && !some.resource_names.is_empty() {
                let names = serde_json::json!(some.resource_names);
                let detail = "using resourceNames requires at least one resource";
                errors.push(FieldError::invalid(&resources.child("resourceNames"), &names, detail));
            }
        }
        errors.extend(validate_stages(&rule.omit_stages, &path.child("omitStages")));
        let regular = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if regular && !rule.non_resource_urls.is_empty() {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&urls, &serde_json::json!(rule.non_resource_urls), detail));
        }
    }
    errors
}

fn validate_stages(stages: &[String], path: &Path) -> Vec<FieldError> {
    let unknown = stages.iter().enumerate().filter(|(_, stage)| !STAGES.contains(&stage.as_str()));
    let error = |(i, stage): (usize, &String)| {
        FieldError::invalid(&path.index(i), stage.as_str(), format!("allowed stages are {}", STAGES.join(",")))
    };
    unknown.map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn policy(rules: &str) -> Result<Policy, String> {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"))
    }

    fn level(policy: &Policy, user: &UserInfo, method: Method, uri: &str) -> Level {
        policy.evaluate(user, &RequestInfo::parse(&method, &uri.parse().unwrap())).level
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(
            "omitStages: [RequestReceived]\nrules:\n\
             - {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{group: '', resources: [services]}]}\n\
             - {level: None, userGroups: ['system:authenticated'], nonResourceURLs: ['/api*', /version]}\n\
             - {level: Request, resources: [{group: '', resources: [configmaps], resourceNames: [c]}], namespaces: [a]}\n\
             - {level: Metadata, resources: [{group: '', resources: [pods/log, '*/status', 'nodes/*']}], omitManagedFields: true}\n\
             - {level: RequestResponse, resources: [{group: apps}], omitStages: [Panic]}\n",
        )
        .unwrap();
        let (proxy, admin) = (UserInfo::new("system:kube-proxy", &[]), UserInfo::new("admin", &[]));
        let nobody = UserInfo { name: "nobody".into(), ..UserInfo::default() };
        for (user, method, uri, want) in [
            (&proxy, Method::GET, "/api/v1/services?watch=1", Level::None),
            (&admin, Method::GET, "/version", Level::None),
            (&admin, Method::GET, "/apis/apps", Level::None),
            (&nobody, Method::GET, "/healthz", Level::None),
            (&admin, Method::GET, "/api/v1/namespaces/a/configmaps/c", Level::Request),
            (&admin, Method::GET, "/api/v1/namespaces/b/configmaps/c", Level::None),
            (&admin, Method::GET, "/api/v1/namespaces/a/configmaps/d", Level::None),
            (&admin, Method::GET, "/api/v1/namespaces/a/pods/p/log", Level::Metadata),
            (&admin, Method::GET, "/api/v1/namespaces/a/pods/p", Level::None),
            (&admin, Method::PUT, "/api/v1/namespaces/a/pods/p/status", Level::Metadata),
            (&admin, Method::GET, "/api/v1/nodes/n", Level::Metadata),
            (&admin, Method::GET, "/api/v1/nodes/n/proxy", Level::Metadata),
            (&admin, Method::POST, "/apis/apps/v1/namespaces/a/deployments", Level::RequestResponse),
        ] {
            assert_eq!(level(&policy, user, method, uri), want, "{} {uri}", user.name);
        }
        let info = RequestInfo::parse(&Method::GET, &"/apis/apps/v1/deployments".parse().unwrap());
        let config = policy.evaluate(&admin, &info);
        let omitted = [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic]
            .map(|stage| config.omit_stages.contains(stage));
        assert_eq!((omitted, config.omit_managed_fields), ([true, false, false, true], false));
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said() {
        for (rules, want) in [
            ("rules: []", "loaded illegal policy with 0 rules"),
            ("rules: [{users: [a]}]", "rules[0].level: Required value"),
            (
                "rules: [{level: Much}]",
                "rules[0].level: Unsupported value: \"Much\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [a*b]}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"a*b\": non-resource URL rules must begin with a '/' character",
            ),
            (
                "omitStages: [Never]\nrules: [{level: None}]",
                "omitStages[0]: Invalid value: \"Never\": allowed stages are",
            ),
            (
                "rules: [{level: None, resources: [{resourceNames: [a]}]}]",
                "rules[0].resources.resourceNames: Invalid value: [\"a\"]: using resourceNames requires at least one resource",
            ),
        ] {
            let error = policy(rules).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        let error =
            Policy::parse("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]").unwrap_err();
        assert!(error.contains("unknown group version field"), "{error}");
    }
}
