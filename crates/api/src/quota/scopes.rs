//! Which objects a quota's scopes choose.
use crate::resource_list::list;
use serde_json::Value;

/// One scope of a quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    name: &'a str,
    operator: &'a str,
    values: &'a [Value],
}

/// The scopes of a quota's spec: `scopes` (which must exist) and `scopeSelector`.
pub(super) fn of_spec(spec: &Value) -> impl Iterator<Item = Scope<'_>> {
    let plain = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let plain = plain.map(|name| Scope { name, operator: "Exists", values: &[] });
    let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    plain.chain(selected.map(|requirement| Scope {
        name: requirement["scopeName"].as_str().unwrap_or_default(),
        operator: requirement["operator"].as_str().unwrap_or_default(),
        values: requirement["values"].as_array().map_or(&[], Vec::as_slice),
    }))
}

impl Scope<'_> {
    pub(super) fn matches_pod(&self, pod: &Value) -> bool {
        match self.name {
            "Terminating" => is_terminating(pod),
            "NotTerminating" => !is_terminating(pod),
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => self.chooses(pod["spec"]["priorityClassName"].as_str().filter(|name| !name.is_empty())),
            "CrossNamespacePodAffinity" => crosses_namespaces(&pod["spec"]["affinity"]),
            _ => false,
        }
    }

    pub(super) fn matches_claim(&self, claim: &Value) -> bool {
        let names = [
            &claim["spec"]["volumeAttributesClassName"],
            &claim["status"]["currentVolumeAttributesClassName"],
            &claim["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
        ];
        let mut names = names.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).peekable();
        match self.name {
            "VolumeAttributesClass" if names.peek().is_none() => self.chooses(None),
            "VolumeAttributesClass" => names.any(|name| self.chooses(Some(name))),
            _ => false,
        }
    }

    fn chooses(&self, value: Option<&str>) -> bool {
        let listed = || self.values.iter().any(|listed| listed.as_str() == value);
        match self.operator {
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "In" => value.is_some() && listed(),
            "NotIn" => value.is_none() || !listed(),
            _ => false,
        }
    }
}

fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod["status"]["qosClass"].as_str().filter(|class| !class.is_empty()) {
        return class == "BestEffort";
    }
    let spec = &pod["spec"];
    let containers = ["containers", "initContainers"].into_iter();
    let containers = containers.flat_map(|key| spec[key].as_array().into_iter().flatten());
    let asks = |resources: &Value| {
        let held = ["requests", "limits"].into_iter().flat_map(|field| list(resources, field));
        held.into_iter().any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && !amount.is_zero())
    };
    !asks(&spec["resources"]) && !containers.into_iter().any(|container| asks(&container["resources"]))
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|list| !list.is_empty()) || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let terms = |field: &str| affinity[kind][field].as_array().into_iter().flatten();
        terms("requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution").any(|term| crosses(&term["podAffinityTerm"]))
    })
}
