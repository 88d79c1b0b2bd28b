//! APIServices.
// upstream: kube-aggregator pkg/apis/apiregistration/validation
use super::field::{Errors, Field};
use pintle_api::meta::ObjectExt;
use pintle_api::{field::FieldError, names};
use serde_json::Value;

/// A new or changed APIService.
pub(crate) fn api_service(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let (group, version) = (spec.child("group"), spec.child("version"));
    let required = format!("{}.{}", version.text(), group.text());
    if !object.name().is_empty() && object.name() != required && names::path_segment(object.name()).is_empty() {
        let metadata = Field::root(object, "metadata");
        let quoted = pintle_api::field::go_quote(&required);
        errors.push(metadata.child("name").invalid(format!("must be `spec.version+\".\"+spec.group`: {quoted}")));
    }
    if group.text().is_empty() && version.text() != "v1" {
        errors.push(group.missing("only v1 may have an empty group and it better be legacy kube"));
    }
    if !group.text().is_empty() {
        errors.extend(names::dns1123_subdomain(group.text()).into_iter().map(|text| group.invalid(text)));
    }
    version.text_checked(names::dns1035_label, &mut errors);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let priority = spec.child(field);
        if !(1..=most).contains(&priority.int()) {
            let text = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(&priority.path, priority.int(), text));
        }
    }
    let (service, bundle, insecure) =
        (spec.child("service"), spec.child("caBundle"), spec.child("insecureSkipTLSVerify"));
    if service.value.is_null() {
        if !bundle.text().is_empty() {
            let size = bundle.text().trim_end_matches('=').len() * 3 / 4;
            let text = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(&bundle.path, format!("{size} bytes"), text));
        }
        if insecure.flag() {
            errors.push(insecure.invalid("local APIServices may not have insecureSkipTLSVerify"));
        }
        return errors;
    }
    service.child("namespace").required("", &mut errors);
    service.child("name").required("", &mut errors);
    let port = service.child("port");
    if !(1..=65535).contains(&port.int()) {
        let text = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(&port.path, port.int(), text));
    }
    if insecure.flag() && !bundle.text().is_empty() {
        errors.push(insecure.invalid("may not be true if caBundle is present"));
    }
    errors
}

/// A changed status of an APIService.
pub(crate) fn api_service_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    for condition in status.child("conditions").items() {
        condition.child("status").one_of(&["True", "False", "Unknown"], &mut errors);
    }
    errors
}
