//! Puts the parts together: what pods share, the watch on this node's pods, and one worker for each of them.
use crate::allocation::Allocations;
use crate::cgroups;
use crate::config::Config;
use crate::downward::NodeFacts;
use crate::events::Recorder;
use crate::eviction::{self, Pressure};
use crate::housekeeping;
use crate::images::Images;
use crate::logs::Watches;
use crate::node::{self, NodeAgent};
use crate::objects::Objects;
use crate::pods::{PodExt, labels};
use crate::server::Server;
use crate::static_pods::{Mirrors, StaticPods};
use crate::status_manager::StatusManager;
use crate::volumes::Volumes;
use crate::worker::{self, Workers};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use pintle_client::informer::Change;
use pintle_client::{Informer, Informers};
use pintle_runtime::cri::{self, ImageService, RuntimeService};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often everything is compared again although no event asked for it.
const RESYNC: Duration = Duration::from_secs(300);
/// How long to wait before asking a runtime again that ended its event stream.
const EVENTS_RETRY: Duration = Duration::from_secs(1);

/// Why the kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime does not answer.
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[from] tonic::Status),
    /// The server's address cannot be had.
    #[error("the kubelet cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A directory cannot be made.
    #[error("cannot prepare the kubelet's directories: {0}")]
    Directories(#[from] std::io::Error),
}

/// A cheap handle to a running kubelet.
#[derive(Clone)]
pub struct Handle {
    ready: watch::Receiver<bool>,
}

impl Handle {
    /// Waits until the Node is registered and reported Ready; false when the kubelet stopped before.
    pub async fn ready(&mut self) -> bool {
        self.ready.wait_for(|ready| *ready).await.is_ok()
    }
}

/// What all parts of one kubelet share.
pub(crate) struct Kubelet {
    pub config: Config,
    pub client: Client,
    pub runtime: Arc<dyn RuntimeService>,
    pub runtime_name: String,
    pub images: Images,
    pub recorder: Recorder,
    pub statuses: StatusManager,
    pub objects: Objects,
    pub volumes: Volumes,
    pub services: Informer<Service>,
    pub informers: Informers,
    /// This node's own object.
    pub nodes: Informer<Node>,
    pub allocations: Allocations,
    pub mirrors: Mirrors,
    pub pressure: Pressure,
    pub node: NodeFacts,
    pub machine_memory: i64,
    pub log_watches: Watches,
    /// When this process started.
    pub since: Timestamp,
}

/// Starts a node agent that acts through `client` (as `system:node:<name>`) until `stop`; containers go on running after it.
pub async fn run(
    config: Config,
    client: Client,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    stop: CancellationToken,
) -> Result<Handle, Error> {
    let version = runtime.version(cri::VersionRequest { version: "v1".into() }).await?;
    std::fs::create_dir_all(&config.pod_logs_dir)?;
    let recorder = Recorder::new(client.clone(), &config.node_name);
    let workers = Workers::default();
    let objects = {
        let workers = workers.clone();
        Objects::new(client.clone(), move |uid| workers.wake(uid))
    };
    let machine = node::Machine::read(&config);
    let facts = machine.facts(&config);
    let (ready_sender, ready) = watch::channel(false);
    let own_name = watcher::Config::default().fields(&format!("metadata.name={}", config.node_name));
    let nodes: Informer<Node> = Informer::start(Api::all(client.clone()), own_name, stop.clone());
    let allocations = {
        let workers = workers.clone();
        Allocations::new(config.root_dir.join("pods"), move |uid| workers.wake(uid))
    };
    let informers = Informers::new(client.clone(), stop.clone());
    let pressure = Pressure::default();
    let statuses = StatusManager::new(client.clone());
    let mirrors = Mirrors::new(client.clone(), statuses.clone());
    {
        let mirrors = mirrors.clone();
        nodes.on_change(move |change| {
            if matches!(change, Change::Added(_)) {
                mirrors.wake();
            }
        });
    }
    let agent = NodeAgent {
        config: config.clone(),
        client: client.clone(),
        machine: machine.clone(),
        recorder: recorder.clone(),
        runtime: runtime.clone(),
        images: images.clone(),
        pressure: pressure.clone(),
        nodes: nodes.clone(),
        runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
    };
    let kubelet = Arc::new(Kubelet {
        volumes: Volumes::new(&config, client.clone(), objects.clone(), facts.clone())?,
        images: Images::new(images.clone(), recorder.clone()),
        statuses,
        mirrors,
        pressure,
        services: informers.of::<Service>(),
        informers,
        nodes,
        allocations,
        runtime,
        runtime_name: version.runtime_name,
        recorder,
        objects,
        node: facts,
        machine_memory: machine.memory,
        log_watches: Watches::default(),
        client: client.clone(),
        since: Timestamp::now(),
        config,
    });
    if let Some(server) = kubelet.config.server.clone() {
        let listener = tokio::net::TcpListener::bind(server.address)
            .await
            .map_err(|source| Error::Listen { address: server.address, source })?;
        let serve = Server::new(kubelet.clone(), workers.clone(), client.clone());
        tokio::spawn(serve.run(listener, server, stop.clone()));
    }
    tokio::spawn(agent.run(ready_sender, stop.clone()));
    let statics = kubelet
        .config
        .static_pod_path
        .clone()
        .map(|directory| StaticPods::start(kubelet.clone(), workers.clone(), directory, stop.clone()));
    let known = statics.iter().flat_map(StaticPods::uids).collect();
    if let Some(statics) = statics {
        tokio::spawn(statics.run());
    }
    let mirrors = kubelet.mirrors.clone();
    tokio::spawn(mirrors.run(kubelet.nodes.clone(), kubelet.config.node_name.clone(), stop.clone()));
    tokio::spawn(follow_pods(kubelet.clone(), workers.clone(), client, known, stop.clone()));
    tokio::spawn(housekeeping::run(kubelet.clone(), images.clone(), stop.clone()));
    tokio::spawn(eviction::run(kubelet.clone(), workers.clone(), images, stop.clone()));
    tokio::spawn(follow_runtime(kubelet, workers, stop));
    Ok(Handle { ready })
}

/// Keeps one worker for each pod bound to this node. `statics`: UIDs of pods that the API does not know.
async fn follow_pods(
    kubelet: Arc<Kubelet>,
    workers: Workers,
    client: Client,
    statics: HashSet<String>,
    stop: CancellationToken,
) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.config.node_name));
    let pods: Informer<Pod> = Informer::start(Api::all(client), config, stop.clone());
    let seen = Arc::new(Mutex::new(statics));
    {
        let (kubelet, workers, stop, seen) = (kubelet.clone(), workers.clone(), stop.clone(), seen.clone());
        pods.on_change(move |change| {
            if change.object().is_mirror() {
                kubelet.mirrors.observe(change.object(), !matches!(change, Change::Deleted(_)));
                return;
            }
            if let Change::Updated(old, new) = change
                && old.uid() != new.uid()
            {
                workers.removed(old);
            }
            match change {
                Change::Added(pod) | Change::Updated(_, pod) => {
                    seen.lock().insert(pod.uid().to_owned());
                    workers.update(&kubelet, pod, &stop);
                }
                Change::Deleted(pod) => workers.removed(pod),
            }
        });
    }
    pods.synced().await;
    let known: HashSet<String> = seen.lock().clone();
    remove_orphans(&kubelet, &known).await;
    let mut timer = tokio::time::interval(RESYNC);
    timer.tick().await;
    loop {
        tokio::select! {
            _ = timer.tick() => workers.wake_all(),
            () = stop.cancelled() => return,
        }
    }
}

/// Removes what an earlier process left of pods that are gone from the API.
async fn remove_orphans(kubelet: &Arc<Kubelet>, known: &HashSet<String>) {
    let sandboxes = match kubelet.runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await {
        Ok(response) => response.items,
        Err(status) => {
            tracing::warn!(error = status.message(), "cannot list sandboxes to remove orphans");
            return;
        }
    };
    let logs = pod_log_dirs(&kubelet.config.pod_logs_dir);
    let mut uids: HashSet<String> = kubelet.volumes.known_uids().into_iter().collect();
    uids.extend(cgroups::known_uids(&kubelet.config));
    uids.extend(logs.iter().map(|(uid, _)| uid.clone()));
    uids.extend(sandboxes.iter().filter_map(|sandbox| sandbox.labels.get(labels::POD_UID).cloned()));
    for uid in uids.difference(known) {
        tracing::info!(uid, "removing what is left of a pod that is gone");
        let mine = sandboxes.iter().filter(|sandbox| sandbox.labels.get(labels::POD_UID) == Some(uid));
        for sandbox in mine {
            worker::remove_sandbox(kubelet, &sandbox.id).await;
        }
        logs.iter().filter(|(of, _)| of == uid).for_each(|(_, dir)| worker::remove_dir(dir));
        if let Err(error) = kubelet.volumes.tear_down(uid).await {
            tracing::warn!(uid, error, "cannot remove the volumes of a pod that is gone");
        }
        if let Err(error) = cgroups::remove(&kubelet.config, uid) {
            tracing::warn!(uid, error, "cannot remove the cgroup of a pod that is gone");
        }
    }
}

/// The directories of pods' logs, by UID.
fn pod_log_dirs(root: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let uid_of = |path: &Path| Some(path.file_name()?.to_str()?.rsplit_once('_')?.1.to_owned());
    entries.filter_map(|entry| Some((uid_of(&entry.path())?, entry.path()))).collect()
}

/// Wakes the worker of each pod that something happened to in the runtime.
async fn follow_runtime(kubelet: Arc<Kubelet>, workers: Workers, stop: CancellationToken) {
    loop {
        let mut events = match kubelet.runtime.get_container_events().await {
            Ok(events) => events,
            Err(status) => {
                tracing::warn!(error = status.message(), "no events from the container runtime, will ask again");
                tokio::select! {
                    () = tokio::time::sleep(EVENTS_RETRY) => continue,
                    () = stop.cancelled() => return,
                }
            }
        };
        // Whatever happened between two streams is found by comparing.
        workers.wake_all();
        while let Some(event) = tokio::select! { event = events.recv() => event, () = stop.cancelled() => return } {
            let sandbox = event.pod_sandbox_status.as_ref();
            match sandbox.and_then(|sandbox| sandbox.metadata.as_ref()) {
                Some(metadata) => workers.wake(&metadata.uid),
                None => workers.wake_all(),
            }
        }
        tracing::warn!("the container runtime ended its event stream, will open another one");
    }
}
