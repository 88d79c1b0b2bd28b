//! Label selectors on typed objects, and which pods a pod affinity term means.
use crate::framework::Cycle;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::PodAffinityTerm;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// Whether `selector` selects `labels`; an operator that does not exist selects nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let exact = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    exact
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = value(&requirement.key);
            let listed = || value.is_some_and(|value| requirement.values.iter().flatten().any(|v| v == value));
            match requirement.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether `term` of `owner` means `other`: namespace and labels (the topology is the caller's business).
pub fn means(cycle: &Cycle<'_>, owner: &PodInfo, term: &PodAffinityTerm, other: &PodInfo) -> bool {
    in_namespace(cycle, owner, term, other.namespace())
        && term.label_selector.as_ref().is_some_and(|selector| selects(selector, other.labels()))
        && term.match_label_keys.iter().flatten().all(|key| same_label(owner, other, key) != Some(false))
        && term.mismatch_label_keys.iter().flatten().all(|key| same_label(owner, other, key) != Some(true))
}

/// Whether both pods have the same value of a label that `owner` has.
fn same_label(owner: &PodInfo, other: &PodInfo, key: &str) -> Option<bool> {
    let value = owner.labels()?.get(key)?;
    Some(other.labels().and_then(|labels| labels.get(key)) == Some(value))
}

fn in_namespace(cycle: &Cycle<'_>, owner: &PodInfo, term: &PodAffinityTerm, namespace: &str) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or_default();
    if listed.is_empty() && term.namespace_selector.is_none() {
        return namespace == owner.namespace();
    }
    listed.iter().any(|name| name == namespace)
        || term.namespace_selector.as_ref().is_some_and(|selector| {
            let labels = cycle.namespaces.get("", namespace);
            labels.is_some_and(|namespace| selects(selector, namespace.metadata.labels.as_ref()))
        })
}
