//! What differs from kind to kind on the way to the store. Start at [`Strategy`] and [`of`].
use crate::context::RequestContext;
use crate::registry::Registry;
use async_trait::async_trait;
use pintle_api::field::FieldError;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use pintle_store::{Compare, Op};
use serde_json::Value;

/// Store operations that commit in the same transaction as the object itself, so that an allocation and the object that
/// holds it come and go together.
#[derive(Clone, Debug, Default)]
pub struct SideWrites {
    /// Must hold at the commit; if one does not, the hook is asked again.
    pub compares: Vec<Compare>,
    /// Applied with the object.
    pub ops: Vec<Op>,
}

/// A kind's own rules: upstream's `rest.RESTCreateStrategy`, `RESTUpdateStrategy` and `RESTDeleteStrategy`.
///
/// The generic registry calls, for a create: `default`, mutating admission, `prepare_for_create`, `validate_create`,
/// validating admission, `before_write`; for an update the same with the old object beside the new one. Metadata (names,
/// generation on spec changes, timestamps, resource version) is the generic registry's business.
#[async_trait]
pub trait Strategy: Send + Sync + 'static {
    /// Fills in what the client left out, as the kind's versioned defaults say.
    fn default(&self, _object: &mut Value) {}

    /// Resets what a client must not set when it creates (`status`, mostly).
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        generic::clear_status(object);
    }

    /// Resets what a client must not change with an update of the main resource (`status`, mostly).
    fn prepare_for_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        generic::keep_status(new, old);
    }

    /// Resets what a client must not change with an update of `status`: all but the status, and upstream's few
    /// metadata exceptions.
    fn prepare_for_status_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        generic::keep_all_but_status(new, old);
    }

    /// Judges a new object; metadata has been judged already.
    fn validate_create(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Judges a change; metadata has been judged already.
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Judges a change of the status.
    fn validate_status_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Judges a change, of the status alone or not; `warn` is told what the client should know in any case.
    fn judge_update(&self, new: &Value, old: &Value, status: bool, _warn: &mut dyn FnMut(String)) -> Vec<FieldError> {
        if status { self.validate_status_update(new, old) } else { self.validate_update(new, old) }
    }

    /// Warnings for whoever creates `object`.
    fn warnings_on_create(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Warnings for whoever changes `old` into `new`.
    fn warnings_on_update(&self, _new: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Whether an update of an object that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether an update without a resource version is taken as one of whatever is stored.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// How long a deletion of `object` waits for whoever finishes it, in seconds: `requested` is what the client asked
    /// for. `None`: the kind is not deleted gracefully.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// What is wrong with `name`, with upstream's texts; names that are a DNS subdomain by default.
    fn validate_name(&self, name: &str) -> Vec<String> {
        pintle_api::names::dns1123_subdomain(name)
    }

    /// Whether `metadata.generation` counts the changes of all but metadata and status.
    fn tracks_generation(&self) -> bool {
        false
    }

    /// What keeps an object that is being deleted besides the finalizers of its metadata (a namespace's own).
    fn holds_deletion(&self, _object: &Value) -> bool {
        false
    }

    /// What else changes when the deletion of an object begins (a namespace's phase).
    fn mark_deleting(&self, _object: &mut Value) {}

    /// Finalizers that every new object of the kind gets.
    fn initial_finalizers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the garbage collector looks after dependents of this kind (not so for events and namespaces).
    fn supports_garbage_collection(&self) -> bool {
        true
    }

    /// Whether DELETE answers with the deleted object rather than a `Status` (upstream's `ReturnDeletedObject`).
    fn returns_deleted_object(&self) -> bool {
        false
    }

    /// Whether dependents are orphaned when the client does not say otherwise (upstream's
    /// `DefaultGarbageCollectionPolicy`).
    fn orphans_dependents_by_default(&self) -> bool {
        false
    }

    /// Allocates what the object needs and writes it into `new`; called right before the store transaction, again if that
    /// conflicts, and also for dry runs (whose writes are dropped).
    async fn before_write(
        &self,
        _cx: &RequestContext,
        _registry: &Registry,
        _old: Option<&Value>,
        _new: &mut Value,
    ) -> Result<SideWrites, ApiError> {
        Ok(SideWrites::default())
    }

    /// What is released in the transaction that removes `old` from the store.
    async fn before_removal(&self, _registry: &Registry, _old: &Value) -> Result<SideWrites, ApiError> {
        Ok(SideWrites::default())
    }
}

pub(crate) use core::set_condition;
pub use reset_fields::reset_fields;

/// The rules for `resource`.
pub fn of(resource: &Resource) -> &dyn Strategy {
    if let Some(custom) = &resource.custom {
        return &**custom;
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", kind) => core::of(kind),
        ("apps", kind) => apps::of(kind),
        ("batch", kind) => batch::of(kind),
        ("autoscaling", "HorizontalPodAutoscaler") if resource.version == "v1" => {
            Some(&groups::HORIZONTAL_POD_AUTOSCALER_V1 as &dyn Strategy)
        }
        ("certificates.k8s.io", kind) => certificates::of(kind),
        (pintle_api::custom::GROUP, "CustomResourceDefinition") => {
            Some(&definitions::CUSTOM_RESOURCE_DEFINITION as &dyn Strategy)
        }
        (group, kind) => groups::of(group, kind),
    }
    .unwrap_or(&generic::Generic)
}

/// The rules for writes to a subresource of `resource`; the empty one is the resource itself.
pub fn of_subresource<'a>(resource: &'a Resource, subresource: &str) -> &'a dyn Strategy {
    match (resource.group.as_str(), resource.kind.as_str(), subresource) {
        ("", "Pod", "binding") => &core::pod::BINDING,
        ("", "Pod", "ephemeralcontainers") => &core::pod::EPHEMERAL_CONTAINERS,
        ("", "Pod", "resize") => &core::pod::RESIZE,
        ("", "Namespace", "finalize") => &core::namespace::FINALIZE,
        ("certificates.k8s.io", "CertificateSigningRequest", "approval") => &certificates::APPROVAL,
        _ => of(resource),
    }
}

mod apps;
mod batch;
mod certificates;
mod core;
pub(crate) mod custom;
mod definitions;
pub mod generic;
mod groups;
mod preview;
mod reset_fields;
pub mod rules;
