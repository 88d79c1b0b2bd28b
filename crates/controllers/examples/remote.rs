//! Runs the controllers against the cluster of the current kubeconfig, with its credentials: for trying them against
//! another API server.
use pintle_client::{Clients, Informers};
use pintle_controllers::Config;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "a TLS provider is installed already")?;
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let client = kube::Client::try_default().await?;
    let stop = CancellationToken::new();
    let config = Config {
        signer: None,
        root_ca_pem: "certificate".to_owned(),
        cluster_cidrs: vec!["10.244.0.0/16".parse()?],
        load_balancer: true,
        node_mask_v4: 24,
        node_mask_v6: 64,
    };
    let informers = Informers::new(client.clone(), stop.clone());
    let running = pintle_controllers::run(config, Clients::remote(client), informers, stop.clone());
    tokio::select! { () = running => {} result = tokio::signal::ctrl_c() => result? }
    stop.cancel();
    Ok(())
}
