//! The rows of the kinds of the smaller groups.
use jiff::SignedDuration;
use serde_json::Value;

use super::{
    Printed,
    core::load_balancer,
    get, human_duration, list, str_of,
    text::{joined, plain, selector, up_to_three},
};
use crate::{meta::ObjectExt, scheme::GroupResource};

pub(super) fn pod_disruption_budget(p: &Printed<'_>) -> Vec<Value> {
    let text = |path: &str| Some(plain(p.get(path))).filter(|s| !s.is_empty()).unwrap_or_else(|| "N/A".into());
    let (min, max) = (text("spec.minAvailable"), text("spec.maxUnavailable"));
    vec![p.name(), min.into(), max.into(), p.int("status.disruptionsAllowed").into(), p.age()]
}

pub(super) fn ingress(p: &Printed<'_>) -> Vec<Value> {
    let rules = p.list("spec.rules");
    let mut hosts = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == 3;
        let host = str_of(rule, "host");
        if !more && !host.is_empty() {
            hosts.push(host);
        }
    }
    let text = match hosts.join(",") {
        none if none.is_empty() => "*".to_owned(),
        hosts if more => format!("{hosts} + {} more...", rules.len() - 3),
        hosts => hosts,
    };
    let ports = if p.list("spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        p.name(),
        p.get("spec.ingressClassName").as_str().unwrap_or("<none>").into(),
        text.into(),
        load_balancer(p).into(),
        ports.into(),
        p.age(),
    ]
}

fn name_marked_default(p: &Printed<'_>, annotations: &[&str]) -> Value {
    let default = annotations.iter().any(|a| p.object.annotation(a) == Some("true"));
    if default { format!("{} (default)", p.object.name()).into() } else { p.name() }
}

pub(super) fn ingress_class(p: &Printed<'_>) -> Vec<Value> {
    let parameters = p.get("spec.parameters");
    let text = if parameters.is_object() {
        let (kind, name) = (str_of(parameters, "kind"), str_of(parameters, "name"));
        match get(parameters, "apiGroup").as_str() {
            Some(group) => format!("{kind}.{group}/{name}"),
            None => format!("{kind}/{name}"),
        }
    } else {
        "<none>".into()
    };
    let name = name_marked_default(p, &["ingressclass.kubernetes.io/is-default-class"]);
    vec![name, p.text("spec.controller").into(), text.into(), p.age()]
}

pub(super) fn network_policy(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), selector(p.get("spec.podSelector")).into(), p.age()]
}

pub(super) fn service_cidr(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), joined(p.list("spec.cidrs")).into(), p.age()]
}

pub(super) fn ip_address(p: &Printed<'_>) -> Vec<Value> {
    let parent = p.get("spec.parentRef");
    let text = if parent.is_object() {
        let (group, resource) = (str_of(parent, "group"), str_of(parent, "resource"));
        let mut text = GroupResource { group, resource }.to_string().to_lowercase();
        for part in [str_of(parent, "namespace"), str_of(parent, "name")] {
            if !part.is_empty() {
                text = format!("{text}/{part}");
            }
        }
        text
    } else {
        "<none>".into()
    };
    vec![p.name(), text.into()]
}

pub(super) fn endpoint_slice(p: &Printed<'_>) -> Vec<Value> {
    let port = |port: &Value| match (get(port, "port").as_i64(), get(port, "name").as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".into(),
    };
    let ports: Vec<String> = p.list("ports").iter().map(port).collect();
    let addresses = p.list("endpoints").iter().flat_map(|e| list(e, "addresses"));
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    let or_unset = |items: &[String]| match up_to_three(items) {
        none if none.is_empty() => "<unset>".to_owned(),
        some => some,
    };
    vec![p.name(), p.text("addressType").into(), or_unset(&ports).into(), or_unset(&addresses).into(), p.age()]
}

pub(super) fn role_binding(p: &Printed<'_>) -> Vec<Value> {
    let role = format!("{}/{}", p.text("roleRef.kind"), p.text("roleRef.name"));
    let of_kind = |kind: &str| {
        let subjects = p.list("subjects").iter().filter(|s| s["kind"] == kind);
        let names = subjects.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", str_of(s, "namespace"), str_of(s, "name")),
            _ => str_of(s, "name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![p.name(), role.into(), p.age(), of_kind("User"), of_kind("Group"), of_kind("ServiceAccount")]
}

pub(super) fn certificate_signing_request(p: &Printed<'_>) -> Vec<Value> {
    let has = |type_: &str| p.list("status.conditions").iter().any(|c| c["type"] == type_);
    let mut status = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !p.text("status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    let seconds = p.get("spec.expirationSeconds").as_i64();
    let duration = seconds.map_or_else(|| "<none>".into(), |s| human_duration(SignedDuration::from_secs(s)));
    vec![
        p.name(),
        p.age(),
        p.text_or("spec.signerName", "<none>").into(),
        p.text("spec.username").into(),
        duration.into(),
        status.into(),
    ]
}

pub(super) fn lease(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.text("spec.holderIdentity").into(), p.age()]
}

pub(super) fn storage_class(p: &Printed<'_>) -> Vec<Value> {
    const DEFAULT: [&str; 2] =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    vec![
        name_marked_default(p, &DEFAULT),
        p.text("provisioner").into(),
        p.text_or("reclaimPolicy", "Delete").into(),
        p.text_or("volumeBindingMode", "Immediate").into(),
        p.flag("allowVolumeExpansion").into(),
        p.age(),
    ]
}

pub(super) fn volume_attributes_class(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.text("driverName").into(), p.age()]
}

pub(super) fn volume_attachment(p: &Printed<'_>) -> Vec<Value> {
    vec![
        p.name(),
        p.text("spec.attacher").into(),
        p.text("spec.source.persistentVolumeName").into(),
        p.text("spec.nodeName").into(),
        p.flag("status.attached").into(),
        p.age(),
    ]
}

pub(super) fn csi_node(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.list("spec.drivers").len().into(), p.age()]
}

pub(super) fn csi_driver(p: &Printed<'_>) -> Vec<Value> {
    let requests = p.get("spec.tokenRequests").as_array();
    let audiences = |list: &Vec<Value>| list.iter().map(|r| str_of(r, "audience")).collect::<Vec<_>>().join(",");
    let modes = joined(p.list("spec.volumeLifecycleModes"));
    vec![
        p.name(),
        p.get("spec.attachRequired").as_bool().unwrap_or(true).into(),
        p.flag("spec.podInfoOnMount").into(),
        p.flag("spec.storageCapacity").into(),
        requests.map_or_else(|| "<unset>".into(), audiences).into(),
        p.flag("spec.requiresRepublish").into(),
        if modes.is_empty() { "<none>".into() } else { modes.into() },
        p.age(),
    ]
}

pub(super) fn webhook_configuration(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.list("webhooks").len().into(), p.age()]
}

fn admission_policy(p: &Printed<'_>, rules: &str) -> Vec<Value> {
    let kind = p.get("spec.paramKind");
    let text = if kind.is_object() {
        format!("{}/{}", str_of(kind, "apiVersion"), str_of(kind, "kind"))
    } else {
        "<unset>".into()
    };
    vec![p.name(), p.list(rules).len().into(), text.into(), p.age()]
}

pub(super) fn validating_admission_policy(p: &Printed<'_>) -> Vec<Value> {
    admission_policy(p, "spec.validations")
}

pub(super) fn mutating_admission_policy(p: &Printed<'_>) -> Vec<Value> {
    admission_policy(p, "spec.mutations")
}

pub(super) fn admission_policy_binding(p: &Printed<'_>) -> Vec<Value> {
    let reference = p.get("spec.paramRef");
    let (namespace, name) = (str_of(reference, "namespace"), str_of(reference, "name"));
    let text = match () {
        () if !reference.is_object() => "<unset>".to_owned(),
        () if !name.is_empty() && !namespace.is_empty() => format!("{namespace}/{name}"),
        () if !name.is_empty() => format!("*/{name}"),
        () => selector(get(reference, "selector")),
    };
    vec![p.name(), p.text("spec.policyName").into(), text.into(), p.age()]
}

pub(super) fn priority_class(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.int("value").into(), p.flag("globalDefault").into(), p.age(), p.text("preemptionPolicy").into()]
}

pub(super) fn runtime_class(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.text("handler").into(), p.age()]
}

pub(super) fn flow_schema(p: &Printed<'_>) -> Vec<Value> {
    let dangling = p.list("status.conditions").iter().find(|c| c["type"] == "Dangling");
    vec![
        p.name(),
        p.text("spec.priorityLevelConfiguration.name").into(),
        p.int("spec.matchingPrecedence").into(),
        p.text_or("spec.distinguisherMethod.type", "<none>").into(),
        p.age(),
        dangling.map_or("?", |c| str_of(c, "status")).into(),
    ]
}

pub(super) fn priority_level_configuration(p: &Printed<'_>) -> Vec<Value> {
    let number = |path: &str| match p.get(path) {
        Value::Null => "<none>".into(),
        n => n.clone(),
    };
    vec![
        p.name(),
        p.text("spec.type").into(),
        number("spec.limited.nominalConcurrencyShares"),
        number("spec.limited.limitResponse.queuing.queues"),
        number("spec.limited.limitResponse.queuing.handSize"),
        number("spec.limited.limitResponse.queuing.queueLengthLimit"),
        p.age(),
    ]
}

pub(super) fn resource_claim(p: &Printed<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if p.deleted() {
        states.push("deleted");
    }
    if p.get("status.allocation").is_object() {
        states.push("allocated");
        if !p.list("status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !p.deleted() {
        states.push("pending");
    }
    vec![p.name(), states.join(",").into(), p.age()]
}

pub(super) fn resource_slice(p: &Printed<'_>) -> Vec<Value> {
    vec![
        p.name(),
        p.text("spec.nodeName").into(),
        p.text("spec.driver").into(),
        p.text("spec.pool.name").into(),
        p.age(),
    ]
}

pub(super) fn horizontal_pod_autoscaler(p: &Printed<'_>) -> Vec<Value> {
    let reference = format!("{}/{}", p.text("spec.scaleTargetRef.kind"), p.text("spec.scaleTargetRef.name"));
    let current = p.list("status.currentMetrics");
    let metrics: Vec<String> = p
        .list("spec.metrics")
        .iter()
        .enumerate()
        .map(|(i, spec)| metric(spec, current.get(i).unwrap_or(&Value::Null)))
        .collect();
    let targets = match metrics.len() {
        0 => "<none>".into(),
        n if n > 2 => format!("{} + {} more...", metrics[..2].join(", "), n - 2),
        _ => metrics.join(", "),
    };
    let min = p.get("spec.minReplicas").as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        p.name(),
        reference.into(),
        targets.into(),
        min.into(),
        p.int("spec.maxReplicas").into(),
        p.int("status.currentReplicas").into(),
        p.age(),
    ]
}

/// One metric as `current/target`.
fn metric(spec: &Value, status: &Value) -> String {
    let source = match str_of(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let (spec, status) = (get(spec, source), get(status, source));
    let quantity = |value: &Value, path: &str| Some(plain(get(value, path))).filter(|s| !s.is_empty());
    let unknown = || "<unknown>".to_owned();
    let average = quantity(spec, "target.averageValue");
    let current_average = || quantity(status, "current.averageValue").unwrap_or_else(unknown);
    match (source, average) {
        ("pods", average) => format!("{}/{}", current_average(), average.unwrap_or_else(|| "0".into())),
        ("external" | "object", Some(average)) => format!("{}/{average} (avg)", current_average()),
        ("external" | "object", None) => {
            let current = quantity(status, "current.value").unwrap_or_else(unknown);
            format!("{current}/{}", quantity(spec, "target.value").unwrap_or_else(|| "0".into()))
        }
        (_, Some(average)) => format!("{}: {}/{average}", str_of(spec, "name"), current_average()),
        (_, None) => {
            let percent = |value: &Value, path: &str| get(value, path).as_i64().map(|n| format!("{n}%"));
            let current = percent(status, "current.averageUtilization").unwrap_or_else(unknown);
            let target = percent(spec, "target.averageUtilization").unwrap_or_else(|| "<auto>".into());
            format!("{}: {current}/{target}", str_of(spec, "name"))
        }
    }
}

pub(super) fn api_service(p: &Printed<'_>) -> Vec<Value> {
    let service = p.get("spec.service");
    let text = if service.is_object() {
        format!("{}/{}", str_of(service, "namespace"), str_of(service, "name"))
    } else {
        "Local".into()
    };
    let condition = p.list("status.conditions").iter().find(|c| c["type"] == "Available");
    let status = condition.map_or("Unknown", |c| str_of(c, "status"));
    let reason = condition.map_or("", |c| str_of(c, "reason"));
    let available = if status == "True" { status.to_owned() } else { format!("{status} ({reason})") };
    vec![p.name(), text.into(), available.into(), p.age()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(print: fn(&Printed<'_>) -> Vec<Value>, object: &Value) -> Vec<Value> {
        print(&Printed { object, now: "2024-01-01T00:10:00Z".parse().unwrap() })
    }

    #[test]
    fn metrics_show_current_and_target() {
        let object = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"},
            "maxReplicas": 5, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}},
                {"type": "Pods", "pods": {"target": {"averageValue": "10"}}},
                {"type": "Pods", "pods": {"target": {"averageValue": "10"}}}]}});
        let row = cells(horizontal_pod_autoscaler, &object);
        assert_eq!(
            row[1..5],
            [json!("Deployment/d"), json!("cpu: <unknown>/50%, <unknown>/10 + 1 more..."), json!("<unset>"), json!(5)]
        );
    }

    #[test]
    fn default_classes_are_marked() {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        let object = json!({"metadata": {"name": "s", "annotations": annotations}, "provisioner": "p"});
        let wanted = json!(["s (default)", "p", "Delete", "Immediate", false, "<unknown>"]);
        assert_eq!(Value::from(cells(storage_class, &object)), wanted);
    }

    #[test]
    fn bindings_show_role_and_subjects() {
        let object = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [
            {"kind": "ServiceAccount", "namespace": "n", "name": "s"}, {"kind": "User", "name": "u"}]});
        let wanted = json!(["b", "ClusterRole/view", "<unknown>", "u", "", "n/s"]);
        assert_eq!(Value::from(cells(role_binding, &object)), wanted);
    }

    #[test]
    fn slices_show_ports_and_addresses() {
        let object = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}, {}],
            "endpoints": [{"addresses": ["10.0.0.1"]}]});
        let wanted = json!(["e", "IPv4", "80,*", "10.0.0.1", "<unknown>"]);
        assert_eq!(Value::from(cells(endpoint_slice, &object)), wanted);
        assert_eq!(cells(endpoint_slice, &json!({}))[2..4], [json!("<unset>"), json!("<unset>")]);
    }
}
