//! Everything between a request and an object that has to do with trust, put together. Start at [`parts`].
use crate::admission::{Admission, ClusterAdmission};
use crate::authn::Authenticator;
use crate::authn::default::ClusterAuthenticator;
use crate::authn::external::External;
use crate::authn::tokens::TokenKeys;
use crate::authn::x509::ClientCertificates;
use crate::authz::Authorizer;
use crate::authz::default::{Chain, ClusterAuthorizer};
use crate::authz::node::NodeAuthorizer;
use crate::authz::rbac::Rbac;
use crate::bootstrap;
use crate::proxy;
use crate::registry::Registry;
use crate::special::Specials;
use crate::special::access_review::{AccessReview, RulesReview, Whose};
use crate::special::identity_review::{SelfSubjectReview, TokenReview};
use crate::special::openid::{CONFIGURATION_PATH, KEYS_PATH, OpenId};
use crate::special::token_request::TokenRequest;
use pintle_api::status::ApiError;
use pintle_pki::ClusterPki;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What identities are called.
#[derive(Clone, Debug)]
pub struct Params {
    /// The issuer of service-account tokens, an `https` URL.
    pub service_account_issuer: String,
    /// The audiences of the API server; empty: the issuer.
    pub api_audiences: Vec<String>,
    /// `host:port` under which clients reach the server, for the OpenID discovery document.
    pub external_address: String,
    /// Who else names users.
    pub external: External,
    /// Who decides what users may do.
    pub authorization: Chain,
    /// Objects that a new cluster has besides upstream's: a default StorageClass, an add-on's service account.
    pub addons: Vec<Value>,
}

/// The parts of an API server that guard it.
#[derive(Clone)]
pub struct SecureParts {
    /// Who asks.
    pub authenticator: Arc<dyn Authenticator>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// The last word on writes.
    pub admission: Arc<dyn Admission>,
    /// Signs and verifies service-account tokens.
    pub tokens: TokenKeys,
}

/// Why the parts could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or the service-account key cannot be used.
    #[error(transparent)]
    Pki(#[from] pintle_pki::Error),
    /// The service-account key cannot sign tokens.
    #[error("the service-account key cannot be used: {0}")]
    Key(#[from] jsonwebtoken::errors::Error),
    /// Roles or the default policy cannot be read or written.
    #[error("the access policy cannot be set up: {0}")]
    Policy(#[from] ApiError),
}

/// Makes what every cluster has from the start, follows the roles of `registry` until `stop`, and adds the endpoints for
/// tokens, reviews and what is proxied to `specials`.
pub async fn parts(
    pki: &ClusterPki,
    registry: &Registry,
    params: &Params,
    specials: &mut Specials,
    stop: &CancellationToken,
) -> Result<SecureParts, Error> {
    bootstrap::reconcile(registry, &params.addons).await?;
    let front_proxy = pki.front_proxy_authority().certificate_pem();
    bootstrap::publish_trust(registry, pki.authority().certificate_pem(), front_proxy).await?;
    bootstrap::keep_aggregated(registry, stop.clone()).await?;
    let nodes = NodeAuthorizer::start(registry, stop).await?;
    let authorizer = ClusterAuthorizer::new(nodes, Rbac::start(registry, stop).await?);
    let authorizer = authorizer.with_chain(params.authorization.clone());
    let tokens = TokenKeys::new(pki.service_account_key(), &params.service_account_issuer, &params.api_audiences)?;
    let certificates = ClientCertificates::new(pki.client_verifier()?);
    register(specials, &tokens, &authorizer, params);
    proxy::register(specials, pki, &authorizer)?;
    Ok(SecureParts {
        authenticator: Arc::new(ClusterAuthenticator::new(certificates, tokens.clone(), params.external.clone())),
        admission: Arc::new(ClusterAdmission::start(authorizer.clone(), registry, stop).await?),
        authorizer: Arc::new(authorizer),
        tokens,
    })
}

fn register(specials: &mut Specials, tokens: &TokenKeys, authorizer: &ClusterAuthorizer, params: &Params) {
    specials.register("", "serviceaccounts", "token", Arc::new(TokenRequest::new(tokens.clone())));
    let group = "authentication.k8s.io";
    specials.register(group, "tokenreviews", "", Arc::new(TokenReview::new(tokens.clone(), params.external.clone())));
    specials.register(group, "selfsubjectreviews", "", Arc::new(SelfSubjectReview));
    let group = "authorization.k8s.io";
    for (resource, whose) in [
        ("subjectaccessreviews", Whose::Anyone),
        ("localsubjectaccessreviews", Whose::Local),
        ("selfsubjectaccessreviews", Whose::Own),
    ] {
        specials.register(group, resource, "", Arc::new(AccessReview::new(whose, authorizer.clone())));
    }
    specials.register(group, "selfsubjectrulesreviews", "", Arc::new(RulesReview::new(authorizer.clone())));
    let jwks_uri = format!("https://{}{KEYS_PATH}", params.external_address);
    specials.register_path(CONFIGURATION_PATH, Arc::new(OpenId::configuration(tokens, &jwks_uri)));
    specials.register_path(KEYS_PATH, Arc::new(OpenId::keys(tokens)));
}
