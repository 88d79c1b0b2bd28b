//! FlowSchemas: which flow and level a request belongs to. Start at [`FlowSchema::matches`].
// upstream: apiserver pkg/util/flowcontrol/rule.go
use crate::request_info::RequestInfo;
use crate::value::Read;
use pintle_api::meta::ObjectExt;
use pintle_api::user::UserInfo;
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A FlowSchema, read once.
#[derive(Clone, Debug)]
pub struct FlowSchema {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Smaller ones are asked first.
    pub precedence: i64,
    /// The name of the level.
    pub level: String,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

/// What makes requests of one schema different flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Clone, Debug)]
enum Subject {
    Anyone,
    User(String),
    Group(String),
    ServiceAccount(String),
    /// All of a namespace: what their names begin with.
    ServiceAccounts(String),
}

/// Some texts, or all.
#[derive(Clone, Debug)]
struct Set(Option<Vec<String>>);

#[derive(Clone, Debug)]
struct ResourceRule {
    verbs: Set,
    groups: Set,
    resources: Set,
    cluster_scope: bool,
    namespaces: Set,
}

#[derive(Clone, Debug)]
struct PathRule {
    verbs: Set,
    paths: Vec<String>,
}

impl Set {
    fn of(rule: &Value, field: &str) -> Self {
        let texts: Vec<String> = rule.texts(field).map(str::to_owned).collect();
        Set(if texts.len() == 1 && texts[0] == "*" { None } else { Some(texts) })
    }

    fn has(&self, text: &str) -> bool {
        self.0.as_ref().is_none_or(|texts| texts.iter().any(|known| known == text))
    }

    /// Whether it has the resource, or `resource/subresource`.
    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        let is = |known: &String| match subresource {
            "" => known == resource,
            _ => known.split_once('/').is_some_and(|(one, other)| one == resource && other == subresource),
        };
        self.0.as_ref().is_none_or(|texts| texts.iter().any(is))
    }
}

impl FlowSchema {
    /// Reads an object.
    pub fn of(object: &Value) -> Self {
        let spec = object.field("spec");
        FlowSchema {
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            precedence: spec.int("matchingPrecedence"),
            level: spec.field("priorityLevelConfiguration").text("name").to_owned(),
            distinguisher: match spec.field("distinguisherMethod").text("type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::Nothing,
            },
            rules: spec.items("rules").iter().map(Rule::of).collect(),
        }
    }

    /// Whether the request belongs here.
    pub fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// What the request's flow is called within the schema.
    pub fn flow<'a>(&self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::Nothing => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }

    /// A number for the flow, the same for all its requests.
    pub fn hash(&self, flow: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        flow.hash(&mut hasher);
        hasher.finish()
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let resource = |rule: &Value| ResourceRule {
            verbs: Set::of(rule, "verbs"),
            groups: Set::of(rule, "apiGroups"),
            resources: Set::of(rule, "resources"),
            cluster_scope: rule.flag("clusterScope"),
            namespaces: Set::of(rule, "namespaces"),
        };
        let path = |rule: &Value| PathRule {
            verbs: Set::of(rule, "verbs"),
            paths: rule.texts("nonResourceURLs").map(str::to_owned).collect(),
        };
        Rule {
            subjects: rule.items("subjects").iter().filter_map(Subject::of).collect(),
            resources: rule.items("resourceRules").iter().map(resource).collect(),
            paths: rule.items("nonResourceRules").iter().map(path).collect(),
        }
    }

    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let asked = match info.is_resource_request {
            true => self.resources.iter().any(|rule| rule.matches(info)),
            false => self.paths.iter().any(|rule| rule.matches(info)),
        };
        asked && self.subjects.iter().any(|subject| subject.is(user))
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        let name = |field: &str| subject.field(field).text("name").to_owned();
        match subject.text("kind") {
            "User" => Some(match name("user") {
                all if all == "*" => Subject::Anyone,
                name => Subject::User(name),
            }),
            "Group" => Some(match name("group") {
                all if all == "*" => Subject::Anyone,
                name => Subject::Group(name),
            }),
            "ServiceAccount" => {
                let prefix = format!("system:serviceaccount:{}:", subject.field("serviceAccount").text("namespace"));
                Some(match name("serviceAccount") {
                    all if all == "*" => Subject::ServiceAccounts(prefix),
                    name => Subject::ServiceAccount(prefix + &name),
                })
            }
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Subject::Anyone => true,
            Subject::User(name) | Subject::ServiceAccount(name) => user.name == *name,
            Subject::ServiceAccounts(prefix) => user.name.starts_with(prefix.as_str()),
            Subject::Group(group) => user.groups.iter().any(|known| known == group),
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let scope = if info.namespace.is_empty() { self.cluster_scope } else { self.namespaces.has(&info.namespace) };
        scope
            && self.verbs.has(info.verb)
            && self.groups.has(&info.api_group)
            && self.resources.has_resource(&info.resource, &info.subresource)
    }
}

impl PathRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let is = |path: &String| {
            if path == "*" || *path == info.path {
                return true;
            }
            let start = path.strip_suffix('*').unwrap_or(path);
            let start = start.strip_suffix('/').unwrap_or(start);
            info.path.strip_prefix(start).is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.has(info.verb) && self.paths.iter().any(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use serde_json::json;

    fn info(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method, &uri.parse().unwrap())
    }

    #[test]
    fn rules_match_subjects_resources_and_paths() {
        let schema = FlowSchema::of(&json!({
            "metadata": {"name": "s"},
            "spec": {
                "priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByUser"},
                "rules": [
                    {
                        "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}}],
                        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/status"],
                                           "namespaces": ["a"]}],
                    },
                    {
                        "subjects": [{"kind": "Group", "group": {"name": "g"}}],
                        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
                                           "namespaces": ["*"]}],
                        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/x/*"]}],
                    },
                ],
            },
        }));
        let (account, member) = (UserInfo::service_account("a", "b"), UserInfo::new("eve", &["g"]));
        for (user, uri, want) in [
            (&account, "/api/v1/namespaces/a/pods/p", true),
            (&account, "/api/v1/namespaces/a/pods/p/status", true),
            (&account, "/api/v1/namespaces/a/pods/p/log", false),
            (&account, "/api/v1/namespaces/b/pods/p", false),
            (&account, "/api/v1/pods", false),
            (&member, "/api/v1/nodes/n", true),
            (&member, "/apis/apps/v1/namespaces/z/deployments", true),
            (&member, "/healthz", true),
            (&member, "/healthz/ping", true),
            (&member, "/healthzz", false),
            (&member, "/x/y", true),
            (&member, "/version", false),
        ] {
            assert_eq!(schema.matches(user, &info(Method::GET, uri)), want, "{uri}");
        }
        let pods = info(Method::GET, "/api/v1/namespaces/a/pods");
        assert_eq!(schema.flow(&member, &pods), "eve");
        assert_eq!(schema.hash("eve"), schema.hash("eve"));
        assert_ne!(schema.hash("eve"), schema.hash("adam"));
    }
}
