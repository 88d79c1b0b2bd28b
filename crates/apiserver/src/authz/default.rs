//! The authorizers of a cluster in their order: super-users, nodes, RBAC. Start at [`ClusterAuthorizer`].
use super::rbac::Rbac;
use super::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use async_trait::async_trait;

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
