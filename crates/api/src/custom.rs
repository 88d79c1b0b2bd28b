//! Custom resources: what a CustomResourceDefinition adds to the scheme. Start at [`Definition::resources`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`definition`] | a CustomResourceDefinition, read as far as names and versions go |
//! | [`columns`] | `additionalPrinterColumns` |
//! | [`version`] | the order of versions |
pub mod columns;
pub mod definition;
pub mod version;

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    apply,
    field::Path,
    meta::ObjectExt,
    scheme::{Resource, Subresource, Verb, Verbs, split_api_version},
    structural::{Schema, default, embedded, prune},
};
use columns::Columns;
pub use definition::{Definition, Names, Scale, VersionSpec};

/// The group of CustomResourceDefinitions.
pub const GROUP: &str = "apiextensions.k8s.io";

/// What is particular to one version of a custom resource.
pub struct Custom {
    /// The name of the CustomResourceDefinition.
    pub definition: String,
    /// Changes when a client may see another form of the objects than before: with the definition's spec and names.
    pub fingerprint: String,
    /// Whether the definition is being deleted, so that no more objects are created.
    pub terminating: bool,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// Where the `scale` subresource finds its numbers, if there is one.
    pub scale: Option<Scale>,
    /// What tables show.
    pub columns: Columns,
    /// The fields that field selectors may name, as `spec.color`.
    pub selectable: Vec<String>,
    /// What clients of a deprecated version are told.
    pub deprecation: Option<String>,
    /// `spec.conversion.webhook`, if versions are converted by one.
    pub webhook: Option<Value>,
    /// Whether unknown fields stay in all objects (`spec.preserveUnknownFields`).
    pub preserve_unknown: bool,
    version: String,
    schemas: Arc<Schemas>,
    rules: OnceLock<Option<Box<dyn Any + Send + Sync>>>,
}

/// The schemas of all versions, parsed when an object is first read or written.
struct Schemas {
    source: Bytes,
    parsed: OnceLock<BTreeMap<String, Parsed>>,
}

/// One version's schema, as values are judged and as fields are owned.
struct Parsed {
    schema: Schema,
    owned: apply::Schema,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Custom { definition, fingerprint, terminating, version, .. } = self;
        f.debug_tuple("Custom").field(definition).field(fingerprint).field(terminating).field(version).finish()
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Custom) -> bool {
        let of = |c: &Custom| (c.fingerprint.clone(), c.terminating, c.version.clone());
        of(self) == of(other)
    }
}

impl Eq for Custom {}

/// What reading an object of a client brought.
#[derive(Debug, Default)]
pub struct Accepted {
    /// The paths of fields that were removed because nobody knows them.
    pub unknown: Vec<String>,
}

impl Custom {
    /// The schema of this version, if it has one.
    pub fn schema(&self) -> Option<&Schema> {
        self.schemas.of(&self.version)
    }

    /// How fields of this version are owned and merged.
    pub fn ownership(&self) -> &apply::Schema {
        static UNKNOWN: LazyLock<apply::Schema> = LazyLock::new(|| apply::Schema::of(&Value::Null, true));
        self.schemas.all().get(&self.version).map_or(&UNKNOWN, |parsed| &parsed.owned)
    }

    /// What `make` compiles of this version's `openAPIV3Schema`, once: its rules, whose form is the caller's.
    pub fn rules(&self, make: impl FnOnce(&Value) -> Box<dyn Any + Send + Sync>) -> Option<&(dyn Any + Send + Sync)> {
        let compile = || {
            let definition: Value = serde_json::from_slice(&self.schemas.source).ok()?;
            let versions = definition["spec"]["versions"].as_array()?;
            let version = versions.iter().find(|version| version["name"] == self.version.as_str())?;
            Some(make(version.get("schema")?.get("openAPIV3Schema")?))
        };
        self.rules.get_or_init(compile).as_deref()
    }

    /// The definition as it is stored.
    pub fn source(&self) -> &Bytes {
        &self.schemas.source
    }

    /// Brings an object that a client sent into the form of this version: no unknown fields, typed metadata. The error is text
    /// in Go's words.
    // upstream: customresource_handler.go, unstructuredSchemaCoercer
    pub fn accept(&self, object: &mut Value) -> Result<Accepted, String> {
        let mut unknown = Vec::new();
        if let Some(given) = object.get("metadata").filter(|given| !given.is_null()) {
            let metadata = embedded::metadata(given, false)?;
            unknown.extend(metadata.unknown.iter().map(|field| format!("metadata.{field}")));
            object["metadata"] = metadata.value;
        }
        unknown.extend(self.shape(object, self.schema(), false)?);
        Ok(Accepted { unknown })
    }

    /// Removes from an object that was converted or changed on the way what the version that it names does not know.
    pub fn settle(&self, object: &mut Value) -> Result<(), String> {
        let schema = self.schemas.of(split_api_version(object.api_version()).1);
        self.shape(object, schema, false).map(drop)
    }

    /// Fills in defaults.
    pub fn default(&self, object: &mut Value) {
        if let Some(schema) = self.schema() {
            default::default(object, schema);
        }
    }

    /// Brings a stored object into the form of the version in which it was stored, by today's schema.
    pub fn revive(&self, object: &mut Value) -> Result<(), String> {
        if let Some(given) = object.get("metadata") {
            object["metadata"] = embedded::metadata(given, true)?.value;
        }
        if object.generation() == 0 {
            object.set_generation(1);
        }
        let version = split_api_version(object.api_version()).1;
        let schema = self.schemas.of(version);
        self.shape(object, schema, true)?;
        if let Some(schema) = schema {
            default::default(object, schema);
        }
        Ok(())
    }

    fn shape(&self, object: &mut Value, schema: Option<&Schema>, lenient: bool) -> Result<Vec<String>, String> {
        let mut unknown = Vec::new();
        if !self.preserve_unknown {
            unknown = prune::prune(object, schema).into_sorted();
            default::prune_nulls(object, schema);
        }
        if let Some(schema) = schema {
            let mut embedded_unknown = prune::Unknown::default();
            embedded::coerce(object, schema, lenient, &Path::root(""), &mut embedded_unknown)
                .map_err(|error| error.to_string())?;
            unknown.extend(embedded_unknown.into_sorted());
        }
        Ok(unknown)
    }
}

impl Schemas {
    fn all(&self) -> &BTreeMap<String, Parsed> {
        self.parsed.get_or_init(|| parse_schemas(&self.source))
    }

    fn of(&self, version: &str) -> Option<&Schema> {
        self.all().get(version).map(|parsed| &parsed.schema)
    }
}

fn parse_schemas(source: &[u8]) -> BTreeMap<String, Parsed> {
    let definition: Value = serde_json::from_slice(source).unwrap_or_default();
    let preserve_unknown = definition["spec"]["preserveUnknownFields"] == true;
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let parse = |version: &Value| {
        let openapi = version.get("schema")?.get("openAPIV3Schema")?;
        // Validation of the definition lets no other through.
        let mut schema = Schema::parse(openapi).ok()?;
        default::prune_defaults(&mut schema);
        let owned = apply::Schema::of(openapi, preserve_unknown);
        Some((version["name"].as_str()?.to_owned(), Parsed { schema, owned }))
    };
    versions.filter_map(parse).collect()
}

impl Definition {
    /// The resources that the definition adds to the scheme under the names `accepted`: one for each served version, the
    /// preferred first. `source` is the definition as it is stored.
    pub fn resources(&self, source: &Bytes, accepted: &Names) -> Vec<Resource> {
        let schemas = Arc::new(Schemas { source: source.clone(), parsed: OnceLock::new() });
        let mut versions: Vec<&VersionSpec> = self.spec.versions.iter().filter(|version| version.served).collect();
        versions.sort_by(|a, b| version::compare(&b.name, &a.name));
        versions.into_iter().map(|version| self.resource(version, accepted, &schemas)).collect()
    }

    /// The resource in its storage version, which need not be served: how the server itself reaches the objects.
    pub fn stored_resource(&self, source: &Bytes, accepted: &Names) -> Option<Resource> {
        let schemas = Arc::new(Schemas { source: source.clone(), parsed: OnceLock::new() });
        let version = self.spec.versions.iter().find(|version| version.storage)?;
        Some(self.resource(version, accepted, &schemas))
    }

    fn resource(&self, version: &VersionSpec, accepted: &Names, schemas: &Arc<Schemas>) -> Resource {
        let (group, storage) = (&self.spec.group, self.spec.storage_version());
        let mut subresources = Vec::new();
        let verbs = Verbs::default().with(Verb::Get).with(Verb::Patch).with(Verb::Update);
        let mut add = |name: &str, group: &str, version: &str, kind: &str| {
            subresources.push(Subresource {
                name: name.into(),
                group: group.into(),
                version: version.into(),
                kind: kind.into(),
                verbs,
            });
        };
        if version.has_status() {
            add("status", group, &version.name, &accepted.kind);
        }
        if version.scale().is_some() {
            add("scale", "autoscaling", "v1", "Scale");
        }
        Resource {
            group: group.clone(),
            version: version.name.clone(),
            kind: accepted.kind.clone(),
            list_kind: accepted.list_kind.clone(),
            plural: accepted.plural.clone(),
            singular: accepted.singular.clone(),
            short_names: accepted.short_names.clone(),
            categories: accepted.categories.clone(),
            namespaced: self.spec.scope == "Namespaced",
            verbs: Verbs::STANDARD,
            subresources,
            storage_group: group.clone(),
            storage_version: storage.to_owned(),
            storage_version_hash: version::storage_hash(group, storage, &accepted.kind),
            custom: Some(Arc::new(Custom {
                definition: self.metadata.name.clone(),
                fingerprint: self.fingerprint(accepted),
                terminating: self.metadata.deletion_timestamp.is_some(),
                has_status: version.has_status(),
                scale: version.scale().cloned(),
                columns: Columns::new(&version.additional_printer_columns),
                selectable: version.selectable(),
                deprecation: self.deprecation(version),
                webhook: self.spec.conversion_webhook().cloned(),
                preserve_unknown: self.spec.preserve_unknown_fields,
                version: version.name.clone(),
                schemas: schemas.clone(),
                rules: OnceLock::new(),
            })),
        }
    }

    fn fingerprint(&self, accepted: &Names) -> String {
        format!("{}/{}/{accepted:?}", self.metadata.uid, self.metadata.generation)
    }

    // upstream: customresource_handler.go, defaultDeprecationWarning
    fn deprecation(&self, deprecated: &VersionSpec) -> Option<String> {
        if !deprecated.deprecated {
            return None;
        }
        if let Some(warning) = &deprecated.deprecation_warning {
            return Some(warning.clone());
        }
        let (group, kind) = (&self.spec.group, &self.spec.names.kind);
        let mut text = format!("{group}/{} {kind} is deprecated", deprecated.name);
        let newer = |v: &&VersionSpec| v.served && !v.deprecated && version::compare(&deprecated.name, &v.name).is_lt();
        let newest = self.spec.versions.iter().filter(newer).max_by(|a, b| version::compare(&a.name, &b.name));
        if let Some(newest) = newest {
            text.push_str(&format!("; use {group}/{} {kind}", newest.name));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition() -> (Definition, Bytes) {
        let object = json!({"metadata": {"name": "widgets.example.com", "uid": "u", "generation": 1}, "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                 "selectableFields": [{"jsonPath": ".spec.size"}],
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "size": {"type": "integer", "default": 3}}}}}}},
                {"name": "v2", "served": false, "storage": false}]}});
        let source = Bytes::from(object.to_string());
        (serde_json::from_slice(&source).unwrap(), source)
    }

    #[test]
    fn served_versions_become_resources_the_preferred_first() {
        let (definition, source) = definition();
        let resources = definition.resources(&source, &definition.spec.names);
        let versions: Vec<&str> = resources.iter().map(|r| r.version.as_str()).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        assert_eq!(resources[0].subresources[0].name, "status");
        let beta = resources[1].custom.as_ref().unwrap();
        assert_eq!(
            beta.deprecation.as_deref(),
            Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget")
        );
        assert_eq!(resources[0].custom.as_ref().unwrap().selectable, ["spec.size"]);
    }

    #[test]
    fn a_clients_object_loses_unknown_fields_and_gets_defaults() {
        let (definition, source) = definition();
        let resources = definition.resources(&source, &definition.spec.names);
        let custom = resources[0].custom.as_ref().unwrap();
        let mut object = json!({"apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {"name": "w", "odd": 1, "creationTimestamp": null}, "spec": {"color": "red"}});
        assert_eq!(custom.accept(&mut object).unwrap().unknown, ["metadata.odd", "spec.color"]);
        custom.default(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3}})
        );
    }
}
