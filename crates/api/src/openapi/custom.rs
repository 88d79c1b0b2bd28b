//! Definitions of custom resources, from the schemas of their CustomResourceDefinitions. Start at [`definitions`].
// upstream: apiextensions-apiserver pkg/controller/openapi
use serde_json::{Map, Value, json};

use super::{META, reversed_name, schemas::Dialect};
use crate::{
    descriptions::Descriptions,
    scheme::Resource,
    structural::{Schema, check},
};

/// A type whose fields `apiVersion`, `kind` and `metadata` are described as everywhere.
const EXEMPLAR: &str = "io.k8s.api.apps.v1.Deployment";

/// The definitions of the kind and of its list, by name.
pub(super) fn definitions(r: &Resource, dialect: Dialect, texts: &Descriptions<'_>) -> Option<[(String, Value); 2]> {
    let custom = r.custom.as_ref()?;
    let definition: Value = serde_json::from_slice(custom.source()).ok()?;
    let versions = definition["spec"]["versions"].as_array()?;
    let version = versions.iter().find(|version| version["name"] == r.version.as_str())?;
    let name = reversed_name(&r.group, &r.version, &r.kind);
    let schema = version["schema"].get("openAPIV3Schema").filter(|schema| is_structural(schema));
    let mut kind = root(schema, custom.preserve_unknown, dialect, texts);
    let mut list = list(r, &name, dialect, texts);
    for (schema, kind_name) in [(&mut kind, &r.kind), (&mut list, &r.list_kind)] {
        schema.insert(
            "x-kubernetes-group-version-kind".into(),
            json!([{"group": r.group, "kind": kind_name, "version": r.version}]),
        );
        if dialect == Dialect::V3 && !custom.selectable.is_empty() {
            let fields: Vec<Value> = custom.selectable.iter().map(|path| json!({"fieldPath": path})).collect();
            schema.insert("x-kubernetes-selectable-fields".into(), fields.into());
        }
    }
    Some([(name, kind.into()), (reversed_name(&r.group, &r.version, &r.list_kind), list.into())])
}

fn is_structural(schema: &Value) -> bool {
    Schema::parse(schema).is_ok_and(|schema| check::structural(&schema, &crate::field::Path::root("")).is_empty())
}

fn root(
    schema: Option<&Value>,
    preserve_unknown: bool,
    dialect: Dialect,
    texts: &Descriptions<'_>,
) -> Map<String, Value> {
    let free = Map::from_iter([("type".to_owned(), json!("object"))]);
    let Some(Value::Object(given)) = schema else { return free };
    let preserved = given.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if dialect == Dialect::V2 && (preserved || preserve_unknown) {
        return free;
    }
    let mut root = given.clone();
    publish(&mut root, dialect);
    embed_all(&mut root, dialect, texts);
    let properties = object_in(&mut root, "properties");
    for name in ["apiVersion", "kind"] {
        properties.insert(name.into(), type_field(name, texts));
    }
    properties.insert("metadata".into(), metadata(dialect, texts));
    root
}

/// Brings a schema into the form that is published.
fn publish(schema: &mut Map<String, Value>, dialect: Dialect) {
    match dialect {
        Dialect::V3 => spell_out(schema),
        Dialect::V2 => simplify(schema),
    }
    for name in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = schema.get_mut(name) {
            publish(inner, dialect);
        }
    }
    for property in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        if let Value::Object(inner) = property {
            publish(inner, dialect);
        }
    }
}

/// What `x-kubernetes-int-or-string` stands for.
// upstream: pkg/apiserver/schema/unfold.go
fn spell_out(schema: &mut Map<String, Value>) {
    if schema.get("x-kubernetes-int-or-string") != Some(&Value::Bool(true)) {
        return;
    }
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let first = schema.get("allOf").and_then(|all| all.get(0)).and_then(|first| first.get("anyOf"));
    if schema.get("anyOf") == Some(&either) || first == Some(&either) {
        return;
    }
    if !schema.contains_key("anyOf") {
        schema.insert("anyOf".into(), either);
        return;
    }
    let all = schema.entry("allOf").or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.insert(0, json!({"anyOf": either}));
    }
}

/// Leaves out what OpenAPI v2 cannot say.
// upstream: pkg/controller/openapi/v2/conversion.go
fn simplify(schema: &mut Map<String, Value>) {
    for name in ["allOf", "oneOf", "anyOf", "not"] {
        schema.remove(name);
    }
    let is_true = |schema: &Map<String, Value>, name: &str| schema.get(name) == Some(&Value::Bool(true));
    if is_true(schema, "nullable") {
        for name in ["type", "nullable", "items", "properties"] {
            schema.remove(name);
        }
    }
    let preserved = is_true(schema, "x-kubernetes-preserve-unknown-fields");
    if preserved {
        schema.remove("items");
        schema.remove("properties");
    }
    let type_ = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    if (type_ == "array" && !schema.contains_key("items")) || (type_ == "object" && preserved) {
        schema.remove("type");
    }
    let nullable = |schema: &Value| schema.get("nullable") == Some(&Value::Bool(true));
    let free: Vec<String> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| nullable(property))
        .map(|(name, _)| name.clone())
        .collect();
    let drops_all = schema.get("additionalProperties").is_some_and(nullable);
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| !drops_all && !free.iter().any(|free| name == free));
        if required.is_empty() {
            schema.remove("required");
        }
    }
}

/// Gives embedded objects their `apiVersion`, `kind` and `metadata`.
fn embed_all(schema: &mut Map<String, Value>, dialect: Dialect, texts: &Descriptions<'_>) {
    for property in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        if let Value::Object(inner) = property {
            embed_all(inner, dialect, texts);
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = schema.get_mut(name) {
            embed_all(inner, dialect, texts);
        }
    }
    let is_true = |schema: &Map<String, Value>, name: &str| schema.get(name) == Some(&Value::Bool(true));
    let hidden = dialect == Dialect::V2 && is_true(schema, "x-kubernetes-preserve-unknown-fields");
    if hidden || !is_true(schema, "x-kubernetes-embedded-resource") {
        return;
    }
    let properties = object_in(schema, "properties");
    let link = "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    let version =
        format!("apiVersion defines the versioned schema of this representation of an object. {link}#resources");
    let kind = format!("kind is a string value representing the type of this object. In CamelCase. {link}#types-kinds");
    properties.insert("apiVersion".into(), json!({"type": "string", "description": version}));
    properties.insert("kind".into(), json!({"type": "string", "description": kind}));
    properties.insert("metadata".into(), metadata(dialect, texts));
    let required = schema.entry("required").or_insert_with(|| json!([]));
    if let Value::Array(required) = required {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
    }
}

fn object_in<'a>(schema: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    crate::meta::ensure_map(schema.entry(name).or_insert(Value::Null), &[])
}

fn type_field(name: &str, texts: &Descriptions<'_>) -> Value {
    described(json!({"type": "string"}), texts.of_field(EXEMPLAR, name))
}

fn metadata(dialect: Dialect, texts: &Descriptions<'_>) -> Value {
    described_reference("ObjectMeta", dialect, texts.of_field(EXEMPLAR, "metadata"))
}

/// A reference to one of the types of metadata. In v3 whatever stands beside a reference is ignored, so it is wrapped.
// upstream: kube-openapi pkg/schemamutation, used by builder3
fn described_reference(name: &str, dialect: Dialect, description: Option<String>) -> Value {
    let reference = dialect.reference(&format!("{META}{name}"));
    let wrapped = dialect == Dialect::V3 && description.is_some();
    described(if wrapped { json!({"allOf": [reference]}) } else { reference }, description)
}

fn described(mut schema: Value, description: Option<String>) -> Value {
    if let Some(description) = description {
        schema["description"] = description.into();
    }
    schema
}

fn list(r: &Resource, item: &str, dialect: Dialect, texts: &Descriptions<'_>) -> Map<String, Value> {
    let about = format!(
        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
        r.plural
    );
    let list_meta = texts.of_field("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList", "metadata");
    let properties = json!({
        "apiVersion": type_field("apiVersion", texts),
        "kind": type_field("kind", texts),
        "items": {"type": "array", "items": dialect.reference(item), "description": about},
        "metadata": described_reference("ListMeta", dialect, list_meta),
    });
    Map::from_iter([
        ("description".to_owned(), format!("{} is a list of {}", r.list_kind, r.kind).into()),
        ("type".to_owned(), json!("object")),
        ("required".to_owned(), json!(["items"])),
        ("properties".to_owned(), properties),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_leaves_out_what_it_cannot_say() {
        let mut schema = json!({"type": "object", "required": ["n", "a"], "properties": {
            "n": {"type": "string", "nullable": true}, "a": {"type": "string", "anyOf": [{"minLength": 1}]},
            "p": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}}}});
        publish(schema.as_object_mut().unwrap(), Dialect::V2);
        assert_eq!(
            schema,
            json!({"type": "object", "required": ["a"], "properties": {
                "n": {}, "a": {"type": "string"}, "p": {"x-kubernetes-preserve-unknown-fields": true}}})
        );
    }

    #[test]
    fn what_is_said_of_metadata_stands_beside_the_reference_only_in_v2() {
        let described = |dialect| described_reference("ObjectMeta", dialect, Some("about".to_owned()));
        assert_eq!(
            described(Dialect::V3),
            json!({"allOf": [{"$ref": format!("#/components/schemas/{META}ObjectMeta")}], "description": "about"})
        );
        assert_eq!(
            described(Dialect::V2),
            json!({"$ref": format!("#/definitions/{META}ObjectMeta"), "description": "about"})
        );
    }

    #[test]
    fn v3_spells_out_integers_or_strings() {
        let mut schema = json!({"properties": {"port": {"x-kubernetes-int-or-string": true}}});
        publish(schema.as_object_mut().unwrap(), Dialect::V3);
        assert_eq!(schema["properties"]["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    }
}
