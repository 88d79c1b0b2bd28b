//! Fields that a write resets, whatever is sent, so that nobody comes to own them by it.
// upstream: GetResetFields and GetResetFieldsFilter of the strategies
use pintle_api::apply::ResetFields;
use pintle_api::scheme::Resource;

const STATUS: ResetFields = ResetFields::All(&[&["status"]]);
const SPEC: ResetFields = ResetFields::All(&[&["spec"]]);
const METADATA_AND_SPEC: ResetFields = ResetFields::All(&[&["metadata"], &["spec"]]);
const RESIZE: ResetFields = ResetFields::AllBut(&[
    &["spec", "containers", "*", "resources"],
    &["spec", "containers", "*", "resizePolicy"],
    &["spec", "initContainers", "*", "resources"],
    &["spec", "initContainers", "*", "resizePolicy"],
]);

/// What a write of `subresource` (empty: the object itself) of `resource` leaves alone.
pub fn reset_fields(resource: &Resource, subresource: &str) -> ResetFields {
    match (resource.group.as_str(), resource.kind.as_str(), subresource) {
        ("", "Pod", "ephemeralcontainers") => ResetFields::AllBut(&[&["spec", "ephemeralContainers"]]),
        ("", "Pod", "resize") => RESIZE,
        ("", "Pod", "status") => {
            ResetFields::All(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        ("apps", "Deployment", "status") => ResetFields::All(&[&["spec"], &["metadata", "labels"]]),
        ("certificates.k8s.io", "CertificateSigningRequest", "") => ResetFields::All(&[&["spec"], &["status"]]),
        ("certificates.k8s.io", "CertificateSigningRequest", "status") => {
            ResetFields::All(&[&["spec"], &["status", "conditions"]])
        }
        ("certificates.k8s.io", "CertificateSigningRequest", "approval") => {
            ResetFields::All(&[&["spec"], &["status", "certificate"]])
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", _)
        | ("certificates.k8s.io", "PodCertificateRequest", "") => ResetFields::None,
        (
            "networking.k8s.io"
            | "resource.k8s.io"
            | "storage.k8s.io"
            | "admissionregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "internal.apiserver.k8s.io"
            | "storagemigration.k8s.io"
            | "scheduling.k8s.io",
            kind,
            "status",
        ) if kind != "Ingress" => METADATA_AND_SPEC,
        (_, _, "" | "finalize") if resource.subresource("status").is_some() => STATUS,
        (_, _, "status") if facts_of(resource) => SPEC,
        (_, _, "status") => METADATA_AND_SPEC,
        _ => ResetFields::None,
    }
}

/// Whether the kind is built in; custom resources may change nothing but their status there.
fn facts_of(resource: &Resource) -> bool {
    pintle_api::facts::lookup(&resource.group, &resource.version, &resource.kind).is_some()
}
