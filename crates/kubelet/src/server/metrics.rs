//! `/metrics` and `/metrics/resource` in Prometheus' text format, with upstream's names.
use super::{Failure, Server};
use crate::pods::PodExt;
use pintle_runtime::cri;

impl Server {
    /// The kubelet's own metrics.
    pub(super) fn own_metrics(&self) -> String {
        let pods = self.workers.pods();
        let running = pods.iter().filter(|pod| pod.phase() == "Running").count();
        let name = &self.kubelet.config.node_name;
        format!(
            "# HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n\
             # TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{name}\"}} 1\n\
             # HELP kubelet_running_pods [BETA] Number of pods that have a running pod sandbox\n\
             # TYPE kubelet_running_pods gauge\nkubelet_running_pods {running}\n\
             # HELP kubelet_desired_pods [ALPHA] The number of pods the kubelet is being instructed to run.\n\
             # TYPE kubelet_desired_pods gauge\nkubelet_desired_pods{{static=\"\"}} {}\n",
            pods.len()
        )
    }

    /// CPU and memory of pods and containers, for metrics-server.
    pub(super) async fn resource_metrics(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let stats = self.pod_stats().await?;
        let mut family = |name: &str, kind: &str, rows: Vec<(String, f64)>| {
            text.push_str(&format!("# TYPE {name} {kind}\n"));
            for (labels, value) in rows {
                let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
                text.push_str(&format!("{name}{labels} {value}\n"));
            }
        };
        let seconds = |usage: Option<&cri::CpuUsage>| {
            usage.and_then(|usage| usage.usage_core_nano_seconds.as_ref()).map(|value| value.value as f64 / 1e9)
        };
        let bytes = |usage: Option<&cri::MemoryUsage>| {
            usage.and_then(|usage| usage.working_set_bytes.as_ref()).map(|value| value.value as f64)
        };
        let (mut cpu, mut memory, mut pod_cpu, mut pod_memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for pod in &stats {
            let metadata =
                pod.attributes.as_ref().and_then(|attributes| attributes.metadata.clone()).unwrap_or_default();
            let labels = format!("namespace=\"{}\",pod=\"{}\"", metadata.namespace, metadata.name);
            let Some(linux) = &pod.linux else { continue };
            pod_cpu.extend(seconds(linux.cpu.as_ref()).map(|value| (labels.clone(), value)));
            pod_memory.extend(bytes(linux.memory.as_ref()).map(|value| (labels.clone(), value)));
            for container in &linux.containers {
                let name = container.attributes.as_ref().and_then(|attributes| attributes.metadata.clone());
                let labels = format!("container=\"{}\",{labels}", name.unwrap_or_default().name);
                cpu.extend(seconds(container.cpu.as_ref()).map(|value| (labels.clone(), value)));
                memory.extend(bytes(container.memory.as_ref()).map(|value| (labels.clone(), value)));
            }
        }
        family("container_cpu_usage_seconds_total", "counter", cpu);
        family("container_memory_working_set_bytes", "gauge", memory);
        family("pod_cpu_usage_seconds_total", "counter", pod_cpu);
        family("pod_memory_working_set_bytes", "gauge", pod_memory);
        let used = self.kubelet.machine_memory - crate::node::available_memory();
        family("node_memory_working_set_bytes", "gauge", vec![(String::new(), used as f64)]);
        family("node_cpu_usage_seconds_total", "counter", vec![(String::new(), crate::node::busy_seconds())]);
        Ok(text)
    }
}
