//! What a pod counts.
use super::one;
use crate::resource_list::{List, add, list, of_containers, raise};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeSet;

/// Resources that a quota names as they are.
const NAMES: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// Resources that every container must ask for where a quota limits them.
const REQUIRED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Whether pods count towards the resource `name` of a quota.
pub(super) fn counts(name: &str) -> bool {
    let extended = |name: &str| {
        name.strip_prefix("requests.")
            .is_some_and(|resource| !is_native(name) || resource.starts_with("deviceclass.resource.kubernetes.io/"))
    };
    NAMES.contains(&name)
        || name == "count/pods"
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
        || extended(name)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub(super) fn add_usage(used: &mut List, pod: &Value, now: Timestamp) {
    if !is_charged(pod, now) {
        return;
    }
    used.extend(named(&requests(pod), &limits(pod)));
}

/// Whether the pod is neither done nor overdue for deletion.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return false;
    }
    let metadata = &pod["metadata"];
    let deleted = metadata["deletionTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    match (deleted, metadata["deletionGracePeriodSeconds"].as_i64()) {
        (Some(deleted), Some(grace)) => {
            deleted.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|overdue| now <= overdue)
        }
        _ => true,
    }
}

/// The names under which a quota knows requests and limits.
fn named(requests: &List, limits: &List) -> List {
    let mut used = List::from([("pods".to_owned(), one())]);
    for (name, amount) in requests {
        let extended = !is_native(name) || name.starts_with("deviceclass.resource.kubernetes.io/");
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            used.insert(name.clone(), *amount);
            used.insert(format!("requests.{name}"), *amount);
        } else if extended {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    used
}

/// Requests with the pod's overhead; while a resize is under way, the larger of what is wanted and what is in use.
fn requests(pod: &Value) -> List {
    let spec = &pod["spec"];
    let status = |container: &Value| {
        let all = ["containerStatuses", "initContainerStatuses"];
        let all = all.into_iter().flat_map(|key| pod["status"][key].as_array().into_iter().flatten());
        all.into_iter().find(|status| status["name"] == container["name"])
    };
    let mut total = of_containers(spec, "requests", |container| {
        let mut wanted = list(&container["resources"], "requests");
        if let Some(status) = status(container) {
            let mut held = list(&status["resources"], "requests");
            raise(&mut held, &list(status, "allocatedResources"));
            held.retain(|name, _| wanted.contains_key(name));
            raise(&mut wanted, &held);
        }
        wanted
    });
    add(&mut total, &list(spec, "overhead"));
    total
}

/// Limits, with overhead where there is a limit.
fn limits(pod: &Value) -> List {
    let spec = &pod["spec"];
    let mut total = of_containers(spec, "limits", |container| list(&container["resources"], "limits"));
    for (name, amount) in list(spec, "overhead") {
        if let Some(held) = total.get_mut(&name) {
            *held += amount;
        }
    }
    total
}

/// Containers that do not ask for what a quota of `names` charges.
pub(super) fn missing_requests<'n>(names: impl Iterator<Item = &'n str>, pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let whole = |field: &str| list(&spec["resources"], field).keys().any(|name| name == "cpu" || name == "memory");
    if whole("requests") || whole("limits") {
        return None;
    }
    let required: BTreeSet<&str> = names.filter(|name| REQUIRED.contains(name)).collect();
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|key| spec[key].as_array().into_iter().flatten())
        .collect();
    let mut parts = Vec::new();
    for name in required {
        let lacking = containers.iter().filter(|container| {
            let resources = &container["resources"];
            !named(&list(resources, "requests"), &list(resources, "limits")).contains_key(name)
        });
        let lacking: BTreeSet<&str> = lacking.filter_map(|container| container["name"].as_str()).collect();
        if !lacking.is_empty() {
            let lacking: Vec<&str> = lacking.into_iter().collect();
            parts.push(format!("{name} for: {}", lacking.join(",")));
        }
    }
    (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
}
