//! Ingresses, IngressClasses, NetworkPolicies, service ranges and EndpointSlices.
use super::common::{cidr, domain_prefixed_path, endpoint_ip, internal, ip, label_selector};
use super::field::{Errors, Field};
use super::service::load_balancer_point;
use crate::value::{Read, same};
use ipnet::IpNet;
use pintle_api::{field::FieldError, names};
use serde_json::Value;
use std::net::IpAddr;

/// A new Ingress.
pub(crate) fn ingress(object: &Value) -> Errors {
    let mut errors = ingress_update(object, &Value::Null);
    let class = object.field("spec").field("ingressClassName");
    const ANNOTATION: &str = "kubernetes.io/ingress.class";
    if let (Some(annotation), Some(class)) =
        (object.field("metadata").field("annotations").field(ANNOTATION).as_str(), class.as_str())
        && annotation != class
    {
        let annotations = pintle_api::field::Path::root("annotations");
        let text = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(&annotations.child(ANNOTATION), annotation, text));
    }
    errors
}

/// A changed Ingress.
pub(crate) fn ingress_update(new: &Value, _old: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(new, "spec"));
    let (rules, backend) = (spec.child("rules"), spec.child("defaultBackend"));
    if rules.is_zero() && !backend.is_set() {
        let text = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&spec.path, rules.value, text));
    }
    if backend.is_set() {
        ingress_backend(&backend, &mut errors);
    }
    rules.items().for_each(|rule| ingress_rule(&rule, &mut errors));
    for tls in spec.child("tls").items() {
        tls.child("hosts").items().for_each(|host| host_name(&host, &mut errors));
        let secret = tls.child("secretName");
        if !secret.is_zero() {
            secret.checked(names::dns1123_subdomain, &mut errors);
        }
    }
    spec.child("ingressClassName").checked(names::dns1123_subdomain, &mut errors);
    errors
}

fn host_name(host: &Field<'_>, errors: &mut Errors) {
    let check = if host.text().contains('*') { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain };
    errors.extend(check(host.text()).into_iter().map(|e| FieldError::invalid(&host.path, host.text(), e)));
}

fn ingress_rule(rule: &Field<'_>, errors: &mut Errors) {
    let host = rule.child("host");
    if !host.is_zero() {
        if host.text().parse::<IpAddr>().is_ok() {
            errors.push(host.invalid("must be a DNS name, not an IP address"));
        }
        host_name(&host, errors);
    }
    let http = rule.child("http");
    if !http.is_set() {
        return;
    }
    let paths = http.child("paths");
    paths.required("", errors);
    for path in paths.items() {
        let (kind, text) = (path.child("pathType"), path.child("path"));
        if !kind.is_set() {
            errors.push(kind.missing("pathType must be specified"));
            continue;
        }
        let invalid = |why: String| FieldError::invalid(&text.path, text.text(), why);
        match kind.text() {
            "Exact" | "Prefix" => {
                if !text.text().starts_with('/') {
                    errors.push(invalid("must be an absolute path".into()));
                }
                for sequence in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|s| text.text().contains(*s)) {
                    errors.push(invalid(format!("must not contain '{sequence}'")));
                }
                for end in ["/..", "/."].iter().filter(|s| text.text().ends_with(*s)) {
                    errors.push(invalid(format!("cannot end with '{end}'")));
                }
            }
            "ImplementationSpecific" => {
                if !text.is_zero() && !text.text().starts_with('/') {
                    errors.push(invalid("must be an absolute path".into()));
                }
            }
            _ => kind.one_of(&["Exact", "ImplementationSpecific", "Prefix"], errors),
        }
        ingress_backend(&path.child("backend"), errors);
    }
}

fn ingress_backend(backend: &Field<'_>, errors: &mut Errors) {
    let (resource, service) = (backend.child("resource"), backend.child("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => {
            errors.push(FieldError::invalid(&backend.path, "", "cannot set both resource and service backends"));
        }
        (true, false) => {
            for field in ["kind", "name"].iter().map(|f| resource.child(f)) {
                field.required_checked(names::path_segment, errors);
            }
        }
        (false, true) => {
            service.child("name").required_checked(names::dns1123_label, errors);
            let port = service.child("port");
            let (name, number) = (port.child("name"), port.child("number"));
            match (name.is_zero(), number.is_zero()) {
                (false, false) => {
                    errors.push(FieldError::invalid(&backend.path, "", "cannot set both port name & port number"));
                }
                (false, true) => name.checked(names::port_name, errors),
                (true, false) => {
                    errors.extend(names::port_number(number.int()).into_iter().map(|e| number.invalid(e)));
                }
                (true, true) => errors.push(backend.missing("port name or number is required")),
            }
        }
        (false, false) => {
            errors.push(FieldError::invalid(&backend.path, "", "resource or service backend is required"));
        }
    }
}

/// A changed status of an Ingress.
pub(crate) fn ingress_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    let balancer = status.child("loadBalancer");
    balancer.child("ingress").items().for_each(|point| load_balancer_point(&point, &mut errors));
    errors
}

/// A new IngressClass.
pub(crate) fn ingress_class(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let controller = spec.child("controller");
    if controller.text().len() > 250 {
        errors.push(FieldError::too_long(&controller.path, 250));
    }
    if controller.is_zero() {
        errors.push(controller.missing(""));
    } else {
        domain_prefixed_path(&controller, &mut errors);
    }
    let parameters = spec.child("parameters");
    if !parameters.is_set() {
        return errors;
    }
    let group = parameters.child("apiGroup");
    group.checked(names::dns1123_subdomain, &mut errors);
    for field in ["kind", "name"].iter().map(|f| parameters.child(f)) {
        field.required_checked(names::path_segment, &mut errors);
    }
    let (scope, namespace) = (parameters.child("scope"), parameters.child("namespace"));
    if !scope.is_set() {
        errors.push(scope.missing(""));
        return errors;
    }
    match scope.text() {
        "Namespace" if namespace.is_set() => namespace.checked(names::dns1123_label, &mut errors),
        "Namespace" => namespace.required("`parameters.scope` is set to 'Namespace'", &mut errors),
        "Cluster" if !namespace.is_zero() => {
            errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
        }
        _ => scope.one_of(&["Cluster", "Namespace"], &mut errors),
    }
    errors
}

/// A changed IngressClass.
pub(crate) fn ingress_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Field::root(new, "spec");
    spec.child("controller").immutable(old.field("spec").field("controller"), &mut errors);
    errors.extend(ingress_class(new));
    errors
}

/// A new or changed NetworkPolicy.
pub(crate) fn network_policy(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    label_selector(&spec.child("podSelector"), &mut errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.child(direction).items() {
            rule.child("ports").items().for_each(|port| policy_port(&port, &mut errors));
            rule.child(peers).items().for_each(|peer| policy_peer(&peer, &mut errors));
        }
    }
    let types = spec.child("policyTypes");
    if types.items().count() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return errors;
    }
    types.items().for_each(|kind| kind.one_of(&["Ingress", "Egress"], &mut errors));
    errors
}

fn policy_port(port: &Field<'_>, errors: &mut Errors) {
    let (protocol, number, end) = (port.child("protocol"), port.child("port"), port.child("endPort"));
    if protocol.is_set() {
        protocol.one_of(&["TCP", "UDP", "SCTP"], errors);
    }
    if let Some(name) = number.value.as_str() {
        if end.is_set() {
            errors.push(end.invalid("may not be specified when `port` is non-numeric"));
        }
        errors.extend(names::port_name(name).into_iter().map(|e| number.invalid(e)));
    } else if number.is_set() {
        errors.extend(names::port_number(number.int()).into_iter().map(|e| number.invalid(e)));
        if end.is_set() {
            if end.int() < number.int() {
                // upstream: the value shown is the port
                errors.push(FieldError::invalid(&end.path, number.int(), "must be greater than or equal to `port`"));
            }
            errors.extend(names::port_number(end.int()).into_iter().map(|e| end.invalid(e)));
        }
    } else if end.is_set() {
        errors.push(end.invalid("may not be specified when `port` is not specified"));
    }
}

fn policy_peer(peer: &Field<'_>, errors: &mut Errors) {
    let mut found = 0;
    for selector in ["podSelector", "namespaceSelector"].iter().map(|s| peer.child(s)) {
        if selector.is_set() {
            found += 1;
            label_selector(&selector, errors);
        }
    }
    let block = peer.child("ipBlock");
    if block.is_set() {
        found += 1;
        ip_block(&block, errors);
    }
    if found == 0 {
        errors.push(peer.missing("must specify a peer"));
    } else if found > 1 && block.is_set() {
        errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
    }
}

fn ip_block(block: &Field<'_>, errors: &mut Errors) {
    let whole = block.child("cidr");
    if whole.is_zero() {
        errors.push(whole.missing(""));
        return;
    }
    let Some(net) = cidr(&whole, errors) else { return };
    for part in block.child("except").items() {
        let inside = |part: &IpNet| net.contains(part) && part.prefix_len() > net.prefix_len();
        if cidr(&part, errors).is_some_and(|p| !inside(&p)) {
            errors.push(part.invalid("must be a strict subset of `cidr`"));
        }
    }
}

/// A new ServiceCIDR.
/// A new IPAddress: what it is the address of.
// upstream: validateIPAddressParentReference
pub(crate) fn ip_address(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let parent = spec.child("parentRef");
    if !parent.is_set() {
        errors.push(parent.missing(""));
        return errors;
    }
    let (group, namespace) = (parent.child("group"), parent.child("namespace"));
    if !group.is_zero() {
        group.checked(names::dns1123_subdomain, &mut errors);
    }
    for field in ["resource", "name"] {
        parent.child(field).required_checked(names::path_segment, &mut errors);
    }
    if !namespace.is_zero() {
        namespace.checked(names::path_segment, &mut errors);
    }
    errors
}

/// A changed IPAddress: its parent stays.
pub(crate) fn ip_address_update(new: &Value, old: &Value) -> Errors {
    let (mut errors, spec) = (ip_address(new), Field::root(new, "spec"));
    let (parent, before) = (spec.child("parentRef"), old.field("spec").field("parentRef"));
    if !same(parent.value, before) {
        let shown = match parent.is_set() {
            true => internal("api.networking.v1.ParentReference", parent.value),
            false => parent.value.into(),
        };
        errors.push(FieldError::invalid(&parent.path, shown, "field is immutable"));
    }
    errors
}

/// A new ServiceCIDR.
pub(crate) fn service_cidr(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let list = spec.child("cidrs");
    let count = list.items().count();
    if count == 0 {
        errors.push(list.missing("at least one CIDR required"));
        return errors;
    }
    if count > 2 {
        errors.push(list.invalid("may only hold up to 2 values"));
        return errors;
    }
    let parsed: Vec<IpNet> = list.items().filter_map(|c| cidr(&c, &mut errors)).collect();
    if matches!(parsed[..], [a, b] if a.addr().is_ipv4() == b.addr().is_ipv4()) {
        errors.push(
            list.invalid("may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"),
        );
    }
    errors
}

/// A changed ServiceCIDR.
pub(crate) fn service_cidr_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    let (spec, before) = (Field::root(new, "spec"), old.field("spec").items("cidrs"));
    let ranges = spec.child("cidrs");
    let count = ranges.items().count();
    let grows = before.len() == 1 && count == 2;
    if before.len() != count && !grows {
        ranges.immutable(old.field("spec").field("cidrs"), &mut errors);
        return errors;
    }
    for (range, was) in ranges.items().zip(before).filter(|(range, was)| range.value != *was) {
        range.immutable(was, &mut errors);
    }
    if grows {
        errors.extend(service_cidr(new));
    }
    errors
}

/// A new EndpointSlice.
pub(crate) fn endpoint_slice(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let kind = Field::root(object, "addressType");
    kind.required_one_of(&["FQDN", "IPv4", "IPv6"], &mut errors);
    let mut seen = Vec::new();
    for port in Field::root(object, "ports").items() {
        let name = port.child("name");
        if !name.is_zero() {
            name.checked(names::dns1123_label, &mut errors);
        }
        super::common::unique(&mut seen, &name, &mut errors);
        port.child("protocol").required_one_of(&["SCTP", "TCP", "UDP"], &mut errors);
        port.child("appProtocol").checked(names::qualified_name, &mut errors);
    }
    let list = Field::root(object, "endpoints");
    let count = list.items().count();
    if count > 1000 {
        errors.push(FieldError::too_many(&list.path, count, 1000));
        return errors;
    }
    list.items().for_each(|endpoint| endpoint_rules(&endpoint, kind.text(), &mut errors));
    errors
}

fn endpoint_rules(endpoint: &Field<'_>, kind: &str, errors: &mut Errors) {
    let addresses = endpoint.child("addresses");
    let count = addresses.items().count();
    if count == 0 {
        errors.push(addresses.missing("must contain at least 1 address"));
    } else if count > 100 {
        errors.push(FieldError::too_many(&addresses.path, count, 100));
    }
    for address in addresses.items().filter(|_| kind == "IPv4" || kind == "IPv6") {
        let before = errors.len();
        ip(&address, errors);
        if errors.len() > before {
            continue;
        }
        if address.text().contains(':') != (kind == "IPv6") {
            errors.push(FieldError::invalid(&addresses.path, address.text(), format!("must be an {kind} address")));
        }
        endpoint_ip(&address, errors);
    }
    endpoint.child("nodeName").checked(names::dns1123_subdomain, errors);
    endpoint.child("hostname").checked(names::dns1123_label, errors);
    let hints = endpoint.child("hints");
    let mut seen = Vec::new();
    let nodes = hints.child("forNodes");
    let mut seen_nodes = Vec::new();
    for node in nodes.items() {
        let name = node.child("name");
        super::common::unique(&mut seen_nodes, &name, errors);
        name.text_checked(names::dns1123_subdomain, errors);
    }
    for zone in hints.child("forZones").items() {
        let name = zone.child("name");
        super::common::unique(&mut seen, &name, errors);
        name.text_checked(names::label_value, errors);
    }
}

/// A changed EndpointSlice.
pub(crate) fn endpoint_slice_update(new: &Value, old: &Value) -> Errors {
    let mut errors = endpoint_slice(new);
    if new.field("endpoints") == old.field("endpoints") {
        // What was stored may stay.
        errors.retain(|error| !error.field.starts_with("endpoints"));
    }
    Field::root(new, "addressType").immutable(old.field("addressType"), &mut errors);
    errors
}
