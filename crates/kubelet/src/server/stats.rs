//! `/stats/summary`: what the node and its pods use, in the Summary API's shape.
// upstream: staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1
use super::{Failure, Server};
use crate::node::Disk;
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use pintle_runtime::cri;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

impl Server {
    /// Statistics of all pods from the runtime.
    pub(super) async fn pod_stats(&self) -> Result<Vec<cri::PodSandboxStats>, Failure> {
        let request = cri::ListPodSandboxStatsRequest { filter: None };
        let answer = self.kubelet.runtime.list_pod_sandbox_stats(request).await;
        answer.map(|answer| answer.stats).map_err(|status| Failure::internal(crate::rpc_text(&status)))
    }

    /// The Summary API's answer.
    pub(super) async fn summary(&self) -> Result<Value, Failure> {
        let stats = self.pod_stats().await?;
        let pods = self.workers.pods();
        let fs = filesystem(crate::node::disk(&self.kubelet.config.root_dir));
        let mut summaries = Vec::with_capacity(stats.len());
        for stats in &stats {
            let uid = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref()).map(|one| &one.uid);
            let pod = uid.and_then(|uid| pods.iter().find(|pod| pod.uid() == uid));
            summaries.push(self.pod_summary(stats, pod.map(AsRef::as_ref), &fs).await);
        }
        Ok(json!({"node": self.node_summary(&fs), "pods": summaries}))
    }

    fn node_summary(&self, fs: &Value) -> Value {
        let now = Timestamp::now().to_string();
        let (available, total) = (crate::node::available_memory(), self.kubelet.machine_memory);
        let busy = (crate::node::busy_seconds() * 1e9) as u64;
        let mut node = json!({
            "nodeName": self.kubelet.config.node_name,
            "startTime": self.kubelet.since.to_string(),
            "cpu": {"time": now, "usageCoreNanoSeconds": busy},
            "memory": {
                "time": now, "availableBytes": available, "usageBytes": total - crate::node::free_memory(),
                "workingSetBytes": total - available},
            "fs": fs,
            "runtime": {"imageFs": fs, "containerFs": fs},
            "rlimit": {"time": now, "maxpid": crate::node::max_pids(), "curproc": crate::node::processes()},
        });
        if let Some(rate) = self.cpu_rate.since_last(busy) {
            node["cpu"]["usageNanoCores"] = json!(rate);
        }
        node
    }

    async fn pod_summary(&self, stats: &cri::PodSandboxStats, pod: Option<&Pod>, fs: &Value) -> Value {
        let mut summary = pod_summary(stats);
        let Some(pod) = pod else { return summary };
        let status = self.kubelet.statuses.get(pod.uid()).or_else(|| pod.status.clone()).unwrap_or_default();
        if let Some(start) = &status.start_time {
            summary["startTime"] = json!(start.0.to_string());
        }
        let started = |name: &str| {
            let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
            let mut mine = all.filter(|one| one.name == name);
            mine.find_map(|one| one.state.as_ref()?.running.as_ref()?.started_at.as_ref().map(|at| at.0.to_string()))
        };
        let used = crate::eviction::disk_use(&self.kubelet, pod, Some(stats)).await;
        for container in summary["containers"].as_array_mut().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            if let Some(at) = started(&name) {
                container["startTime"] = json!(at);
            }
            let mut logs = fs.clone();
            logs["usedBytes"] = json!(used.logs(&name));
            container["logs"] = logs;
            for field in ["availableBytes", "capacityBytes", "inodesFree", "inodes"] {
                container["rootfs"][field] = fs[field].clone();
            }
        }
        let volume = |(name, bytes): (&String, &i64)| {
            let mut volume = fs.clone();
            volume["name"] = json!(name);
            volume["usedBytes"] = json!(bytes);
            volume
        };
        summary["volume"] = used.volumes().iter().map(volume).collect();
        let mut ephemeral = fs.clone();
        ephemeral["usedBytes"] = json!(used.total());
        summary["ephemeral-storage"] = ephemeral;
        summary
    }
}

fn filesystem(disk: Disk) -> Value {
    json!({
        "time": Timestamp::now().to_string(),
        "availableBytes": disk.free, "capacityBytes": disk.total, "usedBytes": disk.total - disk.free,
        "inodesFree": disk.inodes_free, "inodes": disk.inodes, "inodesUsed": disk.inodes - disk.inodes_free})
}

/// The rate of a counter between two looks at it.
#[derive(Default)]
pub struct Rate(Mutex<Option<(Instant, u64)>>);

impl Rate {
    /// How much the counter grew each second since the last look; `None` at the first.
    fn since_last(&self, count: u64) -> Option<u64> {
        let now = Instant::now();
        let (then, before) = self.0.lock().replace((now, count))?;
        let seconds = now.duration_since(then).as_secs_f64();
        (seconds > 0.0).then(|| (count.saturating_sub(before) as f64 / seconds) as u64)
    }
}

fn time(nanos: i64) -> String {
    let at = Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_nanos(nanos));
    at.map(|at| at.to_string()).unwrap_or_default()
}

fn pod_summary(stats: &cri::PodSandboxStats) -> Value {
    let metadata = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.clone()).unwrap_or_default();
    let linux = stats.linux.clone().unwrap_or_default();
    let containers: Vec<Value> = linux.containers.iter().map(container_summary).collect();
    let mut pod = Map::new();
    pod.insert("podRef".into(), json!({"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid}));
    pod.insert("containers".into(), containers.into());
    insert(&mut pod, "cpu", linux.cpu.as_ref().map(cpu));
    insert(&mut pod, "memory", linux.memory.as_ref().map(memory));
    let network = linux.network.as_ref().and_then(|network| {
        let main = network.default_interface.as_ref()?;
        let value = |value: &Option<cri::UInt64Value>| value.as_ref().map(|value| value.value);
        Some(json!({
            "time": time(network.timestamp), "name": main.name,
            "rxBytes": value(&main.rx_bytes), "rxErrors": value(&main.rx_errors),
            "txBytes": value(&main.tx_bytes), "txErrors": value(&main.tx_errors)}))
    });
    insert(&mut pod, "network", network);
    let processes = linux.process.as_ref().and_then(|process| process.process_count.as_ref());
    insert(&mut pod, "process_stats", processes.map(|count| json!({"process_count": count.value})));
    Value::Object(pod)
}

fn container_summary(stats: &cri::ContainerStats) -> Value {
    let metadata = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.clone()).unwrap_or_default();
    let mut container = Map::new();
    container.insert("name".into(), metadata.name.into());
    insert(&mut container, "cpu", stats.cpu.as_ref().map(cpu));
    insert(&mut container, "memory", stats.memory.as_ref().map(memory));
    let layer = stats.writable_layer.as_ref().map(|layer| {
        json!({
            "time": time(layer.timestamp),
            "usedBytes": layer.used_bytes.as_ref().map(|value| value.value),
            "inodesUsed": layer.inodes_used.as_ref().map(|value| value.value)})
    });
    insert(&mut container, "rootfs", layer);
    Value::Object(container)
}

fn insert(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

fn cpu(usage: &cri::CpuUsage) -> Value {
    json!({
        "time": time(usage.timestamp),
        "usageNanoCores": usage.usage_nano_cores.as_ref().map(|value| value.value),
        "usageCoreNanoSeconds": usage.usage_core_nano_seconds.as_ref().map(|value| value.value)})
}

fn memory(usage: &cri::MemoryUsage) -> Value {
    let value = |value: &Option<cri::UInt64Value>| value.as_ref().map(|value| value.value);
    json!({
        "time": time(usage.timestamp),
        "availableBytes": value(&usage.available_bytes), "usageBytes": value(&usage.usage_bytes),
        "workingSetBytes": value(&usage.working_set_bytes), "rssBytes": value(&usage.rss_bytes),
        "pageFaults": value(&usage.page_faults), "majorPageFaults": value(&usage.major_page_faults)})
}
