//! Namespaces: their phase, and the finalizer that is not in their metadata.
use crate::defaults;
use crate::strategy::rules::{Rules, Status};
use crate::validation;
use crate::value::{Fill, Object, Read};
use pintle_api::names;
use serde_json::json;

/// The rules of namespaces.
pub(crate) static NAMESPACE: Rules = Rules {
    default: Some(defaults::core::namespace),
    status: Status::Own(|status| status.set("phase", "Active")),
    create: add_finalizer,
    validate: validation::core::namespace,
    validate_status_update: validation::core::namespace_status,
    update: |new, old| {
        let finalizers = old.field("spec").field("finalizers").clone();
        new.child_or_new("spec").set("finalizers", finalizers);
    },
    name: names::dns1123_label,
    holds_deletion: |namespace| namespace.field("spec").texts("finalizers").next().is_some(),
    mark_deleting: |namespace| namespace.child_or_new("status").set("phase", "Terminating"),
    garbage_collection: false,
    returns_deleted: true,
    ..Rules::PLAIN
};

/// The rules of `finalize`, by which the namespace controller says that it has emptied a namespace.
pub(crate) static FINALIZE: Rules = Rules { update: |_, _| {}, ..NAMESPACE };

/// Every namespace waits for the namespace controller to empty it.
fn add_finalizer(namespace: &mut Object) {
    let spec = namespace.child_or_new("spec");
    if spec.texts("finalizers").any(|f| f == "kubernetes") {
        return;
    }
    match spec.get_mut("finalizers").and_then(|f| f.as_array_mut()) {
        Some(finalizers) => finalizers.push(json!("kubernetes")),
        None => spec.set("finalizers", json!(["kubernetes"])),
    }
}
