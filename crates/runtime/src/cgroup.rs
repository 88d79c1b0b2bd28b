//! Control groups: finding the hierarchies (v1, v2), joining, reading, changing and removing the groups that Pintle made.
//!
//! A group is named by one path that is the same in every hierarchy, e.g. `/pintle-1234abcd/kubepods/podX/<container>`.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a control group could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine has no cgroup file system mounted.
    #[error("no cgroup file system is mounted (looked in /proc/self/mountinfo)")]
    NotMounted,
    /// A file of a group could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// One mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

/// The machine's control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    v1: Vec<Hierarchy>,
    v2: Option<PathBuf>,
}

/// Memory use of a group, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Everything charged to the group.
    pub usage: u64,
    /// Usage without inactive file pages: what eviction looks at.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The limit; `None` if there is none.
    pub limit: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
    /// Swap in use.
    pub swap: u64,
}

/// Limits to set; `None` leaves a value as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU weight in v1 shares.
    pub cpu_shares: Option<u64>,
    /// CPU time per period in microseconds; negative: unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory in bytes; negative: unlimited.
    pub memory: Option<i64>,
    /// Processes; negative: unlimited.
    pub pids: Option<i64>,
    /// CPUs, as a list like `0-3,7`.
    pub cpus: Option<String>,
    /// Memory nodes, as a list.
    pub mems: Option<String>,
    /// v2 files and their values.
    pub unified: Vec<(String, String)>,
}

impl Cgroups {
    /// Finds the mounted hierarchies.
    pub fn detect() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mountinfo");
        Self::parse(&fs::read_to_string(path).map_err(io_error("read", path))?).ok_or(Error::NotMounted)
    }

    /// Reads the text of `/proc/self/mountinfo`.
    fn parse(mountinfo: &str) -> Option<Self> {
        let mut v1: Vec<Hierarchy> = Vec::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some((front, back)) = line.split_once(" - ") else { continue };
            let Some(mount) = front.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut back = back.split(' ');
            match back.next() {
                Some("cgroup") => {
                    let controllers: Vec<String> = back
                        .nth(1)
                        .unwrap_or_default()
                        .split(',')
                        .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
                        .filter(|option| !option.starts_with("release_agent="))
                        .map(str::to_owned)
                        .collect();
                    if !v1.iter().any(|known| known.controllers == controllers) {
                        v1.push(Hierarchy { controllers, mount });
                    }
                }
                Some("cgroup2") if v2.is_none() => v2 = Some(mount),
                _ => {}
            }
        }
        // The hybrid layout's cgroup2 carries no controllers: limits are v1's there.
        if !v1.iter().any(|hierarchy| hierarchy.controllers.iter().any(|c| !c.starts_with("name="))) {
            v1.clear();
        } else {
            v2 = None;
        }
        (v2.is_some() || !v1.is_empty()).then_some(Self { v1, v2 })
    }

    /// Whether the unified hierarchy is in use.
    pub fn is_v2(&self) -> bool {
        self.v2.is_some()
    }

    /// The directory of `group` in the hierarchy of a v1 controller (or in the only one).
    pub fn path(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let mount = match &self.v2 {
            Some(mount) => mount,
            None => &self.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller))?.mount,
        };
        Some(mount.join(group.trim_start_matches('/')))
    }

    /// The directories of `group` in all hierarchies.
    pub fn paths(&self, group: &str) -> Vec<PathBuf> {
        let group = group.trim_start_matches('/');
        match &self.v2 {
            Some(mount) => vec![mount.join(group)],
            None => self.v1.iter().map(|hierarchy| hierarchy.mount.join(group)).collect(),
        }
    }

    /// The directories of `group` in the v1 hierarchies, with the names under which people look for each.
    pub fn named_paths(&self, group: &str) -> Vec<(Vec<String>, PathBuf)> {
        let name = |controller: &String| controller.trim_start_matches("name=").to_owned();
        let group = group.trim_start_matches('/');
        let names = |hierarchy: &Hierarchy| {
            let mut names: Vec<String> = hierarchy.controllers.iter().map(name).collect();
            if names.len() > 1 {
                names.insert(0, names.join(","));
            }
            names
        };
        self.v1.iter().map(|hierarchy| (names(hierarchy), hierarchy.mount.join(group))).collect()
    }

    /// Where the v1 hierarchies are mounted, each with its controllers.
    pub fn mounts(&self) -> Vec<(PathBuf, Vec<String>)> {
        self.v1.iter().map(|hierarchy| (hierarchy.mount.clone(), hierarchy.controllers.clone())).collect()
    }

    /// Makes `group` in every hierarchy; cpusets start with their parents' CPUs.
    pub fn create(&self, group: &str) -> Result<(), Error> {
        for path in self.paths(group) {
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        if let Some(path) = self.path("cpuset", group).filter(|_| !self.is_v2()) {
            inherit_cpuset(&path)?;
        }
        if let Some(mount) = &self.v2 {
            delegate(mount, group)?;
        }
        Ok(())
    }

    /// Moves a process into `group` (0: the caller).
    pub fn join(&self, group: &str, pid: i32) -> Result<(), Error> {
        for path in self.paths(group) {
            let procs = path.join("cgroup.procs");
            fs::write(&procs, pid.to_string()).map_err(io_error("write", &procs))?;
        }
        Ok(())
    }

    /// Makes `group` in the v1 hierarchies without controllers (systemd's) and moves the caller there.
    pub fn join_named(&self, group: &str) -> Result<(), Error> {
        let named = self.v1.iter().filter(|hierarchy| hierarchy.controllers.iter().all(|c| c.starts_with("name=")));
        for hierarchy in named {
            let path = hierarchy.mount.join(group.trim_start_matches('/'));
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
            let procs = path.join("cgroup.procs");
            fs::write(&procs, "0").map_err(io_error("write", &procs))?;
        }
        Ok(())
    }

    /// The processes of `group` itself; none if it does not exist.
    pub fn processes(&self, group: &str) -> Vec<i32> {
        let Some(path) = self.path("pids", group).or_else(|| self.paths(group).into_iter().next()) else {
            return Vec::new();
        };
        let Ok(text) = fs::read_to_string(path.join("cgroup.procs")) else { return Vec::new() };
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills all processes of `group`.
    pub fn kill(&self, group: &str) {
        if let Some(mount) = &self.v2 {
            // Kernels before 5.14 have no such file; the loop below does it there.
            if fs::write(mount.join(group.trim_start_matches('/')).join("cgroup.kill"), "1").is_ok() {
                return;
            }
        }
        for pid in self.processes(group) {
            // SAFETY: kill has no memory effects; the pid was just read from our own group.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Removes `group` and all groups below it, after killing what is in them. Absent groups are fine.
    pub fn remove(&self, group: &str) -> Result<(), Error> {
        for path in self.paths(group) {
            remove_tree(&path)?;
        }
        Ok(())
    }

    /// Removes `group` in every hierarchy where nothing is left in it.
    pub fn remove_if_empty(&self, group: &str) {
        for path in self.paths(group) {
            // Not empty, or gone already: both are fine.
            fs::remove_dir(&path).ok();
        }
    }

    /// How many processes of `group` the kernel killed for lack of memory.
    pub fn oom_kills(&self, group: &str) -> u64 {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let Some(path) = self.path("memory", group) else { return 0 };
        fs::read_to_string(path.join(file)).map_or(0, |text| keyed(&text, "oom_kill"))
    }

    /// CPU time used by `group`, in nanoseconds.
    pub fn cpu_nanoseconds(&self, group: &str) -> Result<u64, Error> {
        if self.is_v2() {
            return Ok(keyed(&self.read("cpu", group, "cpu.stat")?, "usage_usec") * 1000);
        }
        Ok(self.read("cpuacct", group, "cpuacct.usage")?.trim().parse().unwrap_or_default())
    }

    /// Memory used by `group`.
    pub fn memory(&self, group: &str) -> Result<Memory, Error> {
        let stat = self.read("memory", group, "memory.stat")?;
        let number = |text: String| text.trim().parse::<u64>().ok();
        if self.is_v2() {
            let usage = number(self.read("memory", group, "memory.current")?).unwrap_or_default();
            return Ok(Memory {
                usage,
                working_set: usage.saturating_sub(keyed(&stat, "inactive_file")),
                rss: keyed(&stat, "anon"),
                limit: self.read("memory", group, "memory.max").ok().and_then(number),
                page_faults: keyed(&stat, "pgfault"),
                major_page_faults: keyed(&stat, "pgmajfault"),
                swap: self.read("memory", group, "memory.swap.current").ok().and_then(number).unwrap_or_default(),
            });
        }
        let usage = number(self.read("memory", group, "memory.usage_in_bytes")?).unwrap_or_default();
        Ok(Memory {
            usage,
            working_set: usage.saturating_sub(keyed(&stat, "total_inactive_file")),
            rss: keyed(&stat, "total_rss"),
            // v1 says "no limit" by a number close to 2^63.
            limit: self
                .read("memory", group, "memory.limit_in_bytes")
                .ok()
                .and_then(number)
                .filter(|limit| *limit < 1 << 62),
            page_faults: keyed(&stat, "total_pgfault"),
            major_page_faults: keyed(&stat, "total_pgmajfault"),
            swap: keyed(&stat, "total_swap"),
        })
    }

    /// The number of processes and threads in `group` and below.
    pub fn pids(&self, group: &str) -> u64 {
        self.read("pids", group, "pids.current").ok().and_then(|t| t.trim().parse().ok()).unwrap_or_default()
    }

    fn read(&self, controller: &str, group: &str, file: &str) -> Result<String, Error> {
        let Some(path) = self.path(controller, group) else { return Ok(String::new()) };
        let path = path.join(file);
        fs::read_to_string(&path).map_err(io_error("read", &path))
    }

    fn write(&self, controller: &str, group: &str, file: &str, value: &str) -> Result<(), Error> {
        let Some(path) = self.path(controller, group) else { return Ok(()) };
        let path = path.join(file);
        fs::write(&path, value).map_err(io_error("write", &path))
    }

    /// Changes limits of a living group.
    pub fn update(&self, group: &str, limits: &Limits) -> Result<(), Error> {
        for (controller, file, value) in self.files(limits) {
            if file == "memory.limit_in_bytes" {
                // The combined limit may not be below the plain one: raise or lift it first, if the machine has it.
                self.write("memory", group, "memory.memsw.limit_in_bytes", "-1").ok();
            }
            self.write(controller, group, &file, &value)?;
        }
        Ok(())
    }

    /// Which files get which values for `limits`.
    fn files(&self, limits: &Limits) -> Vec<(&'static str, String, String)> {
        let mut files = Vec::new();
        let mut add = |controller, file: &str, value: String| files.push((controller, file.to_owned(), value));
        let or_max = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if self.is_v2() {
            if let Some(shares) = limits.cpu_shares.filter(|shares| *shares > 0) {
                add("cpu", "cpu.weight", shares_to_weight(shares).to_string());
            }
            match (limits.cpu_quota, limits.cpu_period) {
                (Some(quota), Some(period)) => add("cpu", "cpu.max", format!("{} {period}", or_max(quota))),
                (Some(quota), None) => add("cpu", "cpu.max", or_max(quota)),
                (None, Some(period)) => add("cpu", "cpu.max", format!("max {period}")),
                (None, None) => {}
            }
            if let Some(memory) = limits.memory {
                add("memory", "memory.max", or_max(memory));
            }
            if let Some(pids) = limits.pids {
                add("pids", "pids.max", or_max(pids));
            }
            if let Some(cpus) = &limits.cpus {
                add("cpuset", "cpuset.cpus", cpus.clone());
            }
            if let Some(mems) = &limits.mems {
                add("cpuset", "cpuset.mems", mems.clone());
            }
            for (file, value) in &limits.unified {
                add("", file, value.clone());
            }
            return files;
        }
        if let Some(shares) = limits.cpu_shares.filter(|shares| *shares > 0) {
            add("cpu", "cpu.shares", shares.max(2).to_string());
        }
        if let Some(period) = limits.cpu_period.filter(|period| *period > 0) {
            add("cpu", "cpu.cfs_period_us", period.to_string());
        }
        if let Some(quota) = limits.cpu_quota {
            add("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
        if let Some(memory) = limits.memory {
            add("memory", "memory.limit_in_bytes", memory.to_string());
        }
        if let Some(pids) = limits.pids {
            add("pids", "pids.max", or_max(pids));
        }
        if let Some(cpus) = &limits.cpus {
            add("cpuset", "cpuset.cpus", cpus.clone());
        }
        if let Some(mems) = &limits.mems {
            add("cpuset", "cpuset.mems", mems.clone());
        }
        files
    }
}

/// v1's CPU shares (2…262144) as v2's weight (1…10000), as the OCI runtimes map them.
pub fn shares_to_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The number after `key` in a file of `key value` lines.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or_default()
}

/// A new v1 cpuset is empty and takes no process: fill it, and its parents, from above.
fn inherit_cpuset(path: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = path.join(file);
        let Ok(text) = fs::read_to_string(&own) else { return Ok(()) };
        if !text.trim().is_empty() {
            continue;
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        inherit_cpuset(parent)?;
        let from = parent.join(file);
        let value = fs::read_to_string(&from).map_err(io_error("read", &from))?;
        fs::write(&own, value.trim()).map_err(io_error("write", &own))?;
    }
    Ok(())
}

/// Lets the parents of a v2 group hand their controllers down.
fn delegate(mount: &Path, group: &str) -> Result<(), Error> {
    let mut path = mount.to_owned();
    let parts: Vec<&str> = group.split('/').filter(|part| !part.is_empty()).collect();
    for part in parts {
        let controllers = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let control = path.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            if !enabled.split_whitespace().any(|known| known == controller) {
                // A controller that cannot be handed down here is missed only by limits that need it.
                fs::write(&control, format!("+{controller}")).ok();
            }
        }
        path.push(part);
    }
    Ok(())
}

/// Removes a group's directory and the groups below, killing what runs in them.
fn remove_tree(path: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("list", path)(error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    // A killed process leaves its group when the kernel has torn it down; there is no event for that on v1.
    let mut pause = Duration::from_micros(200);
    for _ in 0..14 {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                    if let Ok(pid) = pid.parse::<i32>() {
                        // SAFETY: kill has no memory effects; the pid was just read from our own group.
                        unsafe { libc::kill(pid, libc::SIGKILL) };
                    }
                }
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(error) => return Err(io_error("remove", path)(error)),
        }
    }
    fs::remove_dir(path).map_err(io_error("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn hybrid_layout_uses_the_v1_hierarchies() {
        let cgroups = Cgroups::parse(HYBRID).unwrap();
        assert!(!cgroups.is_v2());
        assert_eq!(cgroups.path("cpuacct", "/a/b").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        assert_eq!(cgroups.path("name=systemd", "a").unwrap(), Path::new("/sys/fs/cgroup/systemd/a"));
        assert_eq!(cgroups.paths("/a").len(), 3);
        assert_eq!(cgroups.path("pids", "/a"), None);
    }

    #[test]
    fn unified_layout_has_one_path_for_all_controllers() {
        let cgroups = Cgroups::parse(UNIFIED).unwrap();
        assert!(cgroups.is_v2());
        assert_eq!(cgroups.path("memory", "/a/b").unwrap(), Path::new("/sys/fs/cgroup/a/b"));
    }

    #[test]
    fn limits_become_the_files_of_the_layout() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(-1),
            memory: Some(64),
            pids: Some(-1),
            ..Limits::default()
        };
        let v1 = Cgroups::parse(HYBRID).unwrap().files(&limits);
        assert!(v1.contains(&("cpu", "cpu.shares".to_owned(), "1024".to_owned())));
        assert!(v1.contains(&("memory", "memory.limit_in_bytes".to_owned(), "64".to_owned())));
        let v2 = Cgroups::parse(UNIFIED).unwrap().files(&limits);
        assert!(v2.contains(&("cpu", "cpu.weight".to_owned(), "39".to_owned())));
        assert!(v2.contains(&("cpu", "cpu.max".to_owned(), "max".to_owned())));
        assert!(v2.contains(&("pids", "pids.max".to_owned(), "max".to_owned())));
    }

    #[test]
    fn keyed_reads_whole_keys_only() {
        assert_eq!(keyed("oom_kill_disable 7\nunder_oom 0\noom_kill 2\n", "oom_kill"), 2);
    }
}
