//! Structural schemas of custom resources: what a CustomResourceDefinition says of one version, parsed. Start at
//! [`Schema::parse`].
//!
//! | module | what it does with an object |
//! |---|---|
//! | [`prune`] | removes fields that the schema does not know |
//! | [`default`] | fills in defaults |
//! | [`embedded`] | reads the metadata of whole objects inside the object |
//! | [`values`] | judges values, with kube-openapi's messages |
//! | [`lists`] | judges lists that are sets or maps |
//! | [`check`] | judges the schema itself |
// upstream: apiextensions-apiserver pkg/apiserver/schema
pub mod check;
pub mod default;
pub mod embedded;
mod formats;
pub mod lists;
mod pattern;
pub mod prune;
pub mod values;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use formats::unrecognized as unrecognized_format;
pub use pattern::Pattern;

/// A schema. The same type serves inside `allOf`, `anyOf`, `oneOf` and `not`, where [`check`] forbids most of its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    /// `type`; empty: not given.
    pub type_: String,
    /// Whether null is a value.
    pub nullable: bool,
    /// `default`.
    pub default: Option<Value>,
    /// The schema of a list's items.
    pub items: Option<Box<Schema>>,
    /// The known fields of an object.
    pub properties: BTreeMap<String, Schema>,
    /// What an object's other fields are.
    pub additional: Option<Additional>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`.
    pub list_type: Option<String>,
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type`.
    pub map_type: Option<String>,
    /// `x-kubernetes-validations`.
    pub rules: Vec<Value>,
    /// Whether there is a `description`.
    pub described: bool,
    /// Whether there is a `title`.
    pub titled: bool,
    /// What values are allowed; most schemas say nothing about that.
    pub limits: Option<Box<Limits>>,
}

/// `additionalProperties`.
#[derive(Clone, Debug, PartialEq)]
pub enum Additional {
    /// Anything, or nothing.
    Any(bool),
    /// Values of this schema.
    Schema(Box<Schema>),
}

impl Additional {
    /// The schema of the values, if there is one.
    pub fn schema(&self) -> Option<&Schema> {
        match self {
            Additional::Any(_) => None,
            Additional::Schema(schema) => Some(schema),
        }
    }
}

/// What values a schema allows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// `format`.
    pub format: String,
    /// `maximum`.
    pub maximum: Option<f64>,
    /// Whether the maximum itself is too much.
    pub exclusive_maximum: bool,
    /// `minimum`.
    pub minimum: Option<f64>,
    /// Whether the minimum itself is too little.
    pub exclusive_minimum: bool,
    /// `multipleOf`.
    pub multiple_of: Option<f64>,
    /// `maxLength`, in characters.
    pub max_length: Option<i64>,
    /// `minLength`, in characters.
    pub min_length: Option<i64>,
    /// `pattern`.
    pub pattern: Option<Pattern>,
    /// `maxItems`.
    pub max_items: Option<i64>,
    /// `minItems`.
    pub min_items: Option<i64>,
    /// `uniqueItems`.
    pub unique_items: bool,
    /// `maxProperties`.
    pub max_properties: Option<i64>,
    /// `minProperties`.
    pub min_properties: Option<i64>,
    /// `enum`.
    pub values: Vec<Value>,
    /// `required`.
    pub required: Vec<String>,
    /// `allOf`.
    pub all_of: Vec<Schema>,
    /// `anyOf`.
    pub any_of: Vec<Schema>,
    /// `oneOf`.
    pub one_of: Vec<Schema>,
    /// `not`.
    pub not: Option<Box<Schema>>,
}

/// Fields of JSON schemas that structural schemas do not have.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("id", "id"),
    ("$schema", "schema"),
    ("$ref", "$ref"),
    ("patternProperties", "patternProperties"),
    ("dependencies", "dependencies"),
    ("additionalItems", "additionalItems"),
    ("definitions", "definitions"),
];

impl Schema {
    /// Reads an `openAPIV3Schema`; the error is upstream's text about what structural schemas cannot say.
    pub fn parse(source: &Value) -> Result<Schema, String> {
        static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        let map = source.as_object().unwrap_or(&NOTHING);
        for (field, name) in UNSUPPORTED {
            let set = match map.get(field) {
                None | Some(Value::Null) => false,
                Some(Value::String(s)) => !s.is_empty(),
                Some(Value::Object(o)) => !o.is_empty() || field == "additionalItems",
                Some(_) => true,
            };
            if set {
                return Err(format!("OpenAPIV3Schema '{name}' is not supported"));
            }
        }
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
        let preserve = map.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool);
        if preserve == Some(false) {
            return Err("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".to_owned());
        }
        let items = match map.get("items") {
            Some(Value::Array(_)) => {
                return Err("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
            }
            Some(items @ Value::Object(_)) => Some(Box::new(Schema::parse(items)?)),
            _ => None,
        };
        let mut properties = BTreeMap::new();
        for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            properties.insert(name.clone(), Schema::parse(property)?);
        }
        let additional = match map.get("additionalProperties") {
            Some(Value::Bool(allowed)) => Some(Additional::Any(*allowed)),
            Some(schema @ Value::Object(_)) => Some(Additional::Schema(Box::new(Schema::parse(schema)?))),
            _ => None,
        };
        Ok(Schema {
            type_: text("type").unwrap_or_default(),
            nullable: flag("nullable"),
            default: map.get("default").filter(|v| !v.is_null()).cloned(),
            items,
            properties,
            additional,
            preserve_unknown: preserve == Some(true),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list_type: text("x-kubernetes-list-type"),
            list_map_keys: texts(map, "x-kubernetes-list-map-keys"),
            map_type: text("x-kubernetes-map-type"),
            rules: map.get("x-kubernetes-validations").and_then(Value::as_array).cloned().unwrap_or_default(),
            described: text("description").is_some_and(|t| !t.is_empty()),
            titled: text("title").is_some_and(|t| !t.is_empty()),
            limits: Limits::parse(map)?.map(Box::new),
        })
    }

    /// The schema of the field `name`: a known one, or that of additional ones.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or_else(|| self.additional.as_ref().and_then(Additional::schema))
    }

    /// Whether `found` holds for this schema or one inside it, also inside `allOf` and the like.
    pub fn any(&self, found: &mut dyn FnMut(&Schema) -> bool) -> bool {
        if found(self) {
            return true;
        }
        let inside = self.items.as_deref().into_iter();
        let inside = inside.chain(self.properties.values());
        let inside = inside.chain(self.additional.as_ref().and_then(Additional::schema));
        let limits = self.limits.iter().flat_map(|l| l.alternatives());
        inside.chain(limits).any(|schema| schema.any(found))
    }

    /// Whether fields or items of this schema have defaults.
    pub fn has_defaults(&self) -> bool {
        self.any(&mut |schema| schema.default.is_some())
    }
}

impl Limits {
    fn parse(map: &Map<String, Value>) -> Result<Option<Limits>, String> {
        let number = |name: &str| map.get(name).and_then(Value::as_f64);
        let count = |name: &str| map.get(name).and_then(Value::as_i64);
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
        let all = |name: &str| {
            let list = map.get(name).and_then(Value::as_array).into_iter().flatten();
            list.map(Schema::parse).collect::<Result<Vec<_>, _>>()
        };
        let limits = Limits {
            format: text("format").to_owned(),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: Some(text("pattern")).filter(|p| !p.is_empty()).map(Pattern::new),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            values: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            required: texts(map, "required"),
            all_of: all("allOf")?,
            any_of: all("anyOf")?,
            one_of: all("oneOf")?,
            not: map.get("not").filter(|not| not.is_object()).map(Schema::parse).transpose()?.map(Box::new),
        };
        Ok((limits != Limits::default()).then_some(limits))
    }

    /// The schemas in `allOf`, `anyOf`, `oneOf` and `not`.
    pub fn alternatives(&self) -> impl Iterator<Item = &Schema> {
        self.all_of.iter().chain(&self.any_of).chain(&self.one_of).chain(self.not.as_deref())
    }
}

fn texts(map: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = map.get(name).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The fields that every whole object has.
pub(crate) const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_read_with_its_limits_and_extensions() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "size": {"type": "integer", "minimum": 1, "default": 3},
            "port": {"x-kubernetes-int-or-string": true},
            "rest": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^a"}}}}))
        .unwrap();
        assert_eq!(schema.properties["size"].limits.as_ref().unwrap().minimum, Some(1.0));
        assert!(schema.properties["port"].int_or_string && schema.has_defaults());
        assert_eq!(schema.properties["rest"].field("x").unwrap().type_, "string");
        assert!(schema.limits.is_none());
    }

    #[test]
    fn what_structural_schemas_cannot_say_is_named() {
        let error = |schema: Value| Schema::parse(&schema).unwrap_err();
        assert_eq!(error(json!({"$ref": "#/x"})), "OpenAPIV3Schema '$ref' is not supported");
        assert_eq!(error(json!({"items": [{}]})), "OpenAPIV3Schema 'items' must be a schema, but is an array");
    }
}
