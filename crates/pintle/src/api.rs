//! Wires the API server: the registry on the store, who may ask, what is refused, the endpoints with behaviour of their own.
mod access;
mod enabled;
mod features;

use crate::cli::ApiServerOptions;
use crate::start::Settings;
use anyhow::{Context, Result};
use pintle_api::scheme::Scheme;
use pintle_apiserver::aggregator::Aggregator;
use pintle_apiserver::proxy::metrics;
use pintle_apiserver::registry::Registry;
use pintle_apiserver::special::{Specials, register_kinds};
use pintle_apiserver::{ApiServer, Parts, api_services, bootstrap, definitions, secure};
use pintle_pki::ClusterPki;
use pintle_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the API still answers after it was told to end.
pub fn shutdown_delay(options: &ApiServerOptions) -> Result<Duration> {
    features::duration(options.shutdown_delay_duration.as_ref(), "--shutdown-delay-duration", Duration::ZERO)
}

/// An API server on `store` with everything that every cluster has.
pub async fn server(
    store: Arc<dyn Store>,
    pki: &ClusterPki,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<ApiServer> {
    let instance = &settings.instance;
    let enabled = enabled::enabled(&settings.options.api_server)?;
    let scheme = Arc::new(Scheme::served(&enabled.apis, &enabled.gates).extended(metrics::resources()));
    let registry = Registry::new(store, scheme, stop.clone());
    let service = bootstrap::service::Config {
        service_cidrs: vec![instance.service_cidr.into()],
        advertise_address: settings.node_ip,
        port: instance.https_port,
    };
    let params = secure::Params {
        service_account_issuer: format!("https://kubernetes.default.svc.{}", instance.cluster_domain),
        api_audiences: Vec::new(),
        external_address: format!("{}:{}", settings.node_ip, instance.https_port),
        external: access::external(&settings.options.api_server, stop)?,
        authorization: access::chain(&settings.options.api_server)?,
        addons: pintle_storage::manifests(),
    };
    let mut specials = Specials::default();
    register_kinds(&mut specials);
    let guard = secure::parts(pki, &registry, &params, &mut specials, stop).await?;
    bootstrap::service::ensure(&registry, &service).await.context("the kubernetes Service")?;
    definitions::install(&registry).await.context("custom resources")?;
    let aggregator = Aggregator::start(&registry, pki, stop).await.context("aggregated API servers")?;
    api_services::keep_registered(&registry, stop.clone()).await.context("the APIServices of custom resources")?;
    let features = features::features(&settings.options.api_server, &registry, stop).await?;
    let server = ApiServer::new(Parts {
        registry,
        authenticator: guard.authenticator,
        authorizer: guard.authorizer,
        admission: guard.admission,
        specials,
        aggregator: Some(aggregator),
        features,
        stop: stop.clone(),
    });
    server.add_metrics(move || enabled.gates.metrics());
    Ok(server)
}
