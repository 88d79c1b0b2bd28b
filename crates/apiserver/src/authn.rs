//! Authentication: who makes a request. Start at [`Authenticator`].
pub mod bootstrap_token;
pub mod default;
pub mod external;
pub mod impersonation;
pub mod oidc;
pub mod service_account;
pub mod tokens;
pub mod webhook;
pub mod x509;

use crate::registry::Registry;
use async_trait::async_trait;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;

/// Names the user of a request from its credentials: a client certificate ([`crate::listener::Peer`] among the
/// extensions), a bearer token, a front proxy's headers.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The user; `Err` (401, mostly) when credentials are given that are not valid. Requests without credentials are
    /// for the implementation to call `system:anonymous` or to refuse.
    async fn authenticate(&self, request: &http::request::Parts, registry: &Registry) -> Result<UserInfo, ApiError>;
}
