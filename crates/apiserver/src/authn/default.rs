//! The ways to say who one is, in upstream's order: client certificate, bearer token, nothing. Start at
//! [`ClusterAuthenticator`].
use super::external::External;
use super::service_account::user_of_token;
use super::tokens::{TokenError, TokenKeys};
use super::x509::ClientCertificates;
use super::{Authenticator, bootstrap_token};
use crate::listener::Peer;
use crate::registry::Registry;
use async_trait::async_trait;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a token's verification is remembered, as upstream does.
const TOKEN_MEMORY: Duration = Duration::from_secs(10);
/// How many tokens are remembered.
const REMEMBERED: usize = 4096;

/// What a Pintle API server authenticates by.
#[derive(Debug)]
pub struct ClusterAuthenticator {
    certificates: ClientCertificates,
    tokens: TokenKeys,
    external: External,
    known_tokens: Mutex<HashMap<[u8; 32], (Instant, UserInfo)>>,
}

impl ClusterAuthenticator {
    /// Authenticates by `certificates` and `tokens`; tokens that others issued are for `external` to judge.
    pub fn new(certificates: ClientCertificates, tokens: TokenKeys, external: External) -> Self {
        ClusterAuthenticator { certificates, tokens, external, known_tokens: Mutex::default() }
    }

    async fn user_of(&self, request: &http::request::Parts, registry: &Registry) -> Result<UserInfo, ApiError> {
        let now = jiff::Timestamp::now().as_second();
        if let Some(Peer { certificates: chain, .. }) = request.extensions.get()
            && !chain.is_empty()
        {
            match self.certificates.user(chain, now.try_into().unwrap_or(0)) {
                Ok(user) => return Ok(user),
                Err(error) => tracing::debug!(%error, "a client certificate was refused"),
            }
            if bearer(request).is_none() {
                return Err(unauthorized());
            }
        }
        let Some(token) = bearer(request) else {
            return match request.headers.contains_key(AUTHORIZATION) {
                true => Err(unauthorized()),
                false => Ok(anonymous()),
            };
        };
        if let Some((id, secret)) = bootstrap_token::parse(token) {
            return bootstrap_token::user_of_token(id, secret, now, registry).await.map_err(|error| {
                tracing::debug!(id, error, "a bootstrap token was refused");
                unauthorized()
            });
        }
        self.user_of_bearer(token, now, registry).await.map_err(|error| {
            tracing::debug!(%error, "a bearer token was refused");
            unauthorized()
        })
    }

    async fn user_of_bearer(&self, token: &str, now: i64, registry: &Registry) -> Result<UserInfo, String> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some((until, user)) = self.known_tokens.lock().get(&key)
            && Instant::now() < *until
        {
            return Ok(user.clone());
        }
        let audiences = self.tokens.audiences();
        let user = match user_of_token(&self.tokens, token, audiences, now, registry).await {
            Ok((user, _)) => user,
            Err(TokenError::Foreign) if !self.external.is_empty() => {
                return self.external.authenticate(token, audiences, now).await;
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut known = self.known_tokens.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, (Instant::now() + TOKEN_MEMORY, user.clone()));
        Ok(user)
    }
}

#[async_trait]
impl Authenticator for ClusterAuthenticator {
    async fn authenticate(&self, request: &http::request::Parts, registry: &Registry) -> Result<UserInfo, ApiError> {
        self.user_of(request, registry).await
    }
}

/// The bearer token of a request, from its header or (for WebSockets of browsers) its subprotocol.
fn bearer(request: &http::request::Parts) -> Option<&str> {
    let header = request.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn anonymous() -> UserInfo {
    UserInfo {
        name: "system:anonymous".to_owned(),
        groups: vec!["system:unauthenticated".to_owned()],
        ..UserInfo::default()
    }
}

fn unauthorized() -> ApiError {
    ApiError::unauthorized("Unauthorized")
}
