//! Definitions of types, in the dialects of OpenAPI v2 and v3.
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{META, definition_name, full_name};
use crate::{
    descriptions::Descriptions,
    facts::{self, Field, ListType, Shape, Type},
};

/// The version of OpenAPI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a definition.
    pub(super) fn reference(self, name: &str) -> Value {
        let place = match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{place}{name}")})
    }
}

const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// The definition that a shape refers to, if it is not spelled out in place.
fn referred(shape: &Shape, go_type: &str) -> Option<String> {
    Some(match shape {
        Shape::Object(id) => full_name(id.get().name),
        Shape::Time => format!("{META}Time"),
        Shape::MicroTime => format!("{META}MicroTime"),
        Shape::Duration => format!("{META}Duration"),
        Shape::FieldsV1 => format!("{META}FieldsV1"),
        Shape::Quantity => QUANTITY.into(),
        Shape::IntOrString => INT_OR_STRING.into(),
        Shape::RawExtension => RAW_EXTENSION.into(),
        Shape::Json => match go_type.rsplit('.').next().unwrap_or("JSON") {
            "JSONSchemaDependencies" => format!("{APIEXTENSIONS}JSONSchemaPropsOrStringArray"),
            name => format!("{APIEXTENSIONS}{name}"),
        },
        _ => return None,
    })
}

fn innermost(shape: &Shape) -> &Shape {
    shape.item().map_or(shape, innermost)
}

/// `wanted` and everything that it refers to.
pub(super) fn closure(wanted: BTreeSet<String>) -> BTreeSet<String> {
    let mut pending: Vec<String> = wanted.into_iter().collect();
    let mut all = BTreeSet::new();
    while let Some(name) = pending.pop() {
        let ty = name.strip_prefix("io.k8s.").and_then(facts::by_name);
        for field in ty.into_iter().flat_map(|t| &t.fields) {
            pending.extend(referred(innermost(&field.shape), &field.go_type()).filter(|n| !all.contains(n)));
        }
        if name.starts_with(APIEXTENSIONS) {
            pending.extend(Some(format!("{APIEXTENSIONS}JSONSchemaProps")).filter(|n| !all.contains(n) && *n != name));
        }
        all.insert(name);
    }
    all
}

/// The definition of the type `name`; `shared` lists the group versions of kinds that exist in each.
pub(super) fn definition(
    name: &str,
    dialect: Dialect,
    descriptions: &Descriptions<'_>,
    shared: &[(String, String)],
) -> Option<Value> {
    let mut schema = Map::new();
    if let Some(description) = descriptions.of_type(name) {
        schema.insert("description".into(), description.into());
    }
    if let Some(special) = special(name, dialect) {
        schema.extend(special);
        return Some(schema.into());
    }
    let ty = facts::by_name(name.strip_prefix("io.k8s.")?)?;
    schema.insert("type".into(), "object".into());
    let required: Vec<&str> = ty.fields.iter().filter(|f| f.flags.required()).map(|f| f.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    if !ty.fields.is_empty() {
        let properties: Map<String, Value> = ty
            .fields
            .iter()
            .map(|f| (f.name.to_owned(), property(f, dialect, descriptions.of_field(name, f.name))))
            .collect();
        schema.insert("properties".into(), properties.into());
    }
    if let Some(kinds) = kinds(ty, shared) {
        schema.insert("x-kubernetes-group-version-kind".into(), kinds);
    }
    if ty.atomic {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Ok(unions) = serde_json::from_str::<Value>(ty.unions) {
        schema.insert("x-kubernetes-unions".into(), unions);
    }
    Some(schema.into())
}

fn kinds(ty: &Type, shared: &[(String, String)]) -> Option<Value> {
    let gvk = |group: &str, version: &str, kind: &str| json!({"group": group, "kind": kind, "version": version});
    if let Some((group, version, kind)) = ty.gvk {
        return Some(json!([gvk(group, version, kind)]));
    }
    if ty.name.starts_with("apimachinery.") && matches!(ty.go_name(), "DeleteOptions" | "WatchEvent") {
        return Some(shared.iter().map(|(group, version)| gvk(group, version, ty.go_name())).collect());
    }
    None
}

/// Types that are not described by fields.
fn special(name: &str, dialect: Dialect) -> Option<Map<String, Value>> {
    let v3 = dialect == Dialect::V3;
    let schema = match name {
        QUANTITY if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        QUANTITY => json!({"type": "string"}),
        INT_OR_STRING if v3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        INT_OR_STRING => json!({"type": "string", "format": "int-or-string"}),
        RAW_EXTENSION => json!({"type": "object"}),
        _ => match (name.strip_prefix(META), name.strip_prefix(APIEXTENSIONS)) {
            (Some("Time" | "MicroTime"), _) => json!({"type": "string", "format": "date-time"}),
            (Some("Duration"), _) => json!({"type": "string"}),
            (Some("FieldsV1" | "Patch"), _) => json!({"type": "object"}),
            (_, Some("JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray")) => {
                json!({})
            }
            _ => return None,
        },
    };
    match schema {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

fn property(field: &Field, dialect: Dialect, description: Option<String>) -> Value {
    let zero = field.flags.zero_default();
    let mut schema = shape(&field.shape, &field.go_type(), dialect, zero, description.is_some());
    if let Some(description) = description {
        schema.insert("description".into(), description.into());
    }
    if let (Dialect::V3, Ok(default)) = (dialect, serde_json::from_str::<Value>(field.default)) {
        schema.insert("default".into(), default);
    }
    if !field.enum_values.is_empty() {
        match schema.get_mut("items").and_then(Value::as_object_mut) {
            Some(items) => items.insert("enum".into(), field.enum_values.into()),
            None => schema.insert("enum".into(), field.enum_values.into()),
        };
    }
    let list_type = match field.list_type {
        ListType::Unset => None,
        ListType::Atomic => Some("atomic"),
        ListType::Set => Some("set"),
        ListType::Map => Some("map"),
    };
    if let Some(list_type) = list_type {
        schema.insert("x-kubernetes-list-type".into(), list_type.into());
    }
    if !field.list_map_keys.is_empty() {
        schema.insert("x-kubernetes-list-map-keys".into(), field.list_map_keys.into());
    }
    for (map_type, set) in [("atomic", field.flags.map_atomic()), ("granular", field.flags.map_granular())] {
        if set {
            schema.insert("x-kubernetes-map-type".into(), map_type.into());
        }
    }
    if !field.merge_key.is_empty() {
        schema.insert("x-kubernetes-patch-merge-key".into(), field.merge_key.into());
    }
    let strategies: Vec<&str> =
        [("merge", field.flags.merge()), ("retainKeys", field.flags.retain_keys()), ("replace", field.flags.replace())]
            .into_iter()
            .filter_map(|(name, set)| set.then_some(name))
            .collect();
    if !strategies.is_empty() {
        schema.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    schema.into()
}

/// The schema of a value. `zero`: the zero value is its default (which v3 documents show); `wrapped`: more is said besides, so
/// that v3 needs `allOf` around a reference.
fn shape(shape_: &Shape, go_type: &str, dialect: Dialect, zero: bool, wrapped: bool) -> Map<String, Value> {
    let v3 = dialect == Dialect::V3;
    let mut schema = Map::new();
    if let Some(name) = referred(shape_, go_type) {
        let reference = dialect.reference(&name);
        if v3 && (wrapped || zero) {
            schema.insert("allOf".into(), json!([reference]));
            if zero {
                schema.insert("default".into(), json!({}));
            }
        } else if let Value::Object(reference) = reference {
            schema.extend(reference);
        }
        return schema;
    }
    let (type_, format, default) = match shape_ {
        Shape::String => ("string", None, json!("")),
        Shape::Bytes => ("string", Some("byte"), json!("")),
        Shape::Bool => ("boolean", None, json!(false)),
        Shape::Int32 => ("integer", Some("int32"), json!(0)),
        Shape::Int64 => ("integer", Some("int64"), json!(0)),
        Shape::Double => ("number", Some("double"), json!(0)),
        Shape::List(item) | Shape::WrappedList(item) => {
            schema.insert("type".into(), "array".into());
            schema.insert("items".into(), item_schema(item, go_type, dialect).into());
            return schema;
        }
        Shape::Map(item) => {
            schema.insert("type".into(), "object".into());
            schema.insert("additionalProperties".into(), item_schema(item, go_type, dialect).into());
            return schema;
        }
        _ => ("object", None, json!({})),
    };
    schema.insert("type".into(), type_.into());
    if let Some(format) = format {
        schema.insert("format".into(), format.into());
    }
    if v3 && zero {
        schema.insert("default".into(), default);
    }
    schema
}

fn item_schema(item: &Shape, go_type: &str, dialect: Dialect) -> Map<String, Value> {
    // Items are never pointers, so their zero value is the default; types that marshal themselves show none.
    let zero =
        matches!(item, Shape::String | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double | Shape::Object(_));
    shape(item, go_type, dialect, zero, false)
}

/// The definition that a request or response of this kind refers to; `None` for plain text.
pub(super) fn body_type(group: &str, version: &str, kind: &str) -> Option<String> {
    (!kind.ends_with("Options")).then(|| definition_name(group, version, kind))
}
