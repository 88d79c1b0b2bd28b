//! No one grants rights that they do not have. Start at [`check`].
// upstream: pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased
use super::default::ClusterAuthorizer;
use super::index::RoleRef;
use super::rbac::GROUP;
use super::rules::{PolicyRule, missing_rights};
use super::{Attributes, Decision};
use crate::value::{Read, same};
use pintle_api::field::go_quote;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{GroupResource, Resource};
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use serde_json::Value;

/// Who writes what where.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// A resource of the RBAC group.
    pub resource: &'a Resource,
    /// The namespace of Roles and RoleBindings.
    pub namespace: &'a str,
    /// The name; for generated ones the object's.
    pub name: &'a str,
    /// What is stored, for updates.
    pub old: Option<&'a Value>,
}

/// Refuses a role or binding that would give more than its author has.
pub fn check(write: &Write<'_>, object: &Value, authorizer: &ClusterAuthorizer) -> Result<(), ApiError> {
    if write.resource.group != GROUP
        || write.user.groups.iter().any(|group| group == "system:masters")
        || write.old.is_some_and(|old| only_for_garbage_collection(object, old))
    {
        return Ok(());
    }
    match write.resource.plural.as_str() {
        "roles" | "clusterroles" => check_role(write, object, authorizer),
        "rolebindings" | "clusterrolebindings" => check_binding(write, object, authorizer),
        _ => Ok(()),
    }
}

fn may(write: &Write<'_>, authorizer: &ClusterAuthorizer, verb: &str, resource: &str, name: &str) -> bool {
    let attributes = Attributes {
        user: write.user.clone(),
        verb: verb.to_owned(),
        namespace: write.namespace.to_owned(),
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        is_resource_request: true,
        ..Attributes::default()
    };
    authorizer.decide(&attributes).0 == Decision::Allow
}

fn check_role(write: &Write<'_>, role: &Value, authorizer: &ClusterAuthorizer) -> Result<(), ApiError> {
    if may(write, authorizer, "escalate", &write.resource.plural, write.name) {
        return Ok(());
    }
    let rules: Vec<PolicyRule> = serde_json::from_value(role.field("rules").clone()).unwrap_or_default();
    confirm(write, role, &rules, authorizer)?;
    let aggregates = |role: &Value| !role.field("aggregationRule").is_zero("clusterRoleSelectors");
    if aggregates(role) || write.old.is_some_and(aggregates) {
        let all = || vec!["*".to_owned()];
        let everything = [
            PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
            PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
        ];
        confirm(write, role, &everything, authorizer)
            .map_err(|_| forbidden(write, role, "must have cluster-admin privileges to use the aggregationRule"))?;
    }
    Ok(())
}

fn check_binding(write: &Write<'_>, binding: &Value, authorizer: &ClusterAuthorizer) -> Result<(), ApiError> {
    let reference = binding.field("roleRef");
    let role = RoleRef { kind: reference.text("kind").to_owned(), name: reference.text("name").to_owned() };
    let plural = match role.kind.as_str() {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Validation refuses other kinds.
        _ => return Ok(()),
    };
    if may(write, authorizer, "bind", plural, &role.name) {
        return Ok(());
    }
    let rules = authorizer.rbac().referenced(&role, write.namespace).map_err(|_| {
        ApiError::not_found(GroupResource { group: GROUP, resource: plural.trim_end_matches('s') }, &role.name)
    })?;
    confirm(write, binding, &rules, authorizer)
}

/// Whether the user has all that `rules` give.
fn confirm(
    write: &Write<'_>,
    object: &Value,
    rules: &[PolicyRule],
    authorizer: &ClusterAuthorizer,
) -> Result<(), ApiError> {
    let (held, errors) = authorizer.rules_for(write.user, write.namespace);
    let missing = missing_rights(&held, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = write.user.groups.iter().map(|group| go_quote(group)).collect();
    let mut why = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&write.user.name),
        groups.join(" "),
        missing.join("\n")
    );
    if !errors.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
    }
    Err(forbidden(write, object, why))
}

fn forbidden(write: &Write<'_>, object: &Value, why: impl Into<String>) -> ApiError {
    let name = if object.name().is_empty() { write.name } else { object.name() };
    ApiError::forbidden(write.resource.group_resource(), name, why.into())
}

/// Whether only owner references and finalizers differ, which the garbage collector must be able to change.
fn only_for_garbage_collection(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
            object.metadata_mut().remove(field);
        }
        object
    };
    same(&bare(new), &bare(old))
}
