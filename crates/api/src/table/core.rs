//! The rows of the other kinds of the core group and of workloads.
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Printed, get, human_duration, list, str_of,
    text::{containers, joined, labels, plain, selector, up_to_three},
};
use crate::meta::ObjectExt;

pub(super) fn name_and_creation(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.text("metadata.creationTimestamp").into()]
}

pub(super) fn name_and_age(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.age()]
}

pub(super) fn pod_template(p: &Printed<'_>) -> Vec<Value> {
    let [names, images] = containers(p.get("template.spec"));
    vec![p.name(), names, images, labels(p.get("template.metadata.labels")).into()]
}

fn with_template(p: &Printed<'_>, mut cells: Vec<Value>, pod_spec: &str, last: String) -> Vec<Value> {
    cells.extend(containers(p.get(pod_spec)));
    cells.push(last.into());
    cells
}

pub(super) fn replication_controller(p: &Printed<'_>) -> Vec<Value> {
    with_template(p, replicas(p), "spec.template.spec", labels(p.get("spec.selector")))
}

pub(super) fn replica_set(p: &Printed<'_>) -> Vec<Value> {
    with_template(p, replicas(p), "spec.template.spec", selector(p.get("spec.selector")))
}

fn replicas(p: &Printed<'_>) -> Vec<Value> {
    let (desired, current, ready) = (p.int("spec.replicas"), p.int("status.replicas"), p.int("status.readyReplicas"));
    vec![p.name(), desired.into(), current.into(), ready.into(), p.age()]
}

pub(super) fn daemon_set(p: &Printed<'_>) -> Vec<Value> {
    let cells = vec![
        p.name(),
        p.int("status.desiredNumberScheduled").into(),
        p.int("status.currentNumberScheduled").into(),
        p.int("status.numberReady").into(),
        p.int("status.updatedNumberScheduled").into(),
        p.int("status.numberAvailable").into(),
        labels(p.get("spec.template.spec.nodeSelector")).into(),
        p.age(),
    ];
    with_template(p, cells, "spec.template.spec", selector(p.get("spec.selector")))
}

pub(super) fn deployment(p: &Printed<'_>) -> Vec<Value> {
    let cells = vec![
        p.name(),
        format!("{}/{}", p.int("status.readyReplicas"), p.int("spec.replicas")).into(),
        p.int("status.updatedReplicas").into(),
        p.int("status.availableReplicas").into(),
        p.age(),
    ];
    let text = match crate::selector::LabelSelector::from_value(p.get("spec.selector")) {
        Ok(s) => s.to_string(),
        Err(_) => "<invalid>".into(),
    };
    with_template(p, cells, "spec.template.spec", text)
}

pub(super) fn stateful_set(p: &Printed<'_>) -> Vec<Value> {
    let ready = format!("{}/{}", p.int("status.readyReplicas"), p.int("spec.replicas"));
    let mut cells = vec![p.name(), ready.into(), p.age()];
    cells.extend(containers(p.get("spec.template.spec")));
    cells
}

pub(super) fn controller_revision(p: &Printed<'_>) -> Vec<Value> {
    let controller = p.object.controller().map_or_else(
        || "<none>".to_owned(),
        |o| {
            let (group, _) = crate::scheme::split_api_version(o.api_version);
            let kind = crate::scheme::GroupKind { group, kind: o.kind }.to_string().to_lowercase();
            format!("{kind}/{}", o.name)
        },
    );
    vec![p.name(), controller.into(), p.int("revision").into(), p.age()]
}

pub(super) fn job(p: &Printed<'_>) -> Vec<Value> {
    let succeeded = p.int("status.succeeded");
    let parallelism = p.int("spec.parallelism");
    let completions = match p.get("spec.completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let duration = match p.text("status.startTime").parse::<Timestamp>() {
        Ok(start) => {
            let end = p.text("status.completionTime").parse::<Timestamp>().unwrap_or(p.now);
            human_duration(start.duration_until(end))
        }
        Err(_) => String::new(),
    };
    let condition = |type_: &str| {
        let first = p.list("status.conditions").iter().find(|c| c["type"] == type_);
        first.is_some_and(|c| c["status"] == "True")
    };
    let status = match () {
        () if condition("Complete") => "Complete",
        () if condition("Failed") => "Failed",
        () if p.deleted() => "Terminating",
        () if condition("Suspended") => "Suspended",
        () if condition("FailureTarget") => "FailureTarget",
        () if condition("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let cells = vec![p.name(), status.into(), completions.into(), duration.into(), p.age()];
    with_template(p, cells, "spec.template.spec", selector(p.get("spec.selector")))
}

pub(super) fn cron_job(p: &Printed<'_>) -> Vec<Value> {
    let suspend = match p.get("spec.suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = p.get("status.lastScheduleTime").as_str().map_or_else(|| "<none>".into(), |t| p.since_text(t));
    let cells = vec![
        p.name(),
        p.text("spec.schedule").into(),
        p.get("spec.timeZone").as_str().unwrap_or("<none>").into(),
        suspend.into(),
        p.list("status.active").len().into(),
        last.into(),
        p.age(),
    ];
    let last = selector(p.get("spec.jobTemplate.spec.selector"));
    with_template(p, cells, "spec.jobTemplate.spec.template.spec", last)
}

/// The addresses of a load balancer, sorted.
pub(super) fn load_balancer(p: &Printed<'_>) -> String {
    let ingress = p.list("status.loadBalancer.ingress").iter();
    let addresses: BTreeSet<&str> = ingress
        .map(|i| if str_of(i, "ip").is_empty() { str_of(i, "hostname") } else { str_of(i, "ip") })
        .filter(|a| !a.is_empty())
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

pub(super) fn service(p: &Printed<'_>) -> Vec<Value> {
    let cluster_ip = p.list("spec.clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
    let external_ips = joined(p.list("spec.externalIPs"));
    let external = match p.text("spec.type") {
        "ClusterIP" | "NodePort" => Some(external_ips).filter(|s| !s.is_empty()).unwrap_or_else(|| "<none>".into()),
        "LoadBalancer" => {
            let all: Vec<String> = [load_balancer(p), external_ips].into_iter().filter(|s| !s.is_empty()).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => p.text("spec.externalName").into(),
        _ => "<unknown>".into(),
    };
    let port = |port: &Value| {
        let (number, protocol) = (get(port, "port"), str_of(port, "protocol"));
        match get(port, "nodePort").as_i64() {
            Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    };
    let ports = p.list("spec.ports").iter().map(port).collect::<Vec<_>>().join(",");
    vec![
        p.name(),
        p.text("spec.type").into(),
        cluster_ip.into(),
        external.into(),
        if ports.is_empty() { "<none>".into() } else { ports.into() },
        p.age(),
        labels(p.get("spec.selector")).into(),
    ]
}

pub(super) fn endpoints(p: &Printed<'_>) -> Vec<Value> {
    let mut addresses = Vec::new();
    for subset in p.list("subsets") {
        let ips = list(subset, "addresses").iter().map(|a| str_of(a, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            addresses.extend(ips.map(str::to_owned));
            continue;
        }
        for port in ports {
            let port = get(port, "port");
            addresses.extend(
                ips.clone().map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }),
            );
        }
    }
    let text = if p.list("subsets").is_empty() { "<none>".into() } else { up_to_three(&addresses) };
    vec![p.name(), text.into(), p.age()]
}

pub(super) fn node(p: &Printed<'_>) -> Vec<Value> {
    let ready = p.list("status.conditions").iter().rfind(|c| c["type"] == "Ready");
    let mut status = ready.map_or("Unknown", |c| if c["status"] == "True" { "Ready" } else { "NotReady" }).to_owned();
    if p.flag("spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let labels = p.object.labels().into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == "kubernetes.io/role"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    let roles = if roles.is_empty() { "<none>".into() } else { roles.into_iter().collect::<Vec<_>>().join(",") };
    let address = |type_: &str| {
        let found = p.list("status.addresses").iter().find(|a| a["type"] == type_);
        found.map_or("<none>", |a| str_of(a, "address"))
    };
    let mut kernel = p.text_or("status.nodeInfo.kernelVersion", "<unknown>").to_owned();
    let architecture = p.text("status.nodeInfo.architecture");
    if !architecture.is_empty() {
        kernel = format!("{kernel} ({architecture})");
    }
    vec![
        p.name(),
        status.into(),
        roles.into(),
        p.age(),
        p.text("status.nodeInfo.kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        p.text_or("status.nodeInfo.osImage", "<unknown>").into(),
        kernel.into(),
        p.text_or("status.nodeInfo.containerRuntimeVersion", "<unknown>").into(),
    ]
}

/// What the two groups call the fields of an event that are shown.
struct EventFields {
    first: &'static str,
    last: &'static str,
    count: &'static str,
    kind: &'static str,
    name: &'static str,
    path: &'static str,
    component: &'static str,
    host: &'static str,
    controller: &'static str,
    message: &'static str,
}

pub(super) fn event(p: &Printed<'_>) -> Vec<Value> {
    let fields = EventFields {
        first: "firstTimestamp",
        last: "lastTimestamp",
        count: "count",
        kind: "involvedObject.kind",
        name: "involvedObject.name",
        path: "involvedObject.fieldPath",
        component: "source.component",
        host: "source.host",
        controller: "reportingComponent",
        message: "message",
    };
    event_cells(p, &fields)
}

pub(super) fn event_of_events_group(p: &Printed<'_>) -> Vec<Value> {
    let fields = EventFields {
        first: "deprecatedFirstTimestamp",
        last: "deprecatedLastTimestamp",
        count: "deprecatedCount",
        kind: "regarding.kind",
        name: "regarding.name",
        path: "regarding.fieldPath",
        component: "deprecatedSource.component",
        host: "deprecatedSource.host",
        controller: "reportingController",
        message: "note",
    };
    event_cells(p, &fields)
}

fn event_cells(p: &Printed<'_>, f: &EventFields) -> Vec<Value> {
    let time = |path: &str| Some(p.text(path)).filter(|t| !t.is_empty());
    let since = |time: Option<&str>| time.map_or_else(|| "<unknown>".into(), |t| p.since_text(t));
    let first = since(time(f.first).or(time("eventTime")));
    let mut last = time(f.last).map_or_else(|| first.clone(), |t| p.since_text(t));
    let mut count = p.int(f.count).max(1);
    if p.get("series").is_object() {
        last = since(time("series.lastObservedTime"));
        count = p.int("series.count");
    }
    let (kind, name) = (p.text(f.kind).to_lowercase(), p.text(f.name));
    let target = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let component = p.text_or(f.component, p.text(f.controller));
    let host = p.text_or(f.host, p.text("reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        p.text("type").into(),
        p.text("reason").into(),
        target.into(),
        p.text(f.path).into(),
        source.into(),
        p.text(f.message).trim().into(),
        first.into(),
        count.into(),
        p.name(),
    ]
}

pub(super) fn namespace(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.text("status.phase").into(), p.age()]
}

fn size(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

pub(super) fn secret(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.text("type").into(), size(p.get("data")).into(), p.age()]
}

pub(super) fn config_map(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), (size(p.get("data")) + size(p.get("binaryData"))).into(), p.age()]
}

/// `RWO,ROX`, each mode once in upstream's order.
fn access_modes(modes: &[Value]) -> String {
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let set = known.into_iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, short)| short);
    set.collect::<Vec<_>>().join(",")
}

/// The storage class, of the old annotation if it is set.
fn storage_class<'a>(p: &Printed<'a>) -> &'a str {
    p.object.annotation("volume.beta.kubernetes.io/storage-class").unwrap_or_else(|| p.text("spec.storageClassName"))
}

fn phase<'a>(p: &Printed<'a>) -> &'a str {
    if p.deleted() { "Terminating" } else { p.text("status.phase") }
}

pub(super) fn persistent_volume(p: &Printed<'_>) -> Vec<Value> {
    let claim = p.get("spec.claimRef");
    let claim = if claim.is_object() {
        format!("{}/{}", str_of(claim, "namespace"), str_of(claim, "name"))
    } else {
        String::new()
    };
    vec![
        p.name(),
        p.text_or("spec.capacity.storage", "0").into(),
        access_modes(p.list("spec.accessModes")).into(),
        p.text("spec.persistentVolumeReclaimPolicy").into(),
        phase(p).into(),
        claim.into(),
        storage_class(p).into(),
        p.get("spec.volumeAttributesClassName").as_str().unwrap_or("<unset>").into(),
        p.text("status.reason").into(),
        p.age(),
        p.get("spec.volumeMode").as_str().unwrap_or("<unset>").into(),
    ]
}

pub(super) fn persistent_volume_claim(p: &Printed<'_>) -> Vec<Value> {
    let bound = !p.text("spec.volumeName").is_empty();
    let capacity = if bound { p.text_or("status.capacity.storage", "0") } else { "" };
    let modes = if bound { access_modes(p.list("status.accessModes")) } else { String::new() };
    vec![
        p.name(),
        phase(p).into(),
        p.text("spec.volumeName").into(),
        capacity.into(),
        modes.into(),
        storage_class(p).into(),
        p.get("spec.volumeAttributesClassName").as_str().unwrap_or("<unset>").into(),
        p.age(),
        p.get("spec.volumeMode").as_str().unwrap_or("<unset>").into(),
    ]
}

pub(super) fn component_status(p: &Printed<'_>) -> Vec<Value> {
    let condition = p.list("conditions").iter().find(|c| c["type"] == "Healthy");
    let status = condition.map_or("Unknown", |c| if c["status"] == "True" { "Healthy" } else { "Unhealthy" });
    let text = |field: &str| condition.map_or("", |c| str_of(c, field));
    vec![p.name(), status.into(), text("message").into(), text("error").into()]
}

pub(super) fn resource_quota(p: &Printed<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let mut hard: Vec<_> = p.get("status.hard").as_object().into_iter().flatten().collect();
    hard.sort_by_key(|(name, _)| name.as_str());
    for (name, hard) in hard {
        let used = p.get("status.used").get(name).map_or_else(|| "0".into(), plain);
        let text = format!("{name}: {used}/{}", plain(hard));
        if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![p.name(), requests.join(", ").into(), limits.join(", ").into(), p.age()]
}

pub(super) fn scale(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), json!(p.int("spec.replicas")), json!(p.int("status.replicas")), p.age()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(print: fn(&Printed<'_>) -> Vec<Value>, object: &Value) -> Vec<Value> {
        print(&Printed { object, now: "2024-01-01T00:10:00Z".parse().unwrap() })
    }

    #[test]
    fn services_show_their_addresses_and_ports() {
        let service_object = json!({"metadata": {"name": "web", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {
            "type": "NodePort", "clusterIPs": ["10.0.0.1"], "selector": {"app": "web"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        let wanted = json!(["web", "NodePort", "10.0.0.1", "<none>", "80:30080/TCP,53/UDP", "10m", "app=web"]);
        assert_eq!(Value::from(cells(service, &service_object)), wanted);
    }

    #[test]
    fn deployments_show_ready_and_selector() {
        let object = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [{"name": "x", "image": "i"}, {"name": "y", "image": "j"}]}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 2}});
        let wanted = json!(["web", "1/2", 2, 0, "<unknown>", "x,y", "i,j", "a=b"]);
        assert_eq!(Value::from(cells(deployment, &object)), wanted);
    }

    #[test]
    fn nodes_show_conditions_roles_and_addresses() {
        let object = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.3", "kernelVersion": "6.1", "architecture": "amd64"}}});
        let wanted = json!([
            "n",
            "Ready,SchedulingDisabled",
            "control-plane",
            "<unknown>",
            "v1.36.3",
            "10.1.1.1",
            "<none>",
            "<unknown>",
            "6.1 (amd64)",
            "<unknown>"
        ]);
        assert_eq!(Value::from(cells(node, &object)), wanted);
    }

    #[test]
    fn claims_show_capacity_once_bound() {
        let mut object = json!({"metadata": {"name": "c"}, "status": {"phase": "Pending"},
            "spec": {"storageClassName": "local-path", "volumeMode": "Filesystem"}});
        let wanted = json!(["c", "Pending", "", "", "", "local-path", "<unset>", "<unknown>", "Filesystem"]);
        assert_eq!(Value::from(cells(persistent_volume_claim, &object)), wanted);
        object["spec"]["volumeName"] = "v".into();
        object["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]});
        let bound = cells(persistent_volume_claim, &object);
        assert_eq!(bound[1..5], [json!("Bound"), json!("v"), json!("1Gi"), json!("RWO,RWX")]);
    }

    #[test]
    fn events_fall_back_to_their_newer_fields() {
        let object = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "R",
            "eventTime": "2024-01-01T00:09:00.000000Z", "reportingComponent": "kubelet", "message": " m\n", "type": "Normal"});
        let wanted = json!(["60s", "Normal", "R", "pod/p", "", "kubelet", "m", "60s", 1, "e"]);
        assert_eq!(Value::from(cells(event, &object)), wanted);
    }

    #[test]
    fn endpoints_show_three_addresses() {
        let object = json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]});
        assert_eq!(cells(endpoints, &object)[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...");
        assert_eq!(cells(endpoints, &json!({}))[1], "<none>");
    }
}
