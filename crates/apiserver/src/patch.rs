//! The patch formats that PATCH takes. Start at [`Patch::parse`].
use crate::codec::Made;
use pintle_api::facts;
use pintle_api::patch::{json_patch, merge_patch_checked, strategic};
use pintle_api::scheme::Resource;
use pintle_api::status::{ApiError, Reason};
use serde_json::Value;

/// The media type of JSON patches.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// The media type of JSON merge patches.
pub const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// The media type of configurations for server-side apply, which are no patches in the sense of [`Patch`].
pub const APPLY: &str = "application/apply-patch+yaml";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Merge,
    Strategic,
}

/// A patch, parsed.
#[derive(Clone, Debug)]
pub struct Patch {
    format: Format,
    content: Value,
}

impl Patch {
    /// Reads a patch of one of the formats that `resource` takes.
    pub fn parse(resource: &Resource, media_type: &str, bytes: &[u8]) -> Result<Self, ApiError> {
        let typed = facts::lookup(&resource.group, &resource.version, &resource.kind).is_some();
        let format = match media_type {
            JSON_PATCH => Format::Json,
            MERGE_PATCH => Format::Merge,
            STRATEGIC if typed => Format::Strategic,
            STRATEGIC => return Err(ApiError::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, APPLY])),
            _ => {
                let mut error = ApiError::new(415, Reason::UnsupportedMediaType, "415: Unsupported Media Type");
                error.details_mut();
                return Err(error);
            }
        };
        let malformed = |why: &str| match format {
            Format::Strategic => ApiError::bad_request(why),
            _ => ApiError::bad_request(format!("error decoding patch: {why}")),
        };
        let mut content = pintle_api::decode::parse(bytes).map_err(|why| malformed(&why))?;
        if content.is_null() {
            // Go leaves an empty patch as it is where the text is null; merge patches are read once more.
            content = match format {
                Format::Json => Value::Array(Vec::new()),
                Format::Strategic => Value::Object(serde_json::Map::new()),
                Format::Merge => return Err(ApiError::bad_request("Invalid JSON Patch")),
            };
        }
        let unfit = match format {
            Format::Json if !content.is_array() => Some("[]handlers.jsonPatchOp"),
            Format::Merge | Format::Strategic if !content.is_object() => Some("map[string]interface {}"),
            _ => None,
        };
        if let Some(wanted) = unfit {
            let given = match content {
                Value::Object(_) => "object",
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Number(_) | Value::Null => "number",
            };
            return Err(malformed(&format!("json: cannot unmarshal {given} into Go value of type {wanted}")));
        }
        Ok(Patch { format, content })
    }

    /// What objects that [`Patch::apply`] returns are made by.
    pub fn made(&self) -> Made<'_> {
        match self.format {
            Format::Json | Format::Merge => Made::ByPatch,
            Format::Strategic => Made::ByStrategicPatch(&self.content),
        }
    }

    /// What the patch makes of `old`.
    pub fn apply(&self, resource: &Resource, old: &Value) -> Result<Value, ApiError> {
        let (mut new, content) = (old.clone(), self.content.clone());
        match self.format {
            Format::Json => json_patch(&mut new, content)?,
            Format::Merge => merge_patch_checked(&mut new, content)?,
            Format::Strategic => {
                let ty = facts::lookup(&resource.group, &resource.version, &resource.kind)
                    .ok_or_else(|| ApiError::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH]))?;
                strategic::merge(&mut new, content, ty)?;
            }
        }
        Ok(new)
    }
}
