//! Validation of services.
use super::common::{self, cidr, endpoint_ip, labels, port_number_or_name, unique};
use super::field::{Errors, Field};
use crate::value::{Read, is_zero};
use pintle_api::field::{BadValue, FieldError, Path};
use pintle_api::names;
use serde_json::Value;
use std::net::IpAddr;

/// Whether the cluster IPs, their families and their policy go together.
// upstream: ValidateServiceClusterIPsRelatedFields
pub(crate) fn cluster_ips(service: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(service, "spec"));
    if spec.value.text("type") == "ExternalName" {
        return errors;
    }
    let (first, list) = (spec.value.text("clusterIP"), spec.child("clusterIPs"));
    let ips: Vec<&str> = spec.value.texts("clusterIPs").collect();
    if first.is_empty() {
        if !ips.is_empty() {
            errors.push(list.invalid("must be empty when `clusterIP` is not specified"));
        }
    } else if ips.is_empty() {
        errors.push(list.missing(""));
    } else if ips[0] != first {
        errors.push(list.invalid("first value must match `clusterIP`"));
    }
    let families = spec.child("ipFamilies");
    let mut seen = Vec::new();
    for family in families.items() {
        family.one_of(&["IPv4", "IPv6"], &mut errors);
        if seen.contains(&family.text()) {
            errors.push(FieldError::duplicate(&family.path, family.value));
        }
        seen.push(family.text());
    }
    let policy = spec.child("ipFamilyPolicy");
    if policy.is_set() {
        policy.one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"], &mut errors);
    }
    let mut addresses = Vec::new();
    for (i, ip) in list.items().enumerate() {
        if i == 0 && ip.text() == "None" {
            if ips.len() > 1 {
                errors.push(list.invalid("'None' must be the first and only value"));
                return errors;
            }
            continue;
        }
        common::ip(&ip, &mut errors);
        addresses.extend(ip.text().parse::<IpAddr>());
    }
    if ips.len() > 2 {
        errors.push(list.invalid("may only hold up to 2 values"));
    }
    if first == "None" || addresses.len() != ips.len() {
        return errors;
    }
    if let [a, b, ..] = addresses[..]
        && (addresses.len() > 2 || a.is_ipv4() == b.is_ipv4())
    {
        errors.push(list.invalid("may specify no more than one IP for each IP family"));
    }
    for (i, (ip, family)) in list.items().zip(seen).enumerate() {
        let is_v6 = ip.text().contains(':');
        if (family == "IPv4" && is_v6) || (family == "IPv6" && !is_v6) {
            let expected = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(ip.invalid(expected));
        }
    }
    errors
}

fn is_headless(spec: &Value) -> bool {
    spec.items("clusterIPs").first().is_some_and(|ip| ip == "None")
}

/// A new service.
// upstream: validateService
pub(crate) fn create(service: &Value) -> Errors {
    // Upstream allocates the addresses before it judges the rest.
    let mut errors = cluster_ips(service);
    if !errors.is_empty() {
        return errors;
    }
    let at = Field::root(service, "spec");
    let spec = at.value;
    let kind = spec.text("type");
    let headless = is_headless(spec);
    let list = at.child("ports");
    if list.is_zero() && !headless && kind != "ExternalName" {
        errors.push(list.missing(""));
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let ips = at.child("clusterIPs");
        let text = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid(&ips.path.index(0), "None", text));
    }
    if kind == "ExternalName" {
        for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].iter().map(|f| at.child(f)).filter(|f| !f.is_zero())
        {
            errors.push(field.forbidden("may not be set for ExternalName services"));
        }
        let name = at.child("externalName");
        let text = name.text().trim_end_matches('.');
        if text.is_empty() {
            errors.push(name.missing(""));
        } else {
            errors.extend(names::dns1123_subdomain(text).into_iter().map(|e| FieldError::invalid(&name.path, text, e)));
        }
    }
    each_port(&list, &mut errors);
    labels(&at.child("selector"), &mut errors);
    session_affinity(&at, &mut errors);
    for ip in at.child("externalIPs").items() {
        let before = errors.len();
        common::ip(&ip, &mut errors);
        if errors.len() == before {
            endpoint_ip(&ip, &mut errors);
        }
    }
    at.child("type").required_one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &mut errors);
    port_numbers(&list, kind, &mut errors);
    source_ranges(service, &at, &mut errors);
    if kind != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"].iter().map(|f| at.child(f)) {
            if field.is_set() {
                errors.push(field.forbidden("may only be used when `type` is 'LoadBalancer'"));
            }
        }
    } else if spec.has("loadBalancerClass") {
        at.child("loadBalancerClass").checked(names::qualified_name, &mut errors);
    }
    traffic_policies(&at, &mut errors);
    errors
}

fn each_port(list: &Field<'_>, errors: &mut Errors) {
    let several = list.items().count() > 1;
    let mut seen = Vec::new();
    for port in list.items() {
        let name = port.child("name");
        if !name.is_zero() {
            name.checked(names::dns1123_label, errors);
            unique(&mut seen, &name, errors);
        } else if several {
            errors.push(name.missing(""));
        }
        let number = port.child("port");
        let wrong = names::port_number(number.int()).into_iter();
        errors.extend(wrong.map(|e| FieldError::invalid(&number.path, number.int(), e)));
        port.child("protocol").required_one_of(&["SCTP", "TCP", "UDP"], errors);
        port_number_or_name(&port.child("targetPort"), errors);
        port.child("appProtocol").checked(names::qualified_name, errors);
    }
}

fn session_affinity(at: &Field<'_>, errors: &mut Errors) {
    let (affinity, config) = (at.child("sessionAffinity"), at.child("sessionAffinityConfig"));
    affinity.required_one_of(&["ClientIP", "None"], errors);
    match affinity.text() {
        "ClientIP" => {
            let client = config.child("clientIP");
            let timeout = client.child("timeoutSeconds");
            let missing = [&config, &client, &timeout].into_iter().find(|f| !f.is_set());
            if let Some(field) = missing {
                errors.push(field.missing("when session affinity type is ClientIP"));
            } else if !(1..=86400).contains(&timeout.int()) {
                errors.push(timeout.invalid("must be greater than 0 and less than 86400"));
            }
        }
        "None" if config.is_set() => {
            errors.push(config.forbidden("must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn port_numbers(list: &Field<'_>, kind: &str, errors: &mut Errors) {
    let used = |port: &Field<'_>| !port.value.is_zero("nodePort");
    if kind == "ClusterIP" {
        for port in list.items().filter(used) {
            errors.push(port.child("nodePort").forbidden("may not be used when `type` is 'ClusterIP'"));
        }
    }
    let mut seen = Vec::new();
    for port in list.items().filter(used) {
        let key = (port.value.text("protocol").to_owned(), port.value.int("nodePort"));
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&port.child("nodePort").path, key.1));
        }
        seen.push(key);
    }
    seen.clear();
    for port in list.items() {
        let key = (port.value.text("protocol").to_owned(), port.value.int("port"));
        if seen.contains(&key) {
            let (protocol, number) = &key;
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{protocol}\",\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errors.push(FieldError::duplicate(&port.path, BadValue::json(shown)));
        }
        seen.push(key);
    }
}

fn source_ranges(service: &Value, at: &Field<'_>, errors: &mut Errors) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let other = at.value.text("type") != "LoadBalancer";
    let ranges = Field { value: at.value.field("loadBalancerSourceRanges"), ..at.child("LoadBalancerSourceRanges") };
    if !ranges.is_zero() {
        if other {
            errors.push(ranges.forbidden(only));
        }
        for range in ranges.items() {
            cidr(&range, errors);
        }
        return;
    }
    let Some(text) = service.field("metadata").field("annotations").field(ANNOTATION).as_str() else { return };
    let annotations = Path::root("metadata.annotations");
    let path = annotations.key(ANNOTATION);
    if other {
        errors.push(FieldError::forbidden(&path, only));
    }
    for range in text.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        cidr(&Field { value: &Value::from(range), path }, errors);
    }
}

fn traffic_policies(at: &Field<'_>, errors: &mut Errors) {
    let spec = at.value;
    let kind = spec.text("type");
    let accessible =
        matches!(kind, "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && !spec.is_zero("externalIPs"));
    let external = at.child("externalTrafficPolicy");
    if accessible {
        external.required_one_of(&["Cluster", "Local"], errors);
    } else if !external.is_zero() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let health_check = at.child("healthCheckNodePort");
    let checked = kind == "LoadBalancer" && external.text() == "Local";
    if !checked && !health_check.is_zero() {
        let text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(health_check.invalid(text));
    }
    let internal = at.child("internalTrafficPolicy");
    if internal.is_set() {
        internal.one_of(&["Cluster", "Local"], errors);
    } else if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        errors.push(internal.missing(""));
    }
    let distribution = at.child("trafficDistribution");
    if distribution.is_set() {
        distribution.one_of(&["PreferClose", "PreferSameZone", "PreferSameNode"], errors);
    }
}

/// A changed service: its addresses stay.
// upstream: ValidateServiceUpdate
pub(crate) fn update(new: &Value, old: &Value) -> Errors {
    let (mut errors, at) = (Errors::new(), Field::root(new, "spec"));
    let (spec, before) = (at.value, old.field("spec"));
    let named = spec.text("type") == "ExternalName" || before.text("type") == "ExternalName";
    let (headless, was_headless) = (is_headless(spec), is_headless(before));
    let always_headless = headless && was_headless;
    if !named && !always_headless {
        kept(&at, before, "clusterIPs", "primary clusterIP can not be unset", "clusterIP", &mut errors);
    }
    // The API server fills in the family after this, so that an update that names another one fails on the address.
    let families = spec.items("ipFamilies").len();
    if !named && !headless && !was_headless && families > 0 && families != before.items("ipFamilies").len() {
        kept(&at, before, "ipFamilies", "primary ipFamily can not be unset", "ipFamily", &mut errors);
    }
    let balanced = |spec: &Value| spec.text("type") == "LoadBalancer";
    let class = at.child("loadBalancerClass");
    if balanced(spec) && balanced(before) && class.value != before.field("loadBalancerClass") {
        errors.push(class.invalid("may not change once set"));
    }
    let checked = |spec: &Value| balanced(spec) && spec.text("externalTrafficPolicy") == "Local";
    let port = at.child("healthCheckNodePort");
    if checked(spec) && checked(before) && port.value != before.field("healthCheckNodePort") {
        errors.push(port.forbidden("field is immutable"));
    }
    errors.extend(create(new));
    errors
}

/// The entries of a list of at most two stay, but that the second may be added or released.
fn kept(at: &Field<'_>, before: &Value, list: &str, unset: &str, what: &str, errors: &mut Errors) {
    let (now, then) = (at.child(list), before.items(list));
    let items = at.value.items(list);
    let path = |i: usize| if what == "ipFamily" { 0 } else { i };
    if items.len() == then.len() {
        for i in (0..then.len()).filter(|&i| items[i] != then[i]) {
            errors.push(FieldError::invalid(&now.path.index(path(i)), now.value, "may not change once set"));
        }
        return;
    }
    if items.is_empty() {
        errors.push(FieldError::invalid(&now.path.index(0), now.value, unset));
    } else if !then.is_empty() && items[0] != then[0] {
        errors.push(FieldError::invalid(&now.path.index(0), now.value, "may not change once set"));
    }
    let policy = at.child("ipFamilyPolicy");
    if items.len() == 1 && then.len() > 1 && policy.text() != "SingleStack" {
        errors.push(policy.invalid(format!("must be set to 'SingleStack' when releasing the secondary {what}")));
    }
}

/// A changed status of a service.
pub(crate) fn update_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    let balancer = status.child("loadBalancer");
    let points = balancer.child("ingress");
    if new.field("spec").text("type") != "LoadBalancer" && !points.is_zero() {
        errors.push(points.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    for point in points.items() {
        load_balancer_point(&point, &mut errors);
        let mode = point.child("ipMode");
        match (mode.is_set(), is_zero(point.value.field("ip"))) {
            (false, false) => errors.push(mode.missing("must be specified when `ip` is set")),
            (true, true) => errors.push(mode.forbidden("may not be specified when `ip` is not set")),
            (true, false) => mode.one_of(&["Proxy", "VIP"], &mut errors),
            (false, true) => {}
        }
    }
    errors
}

/// An address or name at which a load balancer answers.
pub(super) fn load_balancer_point(point: &Field<'_>, errors: &mut Errors) {
    let (ip, host) = (point.child("ip"), point.child("hostname"));
    if !ip.is_zero() {
        common::ip(&ip, errors);
    }
    if !host.is_zero() {
        host.checked(names::dns1123_subdomain, errors);
        if host.text().parse::<IpAddr>().is_ok() {
            errors.push(host.invalid("must be a DNS name, not an IP address"));
        }
    }
}
