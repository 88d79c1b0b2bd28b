//! The downward API: fields of the pod and resources of a container as text.
// upstream: pkg/kubelet, podFieldSelectorRuntimeValue; pkg/api/v1/resource, ExtractContainerResourceValue
use crate::pods::PodExt;
use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

/// What field and resource references need to know about the node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its addresses.
    pub host_ips: Vec<String>,
    /// Allocatable CPU in milliCPU: the limit of a container that has none.
    pub milli_cpu: i64,
    /// Allocatable memory in bytes.
    pub memory: i64,
    /// Allocatable ephemeral storage in bytes.
    pub ephemeral_storage: i64,
}

/// A reference that cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The field path is not one the downward API offers.
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    /// The resource is not one the downward API offers.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// The container does not exist in the pod.
    #[error("container {0} not found")]
    NoContainer(String),
}

/// The text of a field of `pod`.
pub fn field(pod: &Pod, path: &str, pod_ips: &[String], node: &NodeFacts) -> Result<String, Error> {
    if let Some((map, key)) = path.split_once("['").and_then(|(map, rest)| Some((map, rest.strip_suffix("']")?))) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(Error::FieldPath(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => {
            pod.pod_spec().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => node.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => node.host_ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => return Err(Error::FieldPath(path.to_owned())),
    };
    Ok(text)
}

/// Labels or annotations, one `key="value"` a line, sorted.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect::<Vec<_>>().join("\n")
}

/// A string as Go's `strconv.Quote` writes it.
fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() && (c as u32) < 0x100 => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The text of a resource of `container`, or of the one the selector names.
pub fn resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Result<String, Error> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => pod.container_spec(name).ok_or_else(|| Error::NoContainer(name.to_owned()))?,
        None => container.clone(),
    };
    let (list, name) = selector.resource.split_once('.').unwrap_or_default();
    let resources = container.resources.unwrap_or_default();
    let (list, limits) = match list {
        "limits" => (resources.limits, true),
        "requests" => (resources.requests, false),
        _ => return Err(Error::Resource(selector.resource.clone())),
    };
    let given = list.as_ref().and_then(|list| list.get(name));
    let divisor = selector.divisor.as_ref().map(|divisor| divisor.0.as_str()).filter(|text| !text.is_empty());
    let divisor_milli = divisor.and_then(quantity::milli).filter(|milli| *milli > 0).unwrap_or(1000);
    let milli = match (name, given) {
        ("cpu" | "memory" | "ephemeral-storage", Some(quantity)) => quantity::milli(&quantity.0).unwrap_or(0),
        ("cpu", None) if limits => i128::from(node.milli_cpu),
        ("memory", None) if limits => i128::from(node.memory) * 1000,
        ("ephemeral-storage", None) if limits => i128::from(node.ephemeral_storage) * 1000,
        ("cpu" | "memory" | "ephemeral-storage", None) => 0,
        (other, given) if other.starts_with("hugepages-") => {
            given.and_then(|quantity| quantity::milli(&quantity.0)).unwrap_or(0)
        }
        _ => return Err(Error::Resource(selector.resource.clone())),
    };
    Ok(div_up(milli, divisor_milli).to_string())
}

fn div_up(value: i128, divisor: i128) -> i128 {
    (value + divisor - 1).div_euclid(divisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources_are_text() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"b": "2", "a": "x\"y"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}}))
        .unwrap();
        let node = NodeFacts { milli_cpu: 2000, memory: 1 << 30, ..Default::default() };
        assert_eq!(field(&pod, "metadata.labels", &[], &node).unwrap(), "a=\"x\\\"y\"\nb=\"2\"");
        assert_eq!(field(&pod, "metadata.labels['b']", &[], &node).unwrap(), "2");
        let get = |resource: &str, divisor: Option<&str>| {
            let selector = serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            super::resource(&pod, &pod.containers()[0], &selector, &node).unwrap()
        };
        assert_eq!(get("limits.cpu", None), "2");
        assert_eq!(get("limits.cpu", Some("1m")), "1500");
        assert_eq!(get("limits.memory", Some("1Mi")), "64");
        assert_eq!(get("requests.cpu", None), "0");
        assert_eq!(get("limits.ephemeral-storage", None), "0");
    }
}
