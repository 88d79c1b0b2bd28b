//! `/stats/summary`: what the node and its pods use, in the Summary API's shape.
// upstream: staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1
use super::{Failure, Server};
use crate::node::Machine;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use pintle_runtime::cri;
use serde_json::{Map, Value, json};

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
        let machine = Machine::read(&self.kubelet.config);
        let available = crate::node::available_memory();
        let now = Timestamp::now().to_string();
        let since = self.kubelet.since.to_string();
        let disk = machine.disk;
        let fs = json!({
            "time": now, "availableBytes": disk.free, "capacityBytes": disk.total, "usedBytes": disk.total - disk.free,
            "inodesFree": disk.inodes_free, "inodes": disk.inodes, "inodesUsed": disk.inodes - disk.inodes_free});
        let node = json!({
            "nodeName": self.kubelet.config.node_name,
            "startTime": since,
            "memory": {"time": now, "availableBytes": available, "workingSetBytes": machine.memory - available},
            "fs": fs,
            "runtime": {"imageFs": fs, "containerFs": fs},
        });
        let pods: Vec<Value> = stats.iter().map(pod_summary).collect();
        Ok(json!({"node": node, "pods": pods}))
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
