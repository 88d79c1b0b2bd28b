//! A manifest file as a pod of this node: what the API server would fill in, and what marks it as static.
// upstream: pkg/kubelet/config, common.go
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Toleration};
use std::path::Path;

/// The pod that the file `path` with content `text` (YAML or JSON) describes, on node `node_name`.
pub fn parse(text: &str, path: &Path, node_name: &str) -> Result<Pod, String> {
    // As in Go's YAML, a word like `n` is text.
    let options = serde_saphyr::options! { strict_booleans: true };
    let value: serde_json::Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err("a manifest is one object of apiVersion v1 and kind Pod".to_owned());
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if pod.name().is_empty() || pod.containers().is_empty() {
        return Err("the pod needs metadata.name and spec.containers".to_owned());
    }
    if uses_api_objects(&pod) {
        return Err("static pods may not use ServiceAccounts, ConfigMaps, Secrets or claims of the API".to_owned());
    }
    let uid = match pod.uid() {
        "" => format!("{:032x}", fnv128(&[text, "host:", node_name, "file:", &path.to_string_lossy()])),
        own => own.to_owned(),
    };
    let meta = &mut pod.metadata;
    meta.name = meta.name.take().map(|name| format!("{name}-{}", node_name.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.hash".to_owned(), uid.clone());
    annotations.insert("kubernetes.io/config.source".to_owned(), "file".to_owned());
    meta.uid = Some(uid);
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node_name.to_owned());
        let everything = Toleration {
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            ..Default::default()
        };
        spec.tolerations.get_or_insert_default().push(everything);
        let host_network = spec.host_network == Some(true);
        let all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        all.for_each(|container| default(container, host_network));
    }
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..Default::default() });
    Ok(pod)
}

/// What a node without the API's objects cannot have.
fn uses_api_objects(pod: &Pod) -> bool {
    let Some(spec) = pod.pod_spec() else { return false };
    let account = spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty());
    let volumes = spec.volumes.iter().flatten().any(|volume| {
        volume.config_map.is_some() || volume.secret.is_some() || volume.persistent_volume_claim.is_some()
    });
    account || volumes || spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
}

fn default(container: &mut Container, host_network: bool) {
    if let Some(resources) = &mut container.resources
        && let Some(limits) = resources.limits.clone()
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
    for port in container.ports.iter_mut().flatten().filter(|_| host_network) {
        port.host_port.get_or_insert(port.container_port);
    }
    if container.image_pull_policy.is_none() {
        let image = container.image.as_deref().unwrap_or_default();
        let name = image.rsplit('/').next().unwrap_or_default();
        let latest = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
        container.image_pull_policy = Some(if latest { "Always" } else { "IfNotPresent" }.to_owned());
    }
}

/// FNV-1a with 128 bits.
fn fnv128(parts: &[&str]) -> u128 {
    let bytes = parts.iter().flat_map(|part| part.bytes());
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  hostNetwork: true\n  containers:\n  \
                            - {name: n, image: nginx, ports: [{containerPort: 80}], resources: {limits: {cpu: 1}}}\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_the_node() {
        let pod = parse(MANIFEST, Path::new("/m/web.yaml"), "Node-1").unwrap();
        assert_eq!((pod.name(), pod.namespace()), ("web-node-1", "default"));
        assert!(pod.is_static() && !pod.is_mirror());
        assert_eq!(pod.uid().len(), 32);
        let container = &pod.containers()[0];
        assert_eq!(container.ports.as_ref().unwrap()[0].host_port, Some(80));
        assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(container.resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0, "1");
        let other = parse(&MANIFEST.replace("nginx", "nginx:1"), Path::new("/m/web.yaml"), "Node-1").unwrap();
        assert_ne!(other.uid(), pod.uid());
    }

    #[test]
    fn other_files_are_refused() {
        for bad in ["", "kind: Service\napiVersion: v1\n", "{", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"] {
            assert!(parse(bad, Path::new("/m/x"), "n").is_err(), "{bad}");
        }
        let secret = MANIFEST.replace("hostNetwork: true", "volumes: [{name: v, secret: {secretName: s}}]");
        assert!(parse(&secret, Path::new("/m/x"), "n").is_err());
    }
}
