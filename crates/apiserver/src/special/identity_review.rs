//! `tokenreviews` and `selfsubjectreviews`: who a token stands for, who the caller is.
// upstream: pkg/registry/authentication
use super::{SpecialRequest, SpecialResponse, SpecialRest};
use crate::authn::service_account::user_of_token;
use crate::authn::tokens::TokenKeys;
use crate::codec::read_object;
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
}

impl TokenReview {
    /// Reviews tokens signed with `keys`.
    pub fn new(keys: TokenKeys) -> Self {
        TokenReview { keys }
    }
}

#[async_trait]
impl SpecialRest for TokenReview {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { parts, body, .. } = request;
        let mut review = read_object(&parts.headers, body).await?;
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
        let status = match user_of_token(&self.keys, token, &audiences, now, registry).await {
            Ok((user, audiences)) => json!({"authenticated": true, "user": user_json(&user), "audiences": audiences}),
            Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
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
    async fn handle(&self, request: SpecialRequest, _registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let review = json!({
            "metadata": {"creationTimestamp": meta::now()},
            "status": {"userInfo": user_json(&request.cx.user)},
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
