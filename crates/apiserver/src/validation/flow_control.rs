//! FlowSchemas and PriorityLevelConfigurations.
// upstream: pkg/apis/flowcontrol/validation
use super::field::{Errors, Field};
use crate::bootstrap;
use crate::value::{Read, same};
use pintle_api::meta::ObjectExt;
use pintle_api::{field::FieldError, names};
use serde_json::{Value, json};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// The most bits of a flow's hash that dealing hands of queues may take.
const HASH_BITS: u32 = 60;

/// A new or changed FlowSchema.
pub(crate) fn flow_schema(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let precedence = spec.child("matchingPrecedence");
    match precedence.int() {
        ..=0 => errors.push(precedence.invalid("must be a positive value")),
        10_001.. => errors.push(precedence.invalid("must not be greater than 10000")),
        1 if object.name() != "exempt" => {
            errors.push(precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
        }
        _ => {}
    }
    let method = spec.child("distinguisherMethod");
    if !method.value.is_null() {
        let kind = method.child("type");
        if !matches!(kind.text(), "ByNamespace" | "ByUser") {
            let given = json!({"Type": kind.text()});
            errors.push(FieldError::not_supported(&kind.path, &given, &["ByNamespace", "ByUser"]));
        }
    }
    let level = spec.child("priorityLevelConfiguration");
    let name = level.child("name");
    if name.text().is_empty() {
        errors.push(name.missing("must reference a priority level"));
    } else {
        name.text_checked(names::dns1123_subdomain, &mut errors);
    }
    spec.child("rules").items().for_each(|rule| policy_rule(&rule, &mut errors));
    if fixed("FlowSchema", object).is_some_and(|fixed| !same(spec.value, &fixed)) {
        let text = format!("spec of '{}' must equal the fixed value", object.name());
        errors.push(FieldError::invalid(&spec.path, spec.value, text));
    }
    errors.extend(status(object));
    errors
}

/// A changed status of either kind.
pub(crate) fn status(object: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(object, "status"));
    let mut seen: Vec<String> = Vec::new();
    for condition in status.child("conditions").items() {
        let kind = condition.child("type");
        if seen.iter().any(|known| known == kind.text()) {
            errors.push(FieldError::duplicate(&kind.path, kind.text()));
        }
        seen.push(kind.text().to_owned());
        kind.required("", &mut errors);
    }
    errors
}

/// The spec that an object of the server's own must have, if it is one.
fn fixed(kind: &str, object: &Value) -> Option<Value> {
    let fixed = matches!(object.name(), "exempt" | "catch-all");
    fixed.then(|| bootstrap::flow_control_spec(kind, object.name())).flatten()
}

fn policy_rule(rule: &Field<'_>, errors: &mut Errors) {
    let subjects = rule.child("subjects");
    if subjects.value.as_array().is_none_or(Vec::is_empty) {
        errors.push(subjects.missing("subjects must contain at least one value"));
    }
    subjects.items().for_each(|s| subject(&s, errors));
    let (resources, paths) = (rule.child("resourceRules"), rule.child("nonResourceRules"));
    if resources.items().next().is_none() && paths.items().next().is_none() {
        errors.push(rule.missing("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    resources.items().for_each(|rule| resource_rule(&rule, errors));
    paths.items().for_each(|rule| path_rule(&rule, errors));
}

fn subject(subject: &Field<'_>, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.child("kind");
    let Some((_, own)) = KINDS.iter().find(|(known, _)| *known == kind.text()) else {
        errors.push(FieldError::not_supported(&kind.path, kind.text(), &["Group", "ServiceAccount", "User"]));
        return;
    };
    let field = subject.child(own);
    if field.value.is_null() {
        errors.push(field.missing(format!("{own} is required when subject kind is '{}'", kind.text())));
    } else {
        let name = field.child("name");
        if name.text().is_empty() {
            errors.push(name.missing(""));
        } else if *own == "serviceAccount" && name.text() != "*" {
            name.text_checked(names::dns1123_subdomain, errors);
        }
        let namespace = field.child("namespace");
        if *own == "serviceAccount" && namespace.text().is_empty() {
            errors.push(namespace.missing("must specify namespace for service account"));
        } else if *own == "serviceAccount" {
            namespace.text_checked(names::dns1123_label, errors);
        }
    }
    let order = if *own == "serviceAccount" { ["user", "group", ""] } else { ["serviceAccount", "user", "group"] };
    for other in order.into_iter().filter(|other| !other.is_empty() && other != own) {
        let field = subject.child(other);
        if !field.value.is_null() {
            let wanted = KINDS.iter().find(|(_, name)| *name == other).map_or("", |(kind, _)| kind);
            errors.push(field.forbidden(format!("{other} is forbidden when subject kind is not '{wanted}'")));
        }
    }
}

/// A list in which `*` stands alone. Tells whether it is there.
fn wildcard(list: &Field<'_>, what: &str, errors: &mut Errors) -> bool {
    let all = list.items().any(|item| item.text() == "*");
    if all && list.items().count() > 1 {
        errors.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
    }
    all
}

fn verbs(rule: &Field<'_>, errors: &mut Errors) {
    let verbs = rule.child("verbs");
    if verbs.items().next().is_none() {
        errors.push(verbs.missing("verbs must contain at least one value"));
    } else if !wildcard(&verbs, "verbs", errors) && verbs.items().any(|verb| !VERBS.contains(&verb.text())) {
        errors.push(FieldError::not_supported(&verbs.path, verbs.value, VERBS));
    }
}

fn resource_rule(rule: &Field<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    for (field, one, other) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let list = rule.child(field);
        if list.items().next().is_none() {
            errors.push(list.missing(format!("resource rules must supply at least one {one}")));
        } else {
            wildcard(&list, other, errors);
        }
    }
    let namespaces = rule.child("namespaces");
    if namespaces.items().next().is_none() && !rule.child("clusterScope").flag() {
        let text = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(namespaces.missing(text));
    } else if !wildcard(&namespaces, "namespaces", errors) {
        for namespace in namespaces.items() {
            for wrong in names::dns1123_label(namespace.text()) {
                errors.push(
                    namespace.invalid(format!("each member of this list must be '*' or a DNS-1123 label; {wrong}")),
                );
            }
        }
    }
}

fn path_rule(rule: &Field<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    let paths = rule.child("nonResourceURLs");
    if paths.items().next().is_none() {
        errors.push(paths.missing("nonResourceURLs must contain at least one value"));
    } else if !wildcard(&paths, "non-resource URLs", errors) {
        for path in paths.items() {
            let text = path.text();
            let stars = text.matches('*').count();
            let wrong = match text {
                "" => "must not be empty",
                "/" => continue,
                _ if !text.starts_with('/') => "must start with slash",
                _ if text.contains(' ') => "must not contain white-space",
                _ if text.contains("//") => "must not contain double slash",
                _ if stars > 1 || (stars == 1 && !text.ends_with("/*")) => "wildcard can only do suffix matching",
                _ => continue,
            };
            errors.push(path.invalid(wrong));
        }
    }
}

/// A new or changed PriorityLevelConfiguration.
pub(crate) fn priority_level(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let kind = spec.child("type");
    if (object.name() == "exempt") != (kind.text() == "Exempt") {
        errors.push(kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    let (limited, exempt) = (spec.child("limited"), spec.child("exempt"));
    match kind.text() {
        "Exempt" => {
            if !limited.value.is_null() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            shares(&exempt, &mut errors);
        }
        "Limited" => {
            if !exempt.value.is_null() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.value.is_null() {
                errors.push(limited.missing("must not be empty when type is Limited"));
            } else {
                limited_level(&limited, &mut errors);
            }
        }
        _ => kind.required_one_of(&["Exempt", "Limited"], &mut errors),
    }
    if let Some(fixed) = fixed("PriorityLevelConfiguration", object) {
        let exempt = object.name() == "exempt";
        let equal = if exempt {
            spec.value.text("type") == fixed.text("type") && limited.value.is_null()
        } else {
            same(spec.value, &fixed)
        };
        if !equal {
            let except = if exempt { " except the 'spec.exempt' field" } else { "" };
            let text = format!("spec of '{}'{except} must equal the fixed value", object.name());
            errors.push(FieldError::invalid(&spec.path, spec.value, text));
        }
    }
    errors.extend(status(object));
    errors
}

fn shares(level: &Field<'_>, errors: &mut Errors) {
    let shares = level.child("nominalConcurrencyShares");
    if shares.int() < 0 {
        errors.push(shares.invalid("must be a non-negative integer"));
    }
    lendable(level, errors);
}

fn lendable(level: &Field<'_>, errors: &mut Errors) {
    let percent = level.child("lendablePercent");
    if !(0..=100).contains(&percent.int()) {
        errors.push(percent.invalid("must be between 0 and 100, inclusive"));
    }
}

fn limited_level(level: &Field<'_>, errors: &mut Errors) {
    let shares = level.child("nominalConcurrencyShares");
    if shares.int() < 0 {
        errors.push(shares.invalid("must be a non-negative integer"));
    }
    let response = level.child("limitResponse");
    let (kind, queuing) = (response.child("type"), response.child("queuing"));
    match (kind.text(), queuing.value.is_null()) {
        ("Reject", false) => {
            errors.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        ("Queue", true) => {
            errors.push(queuing.missing("must not be empty if limited.limitResponse.type is Limited"));
        }
        ("Queue", false) => queues(&queuing, errors),
        ("Reject", true) => {}
        _ => kind.required_one_of(&["Queue", "Reject"], errors),
    }
    lendable(level, errors);
    let borrowing = level.child("borrowingLimitPercent");
    if borrowing.int() < 0 {
        errors.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
}

fn queues(queuing: &Field<'_>, errors: &mut Errors) {
    const MOST: i64 = 10_000_000;
    let (limit, queues, hand) = (queuing.child("queueLengthLimit"), queuing.child("queues"), queuing.child("handSize"));
    if limit.int() <= 0 {
        errors.push(limit.invalid("must be positive"));
    }
    if queues.int() <= 0 {
        errors.push(queues.invalid("must be positive"));
    } else if queues.int() > MOST {
        errors.push(queues.invalid(format!("must not be greater than {MOST}")));
    }
    if hand.int() <= 0 {
        errors.push(hand.invalid("must be positive"));
    } else if hand.int() > queues.int() {
        errors.push(hand.invalid(format!("should not be greater than queues ({})", queues.int())));
    } else if entropy_bits(queues.int(), hand.int()) > HASH_BITS {
        errors.push(hand.invalid(format!(
            "required entropy bits of deckSize {} and handSize {} should not be greater than {HASH_BITS}",
            queues.int(),
            hand.int()
        )));
    }
}

/// How many random bits it takes to deal a hand from a deck.
// upstream: apiserver pkg/util/shufflesharding, RequiredEntropyBits
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    (((deck as f64).log2() * hand as f64).ceil()).max(0.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_objects_are_valid_and_cannot_be_changed() {
        for object in bootstrap::flow_control().unwrap() {
            let errors = match object.kind() {
                "FlowSchema" => flow_schema(&object),
                _ => priority_level(&object),
            };
            assert!(errors.is_empty(), "{}: {errors:?}", object.name());
            if object.name() == "catch-all" {
                let mut changed = object.clone();
                changed["spec"]["matchingPrecedence"] = json!(9);
                changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(9);
                let errors = match object.kind() {
                    "FlowSchema" => flow_schema(&changed),
                    _ => priority_level(&changed),
                };
                assert!(errors.iter().any(|e| e.to_string().contains("must equal the fixed value")), "{errors:?}");
            }
        }
    }
}
