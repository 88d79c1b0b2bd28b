//! Roles and their bindings.
use super::common::{go_struct, label_selector};
use super::field::{Errors, Field};
use crate::value::Read;
use pintle_api::{field::FieldError, names};
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

/// A new or changed Role.
pub(crate) fn role(object: &Value) -> Errors {
    rules(object, true)
}

/// A new or changed ClusterRole.
pub(crate) fn cluster_role(object: &Value) -> Errors {
    let mut errors = rules(object, false);
    let aggregation = Field::root(object, "aggregationRule");
    if aggregation.is_set() {
        let selectors = aggregation.child("clusterRoleSelectors");
        selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil", &mut errors);
        for selector in selectors.items() {
            label_selector(&selector, &mut errors);
            if pintle_api::selector::LabelSelector::from_value(selector.value).is_err() {
                errors.push(FieldError::invalid(&selector.path, &Value::Null, "invalid label selector."));
            }
        }
    }
    errors
}

fn rules(object: &Value, namespaced: bool) -> Errors {
    let mut errors = Errors::new();
    for rule in Field::root(object, "rules").items() {
        rule.child("verbs").required("verbs must contain at least one value", &mut errors);
        let urls = rule.child("nonResourceURLs");
        if !urls.is_zero() {
            if namespaced {
                errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.value.is_zero(f)) {
                errors.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            continue;
        }
        rule.child("apiGroups").required("resource rules must supply at least one api group", &mut errors);
        rule.child("resources").required("resource rules must supply at least one resource", &mut errors);
    }
    errors
}

/// A new RoleBinding.
pub(crate) fn role_binding(object: &Value) -> Errors {
    binding(object, true)
}

/// A new ClusterRoleBinding.
pub(crate) fn cluster_role_binding(object: &Value) -> Errors {
    binding(object, false)
}

fn binding(object: &Value, namespaced: bool) -> Errors {
    let (mut errors, role) = (Errors::new(), Field::root(object, "roleRef"));
    role.child("apiGroup").one_of(&[GROUP], &mut errors);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    role.child("kind").one_of(kinds, &mut errors);
    role.child("name").required_checked(names::path_segment, &mut errors);
    for subject in Field::root(object, "subjects").items() {
        let (name, group) = (subject.child("name"), subject.child("apiGroup"));
        name.required("", &mut errors);
        match subject.value.text("kind") {
            "ServiceAccount" => {
                if !name.is_zero() {
                    name.checked(names::dns1123_subdomain, &mut errors);
                }
                if !group.is_zero() {
                    group.one_of(&[""], &mut errors);
                }
                if !namespaced {
                    subject.child("namespace").required("", &mut errors);
                }
            }
            "User" | "Group" => group.one_of(&[GROUP], &mut errors),
            _ => subject.child("kind").one_of(&["ServiceAccount", "User", "Group"], &mut errors),
        }
    }
    errors
}

/// A changed RoleBinding.
pub(crate) fn role_binding_update(new: &Value, old: &Value) -> Errors {
    same_role(role_binding(new), new, old)
}

/// A changed ClusterRoleBinding.
pub(crate) fn cluster_role_binding_update(new: &Value, old: &Value) -> Errors {
    same_role(cluster_role_binding(new), new, old)
}

fn same_role(mut errors: Errors, new: &Value, old: &Value) -> Errors {
    let role = Field::root(new, "roleRef");
    if role.value != old.field("roleRef") {
        let shown = go_struct(role.value, &[("APIGroup", "apiGroup"), ("Kind", "kind"), ("Name", "name")], true);
        errors.push(FieldError::invalid(&role.path, shown, "cannot change roleRef"));
    }
    errors
}
