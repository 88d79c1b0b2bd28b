//! Rules that many kinds share: names in fields, labels and selectors, IP addresses, paths, quantities.
use super::field::{Errors, Field};
use crate::value::Read;
use ipnet::IpNet;
use pintle_api::{
    facts,
    field::{BadValue, FieldError},
    names,
    quantity::Quantity,
};
use serde_json::Value;
use std::net::IpAddr;

/// A negative number where none may be.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// A zero or negative number where none may be.
pub(crate) const POSITIVE: &str = "must be greater than zero";

/// The keys and values of a map of labels.
pub(crate) fn labels(map: &Field<'_>, errors: &mut Errors) {
    for (key, value) in map.value.as_object().into_iter().flatten() {
        errors.extend(names::qualified_name(key).into_iter().map(|e| FieldError::invalid(&map.path, key.as_str(), e)));
        let text = value.as_str().unwrap_or_default();
        errors.extend(names::label_value(text).into_iter().map(|e| FieldError::invalid(&map.path, text, e)));
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn label_selector(selector: &Field<'_>, errors: &mut Errors) {
    if !selector.is_set() {
        return;
    }
    labels(&selector.child("matchLabels"), errors);
    for requirement in selector.child("matchExpressions").items() {
        let (operator, values) = (requirement.child("operator"), requirement.child("values"));
        match operator.text() {
            "In" | "NotIn" => values.required("must be specified when `operator` is 'In' or 'NotIn'", errors),
            "Exists" | "DoesNotExist" if values.is_zero() => {}
            "Exists" | "DoesNotExist" => {
                errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            _ => errors.push(FieldError::invalid(&operator.path, operator.text(), "not a valid selector operator")),
        }
        requirement.child("key").text_checked(names::qualified_name, errors);
        values.items().for_each(|value| value.checked(names::label_value, errors));
    }
}

/// `value` as upstream prints its internal type of this name.
pub(crate) fn internal(ty: &str, value: &Value) -> BadValue {
    match facts::by_name(ty) {
        Some(ty) => BadValue::json(facts::go::internal(ty, value)),
        None => BadValue::from(value),
    }
}

/// A label selector as upstream prints it.
pub(crate) fn selector_json(selector: &Value) -> BadValue {
    go_struct(selector, &[("matchLabels", "matchLabels"), ("matchExpressions", "matchExpressions")], false)
}

/// `value` as upstream prints a struct whose Go fields have these names (first) and JSON names (second); missing ones as
/// null if `all`.
pub(crate) fn go_struct(value: &Value, fields: &[(&str, &str)], all: bool) -> BadValue {
    if value.is_null() {
        return BadValue::json("null");
    }
    let shown = fields.iter().filter(|(_, json)| all || value.has(json));
    let fields: Vec<String> = shown.map(|(go, json)| format!("\"{go}\":{}", value.field(json))).collect();
    BadValue::json(format!("{{{}}}", fields.join(",")))
}

/// Whether a selector (of a workload) selects nothing in particular.
pub(crate) fn is_empty_selector(selector: &Value) -> bool {
    selector.is_zero("matchLabels") && selector.is_zero("matchExpressions")
}

/// What is wrong with an IP address in a field of before 1.36, judged strictly.
pub(crate) fn ip(address: &Field<'_>, errors: &mut Errors) {
    if address.text().parse::<IpAddr>().is_err() {
        let octets: Vec<&str> = address.text().split('.').collect();
        let padded = octets.len() == 4 && octets.iter().all(|o| o.parse::<u8>().is_ok());
        errors.push(FieldError::invalid(
            &address.path,
            address.text(),
            if padded {
                "must not have leading 0s"
            } else {
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            },
        ));
    }
}

/// What is wrong with a range of addresses.
pub(crate) fn cidr(range: &Field<'_>, errors: &mut Errors) -> Option<IpNet> {
    let parsed = range.text().trim().parse::<IpNet>().ok();
    match parsed {
        None => errors.push(FieldError::invalid(
            &range.path,
            range.text(),
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        )),
        Some(net) if net.trunc() != net => errors.push(FieldError::invalid(
            &range.path,
            range.text(),
            "must not have bits set beyond the prefix length",
        )),
        Some(_) => {}
    }
    parsed
}

/// An address that traffic can be sent to.
// upstream: ValidateEndpointIP
pub(crate) fn endpoint_ip(address: &Field<'_>, errors: &mut Errors) {
    let Ok(ip) = address.text().parse::<IpAddr>() else {
        errors.push(FieldError::invalid(&address.path, address.text(), "must be a valid IP address"));
        return;
    };
    let (link_local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    let unspecified = format!("may not be unspecified ({ip})");
    for (wrong, text) in [
        (ip.is_unspecified(), unspecified.as_str()),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        if wrong {
            errors.push(FieldError::invalid(&address.path, address.text(), text));
        }
    }
}

/// A name such as `acme.io/foo`.
pub(crate) fn domain_prefixed_path(name: &Field<'_>, errors: &mut Errors) {
    let text = name.text();
    let Some((host, path)) = text.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(name.invalid(text));
        return;
    };
    for wrong in names::dns1123_subdomain(host) {
        errors.push(FieldError::invalid(&name.path, host, wrong));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:/@%".contains(c);
    if !path.chars().all(allowed) {
        errors.push(FieldError::invalid(&name.path, path, "Invalid path"));
    }
}

/// A path that does not leave the directory it is in.
pub(crate) fn no_backsteps(path: &Field<'_>, errors: &mut Errors) {
    if path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

/// A relative path that does not leave the directory it is in.
pub(crate) fn descending_path(path: &Field<'_>, errors: &mut Errors) {
    if path.text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    no_backsteps(path, errors);
}

/// As [`descending_path`], and not one of the names that the kubelet keeps for itself.
pub(crate) fn non_reserved_path(path: &Field<'_>, errors: &mut Errors) {
    descending_path(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        errors.push(path.invalid("must not start with '..'"));
    }
}

/// A port by number or by name.
pub(crate) fn port_number_or_name(port: &Field<'_>, errors: &mut Errors) {
    let wrong = match port.value.as_str() {
        Some(name) => names::port_name(name),
        None => names::port_number(port.int()),
    };
    let value = if port.is_set() { port.value.clone() } else { Value::from(0) };
    errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&port.path, &value, e)));
}

/// A number that must be positive.
pub(crate) fn positive(number: &Field<'_>, errors: &mut Errors) {
    if number.int() <= 0 {
        errors.push(FieldError::invalid(&number.path, number.int(), POSITIVE));
    }
}

/// A user or group id.
pub(crate) fn id(number: &Field<'_>, errors: &mut Errors) {
    if number.is_set() && !(0..=i64::from(i32::MAX)).contains(&number.int()) {
        errors.push(number.invalid(format!("must be between 0 and {}, inclusive", i32::MAX)));
    }
}

/// The amount in a field; zero if there is none.
pub(crate) fn quantity(value: &Value) -> Quantity {
    Quantity::from_value(value).unwrap_or(Quantity::ZERO)
}

/// An amount that must not be negative.
pub(crate) fn nonnegative_quantity(amount: &Field<'_>, errors: &mut Errors) {
    if quantity(amount.value).sign() < 0 {
        errors.push(amount.invalid(NOT_NEGATIVE));
    }
}

/// The names of a list of objects.
pub(crate) fn names_of(list: &Field<'_>) -> Vec<String> {
    list.items().map(|item| item.value.text("name").to_owned()).collect()
}

/// A name in `list` that appeared before is a duplicate; empty names are judged elsewhere.
pub(crate) fn unique(seen: &mut Vec<String>, name: &Field<'_>, errors: &mut Errors) {
    if seen.iter().any(|s| s == name.text()) {
        errors.push(FieldError::duplicate(&name.path, name.text()));
    } else {
        seen.push(name.text().to_owned());
    }
}
