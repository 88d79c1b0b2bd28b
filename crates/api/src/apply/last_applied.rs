//! The way from client-side apply: the annotation in which `kubectl apply` kept what it applied last.
// upstream: apimachinery pkg/util/managedfields/internal/lastappliedmanager.go, lastappliedupdater.go
use serde_json::{Map, Value};

use super::{FieldManager, field_set::FieldSet, walk};
use crate::meta::{ObjectExt, ensure_map};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// upstream: TotalAnnotationSizeLimitB.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// What `kubectl` applied last on the client's side.
pub(super) fn annotation(object: &Value) -> Option<&str> {
    object.annotation(ANNOTATION).filter(|text| !text.is_empty())
}

/// The fields that client-side apply set and that still are as it set them: server-side apply may take those over.
pub(super) fn allowed_conflicts(text: &str, live: &Value, by: &FieldManager<'_>) -> Option<FieldSet> {
    let applied: Value = serde_json::from_str(text).ok()?;
    if applied.api_version() != by.api_version {
        return None;
    }
    let node = by.structure.node();
    let mut set = walk::field_set(&applied, node);
    let difference = walk::compare(&applied, live, node);
    set.subtract(&difference.changed);
    set.subtract(&difference.removed);
    Some(set)
}

/// Keeps the annotation true, for clients that still go by it.
pub(super) fn write(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    if let Some(annotations) = config.metadata_mut().get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let annotations = ensure_map(object, &["metadata", "annotations"]);
    annotations.insert(ANNOTATION.into(), format!("{config}\n").into());
    let size = |map: &Map<String, Value>| -> usize {
        map.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
    };
    if size(annotations) > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}
