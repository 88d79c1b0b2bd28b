//! Webhooks as they are registered. Start at [`webhooks`].
use super::client::Client;
use crate::admission::matching::Matching;
use crate::admission::matching::conditions::{Conditions, environment};
use crate::value::Read;
use pintle_api::meta::ObjectExt;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// One webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Webhook {
    /// Tells it from all others: configuration, name and position.
    pub id: String,
    /// The name of the configuration.
    pub configuration: String,
    pub name: String,
    pub matching: Matching,
    pub conditions: Conditions,
    /// Whether writes go on when it cannot be asked.
    pub fails_open: bool,
    pub timeout: Duration,
    /// Whether it must not be asked about dry runs.
    pub has_side_effects: bool,
    /// Whether it is asked again if others change the object after it.
    pub reinvocable: bool,
    pub mutating: bool,
    /// `v1` or `v1beta1`; none if it understands neither.
    pub review_version: Option<&'static str>,
    /// How it is reached, or why it cannot be.
    pub client: Result<Client, String>,
}

/// The webhooks of a configuration.
pub(crate) fn webhooks(configuration: &Value) -> Vec<Arc<Webhook>> {
    let env = environment(false, true);
    let mutating = configuration.kind() == "MutatingWebhookConfiguration";
    let hooks = configuration.items("webhooks").iter().enumerate();
    hooks.map(|(index, hook)| Arc::new(webhook(configuration, index, hook, mutating, &env))).collect()
}

fn webhook(configuration: &Value, index: usize, hook: &Value, mutating: bool, env: &pintle_cel::Env) -> Webhook {
    let name = hook.text("name").to_owned();
    let seconds = u64::try_from(hook.int("timeoutSeconds")).ok().filter(|seconds| *seconds > 0).unwrap_or(10);
    let known = |version: &str| match version {
        "v1" => Some("v1"),
        "v1beta1" => Some("v1beta1"),
        _ => None,
    };
    Webhook {
        configuration: configuration.name().to_owned(),
        id: format!("{}/{name}/{index}", configuration.name()),
        matching: Matching::of(hook, "rules"),
        conditions: Conditions::of(hook, env),
        fails_open: hook.text("failurePolicy") == "Ignore",
        timeout: Duration::from_secs(seconds),
        has_side_effects: !matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun"),
        reinvocable: hook.text("reinvocationPolicy") == "IfNeeded",
        mutating,
        review_version: hook.texts("admissionReviewVersions").find_map(known),
        client: Client::of(hook.field("clientConfig")),
        name,
    }
}
