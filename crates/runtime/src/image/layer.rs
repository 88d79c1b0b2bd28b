//! Unpacking a layer's tar into a directory that overlayfs can use as a lower layer.
//!
//! Nothing in a layer is trusted: every path is resolved by the kernel below the layer's directory
//! (`openat2` with `RESOLVE_IN_ROOT`), so neither `..` nor symbolic links lead out of it.
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive or the disk failed.
    #[error("failed to extract layer: {0}")]
    Io(#[from] io::Error),
    /// An entry could not be made.
    #[error("failed to extract layer: {path:?}: {source}")]
    Entry {
        /// The entry's path in the layer.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An entry is not what a layer may hold.
    #[error("failed to extract layer: {path:?}: {reason}")]
    Refused {
        /// The entry's path in the layer.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Overlayfs' mark of a directory that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Opens a path below `root`, following links only within it.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match openat2(root, path, how) {
            // A rename elsewhere in the tree made the kernel uncertain: try again.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// How many links that lead nowhere are followed to make what they lead to.
const MAX_LINKS: u32 = 40;

/// Opens the directory `path` below `root`, making what is missing of it, also behind links that lead nowhere yet.
pub fn make_directories(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    make_behind_links(root, path, MAX_LINKS)
}

fn make_behind_links(root: BorrowedFd<'_>, path: &Path, links: u32) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_in_root(root, path, flags) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let parent_path = path.parent().ok_or(Errno::ENOENT)?;
    let parent = make_behind_links(root, parent_path, links)?;
    let name = path.file_name().ok_or(Errno::ENOENT)?;
    match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => open_in_root(root, path, flags),
        Err(Errno::EEXIST) => match nix::fcntl::readlinkat(&parent, name) {
            Ok(target) if links > 0 => {
                let target = inside(parent_path, Path::new(&target));
                drop(make_behind_links(root, &target, links - 1)?);
                open_in_root(root, path, flags)
            }
            // Made by someone else meanwhile, or something else than a directory: opening tells.
            _ => open_in_root(root, path, flags),
        },
        Err(error) => Err(error),
    }
}

/// The path below the root that a link in `directory` means.
fn inside(directory: &Path, target: &Path) -> PathBuf {
    let mut path = if target.is_absolute() { PathBuf::new() } else { directory.to_owned() };
    for component in target.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    path
}

/// What unpacking found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of file content.
    pub size: u64,
    /// Entries.
    pub entries: u64,
}

/// Unpacks a layer's (uncompressed) tar into the empty directory `directory`.
pub fn unpack(tar: impl Read, directory: &Path) -> Result<Unpacked, Error> {
    let root: OwnedFd = File::open(directory)?.into();
    let mut unpacker = Unpacker { root, parent: None, directory_times: HashMap::new(), result: Unpacked::default() };
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        unpacker.entry(&mut entry?)?;
    }
    unpacker.finish()?;
    // The rest of the stream counts for the digest.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(unpacker.result)
}

struct Unpacker {
    root: OwnedFd,
    /// The directory used last.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Modification times to set when nothing is put into the directories any more.
    directory_times: HashMap<PathBuf, i64>,
    result: Unpacked,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), Error> {
        let original = entry.path()?.into_owned();
        let refused = |reason| Error::Refused { path: original.clone(), reason };
        let path = clean(&original).ok_or_else(|| refused("the path leaves the layer"))?;
        self.result.entries += 1;
        if path.as_os_str().is_empty() {
            // The root directory itself: only its attributes matter.
            if entry.header().entry_type().is_dir() {
                let root = self.root.try_clone()?;
                return self.attributes(entry, root.as_fd(), Path::new("."), &path, true);
            }
            return Err(refused("the path is empty"));
        }
        let name = PathBuf::from(path.file_name().ok_or_else(|| refused("the path has no name"))?);
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.parent(&parent_path).map_err(|source| Error::Entry { path: path.clone(), source })?;
        let made = self.make(entry, parent.as_fd(), &name, &path);
        made.map_err(|error| match error {
            Error::Io(source) => Error::Entry { path, source },
            other => other,
        })
    }

    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return fd.try_clone();
        }
        let fd = make_directories(self.root.as_fd(), path)?;
        self.parent = Some((path.to_owned(), fd.try_clone()?));
        Ok(fd)
    }

    fn make(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: BorrowedFd<'_>,
        name: &Path,
        path: &Path,
    ) -> Result<(), Error> {
        let refused = |reason| Error::Refused { path: path.to_owned(), reason };
        if let Some(hidden) = name.as_os_str().as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(parent, Path::new(std::ffi::OsStr::from_bytes(hidden)));
        }
        let kind = entry.header().entry_type();
        let is_directory = kind.is_dir();
        self.make_room(parent, name, is_directory)?;
        let mode = Mode::from_bits_truncate(0o600);
        match kind {
            tar::EntryType::Directory => match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(Error::Io(error.into())),
            },
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, mode).map_err(io::Error::from)?);
                self.result.size += io::copy(entry, &mut file)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| refused("a symbolic link without target"))?;
                symlinkat(target.as_ref(), parent, name).map_err(io::Error::from)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| refused("a hard link without target"))?;
                return self.hard_link(&target, parent, name, path);
            }
            tar::EntryType::Char | tar::EntryType::Block => {
                let header = entry.header();
                let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
                let kind = if kind == tar::EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                let device = makedev(u64::from(major), u64::from(minor));
                mknodat(parent, name, kind, mode, device).map_err(io::Error::from)?;
            }
            tar::EntryType::Fifo => mknodat(parent, name, SFlag::S_IFIFO, mode, 0).map_err(io::Error::from)?,
            // Extension headers of the archive itself.
            tar::EntryType::XGlobalHeader => return Ok(()),
            _ => return Err(refused("an unknown kind of entry")),
        }
        self.attributes(entry, parent, name, path, is_directory)
    }

    fn hard_link(&self, target: &Path, parent: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<(), Error> {
        let refused = |reason| Error::Refused { path: path.to_owned(), reason };
        let target = clean(target).ok_or_else(|| refused("the hard link's target leaves the layer"))?;
        let target_name = target.file_name().ok_or_else(|| refused("the hard link's target has no name"))?;
        let directory = target.parent().unwrap_or(Path::new(""));
        let directory = open_in_root(self.root.as_fd(), directory, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .map_err(|_| refused("the hard link's target is not in the layer"))?;
        linkat(&directory, target_name, parent, name, AtFlags::empty()).map_err(io::Error::from)?;
        Ok(())
    }

    /// Makes the entry that lets overlayfs hide `name` of lower layers.
    fn whiteout(&self, parent: BorrowedFd<'_>, name: &Path) -> Result<(), Error> {
        if name == Path::new(".wh..opq") {
            return Ok(set_xattr(parent, Path::new("."), OPAQUE, b"y")?);
        }
        // Other names with a second `.wh.` are bookkeeping of AUFS.
        if name.as_os_str().is_empty() || name.as_os_str().as_bytes().starts_with(b".wh.") || name == Path::new("..") {
            return Ok(());
        }
        self.make_room(parent, name, false)?;
        mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).map_err(io::Error::from)?;
        Ok(())
    }

    /// A later entry of the same name replaces an earlier one; a directory stays a directory.
    fn make_room(&self, parent: BorrowedFd<'_>, name: &Path, directory: bool) -> io::Result<()> {
        let Ok(stat) = nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { return Ok(()) };
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if !is_directory {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
        } else if !directory {
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let inside = openat(parent, name, flags, Mode::empty())?;
            std::fs::remove_dir_all(format!("/proc/self/fd/{}/.", inside.as_raw_fd())).or_else(|error| {
                // The directory itself cannot be removed by the name "."; its content is gone.
                if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) }
            })?;
            unlinkat(parent, name, UnlinkatFlags::RemoveDir)?;
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: BorrowedFd<'_>,
        name: &Path,
        path: &Path,
        directory: bool,
    ) -> Result<(), Error> {
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
        let (uid, gid) = (Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?));
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        let link = header.entry_type() == tar::EntryType::Symlink;
        let time = i64::try_from(header.mtime()?).unwrap_or(0);
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
        if !link {
            // After chown, which clears the set-id bits.
            fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink).map_err(io::Error::from)?;
        }
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                let Some(attribute) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
                let Ok(attribute) = std::str::from_utf8(attribute) else { continue };
                if may_carry(attribute) {
                    set_xattr(parent, name, attribute, extension.value_bytes())?;
                }
            }
        }
        if directory {
            self.directory_times.insert(path.to_owned(), time);
            return Ok(());
        }
        set_time(parent, name, time)?;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        for (path, time) in &self.directory_times {
            // A directory may have been replaced by something else later in the archive.
            if let Ok(directory) = open_in_root(self.root.as_fd(), path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
                set_time(directory.as_fd(), Path::new("."), *time)?;
            }
        }
        Ok(())
    }
}

fn set_time(parent: BorrowedFd<'_>, name: &Path, seconds: i64) -> io::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Attributes that an image may set: not those by which overlayfs is steered.
fn may_carry(attribute: &str) -> bool {
    attribute == "security.capability" || (attribute.starts_with("user.") && !attribute.starts_with("user.overlay."))
}

fn set_xattr(parent: BorrowedFd<'_>, name: &Path, attribute: &str, value: &[u8]) -> io::Result<()> {
    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let attribute = CString::new(attribute).map_err(io::Error::other)?;
    // SAFETY: both strings and the value live until after the call.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 {
        let error = io::Error::last_os_error();
        // A file system without user attributes, or a link, which cannot have them.
        let optional = attribute.to_bytes().starts_with(b"user.")
            && matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM));
        return if optional { Ok(()) } else { Err(error) };
    }
    Ok(())
}

/// A relative path without `.`; `None` if it holds `..`.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    struct Layer(tar::Builder<Vec<u8>>);

    impl Layer {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn add(mut self, kind: tar::EntryType, path: &str, link: &str, data: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1000);
            header.set_size(data.len() as u64);
            // The crate's own setters refuse what an attacker would write.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            self.0.append(&header, data).unwrap();
            self
        }

        fn unpack(self) -> (tempfile::TempDir, Result<Unpacked, Error>) {
            let outer = tempfile::tempdir().unwrap();
            std::fs::create_dir(outer.path().join("layer")).unwrap();
            let result = unpack(self.0.into_inner().unwrap().as_slice(), &outer.path().join("layer"));
            (outer, result)
        }
    }

    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};

    #[test]
    fn files_links_and_modes_arrive() {
        let (outer, result) = Layer::new()
            .add(Directory, "a/", "", b"")
            .add(Regular, "./a/f", "", b"text")
            .add(Link, "a/hard", "a/f", b"")
            .add(Symlink, "a/soft", "/etc/passwd", b"")
            .unpack();
        assert_eq!(result.unwrap(), Unpacked { size: 4, entries: 4 });
        let layer = outer.path().join("layer");
        let file = std::fs::metadata(layer.join("a/f")).unwrap();
        assert_eq!((file.nlink(), file.mode() & 0o7777, file.mtime()), (2, 0o755, 1000));
        assert_eq!(std::fs::metadata(layer.join("a")).unwrap().mtime(), 1000);
        assert_eq!(std::fs::read_link(layer.join("a/soft")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn dot_dot_is_refused() {
        for path in ["../evil", "a/../../evil", "/../evil"] {
            let (outer, result) = Layer::new().add(Regular, path, "", b"x").unpack();
            assert!(matches!(result, Err(Error::Refused { .. })), "{path}");
            assert!(!outer.path().join("evil").exists());
        }
        let (_outer, result) = Layer::new().add(Link, "a", "../../etc/passwd", b"").unpack();
        assert!(matches!(result, Err(Error::Refused { .. })));
    }

    #[test]
    fn links_do_not_lead_out_of_the_layer() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        let (outer, result) = Layer::new()
            .add(Symlink, "absolute", target, b"")
            .add(Symlink, "relative", "../..", b"")
            .add(Regular, "absolute/evil", "", b"x")
            .add(Regular, "relative/evil", "", b"x")
            .unpack();
        // Whatever became of them, they are inside.
        drop(result);
        assert!(!outside.path().join("evil").exists());
        assert!(!outer.path().join("evil").exists());
        assert!(outer.path().join("layer/evil").exists() || outer.path().join("layer").exists());
    }

    #[test]
    fn a_file_written_over_a_link_replaces_the_link() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let (outer, result) = Layer::new()
            .add(Symlink, "file", outside.path().to_str().unwrap(), b"")
            .add(Regular, "file", "", b"inside")
            .unpack();
        result.unwrap();
        assert_eq!(std::fs::read(outside.path()).unwrap(), b"");
        assert_eq!(std::fs::read(outer.path().join("layer/file")).unwrap(), b"inside");
    }

    #[test]
    fn a_hard_link_does_not_reach_through_a_symbolic_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let (outer, result) = Layer::new()
            .add(Symlink, "way", outside.path().to_str().unwrap(), b"")
            .add(Link, "stolen", "way/secret", b"")
            .unpack();
        assert!(result.is_err());
        assert!(!outer.path().join("layer/stolen").exists());
    }

    #[test]
    fn directories_are_made_behind_links_that_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        std::os::unix::fs::symlink("../../../run", root.path().join("var/run")).unwrap();
        std::os::unix::fs::symlink("b", root.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", root.path().join("b")).unwrap();
        let fd = File::open(root.path()).unwrap();
        make_directories(fd.as_fd(), Path::new("var/run/secrets")).unwrap();
        assert!(root.path().join("run/secrets").is_dir());
        assert!(make_directories(fd.as_fd(), Path::new("a/x")).is_err());
    }

    #[test]
    fn whiteouts_become_overlayfs_own() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (outer, result) = Layer::new()
            .add(Regular, "d/.wh.gone", "", b"")
            .add(Regular, "d/.wh..wh..opq", "", b"")
            .add(Fifo, "pipe", "", b"")
            .unpack();
        result.unwrap();
        let gone = std::fs::symlink_metadata(outer.path().join("layer/d/gone")).unwrap();
        assert_eq!((gone.mode() & libc::S_IFMT, gone.rdev()), (libc::S_IFCHR, 0));
        let path = CString::new(outer.path().join("layer/d").as_os_str().as_bytes()).unwrap();
        let mut value = [0_u8; 8];
        // SAFETY: the strings and the buffer live until after the call.
        let length = unsafe {
            libc::lgetxattr(path.as_ptr(), c"trusted.overlay.opaque".as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        assert_eq!((length, value[0]), (1, b'y'));
    }

    #[test]
    fn a_directory_is_replaced_by_a_later_file() {
        let (outer, result) = Layer::new().add(Regular, "d/x/y", "", b"1").add(Regular, "d", "", b"2").unpack();
        result.unwrap();
        assert_eq!(std::fs::read(outer.path().join("layer/d")).unwrap(), b"2");
    }

    #[test]
    fn overlayfs_attributes_are_not_for_images() {
        assert!(may_carry("security.capability"));
        assert!(may_carry("user.note"));
        assert!(!may_carry("trusted.overlay.redirect"));
        assert!(!may_carry("user.overlay.opaque"));
        assert!(!may_carry("security.selinux"));
    }
}
