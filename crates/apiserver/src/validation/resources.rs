//! Resource requirements of containers and pods, and names of resources.
use super::common::{nonnegative_quantity, quantity};
use super::field::{Errors, Field};
use crate::value::Read;
use pintle_api::{field::FieldError, names, quantity::Quantity};

const STANDARD: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
];

const INTEGER: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Huge pages of some size.
pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of Kubernetes' own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that a device plugin offers.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

pub(super) fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || name == "services.loadbalancers"
        || is_huge_pages(name)
        || name.starts_with("requests.hugepages-")
}

/// A name of any resource.
pub(crate) fn resource_name(name: &str, at: &Field<'_>, errors: &mut Errors) {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&at.path, name, e)));
    } else if !name.contains('/') && !is_standard(name) {
        errors.push(FieldError::invalid(&at.path, name, "must be a standard resource type or fully qualified"));
    }
}

pub(super) fn container_resource_name(name: &str, at: &Field<'_>, errors: &mut Errors) {
    resource_name(name, at, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name) {
            errors.push(FieldError::invalid(&at.path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(&at.path, name, "doesn't follow extended resource name standard"));
    }
}

fn pod_resource_name(name: &str, at: &Field<'_>, errors: &mut Errors) {
    let before = errors.len();
    resource_name(name, at, errors);
    if errors.len() > before {
        return;
    }
    if !matches!(name, "cpu" | "memory") && !is_huge_pages(name) {
        errors.push(FieldError::not_supported(&at.path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// An amount of the resource `name`: not negative, and whole where the resource can only be had whole.
pub(crate) fn amount(name: &str, at: &Field<'_>, errors: &mut Errors) {
    nonnegative_quantity(at, errors);
    if (INTEGER.contains(&name) || is_extended(name)) && quantity(at.value).milli_value() % 1000 != 0 {
        errors.push(at.invalid("must be an integer"));
    }
}

/// Whether an amount is no whole number.
pub(super) fn is_fraction(amount: &serde_json::Value) -> bool {
    quantity(amount).milli_value() % 1000 != 0
}

/// The resources of a container.
pub(crate) fn container_resources(resources: &Field<'_>, claims: &[String], errors: &mut Errors) {
    requirements(resources, container_resource_name, errors);
    claim_names(&resources.child("claims"), claims, errors);
}

/// The resources of a pod as a whole.
pub(crate) fn pod_resources(resources: &Field<'_>, known: &[String], errors: &mut Errors) {
    let claims = resources.child("claims");
    if claims.is_set() {
        errors.push(claims.forbidden("claims may not be set for Resources at pod-level"));
    }
    requirements(resources, pod_resource_name, errors);
    claim_names(&claims, known, errors);
}

fn requirements(resources: &Field<'_>, name_rule: fn(&str, &Field<'_>, &mut Errors), errors: &mut Errors) {
    let (limits, requests) = (resources.child("limits"), resources.child("requests"));
    for (name, limit) in limits.entries() {
        name_rule(name, &limit, errors);
        amount(name, &limit, errors);
        huge_pages(name, &limit, errors);
    }
    for (name, request) in requests.entries() {
        name_rule(name, &request, errors);
        amount(name, &request, errors);
        let limit = limits.value.field(name);
        if limit.is_null() {
            if !may_be_overcommitted(name) {
                errors.push(limits.missing("Limit must be set for non overcommitable resources"));
            }
        } else {
            let (wanted, most) = (quantity(request.value), quantity(limit));
            let text = |relation: &str| format!("must be {relation} {name} limit of {most}");
            if wanted != most && !may_be_overcommitted(name) {
                errors.push(FieldError::invalid(&requests.path, wanted.to_string(), text("equal to")));
            } else if wanted > most {
                errors.push(FieldError::invalid(&requests.path, wanted.to_string(), text("less than or equal to")));
            }
        }
        huge_pages(name, &request, errors);
    }
    let names = || limits.entries().chain(requests.entries()).map(|(name, _)| name);
    if names().any(is_huge_pages) && !names().any(|n| matches!(n, "cpu" | "memory")) {
        errors.push(resources.forbidden("HugePages require cpu or memory"));
    }
}

fn huge_pages(name: &str, at: &Field<'_>, errors: &mut Errors) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let size = Quantity::parse(size).ok().and_then(Quantity::as_i64).filter(|&s| s > 0);
    if size.is_none_or(|size| quantity(at.value).value() % size != 0) {
        let given = quantity(at.value);
        errors.push(at.invalid(format!("{given} is not positive integer multiple of {name}")));
    }
}

fn claim_names(claims: &Field<'_>, known: &[String], errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for claim in claims.items() {
        let (name, request) = (claim.value.text("name"), claim.value.text("request"));
        if name.is_empty() {
            errors.push(claim.missing(""));
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        let prefix = format!("{name}/");
        let clash = |s: &String| s == name || *s == key || (request.is_empty() && s.starts_with(&prefix));
        if seen.iter().any(clash) {
            errors.push(FieldError::duplicate(&claim.path, name));
        } else {
            claim.child("request").checked(names::dns1123_label, errors);
            seen.push(key);
        }
        if !known.iter().any(|k| k == name) {
            let mut error = FieldError::not_found(&claim.path, name);
            error.detail = match known {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".into(),
                _ => format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", ")),
            };
            errors.push(error);
        }
    }
}
