//! A directory whose image archives are loaded as they appear: for sites without a registry.
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::archive;
use super::store::ImageStore;

/// Whether a file is taken for an image archive.
fn is_archive(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let known = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
    !name.starts_with('.') && known.iter().any(|ending| name.ends_with(ending))
}

fn watch(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: makes a new descriptor.
    let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Complete files only: closed after writing, or renamed into the directory.
    let events = libc::IN_CLOSE_WRITE | libc::IN_MOVED_TO;
    // SAFETY: the path lives until after the call.
    if unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an OwnedFd stays the same open descriptor as long as it lives.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Loads what is in the directory and what comes, until the store is gone.
pub(crate) async fn run(store: Weak<ImageStore>, directory: PathBuf) {
    let events = match std::fs::create_dir_all(&directory).and_then(|()| watch(&directory)) {
        Ok(events) => events,
        Err(error) => {
            tracing::error!(directory = %directory.display(), %error, "cannot watch the directory for images");
            return;
        }
    };
    let mut loaded = HashMap::new();
    loop {
        let Some(store) = store.upgrade() else { return };
        let (path, mut known) = (directory.clone(), std::mem::take(&mut loaded));
        let scanned = tokio::task::spawn_blocking(move || {
            load_new(&store, &path, &mut known);
            known
        });
        match scanned.await {
            Ok(known) => loaded = known,
            Err(error) => tracing::error!(%error, "loading images failed"),
        }
        let mut buffer = [0; 4096];
        let read = events.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut buffer)?)).await;
        if let Err(error) = read {
            tracing::error!(directory = %directory.display(), %error, "cannot watch the directory for images any more");
            return;
        }
    }
}

/// Loads the archives that changed since they were loaded last.
fn load_new(store: &Arc<ImageStore>, directory: &Path, loaded: &mut HashMap<PathBuf, SystemTime>) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| is_archive(path)) {
        let Ok(changed) = path.metadata().and_then(|metadata| metadata.modified()) else { continue };
        if loaded.insert(path.clone(), changed) == Some(changed) {
            continue;
        }
        match archive::load(store, &path, &[]) {
            Ok(images) => {
                let names: Vec<&String> = images.iter().flat_map(|image| &image.tags).collect();
                tracing::info!(path = %path.display(), ?names, "loaded images");
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot load images"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_archives_are_taken() {
        assert!(is_archive(Path::new("/d/a.tar")) && is_archive(Path::new("a.tgz")));
        assert!(!is_archive(Path::new("/d/.a.tar")) && !is_archive(Path::new("a.tar.part")));
    }

    #[tokio::test]
    async fn an_archive_that_appears_is_loaded() {
        let base = tempfile::tempdir().unwrap();
        let store = Arc::new(ImageStore::open(&base.path().join("store")).unwrap());
        let directory = base.path().join("images");
        let watching = tokio::spawn(run(Arc::downgrade(&store), directory.clone()));
        std::fs::create_dir(base.path().join("root")).unwrap();
        let archive = base.path().join("x.tar");
        super::super::pack::pack(&base.path().join("root"), "x:1", &Default::default(), &archive).unwrap();
        while !directory.exists() {
            tokio::task::yield_now().await;
        }
        std::fs::rename(&archive, directory.join("x.tar")).unwrap();
        while store.find("x:1").is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        watching.abort();
    }
}
