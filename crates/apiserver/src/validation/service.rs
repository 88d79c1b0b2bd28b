//! Validation of services.
use super::field::{Errors, Field};
use crate::value::Read;
use pintle_api::field::FieldError;
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
        match ip.text().parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => errors.push(ip.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")),
        }
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
