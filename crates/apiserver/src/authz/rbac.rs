//! The RBAC authorizer: roles and bindings followed in memory. Start at [`Rbac::start`].
use super::index::{Index, Role, RoleRef, Verdict};
use super::rules::PolicyRule;
use super::{Attributes, Decision};
use crate::follow::follow;
use crate::registry::Registry;
use bytes::Bytes;
use parking_lot::RwLock;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Decides by roles and bindings; clones share the index.
#[derive(Clone, Debug, Default)]
pub struct Rbac(Arc<RwLock<Index>>);

impl Rbac {
    /// Reads all roles and bindings of `registry` and follows them until `stop`.
    pub async fn start(registry: &Registry, stop: &CancellationToken) -> Result<Self, ApiError> {
        let rbac = Rbac::default();
        let index = rbac.0.clone();
        rbac.follow(registry, "clusterroles", stop, move |_, name, role| index.write().set_cluster_role(name, role))
            .await?;
        let index = rbac.0.clone();
        rbac.follow(registry, "roles", stop, move |ns, name, role: Option<Role>| {
            index.write().set_role(ns, name, role);
        })
        .await?;
        let index = rbac.0.clone();
        rbac.follow(registry, "clusterrolebindings", stop, move |_, name, binding| {
            index.write().set_cluster_role_binding(name, binding);
        })
        .await?;
        let index = rbac.0.clone();
        rbac.follow(registry, "rolebindings", stop, move |ns, name, binding| {
            index.write().set_role_binding(ns, name, binding);
        })
        .await?;
        Ok(rbac)
    }

    async fn follow<T: DeserializeOwned>(
        &self,
        registry: &Registry,
        plural: &'static str,
        stop: &CancellationToken,
        set: impl Fn(&str, &str, Option<T>) + Send + 'static,
    ) -> Result<(), ApiError> {
        let resource = registry.resource(GROUP, plural)?;
        let apply = move |namespace: &str, name: &str, stored: Option<&Bytes>| {
            let decoded = stored.map(|bytes| serde_json::from_slice::<T>(bytes)).transpose();
            // What cannot be read grants nothing.
            let object = decoded.unwrap_or_else(|error| {
                tracing::error!(resource = plural, namespace, name, %error, "a stored object is damaged; it is ignored");
                None
            });
            set(namespace, name, object);
        };
        follow(registry, &resource, stop.clone(), Box::new(apply)).await
    }

    /// Whether the rules allow what `attributes` describe, and why.
    pub fn decide(&self, attributes: &Attributes) -> (Decision, String) {
        if attributes.user.groups.iter().any(|group| group == "system:masters") {
            return (Decision::Allow, String::new());
        }
        match self.0.read().decide(attributes) {
            Verdict::Allowed(reason) => (Decision::Allow, reason),
            Verdict::NotAllowed(reason) => (Decision::NoOpinion(reason.clone()), reason),
        }
    }

    /// All rules of `user` in `namespace`, and the errors met while they were looked up.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        self.0.read().rules_for(user, namespace)
    }

    /// The rules that a binding in `namespace` to `role` would give, or why there are none.
    pub fn referenced(&self, role: &RoleRef, namespace: &str) -> Result<Arc<[PolicyRule]>, String> {
        self.0.read().referenced(role, namespace).cloned()
    }
}
