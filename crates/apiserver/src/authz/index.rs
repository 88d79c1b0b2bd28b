//! Roles and bindings in memory, bindings indexed by subject, so that a decision costs microseconds. Start at [`Index`].
use super::Attributes;
use super::rules::{PolicyRule, null_as_empty};
use pintle_api::field::go_quote;
use pintle_api::user::UserInfo;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;

/// What a binding refers to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// The role's name.
    pub name: String,
}

/// Who a binding is for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The service account's namespace.
    pub namespace: String,
}

/// The part of a RoleBinding or ClusterRoleBinding that matters for decisions.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Binding {
    /// The role.
    pub role_ref: RoleRef,
    /// Who gets it.
    #[serde(deserialize_with = "null_as_empty")]
    pub subjects: Vec<Subject>,
}

/// The part of a Role or ClusterRole that matters for decisions.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Role {
    /// Its rules.
    #[serde(deserialize_with = "null_as_empty")]
    pub rules: Vec<PolicyRule>,
}

/// One subject's grant: which binding gives which role.
#[derive(Clone, Debug)]
struct Grant {
    binding: Arc<str>,
    role: RoleRef,
    subject: Subject,
}

/// Grants of one namespace, or of the cluster, by who they are for.
#[derive(Debug, Default)]
struct Grants {
    bindings: HashMap<Arc<str>, Vec<Subject>>,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Grants {
    fn set(&mut self, name: &str, binding: Option<Binding>, namespace: &str) {
        if let Some(subjects) = self.bindings.remove(name) {
            for subject in subjects {
                if let Some((map, key)) = self.place(&subject, namespace)
                    && let Some(grants) = map.get_mut(&key)
                {
                    grants.retain(|grant| &*grant.binding != name);
                    if grants.is_empty() {
                        map.remove(&key);
                    }
                }
            }
        }
        let Some(binding) = binding else { return };
        let name: Arc<str> = name.into();
        for subject in &binding.subjects {
            if let Some((map, key)) = self.place(subject, namespace) {
                let grant = Grant { binding: name.clone(), role: binding.role_ref.clone(), subject: subject.clone() };
                map.entry(key).or_default().push(grant);
            }
        }
        self.bindings.insert(name, binding.subjects);
    }

    /// Where grants to `subject` are kept; `None` if it can match no one.
    fn place(&mut self, subject: &Subject, namespace: &str) -> Option<(&mut HashMap<String, Vec<Grant>>, String)> {
        match subject.kind.as_str() {
            "User" => Some((&mut self.users, subject.name.clone())),
            "Group" => Some((&mut self.groups, subject.name.clone())),
            "ServiceAccount" => {
                let namespace = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
                (!namespace.is_empty())
                    .then(|| (&mut self.users, format!("system:serviceaccount:{namespace}:{}", subject.name)))
            }
            _ => None,
        }
    }

    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group)).flatten();
        self.users.get(&user.name).into_iter().flatten().chain(groups)
    }
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Index {
    cluster_roles: HashMap<String, Arc<[PolicyRule]>>,
    roles: HashMap<String, HashMap<String, Arc<[PolicyRule]>>>,
    cluster_grants: Grants,
    grants: HashMap<String, Grants>,
}

/// What the rules say about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A rule allows it; which one.
    Allowed(String),
    /// No rule allows it; what was wrong with bindings on the way, empty if nothing.
    NotAllowed(String),
}

impl Index {
    /// Sets (or with `None` removes) the ClusterRole `name`.
    pub fn set_cluster_role(&mut self, name: &str, role: Option<Role>) {
        match role {
            Some(role) => drop(self.cluster_roles.insert(name.to_owned(), role.rules.into())),
            None => drop(self.cluster_roles.remove(name)),
        }
    }

    /// Sets (or with `None` removes) a Role.
    pub fn set_role(&mut self, namespace: &str, name: &str, role: Option<Role>) {
        match role {
            Some(role) => {
                self.roles.entry(namespace.to_owned()).or_default().insert(name.to_owned(), role.rules.into());
            }
            None => {
                if let Some(roles) = self.roles.get_mut(namespace) {
                    roles.remove(name);
                    if roles.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            }
        }
    }

    /// Sets (or with `None` removes) the ClusterRoleBinding `name`.
    pub fn set_cluster_role_binding(&mut self, name: &str, binding: Option<Binding>) {
        self.cluster_grants.set(name, binding, "");
    }

    /// Sets (or with `None` removes) a RoleBinding.
    pub fn set_role_binding(&mut self, namespace: &str, name: &str, binding: Option<Binding>) {
        let grants = self.grants.entry(namespace.to_owned()).or_default();
        grants.set(name, binding, namespace);
        if grants.bindings.is_empty() {
            self.grants.remove(namespace);
        }
    }

    /// The rules of the ClusterRole `name`.
    pub fn cluster_role(&self, name: &str) -> Option<&Arc<[PolicyRule]>> {
        self.cluster_roles.get(name)
    }

    /// The rules that `role` names, seen from a binding in `namespace` (empty: a ClusterRoleBinding).
    pub fn referenced(&self, role: &RoleRef, namespace: &str) -> Result<&Arc<[PolicyRule]>, String> {
        let (found, resource) = match role.kind.as_str() {
            "ClusterRole" => (self.cluster_roles.get(&role.name), "clusterrole"),
            "Role" => (self.roles.get(namespace).and_then(|roles| roles.get(&role.name)), "role"),
            kind => return Err(format!("unsupported role reference kind: {}", go_quote(kind))),
        };
        found.ok_or_else(|| format!("{resource}.rbac.authorization.k8s.io {} not found", go_quote(&role.name)))
    }

    /// Calls `visit` with each rule of `user` in `namespace`, the grant it comes from and whether that is the cluster's;
    /// ends early when it returns true. Returns that, and the errors met.
    fn visit<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
        mut visit: impl FnMut(&'a Grant, bool, &'a PolicyRule) -> bool,
    ) -> Vec<String> {
        let mut errors = Vec::new();
        let local = self.grants.get(namespace).into_iter().flat_map(|grants| grants.of(user));
        let all = self.cluster_grants.of(user).map(|grant| (grant, true)).chain(local.map(|grant| (grant, false)));
        for (grant, cluster) in all {
            match self.referenced(&grant.role, if cluster { "" } else { namespace }) {
                Ok(rules) => {
                    if rules.iter().any(|rule| visit(grant, cluster, rule)) {
                        break;
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// Whether some rule allows what `attributes` describe.
    pub fn decide(&self, attributes: &Attributes) -> Verdict {
        let mut allowed = None;
        let mut errors = self.visit(&attributes.user, &attributes.namespace, |grant, cluster, rule| {
            let allows = rule.allows(attributes);
            if allows {
                allowed = Some((grant, cluster));
            }
            allows
        });
        match allowed {
            Some((grant, cluster)) => Verdict::Allowed(describe(grant, cluster, &attributes.namespace)),
            None if errors.is_empty() => Verdict::NotAllowed(String::new()),
            None => {
                errors.dedup();
                let text = if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) };
                Verdict::NotAllowed(format!("RBAC: {text}"))
            }
        }
    }

    /// All rules of `user` in `namespace`, and the errors met on the way.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let mut rules = Vec::new();
        let errors = self.visit(user, namespace, |_, _, rule| {
            rules.push(rule.clone());
            false
        });
        (rules, errors)
    }
}

fn describe(grant: &Grant, cluster: bool, namespace: &str) -> String {
    let subject = match grant.subject.kind.as_str() {
        "ServiceAccount" => {
            let of = if grant.subject.namespace.is_empty() { namespace } else { &grant.subject.namespace };
            format!("ServiceAccount {}", go_quote(&format!("{}/{of}", grant.subject.name)))
        }
        kind => format!("{kind} {}", go_quote(&grant.subject.name)),
    };
    let binding = if cluster {
        format!("ClusterRoleBinding {}", go_quote(&grant.binding))
    } else {
        format!("RoleBinding {}", go_quote(&format!("{}/{namespace}", grant.binding)))
    };
    format!("RBAC: allowed by {binding} of {} {} to {subject}", grant.role.kind, go_quote(&grant.role.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn index() -> Index {
        let mut index = Index::default();
        let role = |rules: Value| Some(serde_json::from_value::<Role>(json!({ "rules": rules })).unwrap());
        let binding = |value: Value| Some(serde_json::from_value::<Binding>(value).unwrap());
        let read = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
        index.set_cluster_role("reader", role(read.clone()));
        index.set_role("a", "local", role(json!([{"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]}])));
        index.set_cluster_role_binding(
            "everyone",
            binding(json!({"roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "Group", "name": "devs"}]})),
        );
        index.set_role_binding(
            "a",
            "robots",
            binding(json!({"roleRef": {"kind": "Role", "name": "local"}, "subjects": [{"kind": "ServiceAccount", "name": "bot"}]})),
        );
        index
    }

    fn ask(user: UserInfo, verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
        Attributes {
            user,
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            is_resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn cluster_bindings_count_everywhere_and_role_bindings_in_their_namespace() {
        let index = index();
        let dev = UserInfo::new("ann", &["devs"]);
        assert_eq!(
            index.decide(&ask(dev.clone(), "list", "", "pods", "b")),
            Verdict::Allowed(
                r#"RBAC: allowed by ClusterRoleBinding "everyone" of ClusterRole "reader" to Group "devs""#.into()
            )
        );
        assert_eq!(index.decide(&ask(dev, "delete", "", "pods", "b")), Verdict::NotAllowed(String::new()));
        let bot = UserInfo::service_account("a", "bot");
        assert_eq!(
            index.decide(&ask(bot.clone(), "create", "apps", "deployments", "a")),
            Verdict::Allowed(
                r#"RBAC: allowed by RoleBinding "robots/a" of Role "local" to ServiceAccount "bot/a""#.into()
            )
        );
        assert_eq!(index.decide(&ask(bot, "create", "apps", "deployments", "b")), Verdict::NotAllowed(String::new()));
    }

    #[test]
    fn removed_bindings_and_roles_allow_nothing_any_more() {
        let mut index = index();
        let dev = UserInfo::new("ann", &["devs"]);
        index.set_cluster_role("reader", None);
        assert_eq!(
            index.decide(&ask(dev.clone(), "list", "", "pods", "b")),
            Verdict::NotAllowed(r#"RBAC: clusterrole.rbac.authorization.k8s.io "reader" not found"#.into())
        );
        index.set_cluster_role_binding("everyone", None);
        assert_eq!(index.decide(&ask(dev, "list", "", "pods", "b")), Verdict::NotAllowed(String::new()));
        index.set_role_binding("a", "robots", None);
        assert!(index.grants.is_empty() && index.cluster_grants.groups.is_empty());
    }
}
