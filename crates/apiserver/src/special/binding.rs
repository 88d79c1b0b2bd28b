//! `pods/binding` and `bindings`: a scheduler puts a pod on a node.
//!
//! upstream: pkg/registry/core/pod/storage, BindingREST
use super::gate::Gate;
use super::{SpecialRequest, SpecialResponse, SpecialRest, is_dry_run, success};
use crate::admission::Operation;
use crate::codec::read_object;
use crate::registry::{Registry, Write};
use crate::strategy::set_condition;
use crate::value::{Fill, Read, object_of};
use async_trait::async_trait;
use pintle_api::field::{FieldError, Path, aggregate};
use pintle_api::meta::{self, ObjectExt};
use pintle_api::scheme::GroupResource;
use pintle_api::status::{ApiError, Reason};
use serde_json::Value;

/// Creates bindings.
#[derive(Debug)]
pub struct Binding;

#[async_trait]
impl SpecialRest for Binding {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, admission } = request;
        let mut binding = read_object(&parts.headers, body).await?;
        let pods = registry.resource("", "pods")?;
        // As a resource of their own, bindings are admitted as such.
        let own = match cx.info.subresource.as_str() {
            "" => registry.resource("", "bindings").ok(),
            _ => Some(pods.clone()),
        };
        if let Some(fields) = binding.as_object_mut() {
            fields.set("kind", "Binding");
            fields.set("apiVersion", "v1");
        }
        let gate = own.as_deref().map(|own| Gate::new(&cx, own, Operation::Create, &*admission, registry));
        if let Some(gate) = &gate {
            gate.admit(&mut binding, None).await?;
        }
        let name = match cx.info.subresource.as_str() {
            "" => binding.name().to_owned(),
            _ => cx.info.name.clone(),
        };
        if !binding.name().is_empty() && binding.name() != name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        let errors = validate(&binding);
        if !errors.is_empty() {
            return Err(ApiError::new(500, Reason::Unknown, aggregate(&errors)));
        }
        if let Some(gate) = &gate {
            gate.validate(&binding, None).await?;
        }
        let namespace = cx.info.namespace.clone();
        let mut write = Write::internal(&cx, &pods, &namespace).subresource("binding");
        write.dry_run = is_dry_run(&cx);
        registry.update_with(&write, &name, |pod| assign(pod, &name, &binding)).await?;
        Ok(success(201))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "create"
    }
}

fn validate(binding: &Value) -> Vec<FieldError> {
    let (mut errors, target, path) = (Vec::new(), binding.field("target"), Path::root("target"));
    if !matches!(target.text("kind"), "" | "Node") {
        errors.push(FieldError::not_supported(&path.child("kind"), target.text("kind"), &["Node", "<empty>"]));
    }
    if target.text("name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    errors
}

/// Puts `pod` on the node that `binding` names.
fn assign(pod: &mut Value, name: &str, binding: &Value) -> Result<(), ApiError> {
    let conflict =
        |why: String| Err(ApiError::conflict(GroupResource { group: "", resource: "pods/binding" }, name, why));
    for (field, wanted, is) in
        [("UID", binding.uid(), pod.uid()), ("ResourceVersion", binding.resource_version(), pod.resource_version())]
    {
        if !wanted.is_empty() && wanted != is {
            let why = format!("Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {is}");
            return Err(ApiError::conflict(GroupResource { group: "", resource: "pods" }, name, why));
        }
    }
    let spec = pod.field("spec");
    if pod.deletion_timestamp().is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if !spec.is_zero("nodeName") {
        return conflict(format!("pod {name} is already assigned to node {:?}", spec.text("nodeName")));
    }
    if !spec.is_zero("schedulingGates") {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let pod = object_of(pod);
    pod.child_or_new("spec").set("nodeName", binding.field("target").text("name"));
    for field in ["annotations", "labels"] {
        if let Some(entries) = binding.field("metadata").field(field).as_object().filter(|e| !e.is_empty()) {
            pod.child_or_new("metadata").child_or_new(field).extend(entries.clone());
        }
    }
    let status = pod.child_or_new("status");
    status.remove("nominatedNodeName");
    set_condition(status, "PodScheduled", "True", "", "", &meta::now());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assigned(mut pod: Value) -> Result<Value, String> {
        let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
        assign(&mut pod, "p", &binding).map(|()| pod).map_err(|e| e.to_string())
    }

    #[test]
    fn a_pod_is_put_on_its_node_once() {
        let pod = assigned(json!({"spec": {}, "status": {"phase": "Pending"}})).unwrap();
        assert_eq!(
            (&pod["spec"]["nodeName"], &pod["status"]["conditions"][0]["status"]),
            (&json!("n"), &json!("True"))
        );
        assert_eq!(
            assigned(pod).unwrap_err(),
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
        );
    }

    #[test]
    fn a_binding_names_a_node() {
        let errors = validate(&json!({"target": {"kind": "Pod"}}));
        assert_eq!(
            aggregate(&errors),
            "[target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\", target.name: Required value]"
        );
    }
}
