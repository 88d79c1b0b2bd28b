//! Who else names users, and who decides what they may do, from the API server's settings. Start at [`external`] and [`chain`].
use super::features::duration;
use crate::cli::ApiServerOptions;
use anyhow::{Context, Result, anyhow, bail};
use pintle_apiserver::authn::external::External;
use pintle_apiserver::authn::oidc::{self, Oidc};
use pintle_apiserver::authn::webhook::TokenWebhook;
use pintle_apiserver::authz::default::{Chain, Mode};
use pintle_apiserver::authz::webhook::AuthorizationWebhook;
use pintle_apiserver::remote::Remote;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Those who name users besides the cluster itself.
pub fn external(options: &ApiServerOptions, stop: &CancellationToken) -> Result<External> {
    let oidc = match &options.oidc_issuer_url {
        Some(issuer) => Some(Oidc::start(oidc(issuer, options)?, stop.clone()).map_err(|error| anyhow!(error))?),
        None => None,
    };
    let webhook = match &options.authentication_token_webhook_config_file {
        Some(path) => {
            let remote = remote(path, "--authentication-token-webhook-config-file")?;
            let version = options.authentication_token_webhook_version.as_deref().unwrap_or("v1beta1");
            let ttl = options.authentication_token_webhook_cache_ttl.as_ref();
            let ttl = duration(ttl, "--authentication-token-webhook-cache-ttl", Duration::from_secs(120))?;
            Some(TokenWebhook::new(remote, version, ttl).map_err(|error| anyhow!(error))?)
        }
        None => None,
    };
    Ok(External { oidc, webhook })
}

fn oidc(issuer: &str, options: &ApiServerOptions) -> Result<oidc::Settings> {
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    let claim = |claim: &String| {
        let pair = claim.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = pair.with_context(|| format!("--oidc-required-claim {claim}: written as claim=value"))?;
        anyhow::Ok((name.to_owned(), value.to_owned()))
    };
    let authorities = options
        .oidc_ca_file
        .as_ref()
        .map(|path| std::fs::read(path).with_context(|| format!("--oidc-ca-file {}", path.display())));
    let settings = oidc::Settings {
        issuer: issuer.to_owned(),
        client_id: text(&options.oidc_client_id),
        username_claim: text(&options.oidc_username_claim),
        username_prefix: text(&options.oidc_username_prefix),
        groups_claim: text(&options.oidc_groups_claim),
        groups_prefix: text(&options.oidc_groups_prefix),
        required_claims: options.oidc_required_claim.iter().map(claim).collect::<Result<_>>()?,
        signing_algs: options.oidc_signing_algs.clone(),
        authorities: authorities.transpose()?,
    };
    oidc::validate(&settings).map_err(|error| anyhow!(error))?;
    Ok(settings)
}

/// Who decides, in their order.
pub fn chain(options: &ApiServerOptions) -> Result<Chain> {
    let modes = options.authorization_mode.iter().map(|mode| mode.parse().map_err(|error: String| anyhow!(error)));
    let modes: Vec<Mode> = modes.collect::<Result<_>>()?;
    if let Some(twice) = (1..modes.len()).find(|at| modes[..*at].contains(&modes[*at])) {
        bail!("--authorization-mode has mode {:?} specified more than once", options.authorization_mode[twice]);
    }
    let asked = modes.contains(&Mode::Webhook);
    let webhook = match (&options.authorization_webhook_config_file, asked) {
        (Some(path), true) => {
            let remote = remote(path, "--authorization-webhook-config-file")?;
            let version = options.authorization_webhook_version.as_deref().unwrap_or("v1beta1");
            let ttl =
                |given: &Option<String>, flag, seconds| duration(given.as_ref(), flag, Duration::from_secs(seconds));
            let allowed = &options.authorization_webhook_cache_authorized_ttl;
            let refused = &options.authorization_webhook_cache_unauthorized_ttl;
            let allowed = ttl(allowed, "--authorization-webhook-cache-authorized-ttl", 300)?;
            let refused = ttl(refused, "--authorization-webhook-cache-unauthorized-ttl", 30)?;
            Some(AuthorizationWebhook::new(remote, version, allowed, refused).map_err(|error| anyhow!(error))?)
        }
        (None, true) => bail!("authorization-mode Webhook's authorization config file not passed"),
        (Some(_), false) => {
            bail!("cannot specify --authorization-webhook-config-file without mode Webhook in --authorization-mode")
        }
        (None, false) => None,
    };
    Ok(Chain { modes, webhook })
}

fn remote(path: &Path, flag: &str) -> Result<Remote> {
    Remote::of_kubeconfig(path).map_err(|error| anyhow!("{flag} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_their_files_belong_together() {
        let mut options = ApiServerOptions { authorization_mode: vec!["Node".into(), "RBAC".into()], ..<_>::default() };
        assert_eq!(chain(&options).expect("valid").modes, [Mode::Node, Mode::Rbac]);
        options.authorization_mode.push("Webhook".into());
        assert!(chain(&options).expect_err("no file").to_string().contains("config file not passed"));
        options.authorization_mode[2] = "RBAC".into();
        assert!(chain(&options).expect_err("twice").to_string().contains("more than once"));
        options.authorization_mode = vec!["ABAC".into()];
        assert!(chain(&options).expect_err("unknown").to_string().contains("is not a valid mode"));
    }

    #[test]
    fn an_issuer_needs_a_client_and_https() {
        let options = ApiServerOptions { oidc_required_claim: vec!["a=b".into()], ..<_>::default() };
        assert!(oidc("https://x", &options).expect_err("no client").to_string().contains("--oidc-client-id"));
        let options = ApiServerOptions { oidc_client_id: Some("c".into()), ..options };
        assert_eq!(oidc("https://x", &options).expect("valid").required_claims, [("a".into(), "b".into())]);
        assert!(oidc("http://x", &options).expect_err("no https").to_string().contains("https"));
    }
}
