//! Dynamic resource allocation: ResourceClaims, their templates, DeviceClasses; [`status`] has what is allocated, [`slices`]
//! what drivers publish.
// upstream: pkg/apis/resource/validation
pub(crate) mod slices;
pub(crate) mod status;

use super::common::internal;
use super::field::{Errors, Field};
use super::resources::is_extended;
use super::volumes::csi_driver as driver_name;
use crate::value::{Read, same};
use pintle_api::{
    field::{FieldError, Path},
    names,
};
use pintle_cel::{Env, Type};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The most requests in a claim, and results of its allocation.
const MAX_REQUESTS: usize = 32;
/// The most constraints, configurations and selectors in one list.
const MAX_ENTRIES: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_EXPRESSION: usize = 10 << 10;
const MAX_PARAMETERS: usize = 10 << 10;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const NAME_OF_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The names of a claim's requests, with those of their alternatives.
type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// A new ResourceClaim.
pub(crate) fn claim(object: &Value) -> Errors {
    let mut errors = Errors::new();
    claim_spec(&Field::root(object, "spec"), &mut errors);
    errors
}

/// A changed ResourceClaim: its spec stays.
pub(crate) fn claim_update(new: &Value, old: &Value) -> Errors {
    immutable("api.resource.v1.ResourceClaimSpec", new, old)
}

/// The spec, of this type, must be what it was.
fn immutable(ty: &str, new: &Value, old: &Value) -> Errors {
    let spec = Field::root(new, "spec");
    if same(spec.value, old.field("spec")) {
        return Errors::new();
    }
    vec![FieldError::invalid(&spec.path, internal(ty, spec.value), "field is immutable")]
}

/// A new ResourceClaimTemplate.
pub(crate) fn template(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let metadata = spec.child("metadata");
    super::pod::labels_and_annotations(&metadata, metadata.value, &mut errors);
    for (name, field) in metadata.entries().filter(|(name, _)| !matches!(*name, "labels" | "annotations")) {
        if !field.is_zero() {
            // upstream derives the path from the name of the Go field
            let name = if name == "uid" { "uID" } else { name };
            errors.push(metadata.child(name).forbidden("cannot be set"));
        }
    }
    claim_spec(&spec.child("spec"), &mut errors);
    errors
}

/// A changed ResourceClaimTemplate: its spec stays.
pub(crate) fn template_update(new: &Value, old: &Value) -> Errors {
    let mut errors = template(new);
    errors.extend(immutable("api.resource.v1.ResourceClaimTemplateSpec", new, old));
    errors
}

/// A new DeviceClass.
pub(crate) fn device_class(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    selectors(&spec.child("selectors"), &mut errors);
    let config = spec.child("config");
    if within(&config, MAX_ENTRIES, &mut errors) {
        config.items().for_each(|entry| configuration(&entry, &mut errors));
    }
    let name = spec.child("extendedResourceName");
    if name.is_set() && !is_extended(name.text()) {
        errors.push(name.invalid("must be a valid extended resource name"));
    }
    errors
}

fn requests<'a>(devices: &Field<'a>) -> Requests<'a> {
    let list = devices.value.items("requests").iter();
    list.map(|request| {
        let alternatives = request.items("firstAvailable").iter().map(|r| r.text("name")).collect();
        (request.text("name"), alternatives)
    })
    .collect()
}

fn claim_spec(spec: &Field<'_>, errors: &mut Errors) {
    let devices = spec.child("devices");
    let known = requests(&devices);
    let list = devices.child("requests");
    if within(&list, MAX_REQUESTS, errors) {
        list.items().for_each(|request| device_request(&request, errors));
        unique(&list, |request| request.text("name").to_owned(), errors);
    }
    let constraints = devices.child("constraints");
    if within(&constraints, MAX_ENTRIES, errors) {
        for constraint in constraints.items() {
            request_references(&constraint.child("requests"), &known, errors);
            let (same, distinct) = (constraint.child("matchAttribute"), constraint.child("distinctAttribute"));
            if same.is_set() {
                fully_qualified(&same, errors);
            } else if distinct.is_set() {
                fully_qualified(&distinct, errors);
            } else {
                errors.push(constraint.missing(
                    "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                ));
            }
        }
    }
    let config = devices.child("config");
    if within(&config, MAX_ENTRIES, errors) {
        for entry in config.items() {
            request_references(&entry.child("requests"), &known, errors);
            configuration(&entry, errors);
        }
    }
}

fn device_request(request: &Field<'_>, errors: &mut Errors) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    request.child("name").text_checked(names::dns1123_label, errors);
    let (exactly, first) = (request.child("exactly"), request.child("firstAvailable"));
    match (exactly.is_set(), first.items().next().is_some()) {
        (false, false) => errors.push(request.missing(ONE)),
        (true, true) => {
            let text = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid(&request.path, &Value::Null, text));
        }
        (true, false) => exact_request(&exactly, errors),
        (false, true) => {
            if within(&first, MAX_ALTERNATIVES, errors) {
                for alternative in first.items() {
                    alternative.child("name").text_checked(names::dns1123_label, errors);
                    exact_request(&alternative, errors);
                }
                unique(&first, |request| request.text("name").to_owned(), errors);
            }
        }
    }
}

fn exact_request(request: &Field<'_>, errors: &mut Errors) {
    request.child("deviceClassName").required_checked(names::dns1123_subdomain, errors);
    selectors(&request.child("selectors"), errors);
    let (mode, count) = (request.child("allocationMode"), request.child("count"));
    match mode.text() {
        "All" if count.int() != 0 => {
            errors.push(count.invalid("must not be specified when allocationMode is 'All'"));
        }
        "ExactCount" if count.int() <= 0 => {
            errors.push(FieldError::invalid(&count.path, count.int(), "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        _ => mode.one_of(&["All", "ExactCount"], errors),
    }
    request.child("tolerations").items().for_each(|t| toleration(&t, errors));
}

fn toleration(toleration: &Field<'_>, errors: &mut Errors) {
    let (key, value) = (toleration.child("key"), toleration.child("value"));
    if !key.is_zero() {
        key.checked(names::qualified_name, errors);
    }
    let operator = toleration.child("operator");
    match operator.text() {
        "Exists" if !value.is_zero() => errors.push(value.invalid("must be empty for operator `Exists`")),
        "Exists" => {}
        "Equal" => value.text_checked(names::label_value, errors),
        _ => operator.required_one_of(&["Equal", "Exists"], errors),
    }
    let effect = toleration.child("effect");
    if !effect.is_zero() {
        effect.one_of(&EFFECTS, errors);
    }
}

fn selectors(list: &Field<'_>, errors: &mut Errors) {
    if !within(list, MAX_ENTRIES, errors) {
        return;
    }
    for selector in list.items() {
        let cel = selector.child("cel");
        if !cel.is_set() {
            errors.push(cel.missing(""));
            continue;
        }
        let expression = cel.child("expression");
        if expression.text().len() > MAX_EXPRESSION {
            errors.push(FieldError::too_long(&expression.path, MAX_EXPRESSION));
        } else if let Err(why) = compiled(expression.text()) {
            errors.push(FieldError::invalid(&expression.path, expression.text(), why));
        }
    }
}

/// What a device selector knows.
static DEVICE: LazyLock<Env> = LazyLock::new(|| {
    let by_domain = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
    let device = Type::object(
        "kubernetes.DRADevice",
        [
            ("driver", Type::String),
            ("allowMultipleAllocations", Type::Bool),
            ("attributes", by_domain(Type::Dyn)),
            ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
        ],
    );
    Env::new().variable("device", device)
});

/// Whether a device selector is an expression that tells yes or no.
// upstream: k8s.io/dynamic-resource-allocation/cel, CompileCELExpression
fn compiled(expression: &str) -> Result<(), String> {
    if expression.contains("cel.bind(") {
        return Ok(()); // the checker of types does not know names that an expression binds
    }
    let program = DEVICE.compile(expression).map_err(|error| format!("compilation failed: {error}"))?;
    match program.output() {
        Type::Bool | Type::Dyn => Ok(()),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}

fn request_references(list: &Field<'_>, known: &Requests<'_>, errors: &mut Errors) {
    if within(list, MAX_REQUESTS, errors) {
        list.items().for_each(|name| request_reference(&name, known, errors));
        unique(list, |name| name.as_str().unwrap_or_default().to_owned(), errors);
    }
}

fn request_reference(name: &Field<'_>, known: &Requests<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = name.text().split('/').collect();
    if parts.len() > 2 {
        errors.push(FieldError::invalid(&name.path, name.text(), NAME_OF_REQUEST));
        return;
    }
    for part in &parts {
        errors.extend(names::dns1123_label(part).into_iter().map(|e| FieldError::invalid(&name.path, *part, e)));
    }
    let found = match parts[..] {
        [request] => known.contains_key(request),
        [request, alternative] => known.get(request).is_some_and(|names| names.contains(alternative)),
        _ => false,
    };
    if !found {
        errors.push(FieldError::invalid(&name.path, name.text(), NAME_OF_REQUEST));
    }
}

fn configuration(entry: &Field<'_>, errors: &mut Errors) {
    let opaque = entry.child("opaque");
    if !opaque.is_set() {
        errors.push(opaque.missing(""));
        return;
    }
    driver_name(&opaque.child("driver"), errors);
    parameters(&opaque.child("parameters"), errors);
}

fn parameters(data: &Field<'_>, errors: &mut Errors) {
    if !data.is_set() {
        errors.push(data.missing(""));
    } else if data.value.to_string().len() > MAX_PARAMETERS {
        errors.push(FieldError::too_long(&data.path, MAX_PARAMETERS));
    } else if !data.value.is_object() {
        errors.push(FieldError::invalid(&data.path, "<value omitted>", "must be a valid JSON object"));
    }
}

/// The name of a pool: DNS subdomains with slashes between.
fn pool_name(name: &Field<'_>, errors: &mut Errors) {
    if name.is_zero() {
        errors.push(name.missing(""));
        return;
    }
    if name.text().len() > 253 {
        errors.push(FieldError::too_long(&name.path, 253));
    }
    for part in name.text().split('/') {
        errors.extend(names::dns1123_subdomain(part).into_iter().map(|e| FieldError::invalid(&name.path, part, e)));
    }
}

/// A name of an attribute or capacity, with or without a domain.
fn qualified(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let identifier = |id: &str, errors: &mut Errors| {
        if id.len() > 32 {
            errors.push(FieldError::too_long(path, 32));
        }
        errors.extend(names::c_identifier(id).into_iter().map(|e| FieldError::invalid(path, id, e)));
    };
    let Some((domain, id)) = name.split_once('/') else {
        identifier(name, errors);
        return;
    };
    if id.contains('/') {
        return; // upstream: names with more than one slash are taken as they are
    }
    if domain.is_empty() {
        errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
    } else {
        let value = Value::from(domain);
        driver_name(&Field { value: &value, path: *path }, errors);
    }
    if id.is_empty() {
        errors.push(FieldError::invalid(path, "", "the name must not be empty"));
    } else {
        identifier(id, errors);
    }
}

fn fully_qualified(name: &Field<'_>, errors: &mut Errors) {
    qualified(name.text(), &name.path, errors);
    if !name.text().contains('/') {
        errors.push(name.invalid("a fully qualified name must be a domain and a name separated by a slash"));
    }
}

/// A list that is too long is not looked at any further.
fn within(list: &Field<'_>, max: usize, errors: &mut Errors) -> bool {
    let count = list.items().count();
    if count > max {
        errors.push(FieldError::too_many(&list.path, count, max));
    }
    count <= max
}

/// No two items have the same key.
fn unique(list: &Field<'_>, key: impl Fn(&Value) -> String, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let key = key(item.value);
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&item.path, key));
        } else {
            seen.insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn claim_of(requests: Value) -> Value {
        json!({"spec": {"devices": {"requests": requests}}})
    }

    #[test]
    fn a_request_asks_for_one_device_or_for_the_first_of_several() {
        let exactly = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
        assert!(claim(&claim_of(json!([{"name": "a", "exactly": exactly}]))).is_empty());
        assert_eq!(
            texts(claim(&claim_of(json!([{"name": "a"}])))),
            ["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"]
        );
        let twice = json!([{"name": "a", "exactly": exactly}, {"name": "a", "exactly": exactly}]);
        assert_eq!(texts(claim(&claim_of(twice))), ["spec.devices.requests[1]: Duplicate value: \"a\""]);
        let none = json!([{"name": "a", "exactly": {"deviceClassName": "", "allocationMode": "ExactCount"}}]);
        assert_eq!(
            texts(claim(&claim_of(none))),
            [
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
                "spec.devices.requests[0].exactly.count: Invalid value: 0: must be greater than zero",
            ]
        );
    }

    #[test]
    fn what_refers_to_a_request_names_one_of_the_claim() {
        let alternative = json!({"name": "b", "deviceClassName": "c", "allocationMode": "All"});
        let mut object = claim_of(json!([{"name": "a", "firstAvailable": [alternative]}]));
        let constraint = |name: &str| json!([{"requests": [name], "matchAttribute": "d.io/x"}]);
        for known in ["a", "a/b"] {
            object["spec"]["devices"]["constraints"] = constraint(known);
            assert!(claim(&object).is_empty(), "{known}");
        }
        object["spec"]["devices"]["constraints"] = constraint("a/c");
        assert_eq!(texts(claim(&object)).len(), 1);
    }

    #[test]
    fn a_selector_tells_yes_or_no_of_a_device() {
        for valid in [
            "device.driver == 'd.io'",
            "device.attributes['d.io'].fast",
            "device.capacity['d.io'].memory.compareTo(quantity('1Gi')) >= 0 && device.allowMultipleAllocations",
            "cel.bind(a, device.attributes['d.io'], a.fast && a.big)",
        ] {
            assert_eq!(compiled(valid), Ok(()), "{valid}");
        }
        let text = "must evaluate to bool or the unknown type, not string";
        assert_eq!(compiled("device.driver"), Err(text.to_owned()));
        let why = compiled("device.name == 'x'").unwrap_err();
        assert!(why.starts_with("compilation failed: ERROR: <input>:1:7: undefined field 'name'"), "{why}");
    }

    #[test]
    fn the_spec_of_a_claim_stays() {
        let (old, new) = (claim_of(json!([{"name": "a"}])), claim_of(json!([{"name": "b"}])));
        assert_eq!(claim_update(&new, &old)[0].detail, "field is immutable");
        assert!(claim_update(&old, &old).is_empty());
    }
}
