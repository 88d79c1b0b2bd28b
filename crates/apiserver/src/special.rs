//! Endpoints with behaviour of their own, outside generic create/get/update/…: [`SpecialRest`], kept in [`Specials`].
pub mod access_review;
mod binding;
mod eviction;
mod gate;
pub mod identity_review;
pub mod openid;
pub(crate) mod scale;
pub mod token_request;

use crate::admission::Admission;
use crate::body::{Body, RequestBody};
use crate::codec::{FieldValidation, content_type, decode_typed, read_body};
use crate::context::RequestContext;
use crate::registry::{Registry, ownership};
use crate::server::write::field_manager;
use crate::strategy;
use async_trait::async_trait;
use http::{Response, StatusCode};
use pintle_api::apply::{self, FieldManager};
use pintle_api::status::ApiError;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// A request for a special endpoint, authenticated and authorized.
pub struct SpecialRequest {
    /// The user, the parsed path and query; takes warnings.
    pub cx: RequestContext,
    /// Method, URI, headers; for streams also `hyper::upgrade::OnUpgrade` among the extensions.
    pub parts: http::request::Parts,
    /// The body as it arrives. [`crate::codec::read_object`] reads it as an object in any supported encoding.
    pub body: RequestBody,
    /// Who must admit what is written.
    pub admission: Arc<dyn Admission>,
}

impl std::fmt::Debug for SpecialRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpecialRequest").field("cx", &self.cx).field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// The answer of a special endpoint.
#[derive(Debug)]
pub enum SpecialResponse {
    /// An object, which is written in the encoding that the client accepts.
    Object(StatusCode, Value),
    /// A response that is sent as it is.
    Raw(Response<Body>),
}

/// An endpoint with behaviour of its own.
#[async_trait]
pub trait SpecialRest: Send + Sync + 'static {
    /// Answers `request`. Errors are written as `Status` objects.
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError>;

    /// Whether this endpoint answers `verb` (`create`, `get`, …); others fall through to the generic registry.
    fn handles(&self, verb: &str) -> bool {
        !verb.is_empty()
    }
}

/// The special endpoints: by API group, resource and subresource (empty: the resource itself), and by path.
#[derive(Clone, Default)]
pub struct Specials {
    resources: HashMap<(String, String, String), Arc<dyn SpecialRest>>,
    paths: HashMap<String, Arc<dyn SpecialRest>>,
}

impl Specials {
    /// Lets `rest` answer for `resource` (and its `subresource`) of `group`, in all versions.
    pub fn register(&mut self, group: &str, resource: &str, subresource: &str, rest: Arc<dyn SpecialRest>) {
        self.resources.insert((group.into(), resource.into(), subresource.into()), rest);
    }

    /// Lets `rest` answer for a path that is no resource (`/openid/v1/jwks`), and for those below it if it ends in `/`.
    pub fn register_path(&mut self, path: &str, rest: Arc<dyn SpecialRest>) {
        self.paths.insert(path.to_owned(), rest);
    }

    /// Who answers for `path`.
    pub fn find_path(&self, path: &str) -> Option<&Arc<dyn SpecialRest>> {
        let below = || self.paths.iter().find(|(known, _)| known.ends_with('/') && path.starts_with(known.as_str()));
        self.paths.get(path).or_else(|| below().map(|(_, rest)| rest))
    }

    /// Who answers `verb` on `resource` and `subresource` of `group`.
    pub fn find(&self, group: &str, resource: &str, subresource: &str, verb: &str) -> Option<&Arc<dyn SpecialRest>> {
        let key = (group.to_owned(), resource.to_owned(), subresource.to_owned());
        self.resources.get(&key).filter(|rest| rest.handles(verb))
    }
}

impl std::fmt::Debug for Specials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.resources.keys()).entries(self.paths.keys()).finish()
    }
}

/// The endpoints of built-in kinds: bindings, evictions, scales.
pub fn register_kinds(specials: &mut Specials) {
    specials.register("", "bindings", "", Arc::new(binding::Binding));
    specials.register("", "pods", "binding", Arc::new(binding::Binding));
    specials.register("", "pods", "eviction", Arc::new(eviction::Eviction));
    specials.register("", "replicationcontrollers", "scale", Arc::new(scale::Scale));
    for plural in ["deployments", "replicasets", "statefulsets"] {
        specials.register("apps", plural, "scale", Arc::new(scale::Scale));
    }
}

/// Reads the body of a request that creates a review, as any created object is read: with its type checked, and owned by
/// whoever sends it.
async fn read_review(
    cx: &RequestContext,
    headers: &http::HeaderMap,
    body: RequestBody,
    registry: &Registry,
) -> Result<Value, ApiError> {
    let bytes = read_body(body).await?;
    let resource = registry.resource(&cx.info.api_group, &cx.info.resource)?;
    let validation = FieldValidation::parse(cx.info.query.text("fieldValidation"));
    let mut review = decode_typed(cx, &resource, validation, content_type(headers), &bytes)?;
    let (api_version, versions) = (resource.api_version(), ownership::ServedVersions::of(registry));
    if let Some(structure) = ownership::structure(&resource) {
        let by = FieldManager {
            name: field_manager(cx, headers),
            api_version: &api_version,
            subresource: "",
            structure,
            reset: strategy::reset_fields(&resource, ""),
            versions: &versions,
        };
        apply::track_update(None, &mut review, &by);
    }
    Ok(review)
}

/// Whether the request asks for a dry run.
fn is_dry_run(cx: &RequestContext) -> bool {
    cx.info.query.all("dryRun").any(|value| value == "All")
}

/// What an endpoint without an object of its own answers.
fn success(code: u16) -> SpecialResponse {
    let status =
        serde_json::json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": code});
    SpecialResponse::Object(StatusCode::from_u16(code).unwrap_or(StatusCode::OK), status)
}
