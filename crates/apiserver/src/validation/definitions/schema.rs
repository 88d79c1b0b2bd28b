//! The schemas of CustomResourceDefinitions. Start at [`validate`].
use crate::definitions::rules;
use crate::validation::field::{Errors, Field};
use crate::value::Read;
use pintle_api::field::FieldError;
use pintle_api::structural::{Additional, Schema, check};
use serde_json::Value;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META_FIELDS: [&str; 3] = ["metadata", "kind", "apiVersion"];
/// What the root of a schema may say when there is a `status` subresource, as upstream names it.
const ROOT_FIELDS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// Judges a `CustomResourceValidation`; `unchanged`: it was the same before.
// upstream: validateCustomResourceDefinitionValidation
pub(super) fn validate(validation: &Field<'_>, has_status: bool, unchanged: bool, errors: &mut Errors) {
    let schema = validation.child("openAPIV3Schema");
    if !schema.is_set() {
        return;
    }
    let before = errors.len();
    if has_status {
        root_with_status(&schema, errors);
    }
    if schema.value.flag("nullable") {
        errors.push(schema.child("nullable").forbidden("nullable cannot be true at the root"));
    }
    let parsed = Schema::parse(schema.value);
    let mut structural = false;
    if let Ok(parsed) = &parsed {
        let mut wrong = check::structural(parsed, &schema.path);
        if wrong.is_empty() {
            wrong = check::defaults(parsed, &schema.path);
        }
        if wrong.is_empty() {
            wrong = rules::judge_defaults(schema.value, &schema.path);
        }
        structural = wrong.is_empty();
        errors.extend(wrong);
    }
    let until = errors.len();
    walk(&schema, true, &Place::default(), errors);
    if structural {
        let broken: Vec<String> = errors[until..].iter().map(|error| error.field.clone()).collect();
        errors.extend(rules::check(schema.value, &schema.path, &broken, unchanged));
    }
    if let (true, Err(why)) = (errors.len() == before, parsed) {
        errors.push(FieldError::invalid(&schema.path, "", why));
    }
}

fn root_with_status(schema: &Field<'_>, errors: &mut Errors) {
    let type_ = schema.child("type");
    if !type_.is_zero() && type_.text() != "object" {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(type_.invalid(why));
        return;
    }
    let given = schema.value.as_object().into_iter().flatten();
    if given.into_iter().any(|(name, value)| !value.is_null() && !ROOT_FIELDS.iter().any(|(known, _)| known == name)) {
        let names: Vec<&str> = ROOT_FIELDS.iter().map(|(_, name)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.push(schema.invalid(why));
    }
}

/// What the place of a schema forbids.
#[derive(Clone, Default)]
struct Place {
    no_defaults: Option<String>,
    in_metadata: bool,
}

// upstream: ValidateCustomResourceDefinitionOpenAPISchema
fn walk(schema: &Field<'_>, root: bool, place: &Place, errors: &mut Errors) {
    standard(schema, place, errors);
    let value = schema.value;
    if value.flag("uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(schema.child("uniqueItems").forbidden(why));
    }
    let additional = schema.child("additionalProperties");
    if additional.is_set() {
        if !value.is_zero("properties") && additional.value != &Value::Bool(true) {
            errors.push(additional.forbidden("additionalProperties and properties are mutual exclusive"));
        }
        if additional.value.is_object() {
            let mut below = place.clone();
            if place.in_metadata {
                below.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
            }
            walk(&additional, false, &below, errors);
        }
    }
    let properties = schema.child("properties");
    for (name, property) in properties.entries() {
        let mut below = place.clone();
        if (root || value.flag("x-kubernetes-embedded-resource")) && META_FIELDS.contains(&name) {
            below.in_metadata = true;
            if root {
                below.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        walk(&property, false, &below, errors);
    }
    let not = schema.child("not");
    if not.is_set() {
        walk(&not, false, place, errors);
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        schema.child(name).items().for_each(|inner| walk(&inner, false, place, errors));
    }
    schema.child("definitions").entries().for_each(|(_, inner)| walk(&inner, false, place, errors));
    let items = schema.child("items");
    match items.value {
        Value::Object(_) => walk(&items, false, place, errors),
        Value::Array(_) => items.items().for_each(|inner| walk(&inner, false, place, errors)),
        _ => {}
    }
    extensions(schema, errors);
    rules(schema, errors);
}

// upstream: specStandardValidatorV3
fn standard(schema: &Field<'_>, place: &Place, errors: &mut Errors) {
    let type_ = schema.child("type");
    if !type_.is_zero() && !TYPES.contains(&type_.text()) {
        errors.push(FieldError::not_supported(&type_.path, type_.text(), &TYPES));
    }
    if let (true, Some(reason)) = (schema.value.has("default"), &place.no_defaults) {
        errors.push(schema.child("default").forbidden(format!("must not be set {reason}")));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let field = schema.child(name);
        let set = field.is_set() && (!field.is_zero() || matches!(name, "additionalItems" | "dependencies"));
        if set {
            errors.push(field.forbidden(format!("{name} is not supported")));
        }
    }
    if type_.text() == "null" {
        errors.push(type_.forbidden("type cannot be set to null, use nullable as an alternative"));
    }
    let items = schema.child("items");
    if items.value.is_array() {
        errors.push(items.forbidden("items must be a schema object and not an array"));
    }
    let embedded = schema.child("x-kubernetes-embedded-resource");
    if place.in_metadata && embedded.flag() {
        errors.push(embedded.forbidden("must not be used inside of resource meta"));
    }
}

/// `x-kubernetes-…`.
fn extensions(schema: &Field<'_>, errors: &mut Errors) {
    let preserve = schema.child("x-kubernetes-preserve-unknown-fields");
    if preserve.value == &Value::Bool(false) {
        errors.push(preserve.invalid("must be true or undefined"));
    }
    let type_ = schema.child("type");
    let must_be = |what: &str, because: &str, errors: &mut Errors| {
        let why = format!("must be {what} if {because} is specified");
        errors.push(if type_.is_zero() { type_.missing(why) } else { type_.invalid(why) });
    };
    let map_type = schema.child("x-kubernetes-map-type");
    if map_type.is_set() {
        if type_.text() != "object" {
            must_be("object", "x-kubernetes-map-type", errors);
        }
        if !matches!(map_type.text(), "atomic" | "granular") {
            errors.push(FieldError::not_supported(&map_type.path, map_type.text(), &["atomic", "granular"]));
        }
    }
    let list_type = schema.child("x-kubernetes-list-type");
    let (items, keys) = (schema.child("items"), schema.child("x-kubernetes-list-map-keys"));
    if list_type.is_set() && type_.text() != "array" {
        must_be("array", "x-kubernetes-list-type", errors);
    } else if list_type.text() == "set" && items.value.is_object() {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (list, map) = (items.child("x-kubernetes-list-type"), items.child("x-kubernetes-map-type"));
        match items.value.text("type") {
            "array" if list.is_set() && list.text() != "atomic" => errors.push(list.invalid(why)),
            "object" if map.text() != "atomic" => errors.push(FieldError::invalid(&map.path, list.value, why)),
            _ => {}
        }
    }
    if list_type.is_set() && !matches!(list_type.text(), "atomic" | "set" | "map") {
        errors.push(FieldError::not_supported(&list_type.path, list_type.text(), &["atomic", "set", "map"]));
    }
    if !keys.is_zero() && list_type.text() != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(if list_type.is_set() { list_type.invalid(why) } else { list_type.missing(why) });
    }
    if list_type.text() == "map" {
        list_map(&items, &keys, errors);
    }
    if matches!(list_type.text(), "map" | "set") && items.value.is_object() {
        keyed_items(&items, list_type.text(), &keys, errors);
    }
}

fn list_map(items: &Field<'_>, keys: &Field<'_>, errors: &mut Errors) {
    if keys.is_zero() {
        errors.push(keys.missing("must not be empty if x-kubernetes-list-type is map"));
    }
    match items.value {
        Value::Null => errors.push(items.missing("must have a schema if x-kubernetes-list-type is map")),
        Value::Array(_) => {
            errors.push(items.invalid("must only have a single schema if x-kubernetes-list-type is map"));
        }
        _ if items.value.text("type") != "object" => {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(items.child("type").invalid(why));
        }
        _ => {
            let mut seen: Vec<&str> = Vec::new();
            for key in keys.value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                let property = items.value.field("properties").field(key);
                if property.is_null() {
                    errors.push(keys.invalid("entries must all be names of item properties"));
                } else if matches!(property.text("type"), "array" | "object") {
                    let properties = items.child("properties");
                    let at = properties.path.key(key);
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errors.push(FieldError::invalid(&at.child("type"), items.value.text("type"), why));
                }
                if seen.contains(&key) {
                    errors.push(keys.invalid("must not contain duplicate entries"));
                }
                seen.push(key);
            }
        }
    }
}

// upstream: validateMapListKeysMapSet
fn keyed_items(items: &Field<'_>, list_type: &str, keys: &Field<'_>, errors: &mut Errors) {
    if items.value.flag("nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(items.child("nullable").forbidden(why));
    }
    if list_type != "map" {
        return;
    }
    let properties = items.child("properties");
    for key in keys.value.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let property = properties.value.field(key);
        if property.is_null() {
            continue;
        }
        let at = properties.path.key(key);
        if !items.value.texts("required").any(|required| required == key) && !property.has("default") {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(&at.child("default"), why));
        }
        if property.flag("nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(&at.child("nullable"), why));
        }
    }
}

/// The form of `x-kubernetes-validations`.
fn rules(schema: &Field<'_>, errors: &mut Errors) {
    let has_breaks = |text: &str| text.contains(['\n', '\r']);
    for rule in schema.child("x-kubernetes-validations").items() {
        let (expression, message) = (rule.child("rule"), rule.child("message"));
        let (trimmed, trimmed_message) = (expression.text().trim(), message.text().trim());
        if trimmed.is_empty() {
            errors.push(expression.missing("rule is not specified"));
        } else if !message.text().is_empty() && trimmed_message.is_empty() {
            errors.push(message.invalid("must be non-empty if specified"));
        } else if has_breaks(trimmed_message) {
            errors.push(message.invalid("must not contain line breaks"));
        } else if has_breaks(trimmed) && trimmed_message.is_empty() {
            errors.push(message.missing("message must be specified if rule contains line breaks"));
        }
        let dynamic = rule.child("messageExpression");
        if !dynamic.text().is_empty() && dynamic.text().trim().is_empty() {
            errors.push(dynamic.missing("messageExpression must be non-empty if specified"));
        }
        let reason = rule.child("reason");
        let known = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        if reason.is_set() && !known.contains(&reason.text()) {
            errors.push(FieldError::not_supported(&reason.path, reason.text(), &known));
        }
        field_path(schema.value, &rule.child("fieldPath"), errors);
    }
}

fn field_path(schema: &Value, path: &Field<'_>, errors: &mut Errors) {
    let text = path.text();
    if text.is_empty() {
        return;
    }
    if text.trim().is_empty() {
        errors.push(path.invalid("must be non-empty if specified"));
    }
    if text.contains(['\n', '\r']) {
        errors.push(path.invalid("must not contain line breaks"));
    }
    if Schema::parse(schema).is_ok_and(|schema| walk_path(&schema, text, true).is_err()) {
        errors.push(path.invalid("must be a valid path"));
    }
}

/// The schema at a path of field names such as `.spec.color`.
// upstream: apiextensions-apiserver pkg/apiserver/schema/cel, ValidFieldPath
pub(super) fn at_path<'a>(schema: &'a Schema, path: &str) -> Result<&'a Schema, String> {
    walk_path(schema, path, false)
}

fn walk_path<'a>(schema: &'a Schema, path: &str, brackets: bool) -> Result<&'a Schema, String> {
    let (mut schema, mut rest) = (schema, path);
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[', ']']).unwrap_or(after.len());
            if end == 0 && after.is_empty() {
                return Err("unexpected end of JSON path".to_owned());
            }
            name = after[..end.max(1).min(after.len())].to_owned();
            rest = &after[name.len()..];
        } else if let Some(after) = rest.strip_prefix('[') {
            if !brackets {
                return Err("array notation is not allowed".to_owned());
            }
            let quoted = after.strip_prefix('\'').and_then(|inner| inner.split_once("']"));
            let Some((inner, after)) = quoted else {
                return Err(format!("expected single quoted string but got {}", after.trim_end_matches(']')));
            };
            name = inner.replace("\\'", "'");
            rest = after;
        } else {
            let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
            return Err(format!("expected [ or . but got: {}", &rest[..end]));
        }
        let next = match (&schema.additional, schema.properties.is_empty()) {
            (_, false) => schema.properties.get(&name),
            (Some(additional), true) => Additional::schema(additional),
            (None, true) => None,
        };
        schema = next.ok_or_else(|| "does not refer to a valid field".to_owned())?;
    }
    Ok(schema)
}
