//! CPU, memory and disk use of containers and sandboxes.
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use tonic::Status;

use crate::cri;
use crate::records::{ContainerPhase, ContainerRecord};
use crate::runtime::{Container, Inner, Sandbox};
use crate::shim::log::now_nanoseconds;

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// Bytes and inodes below a directory, each file once.
pub fn disk_usage(directory: &Path) -> (u64, u64) {
    fn visit(path: &Path, seen: &mut HashSet<(u64, u64)>, total: &mut (u64, u64)) {
        let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        total.0 += metadata.blocks() * 512;
        total.1 += 1;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                visit(&entry.path(), seen, total);
            }
        }
    }
    let mut total = (0, 0);
    visit(directory, &mut HashSet::new(), &mut total);
    total
}

impl Inner {
    fn cpu(&self, cgroup: &str) -> Option<cri::CpuUsage> {
        let used = self.cgroups.cpu_nanoseconds(cgroup).ok()?;
        let now = now_nanoseconds();
        let before = self.cpu_samples.lock().insert(cgroup.to_owned(), (now, used));
        let rate = before.and_then(|(then, before)| {
            let elapsed = u64::try_from(now - then).ok().filter(|elapsed| *elapsed > 0)?;
            let used = u128::from(used.saturating_sub(before)) * 1_000_000_000 / u128::from(elapsed);
            u64::try_from(used).ok().map(|value| cri::UInt64Value { value })
        });
        Some(cri::CpuUsage { timestamp: now, usage_core_nano_seconds: value(used), usage_nano_cores: rate })
    }

    fn memory(&self, cgroup: &str) -> Option<(cri::MemoryUsage, cri::SwapUsage)> {
        let memory = self.cgroups.memory(cgroup).ok()?;
        let timestamp = now_nanoseconds();
        let usage = cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(memory.working_set),
            available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(memory.working_set))),
            usage_bytes: value(memory.usage),
            rss_bytes: value(memory.rss),
            page_faults: value(memory.page_faults),
            major_page_faults: value(memory.major_page_faults),
        };
        let swap = cri::SwapUsage { timestamp, swap_available_bytes: None, swap_usage_bytes: value(memory.swap) };
        Some((usage, swap))
    }

    /// A container's use of everything. Walks its writable layer: not for the async threads.
    pub fn container_stats(&self, record: &ContainerRecord) -> cri::ContainerStats {
        let config = &record.config.0;
        let running = record.phase == ContainerPhase::Running;
        let memory = running.then(|| self.memory(&record.cgroup)).flatten();
        let upper = self.snapshot(&record.id).join("fs");
        let (bytes, inodes) = disk_usage(&upper);
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: record.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: running.then(|| self.cpu(&record.cgroup)).flatten(),
            memory: memory.as_ref().map(|(memory, _)| *memory),
            writable_layer: Some(self.filesystem(bytes, inodes)),
            swap: memory.map(|(_, swap)| swap),
        }
    }

    fn filesystem(&self, bytes: u64, inodes: u64) -> cri::FilesystemUsage {
        let mountpoint = self.config.root.to_string_lossy().into_owned();
        cri::FilesystemUsage {
            timestamp: now_nanoseconds(),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
            used_bytes: value(bytes),
            inodes_used: value(inodes),
        }
    }

    /// Statistics of the containers that `wanted` chooses.
    pub async fn stats_of(
        self: &Arc<Self>,
        wanted: impl Fn(&ContainerRecord) -> bool,
    ) -> Result<Vec<cri::ContainerStats>, Status> {
        let containers: Vec<Arc<Container>> = self.containers.lock().values().cloned().collect();
        let records: Vec<ContainerRecord> =
            containers.iter().map(|container| container.record.lock().clone()).filter(wanted).collect();
        let inner = self.clone();
        let collected =
            tokio::task::spawn_blocking(move || records.iter().map(|record| inner.container_stats(record)).collect());
        collected.await.map_err(|error| Status::internal(error.to_string()))
    }

    /// A sandbox's use of everything.
    pub async fn sandbox_stats(self: &Arc<Self>, sandbox: &Sandbox) -> Result<cri::PodSandboxStats, Status> {
        let record = sandbox.record.lock().clone();
        let containers = self
            .stats_of(|container| container.sandbox_id == record.id && container.phase == ContainerPhase::Running)
            .await?;
        let config = &record.config.0;
        let processes = self.cgroups.pids(&record.cgroup);
        Ok(cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: record.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: self.cpu(&record.cgroup),
                memory: self.memory(&record.cgroup).map(|(memory, _)| memory),
                network: self.network_stats(&record.id, record.host_network),
                process: Some(cri::ProcessUsage { timestamp: now_nanoseconds(), process_count: value(processes) }),
                containers,
            }),
            windows: None,
        })
    }

    /// What went over the sandbox's interfaces, from a process in its network namespace: the shim.
    fn network_stats(&self, sandbox: &str, host: bool) -> Option<cri::NetworkUsage> {
        let pid = std::fs::read_to_string(self.sandbox_state(sandbox).join("shim.pid")).ok()?;
        let table = std::fs::read_to_string(format!("/proc/{}/net/dev", pid.trim())).ok()?;
        let mut interfaces = parse_net_dev(&table);
        if host {
            interfaces.clear();
        }
        let position = interfaces.iter().position(|interface| interface.name == "eth0");
        Some(cri::NetworkUsage {
            timestamp: now_nanoseconds(),
            default_interface: position.map(|position| interfaces.remove(position)),
            interfaces,
        })
    }

    /// CRI `ImageFsInfo`: the images' part and the containers' part of the disk.
    pub fn image_fs_info(&self) -> cri::ImageFsInfoResponse {
        let (image_bytes, image_inodes) = self.images.usage();
        let (bytes, inodes) = disk_usage(&self.config.root.join("snapshots"));
        cri::ImageFsInfoResponse {
            image_filesystems: vec![self.filesystem(image_bytes, image_inodes)],
            container_filesystems: vec![self.filesystem(bytes, inodes)],
        }
    }
}

/// The interfaces of `/proc/net/dev`, without `lo`.
fn parse_net_dev(table: &str) -> Vec<cri::NetworkInterfaceUsage> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let name = name.trim();
        (name != "lo" && numbers.len() >= 11).then(|| cri::NetworkInterfaceUsage {
            name: name.to_owned(),
            rx_bytes: value(numbers[0]),
            rx_errors: value(numbers[2]),
            tx_bytes: value(numbers[8]),
            tx_errors: value(numbers[10]),
        })
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), vec![1; 8192]).unwrap();
        let (before, inodes) = disk_usage(directory.path());
        std::fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        assert_eq!(disk_usage(directory.path()), (before, inodes));
    }

    #[test]
    fn interfaces_are_read() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12\n  eth0: 100 1 2 0 0 0 0 0 200 3 4 0 0 0 0 0\n";
        let interfaces = parse_net_dev(table);
        assert_eq!(interfaces.len(), 1);
        assert_eq!((interfaces[0].rx_bytes, interfaces[0].tx_errors), (value(100), value(4)));
    }
}
