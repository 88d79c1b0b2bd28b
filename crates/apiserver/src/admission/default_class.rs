//! DefaultStorageClass and DefaultIngressClass: claims and ingresses without a class get the default one.
// upstream: plugin/pkg/admission/storage/storageclass/setdefault, plugin/pkg/admission/network/defaultingressclass
use super::Attributes;
use crate::registry::Registry;
use crate::value::{Fill, Read, object_of};
use pintle_api::meta::ObjectExt;
use pintle_api::status::ApiError;
use serde_json::Value;

pub(super) async fn admit_claim(claim: &mut Value, registry: &Registry) -> Result<(), ApiError> {
    let named = claim.annotation("volume.beta.kubernetes.io/storage-class").is_some()
        || claim.field("spec").has("storageClassName");
    if named {
        return Ok(());
    }
    let classes = registry.resource("storage.k8s.io", "storageclasses")?;
    let keys = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let mut defaults = defaults(registry.list(&classes, "").await?.items, &keys);
    // The newest first; of several of one second the first by name.
    defaults.sort_by(|a, b| (b.creation_timestamp(), a.name()).cmp(&(a.creation_timestamp(), b.name())));
    if let Some(class) = defaults.first() {
        object_of(claim).child_or_new("spec").set("storageClassName", class.name());
    }
    Ok(())
}

pub(super) async fn admit_ingress(
    attributes: &Attributes<'_>,
    ingress: &mut Value,
    registry: &Registry,
) -> Result<(), ApiError> {
    let named =
        ingress.annotation("kubernetes.io/ingress.class").is_some() || ingress.field("spec").has("ingressClassName");
    if named {
        return Ok(());
    }
    let classes = registry.resource("networking.k8s.io", "ingressclasses")?;
    let keys = ["ingressclass.kubernetes.io/is-default-class"];
    let mut defaults = defaults(registry.list(&classes, "").await?.items, &keys);
    if defaults.len() > 1 {
        let why = format!("{} default IngressClasses were found, only 1 allowed", defaults.len());
        tracing::debug!(ingress = attributes.name, why, "choosing the newest");
    }
    defaults.sort_by(|a, b| (b.creation_timestamp(), a.name()).cmp(&(a.creation_timestamp(), b.name())));
    if let Some(class) = defaults.first() {
        object_of(ingress).child_or_new("spec").set("ingressClassName", class.name());
    }
    Ok(())
}

fn defaults(classes: Vec<Value>, keys: &[&str]) -> Vec<Value> {
    let is_default = |class: &Value| keys.iter().any(|key| class.annotation(key) == Some("true"));
    classes.into_iter().filter(is_default).collect()
}
