//! Wires the ingress: beside the control plane and the node, because it reads Secrets and reaches pods.
use crate::control_plane::ControlPlane;
use crate::progress::Progress;
use crate::start::{Components, Settings};
use anyhow::{Context, Result};
use pintle_ingress::{Config, Ingress};
use pintle_pki::LeafSpec;
use tokio_util::sync::CancellationToken;

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// Starts the ingress, unless it is switched off. A port that somebody else has is only an error for those who asked for the
/// ingress: others find it in the progress, as several clusters on one machine do.
pub async fn start(
    settings: &Settings,
    control_plane: &ControlPlane,
    stop: &CancellationToken,
    components: &mut Components,
    progress: &Progress,
) -> Result<()> {
    let options = &settings.options;
    if options.ingress == Some(false) {
        return Ok(());
    }
    let certificate = LeafSpec::server("pintle default ingress certificate", []);
    let config = Config {
        bind: settings.bind(),
        http_port: options.ingress_http_port.unwrap_or(HTTP_PORT),
        https_port: options.ingress_https_port.unwrap_or(HTTPS_PORT),
        addresses: vec![settings.node_ip],
        certificate: control_plane.pki.leaf("ingress", certificate).context("the ingress's certificate")?,
    };
    let (http, https) = (config.http_port, config.https_port);
    let asked = options.ingress == Some(true) || options.ingress_http_port.or(options.ingress_https_port).is_some();
    match Ingress::bind(config).await {
        Ok(ingress) => {
            let running = ingress.run(control_plane.clients.clone(), control_plane.informers.clone(), stop.clone());
            components.spawn(async move {
                running.await;
                ("ingress", Ok(()))
            });
            progress.step(&format!("Ingresses at ports {http} and {https}"));
        }
        Err(error) if asked => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "Ingresses are not answered");
            progress.step(&format!("no Ingresses: {error}"));
        }
    }
    Ok(())
}
