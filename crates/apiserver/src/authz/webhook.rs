//! A webhook that decides who may do what. Start at [`AuthorizationWebhook::decide`].
// upstream: apiserver plugin/pkg/authorizer/webhook
use super::{Attributes, Decision};
use crate::remote::{Remote, with_retries};
use crate::value::Read;
use parking_lot::Mutex;
use pintle_api::selector::FieldSelector;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many answers are remembered. upstream: 8192
const REMEMBERED: usize = 8192;
/// Longer questions are not remembered, in bytes. upstream: maxControllerAttrCacheSize
const MAX_REMEMBERED: usize = 10_000;

/// A decision and its reason.
type Decided = (Decision, String);

/// Asks a webhook; clones share the memory.
#[derive(Clone, Debug)]
pub struct AuthorizationWebhook(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    remote: Remote,
    /// `v1` or `v1beta1`.
    version: String,
    allowed_ttl: Duration,
    refused_ttl: Duration,
    known: Mutex<HashMap<String, (Instant, Decided)>>,
}

impl AuthorizationWebhook {
    /// Asks `remote` in `version` of `authorization.k8s.io`, and remembers what it allows and refuses.
    pub fn new(remote: Remote, version: &str, allowed_ttl: Duration, refused_ttl: Duration) -> Result<Self, String> {
        if !matches!(version, "v1" | "v1beta1") {
            return Err(format!(
                "unsupported webhook authorizer version {version:?}, supported versions are v1, v1beta1"
            ));
        }
        let (version, known) = (version.to_owned(), Mutex::default());
        Ok(AuthorizationWebhook(Arc::new(Inner { remote, version, allowed_ttl, refused_ttl, known })))
    }

    /// The decision and its reason. A webhook that cannot be asked has no opinion.
    pub async fn decide(&self, attributes: &Attributes) -> Decided {
        let spec = spec_of(attributes, &self.0.version);
        let key = spec.to_string();
        if let Some((until, decision)) = self.0.known.lock().get(&key)
            && Instant::now() < *until
        {
            return decision.clone();
        }
        let review = json!({
            "kind": "SubjectAccessReview", "apiVersion": format!("authorization.k8s.io/{}", self.0.version),
            "metadata": {}, "spec": spec, "status": {"allowed": false},
        });
        let body = review.to_string().into();
        let answer = with_retries(|| self.0.remote.post(&body, TIMEOUT)).await;
        let answer = answer.map_err(|error| error.to_string());
        let answer: Value = match answer.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string())) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(error, "the authorization webhook cannot be asked");
                return (Decision::NoOpinion(String::new()), String::new());
            }
        };
        let decision = decision_of(answer.field("status"));
        if key.len() <= MAX_REMEMBERED {
            let ttl = if decision.0 == Decision::Allow { self.0.allowed_ttl } else { self.0.refused_ttl };
            let mut known = self.0.known.lock();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(key, (Instant::now() + ttl, decision.clone()));
        }
        decision
    }
}

fn decision_of(status: &Value) -> Decided {
    let reason = status.text("reason").to_owned();
    match (status.flag("denied"), status.flag("allowed")) {
        (true, _) => (Decision::Deny(reason.clone()), reason),
        (false, true) => (Decision::Allow, reason),
        (false, false) => (Decision::NoOpinion(reason.clone()), reason),
    }
}

/// The spec of a review. `v1beta1` calls groups `group`.
fn spec_of(attributes: &Attributes, version: &str) -> Value {
    let user = &attributes.user;
    let mut spec = json!({});
    let mut set = |key: &str, value: Value| spec[key] = value;
    if attributes.is_resource_request {
        let mut asked = json!({});
        for (key, value) in [
            ("namespace", &attributes.namespace),
            ("verb", &attributes.verb),
            ("group", &attributes.group),
            ("version", &attributes.version),
            ("resource", &attributes.resource),
            ("subresource", &attributes.subresource),
            ("name", &attributes.name),
        ] {
            if !value.is_empty() {
                asked[key] = value.as_str().into();
            }
        }
        let required = field_requirements(&attributes.field_selector);
        if !required.is_empty() {
            asked["fieldSelector"] = json!({"requirements": required});
        }
        set("resourceAttributes", asked);
    } else {
        set("nonResourceAttributes", json!({"path": attributes.path, "verb": attributes.verb}));
    }
    set("user", user.name.as_str().into());
    if !user.groups.is_empty() {
        set(if version == "v1" { "groups" } else { "group" }, json!(user.groups));
    }
    if !user.extra.is_empty() {
        set("extra", json!(user.extra));
    }
    if !user.uid.is_empty() {
        set("uid", user.uid.as_str().into());
    }
    spec
}

/// What a field selector requires, as reviews write it; nothing if it cannot be read.
fn field_requirements(selector: &str) -> Vec<Value> {
    if FieldSelector::parse(selector).is_err() {
        return Vec::new();
    }
    let requirement = |term: &str| {
        let (key, operator, value) = match term.split_once("!=") {
            Some((key, value)) => (key, "NotIn", value),
            None => {
                let (key, value) = term.split_once('=')?;
                (key, "In", value.strip_prefix('=').unwrap_or(value))
            }
        };
        Some(json!({"key": key, "operator": operator, "values": [value]}))
    };
    selector.split(',').filter(|term| !term.is_empty()).filter_map(requirement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::RequestInfo;
    use http::Method;
    use pintle_api::user::UserInfo;

    #[test]
    fn a_review_says_what_is_asked() {
        let user = UserInfo::new("jane", &["g"]);
        let info = RequestInfo::parse(&Method::GET, &"/api/v1/pods?fieldSelector=spec.nodeName%3Dn".parse().unwrap());
        let spec = spec_of(&Attributes::of_request(&user, &info), "v1beta1");
        assert_eq!(
            spec,
            json!({
                "user": "jane", "group": ["g", "system:authenticated"],
                "resourceAttributes": {
                    "verb": "list", "version": "v1", "resource": "pods",
                    "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]},
                },
            })
        );
        let info = RequestInfo::parse(&Method::GET, &"/healthz".parse().unwrap());
        let spec = spec_of(&Attributes::of_request(&user, &info), "v1");
        assert_eq!(spec["nonResourceAttributes"], json!({"path": "/healthz", "verb": "get"}));
        assert_eq!(spec["groups"][0], "g");
    }

    #[test]
    fn an_answer_is_a_decision() {
        assert_eq!(decision_of(&json!({"allowed": true})).0, Decision::Allow);
        assert_eq!(decision_of(&json!({"denied": true, "reason": "r"})).0, Decision::Deny("r".into()));
        assert_eq!(decision_of(&json!({"reason": "r"})).0, Decision::NoOpinion("r".into()));
    }
}
