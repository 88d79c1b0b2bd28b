//! `tokenreviews` and `selfsubjectreviews`: who a token stands for, who the caller is.
// upstream: pkg/registry/authentication
use super::{SpecialRequest, SpecialResponse, SpecialRest, read_review};
use crate::authn::external::External;
use crate::authn::service_account::user_of_token;
use crate::authn::tokens::{TokenError, TokenKeys};
use crate::registry::Registry;
use crate::value::{Fill, Read, object_of};
use async_trait::async_trait;
use http::StatusCode;
use pintle_api::meta;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use serde_json::{Map, Value, json};

/// Answers `tokenreviews`.
#[derive(Debug)]
pub struct TokenReview {
    keys: TokenKeys,
    external: External,
}

impl TokenReview {
    /// Reviews tokens signed with `keys`, and those that `external` knows.
    pub fn new(keys: TokenKeys, external: External) -> Self {
        TokenReview { keys, external }
    }
}

#[async_trait]
impl SpecialRest for TokenReview {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, .. } = request;
        let mut review = read_review(&cx, &parts.headers, body, registry).await?;
        let spec = review.field("spec");
        let token = spec.text("token");
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let mut audiences: Vec<String> = spec.texts("audiences").map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences = self.keys.audiences().to_vec();
        }
        let now = jiff::Timestamp::now().as_second();
        let known = match user_of_token(&self.keys, token, &audiences, now, registry).await {
            Err(TokenError::Foreign) if !self.external.is_empty() => {
                let found = self.external.authenticate(token, &audiences, now).await;
                // Others speak for the audiences of the API server only.
                let own = || self.keys.audiences().iter().filter(|own| audiences.contains(own)).cloned().collect();
                found.map(|user| (user, own()))
            }
            Err(TokenError::Foreign) => Err(String::new()),
            known => known.map_err(|error| error.to_string()),
        };
        let status = match known {
            Ok((user, audiences)) if !audiences.is_empty() => {
                json!({"authenticated": true, "user": user_json(&user), "audiences": audiences})
            }
            Ok(_) => json!({"user": {}}),
            Err(error) => {
                // upstream leaves what else was sent in the status
                let mut status = review.field("status").clone();
                let fields = object_of(&mut status);
                fields.remove("authenticated");
                fields.fill("user", json!({}));
                let why = if error.is_empty() {
                    "invalid bearer token".to_owned()
                } else {
                    format!("[invalid bearer token, {error}]")
                };
                fields.set("error", why);
                status
            }
        };
        object_of(&mut review).set("status", status);
        Ok(created(review, "TokenReview"))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "create"
    }
}

/// Answers `selfsubjectreviews`.
#[derive(Debug)]
pub struct SelfSubjectReview;

#[async_trait]
impl SpecialRest for SelfSubjectReview {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, .. } = request;
        read_review(&cx, &parts.headers, body, registry).await?;
        let review = json!({
            "metadata": {"creationTimestamp": meta::now()},
            "status": {"userInfo": user_json(&cx.user)},
        });
        Ok(created(review, "SelfSubjectReview"))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "create"
    }
}

fn created(mut review: Value, kind: &str) -> SpecialResponse {
    let object = object_of(&mut review);
    object.set("kind", kind);
    object.set("apiVersion", "authentication.k8s.io/v1");
    SpecialResponse::Object(StatusCode::CREATED, review)
}

fn user_json(user: &UserInfo) -> Value {
    let mut json = Map::new();
    json.set("username", user.name.as_str());
    if !user.uid.is_empty() {
        json.set("uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        json.set("groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        json.set("extra", json!(user.extra));
    }
    json.into()
}
