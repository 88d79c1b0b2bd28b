//! `subPath` mounts: a place inside a volume, opened without leaving the volume and bound by its descriptor, so that nobody who
//! can write to the volume can swap it for something else before the container starts.
// upstream: k8s.io/mount-utils/subpath; pkg/volume/util/subpath
use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Opens a place in the volume whose directory is `root`; links may lead on, but not out.
fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens `sub` inside `volume`; missing directories are made as the volume itself is.
fn open(volume: &Path, sub: &str) -> Result<OwnedFd, String> {
    let relative = Path::new(sub);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("invalid subPath {sub:?}: must be relative, without '..'"));
    }
    let failed = |error: Errno| {
        let cause = match error {
            Errno::XDEV | Errno::LOOP => "path escapes from the volume".to_owned(),
            other => std::io::Error::from(other).to_string(),
        };
        format!("failed to prepare subPath for volumeMount {sub:?}: {cause}")
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, volume, flags, Mode::empty()).map_err(failed)?;
    let mut parts: Vec<&std::ffi::OsStr> = Vec::new();
    let mut missing: Vec<&std::ffi::OsStr> = Vec::new();
    parts.extend(relative.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    }));
    // The longest part of the path that is there.
    let mut found = loop {
        let existing: PathBuf = parts.iter().collect();
        let existing = if parts.is_empty() { Path::new(".") } else { &existing };
        match open_beneath(root.as_fd(), existing) {
            Err(Errno::NOENT) if !parts.is_empty() => missing.extend(parts.pop()),
            other => break other.map_err(failed)?,
        }
    };
    let mode = rustix::fs::fstat(&root).map_err(failed)?.st_mode & 0o7777;
    for name in missing.into_iter().rev() {
        match rustix::fs::mkdirat(&found, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        // A link that leads nowhere, or that somebody was faster to make, is not followed.
        found = rustix::fs::openat(&found, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
        let made = format!("/proc/self/fd/{}", found.as_raw_fd());
        super::set_mode(Path::new(&made), mode).map_err(|error| failed(to_errno(&error)))?;
    }
    Ok(found)
}

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads the text file `path` in `volume`, whose links lead nowhere else.
pub fn read(volume: &Path, path: &str) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to open environment variable file {path:?}: {error}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, volume, flags, Mode::empty()).map_err(|error| failed(&error))?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).map_err(|error| failed(&error))?;
    let file = fs::File::from(file);
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(failed(&"not a regular file of at most 1 MiB"));
    }
    std::io::read_to_string(file).map_err(|error| failed(&error))
}

fn to_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Binds `sub` of `volume` to `target`, which is made; a former binding there goes.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to prepare subPath for volumeMount {sub:?}: {error}");
    let place = open(volume, sub)?;
    // Running containers keep what they were given.
    while nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).is_ok() {}
    let stat = rustix::fs::fstat(&place).map_err(|error| failed(&error))?;
    let directory = FileType::from_raw_mode(stat.st_mode).is_dir();
    let made = match (directory, target.parent()) {
        (true, _) => fs::create_dir_all(target),
        (false, Some(parent)) => fs::create_dir_all(parent)
            .and_then(|()| fs::File::options().create(true).append(true).open(target).map(drop)),
        (false, None) => Ok(()),
    };
    made.map_err(|error| failed(&error))?;
    let source = format!("/proc/self/fd/{}", place.as_raw_fd());
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    nix::mount::mount(Some(source.as_str()), target, none, flags, none).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn volume(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pintle-subpath-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("v/..1")).unwrap();
        dir
    }

    fn path_of(place: &OwnedFd) -> PathBuf {
        fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd())).unwrap()
    }

    #[test]
    fn sub_paths_stay_inside_the_volume() {
        let dir = volume("inside");
        let volume = dir.join("v");
        symlink("/etc", volume.join("link")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        symlink("..1", volume.join("..data")).unwrap();
        fs::write(volume.join("..1/key"), "x").unwrap();
        symlink("..data/key", volume.join("key")).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2775)).unwrap();
        let made = open(&volume, "a/b").unwrap();
        assert_eq!(path_of(&made), fs::canonicalize(&volume).unwrap().join("a/b"));
        assert_eq!(fs::metadata(volume.join("a/b")).unwrap().permissions().mode() & 0o7777, 0o2775);
        assert!(path_of(&open(&volume, "key").unwrap()).ends_with("..1/key"));
        for bad in ["../x", "/etc", "link", "link/passwd", "dangling/x", "dangling"] {
            assert!(open(&volume, bad).is_err(), "{bad}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_place_stays_what_it_was_when_its_name_is_taken_by_something_else() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = volume("bound");
        let (volume, target) = (dir.join("v"), dir.join("target/0"));
        fs::create_dir(volume.join("a")).unwrap();
        fs::write(volume.join("a/mine"), "").unwrap();
        bind(&volume, "a", &target).unwrap();
        fs::rename(volume.join("a"), volume.join("b")).unwrap();
        symlink("/etc", volume.join("a")).unwrap();
        assert!(target.join("mine").exists() && !target.join("passwd").exists());
        assert!(bind(&volume, "a", &target).is_err());
        bind(&volume, "b", &target).unwrap();
        nix::mount::umount(&target).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
