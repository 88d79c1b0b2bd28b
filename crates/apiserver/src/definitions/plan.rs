//! Which names a definition gets, and what its conditions say. Start at [`judge`].
// upstream: apiextensions-apiserver pkg/controller/{status,establish,apiapproval}
use super::approval::{self, State};
use pintle_api::custom::definition::Condition;
use pintle_api::custom::{Definition, Names};
use pintle_api::field::{aggregate, go_quote};
use serde_json::{Value, json};
use std::collections::HashSet;

/// The names that definitions of a group have.
#[derive(Debug, Default)]
pub(super) struct Used {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Used {
    /// Adds accepted names.
    pub(super) fn add(&mut self, names: &Names) {
        let resources = [&names.plural, &names.singular].into_iter().chain(&names.short_names);
        self.resources.extend(resources.filter(|name| !name.is_empty()).cloned());
        self.kinds.extend([&names.kind, &names.list_kind].into_iter().filter(|name| !name.is_empty()).cloned());
    }
}

/// What a definition's status is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// The names under which it is served.
    pub(super) accepted: Names,
    /// The new conditions.
    conditions: Vec<Condition>,
    /// Whether its resources are served.
    pub(super) served: bool,
}

impl Verdict {
    /// Whether the definition's status says something else.
    pub(super) fn changes(&self, definition: &Definition) -> bool {
        self.accepted != definition.status.accepted_names || self.conditions != definition.status.conditions
    }

    /// Writes the verdict into the definition.
    pub(super) fn apply(&self, definition: &mut Value) {
        definition["status"]["acceptedNames"] = json!(self.accepted);
        definition["status"]["conditions"] = json!(self.conditions);
    }
}

/// Judges a definition beside the names that others, and it itself, have already.
pub(super) fn judge(definition: &Definition, used: &Used, now: &str) -> Verdict {
    let mut conditions = definition.status.conditions.clone();
    let mut accepted = definition.status.accepted_names.clone();
    if definition.spec.names != accepted {
        let conflict = accept(&definition.spec.names, &mut accepted, used);
        let (status, reason, message) = match conflict {
            None => ("True", "NoConflicts", "no conflicts found".to_owned()),
            Some((reason, message)) => ("False", reason, message),
        };
        set(&mut conditions, "NamesAccepted", status, reason, &message, now);
    }
    let is_true =
        |conditions: &[Condition], type_: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
    let names_accepted = is_true(&conditions, "NamesAccepted");
    if !is_true(&conditions, "Established") {
        if !names_accepted {
            set(&mut conditions, "Established", "False", "NotAccepted", "not all names are accepted", now);
        } else if has_broken_ca(definition) {
            let why = "The conversion webhook CABundle is invalid";
            set(&mut conditions, "Established", "False", "InvalidCABundle", why, now);
        } else {
            let why = "the initial names have been accepted";
            set(&mut conditions, "Established", "True", "InitialNamesAccepted", why, now);
        }
    }
    if let Some((status, reason, message)) = conformance(definition) {
        set(&mut conditions, "KubernetesAPIApprovalPolicyConformant", status, reason, &message, now);
    }
    let named = [&accepted.plural, &accepted.singular, &accepted.kind, &accepted.list_kind];
    let established = is_true(&conditions, "Established");
    let served = established && named.iter().all(|name| !name.is_empty());
    Verdict { accepted, conditions, served }
}

/// Takes over the wanted names that are free; the reason and message of the last conflict otherwise.
fn accept(wanted: &Names, accepted: &mut Names, used: &Used) -> Option<(&'static str, String)> {
    let taken = |name: &str, own: &str, names: &HashSet<String>| {
        (name != own && names.contains(name)).then(|| format!("{} is already in use", go_quote(name)))
    };
    let mut conflict = None;
    let mut take = |wanted: &String, own: &mut String, names: &HashSet<String>, reason| match taken(wanted, own, names)
    {
        Some(message) => conflict = Some((reason, message)),
        None => own.clone_from(wanted),
    };
    take(&wanted.plural, &mut accepted.plural, &used.resources, "PluralConflict");
    take(&wanted.singular, &mut accepted.singular, &used.resources, "SingularConflict");
    if wanted.short_names != accepted.short_names {
        let fresh = wanted.short_names.iter().filter(|name| !accepted.short_names.contains(name));
        let conflicts: Vec<String> = fresh.filter_map(|name| taken(name, "", &used.resources)).collect();
        if conflicts.is_empty() {
            accepted.short_names.clone_from(&wanted.short_names);
        } else {
            conflict = Some(("ShortNamesConflict", aggregate(&conflicts)));
        }
    }
    let mut take = |wanted: &String, own: &mut String, names: &HashSet<String>, reason| match taken(wanted, own, names)
    {
        Some(message) => conflict = Some((reason, message)),
        None => own.clone_from(wanted),
    };
    take(&wanted.kind, &mut accepted.kind, &used.kinds, "KindConflict");
    take(&wanted.list_kind, &mut accepted.list_kind, &used.kinds, "ListKindConflict");
    accepted.categories.clone_from(&wanted.categories);
    conflict
}

/// Whether the conversion webhook's CA bundle holds no certificate.
fn has_broken_ca(definition: &Definition) -> bool {
    let webhook = definition.spec.conversion.get("webhook");
    let bundle = webhook.and_then(|webhook| webhook["clientConfig"]["caBundle"].as_str());
    bundle.is_some_and(|bundle| !crate::validation::definitions::is_ca_bundle(bundle))
}

/// How far the definition is approved of, if its group is one of the Kubernetes community.
fn conformance(definition: &Definition) -> Option<(&'static str, &'static str, String)> {
    if !approval::is_protected(&definition.spec.group) {
        return None;
    }
    let annotation = definition.metadata.annotations.get(approval::ANNOTATION).map_or("", String::as_str);
    let (state, message) = approval::read(annotation);
    Some(match state {
        State::Invalid => ("False", "InvalidAnnotation", message),
        State::Missing => ("False", "MissingAnnotation", message),
        State::Approved => ("True", "ApprovedAnnotation", message),
        State::Bypassed => ("False", "UnapprovedAnnotation", message),
    })
}

/// Sets a condition; the time changes with the status.
pub(super) fn set(conditions: &mut Vec<Condition>, type_: &str, status: &str, reason: &str, message: &str, now: &str) {
    let time = Some(now.to_owned());
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        None => conditions.push(Condition {
            type_: type_.into(),
            status: status.into(),
            last_transition_time: time,
            reason: reason.into(),
            message: message.into(),
            observed_generation: None,
        }),
        Some(known) => {
            if known.status != status {
                known.last_transition_time = time;
            }
            known.status = status.into();
            known.reason = reason.into();
            known.message = message.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(kind: &str) -> Definition {
        let lower = kind.to_lowercase();
        serde_json::from_value(json!({"spec": {"group": "example.com", "names": {
            "plural": format!("{lower}s"), "singular": lower, "kind": kind, "listKind": format!("{kind}List"), "shortNames": ["w"]}}}))
        .unwrap()
    }

    fn condition(verdict: &Verdict, type_: &str) -> (String, String) {
        let found = verdict.conditions.iter().find(|c| c.type_ == type_).unwrap();
        (found.status.clone(), found.reason.clone())
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.into(), b.into())
    }

    #[test]
    fn free_names_are_accepted_and_served() {
        let verdict = judge(&definition("Widget"), &Used::default(), "now");
        assert!(verdict.served);
        assert_eq!(condition(&verdict, "NamesAccepted"), pair("True", "NoConflicts"));
        assert_eq!(condition(&verdict, "Established"), pair("True", "InitialNamesAccepted"));
        let mut settled = definition("Widget");
        settled.status.accepted_names = verdict.accepted.clone();
        settled.status.conditions = verdict.conditions.clone();
        assert!(!judge(&settled, &Used::default(), "later").changes(&settled));
    }

    #[test]
    fn a_name_in_use_keeps_a_definition_from_being_served() {
        let mut used = Used::default();
        used.add(&Names { kind: "Widget".into(), short_names: vec!["w".into()], ..Names::default() });
        let verdict = judge(&definition("Widget"), &used, "now");
        assert!(!verdict.served);
        assert_eq!(condition(&verdict, "NamesAccepted"), pair("False", "KindConflict"));
        assert_eq!(condition(&verdict, "Established"), pair("False", "NotAccepted"));
        assert_eq!(verdict.accepted.plural, "widgets");
        assert!(verdict.accepted.kind.is_empty() && verdict.accepted.short_names.is_empty());
    }

    #[test]
    fn community_groups_need_approval() {
        let mut definition = definition("Widget");
        definition.spec.group = "x.k8s.io".into();
        assert!(approval::is_protected("k8s.io") && !approval::is_protected("notk8s.io"));
        let reason = |annotation: &str| {
            let mut definition = definition.clone();
            definition.metadata.annotations.insert(approval::ANNOTATION.into(), annotation.into());
            condition(&judge(&definition, &Used::default(), "now"), "KubernetesAPIApprovalPolicyConformant").1
        };
        assert_eq!(reason("https://github.com/x/1"), "ApprovedAnnotation");
        assert_eq!(reason("unapproved, testing"), "UnapprovedAnnotation");
        assert_eq!(reason("x"), "InvalidAnnotation");
    }
}
