//! The authorizers of a cluster in their order: super-users, nodes, RBAC. Start at [`ClusterAuthorizer`].
use super::node::NodeAuthorizer;
use super::rbac::Rbac;
use super::rules::PolicyRule;
use super::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use async_trait::async_trait;
use pintle_api::user::UserInfo;

/// What a Pintle API server authorizes by.
#[derive(Clone, Debug, Default)]
pub struct ClusterAuthorizer {
    nodes: NodeAuthorizer,
    rbac: Rbac,
}

impl ClusterAuthorizer {
    /// Authorizes kubelets by `nodes`, and everyone by `rbac`.
    pub fn new(nodes: NodeAuthorizer, rbac: Rbac) -> Self {
        ClusterAuthorizer { nodes, rbac }
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
        self.then_rbac(self.nodes.decide(attributes), attributes)
    }

    fn then_rbac(&self, node: Option<(Decision, String)>, attributes: &Attributes) -> (Decision, String) {
        let Some((decision, node_reason)) = node else { return self.rbac.decide(attributes) };
        if decision == Decision::Allow {
            return (decision, node_reason);
        }
        match self.rbac.decide(attributes) {
            (Decision::Allow, reason) => (Decision::Allow, reason),
            (_, reason) => {
                let reasons: Vec<&str> =
                    [node_reason.as_str(), &reason].into_iter().filter(|reason| !reason.is_empty()).collect();
                let reason = reasons.join("\n");
                (Decision::NoOpinion(reason.clone()), reason)
            }
        }
    }
}

#[async_trait]
impl Authorizer for ClusterAuthorizer {
    async fn authorize(&self, attributes: &Attributes, _registry: &Registry) -> Decision {
        self.then_rbac(self.nodes.decide_fresh(attributes).await, attributes).0
    }

    async fn decide(&self, attributes: &Attributes, _registry: &Registry) -> (Decision, String) {
        self.then_rbac(self.nodes.decide_fresh(attributes).await, attributes)
    }
}
