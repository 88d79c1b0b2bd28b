//! The pods' cgroup tree: `<root>/kubepods[/burstable|/besteffort]/pod<uid>`, in every hierarchy that exists.
//!
//! The runtime puts containers below the pod's group; the kubelet sets the pod's limits and removes the group at its end.
// upstream: pkg/kubelet/cm
use crate::config::Config;
use crate::pods::PodExt;
use crate::resources;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const V1_CONTROLLERS: [&str; 10] =
    ["cpu", "cpuacct", "memory", "pids", "freezer", "blkio", "devices", "cpuset", "hugetlb", "systemd"];

/// The pod's group, relative to a hierarchy's root.
pub fn pod_path(config: &Config, pod: &Pod) -> String {
    let root = config.cgroup_root.trim_end_matches('/');
    let class = match resources::qos_class(pod) {
        "Guaranteed" => "",
        "Burstable" => "/burstable",
        _ => "/besteffort",
    };
    format!("{root}/kubepods{class}/pod{}", pod.uid())
}

/// The UIDs of the pods that have a group.
pub fn known_uids(config: &Config) -> BTreeSet<String> {
    let entries = classes(config).into_iter().filter_map(|class| fs::read_dir(class).ok()).flatten().flatten();
    let uids = entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pod").map(str::to_owned));
    uids.collect()
}

/// Removes a pod's group everywhere and in whatever class it is, with what is left below it.
pub fn remove(config: &Config, uid: &str) -> Result<(), String> {
    for dir in classes(config).into_iter().map(|class| class.join(format!("pod{uid}"))) {
        remove_tree(&dir).map_err(|error| format!("cannot remove cgroup {}: {error}", dir.display()))?;
    }
    Ok(())
}

/// The directories in which pods' groups are: of each class in each hierarchy. None if other software manages them.
fn classes(config: &Config) -> Vec<PathBuf> {
    if !config.manage_cgroups {
        return Vec::new();
    }
    let below = format!("{}/kubepods", config.cgroup_root.trim_matches('/'));
    let of = |hierarchy: PathBuf| ["", "burstable", "besteffort"].map(|class| hierarchy.join(&below).join(class));
    hierarchies().into_iter().flat_map(of).collect()
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if is_v2() {
        return vec![root.to_owned()];
    }
    let mut all: Vec<PathBuf> = Vec::new();
    for dir in V1_CONTROLLERS.iter().map(|name| root.join(name)).filter(|dir| dir.exists()) {
        let real = fs::canonicalize(&dir).unwrap_or(dir);
        if !all.contains(&real) {
            all.push(real);
        }
    }
    all
}

/// Makes the pod's group with its limits.
pub fn create(config: &Config, pod: &Pod) -> Result<(), String> {
    if !config.manage_cgroups {
        return Ok(());
    }
    let limits = resources::pod(pod);
    for (controller, dir) in groups(config, pod) {
        let text = |error: std::io::Error| format!("cannot set up cgroup {}: {error}", dir.display());
        if controller.is_empty() {
            make_v2(&dir).map_err(text)?;
        } else {
            fs::create_dir_all(&dir).map_err(text)?;
        }
        for (file, value) in settings(controller, &limits) {
            match fs::write(dir.join(file), value) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(text(error)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The pod's groups that have limits: controller (empty for v2) and directory.
fn groups(config: &Config, pod: &Pod) -> Vec<(&'static str, PathBuf)> {
    let relative = pod_path(config, pod);
    let root = Path::new("/sys/fs/cgroup");
    if is_v2() {
        return vec![("", root.join(relative.trim_start_matches('/')))];
    }
    ["cpu", "memory"]
        .into_iter()
        .map(|name| (name, root.join(name)))
        .filter(|(_, dir)| dir.exists())
        .map(|(name, dir)| (name, dir.join(relative.trim_start_matches('/'))))
        .collect()
}

/// Which of a pod's limits are set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Those that become larger: before the containers' limits change.
    Raise,
    /// All: after the containers' limits have changed.
    All,
}

/// Changes the limits of the pod's group.
pub fn update(config: &Config, pod: &Pod, change: Change) -> Result<(), String> {
    if !config.manage_cgroups {
        return Ok(());
    }
    let limits = resources::pod(pod);
    for (controller, dir) in groups(config, pod) {
        for (file, value) in settings(controller, &limits) {
            let path = dir.join(file);
            let current = fs::read_to_string(&path).unwrap_or_default();
            if change == Change::Raise && !larger(&value, &current) {
                continue;
            }
            match fs::write(&path, value) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(format!("cannot set {}: {error}", path.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether a limit is larger than the present one; no limit is the largest.
fn larger(value: &str, current: &str) -> bool {
    let number = |text: &str| text.split_whitespace().next().and_then(|first| first.parse::<i64>().ok());
    match (number(value), number(current)) {
        (Some(value), Some(current)) => current >= 0 && value > current,
        _ => false,
    }
}

/// Makes a v2 group and hands the controllers down to it.
fn make_v2(dir: &Path) -> std::io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut current = root.to_owned();
    for part in dir.strip_prefix(root).unwrap_or(dir).components() {
        for controller in ["+cpu", "+memory", "+pids", "+io", "+cpuset", "+hugetlb"] {
            // A controller this kernel lacks, or that cannot be handed down, just has no limits here.
            if let Err(error) = fs::write(current.join("cgroup.subtree_control"), controller) {
                tracing::trace!(controller, %error, "controller not available below {}", current.display());
            }
        }
        current.push(part);
        match fs::create_dir(&current) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Files and values of a pod's limits; `controller` is empty for v2.
fn settings(controller: &str, limits: &pintle_runtime::cri::LinuxContainerResources) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let (shares, quota, memory) = (limits.cpu_shares, limits.cpu_quota, limits.memory_limit_in_bytes);
    if controller == "cpu" {
        all.push(("cpu.shares", shares.to_string()));
        if quota > 0 {
            all.push(("cpu.cfs_period_us", limits.cpu_period.to_string()));
            all.push(("cpu.cfs_quota_us", quota.to_string()));
        }
    }
    if controller == "memory" && memory > 0 {
        all.push(("memory.limit_in_bytes", memory.to_string()));
    }
    if controller.is_empty() {
        // The usual mapping of 2..=262144 shares onto 1..=10000 weight.
        all.push(("cpu.weight", (1 + (shares.max(2) - 2) * 9999 / 262_142).to_string()));
        if quota > 0 {
            all.push(("cpu.max", format!("{quota} {}", limits.cpu_period)));
        }
        if memory > 0 {
            all.push(("memory.max", memory.to_string()));
        }
    }
    all
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_larger_limits_are_raised_and_nothing_is_larger_than_none() {
        assert!(larger("20000", "10000\n") && larger("20000 100000", "10000 100000\n"));
        for current in ["-1\n", "max 100000\n", "30000\n", "20000"] {
            assert!(!larger("20000", current), "{current}");
        }
    }
}
