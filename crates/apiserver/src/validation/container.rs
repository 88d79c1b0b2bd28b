//! Containers: what they run, their ports, environment, mounts, probes and hooks.
use super::common::{descending_path, no_backsteps, port_number_or_name, unique};
use super::field::{Errors, Field};
use super::resources::container_resources;
use super::security::container_security;
use crate::value::Read;
use pintle_api::{field::FieldError, names};
use serde_json::Value;

/// What the rules of containers need to know of their pod.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    /// The pod's spec.
    pub(super) spec: &'a Value,
    /// The names and sources of the volumes that are in order.
    pub(super) volumes: &'a [&'a Value],
    /// The names of the pod's resource claims.
    pub(super) claims: &'a [String],
}

impl Pod<'_> {
    fn volume(&self, name: &str) -> Option<&Value> {
        self.volumes.iter().find(|v| v.text("name") == name).copied()
    }

    fn host_users(&self) -> bool {
        self.spec.field("hostUsers").as_bool().unwrap_or(true)
    }
}

/// `spec.containers`.
pub(super) fn containers(list: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    if list.is_zero() {
        errors.push(list.missing(""));
        return;
    }
    let mut seen = Vec::new();
    for container in list.items() {
        common(&container, pod, errors);
        unique(&mut seen, &container.child("name"), errors);
        lifecycle(&container.child("lifecycle"), pod, errors);
        probes(&container, pod, errors);
        restart_policy(&container, errors);
    }
    host_ports(list, errors);
}

/// `spec.initContainers`.
pub(super) fn init_containers(list: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    let mut seen: Vec<&str> = pod.spec.items("containers").iter().map(|c| c.text("name")).collect();
    for container in list.items() {
        common(&container, pod, errors);
        restart_policy(&container, errors);
        let name = container.value.text("name");
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(&container.child("name").path, name));
        } else if !name.is_empty() {
            seen.push(name);
        }
        let sidecar = container.value.text("restartPolicy") == "Always";
        if sidecar {
            lifecycle(&container.child("lifecycle"), pod, errors);
            probes(&container, pod, errors);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                let field = container.child(field);
                if field.is_set() {
                    errors.push(field.forbidden("may not be set for init containers without restartPolicy=Always"));
                }
            }
            for policy in container.child("resizePolicy").items() {
                let policy = policy.child("restartPolicy");
                if policy.text() == "RestartContainer" {
                    let text = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errors.push(policy.invalid(text));
                }
            }
        }
    }
}

/// `spec.ephemeralContainers`.
pub(super) fn ephemeral_containers(list: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    let others = pod.spec.items("containers").iter().chain(pod.spec.items("initContainers"));
    let others: Vec<String> = others.map(|c| c.text("name").to_owned()).collect();
    let mut seen = others.clone();
    for container in list.items() {
        common(&container, pod, errors);
        no_padding(&container, errors);
        unique(&mut seen, &container.child("name"), errors);
        let target = container.child("targetContainerName");
        if !target.is_zero() && !others.iter().any(|o| o == target.text()) {
            errors.push(FieldError::not_found(&target.path, target.text()));
        }
        const FORBIDDEN: [&str; 8] = [
            "ports",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ];
        for field in FORBIDDEN.iter().map(|f| container.child(f)).filter(|f| !f.is_zero()) {
            errors.push(FieldError::forbidden(&field.path, "cannot be set for an Ephemeral Container"));
        }
        let resources = container.child("resources");
        if !resources.is_zero() {
            errors.push(resources.forbidden("cannot be set for an Ephemeral Container"));
        }
        for mount in container.child("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"].iter().map(|f| mount.child(f)).filter(|f| !f.is_zero()) {
                errors.push(FieldError::forbidden(&field.path, "cannot be set for an Ephemeral Container"));
            }
        }
    }
}

/// An image's name is not padded.
pub(super) fn no_padding(container: &Field<'_>, errors: &mut Errors) {
    let image = container.child("image");
    if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn common(container: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    container.child("name").required_checked(names::dns1123_label, errors);
    container.child("image").required("", errors);
    container.child("terminationMessagePolicy").required_one_of(&["File", "FallbackToLogsOnError"], errors);
    ports(&container.child("ports"), errors);
    environment(&container.child("env"), errors);
    environment_from(&container.child("envFrom"), errors);
    mounts(container, pod, errors);
    devices(container, pod, errors);
    container.child("imagePullPolicy").required_one_of(&["Always", "IfNotPresent", "Never"], errors);
    container_resources(&container.child("resources"), pod.claims, errors);
    resize_policy(&container.child("resizePolicy"), pod.spec.text("restartPolicy"), errors);
    container_security(&container.child("securityContext"), pod.host_users(), errors);
}

fn ports(list: &Field<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for port in list.items() {
        let name = port.child("name");
        if !name.is_zero() {
            let wrong = names::port_name(name.text());
            if wrong.is_empty() {
                unique(&mut seen, &name, errors);
            }
            errors.extend(wrong.into_iter().map(|e| name.invalid(e)));
        }
        let number = port.child("containerPort");
        if number.is_zero() {
            errors.push(number.missing(""));
        } else {
            errors.extend(names::port_number(number.int()).into_iter().map(|e| number.invalid(e)));
        }
        let host = port.child("hostPort");
        if !host.is_zero() {
            errors.extend(names::port_number(host.int()).into_iter().map(|e| host.invalid(e)));
        }
        port.child("protocol").required_one_of(&["SCTP", "TCP", "UDP"], errors);
    }
}

/// Ports of the host that several containers of a list want.
fn host_ports(list: &Field<'_>, errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for container in list.items() {
        for port in container.child("ports").items().filter(|p| !p.value.is_zero("hostPort")) {
            let value = port.value;
            let text = format!("{}/{}/{}", value.text("protocol"), value.text("hostIP"), value.int("hostPort"));
            if seen.contains(&text) {
                errors.push(FieldError::duplicate(&port.child("hostPort").path, text));
            } else {
                seen.push(text);
            }
        }
    }
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn environment(list: &Field<'_>, errors: &mut Errors) {
    for variable in list.items() {
        variable.child("name").required_checked(names::relaxed_env_var_name, errors);
        let from = variable.child("valueFrom");
        if !from.is_set() {
            continue;
        }
        let mut sources = 0;
        let source = |name| Some(from.child(name)).filter(Field::is_set);
        if let Some(field) = source("fieldRef") {
            sources += 1;
            field_ref(&field, &ENV_FIELDS, errors);
        }
        if let Some(resource) = source("resourceFieldRef") {
            sources += 1;
            resource_field_ref(&resource, false, errors);
        }
        for name in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(reference) = source(name) {
                sources += 1;
                reference.child("name").text_checked(names::dns1123_subdomain, errors);
                reference.child("key").required_checked(names::config_map_key, errors);
            }
        }
        if let Some(file) = source("fileKeyRef") {
            sources += 1;
            file.child("key").required_checked(names::relaxed_env_var_name, errors);
            file.child("volumeName").required_checked(names::dns1123_label, errors);
            let path = file.child("path");
            path.required("", errors);
            no_backsteps(&path, errors);
        }
        let wrong = match sources {
            0 => {
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            }
            _ if !variable.value.is_zero("value") => "may not be specified when `value` is not empty",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(&from.path, "", wrong));
    }
}

fn environment_from(list: &Field<'_>, errors: &mut Errors) {
    for source in list.items() {
        let prefix = source.child("prefix");
        if !prefix.is_zero() {
            prefix.checked(names::relaxed_env_var_name, errors);
        }
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            let reference = source.child(name);
            if reference.is_set() {
                sources += 1;
                reference.child("name").required_checked(names::dns1123_subdomain, errors);
            }
        }
        if sources != 1 {
            errors.push(FieldError::invalid(
                &list.path,
                "",
                match sources {
                    0 => "must specify one of: `configMapRef` or `secretRef`",
                    _ => "may not have more than one field specified at a time",
                },
            ));
        }
    }
}

/// A field of the pod, one of `known` or a label or annotation.
pub(super) fn field_ref(reference: &Field<'_>, known: &[&str], errors: &mut Errors) {
    let (version, path) = (reference.child("apiVersion"), reference.child("fieldPath"));
    if version.is_zero() {
        errors.push(version.missing(""));
        return;
    }
    if path.is_zero() {
        errors.push(path.missing(""));
        return;
    }
    let text = path.text();
    let converted = match text {
        "spec.host" => "spec.nodeName",
        _ => text,
    };
    let subscripted = text.strip_suffix("']").and_then(|t| t.split_once("['"));
    if version.text() != "v1" {
        let text = format!("error converting fieldPath: unsupported pod version: {}", version.text());
        errors.push(path.invalid(text));
    } else if let Some((field, key)) = subscripted {
        let wrong = match field {
            "metadata.annotations" => names::qualified_name(&key.to_lowercase()),
            "metadata.labels" => names::qualified_name(key),
            _ => {
                errors.push(
                    path.invalid(format!("error converting fieldPath: field label does not support subscript: {text}")),
                );
                return;
            }
        };
        errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&reference.path, key, e)));
    } else if !matches!(converted, "metadata.annotations" | "metadata.labels" | "status.phase" | "spec.restartPolicy")
        && !ENV_FIELDS.contains(&converted)
    {
        errors.push(path.invalid(format!("error converting fieldPath: field label not supported: {text}")));
    } else if !known.contains(&converted) {
        errors.push(FieldError::not_supported(&path.path, converted, known));
    }
}

/// A request or limit of a container.
pub(super) fn resource_field_ref(reference: &Field<'_>, in_volume: bool, errors: &mut Errors) {
    const KNOWN: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let (container, resource) = (reference.child("containerName"), reference.child("resource"));
    let huge = |name: &str| name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if in_volume && container.is_zero() {
        errors.push(container.missing(""));
    } else if resource.is_zero() {
        errors.push(resource.missing(""));
    } else if !huge(resource.text()) {
        resource.one_of(&KNOWN, errors);
    }
    let divisor = reference.child("divisor");
    let amount = super::common::quantity(divisor.value);
    if amount.is_zero() {
        return;
    }
    const SIZES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let kind = match resource.text() {
        "limits.cpu" | "requests.cpu" => {
            if !matches!(amount.to_string().as_str(), "1" | "1m") {
                let text = "only divisor's values 1m and 1 are supported with the cpu resource";
                errors.push(FieldError::invalid(&divisor.path, resource.text(), text));
            }
            return;
        }
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        name if huge(name) => "hugepages",
        _ => return,
    };
    if !SIZES.contains(&amount.to_string().as_str()) {
        let sizes = SIZES.join(", ");
        let text = format!("only divisor's values {sizes} are supported with the {kind} resource");
        errors.push(FieldError::invalid(&divisor.path, resource.text(), text));
    }
}

fn mounts(container: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    let list = container.child("volumeMounts");
    let devices = container.value.items("volumeDevices");
    let privileged = container.value.field("securityContext").flag("privileged");
    let mut paths = Vec::new();
    for mount in list.items() {
        let (name, path) = (mount.child("name"), mount.child("mountPath"));
        name.required("", errors);
        if pod.volume(name.text()).is_none() {
            errors.push(FieldError::not_found(&name.path, name.text()));
        }
        path.required("", errors);
        if paths.contains(&path.text()) {
            errors.push(FieldError::invalid(&path.path, path.text(), "must be unique"));
        }
        paths.push(mount.value.text("mountPath"));
        if devices.iter().any(|d| d.text("name") == name.text()) {
            errors.push(name.invalid("must not already exist in volumeDevices"));
        }
        if devices.iter().any(|d| d.text("devicePath") == path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        let (sub, expression) = (mount.child("subPath"), mount.child("subPathExpr"));
        if !sub.is_zero() {
            descending_path(&Field { path: list.child("subPath").path, value: sub.value }, errors);
        }
        if !expression.is_zero() {
            if !sub.is_zero() {
                errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
            }
            descending_path(&Field { path: list.child("subPathExpr").path, value: expression.value }, errors);
        }
        let propagation =
            Field { path: list.child("mountPropagation").path, value: mount.value.field("mountPropagation") };
        if propagation.is_set() {
            propagation.one_of(&["Bidirectional", "HostToContainer", "None"], errors);
            if propagation.text() == "Bidirectional" && !privileged {
                errors.push(
                    propagation.forbidden("Bidirectional mount propagation is available only to privileged containers"),
                );
            }
        }
        let recursive =
            Field { path: list.child("recursiveReadOnly").path, value: mount.value.field("recursiveReadOnly") };
        if recursive.is_set() {
            recursive.one_of(&["Disabled", "Enabled", "IfPossible"], errors);
            if matches!(recursive.text(), "Enabled" | "IfPossible") {
                if !mount.value.flag("readOnly") {
                    errors.push(recursive.forbidden("may only be specified when readOnly is true"));
                }
                if !matches!(propagation.text(), "" | "None") {
                    errors.push(
                        recursive.forbidden("may only be specified when mountPropagation is None or not specified"),
                    );
                }
            }
        }
    }
}

fn devices(container: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    let list = container.child("volumeDevices");
    let mounts = container.value.items("volumeMounts");
    let (mut names, mut paths) = (Vec::new(), Vec::new());
    for device in list.items() {
        let (name, path) = (device.child("name"), device.child("devicePath"));
        name.required("", errors);
        if names.contains(&name.text()) {
            errors.push(name.invalid("must be unique"));
        }
        match pod.volume(name.text()) {
            None => errors.push(FieldError::not_found(&name.path, name.text())),
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => errors.push(
                name.invalid("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"),
            ),
            Some(_) => {}
        }
        path.required("", errors);
        if paths.contains(&path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        if path.text().split('/').any(|part| part == "..") {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        } else {
            paths.push(device.value.text("devicePath"));
        }
        if mounts.iter().any(|m| m.text("name") == name.text()) {
            errors.push(name.invalid("must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|m| m.text("mountPath") == path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeMounts"));
        }
        if !name.is_zero() {
            names.push(device.value.text("name"));
        }
    }
}

fn resize_policy(list: &Field<'_>, pod_restart_policy: &str, errors: &mut Errors) {
    let mut seen = Vec::new();
    for policy in list.items() {
        let (resource, restart) = (policy.value.text("resourceName"), policy.value.text("restartPolicy"));
        if seen.contains(&resource) {
            errors.push(FieldError::duplicate(&policy.path, resource));
        }
        seen.push(resource);
        Field { path: list.path, value: policy.value.field("resourceName") }
            .required_one_of(&["cpu", "memory"], errors);
        let at = Field { path: list.path, value: policy.value.field("restartPolicy") };
        at.required_one_of(&["NotRequired", "RestartContainer"], errors);
        if pod_restart_policy == "Never" && restart != "NotRequired" {
            errors.push(at.invalid("must be 'NotRequired' when pod `restartPolicy` is 'Never'"));
        }
    }
}

fn restart_policy(container: &Field<'_>, errors: &mut Errors) {
    let (policy, rules) = (container.child("restartPolicy"), container.child("restartPolicyRules"));
    if policy.is_set() {
        policy.one_of(&["Always", "Never", "OnFailure"], errors);
    } else if !rules.is_zero() {
        errors.push(policy.missing("must specify restartPolicy when restart rules are used"));
    }
    let count = rules.items().count();
    if count > 20 {
        errors.push(FieldError::too_many(&rules.path, count, 20));
    }
    for rule in rules.items() {
        rule.child("action").one_of(&["Restart", "RestartAllContainers"], errors);
        let codes = rule.child("exitCodes");
        if codes.is_set() {
            codes.child("operator").one_of(&["In", "NotIn"], errors);
            let values = codes.child("values");
            let count = values.items().count();
            if count > 255 {
                errors.push(FieldError::too_many(&values.path, count, 255));
            }
        } else {
            errors.push(codes.missing("must be specified"));
        }
    }
}

fn probes(container: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.child(name);
        if !probe.is_set() {
            continue;
        }
        handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"], pod, errors);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            probe.child(field).nonnegative(errors);
        }
        let grace = probe.child("terminationGracePeriodSeconds");
        if grace.is_set() && grace.int() <= 0 {
            errors.push(grace.invalid("must be greater than 0"));
        }
        let successes = probe.child("successThreshold");
        if name == "readinessProbe" {
            if grace.is_set() {
                errors.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else if successes.int() != 1 {
            errors.push(successes.invalid("must be 1"));
        }
    }
}

fn lifecycle(lifecycle: &Field<'_>, pod: Pod<'_>, errors: &mut Errors) {
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.child(name);
        if hook.is_set() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], pod, errors);
        }
    }
}

fn handler(at: &Field<'_>, kinds: &[&str], pod: Pod<'_>, errors: &mut Errors) {
    let mut found = 0;
    for &kind in kinds {
        let action = at.child(kind);
        if !action.is_set() {
            continue;
        }
        if found > 0 {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        found += 1;
        match kind {
            "exec" => action.child("command").required("", errors),
            "httpGet" => {
                action.child("path").required("", errors);
                port_number_or_name(&action.child("port"), errors);
                action.child("scheme").one_of(&["HTTP", "HTTPS"], errors);
                let headers = action.child("httpHeaders");
                for header in headers.items() {
                    let name = header.value.text("name");
                    let wrong = names::http_header_name(name).into_iter();
                    errors.extend(wrong.map(|e| FieldError::invalid(&headers.path, name, e)));
                }
            }
            "sleep" => {
                let (seconds, grace) = (action.value.int("seconds"), pod.spec.int("terminationGracePeriodSeconds"));
                if seconds < 0 || seconds > grace {
                    let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(&action.path, seconds, text));
                }
            }
            _ => port_number_or_name(&action.child("port"), errors),
        }
    }
    if found == 0 {
        errors.push(at.missing("must specify a handler type"));
    }
}
