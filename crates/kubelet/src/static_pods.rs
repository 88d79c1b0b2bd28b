//! Static pods: manifests in a directory of the node, run without the API server, shown there as mirror pods.
// upstream: pkg/kubelet/config, file.go; pkg/kubelet/pod, mirror_client.go
mod manifest;
mod mirrors;

pub use mirrors::Mirrors;

use crate::kubelet::Kubelet;
use crate::pods::PodExt;
use crate::worker::Workers;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Longest manifest, in bytes.
const MAX_MANIFEST: u64 = 10 << 20;

/// The static pods of a node.
pub struct StaticPods {
    kubelet: Arc<Kubelet>,
    workers: Workers,
    directory: PathBuf,
    stop: CancellationToken,
    /// By file.
    known: HashMap<PathBuf, Arc<Pod>>,
}

impl StaticPods {
    /// Starts the pods that are in `directory` now.
    pub fn start(kubelet: Arc<Kubelet>, workers: Workers, directory: PathBuf, stop: CancellationToken) -> Self {
        let mut this = StaticPods { kubelet, workers, directory, stop, known: HashMap::new() };
        this.scan();
        this
    }

    /// UIDs of the pods.
    pub fn uids(&self) -> impl Iterator<Item = String> {
        self.known.values().map(|pod| pod.uid().to_owned())
    }

    /// Follows the directory until the kubelet stops.
    pub async fn run(mut self) {
        let watched = std::fs::create_dir_all(&self.directory)
            .and_then(|()| self.kubelet.log_watches.watch_directory(&self.directory));
        let mut watch = match watched {
            Ok(watch) => watch,
            Err(error) => {
                let directory = self.directory.display();
                return tracing::error!(%directory, %error, "cannot watch the directory of static pods");
            }
        };
        let stop = self.stop.clone();
        loop {
            // What came between the last look and the watch is seen by this one.
            self.scan();
            if stop.run_until_cancelled(watch.changed()).await.is_none() {
                return;
            }
        }
    }

    /// Compares the directory with what runs.
    fn scan(&mut self) {
        let found = self.read_all();
        let gone: Vec<PathBuf> = (self.known.iter())
            .filter(|(path, pod)| found.get(*path).is_none_or(|newer| newer.uid() != pod.uid()))
            .map(|(path, _)| path.clone())
            .collect();
        let mut ended = HashMap::new();
        for path in gone {
            if let Some(pod) = self.known.remove(&path) {
                tracing::info!(pod = pod.described(), "a static pod's manifest is gone or has changed");
                self.kubelet.mirrors.remove(&pod);
                ended.insert((pod.namespace().to_owned(), pod.name().to_owned()), self.workers.ended(pod.uid()));
                self.workers.removed(&pod);
            }
        }
        for (path, pod) in found {
            if self.known.contains_key(&path) {
                continue;
            }
            self.known.insert(path, pod.clone());
            self.kubelet.mirrors.add(&pod);
            let (kubelet, workers, stop) = (self.kubelet.clone(), self.workers.clone(), self.stop.clone());
            match ended.remove(&(pod.namespace().to_owned(), pod.name().to_owned())) {
                None => workers.update(&kubelet, &pod, &stop),
                // The former pod of this name leaves first.
                Some(before) => {
                    tokio::spawn(async move {
                        before.cancelled().await;
                        workers.update(&kubelet, &pod, &stop);
                    });
                }
            }
        }
    }

    fn read_all(&self) -> HashMap<PathBuf, Arc<Pod>> {
        let mut all: HashMap<PathBuf, Arc<Pod>> = HashMap::new();
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_manifest(path)).collect();
        paths.sort();
        for path in paths {
            let pod = std::fs::read_to_string(&path)
                .map_err(|error| error.to_string())
                .and_then(|text| manifest::parse(&text, &path, &self.kubelet.config.node_name));
            match pod {
                Ok(pod) if all.values().any(|one| one.name() == pod.name() && one.namespace() == pod.namespace()) => {
                    tracing::warn!(path = %path.display(), "another manifest has a pod of this name");
                }
                Ok(pod) => {
                    all.insert(path, Arc::new(pod));
                }
                Err(error) => tracing::warn!(path = %path.display(), error, "not a pod's manifest"),
            }
        }
        all
    }
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
    !hidden && path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_MANIFEST)
}
