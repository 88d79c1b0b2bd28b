//! The directories behind volumes: made with access for every user, removed only if they are this provisioner's own.
use k8s_openapi::api::core::v1::PersistentVolume;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// Why a directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The volume's path is not one that this provisioner gave out: nothing is touched.
    #[error("the path {0:?} of volume {1:?} is not one of this node's volumes")]
    Foreign(String, String),
    /// The file system refused.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// The directory that holds a node's volumes.
#[derive(Clone, Debug)]
pub struct Directory {
    base: PathBuf,
}

impl Directory {
    /// Volumes live under `base`.
    pub fn new(base: PathBuf) -> Self {
        Directory { base }
    }

    /// The directory itself.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Makes the volume's directory. Making it again changes nothing but the mode.
    pub async fn make(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let path = self.own(volume)?;
        blocking(path, |path| {
            std::fs::create_dir_all(path)?;
            // Containers run as any user.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
        })
        .await
    }

    /// Removes the volume's directory with all that is in it.
    pub async fn remove(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let path = self.own(volume)?;
        blocking(path, |path| match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        })
        .await
    }

    /// The volume's path, if it is directly under the base and named after the volume.
    fn own(&self, volume: &PersistentVolume) -> Result<PathBuf, Error> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let local = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
        let path = Path::new(local.map(|local| local.path.as_str()).unwrap_or_default());
        let last = path.strip_prefix(&self.base).ok().and_then(|rest| {
            let mut parts = rest.components();
            match (parts.next(), parts.next()) {
                (Some(Component::Normal(last)), None) => last.to_str(),
                _ => None,
            }
        });
        let named =
            |last: &str| name.starts_with("pvc-") && last.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
        if last.is_some_and(named) {
            Ok(path.to_owned())
        } else {
            Err(Error::Foreign(path.display().to_string(), name.to_owned()))
        }
    }
}

async fn blocking(path: PathBuf, work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> Result<(), Error> {
    let shown = path.clone();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| Error::Io(shown, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, path: &Path) -> PersistentVolume {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": {"local": {"path": path}}}))
            .unwrap()
    }

    #[tokio::test]
    async fn a_directory_is_made_for_everyone_and_removed_with_its_content() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::new(base.path().join("storage"));
        let path = base.path().join("storage/pvc-1_ns_data");
        let volume = volume("pvc-1", &path);
        directory.make(&volume).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o777);
        std::fs::write(path.join("row"), "1").unwrap();
        directory.make(&volume).await.unwrap();
        assert!(path.join("row").exists(), "making it again must keep the data");
        directory.remove(&volume).await.unwrap();
        directory.remove(&volume).await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_outside_or_of_another_volume_is_not_touched() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::new(base.path().to_owned());
        for path in ["pvc-2_ns_data", "../pvc-1_x", "pvc-1_a/../pvc-2_b", "pvc-1_a/deeper", "pvc-1", "."] {
            let foreign = volume("pvc-1", &base.path().join(path));
            assert!(matches!(directory.remove(&foreign).await, Err(Error::Foreign(..))), "{path}");
        }
        assert!(matches!(directory.remove(&volume("etc", Path::new("/etc"))).await, Err(Error::Foreign(..))));
    }

    #[tokio::test]
    async fn a_link_in_the_volume_is_removed_and_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::new(base.path().join("storage"));
        let kept = base.path().join("kept");
        std::fs::write(&kept, "").unwrap();
        let path = base.path().join("storage/pvc-1_ns_data");
        let volume = volume("pvc-1", &path);
        directory.make(&volume).await.unwrap();
        std::os::unix::fs::symlink(base.path(), path.join("link")).unwrap();
        directory.remove(&volume).await.unwrap();
        assert!(kept.exists());
    }
}
