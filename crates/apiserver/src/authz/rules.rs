//! RBAC policy rules: what one rule permits, and whether some rules cover others. Start at [`PolicyRule::allows`].
use super::Attributes;
use pintle_api::field::go_quote;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;

/// A rule of a Role or ClusterRole.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// Verbs; `*` is all.
    #[serde(deserialize_with = "null_as_empty")]
    pub verbs: Vec<String>,
    /// API groups; `*` is all, empty the core group.
    #[serde(deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources, `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names of objects; empty is all.
    #[serde(deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths, possibly with a final `*`.
    #[serde(rename = "nonResourceURLs", deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// Reads a list that Go may have written as `null`.
pub(crate) fn null_as_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl PolicyRule {
    /// Whether the rule permits what `attributes` describe.
    // upstream: plugin/pkg/auth/authorizer/rbac, RuleAllows
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource_request {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, &attributes.path));
        }
        has(&self.api_groups, &attributes.group)
            && self.allows_resource(&attributes.resource, &attributes.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&attributes.name))
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|allowed| {
            if allowed == "*" {
                return true;
            }
            if subresource.is_empty() {
                return allowed == resource;
            }
            match allowed.split_once('/') {
                Some((of, sub)) => sub == subresource && (of == "*" || of == resource),
                None => false,
            }
        })
    }

    /// The rule as escalation errors show it.
    fn compact_string(&self) -> String {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown = parts.iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| {
            let quoted: Vec<String> = list.iter().map(|item| go_quote(item)).collect();
            format!("{name}:[{}]", quoted.join(" "))
        });
        format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
    }

    /// The rule taken apart into rules of one verb, group, resource and name, or one verb and path.
    fn atoms(&self) -> Vec<PolicyRule> {
        let one = |item: &String| vec![item.clone()];
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let atom = PolicyRule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..PolicyRule::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                    } else {
                        atoms.extend(
                            self.resource_names
                                .iter()
                                .map(|name| PolicyRule { resource_names: one(name), ..atom.clone() }),
                        );
                    }
                }
            }
            atoms.extend(self.non_resource_urls.iter().map(|path| PolicyRule {
                verbs: one(verb),
                non_resource_urls: one(path),
                ..PolicyRule::default()
            }));
        }
        atoms
    }

    /// Whether this rule permits all that `atom` (of one item in each list) does.
    fn covers(&self, atom: &PolicyRule) -> bool {
        let all = |have: &[String], need: &[String]| need.iter().all(|item| has(have, item));
        let names = self.resource_names.is_empty()
            || (!atom.resource_names.is_empty() && atom.resource_names.iter().all(|n| self.resource_names.contains(n)));
        let resources = atom.resources.iter().all(|resource| {
            has(&self.resources, resource)
                || resource.split_once('/').is_some_and(|(_, sub)| self.resources.contains(&format!("*/{sub}")))
        });
        let paths = atom.non_resource_urls.iter().all(|path| {
            self.non_resource_urls
                .iter()
                .any(|have| have == path || have.ends_with('*') && path.starts_with(have.trim_end_matches('*')))
        });
        all(&self.verbs, &atom.verbs) && all(&self.api_groups, &atom.api_groups) && resources && names && paths
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

/// Which of the rights in `wanted` the rules `held` do not give, described as upstream's escalation errors do; empty if
/// all are covered.
// upstream: component-helpers auth/rbac/validation, Covers; pkg/registry/rbac/validation, ConfirmNoEscalation
pub fn missing_rights(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<String> {
    let missing: Vec<PolicyRule> =
        wanted.iter().flat_map(PolicyRule::atoms).filter(|atom| !held.iter().any(|rule| rule.covers(atom))).collect();
    let described: BTreeSet<String> = compact(missing).iter().map(PolicyRule::compact_string).collect();
    described.into_iter().collect()
}

/// Joins the verbs of atoms that are otherwise equal.
fn compact(atoms: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut joined: Vec<PolicyRule> = Vec::new();
    for atom in atoms {
        let same = |rule: &&mut PolicyRule| {
            rule.api_groups == atom.api_groups
                && rule.resources == atom.resources
                && rule.resource_names == atom.resource_names
                && rule.non_resource_urls.is_empty()
                && atom.non_resource_urls.is_empty()
        };
        match joined.iter_mut().find(same) {
            Some(rule) => {
                let fresh = atom.verbs.into_iter().filter(|verb| !rule.verbs.contains(verb)).collect::<Vec<_>>();
                rule.verbs.extend(fresh);
            }
            None => joined.push(atom),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: serde_json::Value) -> PolicyRule {
        serde_json::from_value(json).unwrap()
    }

    fn ask(verb: &str, group: &str, resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            is_resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn a_resource_does_not_include_its_subresources() {
        let pods = rule(serde_json::json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert!(pods.allows(&ask("get", "", "pods", "", "a")));
        assert!(!pods.allows(&ask("get", "", "pods", "log", "a")));
        assert!(!pods.allows(&ask("list", "", "pods", "", "")));
        assert!(!pods.allows(&ask("get", "apps", "pods", "", "a")));
        let scale = rule(serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}));
        assert!(scale.allows(&ask("update", "apps", "deployments", "scale", "a")));
        assert!(!scale.allows(&ask("update", "apps", "deployments", "", "a")));
    }

    #[test]
    fn names_restrict_and_a_request_without_a_name_is_not_covered() {
        let one = rule(serde_json::json!(
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x"]}
        ));
        assert!(one.allows(&ask("get", "", "secrets", "", "x")));
        assert!(!one.allows(&ask("get", "", "secrets", "", "y")));
        assert!(!one.allows(&ask("list", "", "secrets", "", "")));
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let rule = rule(serde_json::json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/openapi/*"]}));
        let ask = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert!(rule.allows(&ask("/healthz")) && rule.allows(&ask("/openapi/v3")));
        assert!(!rule.allows(&ask("/healthz/etcd")) && !rule.allows(&ask("/openap")));
    }

    #[test]
    fn missing_rights_are_named_with_their_verbs_joined() {
        let held = [rule(serde_json::json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))];
        let wanted =
            [rule(serde_json::json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods"]}))];
        let missing = missing_rights(&held, &wanted);
        assert_eq!(missing, [r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#]);
        let all = [rule(serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}))];
        assert!(missing_rights(&all, &wanted).is_empty());
        let star = [rule(serde_json::json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}))];
        assert!(!missing_rights(&wanted, &star).is_empty());
    }
}
