//! How large values can be, from the OpenAPI schemas of custom resource definitions. Start at [`Sizes::of_schema`].
// upstream: apiserver pkg/cel/common/schemas.go, pkg/cel/limits.go
use crate::estimate::Estimate;
use crate::schema::escape;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The largest request, in bytes.
const MAX_REQUEST: i64 = 3 * 1024 * 1024;
/// How long texts of a known format are in JSON, in bytes.
const MAX_DURATION: i64 = 32;
const MAX_DATE_TIME: i64 = 32;
const DATE: i64 = 12;
const MIN_DURATION: i64 = 3;
const MIN_DATE_TIME: i64 = 21;
/// `""`, `[]` and `{}`.
const MIN_CONTAINER: i64 = 2;

/// How large the values of a schema can be.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// How many elements, entries or bytes of text; 0 where there is nothing to count.
    max: i64,
    /// The fewest bytes of such a value in JSON.
    min_json: i64,
    inside: Inside,
}

#[derive(Clone, Debug)]
enum Inside {
    Nothing,
    List(Arc<Sizes>),
    Map(Arc<Sizes>),
    Object(BTreeMap<String, Arc<Sizes>>),
}

impl Sizes {
    /// Of values that fit `schema`, a structural one; `root`: of whole objects. `None`: expressions cannot reach them.
    pub fn of_schema(schema: &Value, root: bool) -> Option<Sizes> {
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        let limit = |key: &str| schema.get(key).and_then(Value::as_i64).map(|limit| limit.max(0));
        if flag(schema, "x-kubernetes-int-or-string") {
            return Some(Sizes::plain(limit("maxLength").map_or(MAX_REQUEST - 2, characters), 1));
        }
        let resource = root || flag(schema, "x-kubernetes-embedded-resource");
        match text("type") {
            "array" => {
                let items = Sizes::of_schema(schema.get("items")?, false)?;
                let max = limit("maxItems").unwrap_or((MAX_REQUEST - 2) / (items.min_json + 1));
                Some(Sizes { max, min_json: MIN_CONTAINER, inside: Inside::List(Arc::new(items)) })
            }
            "object" => match schema.get("additionalProperties") {
                Some(values @ Value::Object(_)) => {
                    let values = Sizes::of_schema(values, false)?;
                    // Beside the value an entry has its key of two letters, quotes, a colon and a comma.
                    let max = limit("maxProperties").unwrap_or((MAX_REQUEST - 2) / (values.min_json + 6));
                    Some(Sizes { max, min_json: MIN_CONTAINER, inside: Inside::Map(Arc::new(values)) })
                }
                _ => Some(object(schema, resource)),
            },
            "string" => Some(match text("format") {
                "byte" => Sizes::plain(limit("maxLength").unwrap_or(MAX_REQUEST - 2), MIN_CONTAINER),
                "duration" => Sizes::plain(MAX_DURATION, MIN_DURATION),
                "date" => Sizes::plain(DATE, DATE),
                "date-time" => Sizes::plain(MAX_DATE_TIME, MIN_DATE_TIME),
                _ => {
                    let longest = limit("maxLength").map(characters).or_else(|| longest_of(schema.get("enum")?));
                    Sizes::plain(longest.unwrap_or(MAX_REQUEST - 2), MIN_CONTAINER)
                }
            }),
            "boolean" => Some(Sizes::plain(0, 4)),
            "number" | "integer" => Some(Sizes::plain(0, 1)),
            _ if resource => Some(object(schema, true)),
            _ => None,
        }
    }

    fn plain(max: i64, min_json: i64) -> Sizes {
        Sizes { max, min_json, inside: Inside::Nothing }
    }

    /// How often a value of this schema can be in one request, if nothing else bounds it.
    // upstream: apiextensions-apiserver pkg/apiserver/schema/cel, maxCardinality
    pub fn max_cardinality(&self) -> u64 {
        (MAX_REQUEST / (self.min_json + 1)).unsigned_abs()
    }

    /// Of a field, by its name in JSON.
    pub fn field(&self, name: &str) -> Option<Arc<Sizes>> {
        match &self.inside {
            Inside::Object(fields) => fields.get(&escape(name)?).cloned(),
            _ => None,
        }
    }

    /// Of the elements of a list or the values of a map.
    pub fn element(&self) -> Option<Arc<Sizes>> {
        match &self.inside {
            Inside::List(element) | Inside::Map(element) => Some(element.clone()),
            _ => None,
        }
    }

    /// How large the value at a path below a variable is.
    pub(crate) fn at(&self, names: &[&str]) -> Option<Estimate> {
        let max = |sizes: &Sizes| Estimate { min: 0, max: sizes.max.unsigned_abs() };
        let Some((name, rest)) = names.split_first() else { return Some(max(self)) };
        match (&self.inside, *name) {
            (Inside::List(element) | Inside::Map(element), "@items" | "@values") => element.at(rest),
            // Keys are strings of which the schema tells nothing.
            (Inside::Map(_), "@keys") => rest.is_empty().then_some(Estimate::exactly(0)),
            (Inside::Object(fields), name) => fields.get(name)?.at(rest),
            _ => None,
        }
    }
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// Characters have up to four bytes.
fn characters(max: i64) -> i64 {
    max.saturating_mul(4)
}

/// The length of the longest text of an `enum`; `None` if it has no values.
fn longest_of(values: &Value) -> Option<i64> {
    let values = values.as_array().filter(|values| !values.is_empty())?;
    let longest = values.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or_default();
    Some(i64::try_from(longest).unwrap_or(i64::MAX))
}

fn object(schema: &Value, resource: bool) -> Sizes {
    let given = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    let required = |name: &str| required.is_some_and(|names| names.iter().any(|held| held.as_str() == Some(name)));
    let own_metadata = resource && !given.is_some_and(has_metadata);
    let (mut fields, mut min_json) = (BTreeMap::new(), MIN_CONTAINER);
    let mut add = |name: &str, sizes: Sizes, has_default: bool| {
        // What has a default need not be sent.
        if required(name) && !has_default {
            min_json += name.len() as i64 + sizes.min_json + 4;
        }
        if let Some(name) = escape(name) {
            fields.insert(name, Arc::new(sizes));
        }
    };
    for (name, property) in given.into_iter().flatten() {
        if own_metadata && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(sizes) = Sizes::of_schema(property, false) {
            add(name, sizes, property.get("default").is_some_and(|default| !default.is_null()));
        }
    }
    if own_metadata {
        let text = || Sizes::plain(MAX_REQUEST - 2, MIN_CONTAINER);
        add("apiVersion", text(), false);
        add("kind", text(), false);
        let names = ["name", "generateName"].map(|name| (name.to_owned(), Arc::new(text())));
        let inside = Inside::Object(BTreeMap::from(names));
        add("metadata", Sizes { max: 0, min_json: MIN_CONTAINER, inside }, false);
    }
    Sizes { max: 0, min_json, inside: Inside::Object(fields) }
}

/// Whether the properties declare all that every object has.
// upstream: apiextensions-apiserver pkg/apiserver/schema/cel/model, WithTypeAndObjectMeta
fn has_metadata(properties: &Map<String, Value>) -> bool {
    let is = |properties: &Map<String, Value>, name: &str, ty: &str| {
        properties.get(name).and_then(|property| property.get("type")).and_then(Value::as_str) == Some(ty)
    };
    let metadata = || properties.get("metadata")?.get("properties")?.as_object();
    is(properties, "kind", "string")
        && is(properties, "apiVersion", "string")
        && is(properties, "metadata", "object")
        && metadata().is_some_and(|inner| is(inner, "name", "string") && is(inner, "generateName", "string"))
}
