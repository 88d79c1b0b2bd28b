//! `metadata`: what the server sets, what it keeps from a client's hands, and what it refuses.
use crate::strategy::Strategy;
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::{self, ObjectExt};
use pintle_api::names;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use serde_json::Value;

const METADATA: Path<'static> = Path::root("metadata");
const TOTAL_ANNOTATION_BYTES: usize = 256 << 10;

/// The finalizer that makes the garbage collector orphan an object's dependents.
pub const ORPHAN_DEPENDENTS: &str = "orphan";
/// The finalizer that makes the garbage collector delete an object's dependents first.
pub const FOREGROUND_DELETION: &str = "foregroundDeletion";

/// Gives `object` the type of `resource` and removes fields that are not set at all (null).
pub(super) fn set_type(resource: &Resource, object: &mut Value) {
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
}

/// Puts the request's namespace on the object, or refuses another one.
pub(crate) fn ensure_namespace(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let expected = if resource.namespaced { namespace } else { "" };
    let given = object.namespace();
    if given.is_empty() {
        object.set_meta_str("namespace", expected);
        return Ok(());
    }
    if given == expected {
        return Ok(());
    }
    if expected.is_empty() {
        object.set_meta_str("namespace", "");
        return Ok(());
    }
    Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

/// Takes from a new object what only the server may set.
pub(super) fn wipe_system_fields(object: &mut Value) {
    let metadata = object.metadata_mut();
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(field);
    }
}

/// Sets what the server gives each new object.
pub(super) fn fill_system_fields(object: &mut Value) {
    object.set_meta_str("creationTimestamp", meta::now());
    object.set_meta_str("uid", uuid::Uuid::new_v4().hyphenated().to_string());
}

/// Drops repeated owner references; returns the UIDs of those dropped.
pub(super) fn dedup_owner_references(object: &mut Value) -> Vec<String> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(owners) = metadata.and_then(|m| m.get_mut("ownerReferences")?.as_array_mut()) else { return Vec::new() };
    let mut dropped = Vec::new();
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            dropped.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    dropped
}

/// A name as upstream generates it: `base`, cut to 58 bytes, and five random characters.
pub(crate) fn generate_name(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut cut = base.len().min(58);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_owned();
    name.extend((0..5).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])));
    name
}

/// What is set from the old object whatever the client sent with an update.
pub(super) fn keep_system_fields(new: &mut Value, old: &Value) {
    if new.uid().is_empty() {
        new.set_meta_str("uid", old.uid());
    }
    if !old.creation_timestamp().is_empty() {
        new.set_meta_str("creationTimestamp", old.creation_timestamp());
    }
    if let Some(time) = old.deletion_timestamp() {
        new.set_meta_str("deletionTimestamp", time);
    }
    if let Some(seconds) = old.deletion_grace_period_seconds()
        && new.deletion_grace_period_seconds().is_none()
    {
        new.metadata_mut().insert("deletionGracePeriodSeconds".into(), seconds.into());
    }
    new.metadata_mut().remove("selfLink");
}

/// Judges the metadata of a new object.
pub(super) fn validate(resource: &Resource, strategy: &dyn Strategy, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (base, name, namespace) = (object.generate_name(), object.name(), object.namespace());
    if !base.is_empty() {
        let path = METADATA.child("generateName");
        let masked = match base.strip_suffix('-') {
            Some(stem) if !stem.is_empty() => format!("{stem}a"),
            _ => base.to_owned(),
        };
        let wrong = strategy.validate_name(&masked);
        errors.extend(wrong.into_iter().map(|text| FieldError::invalid(&path, base, text)));
    }
    let path = METADATA.child("name");
    if name.is_empty() {
        errors.push(FieldError::required(&path, "name or generateName is required"));
    } else {
        let wrong = strategy.validate_name(name);
        errors.extend(wrong.into_iter().map(|text| FieldError::invalid(&path, name, text)));
    }
    let path = METADATA.child("namespace");
    match (resource.namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&path, "")),
        (true, false) => {
            let wrong = names::dns1123_label(namespace);
            errors.extend(wrong.into_iter().map(|text| FieldError::invalid(&path, namespace, text)));
        }
        (false, false) => errors.push(FieldError::forbidden(&path, "not allowed on this type")),
        (false, true) => {}
    }
    if object.generation() < 0 {
        let path = METADATA.child("generation");
        errors.push(FieldError::invalid(&path, object.generation(), "must be greater than or equal to 0"));
    }
    validate_common(object, &mut errors);
    let path = METADATA.child("finalizers");
    let mut markers = (false, false);
    for finalizer in object.finalizers() {
        let wrong = names::qualified_name(finalizer);
        errors.extend(wrong.into_iter().map(|text| FieldError::invalid(&path, finalizer, text)));
        markers = (markers.0 || finalizer == ORPHAN_DEPENDENTS, markers.1 || finalizer == FOREGROUND_DELETION);
    }
    if markers == (true, true) {
        let text = format!("finalizer {ORPHAN_DEPENDENTS} and {FOREGROUND_DELETION} cannot be both set");
        errors.push(FieldError::invalid(&path, &object["metadata"]["finalizers"], text));
    }
    errors
}

/// Judges a change of metadata.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.deletion_timestamp().is_some() {
        let mut extra: Vec<&str> = new.finalizers().filter(|finalizer| !old.has_finalizer(finalizer)).collect();
        if !extra.is_empty() {
            extra.sort_unstable();
            extra.dedup();
            let quoted: Vec<String> = extra.iter().map(|f| pintle_api::field::go_quote(f)).collect();
            let text = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            errors.push(FieldError::forbidden(&METADATA.child("finalizers"), text));
        }
    }
    if new.generation() < old.generation() {
        let path = METADATA.child("generation");
        errors.push(FieldError::invalid(&path, new.generation(), "must not be decremented"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let of = |object: &Value| object.metadata().and_then(|m| m.get(field)).cloned().unwrap_or_default();
        let (given, kept) = (of(new), of(old));
        if given != kept {
            errors.push(FieldError::invalid(&METADATA.child(field), &given, "field is immutable"));
        }
    }
    errors
}

fn validate_common(object: &Value, errors: &mut Vec<FieldError>) {
    let path = METADATA.child("labels");
    for (key, value) in object.labels().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        errors.extend(names::qualified_name(key).into_iter().map(|e| FieldError::invalid(&path, key.as_str(), e)));
        errors.extend(names::label_value(value).into_iter().map(|e| FieldError::invalid(&path, value, e)));
    }
    let path = METADATA.child("annotations");
    let mut total = 0;
    for (key, value) in object.annotations().into_iter().flatten() {
        total += key.len() + value.as_str().map_or(0, str::len);
        let wrong = names::qualified_name(&key.to_lowercase());
        errors.extend(wrong.into_iter().map(|text| FieldError::invalid(&path, key.as_str(), text)));
    }
    if total > TOTAL_ANNOTATION_BYTES {
        errors.push(FieldError::too_long(&path, TOTAL_ANNOTATION_BYTES));
    }
    validate_owners(object, errors);
}

fn validate_owners(object: &Value, errors: &mut Vec<FieldError>) {
    let path = METADATA.child("ownerReferences");
    let mut controller: Option<String> = None;
    for owner in object.owner_references() {
        let mut require = |field: &'static str, value: &str, text: &str| {
            if value.is_empty() {
                errors.push(FieldError::invalid(&path.child(field), value, text));
            }
        };
        require("apiVersion", owner.api_version, "version must not be empty");
        require("kind", owner.kind, "must not be empty");
        require("name", owner.name, "must not be empty");
        require("uid", owner.uid, "must not be empty");
        if owner.api_version == "v1" && owner.kind == "Event" {
            let text = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(&path, &object["metadata"]["ownerReferences"], text));
        }
        if owner.controller {
            let this = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let text = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    );
                    errors.push(FieldError::invalid(&path, &object["metadata"]["ownerReferences"], text));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::generic::Generic;
    use pintle_api::scheme::Scheme;
    use serde_json::json;

    fn errors(metadata: Value) -> Vec<String> {
        let scheme = Scheme::builtin();
        let resource = scheme.by_plural("", "v1", "configmaps").unwrap();
        validate(resource, &Generic, &json!({ "metadata": metadata })).iter().map(|e| e.field.clone()).collect()
    }

    #[test]
    fn wrong_metadata_is_reported_by_field() {
        assert!(errors(json!({"name": "a", "namespace": "b", "labels": {"x": "y"}})).is_empty());
        assert_eq!(errors(json!({"namespace": "b"})), ["metadata.name"]);
        assert_eq!(errors(json!({"name": "a"})), ["metadata.namespace"]);
        let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]);
        assert_eq!(
            errors(json!({"name": "a", "namespace": "b", "labels": {"": "y"}, "ownerReferences": owners})),
            ["metadata.labels", "metadata.labels", "metadata.ownerReferences.uid"]
        );
    }

    #[test]
    fn generated_names_end_in_five_random_characters_and_fit_a_label() {
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert_ne!(generate_name("a-"), generate_name("a-"));
    }

    #[test]
    fn an_object_being_deleted_takes_no_new_finalizers() {
        let old =
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x.y/a"]}});
        let mut new = old.clone();
        assert!(validate_update(&new, &old).is_empty());
        new["metadata"]["finalizers"] = json!(["x.y/a", "x.y/b"]);
        assert!(validate_update(&new, &old)[0].to_string().contains("[]string{\"x.y/b\"}"));
    }
}
