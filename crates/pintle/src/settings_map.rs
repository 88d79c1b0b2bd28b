//! What a cluster tells its nodes: `kube-public/cluster-info` (its authority, for everyone who asks, as kubeadm's) and
//! `kube-system/pintle-node-settings` (names and numbers, for those who may join).
use crate::instance::Instance;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

const INFO: (&str, &str) = ("kube-public", "cluster-info");
const SETTINGS: (&str, &str) = ("kube-system", "pintle-node-settings");
const INFO_KEY: &str = "kubeconfig";
const SETTINGS_KEY: &str = "settings.json";

/// Publishes both for the cluster `instance`, whose API nodes reach at `server`.
pub async fn publish(client: kube::Client, instance: &Instance, authority_pem: &str, server: &str) -> Result<()> {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "contexts": [], "users": [], "current-context": "",
        "clusters": [{"name": "", "cluster": {
            "certificate-authority-data": STANDARD.encode(authority_pem), "server": server}}],
    });
    let settings = serde_json::to_string(&Instance { kubeconfigs: Vec::new(), ..instance.clone() })?;
    for ((namespace, name), key, text) in [(INFO, INFO_KEY, kubeconfig.to_string()), (SETTINGS, SETTINGS_KEY, settings)]
    {
        keep(&Api::namespaced(client.clone(), namespace), name, key, text).await?;
    }
    Ok(())
}

async fn keep(maps: &Api<ConfigMap>, name: &str, key: &str, text: String) -> Result<()> {
    match maps.get_opt(name).await? {
        None => {
            let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": {key: text}}))?;
            maps.create(&PostParams::default(), &map).await?;
        }
        Some(map) if map.data.as_ref().and_then(|data| data.get(key)) == Some(&text) => {}
        Some(_) => {
            let patch = Patch::Merge(json!({"data": {key: text}}));
            maps.patch(name, &PatchParams::default(), &patch).await?;
        }
    }
    Ok(())
}

/// The authority's certificate (PEM) that a server says is its cluster's.
pub async fn authority(client: kube::Client) -> Result<String> {
    let map = Api::<ConfigMap>::namespaced(client, INFO.0).get(INFO.1).await?;
    let text = map.data.as_ref().and_then(|data| data.get(INFO_KEY)).context("it does not say who its authority is")?;
    let kubeconfig: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("its {} is damaged: {error}", INFO.1))?;
    let data = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    pem.filter(|pem| !pem.is_empty()).context("it does not say who its authority is")
}

/// The cluster's names and numbers.
pub async fn settings(client: kube::Client) -> Result<Instance, kube::Error> {
    let map = Api::<ConfigMap>::namespaced(client, SETTINGS.0).get(SETTINGS.1).await?;
    let text = map.data.as_ref().and_then(|data| data.get(SETTINGS_KEY)).map_or("", String::as_str);
    serde_json::from_str(text).map_err(kube::Error::SerdeError)
}
