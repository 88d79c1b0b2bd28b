//! Tokens that a webhook knows. Start at [`TokenWebhook::authenticate`].
// upstream: apiserver plugin/pkg/authenticator/token/webhook
use crate::remote::{Remote, with_retries};
use crate::value::Read;
use parking_lot::Mutex;
use pintle_api::user::UserInfo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many answers are remembered.
const REMEMBERED: usize = 4096;

/// What a webhook said about a token.
type Answer = Result<UserInfo, String>;

/// Asks a webhook about tokens; clones share the memory.
#[derive(Clone, Debug)]
pub struct TokenWebhook(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    remote: Remote,
    /// `v1` or `v1beta1`.
    version: String,
    ttl: Duration,
    known: Mutex<HashMap<[u8; 32], (Instant, Answer)>>,
}

impl TokenWebhook {
    /// Asks `remote` in `version` of `authentication.k8s.io`, and remembers what it says for `ttl`.
    pub fn new(remote: Remote, version: &str, ttl: Duration) -> Result<Self, String> {
        if !matches!(version, "v1" | "v1beta1") {
            return Err(format!(
                "unsupported webhook authenticator version {version:?}, supported versions are v1, v1beta1"
            ));
        }
        Ok(TokenWebhook(Arc::new(Inner { remote, version: version.to_owned(), ttl, known: Mutex::default() })))
    }

    /// The user of `token`.
    pub async fn authenticate(&self, token: &str, audiences: &[String]) -> Answer {
        let mut digest = Sha256::new();
        for part in audiences.iter().map(String::as_str).chain([token]) {
            digest.update(part);
            digest.update([0]);
        }
        let key: [u8; 32] = digest.finalize().into();
        if let Some((until, answer)) = self.0.known.lock().get(&key)
            && Instant::now() < *until
        {
            return answer.clone();
        }
        // That it could not be asked is not remembered.
        let answer = self.ask(token, audiences).await?;
        let mut known = self.0.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, (Instant::now() + self.0.ttl, answer.clone()));
        answer
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Answer, String> {
        let mut review = json!({
            "kind": "TokenReview", "apiVersion": format!("authentication.k8s.io/{}", self.0.version),
            "metadata": {}, "spec": {"token": token}, "status": {"user": {}},
        });
        if !audiences.is_empty() {
            review["spec"]["audiences"] = json!(audiences);
        }
        let body = review.to_string().into();
        let answer = with_retries(|| self.0.remote.post(&body, TIMEOUT)).await.map_err(|error| {
            tracing::error!(%error, "the token webhook cannot be asked");
            error.to_string()
        })?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        Ok(user_of(answer.field("status"), audiences))
    }
}

/// The user in a review's status.
fn user_of(status: &Value, wanted: &[String]) -> Answer {
    if !status.flag("authenticated") {
        return Err(status.text("error").to_owned());
    }
    let mut got = status.texts("audiences").peekable();
    // A webhook that knows no audiences speaks for those of the API server.
    if got.peek().is_some() && !wanted.is_empty() && !got.any(|audience| wanted.iter().any(|known| known == audience)) {
        return Err(String::new());
    }
    let user = status.field("user");
    let extra = user.entries("extra").map(|(key, values)| {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str);
        (key.to_owned(), values.map(str::to_owned).collect())
    });
    let mut found = UserInfo {
        name: user.text("username").to_owned(),
        uid: user.text("uid").to_owned(),
        groups: user.texts("groups").map(str::to_owned).collect(),
        extra: extra.collect(),
    };
    if !found.groups.iter().any(|group| group == "system:authenticated") {
        found.groups.push("system:authenticated".to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_the_user_or_why_there_is_none() {
        let user = json!({"username": "jane", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}});
        let jane = user_of(&json!({"authenticated": true, "user": user}), &["api".to_owned()]).unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str(), jane.extra["k"][0].as_str()), ("jane", "1", "v"));
        assert_eq!(jane.groups, ["g", "system:authenticated"]);
        assert_eq!(user_of(&json!({"error": "no"}), &[]).unwrap_err(), "no");
        let others = json!({"authenticated": true, "user": {"username": "j"}, "audiences": ["other"]});
        assert!(user_of(&others, &["api".to_owned()]).is_err());
    }
}
