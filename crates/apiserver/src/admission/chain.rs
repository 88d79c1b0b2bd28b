//! The built-in plugins in upstream's order. Start at [`ClusterAdmission`].
use super::dynamic::Dynamic;
use super::{Admission, Attributes, Operation};
use super::{
    certificates, default_class, device_rights, limit_ranger, namespace_lifecycle, node_restriction, node_taint,
    object_in_use, pod_security, pod_tolerations, priority, runtime_class, service_account,
};
use crate::authz::default::ClusterAuthorizer;
use crate::authz::{escalation, rbac};
use crate::registry::Registry;
use async_trait::async_trait;
use pintle_api::field::FieldError;
use pintle_api::status::ApiError;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// What a Pintle API server admits by.
#[derive(Clone, Debug)]
pub struct ClusterAdmission {
    authorizer: ClusterAuthorizer,
    dynamic: Dynamic,
}

impl ClusterAdmission {
    /// The plugins where nobody's rights are known: only members of `system:masters` write roles and bindings.
    pub fn without_rights() -> Self {
        ClusterAdmission { authorizer: ClusterAuthorizer::default(), dynamic: Dynamic::default() }
    }

    /// All plugins; `authorizer` knows what rights the author of a role has. Webhooks, policies and quotas are followed in
    /// `registry` until `stop`.
    pub async fn start(
        authorizer: ClusterAuthorizer,
        registry: &Registry,
        stop: &CancellationToken,
    ) -> Result<Self, ApiError> {
        let dynamic = Dynamic::start(authorizer.clone(), registry, stop).await?;
        Ok(ClusterAdmission { authorizer, dynamic })
    }

    async fn admit_built_in(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let (group, resource) = (attributes.resource.group.as_str(), attributes.resource.plural.as_str());
        namespace_lifecycle::admit(attributes, object.as_deref(), registry).await?;
        node_restriction::admit(attributes, object.as_deref(), registry).await?;
        let Some(object) = object else { return Ok(()) };
        let whole = attributes.subresource.is_empty();
        let create = attributes.operation == Operation::Create;
        match (group, resource) {
            ("", "pods") if whole => {
                if create {
                    limit_ranger::admit(attributes, object, registry).await?;
                    service_account::admit(attributes, object, registry).await?;
                }
                priority::admit(attributes, object, registry).await?;
                pod_tolerations::admit(object);
                if create {
                    runtime_class::admit(attributes, object, registry).await?;
                }
            }
            ("", "nodes") if whole && create => node_taint::admit(object),
            ("", "persistentvolumeclaims") if whole && create => {
                default_class::admit_claim(object, registry).await?;
                object_in_use::protect(object, "kubernetes.io/pvc-protection");
            }
            ("", "persistentvolumes") if whole && create => {
                object_in_use::protect(object, "kubernetes.io/pv-protection");
            }
            ("storage.k8s.io", "volumeattributesclasses") if whole && create => {
                object_in_use::protect(object, "kubernetes.io/vac-protection");
            }
            ("networking.k8s.io", "ingresses") if whole && create => {
                default_class::admit_ingress(attributes, object, registry).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn validate_built_in(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        let whole = attributes.subresource.is_empty();
        pod_security::validate(attributes, object, registry).await?;
        match (attributes.resource.group.as_str(), attributes.resource.plural.as_str()) {
            (rbac::GROUP, _) => {
                let write = escalation::Write {
                    user: &attributes.cx.user,
                    resource: attributes.resource,
                    namespace: attributes.namespace,
                    name: attributes.name,
                    old: attributes.old,
                };
                escalation::check(&write, object, &self.authorizer)
            }
            ("certificates.k8s.io", "certificatesigningrequests") => {
                certificates::validate(attributes, object, &self.authorizer)
            }
            ("", "pods") if whole && attributes.operation == Operation::Create => {
                limit_ranger::validate(attributes, object, registry).await?;
                service_account::validate(attributes, object, registry).await?;
                runtime_class::validate(attributes, object, registry).await
            }
            ("", "pods") if attributes.subresource == "resize" => {
                limit_ranger::validate(attributes, object, registry).await
            }
            ("", "persistentvolumeclaims") if whole => limit_ranger::validate(attributes, object, registry).await,
            ("scheduling.k8s.io", "priorityclasses") if whole => {
                priority::validate_class(attributes, object, registry).await
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Admission for ClusterAdmission {
    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        self.admit_built_in(attributes, object.as_deref_mut(), registry).await?;
        let Some(mut rounds) = self.dynamic.begin(attributes) else { return Ok(()) };
        self.dynamic.admit(attributes, object.as_deref_mut(), registry, &mut rounds).await?;
        if rounds.again() {
            self.admit_built_in(attributes, object.as_deref_mut(), registry).await?;
            self.dynamic.admit(attributes, object, registry, &mut rounds).await?;
        }
        Ok(())
    }

    async fn faults(&self, attributes: &Attributes<'_>, object: &Value, registry: &Registry) -> Vec<FieldError> {
        if attributes.resource.group != device_rights::GROUP {
            return Vec::new();
        }
        device_rights::faults(attributes, object, registry, &self.authorizer).await
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        self.validate_built_in(attributes, object, registry).await?;
        self.dynamic.validate(attributes, object, registry).await
    }
}

impl Attributes<'_> {
    /// The error of a plugin that refuses `object`.
    pub(crate) fn refuse(&self, object: &Value, why: impl std::fmt::Display) -> ApiError {
        use pintle_api::meta::ObjectExt;
        let given = [object.name(), self.name, object.generate_name()];
        let name = given.into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown/errorGettingName");
        ApiError::forbidden(self.resource.group_resource(), name, why)
    }
}
