//! How values of a custom resource are owned and merged, compiled from its OpenAPI v3 schema. Start at [`Schema::of`].
// upstream: kube-openapi pkg/schemaconv, ToSchemaFromOpenAPI
use std::collections::BTreeMap;

use serde_json::Value;

/// A schema as server-side apply sees it: only what decides about ownership is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    pub(super) map: Option<Map>,
    pub(super) list: Option<List>,
    /// Whether scalars are allowed here.
    pub(super) scalar: Scalar,
}

/// Which scalars a value may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Scalar {
    /// None.
    #[default]
    None,
    /// Any.
    Any,
    /// Strings.
    String,
    /// Numbers.
    Number,
    /// Booleans.
    Bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Map {
    pub(super) atomic: bool,
    pub(super) fields: BTreeMap<String, Schema>,
    pub(super) rest: Rest,
}

/// What entries without a schema of their own are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rest {
    /// They are not allowed.
    Undeclared,
    /// Anything: objects are owned field by field, lists as a whole.
    Deduced,
    /// All alike.
    Alike(Box<Schema>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum List {
    Atomic(Box<Schema>),
    Set(Box<Schema>),
    /// Objects with keys, and the keys' defaults.
    Keyed(Vec<(String, Option<Value>)>, Box<Schema>),
}

impl Schema {
    /// Compiles the schema of a version of a custom resource. `preserve_unknown` is that of the whole resource.
    ///
    /// The root is completed with `apiVersion`, `kind` and `metadata`, the latter as of every object.
    pub fn of(openapi: &Value, preserve_unknown: bool) -> Schema {
        let mut schema = parse(openapi, preserve_unknown);
        let root =
            schema.map.get_or_insert_with(|| Map { atomic: false, fields: BTreeMap::new(), rest: Rest::Deduced });
        for name in ["apiVersion", "kind"] {
            root.fields.insert(name.to_owned(), Schema { scalar: Scalar::String, ..Schema::default() });
        }
        root.fields.remove("metadata");
        schema
    }
}

fn parse(openapi: &Value, preserve_unknown: bool) -> Schema {
    let preserve = preserve_unknown || openapi["x-kubernetes-preserve-unknown-fields"] == true;
    let typed = match openapi["type"].as_str().unwrap_or_default() {
        "object" => Schema { map: Some(object(openapi, preserve)), ..Schema::default() },
        "array" => Schema { list: Some(list(openapi, preserve)), ..Schema::default() },
        "string" => Schema { scalar: Scalar::String, ..Schema::default() },
        "integer" | "number" => Schema { scalar: Scalar::Number, ..Schema::default() },
        "boolean" => Schema { scalar: Scalar::Bool, ..Schema::default() },
        _ => Schema { map: Some(object(openapi, preserve)), list: Some(list(openapi, preserve)), scalar: Scalar::Any },
    };
    if openapi["x-kubernetes-int-or-string"] == true {
        Schema { scalar: Scalar::Any, ..Schema::default() }
    } else {
        typed
    }
}

fn object(openapi: &Value, preserve: bool) -> Map {
    let properties = openapi["properties"].as_object();
    let mut fields: BTreeMap<String, Schema> =
        properties.into_iter().flatten().map(|(name, schema)| (name.clone(), parse(schema, preserve))).collect();
    let embedded = openapi["x-kubernetes-embedded-resource"] == true;
    if embedded {
        for name in ["apiVersion", "kind"] {
            fields.entry(name.to_owned()).or_insert(Schema { scalar: Scalar::String, ..Schema::default() });
        }
    }
    let rest = match &openapi["additionalProperties"] {
        Value::Null if preserve || fields.is_empty() => Rest::Deduced,
        Value::Bool(true) => Rest::Deduced,
        Value::Null | Value::Bool(false) => Rest::Undeclared,
        schema => Rest::Alike(Box::new(parse(schema, preserve))),
    };
    // The metadata of an embedded object is that of every object.
    let rest = if embedded && matches!(rest, Rest::Undeclared) && !fields.contains_key("metadata") {
        fields.insert("metadata".to_owned(), parse(&serde_json::json!({"type": "object"}), false));
        rest
    } else {
        rest
    };
    Map { atomic: openapi["x-kubernetes-map-type"] == "atomic", fields, rest }
}

/// Items of which nothing is said.
fn anything() -> Schema {
    let map = Map { atomic: false, fields: BTreeMap::new(), rest: Rest::Deduced };
    let leaf = Schema { map: Some(map.clone()), list: None, scalar: Scalar::Any };
    Schema { map: Some(map), list: Some(List::Atomic(Box::new(leaf))), scalar: Scalar::Any }
}

fn list(openapi: &Value, preserve: bool) -> List {
    let item = Box::new(match openapi.get("items") {
        Some(items) => parse(items, preserve),
        None => anything(),
    });
    match openapi["x-kubernetes-list-type"].as_str() {
        Some("set") => List::Set(item),
        Some("map") => {
            let properties = &openapi["items"]["properties"];
            let keys = openapi["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let default = |key: &str| Some(properties[key]["default"].clone()).filter(|v| !v.is_null());
            let mut keys: Vec<_> = keys.map(|key| (key.to_owned(), default(key))).collect();
            keys.sort_by(|a, b| a.0.cmp(&b.0));
            List::Keyed(keys, item)
        }
        _ => List::Atomic(item),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_decides_about_ownership_is_read_from_the_schema() {
        let schema = Schema::of(
            &json!({"type": "object", "properties": {
                "metadata": {"type": "object"},
                "spec": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "integer"}}},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["p", "n"],
                    "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
                "port": {"x-kubernetes-int-or-string": true},
                "any": {"x-kubernetes-preserve-unknown-fields": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}),
            false,
        );
        let root = schema.map.unwrap();
        assert!(!root.fields.contains_key("metadata") && root.fields.contains_key("apiVersion"));
        assert_eq!(root.rest, Rest::Undeclared);
        assert!(root.fields["spec"].map.as_ref().unwrap().atomic);
        assert_eq!(root.fields["free"].map.as_ref().unwrap().rest, Rest::Deduced);
        let Some(List::Keyed(keys, _)) = &root.fields["ports"].list else { panic!("keyed") };
        assert_eq!(*keys, [("n".to_owned(), None), ("p".to_owned(), Some(json!("TCP")))]);
    }
}
