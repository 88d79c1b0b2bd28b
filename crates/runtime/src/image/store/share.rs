//! Taking images from the store of another node on the same machine: layers are never written once they are there, so both
//! stores can have the same files under names of their own (hard links), and neither knows of the other.
use super::{Error, ImageStore, Record, Staged, at};
use nix::sys::stat::{Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A layer of the other store.
struct Foreign {
    path: PathBuf,
    size: u64,
    entries: u64,
}

impl ImageStore {
    /// Takes all images of the store in `other` that are not here; returns those. Both must be on one file system.
    pub fn share_from(&self, other: &Path) -> Result<Vec<Arc<Record>>, Error> {
        let mut taken = Vec::new();
        let directory = other.join("images");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(taken),
            Err(error) => return Err(at(&directory)(error)),
        };
        let layers = layers(other)?;
        for entry in entries.flatten() {
            let text = fs::read(entry.path()).map_err(at(&entry.path()))?;
            // Unfinished or damaged ones are not there.
            let Ok(record) = serde_json::from_slice::<Record>(&text) else { continue };
            let known = self.index.lock().images.get(&record.id).cloned();
            if known.is_none_or(|known| !known.tags.is_superset(&record.tags)) {
                taken.push(self.share(record, &layers)?);
            }
        }
        Ok(taken)
    }

    fn share(&self, record: Record, layers: &HashMap<String, Foreign>) -> Result<Arc<Record>, Error> {
        let wanted = record.config.rootfs.diff_ids.clone();
        let mut staged = Vec::new();
        let linked = wanted.iter().filter(|id| !self.reserve_layer(id)).try_for_each(|id| {
            let missing = || at(&self.root)(io::Error::new(io::ErrorKind::NotFound, format!("no layer {id}")));
            let foreign = layers.get(id).ok_or_else(missing)?;
            staged.push(self.link_layer(id, foreign)?);
            Ok(())
        });
        if let Err(error) = linked {
            self.abandon(&wanted, staged);
            return Err(error);
        }
        // The size is counted anew.
        let known: u64 = wanted.iter().filter_map(|id| layers.get(id)).map(|layer| layer.size).sum();
        let size = record.size.saturating_sub(known);
        self.commit_record(Record { size, ..record }, staged)
    }

    fn link_layer(&self, id: &str, foreign: &Foreign) -> Result<Staged, Error> {
        let ingest = self.ingest_directory();
        let directory = tempfile::Builder::new().prefix("layer-").tempdir_in(&ingest).map_err(at(&ingest))?;
        link_tree(&foreign.path.join("fs"), &directory.path().join("fs"))?;
        let note = directory.path().join("digest");
        fs::write(&note, format!("{id} {} {}\n", foreign.size, foreign.entries)).map_err(at(&note))?;
        Ok(Staged { diff_id: id.to_owned(), size: foreign.size, entries: foreign.entries, directory: directory.keep() })
    }
}

fn layers(other: &Path) -> Result<HashMap<String, Foreign>, Error> {
    let directory = other.join("layers");
    let mut layers = HashMap::new();
    for entry in fs::read_dir(&directory).map_err(at(&directory))?.flatten() {
        let text = fs::read_to_string(entry.path().join("digest")).unwrap_or_default();
        let mut words = text.split_whitespace();
        let id = words.next().map(str::to_owned);
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        if let (Some(id), Some(size), Some(entries)) = (id, number(), number()) {
            layers.insert(id, Foreign { path: entry.path(), size, entries });
        }
    }
    Ok(layers)
}

/// Makes `to` a copy of the directory `from` that shares its files.
fn link_tree(from: &Path, to: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(from).map_err(at(from))?;
    DirBuilder::new().mode(0o700).create(to).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(at(from))?.is_dir() {
            link_tree(&entry.path(), &target)?;
        } else {
            fs::hard_link(entry.path(), &target).map_err(at(&target))?;
        }
    }
    copy_attributes(from, to).map_err(at(to))?;
    lchown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(at(to))?;
    let mode = Mode::from_bits_truncate(metadata.mode());
    let failed = |error: nix::errno::Errno| at(to)(error.into());
    fchmodat(nix::fcntl::AT_FDCWD, to, mode, nix::sys::stat::FchmodatFlags::FollowSymlink).map_err(failed)?;
    let (accessed, modified) = (
        TimeSpec::new(metadata.atime(), metadata.atime_nsec()),
        TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()),
    );
    utimensat(nix::fcntl::AT_FDCWD, to, &accessed, &modified, UtimensatFlags::NoFollowSymlink).map_err(failed)
}

/// Copies the extended attributes of a directory: among them overlayfs' own, which hide what is below.
fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(from, &mut names)?;
    let mut value = vec![0; 1 << 16];
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(OsStr::from_bytes(name).as_bytes())?;
        let length = rustix::fs::lgetxattr(from, &name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::lsetxattr(to, &name, value, rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::pack::pack;
    use crate::image::store::ProcessConfig;

    #[test]
    fn images_of_another_store_are_taken_without_copying_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/deep/file"), "content").unwrap();
        std::os::unix::fs::symlink("deep/file", root.join("etc/link")).unwrap();
        let tar = dir.path().join("image.tar");
        pack(&root, "example.org/app:1", &ProcessConfig::default(), &tar).unwrap();
        let first = ImageStore::open(&dir.path().join("first")).unwrap();
        crate::image::archive::load(&first, &tar, &[]).unwrap();
        let second = ImageStore::open(&dir.path().join("second")).unwrap();
        assert_eq!(second.share_from(&dir.path().join("first")).unwrap().len(), 1);
        assert!(second.share_from(&dir.path().join("first")).unwrap().is_empty());
        let file = |store: &ImageStore| {
            let record = store.find("example.org/app:1").unwrap();
            let layers = store.lower(&record);
            let fs = layers.iter().map(|layer| store.layers_directory().join(layer)).find(|fs| fs.join("etc").exists());
            fs.unwrap().join("etc")
        };
        let inode = |path: PathBuf| fs::symlink_metadata(path).unwrap().ino();
        assert_eq!(inode(file(&first).join("deep/file")), inode(file(&second).join("deep/file")));
        assert_eq!(fs::read_to_string(file(&second).join("link")).unwrap(), "content");
        first.remove("example.org/app:1", &Default::default()).unwrap();
        assert_eq!(fs::read_to_string(file(&second).join("deep/file")).unwrap(), "content");
    }
}
