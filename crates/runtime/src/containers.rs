//! Creating, starting, stopping and removing containers.
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use serde_json::Value;
use tonic::Status;

use crate::cri::{ContainerConfig, ContainerEventType, NamespaceMode};
use crate::image::layer::open_in_root;
use crate::image::store::Record;
use crate::records::{ContainerPhase, ContainerRecord, Stored};
use crate::runtime::{Container, Inner, Sandbox};
use crate::sandboxes::{hostname, internal, new_id};
use crate::shim::log::now_nanoseconds;
use crate::shim::protocol::{BINDS, ImageMount, ImageVolume, Overlay, Reply, Request, StartContainer};
use crate::spec::{Input, generate};

/// Longer files are not read as `/etc/passwd` or `/etc/group`.
const MAX_ACCOUNTS: u64 = 4 << 20;

impl Inner {
    /// A file of an image, through its layers; empty if there is none.
    fn read_from_image(&self, lower: &[String], path: &str) -> String {
        for layer in lower {
            let Ok(root) = std::fs::File::open(self.images.layers_directory().join(layer)) else { continue };
            match open_in_root(root.as_fd(), Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
                Ok(file) => {
                    let file = std::fs::File::from(file);
                    // A device is overlayfs' mark that the file was deleted.
                    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                        return String::new();
                    }
                    let mut bytes = Vec::new();
                    return match file.take(MAX_ACCOUNTS).read_to_end(&mut bytes) {
                        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
                        Err(_) => String::new(),
                    };
                }
                Err(nix::errno::Errno::ENXIO) => return String::new(),
                Err(_) => {}
            }
        }
        String::new()
    }

    fn overlay(&self, record: &Record) -> Overlay {
        let mut lower = self.images.lower(record);
        let base = self.images.layers_directory();
        if lower.is_empty() {
            // An image without layers: an empty directory.
            lower.push("../empty".to_owned());
        }
        Overlay { base, lower, upper: PathBuf::new(), work: PathBuf::new() }
    }

    /// CRI `CreateContainer`.
    pub async fn create_container(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, Status> {
        let sandbox = self.sandbox(sandbox_id)?;
        let (sandbox_id, pod_cgroup, pod_config) = {
            let record = sandbox.record.lock();
            if record.stopped {
                return Err(Status::failed_precondition(format!("sandbox \"{sandbox_id}\" is not running")));
            }
            (record.id.clone(), record.cgroup.clone(), record.config.0.clone())
        };
        let metadata =
            config.metadata.clone().ok_or_else(|| Status::invalid_argument("the container has no metadata"))?;
        for other in self.containers_of(&sandbox_id) {
            let other = other.record.lock();
            if other.config.0.metadata.as_ref() == Some(&metadata) {
                return Err(Status::already_exists(format!(
                    "failed to reserve container name \"{}\": name is reserved for \"{}\"",
                    metadata.name, other.id
                )));
            }
        }
        let wanted = config.image.clone().unwrap_or_default().image;
        let image = self
            .images
            .find(&wanted)
            .ok_or_else(|| Status::not_found(format!("failed to resolve image \"{wanted}\": not found")))?;
        let id = new_id()?;
        let log_path = if config.log_path.is_empty() || pod_config.log_directory.is_empty() {
            String::new()
        } else {
            Path::new(&pod_config.log_directory).join(&config.log_path).to_string_lossy().into_owned()
        };
        let digest = image.digests.first().cloned().unwrap_or_else(|| image.id.clone());
        let mut record = ContainerRecord {
            id: id.clone(),
            sandbox_id: sandbox_id.clone(),
            created_at: now_nanoseconds(),
            config: Stored(config),
            image_id: image.id.clone(),
            image_ref: digest,
            log_path,
            cgroup: format!("{}/{id}", pod_cgroup.trim_end_matches('/')),
            stop_signal: image.config.config.stop_signal.clone(),
            ..ContainerRecord::default()
        };
        let target_pid = self.target_pid(&record.config.0)?;
        let inner = self.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let result = inner.prepare(&mut record, &image, &pod_config, target_pid);
            if result.is_err() {
                inner.remove_container_files(&record);
            }
            result.map(|()| record)
        });
        let record = prepared.await.map_err(|error| internal("failed to create container")(&error))??;
        let container = Arc::new(Container {
            record: parking_lot::Mutex::new(record.clone()),
            exited: tokio::sync::watch::Sender::new(false),
            lifecycle: tokio::sync::Mutex::default(),
        });
        self.containers.lock().insert(id.clone(), container);
        self.publish(&record, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    /// The process whose PID namespace a container of mode TARGET joins.
    fn target_pid(&self, config: &ContainerConfig) -> Result<Option<i32>, Status> {
        let options = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = options.and_then(|security| security.namespace_options.as_ref());
        let Some(options) = options.filter(|options| options.pid == NamespaceMode::Target as i32) else {
            return Ok(None);
        };
        let target = self.container(&options.target_id)?;
        let pid = target.record.lock().pid;
        if pid == 0 {
            return Err(Status::failed_precondition(format!(
                "target container \"{}\" is not running",
                options.target_id
            )));
        }
        Ok(Some(pid))
    }

    /// Writes what a container needs before it can be started.
    fn prepare(
        &self,
        record: &mut ContainerRecord,
        image: &Record,
        pod: &crate::cri::PodSandboxConfig,
        target_pid: Option<i32>,
    ) -> Result<(), Status> {
        let failed = internal("failed to create container");
        let bundle = self.bundle(&record.id);
        let snapshot = self.snapshot(&record.id);
        let rootfs = bundle.join("rootfs");
        for directory in [&rootfs, &snapshot.join("fs"), &snapshot.join("work")] {
            std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        }
        let config = &record.config.0;
        for mount in config.mounts.iter().filter(|mount| mount.image.is_none()) {
            // Like containerd: a directory that does not exist on the node is made.
            if let Err(error) = std::fs::metadata(&mount.host_path)
                && error.kind() == io::ErrorKind::NotFound
            {
                std::fs::create_dir_all(&mount.host_path)
                    .map_err(|error| internal(&format!("failed to mkdir \"{}\"", mount.host_path))(&error))?;
            }
        }
        let mut image_mounts = Vec::new();
        for mount in self.image_mounts(&record.id, config)? {
            std::fs::create_dir_all(&mount.target).map_err(|error| failed(&error))?;
            image_mounts.push(mount.target);
        }
        let lower = self.images.lower(image);
        let generated = generate(&Input {
            config,
            image: &image.config.config,
            passwd: &self.read_from_image(&lower, "etc/passwd"),
            group: &self.read_from_image(&lower, "etc/group"),
            rootfs: &rootfs,
            cgroup: &record.cgroup,
            sandbox: &self.sandbox_state(&record.sandbox_id),
            hostname: &hostname(pod),
            target_pid,
            image_mounts: &image_mounts,
            host: &self.host,
        })
        .map_err(|error| Status::internal(format!("failed to generate container \"{}\" spec: {error}", record.id)))?;
        let text = serde_json::to_vec(&generated.spec).map_err(|error| failed(&error))?;
        std::fs::write(bundle.join("config.json"), text).map_err(|error| failed(&error))?;
        let text = serde_json::to_vec(&generated.binds).map_err(|error| failed(&error))?;
        std::fs::write(bundle.join(BINDS), text).map_err(|error| failed(&error))?;
        record.uid = generated.user.uid;
        record.gid = generated.user.gid;
        record.groups = generated.user.groups;
        self.save_container(record).map_err(|error| failed(&error))
    }

    /// The images that a container mounts, in the order of its mounts.
    fn image_mounts(&self, id: &str, config: &ContainerConfig) -> Result<Vec<ImageMount>, Status> {
        let mut mounts = Vec::new();
        for spec in config.mounts.iter().filter_map(|mount| mount.image.as_ref()) {
            let image = self
                .images
                .find(&spec.image)
                .ok_or_else(|| Status::not_found(format!("failed to resolve image \"{}\": not found", spec.image)))?;
            let target = self.bundle(id).join("images").join(mounts.len().to_string());
            let sub_path = spec.annotations.get(crate::cri::IMAGE_SUB_PATH).cloned().unwrap_or_default();
            mounts.push(ImageMount { overlay: self.overlay(&image), target, sub_path });
        }
        Ok(mounts)
    }

    /// CRI `StartContainer`.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        let _guard = container.lifecycle.lock().await;
        let record = container.record.lock().clone();
        let id = &record.id;
        if record.phase != ContainerPhase::Created {
            return Err(Status::failed_precondition(format!(
                "failed to set starting state for container \"{id}\": container is in {:?} state",
                record.phase
            )));
        }
        let sandbox = self.sandbox(&record.sandbox_id)?;
        let image = self
            .images
            .find(&record.image_id)
            .ok_or_else(|| Status::not_found(format!("the image of container \"{id}\" is gone")))?;
        let snapshot = self.snapshot(id);
        let overlay = Overlay { upper: snapshot.join("fs"), work: snapshot.join("work"), ..self.overlay(&image) };
        let request = Request::Start(Box::new(StartContainer {
            id: id.clone(),
            bundle: self.bundle(id),
            oci_root: self.config.state.join("oci"),
            overlay,
            cgroup: record.cgroup.clone(),
            log_path: record.log_path.clone().into(),
            tty: record.config.0.tty,
            stdin: record.config.0.stdin,
            stdin_once: record.config.0.stdin_once,
            image_mounts: self.image_mounts(id, &record.config.0)?,
            volumes: image_volumes(&image, &record.config.0, &snapshot),
        }));
        match sandbox.shim.call(&request, &[]).await {
            Ok((Reply::Started(state), _)) => {
                self.apply(&container, &state);
                let record = container.record.lock().clone();
                self.publish(&record, ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Ok((other, _)) => Err(Status::internal(format!("failed to start container \"{id}\": {other:?}"))),
            Err(error) => {
                let message = format!(
                    "failed to create containerd task: failed to create shim task: OCI runtime create failed: \
                     unable to start container process: {error}"
                );
                self.start_failed(&container, &message);
                Err(Status::unknown(message))
            }
        }
    }

    /// Like containerd, a container that cannot be started has exited with code 128.
    fn start_failed(&self, container: &Container, message: &str) {
        let record = {
            let mut record = container.record.lock();
            record.phase = ContainerPhase::Exited;
            record.finished_at = now_nanoseconds();
            record.exit_code = 128;
            "StartError".clone_into(&mut record.reason);
            message.clone_into(&mut record.message);
            record.clone()
        };
        container.exited.send_replace(true);
        if let Err(error) = self.save_container(&record) {
            tracing::warn!(container = %record.id, %error, "cannot write the container's record");
        }
    }

    /// CRI `StopContainer`: asks, waits, kills. An absent or ended one is fine.
    pub async fn stop_container(self: &Arc<Self>, id: &str, timeout: Duration) -> Result<(), Status> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let record = container.record.lock().clone();
        if record.phase != ContainerPhase::Running {
            return Ok(());
        }
        let sandbox = self.sandbox(&record.sandbox_id)?;
        let mut exited = container.exited.subscribe();
        if !timeout.is_zero() {
            let signal = signal_number(&record.stop_signal);
            self.signal(&sandbox, &record.id, signal, false).await?;
            // The sender lives in `container`, so waiting ends only with the exit or the timeout.
            if tokio::time::timeout(timeout, exited.wait_for(|exited| *exited)).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(&sandbox, &record.id, libc::SIGKILL, false).await?;
        self.signal(&sandbox, &record.id, libc::SIGKILL, true).await?;
        match tokio::time::timeout(Duration::from_secs(120), exited.wait_for(|exited| *exited)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::deadline_exceeded(format!("container \"{id}\" does not end although it was killed"))),
        }
    }

    async fn signal(&self, sandbox: &Sandbox, id: &str, signal: i32, all: bool) -> Result<(), Status> {
        let request = Request::Kill { id: id.to_owned(), signal, all };
        match sandbox.shim.order(&request).await {
            Ok(()) => Ok(()),
            // Without a shim the container was given up and killed.
            Err(_) if sandbox.record.lock().stopped => Ok(()),
            Err(error) => Err(internal("failed to stop container")(&error)),
        }
    }

    /// CRI `RemoveContainer`, also of a running one. An absent one is fine.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let id = container.record.lock().id.clone();
        self.stop_container(&id, Duration::ZERO).await?;
        let _guard = container.lifecycle.lock().await;
        let record = container.record.lock().clone();
        if let Ok(sandbox) = self.sandbox(&record.sandbox_id)
            && !sandbox.record.lock().stopped
            && record.started_at > 0
        {
            let forgotten = sandbox.shim.order(&Request::Forget { id: id.clone() }).await;
            forgotten.map_err(|error| internal("failed to remove container")(&error))?;
        }
        let inner = self.clone();
        let files = record.clone();
        let removed = tokio::task::spawn_blocking(move || inner.remove_container_files(&files));
        removed.await.map_err(|error| internal("failed to remove container")(&error))?;
        self.publish(&record, ContainerEventType::ContainerDeletedEvent);
        self.containers.lock().remove(&id);
        self.cpu_samples.lock().remove(&record.cgroup);
        Ok(())
    }

    /// The `config.json` of a container.
    pub fn spec(&self, id: &str) -> Result<Value, Status> {
        let failed = internal("cannot read the container's spec");
        let text = std::fs::read(self.bundle(id).join("config.json")).map_err(|error| failed(&error))?;
        serde_json::from_slice(&text).map_err(|error| failed(&error))
    }
}

/// The directories that the image declares as volumes and nothing is mounted at; they live beside the writable layer.
fn image_volumes(image: &Record, config: &ContainerConfig, snapshot: &Path) -> Vec<ImageVolume> {
    let clean = |path: &str| -> PathBuf { Path::new("/").join(path).components().collect() };
    let mounted: Vec<PathBuf> = config.mounts.iter().map(|mount| clean(&mount.container_path)).collect();
    let declared = image.config.config.volumes.keys().map(|path| clean(path));
    declared
        .filter(|path| path.parent().is_some() && !mounted.contains(path))
        .enumerate()
        .map(|(number, path)| ImageVolume { path, source: snapshot.join("volumes").join(number.to_string()) })
        .collect()
}

/// A signal by name (`SIGQUIT`, `QUIT`) or number; SIGTERM if there is none or it is unknown.
fn signal_number(name: &str) -> i32 {
    use std::str::FromStr;
    if let Ok(number) = name.parse::<i32>() {
        return number;
    }
    if let Some(offset) = name.strip_prefix("SIGRTMIN").or_else(|| name.strip_prefix("RTMIN")) {
        return libc::SIGRTMIN() + offset.trim_start_matches('+').parse().unwrap_or(0);
    }
    let full = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
    nix::sys::signal::Signal::from_str(&full).map_or(libc::SIGTERM, |signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_names_or_numbers() {
        assert_eq!(signal_number(""), libc::SIGTERM);
        assert_eq!(signal_number("SIGQUIT"), libc::SIGQUIT);
        assert_eq!(signal_number("QUIT"), libc::SIGQUIT);
        assert_eq!(signal_number("9"), 9);
        assert_eq!(signal_number("SIGRTMIN+3"), libc::SIGRTMIN() + 3);
    }
}
