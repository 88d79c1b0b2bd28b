//! What a whole pod asks for: its containers' requests and limits, summed as the scheduler sums them.
// upstream: component-helpers/resource, PodRequests and PodLimits
use crate::pods::{PodExt, is_sidecar};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use pintle_api::quantity::Quantity;
use std::collections::BTreeMap;

/// Amounts by the resource's name.
pub type Amounts = BTreeMap<String, Quantity>;

type List = BTreeMap<String, Text>;

/// What the pod requests, its overhead included.
pub fn requests(pod: &Pod) -> Amounts {
    let mut all = sum(pod, |resources| resources.requests.as_ref());
    let spec = pod.pod_spec();
    set_pod_level(&mut all, spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()));
    add(&mut all, &parse(spec.and_then(|spec| spec.overhead.as_ref())));
    all
}

/// What the pod may use at most, for the resources that have limits.
pub fn limits(pod: &Pod) -> Amounts {
    let mut all = sum(pod, |resources| resources.limits.as_ref());
    let spec = pod.pod_spec();
    set_pod_level(&mut all, spec.and_then(|spec| spec.resources.as_ref()?.limits.as_ref()));
    for (name, extra) in parse(spec.and_then(|spec| spec.overhead.as_ref())) {
        if let Some(limit) = all.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit += extra;
        }
    }
    all
}

/// Amounts as the API writes them; none when there are none.
pub fn to_list(amounts: Amounts) -> Option<List> {
    (!amounts.is_empty()).then(|| amounts.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect())
}

fn parse(list: Option<&List>) -> Amounts {
    let known = |(name, text): (&String, &Text)| Some((name.clone(), Quantity::parse(&text.0).ok()?));
    list.into_iter().flatten().filter_map(known).collect()
}

fn add(to: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        match to.get_mut(name) {
            Some(sum) => *sum += *amount,
            None => {
                to.insert(name.clone(), *amount);
            }
        }
    }
}

fn raise(to: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let known = to.entry(name.clone()).or_insert(*amount);
        *known = (*known).max(*amount);
    }
}

fn sum(pod: &Pod, of: impl Fn(&ResourceRequirements) -> Option<&List>) -> Amounts {
    let amounts = |container: &Container| parse(container.resources.as_ref().and_then(&of));
    let mut total = Amounts::new();
    pod.containers().iter().for_each(|container| add(&mut total, &amounts(container)));
    // Sidecars run beside everything after them; other init containers run alone.
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in pod.init_containers() {
        let own = amounts(container);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut now = own;
            add(&mut now, &sidecars);
            raise(&mut peak, &now);
        }
    }
    raise(&mut total, &peak);
    total
}

/// Pod-level amounts take the place of the containers' sum.
fn set_pod_level(all: &mut Amounts, own: Option<&List>) {
    let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    all.extend(parse(own).into_iter().filter(|(name, _)| supported(name)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_raise_the_sum_and_overhead_adds_to_it() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}, "limits": {"cpu": amount}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"cpu": "10m", "memory": "1Mi"},
            "initContainers": [
                {"name": "i", "resources": cpu("1")},
                {"name": "s", "restartPolicy": "Always", "resources": cpu("100m")}],
            "containers": [{"name": "a", "resources": cpu("200m")}, {"name": "b", "resources": cpu("300m")}]}}))
        .unwrap();
        let shown =
            |amounts| to_list(amounts).unwrap().into_iter().map(|(name, text)| (name, text.0)).collect::<Vec<_>>();
        let pair = |name: &str, amount: &str| (name.to_owned(), amount.to_owned());
        assert_eq!(shown(requests(&pod)), [pair("cpu", "1010m"), pair("memory", "1Mi")]);
        assert_eq!(shown(limits(&pod)), [pair("cpu", "1010m")]);
    }
}
