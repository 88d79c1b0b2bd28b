//! Defaults of `admissionregistration.k8s.io`.
use crate::value::{Fill, Object};
use serde_json::json;

/// Fills in a ValidatingWebhookConfiguration.
pub(crate) fn validating_webhooks(object: &mut Object) {
    object.each("webhooks").for_each(webhook);
}

/// Fills in a MutatingWebhookConfiguration.
pub(crate) fn mutating_webhooks(object: &mut Object) {
    for hook in object.each("webhooks") {
        webhook(hook);
        hook.fill("reinvocationPolicy", "Never");
    }
}

fn webhook(hook: &mut Object) {
    hook.fill("failurePolicy", "Fail");
    match_rules(hook, "rules");
    hook.fill("timeoutSeconds", 10);
    if let Some(service) = hook.child("clientConfig").and_then(|c| c.child("service")) {
        service.fill("port", 443);
    }
}

fn match_rules(holder: &mut Object, rules: &str) {
    holder.fill("matchPolicy", "Equivalent");
    holder.fill("namespaceSelector", json!({}));
    holder.fill("objectSelector", json!({}));
    for rule in holder.each(rules) {
        rule.fill("scope", "*");
    }
}

fn match_resources(resources: &mut Object) {
    match_rules(resources, "resourceRules");
    for rule in resources.each("excludeResourceRules") {
        rule.fill("scope", "*");
    }
}

/// Fills in a ValidatingAdmissionPolicy or MutatingAdmissionPolicy.
pub(crate) fn policy(object: &mut Object) {
    let spec = object.child_or_new("spec");
    spec.fill("failurePolicy", "Fail");
    if let Some(constraints) = spec.child("matchConstraints") {
        match_resources(constraints);
    }
}

/// Fills in a ValidatingAdmissionPolicyBinding or MutatingAdmissionPolicyBinding.
pub(crate) fn policy_binding(object: &mut Object) {
    if let Some(resources) = object.child("spec").and_then(|s| s.child("matchResources")) {
        match_resources(resources);
    }
}
