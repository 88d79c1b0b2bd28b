//! Configurations of admission webhooks.
use super::common::label_selector;
use super::conditions;
use super::field::{Errors, Field};
use crate::admission::environment;
use pintle_api::{field::FieldError, names};
use serde_json::Value;

/// A new or changed ValidatingWebhookConfiguration or MutatingWebhookConfiguration.
// upstream: pkg/apis/admissionregistration/validation
pub(crate) fn configuration(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let mut seen: Vec<String> = Vec::new();
    let env = environment(false, true);
    for hook in Field::root(object, "webhooks").items() {
        webhook(&hook, &mut errors);
        conditions::match_conditions(&hook.child("matchConditions"), &env, &mut errors);
        let name = hook.child("name");
        if !name.is_zero() {
            super::common::unique(&mut seen, &name, &mut errors);
        }
    }
    errors
}

fn webhook(hook: &Field<'_>, errors: &mut Errors) {
    let name = hook.child("name");
    if name.is_zero() {
        errors.push(name.missing(""));
    } else {
        let wrong = names::dns1123_subdomain(name.text());
        if wrong.is_empty() && name.text().split('.').count() < 3 {
            errors.push(name.invalid("should be a domain with at least three segments separated by dots"));
        }
        errors.extend(wrong.into_iter().map(|e| name.invalid(e)));
    }
    hook.child("rules").items().for_each(|r| rule(&r, errors));
    for (field, known) in [
        ("failurePolicy", &["Fail", "Ignore"][..]),
        ("matchPolicy", &["Equivalent", "Exact"]),
        ("sideEffects", &["None", "NoneOnDryRun"]),
        ("reinvocationPolicy", &["IfNeeded", "Never"]),
    ] {
        let at = hook.child(field);
        if at.is_set() {
            at.one_of(known, errors);
        } else if field == "sideEffects" {
            errors.push(at.missing("must specify one of None, NoneOnDryRun"));
        }
    }
    let timeout = hook.child("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.int()) {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    label_selector(&hook.child("namespaceSelector"), errors);
    label_selector(&hook.child("objectSelector"), errors);
    client_config(&hook.child("clientConfig"), errors);
    review_versions(&hook.child("admissionReviewVersions"), errors);
}

pub(super) fn rule(rule: &Field<'_>, errors: &mut Errors) {
    let wildcard = |list: &Field<'_>, what: &str, errors: &mut Errors| {
        if list.items().count() > 1 && list.items().any(|item| item.text() == "*") {
            errors.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
        }
    };
    let operations = rule.child("operations");
    operations.required("", errors);
    wildcard(&operations, "operations", errors);
    for operation in operations.items() {
        operation.one_of(&["*", "CONNECT", "CREATE", "DELETE", "UPDATE"], errors);
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let list = rule.child(field);
        list.required("", errors);
        wildcard(&list, what, errors);
        for item in list.items().filter(|item| field == "apiVersions" && item.is_zero()) {
            errors.push(item.missing(""));
        }
    }
    let resources = rule.child("resources");
    resources.required("", errors);
    for resource in resources.items().filter(Field::is_zero) {
        errors.push(resource.missing(""));
    }
    let scope = rule.child("scope");
    if scope.is_set() {
        scope.one_of(&["*", "Cluster", "Namespaced"], errors);
    }
}

/// How a webhook is reached: by a URL, or as a Service.
pub(super) fn client_config(config: &Field<'_>, errors: &mut Errors) {
    let (url, service) = (config.child("url"), config.child("service"));
    match (url.value.as_str(), service.is_set()) {
        (Some(text), false) => {
            const FORM: &str = "; desired format: https://host[/path]";
            let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
            if scheme != "https" {
                let why = format!("'https' is the only allowed URL scheme{FORM}");
                errors.push(FieldError::invalid(&url.path, scheme, why));
            }
            if scheme.is_empty() || rest.starts_with('/') || rest.is_empty() {
                errors.push(FieldError::invalid(&url.path, "", format!("host must be specified{FORM}")));
            }
            for (mark, what) in [('#', "fragments are"), ('?', "query parameters are")] {
                if let Some((_, part)) = rest.split_once(mark).filter(|(_, part)| !part.is_empty()) {
                    errors.push(FieldError::invalid(&url.path, part, format!("{what} not permitted in the URL")));
                }
            }
        }
        (None, true) => {
            service.child("name").required("", errors);
            service.child("namespace").required("", errors);
            let port = service.child("port");
            let wrong = names::port_number(port.int());
            if !wrong.is_empty() {
                errors.push(port.invalid(format!("port is not valid: {}", wrong.join(", "))));
            }
            let path = service.child("path");
            if !path.is_zero() && !path.text().starts_with('/') {
                errors.push(path.invalid("must start with a '/'"));
            }
        }
        _ => errors.push(config.missing("exactly one of url or service is required")),
    }
}

fn review_versions(list: &Field<'_>, errors: &mut Errors) {
    if list.is_zero() {
        errors.push(list.missing("must specify one of v1, v1beta1"));
        return;
    }
    let mut seen: Vec<String> = Vec::new();
    for version in list.items() {
        if seen.iter().any(|s| s == version.text()) {
            errors.push(version.invalid("duplicate version"));
            continue;
        }
        seen.push(version.text().to_owned());
        version.checked(names::dns1035_label, errors);
    }
    if !list.value.as_array().into_iter().flatten().any(|v| matches!(v.as_str(), Some("v1" | "v1beta1"))) {
        errors.push(list.invalid("must include at least one of v1, v1beta1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(hook: &Value) -> Vec<String> {
        configuration(&json!({"webhooks": [hook]})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_webhook_needs_a_name_of_three_parts_and_one_way_to_be_called() {
        let good = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                          "clientConfig": {"url": "https://x.y/z"}});
        assert_eq!(texts(&good), Vec::<String>::new());
        let mut bad = good;
        bad["name"] = json!("a");
        bad["clientConfig"] = json!({});
        assert_eq!(
            texts(&bad),
            [
                "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ]
        );
    }
}
