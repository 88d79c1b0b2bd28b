//! The authorizers of a cluster in their order: super-users, nodes, RBAC. Start at [`ClusterAuthorizer`].
use super::rbac::Rbac;
use super::rules::PolicyRule;
use super::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use async_trait::async_trait;
use pintle_api::user::UserInfo;

/// What a Pintle API server authorizes by.
#[derive(Clone, Debug)]
pub struct ClusterAuthorizer {
    rbac: Rbac,
}

impl ClusterAuthorizer {
    /// Authorizes by `rbac`.
    pub fn new(rbac: Rbac) -> Self {
        ClusterAuthorizer { rbac }
    }

    /// The RBAC rules.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    /// All rules of `user` in `namespace`, and the errors met while they were looked up.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        self.rbac.rules_for(user, namespace)
    }

    /// The decision and its reason, which access reviews show also when the answer is yes.
    pub fn decide(&self, attributes: &Attributes) -> (Decision, String) {
        self.rbac.decide(attributes)
    }
}

#[async_trait]
impl Authorizer for ClusterAuthorizer {
    async fn authorize(&self, attributes: &Attributes, _registry: &Registry) -> Decision {
        self.decide(attributes).0
    }
}
