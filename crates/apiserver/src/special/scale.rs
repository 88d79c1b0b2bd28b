//! `scale` of the kinds that have replicas: a view on the object as `autoscaling/v1` `Scale`.
//!
//! upstream: pkg/registry/apps/deployment/storage, ScaleREST
use super::gate::Gate;
use super::{SpecialRequest, SpecialResponse, SpecialRest, is_dry_run};
use crate::admission::Operation;
use crate::codec::{FieldValidation, Made, content_type, decode_typed, read_body, retype};
use crate::patch::{APPLY, Patch};
use crate::registry::{Registry, Write};
use crate::server::write::{check_configured_type, field_manager, judge_repeated, read_configuration};
use crate::strategy::custom as strategy;
use crate::value::{Fill, Object, Read};
use async_trait::async_trait;
use http::StatusCode;
use pintle_api::apply::{self as managed_apply, FieldManager, Structure, scale};
use pintle_api::custom::Scale as CustomScale;
use pintle_api::facts;
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{GroupKind, GroupResource, Resource};
use pintle_api::selector::LabelSelector;
use pintle_api::status::ApiError;
use serde_json::{Value, json};

/// Where built-in kinds keep their replicas.
const REPLICAS: &[&str] = &["spec", "replicas"];

/// Where the wanted replicas of a resource are.
fn replicas_path(resource: &Resource) -> Vec<&str> {
    match resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(scale) => scale.spec_replicas_path.trim_start_matches('.').split('.').collect(),
        None => REPLICAS.to_vec(),
    }
}

/// How often a write starts over because the object changed meanwhile.
const ATTEMPTS: usize = 64;

/// What a client sent.
enum Sent {
    Whole(Value),
    Patch(Patch),
    Configuration(Value),
}

/// Reads and writes scales.
#[derive(Debug)]
pub struct Scale;

#[async_trait]
impl SpecialRest for Scale {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, admission } = request;
        let scheme = registry.scheme();
        let served = scheme.by_plural(&cx.info.api_group, &cx.info.api_version, &cx.info.resource);
        let resource = served.cloned().ok_or_else(ApiError::unknown_path)?;
        let path = replicas_path(&resource);
        let (namespace, name) = (cx.info.namespace.clone(), cx.info.name.clone());
        if cx.info.verb == "get" {
            let stored = registry.get_stored(&resource, &namespace, &name).await?;
            let object = registry.open(&resource, &stored.value).await?;
            if let Some(scale) = resource.custom.as_ref().and_then(|custom| custom.scale.as_ref())
                && pintle_api::meta::get(&object, &path).is_none()
            {
                let path = &scale.spec_replicas_path;
                return Err(ApiError::internal(format_args!("the spec replicas field {path:?} does not exist")));
            }
            return Ok(SpecialResponse::Object(StatusCode::OK, of(&resource, &object)?));
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
        let force = cx.info.query.flag("force");
        let sent = match cx.info.verb {
            "patch" if media_type == APPLY => {
                let (config, repeated) = read_configuration(&body)?;
                judge_repeated(&cx, validation, repeated)?;
                check_configured_type(&config, &view)?;
                Sent::Configuration(config)
            }
            "patch" => Sent::Patch(Patch::parse(&view, media_type, &body)?),
            _ => Sent::Whole(decode_typed(&cx, &view, validation, media_type, &body)?),
        };
        if let Some(audit) = cx.audit.as_ref().filter(|_| cx.info.verb == "patch") {
            audit.request_patch(&body);
        }
        let applier = FieldManager { name: cx.info.query.text("fieldManager"), ..by };
        let gate = Gate::new(&cx, &resource, Operation::Update, &*admission, registry);
        for _ in 0..ATTEMPTS {
            let stored = registry.get_stored(&resource, &namespace, &name).await?;
            let object = registry.open(&resource, &stored.value).await?;
            let old = owned(&resource, &object)?;
            let mut scale = match &sent {
                Sent::Whole(scale) => scale.clone(),
                Sent::Patch(patch) => retype(&cx, &view, validation, patch.made(), patch.apply(&view, &old)?)?,
                Sent::Configuration(config) => {
                    let applied = managed_apply::apply(Some(&old), config, &applier, force)?;
                    retype(&cx, &view, validation, Made::ByApply, applied)?
                }
            };
            gate.admit(&mut scale, Some(&old)).await?;
            set(&resource, &mut object.clone(), &scale)?;
            gate.validate(&scale, Some(&old)).await?;
            let (applied, mut changed) = (matches!(sent, Sent::Configuration(_)), false);
            let change = |current: &mut Value| {
                if current.resource_version() != object.resource_version() {
                    changed = true;
                    return Err(ApiError::object_modified(resource.group_resource(), &name));
                }
                let mut scale = scale.clone();
                set(&resource, current, &scale)?;
                if !applied {
                    managed_apply::track_update(Some(&old), &mut scale, &by);
                }
                scale::managers_from_scale(current, &scale, &resource.api_version(), &path);
                Ok(())
            };
            match registry.update_with(&write, &name, change).await {
                // What was admitted is not what would be written.
                Err(_) if changed => {}
                written => return Ok(SpecialResponse::Object(StatusCode::OK, of(&resource, &written?.object)?)),
            }
        }
        Err(ApiError::server_timeout(resource.group_resource(), "update", 1))
    }

    fn handles(&self, verb: &str) -> bool {
        matches!(verb, "get" | "update" | "patch")
    }
}

/// The resource under the type of its scale, which is what patches apply to.
pub(crate) fn as_scale(resource: &Resource) -> Resource {
    Resource {
        group: "autoscaling".into(),
        version: "v1".into(),
        kind: "Scale".into(),
        custom: None,
        ..resource.clone()
    }
}

/// The scale of `object`.
fn of(resource: &Resource, object: &Value) -> Result<Value, ApiError> {
    match resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(scale) => of_custom(scale, object),
        None => of_built_in(object),
    }
}

// upstream: apiextensions-apiserver pkg/registry/customresource, scaleFromCustomResource
fn of_custom(paths: &CustomScale, object: &Value) -> Result<Value, ApiError> {
    let number = |path: &str| match strategy::at(object, path) {
        None => Ok(0),
        Some(value) => value.as_i64().ok_or_else(|| ApiError::internal(strategy::wrong_type(path, value, "int64"))),
    };
    let mut scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata_of(object), "spec": {}});
    let wanted = number(&paths.spec_replicas_path)?;
    if wanted != 0 {
        scale["spec"]["replicas"] = wanted.into();
    }
    scale["status"] = json!({"replicas": number(&paths.status_replicas_path)?});
    let selector = paths.label_selector_path.as_deref().filter(|path| !path.is_empty());
    if let Some(value) = selector.and_then(|path| strategy::at(object, path)) {
        let text = value
            .as_str()
            .ok_or_else(|| ApiError::internal(strategy::wrong_type(selector.unwrap_or_default(), value, "string")))?;
        if !text.is_empty() {
            scale["status"]["selector"] = text.into();
        }
    }
    Ok(scale)
}

fn metadata_of(object: &Value) -> Object {
    let (old, mut metadata) = (object.field("metadata"), Object::new());
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if old.has(field) {
            metadata.set(field, old.field(field).clone());
        }
    }
    metadata
}

fn of_built_in(object: &Value) -> Result<Value, ApiError> {
    let spec = object.field("spec");
    let selector = spec.field("selector");
    let selector = match selector.as_object() {
        Some(labels) if object.kind() == "ReplicationController" => LabelSelector::from_map(labels),
        _ => LabelSelector::from_value(selector).map_err(|e| ApiError::bad_request(e.to_string()))?,
    };
    let metadata = metadata_of(object);
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
fn owned(resource: &Resource, object: &Value) -> Result<Value, ApiError> {
    let mut view = of(resource, object)?;
    scale::managers_to_scale(object, &mut view, &replicas_path(resource));
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
    if !scale.resource_version().is_empty() {
        object.set_meta_str("resourceVersion", scale.resource_version());
    }
    if let Some((last, parents)) = replicas_path(resource).split_last() {
        pintle_api::meta::ensure_map(object, parents).set(last, replicas);
    }
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
            of_built_in(&deployment).unwrap(),
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3},
                   "status": {"replicas": 2, "selector": "a=b"}})
        );
    }

    #[test]
    fn a_controllers_selector_is_a_map() {
        let controller = json!({"kind": "ReplicationController", "spec": {"selector": {"a": "b"}}});
        assert_eq!(of_built_in(&controller).unwrap()["status"]["selector"], "a=b");
    }
}
