//! `/.well-known/openid-configuration` and `/openid/v1/jwks`: how others verify service-account tokens.
use super::{SpecialRequest, SpecialResponse, SpecialRest};
use crate::authn::tokens::TokenKeys;
use crate::body::Body;
use crate::registry::Registry;
use async_trait::async_trait;
use http::{Response, header};
use pintle_api::status::ApiError;
use serde_json::Value;

/// Where the discovery document is.
pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Where the keys are.
pub const KEYS_PATH: &str = "/openid/v1/jwks";

/// Serves one of the two documents.
#[derive(Debug)]
pub struct OpenId {
    document: Value,
    content_type: &'static str,
}

impl OpenId {
    /// The discovery document; the keys are at `jwks_uri`.
    pub fn configuration(keys: &TokenKeys, jwks_uri: &str) -> Self {
        OpenId { document: keys.openid_configuration(jwks_uri), content_type: "application/json" }
    }

    /// The keys.
    pub fn keys(keys: &TokenKeys) -> Self {
        OpenId { document: keys.jwks(), content_type: "application/jwk-set+json" }
    }
}

#[async_trait]
impl SpecialRest for OpenId {
    async fn handle(&self, _request: SpecialRequest, _registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let response = Response::builder()
            .header(header::CONTENT_TYPE, self.content_type)
            .header(header::CACHE_CONTROL, "public, max-age=3600")
            .body(Body::from(self.document.to_string().into_bytes()))
            .map_err(ApiError::internal)?;
        Ok(SpecialResponse::Raw(response))
    }
}
