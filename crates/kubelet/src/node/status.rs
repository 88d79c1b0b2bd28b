//! The Node's labels and status as pure functions of configuration and machine.
use super::machine::{Disk, Machine};
use crate::config::Config;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The version this kubelet reports.
const VERSION: &str = "v1.36.3";
/// Memory below which pods are evicted (upstream's default `memory.available<100Mi`).
pub const MEMORY_RESERVE: i64 = 100 << 20;

/// Memory that pods may use in bytes.
pub fn allocatable_memory(machine: &Machine) -> i64 {
    (machine.memory - MEMORY_RESERVE).max(0)
}

/// Disk that pods may use in bytes (upstream's default keeps 10% free).
pub fn allocatable_storage(machine: &Machine) -> i64 {
    machine.disk.total / 10 * 9
}

/// `amd64`, `arm64`, …
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The Node's labels.
pub fn labels(config: &Config) -> BTreeMap<String, String> {
    let standard = [
        ("beta.kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", config.node_name.as_str()),
    ];
    let mut labels = config.node_labels.clone();
    labels.extend(standard.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// What the node's conditions tell.
pub struct Health<'a> {
    /// What keeps the runtime from running pods.
    pub problems: &'a [String],
    /// Memory is short.
    pub memory_pressure: bool,
    /// Disk is short.
    pub disk_pressure: bool,
    /// What the runtime can do.
    pub features: Option<NodeFeatures>,
    /// Its handlers, and what each can do.
    pub handlers: Option<Vec<NodeRuntimeHandler>>,
}

/// The status of the node.
pub fn generate(
    config: &Config,
    machine: &Machine,
    runtime_version: &str,
    health: &Health<'_>,
    known: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let quantity = |value: String| Quantity(value);
    let kibi = |bytes: i64| quantity(format!("{}Ki", bytes / 1024));
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), quantity(machine.cpus.to_string())),
        ("memory".to_owned(), kibi(machine.memory)),
        ("ephemeral-storage".to_owned(), kibi(machine.disk.total)),
        ("pods".to_owned(), quantity(config.max_pods.to_string())),
    ]);
    for (size, bytes) in &machine.huge_pages {
        let text = if *bytes == 0 { "0".to_owned() } else { format!("{}Mi", bytes >> 20) };
        capacity.insert(format!("hugepages-{size}"), quantity(text));
    }
    let mut allocatable = capacity.clone();
    allocatable.insert("memory".to_owned(), kibi(allocatable_memory(machine)));
    allocatable.insert("ephemeral-storage".to_owned(), quantity(allocatable_storage(machine).to_string()));
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let ips = config.node_ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    let mut status = NodeStatus {
        addresses: Some(ips.chain([address("Hostname", config.node_name.clone())]).collect()),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        daemon_endpoints: config.server.as_ref().map(|server| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(server.address.port()) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().into(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: runtime_version.to_owned(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    status.conditions = Some(conditions(health, known, now));
    status.features.clone_from(&health.features);
    status.runtime_handlers.clone_from(&health.handlers);
    status
}

fn conditions(health: &Health<'_>, known: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let (problems, memory, disk) = (health.problems, health.memory_pressure, health.disk_pressure);
    let pressure = |bad: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        let (reason, message) = if bad { yes } else { no };
        (if bad { "True" } else { "False" }, reason, message.to_owned())
    };
    let ready = if problems.is_empty() {
        ("True", "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("False", "KubeletNotReady", format!("[{}]", problems.join(", ")).trim_matches(['[', ']']).to_owned())
    };
    let all = [
        (
            "MemoryPressure",
            pressure(
                memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            pressure(
                disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            pressure(
                false,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
        ),
        ("Ready", ready),
    ];
    let now = crate::status::seconds(now);
    all.into_iter()
        .map(|(type_, (status, reason, message))| {
            let old = known.iter().flat_map(|known| known.conditions.iter().flatten()).find(|one| one.type_ == type_);
            let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: since.or(Some(Time(now))),
            }
        })
        .collect()
}

/// Space below which a disk is under pressure, in bytes; a large disk is not full when a tenth of it is left.
const DISK_RESERVE: i64 = 2 << 30;

/// Whether so little memory is available, in bytes, that pods must leave.
pub fn memory_pressure(available: i64) -> bool {
    available < MEMORY_RESERVE
}

/// Less than 10% of the space (at most 2 GiB), or less than 5% of the inodes.
pub fn disk_pressure(disk: Disk) -> bool {
    let space = (disk.total / 10).min(DISK_RESERVE);
    disk.total > 0 && (disk.free < space || disk.inodes > 0 && disk.inodes_free < disk.inodes / 20)
}

/// Whether a status says something new; heartbeats alone do not.
pub fn differs(known: &NodeStatus, wanted: &NodeStatus) -> bool {
    let without_heartbeat = |status: &NodeStatus| -> Vec<NodeCondition> {
        let mut all = status.conditions.clone().unwrap_or_default();
        all.retain(|one| wanted.conditions.iter().flatten().any(|own| own.type_ == one.type_));
        all.iter_mut().for_each(|one| one.last_heartbeat_time = None);
        all.sort_by(|a, b| a.type_.cmp(&b.type_));
        all
    };
    known.capacity != wanted.capacity
        || known.allocatable != wanted.allocatable
        || known.addresses != wanted.addresses
        || known.images.as_deref().unwrap_or_default() != wanted.images.as_deref().unwrap_or_default()
        || known.node_info.as_ref().map(info_key) != wanted.node_info.as_ref().map(info_key)
        || known.daemon_endpoints != wanted.daemon_endpoints
        || known.features != wanted.features
        || known.runtime_handlers != wanted.runtime_handlers
        || without_heartbeat(known) != without_heartbeat(wanted)
}

fn info_key(info: &NodeSystemInfo) -> (&str, &str, &str) {
    (&info.boot_id, &info.kubelet_version, &info.container_runtime_version)
}

/// The strategic merge patch from the API's status to the wanted one.
pub fn patch(known: &NodeStatus, wanted: &NodeStatus) -> Value {
    let object = |status: &NodeStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (known, wanted) = (object(known), object(wanted));
    let mut patch = Map::new();
    for (field, value) in wanted {
        if known.get(&field) == Some(&value) {
            continue;
        }
        if field == "addresses" {
            // Two addresses may share a type, the merge key: the list is replaced as a whole.
            let all = value.as_array().cloned().unwrap_or_default();
            let replace = serde_json::json!({"$patch": "replace"});
            patch.insert(field, Value::Array(all.into_iter().chain([replace]).collect()));
        } else {
            patch.insert(field, value);
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_under_pressure_when_little_is_left() {
        let disk = |total: i64, free: i64| Disk { total: total << 30, free: free << 30, inodes: 0, inodes_free: 0 };
        assert!(!disk_pressure(disk(250, 12)));
        assert!(disk_pressure(disk(250, 1)));
        assert!(!disk_pressure(disk(10, 1)));
        assert!(disk_pressure(Disk { inodes: 100, inodes_free: 4, ..disk(10, 5) }));
    }
}
