//! A CustomResourceDefinition as far as the server's own work needs it; schemas are left unread. Start at [`Definition`].
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Null reads as nothing, as in Go.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A CustomResourceDefinition.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// Name, UID, generation, …
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Spec,
    /// What is.
    pub status: Status,
}

/// The part of the metadata that matters here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// `<plural>.<group>`.
    pub name: String,
    /// The UID.
    pub uid: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// Set once deletion was asked for.
    pub deletion_timestamp: Option<String>,
    /// What deletion waits for.
    pub finalizers: Vec<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// The API group.
    pub group: String,
    /// The wanted names.
    pub names: Names,
    /// `Namespaced` or `Cluster`.
    pub scope: String,
    /// The versions.
    #[serde(deserialize_with = "or_default")]
    pub versions: Vec<VersionSpec>,
    /// How versions are converted.
    pub conversion: Value,
    /// Whether unknown fields stay in all objects.
    pub preserve_unknown_fields: bool,
}

impl Spec {
    /// The version in which objects are stored.
    pub fn storage_version(&self) -> &str {
        self.versions.iter().find(|version| version.storage).map_or("", |version| &version.name)
    }

    /// `conversion.webhook`, if versions are converted by one.
    pub fn conversion_webhook(&self) -> Option<&Value> {
        if self.conversion["strategy"] == "Webhook" { self.conversion.get("webhook") } else { None }
    }
}

/// The names of a custom resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Names {
    /// The plural name, the path segment.
    pub plural: String,
    /// The singular name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub singular: String,
    /// Abbreviations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<String>,
    /// The kind.
    pub kind: String,
    /// The kind of lists.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub list_kind: String,
    /// Groupings such as `all`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
}

/// One version.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VersionSpec {
    /// The version's name.
    pub name: String,
    /// Whether clients can use it.
    pub served: bool,
    /// Whether objects are stored in it.
    pub storage: bool,
    /// Whether clients are warned.
    pub deprecated: bool,
    /// With which words.
    pub deprecation_warning: Option<String>,
    /// `status` and `scale`.
    pub subresources: Subresources,
    /// What tables show.
    pub additional_printer_columns: Vec<ColumnSpec>,
    /// What field selectors may name.
    pub selectable_fields: Vec<SelectableField>,
}

impl VersionSpec {
    /// Whether there is a `status` subresource.
    pub fn has_status(&self) -> bool {
        self.subresources.status.is_some()
    }

    /// The `scale` subresource.
    pub fn scale(&self) -> Option<&Scale> {
        self.subresources.scale.as_ref()
    }

    /// The fields that field selectors may name, without the leading dot.
    pub fn selectable(&self) -> Vec<String> {
        let path = |field: &SelectableField| field.json_path.trim_start_matches('.').to_owned();
        self.selectable_fields.iter().map(path).collect()
    }
}

/// The subresources of a version.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Subresources {
    /// Present: the status is written on its own.
    pub status: Option<Value>,
    /// Where the scale is.
    pub scale: Option<Scale>,
}

/// Where the `scale` subresource finds its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Scale {
    /// The wanted replicas, below `.spec`.
    pub spec_replicas_path: String,
    /// The replicas there are, below `.status`.
    pub status_replicas_path: String,
    /// The label selector of the pods, if given.
    pub label_selector_path: Option<String>,
}

/// One of `additionalPrinterColumns`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ColumnSpec {
    /// The heading.
    pub name: String,
    /// The OpenAPI type of the cells, or `date`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The OpenAPI format.
    pub format: String,
    /// What the column tells.
    pub description: String,
    /// 0: always shown; above: only in wide output.
    pub priority: i32,
    /// Where the value is.
    pub json_path: String,
}

/// One of `selectableFields`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SelectableField {
    /// Where the value is.
    pub json_path: String,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// What is so.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
    /// The names under which the resource is served.
    pub accepted_names: Names,
    /// The versions in which objects may be stored.
    #[serde(deserialize_with = "or_default")]
    pub stored_versions: Vec<String>,
}

impl Status {
    /// The condition of a type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether a condition is true.
    pub fn is_true(&self, type_: &str) -> bool {
        self.condition(type_).is_some_and(|condition| condition.status == "True")
    }
}

/// A condition of a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// `NamesAccepted`, `Established`, `Terminating`, …
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// When the status changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// Why, in one word.
    pub reason: String,
    /// Why, in words.
    pub message: String,
    /// The generation that whoever set the condition looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
