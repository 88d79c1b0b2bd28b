//! Defaults of `apiextensions.k8s.io`.
use crate::value::{Fill, Object, Read};
use serde_json::json;

/// Fills in a CustomResourceDefinition.
pub(crate) fn definition(object: &mut Object) {
    let spec = object.child_or_new("spec");
    let names = spec.child_or_new("names");
    let kind = names.text("kind").to_owned();
    if !kind.is_empty() {
        names.fill_zero("singular", kind.to_lowercase());
        names.fill_zero("listKind", format!("{kind}List"));
    }
    spec.fill("conversion", json!({"strategy": "None"}));
    let webhook = spec.child("conversion").and_then(|conversion| conversion.child("webhook"));
    if let Some(service) = webhook.and_then(|webhook| webhook.child("clientConfig")).and_then(|c| c.child("service")) {
        service.fill("port", 443);
    }
    let versions = spec.items("versions");
    let storage = versions.iter().find(|version| version.flag("storage")).map(|version| version.field("name").clone());
    if let Some(storage) = storage {
        object.child_or_new("status").fill_zero("storedVersions", json!([storage]));
    }
}
