//! What writers of ResourceClaims need rights for: devices with administrator's access, allocations, the status of a driver's
//! devices. Start at [`faults`].
// upstream: pkg/registry/resource/utils.go
use super::Attributes;
use crate::authz::default::ClusterAuthorizer;
use crate::authz::{self, Authorizer, Decision};
use crate::registry::Registry;
use crate::value::{Read, same};
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::ObjectExt;
use serde_json::Value;
use std::collections::BTreeSet;

/// The group whose objects this is about.
pub(super) const GROUP: &str = "resource.k8s.io";
/// Namespaces with this label set to `true` may ask for administrator's access.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const STATUS: Path<'static> = Path::root("status");

/// What is wrong with a written claim or template for reasons beyond the object itself.
pub(super) async fn faults(
    attributes: &Attributes<'_>,
    object: &Value,
    registry: &Registry,
    authorizer: &ClusterAuthorizer,
) -> Vec<FieldError> {
    let requests = match (attributes.resource.kind.as_str(), attributes.subresource, attributes.old) {
        ("ResourceClaim", "", None) => object.field("spec"),
        ("ResourceClaimTemplate", "", None) => object.field("spec").field("spec"),
        ("ResourceClaim", "status", Some(old)) => return status(attributes, object, old, registry, authorizer).await,
        _ => return Vec::new(),
    };
    let asks = |request: &Value| request.field("exactly").flag("adminAccess");
    let Some(index) = requests.field("devices").items("requests").iter().position(asks) else { return Vec::new() };
    let (spec, devices) = (Path::root("spec"), "devices");
    let place = spec.child(devices);
    let list = place.child("requests");
    admin_access(attributes, registry, &list.index(index).child("adminAccess")).await.into_iter().collect()
}

async fn status(
    attributes: &Attributes<'_>,
    object: &Value,
    old: &Value,
    registry: &Registry,
    authorizer: &ClusterAuthorizer,
) -> Vec<FieldError> {
    let (new, before) = (object.field("status"), old.field("status"));
    let admin = |status: &Value| {
        status
            .field("allocation")
            .field("devices")
            .items("results")
            .iter()
            .position(|result| result.flag("adminAccess"))
    };
    let mut faults = Vec::new();
    if let (None, Some(index)) = (admin(before), admin(new)) {
        let (allocation, devices) = (STATUS.child("allocation"), "devices");
        let place = allocation.child(devices);
        let results = place.child("results");
        faults.extend(admin_access(attributes, registry, &results.index(index).child("adminAccess")).await);
    }
    let bound = ["allocation", "reservedFor"].iter().all(|field| same(new.field(field), before.field(field)));
    let verb = attributes.cx.info.verb;
    if !bound {
        let asked = question(attributes, verb.to_owned(), "binding", String::new(), String::new());
        if let Some(why) = refused(&asked, registry, authorizer).await {
            let text = format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
                 verb=\"{verb}\" permission: {why}"
            );
            faults.push(FieldError::forbidden(&STATUS.child("allocation"), text));
        }
    }
    if new.has("allocation") {
        let near = is_on_node(attributes, new.field("allocation"));
        let verbs: Vec<String> = [near.then_some("associated-node:"), Some("arbitrary-node:")]
            .into_iter()
            .flatten()
            .map(|prefix| format!("{prefix}{verb}"))
            .collect();
        for driver in changed_drivers(new, before) {
            if let Some(why) = refused_driver(attributes, &verbs, driver, registry, authorizer).await {
                let text = format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {why}",
                    verbs.join(" ")
                );
                faults.push(FieldError::forbidden(&STATUS.child("devices"), text));
            }
        }
    }
    faults
}

/// Administrator's access needs a label on the namespace.
async fn admin_access(attributes: &Attributes<'_>, registry: &Registry, place: &Path<'_>) -> Option<FieldError> {
    let namespace = match registry.resource("", "namespaces") {
        Ok(namespaces) => registry.get(&namespaces, "", attributes.namespace).await,
        Err(error) => Err(error),
    };
    match namespace {
        Err(error) => {
            let text = format!("could not retrieve namespace to verify admin access: {}", error.message);
            Some(FieldError::internal(place, text))
        }
        Ok(namespace) if namespace.label(ADMIN_LABEL) == Some("true") => None,
        Ok(_) => {
            let text =
                format!("admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace");
            Some(FieldError::forbidden(place, text))
        }
    }
}

/// The drivers whose devices have another status than before.
fn changed_drivers<'v>(new: &'v Value, old: &'v Value) -> BTreeSet<&'v str> {
    let key = |device: &Value| ["driver", "pool", "device", "shareID"].map(|field| device.text(field).to_owned());
    let (new, old) = (new.items("devices"), old.items("devices"));
    let differs =
        |device: &Value, others: &[Value]| !others.iter().any(|other| key(other) == key(device) && same(other, device));
    let changed = new.iter().filter(|device| differs(device, old));
    let removed = old.iter().filter(|device| !new.iter().any(|other| key(other) == key(device)));
    changed.chain(removed).map(|device| device.text("driver")).collect()
}

/// Whether the user is a service account's pod on the node that the claim's devices are of.
fn is_on_node(attributes: &Attributes<'_>, allocation: &Value) -> bool {
    let user = &attributes.cx.user;
    let Some([node]) = user.extra.get(NODE_NAME).map(Vec::as_slice) else { return false };
    let [term] = allocation.field("nodeSelector").items("nodeSelectorTerms") else { return false };
    let ([], [field]) = (term.items("matchExpressions"), term.items("matchFields")) else { return false };
    let of_node = field.text("key") == "metadata.name" && field.text("operator") == "In";
    let [value] = field.items("values") else { return false };
    user.name.starts_with("system:serviceaccount:") && of_node && value.as_str() == Some(node)
}

fn question(
    attributes: &Attributes<'_>,
    verb: String,
    subresource: &str,
    namespace: String,
    name: String,
) -> authz::Attributes {
    let asked = authz::Attributes::of_request(&attributes.cx.user, &attributes.cx.info);
    authz::Attributes { verb, subresource: subresource.to_owned(), namespace, name, ..asked }
}

/// Why the user may not do what is asked; none if they may.
async fn refused(asked: &authz::Attributes, registry: &Registry, authorizer: &ClusterAuthorizer) -> Option<String> {
    match authorizer.authorize(asked, registry).await {
        Decision::Allow => None,
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Some(asked.forbidden(&reason).message),
    }
}

/// One of `verbs` is enough; the first one's refusal is told.
async fn refused_driver(
    attributes: &Attributes<'_>,
    verbs: &[String],
    driver: &str,
    registry: &Registry,
    authorizer: &ClusterAuthorizer,
) -> Option<String> {
    let mut first = None;
    for verb in verbs {
        let asked = question(attributes, verb.clone(), "driver", attributes.namespace.to_owned(), driver.to_owned());
        let why = refused(&asked, registry, authorizer).await?;
        first.get_or_insert(why);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drivers_of_new_changed_and_removed_devices_are_named() {
        let device = |driver: &str, data: i64| json!({"driver": driver, "pool": "p", "device": "d", "data": data});
        let old = json!({"devices": [device("same", 1), device("changed", 1), device("gone", 1)]});
        let new = json!({"devices": [device("same", 1), device("changed", 2), device("new", 1)]});
        assert_eq!(changed_drivers(&new, &old).into_iter().collect::<Vec<_>>(), ["changed", "gone", "new"]);
        assert!(changed_drivers(&old, &old).is_empty());
    }
}
