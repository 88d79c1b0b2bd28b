//! The `scale` subresource: `autoscaling/v1` Scale as a view of a workload's replicas.
use super::ApiServer;
use super::resource::Call;
use super::write::{is_dry_run, read_typed, validation_of, write_options};
use crate::body::Body;
use crate::codec::{content_type, retype};
use crate::patch::Patch;
use crate::respond;
use http::{Response, StatusCode};
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::{ObjectExt, ensure_map, get};
use pintle_api::scheme::{Resource, Verb};
use pintle_api::selector::LabelSelector;
use pintle_api::status::ApiError;
use serde_json::{Value, json};

impl ApiServer {
    pub(super) async fn scale(&self, call: &Call, verb: Verb, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let name = &call.cx.info.name;
        let kind = Resource {
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            ..(*call.resource).clone()
        };
        let scaled = match verb {
            Verb::Get => self.registry().get(&call.resource, &call.namespace, name).await?,
            Verb::Update => {
                let scale = read_typed(call, &kind, body)?;
                if scale.name() != name {
                    let given = scale.name();
                    let text = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                    return Err(ApiError::bad_request(text));
                }
                self.set_scale(call, "UpdateOptions", &mut |_| Ok(scale.clone())).await?
            }
            _ => {
                let media_type = content_type(&call.parts.headers).to_owned();
                let patch = Patch::parse(&kind, &media_type, body)?;
                let mut edit = |old: &Value| {
                    let patched = patch.apply(&kind, &scale_of(old))?;
                    retype(&call.cx, &kind, validation_of(call), patched)
                };
                self.set_scale(call, "PatchOptions", &mut edit).await?
            }
        };
        respond::value(StatusCode::OK, &call.negotiation, &scale_of(&scaled))
    }

    /// Stores the replicas of the Scale that `edit` makes; returns the workload.
    async fn set_scale(
        &self,
        call: &Call,
        options: &'static str,
        edit: &mut (dyn FnMut(&Value) -> Result<Value, ApiError> + Send),
    ) -> Result<Value, ApiError> {
        let options = write_options(call, options)?;
        let write = self.write_of(call, is_dry_run(&options), &options);
        let name = &call.cx.info.name;
        let written = self.registry().update_with(&write, name, |object| {
            let scale = edit(object)?;
            let replicas = get(&scale, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
            if replicas < 0 {
                let path = Path::root("spec");
                let error =
                    FieldError::invalid(&path.child("replicas"), replicas, "must be greater than or equal to 0");
                let kind = pintle_api::scheme::GroupKind { group: "autoscaling", kind: "Scale" };
                return Err(ApiError::invalid(kind, name, &[error]));
            }
            if !scale.uid().is_empty() {
                object.set_meta_str("uid", scale.uid());
            }
            if !scale.resource_version().is_empty() {
                object.set_meta_str("resourceVersion", scale.resource_version());
            }
            ensure_map(object, &["spec"]).insert("replicas".into(), replicas.into());
            Ok(())
        });
        Ok(written.await?.object)
    }
}

/// The Scale of a workload.
fn scale_of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.metadata().and_then(|metadata| metadata.get(field)) {
            metadata[field] = value.clone();
        }
    }
    let number = |path: &[&str]| get(object, path).and_then(Value::as_i64);
    let mut spec = json!({});
    if let Some(replicas) = number(&["spec", "replicas"]).filter(|replicas| *replicas != 0) {
        spec["replicas"] = replicas.into();
    }
    let mut status = json!({ "replicas": number(&["status", "replicas"]).unwrap_or(0) });
    let selector = object["spec"].get("selector");
    let text = match (selector, object.kind()) {
        (Some(labels), "ReplicationController") => labels.as_object().map(|l| LabelSelector::from_map(l).to_string()),
        (Some(selector), _) => LabelSelector::from_value(selector).ok().map(|selector| selector.to_string()),
        (None, _) => None,
    };
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        status["selector"] = text.into();
    }
    json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status })
}
