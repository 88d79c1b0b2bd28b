//! The authorizers of a cluster in their order: super-users, nodes, RBAC, or what operators choose. Start at
//! [`ClusterAuthorizer`].
use super::node::NodeAuthorizer;
use super::rbac::Rbac;
use super::rules::PolicyRule;
use super::webhook::AuthorizationWebhook;
use super::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use async_trait::async_trait;
use pintle_api::user::UserInfo;
use std::str::FromStr;
use std::sync::Arc;

/// One of those who decide: `--authorization-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What kubelets may do.
    Node,
    /// Roles and bindings.
    Rbac,
    /// A webhook.
    Webhook,
    /// Everybody may do everything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "Node" => Ok(Mode::Node),
            "RBAC" => Ok(Mode::Rbac),
            "Webhook" => Ok(Mode::Webhook),
            "AlwaysAllow" => Ok(Mode::AlwaysAllow),
            "AlwaysDeny" => Ok(Mode::AlwaysDeny),
            other => Err(format!("authorization-mode {other:?} is not a valid mode")),
        }
    }
}

/// Who decides, in their order: the first that allows or denies. Nodes and RBAC if nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// The modes; empty: `Node,RBAC`.
    pub modes: Vec<Mode>,
    /// The webhook of [`Mode::Webhook`].
    pub webhook: Option<AuthorizationWebhook>,
}

/// What a Pintle API server authorizes by.
#[derive(Clone, Debug, Default)]
pub struct ClusterAuthorizer {
    nodes: NodeAuthorizer,
    rbac: Rbac,
    /// Only if it is not the usual one.
    chain: Option<Arc<Chain>>,
}

impl ClusterAuthorizer {
    /// Authorizes kubelets by `nodes`, and everyone by `rbac`.
    pub fn new(nodes: NodeAuthorizer, rbac: Rbac) -> Self {
        ClusterAuthorizer { nodes, rbac, chain: None }
    }

    /// The same with those of `chain` in its order.
    #[must_use]
    pub fn with_chain(mut self, chain: Chain) -> Self {
        let usual = chain.modes.is_empty() || chain.modes == [Mode::Node, Mode::Rbac];
        self.chain = (!usual).then(|| Arc::new(chain));
        self
    }

    /// The RBAC rules.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    /// All rules of `user` in `namespace`, and the errors met while they were looked up.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        self.rbac.rules_for(user, namespace)
    }

    /// The decision and its reason by what is in memory: a webhook is not asked.
    pub fn decide(&self, attributes: &Attributes) -> (Decision, String) {
        let Some(chain) = &self.chain else { return self.then_rbac(self.nodes.decide(attributes), attributes) };
        let mut verdict = Verdict::of(attributes);
        for mode in &chain.modes {
            if verdict.is_final() {
                break;
            }
            match mode {
                Mode::Node => verdict.node(self.nodes.decide(attributes)),
                Mode::Webhook => {}
                mode => verdict.add(self.in_memory(*mode, attributes)),
            }
        }
        verdict.decision()
    }

    async fn decide_fresh(&self, attributes: &Attributes) -> (Decision, String) {
        let Some(chain) = &self.chain else {
            return self.then_rbac(self.nodes.decide_fresh(attributes).await, attributes);
        };
        let mut verdict = Verdict::of(attributes);
        for mode in &chain.modes {
            if verdict.is_final() {
                break;
            }
            match (mode, &chain.webhook) {
                (Mode::Node, _) => verdict.node(self.nodes.decide_fresh(attributes).await),
                (Mode::Webhook, Some(webhook)) => verdict.add(webhook.decide(attributes).await),
                (mode, _) => verdict.add(self.in_memory(*mode, attributes)),
            }
        }
        verdict.decision()
    }

    fn in_memory(&self, mode: Mode, attributes: &Attributes) -> (Decision, String) {
        match mode {
            Mode::Rbac => self.rbac.decide(attributes),
            Mode::AlwaysAllow => (Decision::Allow, String::new()),
            Mode::AlwaysDeny => {
                let reason = "Everything is forbidden.".to_owned();
                (Decision::NoOpinion(reason.clone()), reason)
            }
            Mode::Node | Mode::Webhook => (Decision::NoOpinion(String::new()), String::new()),
        }
    }

    fn then_rbac(&self, node: Option<(Decision, String)>, attributes: &Attributes) -> (Decision, String) {
        let Some(node) = node else { return self.rbac.decide(attributes) };
        let mut verdict = Verdict::default();
        verdict.add(node);
        // A node's refusal still leaves it what roles allow.
        if !verdict.is_final() {
            verdict.add(self.rbac.decide(attributes));
        }
        verdict.decision()
    }
}

/// What a chain of authorizers has said so far.
#[derive(Debug, Default)]
struct Verdict {
    last: Option<(Decision, String)>,
    reasons: Vec<String>,
}

impl Verdict {
    /// Nothing yet; super-users need no chain.
    // upstream: authorizerfactory.NewPrivilegedGroups
    fn of(attributes: &Attributes) -> Self {
        let master = attributes.user.groups.iter().any(|group| group == "system:masters");
        Verdict { last: master.then_some((Decision::Allow, String::new())), reasons: Vec::new() }
    }

    fn is_final(&self) -> bool {
        matches!(self.last, Some((Decision::Allow | Decision::Deny(_), _)))
    }

    fn node(&mut self, decision: Option<(Decision, String)>) {
        if let Some(decision) = decision {
            self.add(decision);
        }
    }

    fn add(&mut self, (decision, reason): (Decision, String)) {
        if !reason.is_empty() {
            self.reasons.push(reason.clone());
        }
        self.last = Some((decision, reason));
    }

    fn decision(self) -> (Decision, String) {
        match self.last {
            Some((Decision::Allow, reason)) => (Decision::Allow, reason),
            Some((Decision::Deny(_), _)) => {
                let reason = self.reasons.join("\n");
                (Decision::Deny(reason.clone()), reason)
            }
            _ => {
                let reason = self.reasons.join("\n");
                (Decision::NoOpinion(reason.clone()), reason)
            }
        }
    }
}

#[async_trait]
impl Authorizer for ClusterAuthorizer {
    async fn authorize(&self, attributes: &Attributes, _registry: &Registry) -> Decision {
        self.decide_fresh(attributes).await.0
    }

    async fn decide(&self, attributes: &Attributes, _registry: &Registry) -> (Decision, String) {
        self.decide_fresh(attributes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(groups: &[&str]) -> Attributes {
        let user = UserInfo::new("jane", groups);
        Attributes { user, verb: "get".into(), path: "/x".into(), ..Attributes::default() }
    }

    fn by(modes: &[Mode], groups: &[&str]) -> Decision {
        let chain = Chain { modes: modes.to_vec(), webhook: None };
        ClusterAuthorizer::default().with_chain(chain).decide(&attributes(groups)).0
    }

    #[test]
    fn the_first_who_has_an_opinion_decides() {
        let refused = Decision::NoOpinion("Everything is forbidden.".into());
        assert_eq!(by(&[Mode::AlwaysDeny], &[]), refused);
        assert_eq!(by(&[Mode::AlwaysDeny, Mode::AlwaysAllow], &[]), Decision::Allow);
        assert_eq!(by(&[Mode::Rbac], &[]), Decision::NoOpinion(String::new()));
        assert_eq!(by(&[Mode::AlwaysDeny], &["system:masters"]), Decision::Allow);
        assert_eq!("Node".parse(), Ok(Mode::Node));
        assert!("ABAC".parse::<Mode>().is_err());
    }
}
