//! The status of ResourceClaims: what is allocated, for whom, and what drivers tell of it. Start at [`claim_status`].
use super::{
    MAX_ENTRIES, MAX_REQUESTS, Requests, configuration, driver_name, parameters, pool_name, request_reference,
    request_references, requests, slices, unique, within,
};
use crate::validation::conditions;
use crate::validation::field::{Errors, Field};
use crate::validation::scheduling::node_selector;
use crate::value::{Fill, Object, Read, same};
use pintle_api::field::{FieldError, go_quote};
use pintle_api::names;
use serde_json::Value;
use std::net::{Ipv4Addr, Ipv6Addr};

const MAX_CONSUMERS: usize = 256;

/// A device, with the share of it that is meant.
fn id(device: &Value) -> String {
    let id = ["driver", "pool", "device"].map(|field| device.text(field)).join("/");
    if device.has("shareID") { format!("{id}/{}", device.text("shareID")) } else { id }
}

/// The devices that are allocated.
fn allocated(status: &Value) -> Vec<String> {
    status.field("allocation").field("devices").items("results").iter().map(id).collect()
}

/// Removes the status of devices that an update gives back.
// upstream: dropDeallocatedStatusDevices
pub(crate) fn drop_deallocated(new: &mut Object, old: &Value) {
    let (before, now) = (allocated(old.field("status")), allocated(new.field("status")));
    let gone = |device: &Value| before.contains(&id(device)) && !now.contains(&id(device));
    let Some(status) = new.child("status") else { return };
    let left: Vec<Value> = status.items("devices").iter().filter(|device| !gone(device)).cloned().collect();
    if left.is_empty() {
        status.remove("devices");
    } else {
        status.set("devices", left);
    }
}

/// A changed status of a ResourceClaim.
pub(crate) fn claim_status(new: &Value, old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    let before = old.field("status");
    let spec = Field::root(new, "spec");
    let devices = spec.child("devices");
    let requests = requests(&devices);
    let (reserved, allocation) = (status.child("reservedFor"), status.child("allocation"));
    if within(&reserved, MAX_CONSUMERS, &mut errors) {
        for consumer in reserved.items() {
            for field in ["resource", "name", "uid"] {
                consumer.child(field).required("", &mut errors);
            }
        }
        unique(&reserved, |consumer| consumer.text("uid").to_owned(), &mut errors);
    }
    let (allocated, devices) = (allocated(status.value), status.child("devices"));
    for device in devices.items() {
        device_status(&device, allocated.contains(&id(device.value)), &id(device.value), &mut errors);
    }
    unique(&devices, id, &mut errors);
    if !reserved.is_zero() {
        let was = before.items("reservedFor");
        let added = reserved.items().any(|consumer| !was.iter().any(|old| same(old, consumer.value)));
        if !allocation.is_set() {
            errors.push(reserved.forbidden("may not be specified when `allocated` is not set"));
        } else if new.field("metadata").has("deletionTimestamp") && added {
            let text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(reserved.forbidden(text));
        }
    }
    if before.has("allocation") && allocation.is_set() {
        allocation.immutable(before.field("allocation"), &mut errors);
    } else if allocation.is_set() {
        allocation_result(&allocation, &requests, &mut errors);
    }
    errors
}

fn device_status(device: &Field<'_>, allocated: bool, id: &str, errors: &mut Errors) {
    driver_name(&device.child("driver"), errors);
    pool_name(&device.child("pool"), errors);
    device.child("device").text_checked(names::dns1123_label, errors);
    let share = device.child("shareID");
    if share.is_set() {
        uuid(&share, errors);
    }
    if !allocated {
        errors.push(FieldError::invalid(&device.path, id, "must be an allocated device in the claim"));
    }
    let list = device.child("conditions");
    within(&list, 8, errors);
    conditions::conditions(&list, errors);
    let data = device.child("data");
    if data.is_set() {
        parameters(&data, errors);
    }
    let network = device.child("networkData");
    for (field, limit) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        let text = network.child(field);
        if text.text().len() > limit {
            errors.push(FieldError::too_long(&text.path, limit));
        }
    }
    let addresses = network.child("ips");
    if within(&addresses, 16, errors) {
        addresses.items().for_each(|address| interface_address(&address, errors));
        unique(&addresses, |address| address.as_str().unwrap_or_default().to_owned(), errors);
    }
}

/// A UUID, as the API writes them.
fn uuid(field: &Field<'_>, errors: &mut Errors) {
    let text = field.text();
    if let Err(why) = parse_uuid(text) {
        errors.push(FieldError::invalid(&field.path, text, format!("error validating uid: {why}")));
    } else if text.len() != 36 || text != text.to_lowercase() {
        let form = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                    hexadecimal characters";
        errors.push(FieldError::invalid(&field.path, text, form));
    }
}

/// The forms of UUIDs that upstream's parser takes: plain, `urn:uuid:`, in braces, without hyphens.
fn parse_uuid(text: &str) -> Result<(), String> {
    const FORMAT: &str = "invalid UUID format";
    let bare = match (text.len(), text.as_bytes()) {
        (36 | 32, _) => text,
        (45, bytes) if bytes[..9].eq_ignore_ascii_case(b"urn:uuid:") => text.get(9..).ok_or(FORMAT)?,
        (45, _) => return Err(format!("invalid urn prefix: {}", go_quote(text.get(..9).unwrap_or_default()))),
        (38, [b'{', .., b'}']) => text.get(1..37).ok_or(FORMAT)?,
        (38, _) => return Err("invalid bracketed UUID format".to_owned()),
        (length, _) => return Err(format!("invalid UUID length: {length}")),
    };
    let hyphen = |at: usize| bare.len() == 36 && matches!(at, 8 | 13 | 18 | 23);
    let valid =
        bare.bytes().enumerate().all(|(at, byte)| if hyphen(at) { byte == b'-' } else { byte.is_ascii_hexdigit() });
    if valid { Ok(()) } else { Err(FORMAT.to_owned()) }
}

/// An address of an interface with its prefix, in canonical form.
// upstream: IsValidInterfaceAddress
fn interface_address(field: &Field<'_>, errors: &mut Errors) {
    let text = field.text();
    match sloppy_cidr(text) {
        None => {
            let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errors.push(FieldError::invalid(&field.path, text, why));
        }
        Some(canonical) if canonical == text => {}
        Some(canonical) => {
            let why = format!("must be in canonical form ({})", go_quote(&canonical));
            errors.push(FieldError::invalid(&field.path, text, why));
        }
    }
}

/// The canonical form of an address with prefix; leading zeros are ignored in IPv4.
fn sloppy_cidr(text: &str) -> Option<String> {
    let (address, prefix) = text.split_once('/')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let prefix: u8 = prefix.parse().ok().filter(|_| digits(prefix))?;
    if address.contains(':') {
        let ip: Ipv6Addr = address.parse().ok()?;
        let mapped = ip.to_ipv4_mapped();
        return match mapped {
            _ if prefix > 128 => None,
            Some(ip) => Some(format!("{ip}/{}", if prefix > 32 { prefix.saturating_sub(96) } else { prefix })),
            None => Some(format!("{ip}/{prefix}")),
        };
    }
    let octets: Vec<u8> = address.split('.').map(|o| o.parse().ok().filter(|_| digits(o))).collect::<Option<_>>()?;
    let ip = Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?);
    (prefix <= 32).then(|| format!("{ip}/{prefix}"))
}

fn allocation_result(allocation: &Field<'_>, requests: &Requests<'_>, errors: &mut Errors) {
    let devices = allocation.child("devices");
    let (results, config) = (devices.child("results"), devices.child("config"));
    if within(&results, MAX_REQUESTS, errors) {
        for result in results.items() {
            request_reference(&result.child("request"), requests, errors);
            driver_name(&result.child("driver"), errors);
            pool_name(&result.child("pool"), errors);
            result.child("device").text_checked(names::dns1123_label, errors);
            slices::binding_conditions(&result, errors);
            let share = result.child("shareID");
            if share.is_set() {
                uuid(&share, errors);
            }
        }
    }
    if within(&config, 2 * MAX_ENTRIES, errors) {
        for entry in config.items() {
            let source = entry.child("source");
            source.required_one_of(&["FromClaim", "FromClass"], errors);
            request_references(&entry.child("requests"), requests, errors);
            configuration(&entry, errors);
        }
    }
    let selector = allocation.child("nodeSelector");
    if selector.is_set() {
        node_selector(&selector, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn uuids_have_one_form() {
        let id = "0a6e9cc2-9b3f-4a2e-8d9c-0123456789ab";
        let texts = |text: &str| {
            let (value, mut errors) = (json!({ "shareID": text }), Errors::new());
            uuid(&Field::root(&value, "shareID"), &mut errors);
            errors.into_iter().map(|error| error.detail).collect::<Vec<_>>()
        };
        assert!(texts(id).is_empty());
        for other in [id.to_uppercase(), format!("{{{id}}}"), format!("urn:uuid:{id}"), id.replace('-', "")] {
            assert!(texts(&other)[0].starts_with("uid must be in RFC 4122 normalized form"), "{other}");
        }
        assert_eq!(texts("x"), ["error validating uid: invalid UUID length: 1"]);
        assert_eq!(texts(&id.replace('a', "g")), ["error validating uid: invalid UUID format"]);
    }

    #[test]
    fn addresses_of_interfaces_are_canonical() {
        for (text, canonical) in [
            ("10.9.8.7/24", Some("10.9.8.7/24")),
            ("010.9.8.7/24", Some("10.9.8.7/24")),
            ("2001:db8:0::1/64", Some("2001:db8::1/64")),
            ("::ffff:192.168.0.1/120", Some("192.168.0.1/24")),
            ("10.9.8.7", None),
            ("10.9.8.7/33", None),
            ("10.9.8/24", None),
        ] {
            assert_eq!(sloppy_cidr(text).as_deref(), canonical, "{text}");
        }
    }

    #[test]
    fn devices_that_are_given_back_lose_their_status() {
        let device = |name: &str| json!({"driver": "d.io", "pool": "p", "device": name});
        let claim = |results: Value, devices: Value| json!({"status": {"allocation": {"devices": {"results": results}}, "devices": devices}});
        let old = claim(json!([device("a"), device("b")]), json!([device("a"), device("b")]));
        let mut new = claim(json!([device("b")]), json!([device("a"), device("b")]));
        drop_deallocated(crate::value::object_of(&mut new), &old);
        assert_eq!(new["status"]["devices"], json!([device("b")]));
    }
}
