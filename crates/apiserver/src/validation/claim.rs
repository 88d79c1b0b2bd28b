//! PersistentVolumeClaims, also as templates in other objects.
use super::common::{label_selector, quantity};
use super::field::{Errors, Field};
use crate::value::{Object, Read, same};
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
    let amount = storage.value.field("requests").field("storage");
    let at = Field { path: storage.path.key("storage"), value: amount };
    if amount.is_null() {
        errors.push(at.missing(""));
    } else if quantity(amount).sign() <= 0 {
        errors.push(at.invalid("must be greater than zero"));
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

/// A changed claim: once it is bound, only its size and its attributes class may change.
// upstream: ValidatePersistentVolumeClaimUpdate
pub(crate) fn update(new: &Value, old: &Value) -> Errors {
    let mut errors = create(new);
    let (at, before) = (Field::root(new, "spec"), old.field("spec"));
    let bound = new.field("status").text("phase") == "Bound";
    let (mut now, mut then) = (at.value.clone(), before.clone());
    if let (Some(now), Some(then)) = (now.as_object_mut(), then.as_object_mut()) {
        if then.is_zero("volumeName") {
            copy(then, now, "volumeName");
        }
        if !then.has("storageClassName") && now.has("storageClassName") {
            // A claim without a class may be given one later: the default class.
            now.remove("storageClassName");
        }
        if bound {
            copy(now, then, "volumeAttributesClassName");
            let old_requests = then.get("resources").and_then(|r| r.get("requests")).cloned();
            if let (Some(resources), Some(requests)) =
                (now.get_mut("resources").and_then(Value::as_object_mut), old_requests)
            {
                resources.insert("requests".into(), requests);
            }
        }
    }
    if !same(&now, &then) {
        let changes = crate::diff::internal("api.core.v1.PersistentVolumeClaimSpec", &then, &now);
        errors.push(at.forbidden(format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n\
             {changes}"
        )));
    }
    let size = |spec: &Value| quantity(spec.field("resources").field("requests").field("storage"));
    let capacity = quantity(old.field("status").field("capacity").field("storage"));
    if size(at.value) < size(before) && size(at.value) <= capacity {
        let resources = at.child("resources");
        let requests = resources.child("requests");
        errors.push(requests.child("storage").forbidden("field can not be less than status.capacity"));
    }
    if at.value.field("volumeMode") != before.field("volumeMode") {
        let path = pintle_api::field::Path::root("volumeMode");
        errors.push(FieldError::invalid(&path, at.value.field("volumeMode"), "field is immutable"));
    }
    errors
}

/// A changed status of a claim.
pub(crate) fn update_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    for (_, amount) in status.child("capacity").entries() {
        if quantity(amount.value).sign() < 0 {
            let given = quantity(amount.value);
            errors.push(FieldError::invalid(
                &amount.path,
                pintle_api::field::BadValue::json(given.to_string()),
                "must be a valid resource quantity",
            ));
        }
    }
    errors
}

fn copy(to: &mut Object, from: &Object, key: &str) {
    match from.get(key) {
        Some(value) => _ = to.insert(key.to_owned(), value.clone()),
        None => _ = to.remove(key),
    }
}
