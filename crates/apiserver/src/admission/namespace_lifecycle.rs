//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going.
// upstream: apiserver pkg/admission/plugin/namespace/lifecycle
use super::{Attributes, Operation};
use crate::registry::Registry;
use crate::value::Read;
use pintle_api::scheme::GroupResource;
use pintle_api::status::{ApiError, Cause};
use serde_json::Value;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) async fn admit(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    registry: &Registry,
) -> Result<(), ApiError> {
    let resource = attributes.resource;
    if resource.group.is_empty() && resource.plural == "namespaces" {
        let immortal = attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name);
        let refused =
            || ApiError::forbidden(resource.group_resource(), attributes.name, "this namespace may not be deleted");
        return if immortal { Err(refused()) } else { Ok(()) };
    }
    // Updates find their object, which is in a namespace that exists; deletions are always welcome.
    if attributes.namespace.is_empty()
        || attributes.operation != Operation::Create
        || resource.group == "authorization.k8s.io"
    {
        return Ok(());
    }
    let namespaces = registry.resource("", "namespaces")?;
    let namespace = registry.get(&namespaces, "", attributes.namespace).await.map_err(|error| match error.code {
        404 => ApiError::not_found(GroupResource { group: "", resource: "namespaces" }, attributes.namespace),
        _ => error,
    })?;
    if namespace.field("status").text("phase") != "Terminating" {
        return Ok(());
    }
    let name = attributes.namespace;
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    Err(attributes.refuse(object.unwrap_or(&Value::Null), why).with_cause(Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {name} is being terminated"),
        field: "metadata.namespace".to_owned(),
    }))
}
