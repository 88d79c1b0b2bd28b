//! Pods and pod templates. Start at [`create`], [`update`] and [`template`].
use super::common::{internal, ip, labels, names_of};
use super::container::{self, Pod, no_padding};
use super::field::{Errors, Field};
use super::resources::{container_resources, pod_resources};
use super::scheduling::{affinity, tolerations, topology_spread};
use super::security::pod_security;
use super::volumes::volumes;
use crate::value::{Read, same};
use pintle_api::{field::FieldError, names};
use serde_json::{Map, Value, json};

/// A new pod.
// upstream: ValidatePodCreate
pub(crate) fn create(pod: &Value) -> Errors {
    let mut errors = metadata_and_spec(pod);
    let spec = Field::root(pod, "spec");
    let ephemeral = spec.child("ephemeralContainers");
    if !ephemeral.is_zero() {
        errors.push(ephemeral.forbidden("cannot be set on create"));
    }
    if !spec.value.is_zero("nodeName") && !spec.value.is_zero("schedulingGates") {
        let node = spec.child("nodeName");
        errors.push(node.forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    errors
}

fn metadata_and_spec(pod: &Value) -> Errors {
    let mut errors = Errors::new();
    let at = Field::root(pod, "spec");
    spec(&at, pod.field("metadata").text("name"), true, &mut errors);
    if at.value.is_zero("serviceAccountName") {
        for volume in at.child("volumes").items() {
            let projected = volume.child("projected");
            for source in projected.child("sources").items() {
                let token = source.child("serviceAccountToken");
                if token.is_set() {
                    errors.push(token.forbidden("must not be specified when serviceAccountName is not set"));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        at.child(list).items().for_each(|container| no_padding(&container, &mut errors));
    }
    errors
}

/// The template of pods in another object, at `template`.
// upstream: ValidatePodTemplateSpec
pub(super) fn template(template: &Field<'_>, errors: &mut Errors) {
    template_metadata(template, errors);
    let at = template.child("spec");
    spec(&at, "", false, errors);
    let ephemeral = at.child("ephemeralContainers");
    if !ephemeral.is_zero() {
        errors.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// Labels and annotations of a template; upstream's paths leave `metadata` out.
pub(super) fn template_metadata(template: &Field<'_>, errors: &mut Errors) {
    labels_and_annotations(template, template.value.field("metadata"), errors);
}

/// Labels and annotations of `metadata`, which messages place at `at`.
pub(super) fn labels_and_annotations(at: &Field<'_>, metadata: &Value, errors: &mut Errors) {
    labels(&Field { value: metadata.field("labels"), ..at.child("labels") }, errors);
    annotations(&Field { value: metadata.field("annotations"), ..at.child("annotations") }, errors);
}

/// A new or changed PodTemplate.
pub(crate) fn pod_template(object: &Value) -> Errors {
    let mut errors = Errors::new();
    template(&Field::root(object, "template"), &mut errors);
    errors
}

/// The keys of annotations, and their size together.
fn annotations(map: &Field<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in map.value.as_object().into_iter().flatten() {
        let wrong = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(wrong.map(|e| FieldError::invalid(&map.path, key.as_str(), e)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > 256 << 10 {
        errors.push(FieldError::too_long(&map.path, 256 << 10));
    }
}

// upstream: ValidatePodSpec
fn spec(spec: &Field<'_>, pod_name: &str, is_pod: bool, errors: &mut Errors) {
    let value = spec.value;
    let good_volumes = volumes(&spec.child("volumes"), pod_name, errors);
    let claims = spec.child("resourceClaims");
    resource_claims(&claims, errors);
    let claims = names_of(&claims);
    let pod = Pod { spec: value, volumes: &good_volumes, claims: &claims };
    container::containers(&spec.child("containers"), pod, errors);
    container::init_containers(&spec.child("initContainers"), pod, errors);
    container::ephemeral_containers(&spec.child("ephemeralContainers"), pod, errors);
    let overhead = spec.child("overhead");
    if overhead.is_set() {
        // upstream judges it as the limits of a container
        let limits = json!({ "limits": overhead.value });
        container_resources(&Field { value: &limits, ..overhead }, &[], errors);
    }
    let resources = spec.child("resources");
    if resources.is_set() {
        pod_resources(&resources, &claims, errors);
    }
    if value.flag("hostNetwork") {
        host_network_ports(&spec.child("containers"), is_pod, errors);
    }
    spec.child("restartPolicy").required_one_of(&["Always", "OnFailure", "Never"], errors);
    let dns_policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    spec.child("dnsPolicy").required_one_of(&dns_policies, errors);
    labels(&spec.child("nodeSelector"), errors);
    pod_security(&spec.child("securityContext"), spec, errors);
    affinity(&spec.child("affinity"), errors);
    dns_config(&spec.child("dnsConfig"), value.text("dnsPolicy"), errors);
    for gate in spec.child("readinessGates").items() {
        gate.child("conditionType").text_checked(names::qualified_name, errors);
    }
    let mut seen = Vec::new();
    for gate in spec.child("schedulingGates").items() {
        let name = gate.value.text("name");
        Field { value: gate.value.field("name"), ..gate }.text_checked(names::qualified_name, errors);
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(&gate.path, name));
        }
        seen.push(name);
    }
    topology_spread(&spec.child("topologySpreadConstraints"), errors);
    if value.field("hostUsers").as_bool() == Some(false) {
        for (flag, field) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if value.flag(flag) {
                errors.push(spec.child(field).forbidden("when `hostUsers` is false"));
            }
        }
    }
    host_name(spec, errors);
    for (field, check) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
    ] {
        let field = spec.child(field);
        if !field.is_zero() {
            field.checked(check, errors);
        }
    }
    spec.child("activeDeadlineSeconds").in_range(1, i64::from(i32::MAX), errors);
    for field in ["hostname", "subdomain"].iter().map(|f| spec.child(f)).filter(|f| !f.is_zero()) {
        errors.extend(
            names::dns1123_label(field.text()).into_iter().map(|e| FieldError::invalid(&field.path, field.text(), e)),
        );
    }
    tolerations(&spec.child("tolerations"), errors);
    for alias in spec.child("hostAliases").items() {
        ip(&alias.child("ip"), errors);
        alias.child("hostnames").items().for_each(|name| name.checked(names::dns1123_subdomain, errors));
    }
    let class = spec.child("priorityClassName");
    if !class.is_zero() {
        class.checked(names::dns1123_subdomain, errors);
    }
    spec.child("runtimeClassName").checked(names::dns1123_subdomain, errors);
    let preemption = spec.child("preemptionPolicy");
    if preemption.is_set() {
        preemption.required_one_of(&["PreemptLowerPriority", "Never"], errors);
    }
    let os = spec.child("os");
    if os.is_set() {
        let name = os.child("name");
        if name.is_zero() {
            errors.push(name.missing(""));
        } else {
            Field { path: os.path, value: name.value }.one_of(&["linux", "windows"], errors);
        }
    }
    file_key_volumes(spec, errors);
}

fn resource_claims(list: &Field<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for claim in list.items() {
        let name = claim.child("name");
        if name.is_zero() {
            errors.push(name.missing(""));
        } else if seen.contains(&name.text()) {
            errors.push(FieldError::duplicate(&name.path, name.text()));
        } else {
            name.checked(names::dns1123_label, errors);
            seen.push(claim.value.text("name"));
        }
        let (direct, template) = (claim.child("resourceClaimName"), claim.child("resourceClaimTemplateName"));
        match (direct.is_set(), template.is_set()) {
            (true, true) => errors.push(invalid_claim(
                &claim,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
            (false, false) => {
                errors.push(invalid_claim(
                    &claim,
                    "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
                ));
            }
            _ => {}
        }
        direct.checked(names::dns1123_subdomain, errors);
        template.checked(names::dns1123_subdomain, errors);
    }
}

fn host_network_ports(containers: &Field<'_>, is_pod: bool, errors: &mut Errors) {
    for container in containers.items() {
        for port in container.child("ports").items() {
            let host = port.child("hostPort");
            if (is_pod || !host.is_zero()) && host.int() != port.value.int("containerPort") {
                let text = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&host.path, host.int(), text));
            }
        }
    }
}

fn dns_config(config: &Field<'_>, policy: &str, errors: &mut Errors) {
    let (servers, searches) = (config.child("nameservers"), config.child("searches"));
    if policy == "None" {
        if !config.is_set() {
            errors.push(config.missing("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_zero() {
            errors.push(servers.missing("must provide at least one DNS nameserver when `dnsPolicy` is None"));
            return;
        }
    }
    if servers.items().count() > 3 {
        errors.push(servers.invalid("must not have more than 3 nameservers"));
    }
    servers.items().for_each(|server| ip(&server, errors));
    let all: Vec<&str> = config.value.texts("searches").collect();
    if all.len() > 32 {
        errors.push(searches.invalid("must not have more than 32 search paths"));
    }
    if all.join(" ").len() > 2048 {
        errors.push(searches.invalid("must not have more than 2048 characters (including spaces) in the search list"));
    }
    for search in searches.items().filter(|s| s.text() != ".") {
        let name = search.text().trim_end_matches('.');
        errors.extend(search_path(name).map(|e| FieldError::invalid(&search.path, name, e)));
    }
    for option in config.child("options").items().filter(|o| o.value.is_zero("name")) {
        errors.push(option.missing("must not be empty"));
    }
}

/// What is wrong with a DNS search path, whose labels may begin with and contain underscores.
fn search_path(name: &str) -> Option<String> {
    const MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
        and must start and end with an alphanumeric character";
    const REGEX: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    let plain = name.strip_prefix('_').unwrap_or(name).replace('_', "-");
    (!names::dns1123_subdomain(&plain).is_empty()).then(|| names::regex_error(MESSAGE, REGEX, &["example.com"]))
}

fn host_name(spec: &Field<'_>, errors: &mut Errors) {
    let name = spec.child("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if spec.value.flag("setHostnameAsFQDN") {
        errors.push(name.forbidden("may not be specified when setHostnameAsFQDN is true"));
    }
    if spec.value.flag("hostNetwork") {
        errors.push(name.forbidden("may not be specified when hostNetwork is true"));
    }
    if name.text().len() > 64 {
        errors.push(FieldError::too_long(&name.path, 64));
    }
    name.checked(names::dns1123_subdomain, errors);
}

fn file_key_volumes(spec: &Field<'_>, errors: &mut Errors) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.child(list).items() {
            for variable in container.child("env").items() {
                let from = variable.child("valueFrom");
                let file = from.child("fileKeyRef");
                if !file.is_set() {
                    continue;
                }
                let name = file.child("volumeName");
                match spec.value.items("volumes").iter().find(|v| v.text("name") == name.text()) {
                    None => errors.push(FieldError::not_found(&name.path, name.text())),
                    Some(volume) if !volume.has("emptyDir") => {
                        errors.push(name.invalid("referenced volume must be of type emptyDir"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 \
    if it was previously negative)";

/// A changed pod: hardly anything of its spec may change.
// upstream: ValidatePodUpdate
pub(crate) fn update(new: &Value, old: &Value) -> Errors {
    let mut errors = metadata_and_spec(new);
    let (at, before) = (Field::root(new, "spec"), old.field("spec"));
    for list in ["containers", "initContainers"] {
        let containers = at.child(list);
        if containers.items().count() != before.items(list).len() {
            errors.push(containers.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
        for container in containers.items() {
            container.child("image").required("", &mut errors);
            no_padding(&container, &mut errors);
        }
    }
    let deadline = at.child("activeDeadlineSeconds");
    let old_deadline = before.field("activeDeadlineSeconds");
    if deadline.is_set() {
        if !(0..=i64::from(i32::MAX)).contains(&deadline.int()) {
            errors.push(deadline.invalid(format!("must be between 0 and {}, inclusive", i32::MAX)));
            return errors;
        }
        if old_deadline.as_i64().is_some_and(|old| old < deadline.int()) {
            errors.push(deadline.invalid("must be less than or equal to previous value"));
            return errors;
        }
    } else if !old_deadline.is_null() {
        errors.push(deadline.invalid("must not update from a positive integer to nil value"));
    }
    only_added_tolerations(&at.child("tolerations"), before.items("tolerations"), &mut errors);
    only_deleted_gates(&at.child("schedulingGates"), before.items("schedulingGates"), &mut errors);
    if same(at.value, before) {
        return errors;
    }
    let allowed = with_allowed_changes_undone(at.value, before);
    if !same(&allowed, before) {
        let changes = crate::diff::internal("api.core.v1.PodSpec", before, &allowed);
        errors.push(at.forbidden(format!("pod updates may not change fields other than {UPDATABLE}\n{changes}")));
    }
    errors
}

/// `new` with the old values of all that an update may change.
fn with_allowed_changes_undone(new: &Value, old: &Value) -> Value {
    let Some(mut spec) = new.as_object().cloned() else { return new.clone() };
    let keep = |spec: &mut Map<String, Value>, field: &str| match old.get(field) {
        Some(value) => _ = spec.insert(field.to_owned(), value.clone()),
        None => _ = spec.remove(field),
    };
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, old) in containers.zip(old.items(list)) {
            container["image"] = old.field("image").clone();
        }
    }
    let mut fields = vec!["activeDeadlineSeconds", "schedulingGates", "tolerations"];
    if old.int("terminationGracePeriodSeconds") < 0 && new.int("terminationGracePeriodSeconds") == 1 {
        fields.push("terminationGracePeriodSeconds");
    }
    let gated = !old.is_zero("schedulingGates");
    if gated {
        let additions = old.entries("nodeSelector").all(|(key, value)| new.field("nodeSelector").field(key) == value);
        if additions {
            fields.push("nodeSelector");
        }
        if old.field("affinity").is_zero("nodeAffinity") {
            fields.push("affinity");
        }
    }
    for field in fields {
        keep(&mut spec, field);
    }
    Value::Object(spec)
}

fn only_added_tolerations(new: &Field<'_>, old: &[Value], errors: &mut Errors) {
    let alike = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|field| a.text(field) == b.text(field))
    };
    if old.iter().any(|old| !new.items().any(|new| alike(new.value, old))) {
        errors.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
        return;
    }
    tolerations(new, errors);
}

fn only_deleted_gates(new: &Field<'_>, old: &[Value], errors: &mut Errors) {
    for gate in new.items() {
        let name = gate.value.text("name");
        if !old.iter().any(|o| o.text("name") == name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(gate.child("name").forbidden(text));
        }
    }
}

/// A changed status.
// upstream: ValidatePodStatusUpdate
pub(crate) fn update_status(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    let (status, before) = (Field::root(new, "status"), old.field("status"));
    let mut seen = Vec::new();
    for condition in status.child("conditions").items() {
        let kind = condition.child("type");
        if kind.text().contains('/') || !kind.text().is_empty() {
            kind.checked(names::qualified_name, &mut errors);
        }
        seen.push(condition.value.text("type"));
    }
    let nominated = status.child("nominatedNodeName");
    if !nominated.is_zero() && nominated.text() != before.text("nominatedNodeName") {
        nominated.checked(names::dns1123_subdomain, &mut errors);
        if !old.field("spec").is_zero("nodeName") {
            errors.push(nominated.forbidden("may not be set on pods that are already bound to a node"));
        }
    }
    let generation = status.child("observedGeneration");
    if generation.int() < 0 {
        errors.push(generation.invalid("must be a non-negative integer"));
    }
    status.child("qosClass").immutable(before.field("qosClass"), &mut errors);
    for list in ["podIPs", "hostIPs"] {
        let addresses = status.child(list);
        for address in addresses.items() {
            ip(&Field { path: address.path, value: address.value.field("ip") }, &mut errors);
        }
        let given: Vec<&str> = addresses.value.as_array().into_iter().flatten().map(|a| a.text("ip")).collect();
        let same_family = given.len() == 2 && given[0].contains(':') == given[1].contains(':');
        if given.len() > 2 || same_family {
            errors.push(addresses.invalid("may specify no more than one IP for each IP family"));
        }
    }
    errors
}

/// Changed ephemeral containers: more of them, and those that there are stay.
// upstream: ValidatePodEphemeralContainersUpdate
pub(crate) fn update_ephemeral_containers(new: &Value, old: &Value) -> Errors {
    let mut errors = metadata_and_spec(new);
    let at = Field::root(new, "spec");
    let list = at.child("ephemeralContainers");
    for before in old.field("spec").items("ephemeralContainers") {
        let name = before.text("name");
        match list.items().find(|c| c.value.text("name") == name) {
            None => errors.push(list.forbidden(format!("existing ephemeral containers {name:?} may not be removed\n"))),
            Some(now) if !same(now.value, before) => {
                let changes = crate::diff::internal("api.core.v1.EphemeralContainer", before, now.value);
                let text = format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
                errors.push(list.forbidden(text));
            }
            Some(_) => {}
        }
    }
    errors
}

fn invalid_claim(claim: &Field<'_>, why: &str) -> FieldError {
    FieldError::invalid(&claim.path, internal("api.core.v1.PodResourceClaim", claim.value), why)
}
