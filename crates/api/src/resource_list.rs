//! Resource lists: sums over a pod's containers, for limits and quotas. Start at [`of_pod`].
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// Quantities by resource name.
pub type List = BTreeMap<String, Quantity>;

/// The list in a field of `resources`; what is not a quantity is left out (validation refuses it).
pub fn list(holder: &Value, field: &str) -> List {
    let entries = holder.get(field).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?))).collect()
}

/// Adds `other` to `total`.
pub fn add(total: &mut List, other: &List) {
    for (name, quantity) in other {
        *total.entry(name.clone()).or_default() += *quantity;
    }
}

/// Raises every quantity in `total` to that in `other` if that is more.
pub fn raise(total: &mut List, other: &List) {
    for (name, quantity) in other {
        let held = total.entry(name.clone()).or_insert(*quantity);
        *held = (*held).max(*quantity);
    }
}

/// A pod's `requests` or `limits`: the sum over containers and sidecars, or what the init containers need at their time if
/// that is more, or what is set for the whole pod. Overhead is not counted.
// upstream: component-helpers resource, PodRequests and PodLimits
pub fn of_pod(spec: &Value, field: &str) -> List {
    of_containers(spec, field, |container| list(&container["resources"], field))
}

/// As [`of_pod`], with a container's list from `of`.
pub(crate) fn of_containers(spec: &Value, field: &str, of: impl Fn(&Value) -> List) -> List {
    let containers = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    let mut total = List::new();
    for container in containers("containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut initial) = (List::new(), List::new());
    for container in containers("initContainers") {
        let mut needed = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut initial, &needed);
    }
    raise(&mut total, &initial);
    for (name, quantity) in list(&spec["resources"], field) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            total.insert(name, quantity);
        }
    }
    total
}
