//! What processes use, from /proc.
use anyhow::{Context, Result};
use std::path::PathBuf;

/// What a set of processes has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Proportional memory now, in KiB.
    pub pss_kib: u64,
    /// CPU time, in milliseconds.
    pub cpu_ms: f64,
    /// Bytes that reached the disk's queue.
    pub written: u64,
}

/// What `pids` use together.
pub fn usage(pids: &[i32]) -> Result<Usage> {
    pids.iter().try_fold(Usage::default(), |sum, pid| {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let read =
            |name: &str| std::fs::read_to_string(dir.join(name)).with_context(|| format!("process {pid} is gone"));
        let field = |text: &str, name: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let stat = read("stat")?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        // Fields 14 and 15 of proc(5): user and system time in ticks of 10 ms.
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        Ok(Usage {
            pss_kib: sum.pss_kib + field(&read("smaps_rollup")?, "Pss:"),
            cpu_ms: sum.cpu_ms + ticks as f64 * 10.0,
            written: sum.written + field(&read("io")?, "write_bytes:"),
        })
    })
}

/// Every living process named `name`; one that has ended and waits for its parent has no command line any more.
pub fn named(name: &str) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else { continue };
        let alive = std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty());
        if alive && std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
            pids.push(pid);
        }
    }
    Ok(pids)
}
