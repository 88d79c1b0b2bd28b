//! Admission that users configure: policies, webhooks, quotas. Nearly free where there is none. Start at [`Dynamic`].
use super::Attributes;
use super::matching::Event;
use super::policies::Policies;
use super::reinvocation::Round;
use super::resource_quota::Quotas;
use super::webhooks::Webhooks;
use crate::authz::default::ClusterAuthorizer;
use crate::registry::Registry;
use pintle_api::meta::ObjectExt;
use pintle_api::status::ApiError;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// What users registered; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Dynamic {
    authorizer: ClusterAuthorizer,
    policies: Policies,
    webhooks: Webhooks,
    quotas: Quotas,
}

/// The rounds of the plugins that mutate.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    policies: Round,
    webhooks: Round,
}

impl Rounds {
    /// Whether a second round is due, which begins with this.
    pub(super) fn again(&mut self) -> bool {
        let due = self.policies.has_changed() || self.webhooks.has_changed();
        self.policies.again();
        self.webhooks.again();
        due
    }
}

impl Dynamic {
    pub(super) async fn start(
        authorizer: ClusterAuthorizer,
        registry: &Registry,
        stop: &CancellationToken,
    ) -> Result<Self, ApiError> {
        let policies = Policies::start(registry, stop).await?;
        let webhooks = Webhooks::start(registry, stop).await?;
        let quotas = Quotas::start(registry, stop).await?;
        Ok(Dynamic { authorizer, policies, webhooks, quotas })
    }

    /// The state of the mutating phase; `None` if nothing mutates.
    pub(super) fn begin(&self, attributes: &Attributes<'_>) -> Option<Rounds> {
        let mutates = self.policies.mutates() || self.webhooks.mutates();
        (mutates && !Event::is_exempt(attributes)).then(Rounds::default)
    }

    pub(super) async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        registry: &Registry,
        rounds: &mut Rounds,
    ) -> Result<(), ApiError> {
        let name = object.as_deref().map(|object| object.name().to_owned()).unwrap_or_default();
        let event = Event::new(attributes, &name, registry, &self.authorizer);
        if self.policies.mutates() {
            self.policies.admit(&event, object.as_deref_mut(), &mut rounds.policies).await?;
        }
        self.webhooks.admit(&event, object, &mut rounds.webhooks).await
    }

    pub(super) async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let (policies, webhooks) = (self.policies.validates(), self.webhooks.validates());
        if (policies || webhooks) && !Event::is_exempt(attributes) {
            let name = object.map(ObjectExt::name).unwrap_or_default();
            let event = Event::new(attributes, name, registry, &self.authorizer);
            if policies {
                self.policies.validate(&event, object).await?;
            }
            self.webhooks.validate(&event, object).await?;
        }
        match object {
            Some(object) => self.quotas.validate(attributes, object, registry).await,
            None => Ok(()),
        }
    }
}
