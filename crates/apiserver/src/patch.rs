//! The patch formats that PATCH takes. Start at [`Patch::parse`].
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use serde_json::Value;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// How many operations a JSON patch may have. upstream: maxJSONPatchOperations.
const MAX_OPERATIONS: usize = 10_000;

/// A patch, parsed.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
}

impl Patch {
    /// Reads a patch of one of the formats that `resource` takes.
    pub fn parse(_resource: &Resource, media_type: &str, bytes: &[u8]) -> Result<Self, ApiError> {
        let unreadable = |error: serde_json::Error| ApiError::bad_request(format!("error decoding patch: {error}"));
        match media_type {
            JSON_PATCH => {
                let patch: json_patch::Patch = serde_json::from_slice(bytes).map_err(unreadable)?;
                if patch.0.len() > MAX_OPERATIONS {
                    return Err(ApiError::too_large(format_args!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                        patch.0.len()
                    )));
                }
                Ok(Patch::Json(patch))
            }
            MERGE_PATCH => serde_json::from_slice(bytes).map(Patch::Merge).map_err(unreadable),
            APPLY => {
                let mut error = ApiError::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH]);
                error.message = format!("server-side apply is not supported yet: {}", error.message);
                Err(error)
            }
            _ => Err(ApiError::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, APPLY])),
        }
    }

    /// What the patch makes of `old`.
    pub fn apply(&self, resource: &Resource, old: &Value) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match self {
            Patch::Json(patch) => {
                let failed = |error: json_patch::PatchError| {
                    let mut status = ApiError::invalid(resource.group_kind(), "", &[]);
                    status.message = format!("the server rejected our request due to an error in our request: {error}");
                    status
                };
                json_patch::patch(&mut new, patch).map_err(failed)?;
            }
            Patch::Merge(patch) => json_patch::merge(&mut new, patch),
        }
        Ok(new)
    }
}
