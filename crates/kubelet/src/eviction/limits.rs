//! How much disk a pod uses, and whether that is more than it may.
// upstream: pkg/kubelet/eviction, localStorageEviction
use super::Bytes;
use crate::kubelet::Kubelet;
use crate::pods::PodExt;
use crate::resources::aggregate;
use k8s_openapi::api::core::v1::{Container, Pod};
use pintle_api::quantity::Quantity;
use pintle_runtime::cri;
use std::path::PathBuf;

/// Disk used by a pod, in bytes.
#[derive(Debug, Default)]
pub struct DiskUse {
    /// emptyDir volumes by name; those in memory are not in the total.
    volumes: Bytes,
    on_disk: i64,
    /// Writable layer and logs by container.
    containers: Bytes,
    /// Logs alone.
    logs: Bytes,
}

impl DiskUse {
    /// Bytes by volume.
    pub fn volumes(&self) -> &Bytes {
        &self.volumes
    }

    /// Bytes of a container's logs.
    pub fn logs(&self, container: &str) -> i64 {
        self.logs.get(container).copied().unwrap_or(0)
    }

    /// All of it.
    pub fn total(&self) -> i64 {
        self.on_disk + self.containers.values().sum::<i64>()
    }
}

fn ephemeral_limit(container: &Container) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    Quantity::parse(&limits.get("ephemeral-storage")?.0).ok().filter(|limit| !limit.is_zero())
}

fn size_limits(pod: &Pod) -> impl Iterator<Item = (&str, Quantity)> {
    let volumes = pod.pod_spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| {
        let limit = Quantity::parse(&volume.empty_dir.as_ref()?.size_limit.as_ref()?.0).ok()?;
        (limit.sign() > 0).then_some((volume.name.as_str(), limit))
    })
}

/// Whether the pod has limits on its use of disk.
pub fn has_any(pod: &Pod) -> bool {
    size_limits(pod).next().is_some()
        || pod.containers().iter().any(|container| ephemeral_limit(container).is_some())
        || aggregate::limits(pod).contains_key("ephemeral-storage")
}

/// What a pod uses of the disk, read from there.
pub async fn disk_use(kubelet: &Kubelet, pod: &Pod, stats: Option<&cri::PodSandboxStats>) -> DiskUse {
    let mut used = DiskUse::default();
    let logs = kubelet.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid());
    let containers: Vec<(String, PathBuf)> =
        pod.containers().iter().map(|container| (container.name.clone(), logs.join(&container.name))).collect();
    let volumes = pod.pod_spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let volumes: Vec<(String, bool, PathBuf)> = (volumes.iter())
        .filter_map(|volume| {
            let in_memory = volume.empty_dir.as_ref()?.medium.as_deref() == Some("Memory");
            Some((volume.name.clone(), in_memory, kubelet.volumes.empty_dir_path(pod.uid(), &volume.name)))
        })
        .collect();
    let measured = tokio::task::spawn_blocking(move || {
        let bytes = |path: &PathBuf| i64::try_from(pintle_runtime::disk_usage(path).0).unwrap_or(i64::MAX);
        let containers: Bytes = containers.iter().map(|(name, path)| (name.clone(), bytes(path))).collect();
        let volumes: Vec<(String, bool, i64)> =
            volumes.iter().map(|(name, in_memory, path)| (name.clone(), *in_memory, bytes(path))).collect();
        (containers, volumes)
    });
    let Ok((containers, volumes)) = measured.await else { return used };
    used.logs.clone_from(&containers);
    used.containers = containers;
    for (name, in_memory, bytes) in volumes {
        if !in_memory {
            used.on_disk += bytes;
        }
        used.volumes.insert(name, bytes);
    }
    for stats in stats.and_then(|stats| stats.linux.as_ref()).map(|linux| &linux.containers).into_iter().flatten() {
        let name = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref()).map(|one| &one.name);
        let layer = stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
        if let Some(known) = name.and_then(|name| used.containers.get_mut(name)) {
            *known += i64::try_from(layer).unwrap_or(i64::MAX);
        }
    }
    used
}

/// The message about the first limit that is exceeded.
pub fn exceeded(pod: &Pod, used: &DiskUse) -> Option<String> {
    for (name, limit) in size_limits(pod) {
        if used.volumes.get(name).is_some_and(|bytes| *bytes > limit.value()) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", limit.to_string()));
        }
    }
    if let Some(limit) = aggregate::limits(pod).get("ephemeral-storage")
        && used.total() > limit.value()
    {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    pod.containers().iter().find_map(|container| {
        let limit = ephemeral_limit(container)?;
        let used = used.containers.get(&container.name).copied().unwrap_or(0);
        (used > limit.value()).then(|| {
            let limit = limit.to_string();
            format!("Container {} exceeded its local ephemeral storage limit {limit:?}. ", container.name)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_limit_has_its_message() {
        let limit = |amount: &str| json!({"limits": {"ephemeral-storage": amount}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}],
            "containers": [{"name": "a", "resources": limit("1Ki")}, {"name": "b", "resources": limit("3Ki")}]}}))
        .unwrap();
        assert!(has_any(&pod));
        let used = |volume: i64, a: i64| DiskUse {
            volumes: [("v".to_owned(), volume)].into(),
            on_disk: volume,
            containers: [("a".to_owned(), a)].into(),
            ..Default::default()
        };
        assert_eq!(exceeded(&pod, &used(1024, 1024)), None);
        let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ";
        assert_eq!(exceeded(&pod, &used(1025, 0)).as_deref(), Some(message));
        let message = "Pod ephemeral local storage usage exceeds the total limit of containers 4Ki. ";
        assert_eq!(exceeded(&pod, &used(1000, 4000)).as_deref(), Some(message));
        let message = "Container a exceeded its local ephemeral storage limit \"1Ki\". ";
        assert_eq!(exceeded(&pod, &used(0, 2000)).as_deref(), Some(message));
    }
}
