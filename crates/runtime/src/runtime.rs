//! The runtime itself: its configuration, its sandboxes and containers, and finding them again after a restart.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::cgroup::{self, Cgroups};
use crate::cri::{ContainerEventResponse, ContainerEventType};
use crate::image;
use crate::image::pull::Registries;
use crate::image::store::{self, ImageStore};
use crate::pod_network::PodNetwork;
use crate::records::{self, ContainerPhase, ContainerRecord, SandboxRecord};
use crate::shim::protocol::{ContainerState, Event, Reply, Request};
use crate::shim_client::{Connection, ShimClient};
use crate::spec::Host;
use crate::streaming::Streaming;

/// How long a start waits for shims to say how their pods are.
const SHIM_ANSWERS: Duration = Duration::from_secs(10);

/// How to run.
#[derive(Clone)]
pub struct Config {
    /// What stays: images, snapshots, records. Not on an overlay file system.
    pub root: PathBuf,
    /// What ends with the machine's run, below `/run`: sockets, namespaces, bundles.
    pub state: PathBuf,
    /// The group of the control groups under which everything is made, e.g. `/pintle-1234abcd`.
    pub cgroup_parent: String,
    /// The binary that `shim <directory>` is asked of: this one.
    pub executable: PathBuf,
    /// Who wires the sandboxes.
    pub network: Arc<dyn PodNetwork>,
    /// How registries are reached.
    pub registries: Registries,
    /// A directory whose image archives are loaded as they appear.
    pub image_directory: Option<PathBuf>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("root", &self.root).field("state", &self.state).finish_non_exhaustive()
    }
}

/// Why the runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or file of its own failed.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The control groups.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The streaming server.
    #[error("cannot listen on loopback for exec, attach and port-forward: {0}")]
    Streaming(std::io::Error),
    /// The images.
    #[error("the image store cannot be opened: {0}")]
    Images(#[from] store::Error),
}

/// A sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub record: Mutex<SandboxRecord>,
    pub shim: ShimClient,
    /// One start or stop at a time.
    pub lifecycle: tokio::sync::Mutex<()>,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub record: Mutex<ContainerRecord>,
    /// Whether it has ended.
    pub exited: watch::Sender<bool>,
    pub lifecycle: tokio::sync::Mutex<()>,
}

/// Everything that the runtime's parts share.
pub(crate) struct Inner {
    pub config: Config,
    pub cgroups: Cgroups,
    pub host: Host,
    pub images: Arc<ImageStore>,
    pub sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    pub containers: Mutex<BTreeMap<String, Arc<Container>>>,
    subscribers: Mutex<Vec<mpsc::Sender<ContainerEventResponse>>>,
    /// CPU time of groups when it was asked for last: nanoseconds since 1970, CPU nanoseconds.
    pub cpu_samples: Mutex<HashMap<String, (i64, u64)>>,
    pub streaming: Streaming,
}

/// The built-in container runtime. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Opens the runtime and takes up the sandboxes and containers of an earlier run.
    pub async fn open(config: Config) -> Result<Self, Error> {
        for directory in [
            config.root.join("sandboxes"),
            config.root.join("containers"),
            config.root.join("snapshots"),
            config.state.join("sandboxes"),
            config.state.join("bundles"),
            config.state.join("oci"),
        ] {
            std::fs::create_dir_all(&directory).map_err(|source| Error::Io { path: directory, source })?;
        }
        let cgroups = Cgroups::detect()?;
        cgroups.create(&config.cgroup_parent)?;
        let bundles = config.state.join("bundles");
        make_private(&bundles).map_err(|source| Error::Io { path: bundles, source })?;
        let images = Arc::new(ImageStore::open(&config.root)?);
        // Fails if the program has chosen one before: then that is used.
        rustls::crypto::ring::default_provider().install_default().ok();
        let host = Host::detect(cgroups.is_v2());
        let (streaming, listener) = Streaming::bind().await.map_err(Error::Streaming)?;
        let inner = Inner {
            config,
            cgroups,
            host,
            images,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            subscribers: Mutex::default(),
            cpu_samples: Mutex::default(),
            streaming,
        };
        let runtime = Self { inner: Arc::new(inner) };
        tokio::spawn(crate::streaming::serve(Arc::downgrade(&runtime.inner), listener));
        runtime.recover().await?;
        runtime.serve_images()?;
        let path = crate::socket::path(&runtime.inner.config.state);
        let listener = listen(&path).map_err(|source| Error::Io { path, source })?;
        tokio::spawn(crate::socket::serve(Arc::downgrade(&runtime.inner), listener));
        Ok(runtime)
    }

    /// Answers the command line, and looks after the directory of archives.
    fn serve_images(&self) -> Result<(), Error> {
        let config = &self.inner.config;
        let path = image::control::socket(&config.state);
        let listener = listen(&path).map_err(|source| Error::Io { path, source })?;
        if let Some(directory) = &config.image_directory {
            tokio::spawn(image::directory::run(Arc::downgrade(&self.inner.images), directory.clone()));
        }
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(inner) = inner.upgrade() else { return };
                tokio::spawn(async move {
                    let execute = move |request: image::control::Request| {
                        image::control::execute(&inner.images, &request, &inner.images_in_use())
                    };
                    if let Err(error) = image::control::answer(stream, execute).await {
                        tracing::debug!(%error, "a client of the images went away");
                    }
                });
            }
        });
        Ok(())
    }

    async fn recover(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let path = inner.config.root.join("sandboxes");
        let sandboxes: Vec<SandboxRecord> = records::read_all(&path).map_err(|source| Error::Io { path, source })?;
        let path = inner.config.root.join("containers");
        let containers: Vec<ContainerRecord> = records::read_all(&path).map_err(|source| Error::Io { path, source })?;
        let known: BTreeSet<String> = sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        for record in containers {
            if known.contains(&record.sandbox_id) {
                let exited = watch::Sender::new(record.phase == ContainerPhase::Exited);
                let id = record.id.clone();
                let container =
                    Container { record: Mutex::new(record), exited, lifecycle: tokio::sync::Mutex::default() };
                inner.containers.lock().insert(id, Arc::new(container));
            } else {
                inner.remove_container_files(&record);
            }
        }
        self.remove_orphans(&known).await;
        let mut waiting = tokio::task::JoinSet::new();
        for record in sandboxes {
            let shim = ShimClient::new(&inner.sandbox_state(&record.id));
            let id = record.id.clone();
            let sandbox =
                Arc::new(Sandbox { record: Mutex::new(record), shim, lifecycle: tokio::sync::Mutex::default() });
            inner.sandboxes.lock().insert(id, sandbox.clone());
            let inner = inner.clone();
            waiting.spawn(async move {
                if sandbox.record.lock().stopped {
                    return;
                }
                if let Err(error) = inner.follow(&sandbox).await {
                    tracing::warn!(sandbox = %sandbox.record.lock().id, %error, "the sandbox's shim is gone");
                    inner.shim_gone(&sandbox);
                }
            });
        }
        // One pod that does not answer keeps nobody else waiting: it is taken up when it does.
        let all = async { while waiting.join_next().await.is_some() {} };
        if tokio::time::timeout(SHIM_ANSWERS, all).await.is_err() {
            tracing::warn!(sandboxes = waiting.len(), "the shims of some sandboxes do not answer yet");
            waiting.detach_all();
        }
        Ok(())
    }

    /// Removes sandboxes and bundles that were being made when an earlier run was killed.
    async fn remove_orphans(&self, known: &BTreeSet<String>) {
        let inner = &self.inner;
        let names = |directory: &str| {
            let entries = std::fs::read_dir(inner.config.state.join(directory)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        for id in names("sandboxes").into_iter().filter(|id| !known.contains(id)) {
            let state = inner.sandbox_state(&id);
            // It may not have come so far that it listens; its group is killed with the next purge then.
            let shim = ShimClient::new(&state);
            if tokio::time::timeout(SHIM_ANSWERS, shim.order(&Request::Shutdown)).await.is_err() {
                tracing::warn!(sandbox = id, "the shim of a sandbox that was never finished does not answer");
            }
            let attachment = crate::pod_network::Attachment { sandbox_id: id.clone(), ..Default::default() };
            if let Err(error) = inner.config.network.teardown(&state.join("netns"), &attachment).await {
                tracing::warn!(
                    sandbox = id,
                    error,
                    "cannot take back the network of a sandbox that was never finished"
                );
            }
            crate::sandboxes::unmount(&state);
            if let Err(error) = remove_path(&state) {
                tracing::warn!(sandbox = id, %error, "cannot remove a sandbox that was never finished");
            }
        }
        let containers: BTreeSet<String> = inner.containers.lock().keys().cloned().collect();
        for id in names("bundles").into_iter().filter(|id| !containers.contains(id)) {
            for path in [inner.bundle(&id), inner.snapshot(&id)] {
                if let Err(error) = remove_path(&path) {
                    tracing::warn!(container = id, %error, "cannot remove a container that was never finished");
                }
            }
        }
    }

    /// The images.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// Events of containers from now on.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<ContainerEventResponse> {
        let (sender, receiver) = mpsc::channel(1024);
        self.inner.subscribers.lock().push(sender);
        receiver
    }
}

impl Inner {
    /// A sandbox's directory below `state`.
    pub fn sandbox_state(&self, id: &str) -> PathBuf {
        self.config.state.join("sandboxes").join(id)
    }

    /// A container's OCI bundle.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.config.state.join("bundles").join(id)
    }

    /// A container's writable layer and what belongs to it.
    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.config.root.join("snapshots").join(id)
    }

    /// The group of a pod: the kubelet's, always below our own.
    pub fn pod_cgroup(&self, wanted: &str, sandbox: &str) -> String {
        let own = format!("/{}", self.config.cgroup_parent.trim_matches('/'));
        let parts: Vec<&str> = wanted.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
        let wanted = if parts.is_empty() { format!("/{sandbox}") } else { format!("/{}", parts.join("/")) };
        if wanted == own || wanted.starts_with(&format!("{own}/")) { wanted } else { format!("{own}{wanted}") }
    }

    /// The sandbox with an id or a unique beginning of one.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Status> {
        find(&self.sandboxes.lock(), id)
            .ok_or_else(|| Status::not_found(format!("an error occurred when try to find sandbox \"{id}\": not found")))
    }

    /// The container with an id or a unique beginning of one.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        find(&self.containers.lock(), id).ok_or_else(|| {
            Status::not_found(format!("an error occurred when try to find container \"{id}\": not found"))
        })
    }

    /// The containers of a sandbox.
    pub fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let containers = self.containers.lock();
        containers.values().filter(|container| container.record.lock().sandbox_id == sandbox).cloned().collect()
    }

    /// The images that containers use.
    pub fn images_in_use(&self) -> BTreeSet<String> {
        self.containers.lock().values().map(|container| container.record.lock().image_id.clone()).collect()
    }

    /// Writes a sandbox's record.
    pub fn save_sandbox(&self, record: &SandboxRecord) -> std::io::Result<()> {
        records::write(&self.config.root.join("sandboxes").join(format!("{}.json", record.id)), record)
    }

    /// Writes a container's record.
    pub fn save_container(&self, record: &ContainerRecord) -> std::io::Result<()> {
        records::write(&self.config.root.join("containers").join(format!("{}.json", record.id)), record)
    }

    /// Listens to a shim; its containers' states are known when this returns.
    pub async fn follow(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), crate::shim_client::Error> {
        let connection = sandbox.shim.connect()?;
        connection.send(&Request::Subscribe, &[]).await?;
        let (reply, _) = connection.reply().await?;
        let Reply::Containers(states) = reply else {
            return Err(crate::shim_client::Error::Unexpected(Box::new(reply)));
        };
        let id = sandbox.record.lock().id.clone();
        for container in self.containers_of(&id) {
            let (container_id, phase) = {
                let record = container.record.lock();
                (record.id.clone(), record.phase)
            };
            match states.iter().find(|state| state.id == container_id) {
                Some(state) => self.apply(&container, state),
                None if phase == ContainerPhase::Running => self.lost(&container),
                None => {}
            }
        }
        let (inner, sandbox) = (Arc::downgrade(self), Arc::downgrade(sandbox));
        tokio::spawn(async move {
            loop {
                let event = next_event(&connection).await;
                let (Some(inner), Some(sandbox)) = (inner.upgrade(), sandbox.upgrade()) else { return };
                match event {
                    Some(Event::Exited(state)) => {
                        if let Ok(container) = inner.container(&state.id) {
                            inner.apply(&container, &state);
                        }
                    }
                    None => return inner.shim_gone(&sandbox),
                }
            }
        });
        Ok(())
    }

    /// Takes over what a shim says of a container.
    pub fn apply(&self, container: &Container, state: &ContainerState) {
        let record = {
            let mut record = container.record.lock();
            if record.phase == ContainerPhase::Exited {
                return;
            }
            record.pid = state.pid;
            record.started_at = state.started_at;
            record.phase = ContainerPhase::Running;
            if state.finished_at > 0 {
                record.phase = ContainerPhase::Exited;
                record.pid = 0;
                record.finished_at = state.finished_at;
                record.exit_code = state.exit_code;
                let reason = match (state.oom_killed, state.exit_code) {
                    (true, _) => "OOMKilled",
                    (false, 0) => "Completed",
                    (false, _) => "Error",
                };
                reason.clone_into(&mut record.reason);
            }
            record.clone()
        };
        self.changed(container, &record);
    }

    /// A container whose shim died without telling how it ended.
    fn lost(&self, container: &Container) {
        let (id, started_at) = {
            let record = container.record.lock();
            (record.id.clone(), record.started_at)
        };
        let noted = std::fs::read(self.bundle(&id).join("exit.json")).ok();
        if let Some(state) = noted.and_then(|text| serde_json::from_slice::<ContainerState>(&text).ok()) {
            return self.apply(container, &state);
        }
        let record = {
            let mut record = container.record.lock();
            record.phase = ContainerPhase::Exited;
            record.pid = 0;
            record.finished_at = crate::shim::log::now_nanoseconds().max(started_at);
            record.exit_code = 255;
            "Unknown".clone_into(&mut record.reason);
            record.clone()
        };
        self.cgroups.kill(&record.cgroup);
        self.changed(container, &record);
    }

    fn changed(&self, container: &Container, record: &ContainerRecord) {
        if let Err(error) = self.save_container(record) {
            tracing::warn!(container = %record.id, %error, "cannot write the container's record");
        }
        if record.phase == ContainerPhase::Exited && !container.exited.send_replace(true) {
            self.publish(record, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// The shim of a sandbox is gone: so is the sandbox, and its containers are not looked after any more.
    pub fn shim_gone(&self, sandbox: &Sandbox) {
        let record = {
            let mut record = sandbox.record.lock();
            record.stopped = true;
            record.clone()
        };
        if let Err(error) = self.save_sandbox(&record) {
            tracing::warn!(sandbox = %record.id, %error, "cannot write the sandbox's record");
        }
        for container in self.containers_of(&record.id) {
            if container.record.lock().phase == ContainerPhase::Running {
                self.lost(&container);
            }
        }
    }

    /// Tells the readers of events.
    pub fn publish(&self, record: &ContainerRecord, kind: ContainerEventType) {
        if self.subscribers.lock().is_empty() {
            return;
        }
        let status =
            self.sandbox(&record.sandbox_id).ok().map(|sandbox| crate::status::sandbox(&sandbox.record.lock()));
        let statuses = self.containers_of(&record.sandbox_id);
        let event = ContainerEventResponse {
            container_id: record.id.clone(),
            container_event_type: kind as i32,
            created_at: crate::shim::log::now_nanoseconds(),
            pod_sandbox_status: status,
            containers_statuses: statuses.iter().map(|c| crate::status::container(&c.record.lock(), self)).collect(),
        };
        // Who falls behind loses the stream and lists again.
        self.subscribers.lock().retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
    }

    /// Removes what a container has on disk and in the control groups.
    pub fn remove_container_files(&self, record: &ContainerRecord) {
        let removed = self.cgroups.remove(&record.cgroup);
        if let Err(error) = removed {
            tracing::warn!(container = %record.id, %error, "cannot remove the container's group");
        }
        let file = self.config.root.join("containers").join(format!("{}.json", record.id));
        for path in
            [self.bundle(&record.id), self.config.state.join("oci").join(&record.id), self.snapshot(&record.id), file]
        {
            if let Err(error) = remove_path(&path) {
                tracing::warn!(container = %record.id, path = %path.display(), %error, "cannot remove");
            }
        }
    }
}

async fn next_event(connection: &Connection) -> Option<Event> {
    connection.receive::<Event>().await.ok().map(|(event, _)| event)
}

fn find<T>(map: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(found.clone());
    }
    let mut matching = map.range(id.to_owned()..).take_while(|(known, _)| !id.is_empty() && known.starts_with(id));
    let found = matching.next()?;
    matching.next().is_none().then(|| found.1.clone())
}

/// Removes a file or a directory; an absent one is fine.
pub(crate) fn remove_path(path: &Path) -> std::io::Result<()> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Listens at `path`, in place of an earlier run, for the owner only.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    remove_path(path)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Makes a directory a mount of its own that hands no mounts on, so that what is mounted below it in a container's mount
/// namespace stays there.
fn make_private(directory: &Path) -> std::io::Result<()> {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    if mount(none, directory, none, MsFlags::MS_PRIVATE, none).is_err() {
        mount(Some(directory), directory, none, MsFlags::MS_BIND, none)?;
        mount(none, directory, none, MsFlags::MS_PRIVATE, none)?;
    }
    Ok(())
}
