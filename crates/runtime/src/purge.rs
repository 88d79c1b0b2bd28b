//! Removing every trace of a runtime from the machine, also after a crash.
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use crate::cgroup::{self, Cgroups};
use crate::runtime::remove_path;

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or mount.
    #[error("cannot remove {path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A control group.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
}

/// Kills the runtime's shims and containers and removes their groups, mounts and run-time files; images, records and
/// what containers wrote stay. Nothing else may use the directories now. It is fine if there is nothing (left).
pub fn stop(root: &Path, state: &Path, cgroup_parent: &str) -> Result<(), Error> {
    let cgroups = Cgroups::detect()?;
    // The shims first: they would tell of exits that nobody wants to know.
    cgroups.kill(&format!("{}/shims", cgroup_parent.trim_end_matches('/')));
    cgroups.remove(cgroup_parent)?;
    for directory in [state, root] {
        unmount_below(directory).map_err(failed(directory))?;
    }
    remove_path(state).map_err(failed(state))
}

/// [`stop`], and removes everything under `root` too.
pub fn purge(root: &Path, state: &Path, cgroup_parent: &str) -> Result<(), Error> {
    stop(root, state, cgroup_parent)?;
    remove_path(root).map_err(failed(root))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { path: path.clone(), source }
}

/// Unmounts everything at and below a directory, the last mounted first.
pub fn unmount_below(directory: &Path) -> io::Result<()> {
    let Ok(directory) = directory.canonicalize() else { return Ok(()) };
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    for point in mount_points(&table, &directory).iter().rev() {
        umount2(point.as_str(), MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// The mount points at and below a directory, in the table's order.
fn mount_points(table: &str, directory: &Path) -> Vec<String> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| Path::new(point).starts_with(directory)).collect()
}

/// Spaces and the like are written as octal numbers.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_the_directory_are_found() {
        let table = "1 0 0:1 / / rw - a a rw\n2 1 0:2 / /run/p rw - a a rw\n3 2 0:3 / /run/p/x\\040y rw - a a rw\n4 1 0:4 / /run/pp rw - a a rw\n";
        assert_eq!(mount_points(table, Path::new("/run/p")), ["/run/p", "/run/p/x y"]);
    }
}
