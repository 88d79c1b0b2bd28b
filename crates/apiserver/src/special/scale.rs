//! `scale` of the kinds that have replicas: a view on the object as `autoscaling/v1` `Scale`.
//!
//! upstream: pkg/registry/apps/deployment/storage, ScaleREST
use super::{SpecialRequest, SpecialResponse, SpecialRest, is_dry_run};
use crate::codec::{FieldValidation, content_type, decode_typed, read_body, retype};
use crate::patch::{APPLY, Patch};
use crate::registry::{Registry, Write};
use crate::server::write::{check_configured_type, field_manager, read_configuration};
use crate::value::{Fill, Object, Read, object_of};
use async_trait::async_trait;
use http::StatusCode;
use pintle_api::apply::{self as managed_apply, FieldManager, Structure, scale};
use pintle_api::facts;
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{GroupKind, GroupResource, Resource};
use pintle_api::selector::LabelSelector;
use pintle_api::status::ApiError;
use serde_json::{Value, json};

/// Where the kinds keep their replicas.
const REPLICAS: &[&str] = &["spec", "replicas"];

/// Reads and writes scales.
#[derive(Debug)]
pub struct Scale;

#[async_trait]
impl SpecialRest for Scale {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body } = request;
        let resource = registry.resource(&cx.info.api_group, &cx.info.resource)?;
        let (namespace, name) = (cx.info.namespace.clone(), cx.info.name.clone());
        if cx.info.verb == "get" {
            let object = registry.get(&resource, &namespace, &name).await?;
            return Ok(SpecialResponse::Object(StatusCode::OK, of(&object)?));
        }
        let mut write = Write::internal(&cx, &resource, &namespace);
        write.dry_run = is_dry_run(&cx);
        let view = as_scale(&resource);
        let media_type = content_type(&parts.headers);
        let body = read_body(body).await?;
        let validation = FieldValidation::parse(cx.info.query.text("fieldValidation"));
        let ty = facts::lookup("autoscaling", "v1", "Scale").ok_or_else(|| ApiError::internal("Scale has no facts"))?;
        let structure = Structure::BuiltIn(ty);
        let name_of_manager = field_manager(&cx, &parts.headers);
        let by =
            FieldManager { subresource: "scale", ..FieldManager::new(name_of_manager, "autoscaling/v1", structure) };
        let written = if media_type == APPLY {
            let (config, force) = (read_configuration(&body)?, cx.info.query.flag("force"));
            check_configured_type(&config, &view)?;
            let by = FieldManager { name: cx.info.query.text("fieldManager"), ..by };
            let change = |object: &mut Value| {
                let scale = managed_apply::apply(Some(&owned(object)?), &config, &by, force)?;
                let scale = retype(&cx, &view, validation, scale)?;
                set(&resource, object, &scale)?;
                scale::managers_from_scale(object, &scale, &resource.api_version(), REPLICAS);
                Ok(())
            };
            registry.update_with(&write, &name, change).await?
        } else {
            let patch = match cx.info.verb {
                "patch" => Some(Patch::parse(&view, media_type, &body)?),
                _ => None,
            };
            let sent = match patch {
                None => decode_typed(&cx, &view, validation, media_type, &body)?,
                Some(_) => Value::Null,
            };
            let change = |object: &mut Value| {
                let old = owned(object)?;
                let mut scale = match &patch {
                    Some(patch) => retype(&cx, &view, validation, patch.apply(&view, &old)?)?,
                    None => sent.clone(),
                };
                set(&resource, object, &scale)?;
                managed_apply::track_update(Some(&old), &mut scale, &by);
                scale::managers_from_scale(object, &scale, &resource.api_version(), REPLICAS);
                Ok(())
            };
            registry.update_with(&write, &name, change).await?
        };
        Ok(SpecialResponse::Object(StatusCode::OK, of(&written.object)?))
    }

    fn handles(&self, verb: &str) -> bool {
        matches!(verb, "get" | "update" | "patch")
    }
}

/// The resource under the type of its scale, which is what patches apply to.
fn as_scale(resource: &Resource) -> Resource {
    Resource { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into(), ..resource.clone() }
}

/// The scale of `object`.
fn of(object: &Value) -> Result<Value, ApiError> {
    let (spec, old) = (object.field("spec"), object.field("metadata"));
    let selector = spec.field("selector");
    let selector = match selector.as_object() {
        Some(labels) if object.kind() == "ReplicationController" => LabelSelector::from_map(labels),
        _ => LabelSelector::from_value(selector).map_err(|e| ApiError::bad_request(e.to_string()))?,
    };
    let mut metadata = Object::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if old.has(field) {
            metadata.set(field, old.field(field).clone());
        }
    }
    let mut wanted = Object::new();
    if !spec.is_zero("replicas") {
        wanted.set("replicas", spec.int("replicas"));
    }
    let mut status = json!({"replicas": object.field("status").int("replicas")});
    let selector = selector.to_string();
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": wanted, "status": status}))
}

/// The scale of `object` with the managers of its replicas.
fn owned(object: &Value) -> Result<Value, ApiError> {
    let mut view = of(object)?;
    scale::managers_to_scale(object, &mut view, REPLICAS);
    Ok(view)
}

/// Gives `object` the replicas of `scale`.
fn set(resource: &Resource, object: &mut Value, scale: &Value) -> Result<(), ApiError> {
    let replicas = scale.field("spec").int("replicas");
    let name = object.name().to_owned();
    if replicas < 0 {
        let path = Path::root("spec.replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(GroupKind { group: "autoscaling", kind: "Scale" }, &name, &[error]));
    }
    if !scale.uid().is_empty() && scale.uid() != object.uid() {
        let (wanted, is) = (scale.uid(), object.uid());
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {is}");
        let plural = format!("{}/scale", resource.plural);
        return Err(ApiError::conflict(GroupResource { group: &resource.group, resource: &plural }, &name, why));
    }
    object.set_meta_str("resourceVersion", scale.resource_version());
    object_of(object).child_or_new("spec").set("replicas", replicas);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector() {
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
                                "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 2}});
        assert_eq!(
            of(&deployment).unwrap(),
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3},
                   "status": {"replicas": 2, "selector": "a=b"}})
        );
    }

    #[test]
    fn a_controllers_selector_is_a_map() {
        let controller = json!({"kind": "ReplicationController", "spec": {"selector": {"a": "b"}}});
        assert_eq!(of(&controller).unwrap()["status"]["selector"], "a=b");
    }
}
