//! Service-account tokens for pods: requested from the API, renewed after 80% of their life or a day.
// upstream: pkg/kubelet/token
use crate::pods::PodExt;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    account: String,
    audience: String,
    seconds: i64,
}

/// Tokens handed out, by pod.
pub struct Tokens {
    client: Client,
    cache: Mutex<HashMap<Key, (String, Instant)>>,
}

impl Tokens {
    /// Tokens requested through `client`.
    pub fn new(client: Client) -> Self {
        Tokens { client, cache: Mutex::default() }
    }

    /// A token bound to `pod` and when to ask again.
    pub async fn get(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<(String, Instant), String> {
        let account = pod.pod_spec().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let key =
            Key { uid: pod.uid().to_owned(), account: account.to_owned(), audience: audience.to_owned(), seconds };
        let known = self.cache.lock().get(&key).cloned();
        if let Some(known) = known.filter(|(_, renew)| *renew > Instant::now()) {
            return Ok(known);
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.name().to_owned()),
                    uid: Some(pod.uid().to_owned()),
                }),
            }),
            ..Default::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod.namespace());
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let status = answer
            .map_err(|error| match error {
                kube::Error::Api(status) => format!("failed to fetch token: {}", status.message),
                other => format!("failed to fetch token: {other}"),
            })?
            .status
            .unwrap_or_default();
        let (Some(token), Some(expiry)) = (status.token, status.expiration_timestamp) else {
            return Err("failed to fetch token: the answer has none".to_owned());
        };
        let life = expiry.0.duration_since(Timestamp::now());
        let life = Duration::try_from(life).unwrap_or_default();
        let renew = Instant::now() + (life * 4 / 5).min(LONGEST_USE);
        self.cache.lock().insert(key, (token.clone(), renew));
        Ok((token, renew))
    }

    /// Drops the tokens of a pod that ended.
    pub fn forget(&self, uid: &str) {
        self.cache.lock().retain(|key, _| key.uid != uid);
    }
}
