//! `/metrics`, `/metrics/resource` and `/metrics/cadvisor` in Prometheus' text format, with upstream's names.
use super::{Failure, Server};
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::ContainerStatus;
use pintle_runtime::cri;
use std::collections::{BTreeMap, HashMap};

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
        let (cpu_help, memory_help) = ("Cumulative cpu time consumed by the", "Current working set of the");
        let mut families = Families::default();
        for pod in &self.pod_stats().await? {
            let Some(linux) = &pod.linux else { continue };
            let metadata =
                pod.attributes.as_ref().and_then(|attributes| attributes.metadata.clone()).unwrap_or_default();
            let labels = format!("namespace=\"{}\",pod=\"{}\"", metadata.namespace, metadata.name);
            families.add("pod_cpu_usage_seconds_total", cpu_help, "counter", &labels, seconds(linux.cpu.as_ref()));
            families.add(
                "pod_memory_working_set_bytes",
                memory_help,
                "gauge",
                &labels,
                working_set(linux.memory.as_ref()),
            );
            let started = self.started(&metadata.uid);
            for container in &linux.containers {
                let name = container.attributes.as_ref().and_then(|attributes| attributes.metadata.clone());
                let name = name.unwrap_or_default().name;
                let labels = format!("container=\"{name}\",{labels}");
                let mut add = |family, help, kind, value| families.add(family, help, kind, &labels, value);
                add("container_cpu_usage_seconds_total", cpu_help, "counter", seconds(container.cpu.as_ref()));
                add("container_memory_working_set_bytes", memory_help, "gauge", working_set(container.memory.as_ref()));
                let swap = container.swap.as_ref().and_then(|swap| swap.swap_usage_bytes).map(|used| used.value as f64);
                add("container_swap_usage_bytes", "Current amount of the container swap usage of the", "gauge", swap);
                let start = started.get(&name).copied();
                add("container_start_time_seconds", "Start time since unix epoch in seconds of the", "gauge", start);
            }
        }
        let used = (self.kubelet.machine_memory - crate::node::available_memory()) as f64;
        families.add("node_memory_working_set_bytes", memory_help, "gauge", "", Some(used));
        families.add("node_cpu_usage_seconds_total", cpu_help, "counter", "", Some(crate::node::busy_seconds()));
        families.add("resource_scrape_error", "1 if there was an error, 0 otherwise, for the", "gauge", "", Some(0.0));
        Ok(families.text())
    }

    /// When the running containers of pod `uid` were started, in seconds since 1970.
    fn started(&self, uid: &str) -> HashMap<String, f64> {
        let status = self.kubelet.statuses.get(uid).unwrap_or_default();
        let all = status.container_statuses.into_iter().chain(status.init_container_statuses).flatten();
        let start = |one: ContainerStatus| {
            let at = one.state?.running?.started_at?;
            Some((one.name, at.0.as_second() as f64))
        };
        all.filter_map(start).collect()
    }

    /// What containers and pods use, with cAdvisor's names.
    pub(super) async fn container_metrics(&self) -> Result<String, Failure> {
        let mut families = Families::default();
        for pod in &self.pod_stats().await? {
            let Some(linux) = &pod.linux else { continue };
            let attributes = pod.attributes.clone().unwrap_or_default();
            let metadata = attributes.metadata.unwrap_or_default();
            let of_pod = format!("namespace=\"{}\",pod=\"{}\"", metadata.namespace, metadata.name);
            let labels = format!("container=\"\",id=\"{}\",image=\"\",name=\"\",{of_pod}", attributes.id);
            usage(&mut families, &labels, linux.cpu.as_ref(), linux.memory.as_ref());
            let interfaces =
                linux.network.iter().flat_map(|network| network.default_interface.iter().chain(&network.interfaces));
            for interface in interfaces {
                let labels = format!("{labels},interface=\"{}\"", interface.name);
                for (name, value) in [
                    ("container_network_receive_bytes_total", &interface.rx_bytes),
                    ("container_network_receive_errors_total", &interface.rx_errors),
                    ("container_network_transmit_bytes_total", &interface.tx_bytes),
                    ("container_network_transmit_errors_total", &interface.tx_errors),
                ] {
                    let value = value.as_ref().map(|value| value.value as f64);
                    families.add(name, "Cumulative network traffic of the", "counter", &labels, value);
                }
            }
            let processes = linux.process.as_ref().and_then(|process| process.process_count);
            let processes = processes.map(|count| count.value as f64);
            families.add("container_processes", "Number of processes running inside the", "gauge", &labels, processes);
            for container in &linux.containers {
                let attributes = container.attributes.clone().unwrap_or_default();
                let name = attributes.metadata.unwrap_or_default().name;
                let labels = format!("container=\"{name}\",id=\"{0}\",image=\"\",name=\"{0}\",{of_pod}", attributes.id);
                usage(&mut families, &labels, container.cpu.as_ref(), container.memory.as_ref());
                let layer = container.writable_layer.as_ref().and_then(|layer| layer.used_bytes);
                let layer = layer.map(|used| used.value as f64);
                families.add("container_fs_usage_bytes", "Bytes on disk used by the", "gauge", &labels, layer);
            }
        }
        let machine = self.kubelet.machine_memory as f64;
        families.add("machine_memory_bytes", "Amount of memory installed on the", "gauge", "", Some(machine));
        Ok(families.text())
    }
}

fn usage(families: &mut Families, labels: &str, cpu: Option<&cri::CpuUsage>, memory: Option<&cri::MemoryUsage>) {
    let bytes = |value: Option<cri::UInt64Value>| value.map(|value| value.value as f64);
    let cpu_help = "Cumulative cpu time consumed in seconds by the";
    families.add("container_cpu_usage_seconds_total", cpu_help, "counter", labels, seconds(cpu));
    let Some(memory) = memory else { return };
    for (name, help, value) in [
        ("container_memory_working_set_bytes", "Current working set of the", memory.working_set_bytes),
        ("container_memory_usage_bytes", "Current memory usage of the", memory.usage_bytes),
        ("container_memory_rss", "Size of RSS of the", memory.rss_bytes),
    ] {
        families.add(name, help, "gauge", labels, bytes(value));
    }
    let faults = bytes(memory.page_faults);
    families.add(
        "container_memory_failures_total",
        "Cumulative memory allocation failures of the",
        "counter",
        labels,
        faults,
    );
}

fn seconds(usage: Option<&cri::CpuUsage>) -> Option<f64> {
    usage.and_then(|usage| usage.usage_core_nano_seconds.as_ref()).map(|value| value.value as f64 / 1e9)
}

fn working_set(usage: Option<&cri::MemoryUsage>) -> Option<f64> {
    usage.and_then(|usage| usage.working_set_bytes.as_ref()).map(|value| value.value as f64)
}

/// Metrics by name, each family written once.
#[derive(Default)]
struct Families(BTreeMap<&'static str, (String, Vec<String>)>);

impl Families {
    /// Adds a value, if there is one. `help` goes on with what the name begins with: container, pod, node.
    fn add(&mut self, name: &'static str, help: &str, kind: &str, labels: &str, value: Option<f64>) {
        let Some(value) = value else { return };
        let subject = name.split('_').next().unwrap_or_default();
        let head = || (format!("# HELP {name} {help} {subject}\n# TYPE {name} {kind}\n"), Vec::new());
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        self.0.entry(name).or_insert_with(head).1.push(format!("{name}{labels} {value}\n"));
    }

    fn text(self) -> String {
        self.0.into_values().map(|(head, rows)| head + &rows.concat()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_once_whatever_the_order_of_their_values() {
        let mut families = Families::default();
        families.add("pod_b", "Help of the", "gauge", "pod=\"x\"", Some(1.5));
        families.add("node_a", "Help of the", "counter", "", Some(2.0));
        families.add("pod_b", "Help of the", "gauge", "pod=\"y\"", Some(3.0));
        families.add("pod_c", "Help of the", "gauge", "", None);
        assert_eq!(
            families.text(),
            "# HELP node_a Help of the node\n# TYPE node_a counter\nnode_a 2\n# HELP pod_b Help of the pod\n\
             # TYPE pod_b gauge\npod_b{pod=\"x\"} 1.5\npod_b{pod=\"y\"} 3\n"
        );
    }
}
