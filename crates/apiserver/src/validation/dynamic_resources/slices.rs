//! ResourceSlices: the devices that a driver offers.
use super::super::field::{Errors, Field};
use super::super::scheduling::node_selector;
use super::{EFFECTS, driver_name, pool_name, qualified, unique, within};
use crate::validation::common::{internal, quantity};
use crate::value::{Read, same};
use pintle_api::{field::FieldError, names};
use serde_json::Value;

const MAX_DEVICES: usize = 128;
/// The most devices where any of them has taints, consumes counters or has attributes with lists.
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_ATTRIBUTES: usize = 32;
const MAX_VALUES: usize = 48;
const MAX_TAINTS: usize = 16;
const MAX_TEXT: usize = 64;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];
const NODES: [&str; 3] = ["nodeName", "nodeSelector", "allNodes"];

/// A new ResourceSlice.
pub(crate) fn slice(object: &Value) -> Errors {
    judge(object, None)
}

/// A changed ResourceSlice: pool, driver and node stay.
pub(crate) fn slice_update(new: &Value, old: &Value) -> Errors {
    judge(new, Some(old))
}

/// Warnings about a ResourceSlice.
pub(crate) fn warnings(object: &Value) -> Vec<String> {
    let driver = object.field("spec").text("driver");
    if driver.chars().any(char::is_uppercase) {
        let quoted = pintle_api::field::go_quote(driver);
        return vec![format!("spec.driver: driver names should be lowercase; {quoted} contains uppercase characters")];
    }
    Vec::new()
}

fn judge(object: &Value, old: Option<&Value>) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let (driver, pool) = (spec.child("driver"), spec.child("pool"));
    driver_name(&driver, &mut errors);
    pool_name(&pool.child("name"), &mut errors);
    for (field, positive) in [("resourceSliceCount", true), ("generation", false)] {
        let number = pool.child(field);
        if number.int() < i64::from(positive) {
            let text = if positive { "must be greater than zero" } else { "must be greater than or equal to zero" };
            errors.push(FieldError::invalid(&number.path, number.int(), text));
        }
    }
    if let Some(before) = old.map(|old| old.field("spec")) {
        pool.child("name").immutable(before.field("pool").field("name"), &mut errors);
        driver.immutable(before.field("driver"), &mut errors);
        spec.child("nodeName").immutable(before.field("nodeName"), &mut errors);
    }
    let places = [NODES[0], NODES[1], NODES[2], "perDeviceNodeSelection"];
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let found = nodes(&spec, &places, "must be either unset or set to a non-empty string", &mut errors);
    let selector = spec.child("nodeSelector");
    if selector.is_set() && selector.value.items("nodeSelectorTerms").len() != 1 {
        errors.push(selector.child("nodeSelectorTerms").invalid("must have exactly one node selector term"));
    }
    one_of(&spec, &found, ONE, &mut errors);
    let (devices, counters) = (spec.child("devices"), spec.child("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        errors.push(FieldError::invalid(&spec.path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let most = if devices.items().any(|device| is_advanced(device.value)) { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    if within(&devices, most, &mut errors) {
        let before = |name: &str| {
            let list = old.map_or(&[][..], |old| old.field("spec").items("devices"));
            list.iter().find(|device| device.text("name") == name)
        };
        for item in devices.items() {
            let kept =
                before(item.value.text("name")).is_some_and(|o| same(o.field("taints"), item.value.field("taints")));
            device(&item, spec.value.flag("perDeviceNodeSelection"), kept, &mut errors);
        }
        unique(&devices, |device| device.text("name").to_owned(), &mut errors);
    }
    if within(&counters, 8, &mut errors) {
        for set in counters.items() {
            set.child("name").required_checked(names::dns1123_label, &mut errors);
            counter_map(&set.child("counters"), &mut errors);
        }
        unique(&counters, |set| set.text("name").to_owned(), &mut errors);
    }
    errors
}

fn is_advanced(device: &Value) -> bool {
    let has_lists = |attribute: &Value| LISTS.iter().any(|list| attribute.has(list));
    !device.is_zero("taints")
        || !device.is_zero("consumesCounters")
        || device.entries("attributes").any(|(_, attribute)| has_lists(attribute))
}

/// Judges the fields that say where devices are; those that say so.
fn nodes<'a>(at: &Field<'_>, fields: &[&'a str], empty: &str, errors: &mut Errors) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in fields.iter().copied() {
        let field = at.child(name);
        match name {
            _ if !field.is_set() => continue,
            "nodeName" if field.text().is_empty() => {
                errors.push(FieldError::invalid(&field.path, "", empty));
                continue;
            }
            "nodeName" => field.checked(names::dns1123_subdomain, errors),
            "nodeSelector" => node_selector(&field, errors),
            _ if field.flag() => {}
            _ => {
                errors.push(field.invalid("must be either unset or set to true"));
                continue;
            }
        }
        found.push(name);
    }
    found
}

fn one_of(at: &Field<'_>, found: &[&str], text: &str, errors: &mut Errors) {
    match found {
        [] => errors.push(at.missing(text)),
        [_] => {}
        _ => {
            let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
            let shown = format!("{{{}}}", names.join(", "));
            errors.push(FieldError::invalid(&at.path, shown, format!("{text}, but multiple fields are set")));
        }
    }
}

fn device(device: &Field<'_>, per_device: bool, taints_kept: bool, errors: &mut Errors) {
    device.child("name").text_checked(names::dns1123_label, errors);
    let (attributes, capacity) = (device.child("attributes"), device.child("capacity"));
    let count = attributes.entries().count() + capacity.entries().count();
    if count > MAX_ATTRIBUTES {
        let text = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.push(FieldError::invalid(&device.path, count, text));
    }
    let values = |attribute: &Value| LISTS.iter().map(|list| attribute.items(list).len()).sum::<usize>().max(1);
    let count: usize = attributes.entries().map(|(_, attribute)| values(attribute.value)).sum();
    if count > MAX_VALUES {
        let text = format!("the total number of attribute values must not exceed {MAX_VALUES}");
        errors.push(FieldError::invalid(&device.path, count, text));
    }
    for (name, entry) in attributes.entries() {
        qualified(name, &attributes.path, errors);
        attribute(&entry, errors);
    }
    for (name, amount) in capacity.entries() {
        qualified(name, &capacity.path, errors);
        let policy = amount.child("requestPolicy");
        if policy.is_set() && device.value.flag("allowMultipleAllocations") {
            request_policy(&amount, &policy, errors);
        } else if policy.is_set() {
            errors.push(policy.forbidden("allowMultipleAllocations must be true"));
        }
    }
    let taints = device.child("taints");
    if !taints_kept && within(&taints, MAX_TAINTS, errors) {
        taints.items().for_each(|entry| taint(&entry, errors));
    }
    let consumed = device.child("consumesCounters");
    if within(&consumed, 2, errors) {
        for set in consumed.items() {
            set.child("counterSet").required_checked(names::dns1123_label, errors);
            counter_map(&set.child("counters"), errors);
        }
        unique(&consumed, |set| set.text("counterSet").to_owned(), errors);
    }
    if per_device {
        let found = nodes(device, &NODES, "must not be empty", errors);
        let one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                   `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        match found[..] {
            [_, _, ..] => {
                let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
                errors.push(FieldError::invalid(&device.path, format!("{{{}}}", names.join(", ")), one));
            }
            _ => one_of(device, &found, one, errors),
        }
    } else if NODES.iter().any(|field| device.value.has(field)) {
        let text = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to \
                    true in the ResourceSlice spec";
        errors.push(FieldError::invalid(&device.path, &Value::Null, text));
    }
    binding_conditions(device, errors);
}

fn attribute(attribute: &Field<'_>, errors: &mut Errors) {
    let mut count = ["bool", "int"].iter().filter(|kind| attribute.value.has(kind)).count();
    for (one, many, check) in
        [("string", "strings", text as fn(&Field<'_>, &mut Errors)), ("version", "versions", version)]
    {
        let field = attribute.child(one);
        if field.is_set() {
            count += 1;
            check(&field, errors);
        }
        attribute.child(many).items().for_each(|item| check(&item, errors));
    }
    for list in LISTS.iter().map(|list| attribute.child(list)).filter(Field::is_set) {
        count += 1;
        if list.items().next().is_none() {
            errors.push(list.invalid("must not be empty if specified"));
        }
    }
    match count {
        0 => errors.push(FieldError::invalid(&attribute.path, "", "exactly one value must be specified")),
        1 => {}
        _ => {
            let shown = internal("api.resource.v1.DeviceAttribute", attribute.value);
            errors.push(FieldError::invalid(&attribute.path, shown, "exactly one value must be specified"));
        }
    }
}

fn text(field: &Field<'_>, errors: &mut Errors) {
    if field.text().len() > MAX_TEXT {
        errors.push(FieldError::too_long(&field.path, MAX_TEXT));
    }
}

fn version(field: &Field<'_>, errors: &mut Errors) {
    if !is_semantic_version(field.text()) {
        errors.push(field.invalid("must be a string compatible with semver.org spec 2.0.0"));
    }
    text(field, errors);
}

fn is_semantic_version(version: &str) -> bool {
    let (rest, build) = version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, release) = rest.split_once('-').map_or((rest, None), |(core, release)| (core, Some(release)));
    let number = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let identifier = |part: &str| word(part) && (!part.chars().all(|c| c.is_ascii_digit()) || number(part));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|release| release.split('.').all(identifier))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn request_policy(amount: &Field<'_>, policy: &Field<'_>, errors: &mut Errors) {
    let (values, range, default) = (policy.child("validValues"), policy.child("validRange"), policy.child("default"));
    let most = quantity(amount.value.field("value"));
    if !values.is_zero() && range.is_set() {
        let text =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        errors.push(policy.forbidden(text));
        return;
    }
    let kind = if !values.is_zero() { "validValues" } else { "validRange" };
    if !policy.value.has(kind) {
        return;
    }
    if !default.is_set() {
        errors.push(default.missing(format!("required when {kind} is defined")));
        return;
    }
    let wanted = quantity(default.value);
    if kind == "validRange" {
        request_range(&range, wanted, most, errors);
        return;
    }
    let listed: Vec<_> = values.items().map(|value| quantity(value.value)).collect();
    for (i, pair) in listed.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let at = values.path.index(i + 1);
            errors.push(FieldError::invalid(&at, pair[1].to_string(), "values must be sorted in ascending order"));
        }
    }
    if within(&values, 10, errors) {
        for option in values.items() {
            let value = quantity(option.value);
            if value > most {
                let text = format!("option is larger than capacity value: {most}");
                errors.push(FieldError::invalid(&option.path, value.to_string(), text));
            }
        }
        unique(&values, |value| quantity(value).value().to_string(), errors);
    }
    if !listed.contains(&wanted) {
        let text = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(&values.path, wanted.to_string(), text));
    }
}

fn request_range(
    range: &Field<'_>,
    wanted: pintle_api::quantity::Quantity,
    most: pintle_api::quantity::Quantity,
    errors: &mut Errors,
) {
    let (low, high, step) = (range.child("min"), range.child("max"), range.child("step"));
    if !low.is_set() {
        errors.push(low.missing("required when validRange is defined"));
        return;
    }
    let (min, max) = (quantity(low.value), quantity(high.value));
    let mut complain = |at: &Field<'_>, value: pintle_api::quantity::Quantity, text: String| {
        errors.push(FieldError::invalid(&at.path, value.to_string(), text));
    };
    if min > most {
        complain(&low, min, format!("min is larger than capacity value: {most}"));
    }
    if wanted < min {
        complain(&low, wanted, format!("default is less than min: {min}"));
    }
    if high.is_set() {
        if min > max {
            complain(&high, min, format!("min is larger than max: {max}"));
        }
        if max > most {
            complain(&high, max, format!("max is larger than capacity value: {most}"));
        }
        if wanted > max {
            complain(&high, wanted, format!("default is more than max: {max}"));
        }
    }
    if step.is_set() {
        let size = quantity(step.value);
        let fits = |value: pintle_api::quantity::Quantity| {
            let distance = value.value() - min.value();
            distance.checked_rem(size.value()).is_none_or(|rest| rest == 0)
        };
        for value in [Some(wanted), high.is_set().then_some(max)].into_iter().flatten().filter(|value| !fits(*value)) {
            complain(&step, value, format!("value is not a multiple of a given step ({size}) from ({min})"));
        }
    }
}

fn taint(taint: &Field<'_>, errors: &mut Errors) {
    taint.child("key").text_checked(names::qualified_name, errors);
    let value = taint.child("value");
    if !value.is_zero() {
        value.checked(names::label_value, errors);
    }
    taint.child("effect").required_one_of(&EFFECTS, errors);
}

fn counter_map(counters: &Field<'_>, errors: &mut Errors) {
    let count = counters.entries().count();
    if count == 0 {
        errors.push(counters.missing(""));
    } else if count > 32 {
        errors.push(FieldError::too_many(&counters.path, count, 32));
    } else {
        for (name, _) in counters.entries() {
            let wrong = names::dns1123_label(name).into_iter();
            errors.extend(wrong.map(|e| FieldError::invalid(&counters.path, name, e)));
        }
    }
}

/// The conditions that a device waits for, and those that mean that it failed.
pub(super) fn binding_conditions(device: &Field<'_>, errors: &mut Errors) {
    let (wanted, failures) = (device.child("bindingConditions"), device.child("bindingFailureConditions"));
    for list in [&wanted, &failures] {
        if within(list, 4, errors) {
            list.items().for_each(|name| name.checked(names::qualified_name, errors));
        }
    }
    unique(&wanted, |name| name.as_str().unwrap_or_default().to_owned(), errors);
    unique(&failures, |name| name.as_str().unwrap_or_default().to_owned(), errors);
    for failure in failures.items() {
        if wanted.items().any(|name| name.text() == failure.text()) {
            errors.push(failure.invalid("bindingFailureConditions must not overlap with bindingConditions"));
        }
    }
    match (wanted.is_zero(), failures.is_zero()) {
        (true, false) => errors.push(wanted.invalid("bindingConditions are required to use bindingFailureConditions")),
        (false, true) => {
            errors.push(failures.invalid("bindingFailureConditions are required to use bindingConditions"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice_with(device: Value) -> Value {
        let pool = json!({"name": "n", "resourceSliceCount": 1});
        json!({"spec": {"driver": "d.io", "pool": pool, "nodeName": "n", "devices": [device]}})
    }

    fn texts(errors: Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_attribute_has_one_value() {
        assert!(
            slice(&slice_with(json!({"name": "a", "attributes": {"x": {"int": 1}, "d.io/y": {"string": "s"}}})))
                .is_empty()
        );
        assert_eq!(
            texts(slice(&slice_with(json!({"name": "a", "attributes": {"x": {}}})))),
            ["spec.devices[0].attributes[x]: Invalid value: \"\": exactly one value must be specified"]
        );
        let version = json!({"name": "a", "attributes": {"x": {"version": "1.2"}}});
        assert_eq!(
            texts(slice(&slice_with(version))),
            [
                "spec.devices[0].attributes[x].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0"
            ]
        );
    }

    #[test]
    fn versions_are_semantic() {
        for good in ["1.2.3", "0.0.0", "1.2.3-alpha.1", "1.2.3+b.01", "1.2.3-0a"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", ""] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }

    #[test]
    fn a_slice_belongs_to_one_place() {
        let mut object = slice_with(json!({"name": "a"}));
        object["spec"]["allNodes"] = json!(true);
        let wrong = texts(slice(&object));
        assert!(wrong[0].contains("Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of"), "{wrong:?}");
    }

    #[test]
    fn pool_driver_and_node_of_a_slice_stay() {
        let (old, mut new) = (slice_with(json!({"name": "a"})), slice_with(json!({"name": "a"})));
        new["spec"]["driver"] = json!("e.io");
        assert_eq!(texts(slice_update(&new, &old)), ["spec.driver: Invalid value: \"e.io\": field is immutable"]);
    }
}
