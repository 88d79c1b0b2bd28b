//! Where pods may run: affinity, tolerations, topology spread constraints, node selectors.
use super::common::{label_selector, positive};
use super::field::{Errors, Field};
use crate::value::Read;
use pintle_api::{field::FieldError, names};

/// `spec.affinity`.
pub(super) fn affinity(affinity: &Field<'_>, errors: &mut Errors) {
    let node = affinity.child("nodeAffinity");
    let required = node.child("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, errors);
    }
    for term in node.child("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&term.child("weight"), errors);
        node_selector_term(&term.child("preference"), false, errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.child(kind);
        for term in pods.child("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_affinity_term(&term, errors);
        }
        for term in pods.child("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&term.child("weight"), errors);
            pod_affinity_term(&term.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(weight: &Field<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight.int()) {
        errors.push(FieldError::invalid(&weight.path, weight.int(), "must be in the range 1-100"));
    }
}

/// A `core/v1` `NodeSelector`.
pub(super) fn node_selector(selector: &Field<'_>, errors: &mut Errors) {
    let terms = selector.child("nodeSelectorTerms");
    if terms.is_zero() {
        errors.push(terms.missing("must have at least one node selector term"));
    }
    terms.items().for_each(|term| node_selector_term(&term, true, errors));
}

fn node_selector_term(term: &Field<'_>, check_values: bool, errors: &mut Errors) {
    for requirement in term.child("matchExpressions").items() {
        let (operator, values) = (requirement.child("operator"), requirement.child("values"));
        match operator.text() {
            "In" | "NotIn" => values.required("must be specified when `operator` is 'In' or 'NotIn'", errors),
            "Exists" | "DoesNotExist" if values.is_zero() => {}
            "Exists" | "DoesNotExist" => {
                errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "Gt" | "Lt" if values.items().count() == 1 => {}
            "Gt" | "Lt" => {
                errors.push(values.missing("must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            _ => errors.push(FieldError::invalid(&operator.path, operator.text(), "not a valid selector operator")),
        }
        requirement.child("key").text_checked(names::qualified_name, errors);
        if check_values {
            values.items().for_each(|value| value.checked(names::label_value, errors));
        }
    }
    for requirement in term.child("matchFields").items() {
        let (operator, values, key) =
            (requirement.child("operator"), requirement.child("values"), requirement.child("key"));
        if !matches!(operator.text(), "In" | "NotIn") {
            errors.push(FieldError::invalid(&operator.path, operator.text(), "not a valid selector operator"));
        } else if values.items().count() != 1 {
            errors.push(
                values.missing("must be only one value when `operator` is 'In' or 'NotIn' for node field selector"),
            );
        }
        if key.text() == "metadata.name" {
            values.items().for_each(|value| value.checked(names::dns1123_subdomain, errors));
        } else {
            errors.push(FieldError::invalid(&key.path, key.text(), "not a valid field selector key"));
        }
    }
}

fn pod_affinity_term(term: &Field<'_>, errors: &mut Errors) {
    label_selector(&term.child("labelSelector"), errors);
    label_selector(&term.child("namespaceSelector"), errors);
    for name in term.value.texts("namespaces") {
        let wrong = names::dns1123_label(name).into_iter();
        errors.extend(wrong.map(|e| FieldError::invalid(&term.child("namespace").path, name, e)));
    }
    label_keys(term, errors);
    let key = term.child("topologyKey");
    if key.is_zero() {
        errors.push(key.missing("can not be empty"));
    }
    key.text_checked(names::qualified_name, errors);
}

/// `matchLabelKeys` and `mismatchLabelKeys` of `holder`, which also has the `labelSelector` they add to.
fn label_keys(holder: &Field<'_>, errors: &mut Errors) {
    let selector = holder.value.field("labelSelector");
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let list = holder.child(list);
        if list.is_zero() {
            continue;
        }
        if selector.is_null() {
            errors.push(list.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        list.items().for_each(|key| key.checked(names::qualified_name, errors));
    }
    let keys: Vec<&str> = holder.value.texts("matchLabelKeys").collect();
    let mut selected: Vec<&str> = selector.entries("matchLabels").map(|(key, _)| key).collect();
    for expression in selector.items("matchExpressions") {
        let key = expression.text("key");
        if let Some(i) = keys.iter().rposition(|k| *k == key).filter(|_| selected.contains(&key)) {
            let text = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(&holder.path.index(i), key, text));
        }
        selected.push(key);
    }
    for key in holder.child("matchLabelKeys").items() {
        if holder.value.texts("mismatchLabelKeys").any(|k| k == key.text()) {
            errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
}

/// `spec.tolerations`.
pub(super) fn tolerations(list: &Field<'_>, errors: &mut Errors) {
    for toleration in list.items() {
        let (key, operator, value, effect) = (
            toleration.child("key"),
            toleration.child("operator"),
            toleration.child("value"),
            toleration.child("effect"),
        );
        if key.is_zero() {
            if operator.text() != "Exists" {
                let text = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                errors.push(FieldError::invalid(&operator.path, operator.text(), text));
            }
        } else {
            key.checked(names::qualified_name, errors);
        }
        if toleration.value.has("tolerationSeconds") && effect.text() != "NoExecute" {
            let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&effect.path, effect.text(), text));
        }
        match operator.text() {
            "Equal" | "" => {
                let wrong = names::label_value(value.text());
                if !wrong.is_empty() {
                    errors.push(FieldError::invalid(&operator.path, value.text(), wrong.join(";")));
                }
            }
            "Exists" => {
                if !value.is_zero() {
                    let text = "value must be empty when `operator` is 'Exists'";
                    errors.push(FieldError::invalid(&operator.path, value.text(), text));
                }
            }
            "Lt" | "Gt" => {
                let known = ["Equal", "Exists", "Lt", "Gt"];
                errors.push(FieldError::not_supported(&operator.path, operator.text(), &known));
            }
            _ => operator.one_of(&["Equal", "Exists"], errors),
        }
        if !effect.is_zero() {
            effect.one_of(&TAINT_EFFECTS, errors);
        }
    }
}

/// What taints do.
pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `spec.topologySpreadConstraints`.
pub(super) fn topology_spread(list: &Field<'_>, errors: &mut Errors) {
    let all: Vec<Field<'_>> = list.items().collect();
    for (i, constraint) in all.iter().enumerate() {
        positive(&constraint.child("maxSkew"), errors);
        let (key, action) = (constraint.child("topologyKey"), constraint.child("whenUnsatisfiable"));
        if key.is_zero() {
            errors.push(key.missing("can not be empty"));
        }
        action.one_of(&["DoNotSchedule", "ScheduleAnyway"], errors);
        let same = |other: &Field<'_>| {
            other.value.text("topologyKey") == key.text() && other.value.text("whenUnsatisfiable") == action.text()
        };
        if all[i + 1..].iter().any(same) {
            let at = constraint.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&at.path, format!("{{{}, {}}}", key.text(), action.text())));
        }
        let domains = constraint.child("minDomains");
        if domains.is_set() {
            positive(&domains, errors);
            if action.text() != "DoNotSchedule" {
                let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text());
                errors.push(domains.invalid(text));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"].iter().map(|p| constraint.child(p)) {
            if policy.is_set() {
                policy.one_of(&["Honor", "Ignore"], errors);
            }
        }
        label_keys(constraint, errors);
        label_selector(&constraint.child("labelSelector"), errors);
    }
}
