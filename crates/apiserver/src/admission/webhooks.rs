//! Admission webhooks: registered configurations in memory, called in order or at once. Start at [`Webhooks`].
// upstream: apiserver pkg/admission/plugin/webhook
pub(crate) mod client;
mod configuration;
mod review;

use super::matching::conditions::{Held, Subject};
use super::matching::{Event, convert_between};
use super::reinvocation::Round;
use crate::audit::event::Level;
use crate::codec::{FieldValidation, Made, retype};
use crate::follow::follow;
use crate::registry::Registry;
use crate::strategy;
use crate::value::same;
use arc_swap::ArcSwap;
use configuration::Webhook;
use futures::future::join_all;
use pintle_api::patch::json_patch;
use pintle_api::scheme::Resource;
use pintle_api::status::{ApiError, Reason};
use review::Verdict;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The webhooks of one sort, in the order in which they are called.
type Index = Arc<ArcSwap<Vec<Arc<Webhook>>>>;

/// All registered webhooks; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Webhooks {
    mutating: Index,
    validating: Index,
}

/// What came of a call that does not admit.
enum Failure {
    /// The webhook could not be asked; its failure policy decides.
    Call(String),
    /// The webhook, or the server, refuses.
    Refused(ApiError),
}

impl Webhooks {
    /// Follows the configurations of `registry` until `stop`.
    pub(super) async fn start(registry: &Registry, stop: &CancellationToken) -> Result<Self, ApiError> {
        let webhooks = Webhooks::default();
        for (index, plural) in [
            (&webhooks.mutating, "mutatingwebhookconfigurations"),
            (&webhooks.validating, "validatingwebhookconfigurations"),
        ] {
            let (index, mut known) = (index.clone(), BTreeMap::<String, Vec<Arc<Webhook>>>::new());
            let apply = move |_: &str, name: &str, stored: Option<&bytes::Bytes>| {
                match stored.map(|bytes| serde_json::from_slice::<Value>(bytes)) {
                    Some(Ok(configuration)) => {
                        known.insert(name.to_owned(), configuration::webhooks(&configuration));
                    }
                    _ => {
                        known.remove(name);
                    }
                }
                index.store(Arc::new(known.values().flatten().cloned().collect()));
            };
            let resource = registry.resource("admissionregistration.k8s.io", plural)?;
            follow(registry, &resource, stop.clone(), Box::new(apply)).await?;
        }
        Ok(webhooks)
    }

    pub(super) fn mutates(&self) -> bool {
        !self.mutating.load().is_empty()
    }

    pub(super) fn validates(&self) -> bool {
        !self.validating.load().is_empty()
    }

    /// Lets the mutating webhooks change `object`, one after the other.
    pub(super) async fn admit(
        &self,
        event: &Event<'_>,
        mut object: Option<&mut Value>,
        round: &mut Round,
    ) -> Result<(), ApiError> {
        round.begin(object.as_deref());
        for (index, webhook) in self.mutating.load_full().iter().enumerate() {
            let Some(resource) = matched(webhook, event, object.as_deref()).await? else { continue };
            if !round.calls(&webhook.id) {
                continue;
            }
            let position = format!("round_{}_index_{index}", u8::from(round.is_second()));
            let called = mutate(webhook, event, &resource, object.as_deref_mut(), &position).await;
            annotate(webhook, event, &called, &position);
            let changed = settle(webhook, called)?.unwrap_or(false);
            round.called(&webhook.id, webhook.reinvocable, changed);
        }
        round.end(object.as_deref());
        Ok(())
    }

    /// Asks the validating webhooks, all at once.
    pub(super) async fn validate(&self, event: &Event<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let webhooks = self.validating.load_full();
        let mut relevant = Vec::new();
        for webhook in webhooks.iter() {
            if let Some(resource) = matched(webhook, event, object).await? {
                relevant.push((webhook, resource));
            }
        }
        let calls = relevant.iter().enumerate().map(|(index, (webhook, resource))| async move {
            let verdict = ask(webhook, event, resource, object).await;
            if matches!(verdict, Err(Failure::Call(_))) && webhook.fails_open {
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                event.attributes.cx.annotate(key, &webhook.name);
            }
            settle(webhook, verdict).map(|_| ())
        });
        join_all(calls).await.into_iter().collect()
    }
}

/// The resource as which `webhook` is to be asked about the event; `None` if it is not.
// upstream: Webhook.ShouldCallHook
async fn matched(
    webhook: &Webhook,
    event: &Event<'_>,
    object: Option<&Value>,
) -> Result<Option<Arc<Resource>>, ApiError> {
    let Some(resource) = webhook.matching.matches(event, object, false).await? else { return Ok(None) };
    if webhook.conditions.is_empty() {
        return Ok(Some(resource));
    }
    let (object, old) = versions(event, &resource, object)?;
    let subject = Subject::new(event, &resource, object.as_ref(), old.as_ref()).await?;
    match webhook.conditions.hold(&subject.activation(None)) {
        Held::Yes => Ok(Some(resource)),
        Held::No => Ok(None),
        Held::Failed(_) if webhook.fails_open => Ok(None),
        Held::Failed(why) => Err(ApiError::forbidden(event.attributes.resource.group_resource(), event.name, why)),
    }
}

/// The objects in the version that the webhook wants. Connections carry objects of kinds of their own.
fn versions(
    event: &Event<'_>,
    resource: &Resource,
    object: Option<&Value>,
) -> Result<(Option<Value>, Option<Value>), ApiError> {
    let convert = |object: Option<&Value>| object.map(|object| event.in_version(object, resource)).transpose();
    Ok((convert(object)?, convert(event.attributes.old)?))
}

/// Tells the audit record what a mutating webhook did.
// upstream: mutating/dispatcher.go, webhookAnnotator
fn annotate(webhook: &Webhook, event: &Event<'_>, called: &Result<bool, Failure>, position: &str) {
    if event.attributes.cx.audit.is_none() {
        return;
    }
    const PREFIX: &str = "mutation.webhook.admission.k8s.io/";
    let (name, configuration) = (webhook.name.as_str(), webhook.configuration.as_str());
    let mutated = matches!(called, Ok(true));
    // Field by field: clients compare the text.
    let value = format!(r#"{{"configuration":{configuration:?},"webhook":{name:?},"mutated":{mutated}}}"#);
    event.attributes.cx.annotate(format!("{PREFIX}{position}"), value);
    if matches!(called, Err(Failure::Call(_))) && webhook.fails_open {
        event.attributes.cx.annotate(format!("failed-open.{PREFIX}{position}"), name);
    }
}

/// What a call comes to under the webhook's failure policy.
fn settle<T>(webhook: &Webhook, outcome: Result<T, Failure>) -> Result<Option<T>, ApiError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Failure::Refused(error)) => Err(error),
        Err(Failure::Call(why)) => {
            let text = format!("failed calling webhook {:?}: {why}", webhook.name);
            tracing::warn!(webhook = webhook.name, fails_open = webhook.fails_open, "{text}");
            if webhook.fails_open { Ok(None) } else { Err(ApiError::internal(text)) }
        }
    }
}

/// Asks, and returns what the webhook said if it admits.
async fn ask(
    webhook: &Webhook,
    event: &Event<'_>,
    resource: &Resource,
    object: Option<&Value>,
) -> Result<Verdict, Failure> {
    if event.attributes.dry_run && webhook.has_side_effects {
        let why = format!("admission webhook {:?} does not support dry run", webhook.name);
        return Err(Failure::Refused(ApiError::bad_request(why)));
    }
    let review = review::request(webhook, event, resource, object).map_err(Failure::Call)?;
    let answer = webhook.client.as_ref().map_err(|why| Failure::Call(why.clone()))?;
    let answer = answer.post(&review.body, webhook.timeout, event.registry).await;
    let answer = answer.map_err(|why| Failure::Call(format!("failed to call webhook: {why}")))?;
    let verdict = review::verdict(webhook, &review, &answer)
        .map_err(|why| Failure::Call(format!("received invalid webhook response: {why}")))?;
    for warning in &verdict.warnings {
        event.attributes.cx.warn(warning);
    }
    for (key, value) in &verdict.audit_annotations {
        event.attributes.cx.annotate(format!("{}/{key}", webhook.name), value);
    }
    match &verdict.refusal {
        Some(status) => Err(Failure::Refused(review::refusal(&webhook.name, status))),
        None => Ok(verdict),
    }
}

/// Asks, and applies the patch that the webhook answers with. Whether the object changed.
async fn mutate(
    webhook: &Webhook,
    event: &Event<'_>,
    resource: &Resource,
    object: Option<&mut Value>,
    position: &str,
) -> Result<bool, Failure> {
    let verdict = ask(webhook, event, resource, object.as_deref()).await?;
    let Some(patch) = verdict.patch.filter(|patch| patch.as_array().is_none_or(|list| !list.is_empty())) else {
        return Ok(false);
    };
    let refused = |error: ApiError| Failure::Refused(error);
    let Some(object) = object else {
        let why = format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            webhook.name
        );
        return Err(refused(ApiError::internal(why)));
    };
    let mut patched = event.in_version(object, resource).map_err(refused)?;
    if let Some(audit) = event.attributes.cx.audit.as_ref().filter(|audit| audit.level() >= Level::Request) {
        let (name, configuration) = (webhook.name.as_str(), webhook.configuration.as_str());
        let value = format!(
            r#"{{"configuration":{configuration:?},"webhook":{name:?},"patch":{patch},"patchType":"JSONPatch"}}"#
        );
        audit.annotate(format!("patch.webhook.admission.k8s.io/{position}"), value);
    }
    json_patch(&mut patched, patch).map_err(|error| refused(ApiError::internal(ApiError::from(error))))?;
    let own = event.attributes.resource;
    // Connections and some subresources carry objects of other kinds.
    let of_kind = patched["kind"].as_str() == Some(&resource.kind);
    if of_kind {
        patched =
            retype(event.attributes.cx, resource, FieldValidation::Ignore, Made::ByApply, patched).map_err(refused)?;
    }
    let mut patched = convert_between(resource, own, &patched).map_err(refused)?;
    if of_kind {
        strategy::of(own).default(&mut patched);
    }
    let changed = !same(object, &patched);
    *object = patched;
    Ok(changed)
}

/// An error with the code, reason and details of `status`.
fn status_error(status: &Value, message: String) -> ApiError {
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
    let reason: Reason = serde_json::from_value(status["reason"].clone()).unwrap_or_default();
    let mut error = ApiError::new(code.unwrap_or(400), reason, message);
    if let Ok(details) = serde_json::from_value(status["details"].clone()) {
        *error.details_mut() = details;
    }
    error
}
