//! Requests for API resources: which handler answers.
use super::{ApiServer, method_not_allowed};
use crate::body::{Body, RequestBody};
use crate::codec::read_body;
use crate::context::RequestContext;
use crate::deprecation::{self, Deprecation};
use crate::negotiate::{ACCEPTED, Encoding, Negotiation, View};
use crate::special;
use http::Response;
use pintle_api::scheme::{Resource, Verb};
use pintle_api::status::{ApiError, Reason};
use std::sync::Arc;

/// A request for a resource, ready to be answered.
pub(super) struct Call {
    pub cx: RequestContext,
    pub negotiation: Negotiation,
    pub parts: http::request::Parts,
    pub resource: Arc<Resource>,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
}

impl ApiServer {
    pub(super) async fn resource(
        &self,
        cx: RequestContext,
        negotiation: Negotiation,
        parts: http::request::Parts,
        body: RequestBody,
    ) -> Result<Response<Body>, ApiError> {
        let info = &cx.info;
        let special = self.parts().specials.find(&info.api_group, &info.resource, &info.subresource, info.verb);
        if let Some(rest) = special.cloned() {
            self.admit_connection(&cx).await?;
            return self.special(&*rest, cx, parts, body, negotiation).await;
        }
        if info.subresource == "scale"
            && self.serves_custom_scale(&cx)
            && matches!(info.verb, "get" | "update" | "patch")
        {
            return self.special(&special::scale::Scale, cx, parts, body, negotiation).await;
        }
        // Read before anything is refused, so that the connection stays usable.
        let body = read_body(body).await?;
        let scheme = self.registry().scheme();
        if !scheme.group_versions().iter().any(|gv| gv.group == info.api_group) {
            return Ok(super::paths::not_found());
        }
        let found = scheme.by_plural(&info.api_group, &info.api_version, &info.resource);
        let resource = found.cloned().ok_or_else(ApiError::unknown_path)?;
        let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == info.verb).ok_or_else(method_not_allowed)?;
        check_route(&resource, &cx, verb)?;
        let whole = negotiation.view == View::Whole && cx.info.subresource != "scale";
        if resource.custom.is_some() && whole && negotiation.encoding == Encoding::Protobuf {
            let mut error = ApiError::new(406, Reason::NotAcceptable, crate::codec::NO_PROTOBUF);
            error.details_mut();
            return Err(error);
        }
        if negotiation.view == View::Table && !has_table(&info.api_group, &info.subresource) {
            return Err(ApiError::not_acceptable(&ACCEPTED));
        }
        if let Some(deprecation) = deprecation::of(&resource) {
            cx.warn(deprecation.warning(&resource));
            self.note_deprecated(&cx, &deprecation);
        }
        if let Some(warning) = resource.custom.as_ref().and_then(|custom| custom.deprecation.as_ref()) {
            cx.warn(warning.clone());
        }
        let namespace = if resource.namespaced { info.namespace.clone() } else { String::new() };
        let call = Call { negotiation, parts, resource, namespace, cx };
        let mut response = match verb {
            Verb::Get => self.get(&call).await,
            Verb::List => self.list(&call).await,
            Verb::Watch => self.watch(&call).await,
            Verb::Create => self.create(&call, &body).await,
            Verb::Update => self.update(&call, &body).await,
            Verb::Patch => self.patch(&call, &body).await,
            Verb::Delete => self.delete(&call, &body).await,
            Verb::DeleteCollection => self.delete_collection(&call, &body).await,
        }
        .unwrap_or_else(|error| crate::respond::error(&error, &call.negotiation));
        crate::respond::add_warnings(&mut response, &call.cx.take_warnings());
        Ok(response)
    }
}

impl ApiServer {
    /// Counts and records that something deprecated is used.
    fn note_deprecated(&self, cx: &RequestContext, deprecation: &Deprecation) {
        let removed = deprecation.removed_release();
        self.metrics().deprecated(&cx.info, &removed);
        cx.annotate("k8s.io/deprecated", "true");
        if !removed.is_empty() {
            cx.annotate("k8s.io/removed-release", removed);
        }
    }

    /// Whether the request is for the scale of a custom resource that has one.
    fn serves_custom_scale(&self, cx: &RequestContext) -> bool {
        let (info, scheme) = (&cx.info, self.registry().scheme());
        let found = scheme.by_plural(&info.api_group, &info.api_version, &info.resource);
        found.is_some_and(|resource| resource.custom.as_ref().is_some_and(|custom| custom.scale.is_some()))
    }
}

/// Whether a subresource can be shown as a table: upstream left some out.
fn has_table(group: &str, subresource: &str) -> bool {
    !matches!(
        (group, subresource),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", "status") | ("certificates.k8s.io", "status" | "approval")
    )
}

/// Whether the path exists (404) and takes the verb (405).
fn check_route(resource: &Resource, cx: &RequestContext, verb: Verb) -> Result<(), ApiError> {
    let info = &cx.info;
    let collection = matches!(verb, Verb::List | Verb::Watch | Verb::Create | Verb::DeleteCollection);
    let in_namespace = !info.namespace.is_empty();
    if info.parts.len() > 3 || (!resource.namespaced && in_namespace && resource.plural != "namespaces") {
        return Err(ApiError::unknown_path());
    }
    if resource.namespaced && !in_namespace {
        match verb {
            Verb::List | Verb::Watch => {}
            Verb::Create | Verb::DeleteCollection => return Err(method_not_allowed()),
            // The collection of all namespaces is there, but only to be read.
            _ if info.name.is_empty() => return Err(method_not_allowed()),
            _ => return Err(ApiError::unknown_path()),
        }
    }
    let verbs = match info.subresource.as_str() {
        "" => resource.verbs,
        name => resource.subresource(name).ok_or_else(ApiError::unknown_path)?.verbs,
    };
    let nameless = info.name.is_empty() && !collection;
    if nameless || !verbs.contains(verb) || (collection && verb == Verb::Create && !info.name.is_empty()) {
        return Err(method_not_allowed());
    }
    Ok(())
}
