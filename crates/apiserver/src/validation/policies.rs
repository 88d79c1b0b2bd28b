//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy and their bindings.
// upstream: pkg/apis/admissionregistration/validation
use super::common::label_selector;
use super::conditions::{expression, match_conditions};
use super::field::{Errors, Field};
use super::webhooks::rule;
use crate::admission::{Environments, object_type, patch_type, with_patch_types};
use crate::value::same;
use pintle_api::field::FieldError;
use pintle_api::names;
use pintle_api::scheme::split_api_version;
use pintle_cel::{Env, Type};
use serde_json::Value;

/// How many audit annotations a policy may have.
const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// How long the expression of an audit annotation may be, in bytes.
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;

/// What is wrong with a change: as with a new object, unless the spec stays as it is.
pub(crate) fn changed(new: &Value, old: &Value, validate: fn(&Value) -> Errors) -> Errors {
    if same(&new["spec"], &old["spec"]) { Errors::new() } else { validate(new) }
}

/// A new ValidatingAdmissionPolicy.
pub(crate) fn validating(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Field::root(object, "spec");
    let envs = common_parts(&spec, &mut errors);
    let (validations, annotations) = (spec.child("validations"), spec.child("auditAnnotations"));
    if validations.is_zero() && annotations.is_zero() {
        for list in [&validations, &annotations] {
            errors.push(list.missing("validations or auditAnnotations must contain at least one item"));
        }
    }
    validations.items().for_each(|item| validation(&item, &envs, &mut errors));
    audit_annotations(&annotations, &object["metadata"]["name"], &envs.full, &mut errors);
    errors
}

/// A new MutatingAdmissionPolicy.
pub(crate) fn mutating(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Field::root(object, "spec");
    let env = with_patch_types(common_parts(&spec, &mut errors).full);
    mutable_operations(&spec.child("matchConstraints"), &mut errors);
    let mutations = spec.child("mutations");
    mutations.required("mutations must contain at least one item", &mut errors);
    mutations.items().for_each(|item| mutation(&item, &env, &mut errors));
    spec.child("reinvocationPolicy").required_one_of(&["IfNeeded", "Never"], &mut errors);
    errors
}

/// A new binding of either sort.
pub(crate) fn binding(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Field::root(object, "spec");
    spec.child("policyName").required_checked(names::dns1123_subdomain, &mut errors);
    param_ref(&spec.child("paramRef"), &mut errors);
    let resources = spec.child("matchResources");
    match_resources(&resources, &mut errors);
    if object["kind"] == "MutatingAdmissionPolicyBinding" {
        mutable_operations(&resources, &mut errors);
    } else {
        actions(&spec.child("validationActions"), &mut errors);
    }
    errors
}

/// What both sorts of policies have; their environments for what follows.
fn common_parts(spec: &Field<'_>, errors: &mut Errors) -> Environments {
    spec.child("failurePolicy").required_one_of(&["Fail", "Ignore"], errors);
    param_kind(&spec.child("paramKind"), errors);
    let constraints = spec.child("matchConstraints");
    if constraints.is_set() {
        match_resources(&constraints, errors);
        constraints.child("resourceRules").required("", errors);
    } else {
        errors.push(constraints.missing(""));
    }
    let mut compiled = Vec::new();
    let envs = Environments::of(spec.value, |_, expression| compiled.push(expression.program));
    match_conditions(&spec.child("matchConditions"), &envs.conditions, errors);
    for (variable, program) in spec.child("variables").items().zip(compiled) {
        let (name, expression) = (variable.child("name"), variable.child("expression"));
        if name.text().trim().is_empty() {
            errors.push(name.missing("name is not specified"));
        } else if !is_identifier(name.text()) {
            errors.push(name.invalid("must be a valid CEL identifier"));
        }
        match program {
            _ if expression.text().trim().is_empty() => errors.push(expression.missing("expression is not specified")),
            Err(why) => errors.push(expression.invalid(why)),
            Ok(_) => {}
        }
    }
    envs
}

fn is_identifier(name: &str) -> bool {
    let reserved = ["true", "false", "null", "in"];
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && chars.all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !reserved.contains(&name)
}

fn param_kind(kind: &Field<'_>, errors: &mut Errors) {
    if !kind.is_set() {
        return;
    }
    let (api_version, name) = (kind.child("apiVersion"), kind.child("kind"));
    let text = api_version.text();
    if text.is_empty() {
        errors.push(api_version.missing(""));
    } else if text.matches('/').count() > 1 {
        errors.push(api_version.invalid(format!("unexpected GroupVersion string: {text}")));
    } else {
        let (group, version) = split_api_version(text);
        let wrong = names::dns1123_subdomain(group);
        if !group.is_empty() && !wrong.is_empty() {
            errors.push(FieldError::invalid(&api_version.path, group, wrong.join(",")));
        }
        let wrong = names::dns1035_label(version);
        if version.is_empty() {
            errors.push(api_version.invalid("version must be specified"));
        } else if !wrong.is_empty() {
            errors.push(FieldError::invalid(&api_version.path, version, wrong.join(",")));
        }
    }
    let wrong = names::dns1035_label(&name.text().to_lowercase());
    if name.text().is_empty() {
        errors.push(name.missing(""));
    } else if !wrong.is_empty() {
        errors.push(name.invalid(format!("may have mixed case, but should otherwise match: {}", wrong.join(","))));
    }
}

fn match_resources(resources: &Field<'_>, errors: &mut Errors) {
    if !resources.is_set() {
        return;
    }
    resources.child("matchPolicy").required_one_of(&["Equivalent", "Exact"], errors);
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = resources.child(field);
        if selector.is_set() {
            label_selector(&selector, errors);
        } else {
            errors.push(selector.missing(""));
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for item in resources.child(field).items() {
            let mut seen: Vec<String> = Vec::new();
            for name in item.child("resourceNames").items() {
                name.checked(names::path_segment, errors);
                super::common::unique(&mut seen, &name, errors);
            }
            rule(&item, errors);
        }
    }
}

/// What can be mutated.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

/// Deletions cannot be mutated.
fn mutable_operations(resources: &Field<'_>, errors: &mut Errors) {
    let rules = resources.child("resourceRules");
    for rule in rules.items() {
        for operation in rule.child("operations").items() {
            if !MUTABLE.contains(&operation.text()) {
                let path = rules.path.child("operations");
                errors.push(FieldError::not_supported(&path, operation.text(), &MUTABLE));
            }
        }
    }
}

fn validation(item: &Field<'_>, envs: &Environments, errors: &mut Errors) {
    let condition = item.child("expression");
    if condition.text().trim().is_empty() {
        errors.push(condition.missing("expression is not specified"));
    } else {
        expression(&condition, &envs.full, &[Type::Bool], errors);
    }
    let (text, message) = (item.child("messageExpression"), item.child("message"));
    if !text.text().is_empty() && text.text().trim().is_empty() {
        errors.push(text.invalid("must be non-empty if specified"));
    } else if !text.text().is_empty() {
        expression(&text, &envs.messages, &[Type::String], errors);
    }
    if !message.text().is_empty() && message.text().trim().is_empty() {
        errors.push(message.invalid("must be non-empty if specified"));
    } else if message.text().trim().contains(['\n', '\r']) {
        errors.push(message.invalid("must not contain line breaks"));
    }
    let reason = item.child("reason");
    if reason.is_set() {
        reason.one_of(&["Forbidden", "Invalid", "RequestEntityTooLarge"], errors);
    }
}

fn audit_annotations(list: &Field<'_>, name: &Value, env: &Env, errors: &mut Errors) {
    let name = name.as_str().unwrap_or_default();
    if list.items().count() > MAX_AUDIT_ANNOTATIONS {
        errors.push(list.invalid(format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations")));
    }
    let mut seen: Vec<String> = Vec::new();
    for item in list.items() {
        let (key, value) = (item.child("key"), item.child("valueExpression"));
        if name.is_empty() {
            errors.push(key.invalid("requires metadata.name be non-empty"));
        } else {
            let full = format!("{name}/{}", key.text());
            let wrong = names::qualified_name(&full).into_iter();
            errors.extend(wrong.map(|wrong| FieldError::invalid(&key.path, full.as_str(), wrong)));
        }
        let text = value.text().trim();
        if text.is_empty() {
            errors.push(value.missing("valueExpression is not specified"));
        } else if text.len() > MAX_VALUE_EXPRESSION {
            errors.push(value.missing(format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length")));
        } else {
            expression(&value, env, &[Type::String, Type::Null], errors);
        }
        super::common::unique(&mut seen, &key, errors);
    }
}

fn mutation(item: &Field<'_>, env: &Env, errors: &mut Errors) {
    let (patch, config) = (item.child("jsonPatch"), item.child("applyConfiguration"));
    let kind = item.child("patchType");
    let (wanted, other, ty) = match kind.text() {
        "JSONPatch" => (patch, config, Type::list(patch_type())),
        "ApplyConfiguration" => (config, patch, object_type()),
        _ => {
            kind.required_one_of(&["ApplyConfiguration", "JSONPatch"], errors);
            return;
        }
    };
    if wanted.is_set() {
        expression(&wanted.child("expression"), env, &[ty], errors);
    } else {
        errors.push(wanted.missing(format!("must be specified when patchType is {}", kind.text())));
    }
    if other.is_set() {
        let shown = if kind.text() == "JSONPatch" { "{applyConfiguration}" } else { "{jsonPatch}" };
        let why = format!("must not be specified when patchType is {}", kind.text());
        errors.push(FieldError::invalid(&other.path, shown, why));
    }
}

fn param_ref(reference: &Field<'_>, errors: &mut Errors) {
    if !reference.is_set() {
        return;
    }
    let (name, selector) = (reference.child("name"), reference.child("selector"));
    let both = !name.is_zero() && selector.is_set();
    if !name.is_zero() {
        name.checked(names::path_segment, errors);
    }
    label_selector(&selector, errors);
    if both {
        errors.push(name.forbidden("name and selector are mutually exclusive"));
        errors.push(selector.forbidden("name and selector are mutually exclusive"));
    }
    if name.is_zero() && !selector.is_set() {
        errors.push(reference.missing("one of name or selector must be specified"));
    }
    let action = reference.child("parameterNotFoundAction");
    if action.is_zero() {
        errors.push(action.missing(""));
    } else {
        action.one_of(&["Deny", "Allow"], errors);
    }
}

fn actions(list: &Field<'_>, errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for action in list.items() {
        action.one_of(&["Audit", "Deny", "Warn"], errors);
        super::common::unique(&mut seen, &action, errors);
    }
    let has = |wanted: &str| seen.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        errors.push(list.invalid(why));
    }
    list.required("at least one validation action is required", errors);
}
