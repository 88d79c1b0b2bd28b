//! Who else names users by bearer tokens, besides the cluster itself. Start at [`External::authenticate`].
use super::oidc::Oidc;
use super::webhook::TokenWebhook;
use pintle_api::user::UserInfo;

/// What operators switch on; nothing of it by default.
#[derive(Clone, Debug, Default)]
pub struct External {
    /// An OpenID issuer.
    pub oidc: Option<Oidc>,
    /// A webhook.
    pub webhook: Option<TokenWebhook>,
}

impl External {
    /// The user of a token that the cluster did not issue; why not, if somebody knows.
    pub async fn authenticate(&self, token: &str, audiences: &[String], now: i64) -> Result<UserInfo, String> {
        let mut errors = Vec::new();
        if let Some(oidc) = &self.oidc {
            match oidc.authenticate(token, now).await {
                Some(Ok(user)) => return Ok(user),
                Some(Err(error)) => errors.push(error),
                None => {}
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.authenticate(token, audiences).await {
                Ok(user) => return Ok(user),
                Err(error) if error.is_empty() => {}
                Err(error) => errors.push(error),
            }
        }
        Err(errors.join(", "))
    }

    /// Whether there is anybody.
    pub fn is_empty(&self) -> bool {
        self.oidc.is_none() && self.webhook.is_none()
    }
}
