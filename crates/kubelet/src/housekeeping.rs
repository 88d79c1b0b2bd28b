//! What a node does from time to time: rotate logs that have grown, remove images nobody uses when the disk fills.
// upstream: pkg/kubelet/logs, container_log_manager.go; pkg/kubelet/images, image_gc_manager.go
use crate::config::Config;
use crate::events::Severity;
use crate::kubelet::Kubelet;
use crate::node::{Disk, disk};
use k8s_openapi::jiff::Timestamp;
use pintle_runtime::cri::{self, ImageService};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often logs are looked at (upstream's `containerLogMonitorInterval`).
const LOGS_EVERY: Duration = Duration::from_secs(10);
/// How often the disk is looked at (upstream's image garbage collection period).
const IMAGES_EVERY: Duration = Duration::from_secs(300);
/// An image is not removed before it is this old here.
const MINIMUM_AGE: Duration = Duration::from_secs(120);
/// A large disk does not need a fifth of its space free: this many bytes are enough.
const ENOUGH_FREE: i64 = 4 << 30;

/// Does so until `stop`.
pub async fn run(kubelet: Arc<Kubelet>, images: Arc<dyn ImageService>, stop: CancellationToken) {
    let mut logs = tokio::time::interval(LOGS_EVERY);
    let mut collect = tokio::time::interval(IMAGES_EVERY);
    collect.tick().await;
    let mut paths = HashMap::new();
    let mut seen = HashMap::new();
    loop {
        tokio::select! {
            _ = logs.tick() => rotate_logs(&kubelet, &mut paths).await,
            _ = collect.tick() => collect_images(&kubelet, images.as_ref(), &mut seen).await,
            () = stop.cancelled() => return,
        }
    }
}

/// Rotates the logs of running containers that are too large. `paths`: logs by container id.
async fn rotate_logs(kubelet: &Kubelet, paths: &mut HashMap<String, PathBuf>) {
    let running = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning as i32 };
    let filter = cri::ContainerFilter { state: Some(running), ..Default::default() };
    let Ok(listed) = kubelet.runtime.list_containers(cri::ListContainersRequest { filter: Some(filter) }).await else {
        return;
    };
    let ids: HashSet<&String> = listed.containers.iter().map(|container| &container.id).collect();
    paths.retain(|id, _| ids.contains(id));
    for id in ids {
        if !paths.contains_key(id) {
            let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: false };
            let Ok(answer) = kubelet.runtime.container_status(request).await else { continue };
            paths.insert(id.clone(), answer.status.map(|status| status.log_path).unwrap_or_default().into());
        }
        let path = &paths[id];
        let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
        if size < kubelet.config.container_log_max_size {
            continue;
        }
        if let Err(error) = rotate(kubelet, id, path).await {
            tracing::warn!(log = %path.display(), error, "cannot rotate a log");
        }
    }
}

async fn rotate(kubelet: &Kubelet, id: &str, path: &Path) -> Result<(), String> {
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let rotated = PathBuf::from(format!("{}.{stamp}", path.display()));
    std::fs::rename(path, &rotated).map_err(|error| error.to_string())?;
    let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(status) = kubelet.runtime.reopen_container_log(request).await {
        // The container still writes to the old file: it keeps its name.
        std::fs::rename(&rotated, path).map_err(|error| error.to_string())?;
        return Err(crate::rpc_text(&status));
    }
    for old in surplus(rotated_logs(path), &kubelet.config) {
        std::fs::remove_file(&old).map_err(|error| format!("{}: {error}", old.display()))?;
    }
    Ok(())
}

/// Rotated logs of `path`, the oldest first.
fn rotated_logs(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mine = entries.filter(|entry| entry.file_name().to_str().is_some_and(|file| file.starts_with(&prefix)));
    let mut all: Vec<PathBuf> = mine.map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// Those of `rotated` (the oldest first) that are too many beside the current log.
fn surplus(mut rotated: Vec<PathBuf>, config: &Config) -> Vec<PathBuf> {
    let keep = usize::try_from(config.container_log_max_files.saturating_sub(1)).unwrap_or(usize::MAX);
    rotated.truncate(rotated.len().saturating_sub(keep));
    rotated
}

/// Bytes to free so that usage falls below the low threshold; 0 while it is below the high one.
fn bytes_to_free(disk: Disk, (high, low): (u8, u8)) -> i64 {
    let free_below = |percent: u8| (disk.total / 100 * (100 - i64::from(percent.min(100)))).min(ENOUGH_FREE);
    if disk.total == 0 || disk.free >= free_below(high) { 0 } else { (free_below(low) - disk.free).max(1) }
}

/// The images that may be removed, each with whether a container uses it.
async fn images_and_use(kubelet: &Kubelet, images: &dyn ImageService) -> Vec<(cri::Image, bool)> {
    let containers = kubelet.runtime.list_containers(cri::ListContainersRequest { filter: None }).await;
    let listed = images.list_images(cri::ListImagesRequest { filter: None }).await;
    let (Ok(containers), Ok(listed)) = (containers, listed) else { return Vec::new() };
    let used: HashSet<&str> = (containers.containers.iter())
        .flat_map(|one| {
            [one.image_ref.as_str(), one.image_id.as_str(), one.image.as_ref().map_or("", |image| &image.image)]
        })
        .collect();
    let in_use = |image: &cri::Image| {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
        names.any(|name| used.contains(name.as_str()))
    };
    let removable = listed.images.into_iter().filter(|image| !image.pinned);
    removable.map(|image| (in_use(&image), image)).map(|(used, image)| (image, used)).collect()
}

/// Removes every image that no container uses: the node needs the room now.
pub async fn remove_unused_images(kubelet: &Kubelet, images: &dyn ImageService) {
    for (image, used) in images_and_use(kubelet, images).await {
        if !used {
            remove_image(images, &image).await;
        }
    }
}

/// Removes an image; the bytes that are free then.
async fn remove_image(images: &dyn ImageService, image: &cri::Image) -> i64 {
    let spec = cri::ImageSpec { image: image.id.clone(), ..Default::default() };
    match images.remove_image(cri::RemoveImageRequest { image: Some(spec) }).await {
        Ok(_) => i64::try_from(image.size).unwrap_or(i64::MAX),
        Err(status) => {
            tracing::warn!(image = image.id, error = status.message(), "cannot remove an image");
            0
        }
    }
}

/// Removes images that no container uses, those unused for longest first. `seen`: when each was last in use here.
async fn collect_images(kubelet: &Kubelet, images: &dyn ImageService, seen: &mut HashMap<String, Instant>) {
    let now = Instant::now();
    let all = images_and_use(kubelet, images).await;
    seen.retain(|id, _| all.iter().any(|(image, _)| image.id == *id));
    let mut unused = Vec::new();
    for (image, used) in &all {
        if *used {
            seen.insert(image.id.clone(), now);
        } else {
            unused.push((*seen.entry(image.id.clone()).or_insert(now), image));
        }
    }
    let mut wanted = bytes_to_free(disk(&kubelet.config.root_dir), kubelet.config.image_gc_thresholds);
    unused.sort_by_key(|(since, _)| *since);
    for (_, image) in unused.into_iter().filter(|(since, _)| now - *since >= MINIMUM_AGE) {
        if wanted <= 0 {
            return;
        }
        wanted -= remove_image(images, image).await;
    }
    if wanted > 0 {
        let message =
            format!("Failed to garbage collect required amount of images. Still wanted to free {wanted} bytes.");
        kubelet.recorder.node(Severity::Warning, "FreeDiskSpaceFailed", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_go_only_when_the_disk_is_nearly_full() {
        let disk = |total: i64, free: i64| Disk { total: total << 30, free: free << 30, ..Default::default() };
        assert_eq!(bytes_to_free(disk(10, 5), (85, 80)), 0);
        assert!(bytes_to_free(disk(10, 1), (85, 80)) > 0);
        assert_eq!(bytes_to_free(disk(250, 12), (85, 80)), 0);
        assert_eq!(bytes_to_free(disk(250, 3), (85, 80)), 1 << 30);
    }

    #[test]
    fn the_newest_rotated_logs_stay() {
        let mut config = Config::new("n", std::net::IpAddr::from([192, 0, 2, 1]), "/nowhere");
        config.container_log_max_files = 3;
        let all: Vec<PathBuf> = ["a", "b", "c"].map(PathBuf::from).into();
        assert_eq!(surplus(all, &config), [PathBuf::from("a")]);
        assert_eq!(surplus(vec!["a".into()], &config), [] as [PathBuf; 0]);
    }
}
