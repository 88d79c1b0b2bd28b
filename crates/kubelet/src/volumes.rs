//! A pod's volumes: set up before its containers, kept up to date while it lives, removed after its end.
//!
//! [`Volumes::set_up`] is level-triggered: it makes what is missing, rewrites what changed and leaves the rest alone, so it also
//! takes up what an earlier process left.
mod atomic;
mod claim;
mod host_path;
mod ownership;
mod payload;
pub use ownership::set_mode;
pub mod subpath;
pub mod tokens;

use crate::config::Config;
use crate::downward::NodeFacts;
use crate::objects::Objects;
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use kube::Client;
use nix::mount::{MntFlags, MsFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::Instant;

/// Why a volume could not be set up; shown in a `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Setting up one volume failed.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
    SetUp {
        /// The volume's name.
        volume: String,
        /// What went wrong.
        cause: String,
    },
    /// A volume's claim cannot be used yet.
    #[error("{0}")]
    Claim(String),
    /// The kind of volume is not one this node can mount.
    #[error("no volume plugin matched the volume {0:?}")]
    NoPlugin(String),
}

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether the volume itself may not be written.
    pub read_only: bool,
    /// An image to mount instead of a path.
    pub image: Option<String>,
}

/// What [`Volumes::set_up`] made.
#[derive(Clone, Debug, Default)]
pub struct SetUp {
    /// Volumes by name.
    pub mounted: BTreeMap<String, Mounted>,
    /// When something in them (a token) must be renewed.
    pub renew_at: Option<Instant>,
}

/// The node's volumes.
pub struct Volumes {
    root_dir: PathBuf,
    objects: Objects,
    client: Client,
    tokens: tokens::Tokens,
    node: NodeFacts,
    memory: MemoryDir,
}

/// Directory in memory for what must not reach a disk (secrets, tokens); ordinary where mounting is not allowed.
struct MemoryDir(PathBuf);

impl MemoryDir {
    fn open(path: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        if !is_mount_point(&path) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            if let Err(error) = nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some("mode=0750")) {
                tracing::warn!(path = %path.display(), %error, "secrets are kept on disk: cannot mount a tmpfs");
            }
        }
        Ok(MemoryDir(path))
    }
}

/// Whether something is mounted at `path`.
pub fn is_mount_point(path: &Path) -> bool {
    mount_points_under(path).iter().any(|mount| mount == path)
}

/// Everything mounted at or below `path`, the innermost last.
fn mount_points_under(path: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let unescape = |text: &str| text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    let mut all: Vec<PathBuf> = points.filter(|point| point.starts_with(path)).collect();
    all.sort();
    all
}

impl Volumes {
    /// Volumes under `config.root_dir`; `objects` are the ConfigMaps and Secrets of the node's pods.
    pub fn new(config: &Config, client: Client, objects: Objects, node: NodeFacts) -> std::io::Result<Self> {
        std::fs::create_dir_all(config.root_dir.join("pods"))?;
        Ok(Volumes {
            memory: MemoryDir::open(config.root_dir.join("memory-volumes"))?,
            root_dir: config.root_dir.clone(),
            tokens: tokens::Tokens::new(client.clone()),
            objects,
            client,
            node,
        })
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Where a volume of `plugin` lives.
    fn dir(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
    }

    /// Where the emptyDir `volume` of pod `uid` lives.
    pub fn empty_dir_path(&self, uid: &str, volume: &str) -> PathBuf {
        self.dir(uid, "empty-dir", volume)
    }

    /// Sets up all volumes of `pod`.
    pub async fn set_up(&self, pod: &Arc<Pod>) -> Result<SetUp, Error> {
        let mut done = SetUp::default();
        for volume in pod.pod_spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default() {
            let mounted = self.set_up_one(pod, volume, &mut done.renew_at).await?;
            done.mounted.insert(volume.name.clone(), mounted);
        }
        Ok(done)
    }

    async fn set_up_one(
        &self,
        pod: &Arc<Pod>,
        volume: &Volume,
        renew_at: &mut Option<Instant>,
    ) -> Result<Mounted, Error> {
        let failed = |cause: String| Error::SetUp { volume: volume.name.clone(), cause };
        let plain = |path: PathBuf| Mounted { path, read_only: false, image: None };
        if let Some(source) = &volume.empty_dir {
            let path = self.empty_dir_path(pod.uid(), &volume.name);
            let (pod, source, target) = (pod.clone(), source.clone(), path.clone());
            return blocking(move || {
                empty_dir(&target, &source)?;
                ownership::set(&target, &pod)
            })
            .await
            .map_err(failed)
            .map(|()| plain(path));
        }
        if let Some(source) = &volume.host_path {
            let (path, kind) = (PathBuf::from(&source.path), source.type_.clone().unwrap_or_default());
            let checked = path.clone();
            return blocking(move || host_path::check(&checked, &kind)).await.map_err(failed).map(|()| plain(path));
        }
        if let Some(source) = &volume.persistent_volume_claim {
            let claim = claim::find(&self.client, pod, &source.claim_name).await.map_err(Error::Claim)?;
            let (pod, from) = (pod.clone(), claim.path.clone());
            let (local, kind) = (claim.plugin == "local-volume", claim.kind.clone());
            let result = blocking(move || {
                host_path::check(&from, &kind)?;
                if local { ownership::set(&from, &pod) } else { Ok(()) }
            });
            result.await.map_err(failed)?;
            return Ok(Mounted { path: claim.path, read_only: source.read_only == Some(true), image: None });
        }
        if let Some(source) = &volume.image {
            return Ok(Mounted { path: PathBuf::new(), read_only: true, image: source.reference.clone() });
        }
        let (plugin, secret) = match volume {
            Volume { config_map: Some(_), .. } => ("configmap", false),
            Volume { secret: Some(_), .. } => ("secret", true),
            Volume { downward_api: Some(_), .. } => ("downward-api", false),
            Volume { projected: Some(_), .. } => ("projected", true),
            _ => return Err(Error::NoPlugin(volume.name.clone())),
        };
        let path = if secret {
            self.memory.0.join(pod.uid()).join(format!("kubernetes.io~{plugin}")).join(&volume.name)
        } else {
            self.dir(pod.uid(), plugin, &volume.name)
        };
        let sources = payload::Sources { pod, objects: &self.objects, tokens: &self.tokens, node: &self.node };
        let (payload, renew) = payload::build(volume, &sources).await.map_err(failed)?;
        *renew_at = renew_at.iter().copied().chain(renew).min();
        let target = path.clone();
        let pod = pod.clone();
        blocking(move || {
            if atomic::write(&target, &payload)? {
                ownership::set_payload(&target, &pod)?;
            }
            Ok(())
        })
        .await
        .map_err(failed)?;
        Ok(Mounted { path, read_only: true, image: None })
    }

    /// Unmounts and removes everything of pod `uid`.
    pub async fn tear_down(&self, uid: &str) -> Result<(), String> {
        self.objects.release(uid);
        self.tokens.forget(uid);
        let dirs = [self.memory.0.join(uid), self.pod_dir(uid)];
        blocking(move || {
            for dir in dirs.iter().filter(|dir| dir.exists()) {
                for point in mount_points_under(dir).iter().rev() {
                    nix::mount::umount2(point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                        .map_err(|error| format!("cannot unmount {}: {error}", point.display()))?;
                }
                std::fs::remove_dir_all(dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
            }
            Ok(())
        })
        .await
    }

    /// UIDs of pods that have directories here.
    pub fn known_uids(&self) -> Vec<String> {
        let mut uids = Vec::new();
        for dir in [self.root_dir.join("pods"), self.memory.0.clone()] {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            uids.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        uids.sort();
        uids.dedup();
        uids
    }
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if path.exists() && (source.medium.as_deref() != Some("Memory") || is_mount_point(path)) {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(|error| text(&error))?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(|limit| crate::quantity::value(&limit.0));
            let options = limit.filter(|limit| *limit > 0).map(|limit| format!("size={limit}"));
            nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options.as_deref())
                .map_err(|error| text(&error))?;
        }
        other => return Err(format!("unknown storage medium {other:?}")),
    }
    set_mode(path, 0o777).map_err(|error| text(&error))
}
