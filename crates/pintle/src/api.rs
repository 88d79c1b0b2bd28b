//! Wires the API server: the registry on the store, who may ask, what is refused, the endpoints with behaviour of their own.
use crate::start::Settings;
use anyhow::{Context, Result};
use pintle_api::scheme::Scheme;
use pintle_apiserver::authn::{default::ClusterAuthenticator, tokens::TokenKeys, x509::ClientCertificates};
use pintle_apiserver::authz::{default::ClusterAuthorizer, rbac::Rbac};
use pintle_apiserver::bootstrap;
use pintle_apiserver::registry::Registry;
use pintle_apiserver::special::Specials;
use pintle_apiserver::{ApiServer, Parts};
use pintle_pki::ClusterPki;
use pintle_store::Store;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// An API server on `store` with everything that every cluster has.
pub async fn server(store: Arc<dyn Store>, pki: &ClusterPki, settings: &Settings, stop: &CancellationToken) -> Result<ApiServer> {
    let instance = &settings.instance;
    let registry = Registry::new(store, Scheme::builtin(), stop.clone());
    let service = bootstrap::service::Config {
        service_cidrs: vec![instance.service_cidr.into()],
        advertise_address: settings.node_ip,
        port: instance.https_port,
    };
    bootstrap::reconcile(&registry).await.context("the objects that every cluster has")?;
    bootstrap::service::ensure(&registry, &service).await.context("the kubernetes Service")?;
    let authorizer = ClusterAuthorizer::new(Rbac::start(&registry, stop).await.context("RBAC")?);
    let issuer = format!("https://kubernetes.default.svc.{}", instance.cluster_domain);
    let tokens = TokenKeys::new(pki.service_account_key(), &issuer, &[]).context("the service account key")?;
    let certificates = ClientCertificates::new(pki.client_verifier().context("client certificates")?);
    Ok(ApiServer::new(Parts {
        registry,
        authenticator: Arc::new(ClusterAuthenticator::new(certificates, tokens.clone(), authorizer.clone())),
        authorizer: Arc::new(authorizer),
        admission: Arc::new(pintle_apiserver::admission::ClusterAdmission),
        specials: specials(),
        stop: stop.clone(),
    }))
}

/// The endpoints with behaviour of their own.
fn specials() -> Specials {
    Specials::default()
}
