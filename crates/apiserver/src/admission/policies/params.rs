//! The objects that parametrise a policy. Start at [`collect`].
// upstream: generic/policy_dispatcher.go, CollectParams
use super::definition::{Binding, Policy};
use crate::admission::matching::Event;
use crate::registry::{Registry, decode_stored};
use crate::value::Read;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{Resource, split_api_version};
use pintle_api::selector::LabelSelector;
use pintle_api::status::ApiError;
use serde_json::Value;
use std::sync::Arc;

/// The resource of a policy's parameters; none if it has none.
pub(super) fn kind(policy: &Policy, registry: &Registry) -> Result<Option<Arc<Resource>>, String> {
    let Some((api_version, kind)) = &policy.params else { return Ok(None) };
    let (group, version) = split_api_version(api_version);
    let found = registry.scheme().by_kind(group, version, kind).cloned();
    let unknown = || {
        let shown = if group.is_empty() { format!("/{version}") } else { api_version.clone() };
        format!("failed to find resource referenced by paramKind: '{shown}, Kind={kind}'")
    };
    found.map(Some).ok_or_else(unknown)
}

/// The parameters with which a binding applies a policy: `None` alone where it has none.
pub(super) async fn collect(
    policy: &Policy,
    binding: &Binding,
    event: &Event<'_>,
) -> Result<Vec<Option<Value>>, String> {
    let reference = &binding.params;
    let (Some(resource), false) = (kind(policy, event.registry)?, reference.is_null()) else { return Ok(vec![None]) };
    let namespace = match (resource.namespaced, reference.text("namespace"), event.namespace) {
        (false, "", _) => "",
        (false, _, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (true, "", "") => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
        }
        (true, "", own) => own,
        (true, given, _) => given,
    };
    let text = |error: ApiError| error.message;
    let mut found = Vec::new();
    if !reference.text("name").is_empty() {
        match event.registry.get_stored(&resource, namespace, reference.text("name")).await {
            Ok(stored) => found.push(event.registry.load(&resource, &stored.value).map_err(text)?),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.message),
        }
    } else {
        let selector = LabelSelector::from_value(reference.field("selector")).map_err(|error| error.0)?;
        let (stored, _) = event.registry.list_stored(&resource, namespace).await.map_err(text)?;
        for bytes in stored {
            // Most are not chosen: only those that are are brought into their version.
            if selector.matches(decode_stored(&bytes).map_err(text)?.labels()) {
                found.push(event.registry.load(&resource, &bytes).map_err(text)?);
            }
        }
    }
    if found.is_empty() && reference.text("parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    for params in &mut found {
        params["apiVersion"] = resource.api_version().into();
        params["kind"] = resource.kind.as_str().into();
    }
    Ok(found.into_iter().map(Some).collect())
}
