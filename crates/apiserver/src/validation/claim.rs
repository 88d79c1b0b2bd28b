//! PersistentVolumeClaims, also as templates in other objects.
use super::common::{label_selector, quantity};
use super::field::{Errors, Field};
use crate::value::{Read, same};
use pintle_api::{field::FieldError, names};
use serde_json::Value;

/// The ways to use a volume.
pub(super) const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The spec of a claim.
// upstream: ValidatePersistentVolumeClaimSpec
pub(super) fn spec(spec: &Field<'_>, errors: &mut Errors) {
    let modes = spec.child("accessModes");
    if modes.is_zero() {
        errors.push(modes.missing("at least 1 access mode is required"));
    }
    label_selector(&spec.child("selector"), errors);
    access_modes(&modes, errors);
    let storage = spec.child("resources");
    let requests = storage.child("requests");
    let amount = requests.child("storage");
    if amount.is_set() {
        let at = Field { path: requests.path.key("storage"), value: amount.value };
        if quantity(at.value).sign() <= 0 {
            errors.push(at.invalid("must be greater than zero"));
        }
    } else {
        let at = requests.path.key("storage");
        errors.push(FieldError::required(&at, ""));
    }
    let class = spec.child("storageClassName");
    if !class.text().is_empty() {
        class.checked(names::dns1123_subdomain, errors);
    }
    let mode = spec.child("volumeMode");
    if mode.is_set() {
        mode.one_of(&["Block", "Filesystem"], errors);
    }
    data_source(&spec.child("dataSource"), errors);
    data_source(&spec.child("dataSourceRef"), errors);
    let attributes = spec.child("volumeAttributesClassName");
    if !attributes.text().is_empty() {
        attributes.checked(names::dns1123_subdomain, errors);
    }
}

/// Access modes of a claim or a volume.
pub(super) fn access_modes(modes: &Field<'_>, errors: &mut Errors) {
    let (mut exclusive, mut shared) = (false, false);
    for mode in modes.value.as_array().into_iter().flatten() {
        let mode = Field { path: modes.path, value: mode };
        mode.one_of(&ACCESS_MODES, errors);
        match mode.text() {
            "ReadWriteOncePod" => exclusive = true,
            _ => shared = true,
        }
    }
    if exclusive && shared {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

fn data_source(source: &Field<'_>, errors: &mut Errors) {
    if !source.is_set() {
        return;
    }
    source.child("name").required("", errors);
    source.child("kind").required("", errors);
    let group = source.child("apiGroup");
    if group.is_zero() {
        if source.value.text("kind") != "PersistentVolumeClaim" {
            errors.push(source.invalid("must be 'PersistentVolumeClaim' when referencing the default apiGroup"));
        }
    } else {
        group.checked(names::dns1123_subdomain, errors);
    }
    let namespace = source.child("namespace");
    if !namespace.is_zero() {
        namespace.checked(names::dns1123_label, errors);
    }
}

/// A new claim.
pub(crate) fn create(claim: &Value) -> Errors {
    let mut errors = Errors::new();
    spec(&Field::root(claim, "spec"), &mut errors);
    errors
}

/// A changed claim: once it is bound only its size, its attributes class and its labels may change.
// upstream: ValidatePersistentVolumeClaimUpdate
pub(crate) fn update(new: &Value, old: &Value) -> Errors {
    let mut errors = create(new);
    let at = Field::root(new, "spec");
    let (spec, before) = (new.field("spec"), old.field("spec"));
    let bound = !before.is_zero("volumeName");
    let mut masked = spec.clone();
    if let (Some(masked), Some(before_object)) = (masked.as_object_mut(), before.as_object()) {
        if before.is_zero("volumeName") {
            masked.remove("volumeName");
            copy(masked, before_object, "volumeName");
        }
        if before.is_zero("storageClassName") || !bound {
            // A class may be given later, as long as none was.
            if !before.has("storageClassName") {
                masked.remove("storageClassName");
            }
        }
        copy(masked, before_object, "volumeAttributesClassName");
        if let (Some(resources), Some(old_resources)) = (
            masked.get_mut("resources").and_then(Value::as_object_mut),
            before_object.get("resources").and_then(Value::as_object),
        ) && bound
        {
            copy(resources, old_resources, "requests");
        }
    }
    if !same(&masked, before) {
        errors.push(at.forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let size = |spec: &Value| quantity(spec.field("resources").field("requests").field("storage"));
    let capacity = quantity(old.field("status").field("capacity").field("storage"));
    if bound && size(spec) < size(before) && size(spec) <= capacity {
        let resources = at.child("resources");
        let requests = resources.child("requests");
        errors
            .push(FieldError::forbidden(&requests.path.child("storage"), "field can not be less than status.capacity"));
    }
    let mode = at.child("volumeMode");
    mode.immutable(before.field("volumeMode"), &mut errors);
    errors
}

fn copy(to: &mut serde_json::Map<String, Value>, from: &serde_json::Map<String, Value>, key: &str) {
    match from.get(key) {
        Some(value) => to.insert(key.to_owned(), value.clone()),
        None => to.remove(key),
    };
}
