//! What a cluster keeps on its machine: counted before and after, so that what is left shows.
use crate::cluster::run;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything of one cluster that pods could leave behind.
#[derive(Debug)]
pub struct Census(Vec<(&'static str, BTreeSet<String>)>);

/// Counts.
pub fn take(data: &Path) -> Result<Census> {
    let id = id(data)?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    // A sandbox's namespaces are mounts, too.
    let below = [data.to_path_buf(), run_dir(&id)].map(|dir| dir.to_string_lossy().into_owned());
    let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mounts = mounts.filter(|at| below.iter().any(|dir| at.starts_with(dir)));
    let cgroup = format!("pintle-{id}");
    let mut cgroups = BTreeSet::new();
    for root in std::iter::once(PathBuf::from("/sys/fs/cgroup")).chain(children(Path::new("/sys/fs/cgroup"))) {
        directories(&root.join(&cgroup), &mut cgroups);
    }
    let mut files = BTreeSet::new();
    for part in [
        "runtime/containers",
        "runtime/sandboxes",
        "runtime/snapshots",
        "runtime/ingest",
        "kubelet/pods",
        "kubelet/logs",
    ] {
        files.extend(children(&data.join(part)).map(|path| path.display().to_string()));
    }
    files.extend(children(&run_dir(&id).join("runtime/sandboxes")).map(|path| path.display().to_string()));
    let lines = |command: &mut Command| run(command).map(|text| text.lines().map(str::to_owned).collect());
    let links = run(Command::new("ip").args(["-o", "link"]))?;
    let links = links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect();
    let addresses = std::fs::read_to_string(data.join("network/addresses")).unwrap_or_default();
    Ok(Census(vec![
        ("mount", mounts.map(str::to_owned).collect()),
        ("process", shims(&id).into_iter().map(|(pid, line)| format!("{pid} {line}")).collect()),
        ("cgroup", cgroups),
        ("file", files),
        ("link", links),
        ("address", addresses.lines().map(str::to_owned).collect()),
        ("nftables rule", lines(Command::new("nft").args(["list", "ruleset"]))?),
    ]))
}

impl Census {
    /// What `later` has that is not here.
    pub fn more_in(&self, later: &Census) -> Vec<String> {
        let kinds = self.0.iter().zip(&later.0);
        kinds
            .flat_map(|((kind, before), (_, after))| {
                after.difference(before).map(move |what| format!("{kind}: {what}"))
            })
            .collect()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, found)) in self.0.iter().enumerate() {
            write!(f, "{}{} of kind {kind}", if i == 0 { "" } else { ", " }, found.len())?;
        }
        Ok(())
    }
}

/// The shims of the cluster, and what runs in their containers.
pub fn victims(data: &Path) -> Result<Vec<i32>> {
    let shims: BTreeSet<i32> = shims(&id(data)?).into_iter().map(|(pid, _)| pid).collect();
    let child_of_one = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        parent.is_some_and(|parent| shims.contains(&parent))
    };
    Ok(all().filter(child_of_one).chain(shims.iter().copied()).collect())
}

/// Ends one of the processes, the `choice`th, as the kernel would that is out of memory. Whether there was one: it may have
/// ended meanwhile.
pub fn kill_one_of(pids: &[i32], choice: usize) -> bool {
    let pid = pids.get(choice % pids.len().max(1));
    pid.is_some_and(|pid| run(Command::new("kill").args(["-9", &pid.to_string()])).is_ok())
}

/// The cluster's id, by which its processes, cgroups and sockets are named.
fn id(data: &Path) -> Result<String> {
    let instance: serde_json::Value = serde_json::from_slice(&std::fs::read(data.join("instance.json"))?)?;
    Ok(instance["id"].as_str().context("the cluster has an id")?.to_owned())
}

fn run_dir(id: &str) -> PathBuf {
    Path::new("/run/pintle").join(id)
}

/// Processes and command lines of the cluster's shims.
fn shims(id: &str) -> Vec<(i32, String)> {
    let begin = format!("pintle shim {}", run_dir(id).display());
    let line_of = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, String::from_utf8_lossy(&line).replace('\0', " "))
    };
    all().map(line_of).filter(|(_, line)| line.starts_with(&begin)).collect()
}

fn all() -> impl Iterator<Item = i32> {
    children(Path::new("/proc")).filter_map(|path| path.file_name()?.to_str()?.parse().ok())
}

fn children(path: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn directories(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        found.insert(path.display().to_string());
        children(path).for_each(|child| directories(&child, found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_later_is_left() {
        let census = |mounts: &[&str]| Census(vec![("mount", mounts.iter().map(|m| (*m).to_owned()).collect())]);
        assert_eq!(census(&["/a"]).more_in(&census(&["/a", "/b"])), ["mount: /b"]);
        assert!(census(&["/a"]).more_in(&census(&[])).is_empty());
    }
}
