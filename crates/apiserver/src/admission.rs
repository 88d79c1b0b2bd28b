//! Admission: the last word before an authorized write is stored. Start at [`Admission`].
mod certificates;
mod chain;
mod default_class;
mod device_rights;
mod dynamic;
mod limit_ranger;
mod matching;
mod namespace_lifecycle;
pub(crate) mod node_restriction;
mod node_taint;
mod object_in_use;
mod pod_security;
mod pod_tolerations;
mod policies;
mod priority;
mod reinvocation;
mod resource_quota;
mod runtime_class;
mod service_account;
pub(crate) mod webhooks;

pub use chain::ClusterAdmission;
pub(crate) use matching::conditions::{Expression, environment};
pub(crate) use policies::definition::{Environments, object_type, patch_type, with_patch_types};

use crate::context::RequestContext;
use crate::registry::Registry;
use async_trait::async_trait;
use pintle_api::field::FieldError;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use serde_json::Value;

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object (also a created subresource, such as `pods/binding`).
    Create,
    /// A change of an object.
    Update,
    /// A deletion; there is no new object.
    Delete,
    /// A connection to a running thing: exec, attach, port-forward, proxy.
    Connect,
}

/// The circumstances of an admission: upstream's `admission.Attributes`.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// The request; also takes warnings for the client.
    pub cx: &'a RequestContext,
    /// The resource.
    pub resource: &'a Resource,
    /// The subresource, empty if none.
    pub subresource: &'a str,
    /// What is being done.
    pub operation: Operation,
    /// The namespace, empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// The name; empty while a generated one is not yet known.
    pub name: &'a str,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The options of the request (`DeleteOptions`, …), null if there are none.
    pub options: &'a Value,
    /// The object as it is stored, for updates and deletions.
    pub old: Option<&'a Value>,
}

/// Plugins that change or refuse writes.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// The mutating phase, before the object is validated; `object` is absent for deletions.
    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError>;

    /// What is wrong with `object` for reasons that only the cluster knows (rights, a namespace's labels): told with the
    /// other errors of its fields, before the validating phase.
    async fn faults(&self, _attributes: &Attributes<'_>, _object: &Value, _registry: &Registry) -> Vec<FieldError> {
        Vec::new()
    }

    /// The validating phase, on the object as it would be stored.
    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError>;
}
