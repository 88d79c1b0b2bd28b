//! Admission of objects that are written through a subresource and not stored themselves: bindings, evictions, requests for
//! tokens, scales. Start at [`Gate`].
use crate::admission::{Admission, Attributes, Operation};
use crate::context::RequestContext;
use crate::registry::Registry;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use serde_json::{Value, json};

/// Asks admission about one write.
pub(super) struct Gate<'a> {
    cx: &'a RequestContext,
    resource: &'a Resource,
    operation: Operation,
    dry_run: bool,
    options: Value,
    admission: &'a dyn Admission,
    registry: &'a Registry,
}

impl<'a> Gate<'a> {
    /// For the request of `cx`, on a subresource of `resource`.
    pub(super) fn new(
        cx: &'a RequestContext,
        resource: &'a Resource,
        operation: Operation,
        admission: &'a dyn Admission,
        registry: &'a Registry,
    ) -> Self {
        let query = &cx.info.query;
        let kind = match cx.info.verb {
            "patch" => "PatchOptions",
            "update" => "UpdateOptions",
            _ => "CreateOptions",
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        for name in ["fieldManager", "fieldValidation"] {
            if let Some(value) = query.get(name).filter(|value| !value.is_empty()) {
                options[name] = value.into();
            }
        }
        let dry_run = super::is_dry_run(cx);
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        Gate { cx, resource, operation, dry_run, options, admission, registry }
    }

    fn attributes<'b>(&'b self, old: Option<&'b Value>) -> Attributes<'b> {
        Attributes {
            cx: self.cx,
            resource: self.resource,
            subresource: &self.cx.info.subresource,
            operation: self.operation,
            namespace: &self.cx.info.namespace,
            name: &self.cx.info.name,
            dry_run: self.dry_run,
            options: &self.options,
            old,
        }
    }

    /// The mutating phase. The audit record sees the object as it was sent.
    pub(super) async fn admit(&self, object: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        if let Some(audit) = self.cx.audit.as_ref().filter(|_| self.cx.info.verb != "patch") {
            audit.request_object(object);
        }
        self.admission.admit(&self.attributes(old), Some(object), self.registry).await
    }

    /// The validating phase.
    pub(super) async fn validate(&self, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        self.admission.validate(&self.attributes(old), Some(object), self.registry).await
    }
}
