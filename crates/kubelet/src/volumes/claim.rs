//! Claims: from a PersistentVolumeClaim to the place on this node.
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::Api;
use std::path::PathBuf;

/// Where a claim's volume is.
pub struct Claim {
    /// Path on this node.
    pub path: PathBuf,
    /// hostPath type to check, empty for none.
    pub kind: String,
    /// Upstream's plugin name: `host-path` or `local-volume`.
    pub plugin: &'static str,
}

/// Resolves claim `name` of `pod`.
// upstream: pkg/kubelet/volumemanager/populator, getPVCExtractPV
pub async fn find(client: &Client, pod: &Pod, name: &str) -> Result<Claim, String> {
    let namespace = pod.namespace();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await.map_err(|error| {
        format!("error processing PVC {namespace}/{name}: failed to fetch PVC from API server: {}", text(&error))
    })?;
    if claim.metadata.deletion_timestamp.is_some() && claim.metadata.finalizers.iter().flatten().next().is_none() {
        return Err(format!("error processing PVC {namespace}/{name}: PVC is being deleted"));
    }
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|_| bound);
    let Some(volume) = volume else {
        return Err(format!("error processing PVC {namespace}/{name}: PVC is not bound"));
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get(&volume).await.map_err(|error| {
        format!(
            "error processing PVC {namespace}/{name}: failed to fetch PV {volume} from API server: {}",
            text(&error)
        )
    })?;
    let spec = found.spec.unwrap_or_default();
    let of = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_deref());
    if of != claim.metadata.uid.as_deref() {
        return Err(format!(
            "error processing PVC {namespace}/{name}: PV {volume} spec.claimRef is not bound to this claim"
        ));
    }
    if let Some(source) = spec.host_path {
        let kind = source.type_.unwrap_or_default();
        return Ok(Claim { path: source.path.into(), kind, plugin: "host-path" });
    }
    if let Some(source) = spec.local {
        return Ok(Claim { path: source.path.into(), kind: String::new(), plugin: "local-volume" });
    }
    Err(format!("no volume plugin matched the PersistentVolume {volume:?}"))
}

fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
