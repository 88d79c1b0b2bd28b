//! The first contact: from a token to a client certificate.
use super::certificates::{self, Certificates};
use super::{RETRY, Wish};
use crate::progress::Progress;
use crate::settings_map;
use crate::token::Token;
use anyhow::{Context, Result, bail};
use pintle_client::Remote;
use pintle_pki::{LeafSpec, Trusted, tls};
use std::sync::Arc;
use std::time::SystemTime;

/// The node's certificates: those of an earlier start, or new ones for the token.
pub async fn certificates(wish: &Wish, progress: &Progress) -> Result<Arc<Certificates>> {
    let kept = Certificates::open(&wish.paths)?;
    if let Some(kept) = kept.filter(|kept| kept.client_expires().is_some_and(|time| time > SystemTime::now())) {
        return Ok(Arc::new(kept));
    }
    let Some(token) = &wish.token else {
        bail!(
            "this node is not part of a cluster yet: say --token TOKEN, which `pintle token create` on the server prints"
        )
    };
    let authority = discover(wish, token, progress).await?;
    progress.step(&format!("the server at {} is the token's", wish.server));
    let certificates = Certificates::install(&wish.paths, &authority)?;
    let tls = tls::held_client_config(None, certificates.authority().certificate())?;
    let client = Remote::new(wish.server.clone(), tls).client_with_token(&token.bearer())?;
    let spec = LeafSpec::node_client(&wish.node_name);
    let issued = certificates::request(&client, certificates::CLIENT_SIGNER, &spec).await;
    let (certificate, key) = issued.map_err(|error| explain(error, token))?;
    certificates.install_client(&certificate, &key)?;
    progress.step(&format!("certificate for node {}", wish.node_name));
    Ok(Arc::new(certificates))
}

fn explain(error: certificates::RequestError, token: &Token) -> anyhow::Error {
    match error {
        certificates::RequestError::Api(error) => match *error {
            kube::Error::Api(status) if status.code == 401 => anyhow::anyhow!(
                "the server refuses token {}: it is wrong, has expired, or was revoked or used; \
                 `pintle token create` on the server makes a new one",
                token.id
            ),
            error => anyhow::Error::new(error).context("cannot ask for a certificate"),
        },
        certificates::RequestError::Denied(why) => anyhow::anyhow!(
            "the server does not let this node join: {why}; `pintle token create` on the server makes a new token"
        ),
        other => other.into(),
    }
}

/// The certificate of the cluster's authority, if its public key has the hash in `token`: the token's secret is not said
/// before.
async fn discover(wish: &Wish, token: &Token, progress: &Progress) -> Result<String> {
    let client = Remote::new(wish.server.clone(), tls::unverified_client_config()?).client();
    let mut told = false;
    let pem = loop {
        match settings_map::authority(client.clone()).await {
            Ok(pem) => break pem,
            Err(error) => match error.downcast_ref::<kube::Error>() {
                // Not there yet, or not listening yet.
                Some(kube::Error::Api(status)) if status.code == 404 || status.code >= 500 => {
                    tracing::info!(%error, "the server is not ready yet");
                }
                Some(kube::Error::Api(_)) | None => {
                    return Err(error).with_context(|| format!("{} is no server of Pintle", wish.server));
                }
                Some(_) => {
                    if !std::mem::replace(&mut told, true) {
                        progress.step(&format!(
                            "waiting for the server at {}, which does not answer: {error}",
                            wish.server
                        ));
                    }
                }
            },
        }
        tokio::time::sleep(RETRY).await;
    };
    let found = Trusted::parse("the server's answer".as_ref(), &pem)?.public_key_hash()?;
    if found != token.authority {
        bail!(
            "the server at {} is not the one that the token is of: its authority has the hash {found}, the token says {}; \
             nothing was told to it",
            wish.server,
            token.authority
        );
    }
    Ok(pem)
}
