//! `subPath` mounts: a place inside a volume, found without following links out of it.
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// The host path of `sub` inside `volume`; a missing directory is made.
pub fn resolve(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("invalid subPath {sub:?}: must be relative, without '..'"));
    }
    let failed = |error: std::io::Error| format!("failed to prepare subPath for volumeMount {sub:?}: {error}");
    let root = fs::canonicalize(volume).map_err(failed)?;
    let mut current = root.clone();
    for part in relative.components().filter(|part| matches!(part, Component::Normal(_))) {
        let next = current.join(part);
        current = match fs::canonicalize(&next) {
            Ok(real) => real,
            // A dangling link must not be created through: only plain missing names are.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && fs::symlink_metadata(&next).is_err() => {
                fs::DirBuilder::new().mode(0o750).create(&next).map_err(failed)?;
                crate::volumes::ownership::set_mode(&next, 0o777).map_err(failed)?;
                next
            }
            Err(error) => return Err(failed(error)),
        };
        if !current.starts_with(&root) {
            return Err(format!("failed to prepare subPath for volumeMount {sub:?}: path escapes from the volume"));
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside_the_volume() {
        let dir = std::env::temp_dir().join(format!("pintle-subpath-{}", std::process::id()));
        fs::create_dir_all(dir.join("v")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("v/link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("v/dangling")).unwrap();
        let volume = dir.join("v");
        assert_eq!(resolve(&volume, "a/b").unwrap(), fs::canonicalize(volume.join("a/b")).unwrap());
        for bad in ["../x", "/etc", "link", "link/passwd", "dangling/x"] {
            assert!(resolve(&volume, bad).is_err(), "{bad}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
