//! Places of images in a container: a part of an image as a volume, and the directories that an image declares as volumes.
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};

use super::super::protocol::ImageVolume;
use crate::image::layer::{make_directories, open_in_root};

/// Deepest directory that is copied.
const MAX_DEPTH: u32 = 64;

fn bind_descriptor(place: &OwnedFd, target: &Path) -> nix::Result<()> {
    let source = format!("/proc/self/fd/{}", place.as_raw_fd());
    let none = None::<&str>;
    mount(Some(source.as_str()), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
}

/// Lets the mount at `target` show only the place `sub` of it, found without leaving it.
pub fn narrow(target: &Path, sub: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot mount {sub:?} of the image: {error}");
    let root = fs::File::open(target).map_err(|error| failed(&error))?;
    let place = open_in_root(root.as_fd(), Path::new(sub), OFlag::O_PATH).map_err(|error| failed(&error.desc()))?;
    if !fs::metadata(format!("/proc/self/fd/{}", place.as_raw_fd())).map_err(|error| failed(&error))?.is_dir() {
        return Err(failed(&"not a directory"));
    }
    bind_descriptor(&place, target).map_err(|error| failed(&error.desc()))
}

/// Binds a declared volume into `rootfs`; its first container finds the image's content there.
pub fn bind(rootfs: &Path, volume: &ImageVolume) -> Result<(), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("cannot prepare the image's volume {}: {error}", volume.path.display());
    let relative = volume.path.strip_prefix("/").unwrap_or(&volume.path);
    let root = fs::File::open(rootfs).map_err(|error| failed(&error))?;
    let place = make_directories(root.as_fd(), relative).map_err(|error| failed(&error.desc()))?;
    let inside = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    if !volume.source.exists() {
        // Made whole under another name first: a start that was interrupted copies again.
        let part = volume.source.with_extension("part");
        crate::runtime::remove_path(&part).map_err(|error| failed(&error))?;
        fs::create_dir_all(&part).map_err(|error| failed(&error))?;
        copy_directory(&inside, &part, MAX_DEPTH).map_err(|error| failed(&error))?;
        fs::rename(&part, &volume.source).map_err(|error| failed(&error))?;
    }
    let source = fs::File::open(&volume.source).map_err(|error| failed(&error))?;
    // Over the descriptor, so that no link in the image leads the mount elsewhere.
    bind_descriptor(&OwnedFd::from(source), &inside).map_err(|error| failed(&error.desc()))
}

/// Copies what is in `from`, and its owner and mode, to the directory `to`. Devices and sockets are left out.
fn copy_directory(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("the directories are nested too deeply"));
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            fs::create_dir(&target)?;
            copy_directory(&source, &target, depth - 1)?;
        } else if metadata.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        } else if metadata.is_file() {
            fs::copy(&source, &target)?;
            keep_attributes(&target, &metadata)?;
        }
    }
    keep_attributes(to, &fs::metadata(from)?)
}

fn keep_attributes(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o7777))
}
