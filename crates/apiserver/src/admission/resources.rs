//! Resource lists: sums over a pod's containers, for limits and quotas.
use crate::value::Read;
use pintle_api::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// Quantities by resource name.
pub(super) type List = BTreeMap<String, Quantity>;

/// The list in a field of `resources`; what is not a quantity is left out (validation refuses it).
pub(super) fn list(holder: &Value, field: &str) -> List {
    let parsed = |(name, value): (&str, &Value)| Some((name.to_owned(), Quantity::from_value(value).ok()?));
    holder.entries(field).filter_map(parsed).collect()
}

fn add(total: &mut List, other: &List) {
    for (name, quantity) in other {
        *total.entry(name.clone()).or_default() += *quantity;
    }
}

fn raise(total: &mut List, other: &List) {
    for (name, quantity) in other {
        let held = total.entry(name.clone()).or_insert(*quantity);
        *held = (*held).max(*quantity);
    }
}

/// A pod's `requests` or `limits`: the sum over containers and sidecars, or what the init containers need at their time if
/// that is more, or what is set for the whole pod. Overhead is not counted.
// upstream: component-helpers resource, PodRequests and PodLimits
pub(super) fn of_pod(spec: &Value, field: &str) -> List {
    let mut total = List::new();
    for container in spec.items("containers") {
        add(&mut total, &list(container.field("resources"), field));
    }
    let (mut sidecars, mut initial) = (List::new(), List::new());
    for container in spec.items("initContainers") {
        let mut needed = list(container.field("resources"), field);
        if container.text("restartPolicy") == "Always" {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut initial, &needed);
    }
    raise(&mut total, &initial);
    for (name, quantity) in list(spec.field("resources"), field) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            total.insert(name, quantity);
        }
    }
    total
}
