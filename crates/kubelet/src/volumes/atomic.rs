//! Writes a directory of files so that readers see all of the old or all of the new content.
//!
//! As upstream's AtomicWriter: files live in a dated directory, `..data` points to it and is swapped by a rename, and each
//! visible name points through `..data`.
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

/// One file of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, when not root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";

/// Makes `target` show exactly `payload`; false when it already did.
pub fn write(target: &Path, payload: &Payload) -> Result<bool, String> {
    for path in payload.keys() {
        let ok =
            Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) && !path.starts_with("..");
        if !ok || path.is_empty() {
            return Err(format!("invalid path {path:?}: must be relative, without '..'"));
        }
    }
    let current = fs::read_link(target.join(DATA)).ok().map(|link| target.join(link));
    if current.as_ref().is_some_and(|dir| same(dir, payload)) {
        return Ok(false);
    }
    write_new(target, payload, current.as_deref()).map_err(|error| format!("{}: {error}", target.display()))?;
    Ok(true)
}

fn same(dir: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    list(dir, dir, &mut found);
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            let on_disk = dir.join(path);
            found.contains(path) && fs::read(&on_disk).is_ok_and(|data| data == file.data)
        })
}

fn list(root: &Path, dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, found);
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.insert(relative.to_string_lossy().into_owned());
        }
    }
}

fn write_new(target: &Path, payload: &Payload, current: Option<&Path>) -> std::io::Result<()> {
    fs::create_dir_all(target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o777))?;
    let now = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let name = format!("..{now}.{:09}", fastrand::u32(..1_000_000_000));
    let dir = target.join(&name);
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.data)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        if file.owner.is_some() {
            std::os::unix::fs::chown(&path, file.owner, None)?;
        }
    }
    let temporary = target.join("..data_tmp");
    ignore_missing(fs::remove_file(&temporary))?;
    symlink(&name, &temporary)?;
    fs::rename(&temporary, target.join(DATA))?;
    let visible: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        match symlink(format!("{DATA}/{name}"), target.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(target)?.flatten() {
        let file_name = entry.file_name();
        let stale = file_name.to_str().is_some_and(|name| !name.starts_with("..") && !visible.contains(name));
        if stale {
            fs::remove_file(entry.path())?;
        }
    }
    match current {
        Some(old) => ignore_missing(fs::remove_dir_all(old)),
        None => Ok(()),
    }
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.into(), mode: 0o644, owner: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn content_is_swapped_as_a_whole_and_stale_names_go() {
        let dir = std::env::temp_dir().join(format!("pintle-atomic-{}", std::process::id()));
        assert!(write(&dir, &payload(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert!(!write(&dir, &payload(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        let before = fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(&dir, &payload(&[("a", "3")])).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("d").exists() && !dir.join(before).exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        for path in ["../x", "/x", "a/../../x", "..x", ""] {
            assert!(write(Path::new("/nonexistent"), &payload(&[(path, "")])).is_err(), "{path}");
        }
    }
}
