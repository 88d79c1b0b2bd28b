//! What clients are warned of: pods, templates of pods and Services that are valid and yet not what anybody wants. Start at
//! [`pod`], [`workload`] and [`service`].
// upstream: pkg/api/pod/warnings.go, pkg/api/service/warnings.go
use super::field::Field;
use super::resources;
use crate::value::Read;
use pintle_api::field::go_quote;
use pintle_api::meta::ObjectExt;
use pintle_api::names;
use serde_json::Value;

/// Volumes that are deprecated or do nothing any more, in the order in which upstream looks at them.
const VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Of a new Pod.
pub(crate) fn pod(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    name(object, "the Pod's hostname", &mut warnings);
    pod_spec(&Field::root(object, "spec"), &mut warnings);
    warnings
}

/// Of a new object whose pods carry its name.
pub(crate) fn named_workload(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    name(object, "Pod names and hostnames", &mut warnings);
    warnings.extend(workload(object));
    warnings
}

/// Of a new object with a template of pods.
pub(crate) fn workload(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = Field::root(object, "spec");
    pod_spec(&spec.child("template").child("spec"), &mut warnings);
    warnings
}

/// Of a new CronJob.
pub(crate) fn cron_job(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    name(object, "Pod names and hostnames", &mut warnings);
    let spec = Field::root(object, "spec");
    pod_spec(&spec.child("jobTemplate").child("spec").child("template").child("spec"), &mut warnings);
    warnings
}

fn name(object: &Value, used_in: &str, warnings: &mut Vec<String>) {
    let wrong = names::dns1123_label(object.name());
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

fn pod_spec(spec: &Field<'_>, warnings: &mut Vec<String>) {
    for constraint in spec.child("topologySpreadConstraints").items() {
        let selector = constraint.child("labelSelector");
        if !selector.is_set() {
            warnings.push(format!("{}: a null labelSelector results in matching no pod", selector.path));
        }
    }
    for volume in spec.child("volumes").items() {
        for (_, shown, why) in VOLUMES.iter().filter(|(field, ..)| volume.value.has(field)) {
            warnings.push(format!("{}: {why}", volume.path.child(shown)));
        }
    }
    repeated(&spec.child("hostAliases"), "ip", "ip", warnings);
    let secrets = spec.child("imagePullSecrets");
    repeated(&secrets, "name", "name", warnings);
    for secret in secrets.items().filter(|secret| secret.value.text("name").is_empty()) {
        warnings.push(format!("{}: invalid empty name \"\"", secret.path.child("name")));
    }
    fractions(&spec.child("overhead"), warnings);
    let lists = ["initContainers", "containers"].map(|list| spec.child(list));
    for container in lists.iter().flat_map(Field::items) {
        let resources = container.child("resources");
        for resource in ["memory", "ephemeral-storage"] {
            for list in ["limits", "requests"].map(|list| resources.child(list)) {
                fraction(&list, resource, warnings);
            }
        }
        hidden_variables(&container.child("env"), warnings);
    }
    ports(&lists, warnings);
    let grace = spec.child("terminationGracePeriodSeconds");
    if grace.int() < 0 {
        warnings.push(format!("{}: must be >= 0; negative values are invalid and will be treated as 1", grace.path));
    }
}

/// Items of a list that say the same in a field.
fn repeated(list: &Field<'_>, field: &str, what: &str, warnings: &mut Vec<String>) {
    let mut seen = Vec::new();
    for item in list.items() {
        let text = item.value.text(field).to_owned();
        if seen.contains(&text) {
            warnings.push(format!("{}: duplicate {what} {}", item.path.child(field), go_quote(&text)));
        } else {
            seen.push(text);
        }
    }
}

fn fractions(list: &Field<'_>, warnings: &mut Vec<String>) {
    for resource in ["memory", "ephemeral-storage"] {
        fraction(list, resource, warnings);
    }
}

/// Bytes come whole.
fn fraction(list: &Field<'_>, resource: &str, warnings: &mut Vec<String>) {
    let amount = list.value.field(resource);
    if !amount.is_null() && resources::is_fraction(amount) {
        let shown = go_quote(amount.as_str().unwrap_or_default());
        warnings
            .push(format!("{}: fractional byte value {shown} is invalid, must be an integer", list.path.key(resource)));
    }
}

/// Variables that are set again without a use of the value before.
fn hidden_variables(env: &Field<'_>, warnings: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for variable in env.value.as_array().into_iter().flatten().enumerate() {
        let (index, variable) = variable;
        let name = variable.text("name");
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        let reference = format!("$({name})");
        let value = variable.text("value");
        if variable.has("valueFrom") || value == reference || !value.contains(&reference) {
            let path = env.path.index(index);
            let name = go_quote(name);
            warnings
                .push(format!("{path}: hides previous definition of {name}, which may be dropped when using apply"));
        }
    }
}

/// Ports that stand in each other's way, and names of ports that are there twice.
fn ports(lists: &[Field<'_>], warnings: &mut Vec<String>) {
    let mut known: Vec<(String, Value)> = Vec::new();
    let mut names: Vec<(String, String)> = Vec::new();
    let mut of_names = Vec::new();
    for container in lists.iter().flat_map(Field::items) {
        for port in container.child("ports").items() {
            let place = port.path.to_string();
            for (other, earlier) in known.iter().filter(|(_, earlier)| same_port(earlier, port.value)) {
                if let Some(why) = clash(port.value, earlier) {
                    warnings.push(format!("{place}: {why} port definition with {other}"));
                }
            }
            let name = port.value.text("name");
            match names.iter().find(|(known, _)| known == name && !name.is_empty()) {
                Some((_, other)) => of_names.push(format!(
                    "{place}: duplicate port name {} with {other}, services and probes that select ports by name will use \
                     {other}",
                    go_quote(name)
                )),
                None => names.push((name.to_owned(), place.clone())),
            }
            known.push((place, port.value.clone()));
        }
    }
    warnings.extend(of_names);
}

fn same_port(a: &Value, b: &Value) -> bool {
    a.int("containerPort") == b.int("containerPort") && a.text("protocol") == b.text("protocol")
}

fn clash(a: &Value, b: &Value) -> Option<&'static str> {
    let (ip, other_ip) = (a.text("hostIP"), b.text("hostIP"));
    let (port, other) = (a.int("hostPort"), b.int("hostPort"));
    if ip == other_ip && port == other {
        return Some("duplicate");
    }
    if port == 0 || other == 0 {
        return Some("overlapping");
    }
    (port == other && ip.is_empty() != other_ip.is_empty()).then_some("dangerously ambiguous")
}

/// Of a new Service.
pub(crate) fn service(object: &Value) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let spec = object.field("spec");
    let named = spec.text("type") == "ExternalName";
    let headless = spec.text("type") == "ClusterIP" && spec.text("clusterIP") == "None";
    let outside = !spec.is_zero("externalIPs");
    let affinity = !matches!(spec.text("sessionAffinity"), "" | "None");
    let annotated = object.annotation(HINTS).is_some();
    let text = |text: &str| text.to_owned();
    let mut warnings = Vec::new();
    for (applies, warning) in [
        (
            annotated,
            format!("annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"),
        ),
        (headless && !spec.is_zero("loadBalancerIP"), text("spec.loadBalancerIP is ignored for headless services")),
        (headless && outside, text("spec.externalIPs is ignored for headless services")),
        (headless && affinity, text("spec.SessionAffinity is ignored for headless services")),
        (
            outside && !headless && !named,
            text("spec.externalIPs is deprecated and may no longer be implemented in some clusters"),
        ),
        (named && outside, text("spec.externalIPs is ignored when spec.type is \"ExternalName\"")),
        (
            !named && !spec.is_zero("externalName"),
            text("spec.externalName is ignored when spec.type is not \"ExternalName\""),
        ),
        (
            spec.text("trafficDistribution") == "PreferClose",
            text("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""),
        ),
    ] {
        if applies {
            warnings.push(warning);
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_warned_of_what_it_cannot_mean() {
        let object = json!({"metadata": {"name": "a.b"}, "spec": {
            "imagePullSecrets": [{"name": ""}],
            "volumes": [{"name": "v", "cephfs": {}}],
            "containers": [{
                "name": "c",
                "resources": {"limits": {"memory": "500m"}},
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A)3"}],
                "ports": [
                    {"containerPort": 80, "protocol": "TCP", "name": "http"},
                    {"containerPort": 80, "protocol": "TCP", "name": "http"},
                ],
            }],
        }});
        assert_eq!(
            pod(&object),
            [
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
                 recommended: [must not contain dots]",
                "spec.volumes[0].cephfs: deprecated in v1.28, non-functional in v1.31+",
                "spec.imagePullSecrets[0].name: invalid empty name \"\"",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"500m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[1]: duplicate port name \"http\" with spec.containers[0].ports[0], services and \
                 probes that select ports by name will use spec.containers[0].ports[0]",
            ]
        );
    }

    #[test]
    fn a_service_is_warned_of_fields_that_do_nothing() {
        let object = json!({"spec": {"type": "ClusterIP", "externalName": "x", "externalIPs": ["1.2.3.4"]}});
        assert_eq!(
            service(&object),
            [
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            ]
        );
    }
}
