//! Patches of dynamic objects: [`json_patch`] (RFC 6902), [`merge_patch`] (RFC 7386), [`strategic::merge`].
pub mod strategic;

use serde_json::Value;

use crate::status::{ApiError, Reason};

/// How many operations a JSON patch may have.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// Why a patch was refused; [`ApiError`] says it as upstream does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch has more than [`MAX_JSON_PATCH_OPERATIONS`] operations: 413.
    #[error("The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The patch does not fit the object: 422.
    #[error("the server rejected our request due to an error in our request")]
    DoesNotApply,
    /// The patch does not fit the type of the object: 500, as upstream answers.
    #[error("{0}")]
    Type(String),
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> ApiError {
        let message = error.to_string();
        match error {
            PatchError::Malformed(_) => ApiError::bad_request(message),
            PatchError::TooManyOperations(_) => ApiError::too_large(message),
            PatchError::DoesNotApply => {
                let mut error = ApiError::new(422, Reason::Invalid, message);
                error.details_mut();
                error
            }
            PatchError::Type(_) => ApiError::new(500, Reason::Unknown, message),
        }
    }
}

/// Applies a JSON patch (a list of operations) to `target`, which is left half-patched on failure.
// upstream: apiserver pkg/endpoints/handlers/patch.go, jsonPatcher.applyJSPatch
pub fn json_patch(target: &mut Value, patch: Value) -> Result<(), PatchError> {
    let operations = match &patch {
        Value::Array(operations) => operations,
        other => {
            let got = go_kind(other);
            let text = format!("json: cannot unmarshal {got} into Go value of type jsonpatch.Patch");
            return Err(PatchError::Malformed(text));
        }
    };
    if let Some(other) = operations.iter().find(|o| !o.is_object()) {
        let got = go_kind(other);
        let text = format!("json: cannot unmarshal {got} into Go value of type jsonpatch.Operation");
        return Err(PatchError::Malformed(text));
    }
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|_| PatchError::DoesNotApply)?;
    json_patch::patch_unsafe(target, &patch).map_err(|_| PatchError::DoesNotApply)
}

/// What Go's JSON errors call a value.
pub(crate) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Applies a JSON merge patch: nulls remove, objects merge, everything else replaces.
pub fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(_) => merge_patch(target.entry(key).or_insert(Value::Null), value),
            other => {
                target.insert(key, other);
            }
        }
    }
}

/// Applies the JSON text of a merge patch, which must be an object or a list.
pub fn merge_patch_checked(target: &mut Value, patch: Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("Invalid JSON Patch".into()));
    }
    merge_patch(target, patch);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches_apply_in_order() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        let patch = json!([
            {"op": "test", "path": "/spec/containers/0/name", "value": "a"},
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "b"}},
            {"op": "replace", "path": "/spec/containers/0/name", "value": "c"},
        ]);
        json_patch(&mut pod, patch).unwrap();
        assert_eq!(pod, json!({"spec": {"containers": [{"name": "c"}, {"name": "b"}]}}));
    }

    #[test]
    fn bad_json_patches_are_answered_as_upstream_does() {
        let error = |patch: Value| ApiError::from(json_patch(&mut json!({}), patch).unwrap_err());
        let not_a_list = error(json!({}));
        assert_eq!(not_a_list.message, "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
        assert_eq!(not_a_list.code, 400);
        let missing = error(json!([{"op": "remove", "path": "/a"}]));
        assert_eq!((missing.code, missing.reason), (422, Reason::Invalid));
        assert_eq!(missing.message, "the server rejected our request due to an error in our request");
        let operation = json!({"op": "add", "path": "/a", "value": 1});
        let many = error(Value::Array(vec![operation; 10_001]));
        assert_eq!(many.code, 413);
        let text = "The allowed maximum operations in a JSON patch is 10000, got 10001";
        assert_eq!(many.message, format!("Request entity too large: {text}"));
    }

    #[test]
    fn merge_patches_remove_nulls_and_replace_lists() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "d": [1, 2]});
        merge_patch(&mut object, json!({"a": {"b": null, "e": {"f": null}}, "d": [3]}));
        assert_eq!(object, json!({"a": {"c": 2, "e": {}}, "d": [3]}));
        assert!(merge_patch_checked(&mut object, json!([1])).is_err());
    }
}
