//! What this machine is: processors, memory, disk, kernel, operating system.
use crate::config::Config;
use crate::downward::NodeFacts;
use std::fs;
use std::path::Path;

/// The machine's facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Processors.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Disk of the kubelet's directory.
    pub disk: Disk,
    /// `/etc/machine-id`
    pub machine_id: String,
    /// The firmware's system UUID.
    pub system_uuid: String,
    /// Identity of this boot.
    pub boot_id: String,
    /// `uname -r`
    pub kernel: String,
    /// `PRETTY_NAME` of `/etc/os-release`
    pub os_image: String,
    /// Huge pages: (size like `2Mi`, bytes).
    pub huge_pages: Vec<(String, i64)>,
}

/// Space of a file system in bytes, and its inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disk {
    /// All space.
    pub total: i64,
    /// What an ordinary user can still write.
    pub free: i64,
    /// All inodes; 0 where the file system has no fixed number.
    pub inodes: i64,
    /// Free inodes.
    pub inodes_free: i64,
}

/// The file system of `path`.
pub fn disk(path: &Path) -> Disk {
    match nix::sys::statvfs::statvfs(path) {
        Ok(stat) => {
            let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let unit = number(stat.fragment_size());
            Disk {
                total: number(stat.blocks()).saturating_mul(unit),
                free: number(stat.blocks_available()).saturating_mul(unit),
                inodes: number(stat.files()),
                inodes_free: number(stat.files_available()),
            }
        }
        Err(_) => Disk::default(),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A value of `/proc/meminfo` in bytes.
pub fn meminfo(name: &str) -> i64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<i64>().ok()).unwrap_or(0) * 1024
}

impl Machine {
    /// Reads the facts.
    pub fn read(config: &Config) -> Self {
        let release = read("/etc/os-release");
        let os_image = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        let pages = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut huge_pages: Vec<(String, i64)> = pages
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let kilobytes: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
                let count: i64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
                let size = if kilobytes >= 1 << 20 {
                    format!("{}Gi", kilobytes >> 20)
                } else {
                    format!("{}Mi", kilobytes >> 10)
                };
                Some((size, count * kilobytes * 1024))
            })
            .collect();
        huge_pages.sort();
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1)),
            memory: meminfo("MemTotal"),
            disk: disk(&config.root_dir),
            machine_id: read("/etc/machine-id"),
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: os_image.trim_matches('"').to_owned(),
            huge_pages,
        }
    }

    /// What field and resource references may name.
    pub fn facts(&self, config: &Config) -> NodeFacts {
        NodeFacts {
            name: config.node_name.clone(),
            host_ips: config.node_ips.iter().map(ToString::to_string).collect(),
            milli_cpu: self.cpus * 1000,
            memory: super::status::allocatable_memory(self),
            ephemeral_storage: super::status::allocatable_storage(self),
        }
    }
}

/// Memory that could be used at once, in bytes.
pub fn available_memory() -> i64 {
    meminfo("MemAvailable")
}

/// Memory that nothing is in, in bytes.
pub fn free_memory() -> i64 {
    meminfo("MemFree")
}

/// The most processes the kernel runs.
pub fn max_pids() -> i64 {
    read("/proc/sys/kernel/pid_max").parse().unwrap_or(0)
}

/// Processes and threads now.
pub fn processes() -> i64 {
    let text = read("/proc/loadavg");
    let total = text.split_whitespace().nth(3).and_then(|counts| counts.split_once('/')?.1.parse().ok());
    total.unwrap_or(0)
}

/// Seconds that processors were busy since boot, summed.
pub fn busy_seconds() -> f64 {
    let text = read("/proc/stat");
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    let idle = ticks.get(3).copied().unwrap_or(0.0) + ticks.get(4).copied().unwrap_or(0.0);
    // USER_HZ is 100 on all architectures Kubernetes runs on.
    (ticks.iter().take(8).sum::<f64>() - idle) / 100.0
}
