//! Judges schemas: whether they are structural, and whether their defaults fit them. Start at [`structural`] and [`defaults`].
// upstream: apiextensions-apiserver pkg/apiserver/schema, validation.go and complete.go
use serde_json::{Value, json};

use super::{Additional, Limits, Schema, default::surround, embedded, prune, values};
use crate::field::{FieldError, Path};

/// Where in a schema a part is, which decides what upstream calls it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps `schema`, the root of an `openAPIV3Schema` at `path`, from being structural; sorted by text.
pub fn structural(schema: &Schema, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    if let Some(limits) = &schema.limits {
        complete_limits(limits, Some(schema), path, path, &mut errors);
    }
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn invariants(s: &Schema, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if s.type_ == "array" && s.items.is_none() {
        errors.push(FieldError::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = &s.items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in &s.properties {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = path.child("additionalProperties");
    if let Some(given) = &s.additional {
        if level == Level::Root {
            errors.push(FieldError::forbidden(&additional, "must not be used at the root"));
        }
        if let Additional::Schema(inner) = given {
            invariants(inner, Level::Field, &additional, errors);
        }
        if s.embedded {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(FieldError::forbidden(&additional, why));
        }
    }
    if s.int_or_string && s.preserve_unknown {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&at, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    if s.int_or_string && s.embedded {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(FieldError::invalid(&at, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    if let Some(limits) = &s.limits {
        let any = is_int_or_string(&limits.any_of);
        let all = limits.all_of.first().and_then(|s| s.limits.as_ref()).is_some_and(|l| is_int_or_string(&l.any_of));
        limits_of(limits, any, all, path, errors);
    }
    types(s, level, path, errors);
    meta_fields(s, level, path, errors);
}

fn types(s: &Schema, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let at = path.child("type");
    if s.embedded && s.type_ != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match s.type_.as_str() {
            "" => FieldError::required(&at, why),
            other => FieldError::invalid(&at, other, why),
        });
    } else if s.type_.is_empty() && !s.int_or_string && !s.preserve_unknown {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at, why));
    }
    if level == Level::Root && !s.type_.is_empty() && s.type_ != "object" {
        errors.push(FieldError::invalid(&at, &s.type_, "must be object at the root"));
    }
}

fn meta_fields(s: &Schema, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let whole = level == Level::Root || s.embedded;
    let properties = path.child("properties");
    for name in ["kind", "apiVersion"] {
        if let Some(field) = s.properties.get(name).filter(|field| whole && field.type_ != "string") {
            let at = properties.key(name);
            errors.push(FieldError::invalid(&at.child("type"), &field.type_, "must be string"));
        }
    }
    if let Some(metadata) = s.properties.get("metadata") {
        let at = properties.key("metadata");
        if whole && metadata.type_ != "object" {
            errors.push(FieldError::invalid(&at.child("type"), &metadata.type_, "must be object"));
        }
        if level == Level::Root {
            let mut rest = metadata.clone();
            if rest.properties.keys().all(|name| name == "name" || name == "generateName") {
                rest.properties.clear();
            }
            rest.type_.clear();
            rest.default = None;
            if rest != Schema::default() {
                let why =
                    "must not specify anything other than name and generateName, but metadata is implicitly specified";
                errors.push(FieldError::forbidden(&at, why));
            }
        }
    }
    if s.embedded && !s.preserve_unknown && s.properties.is_empty() {
        let why =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&properties, why));
    }
}

/// The alternatives by which generators write an integer or a string.
fn is_int_or_string(any_of: &[Schema]) -> bool {
    let of = |type_: &str| Schema { type_: type_.into(), ..Schema::default() };
    any_of == [of("integer"), of("string")]
}

fn limits_of(l: &Limits, skip_any_of: bool, skip_first: bool, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !skip_any_of {
        for (i, inner) in l.any_of.iter().enumerate() {
            nested(inner, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, inner) in l.all_of.iter().enumerate() {
        nested(inner, skip_first && i == 0, &path.child("allOf").index(i), errors);
    }
    for (i, inner) in l.one_of.iter().enumerate() {
        nested(inner, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(not) = &l.not {
        nested(not, false, &path.child("not"), errors);
    }
    if let Some(Err(why)) = l.pattern.as_ref().map(|p| p.regex()) {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(FieldError::invalid(&path.child("pattern"), l.pattern.as_ref().map_or("", |p| p.text()), why));
    }
}

/// What alternatives may not say.
fn nested(s: &Schema, skip_any_of: bool, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(limits) = &s.limits {
        limits_of(limits, skip_any_of, false, path, errors);
    }
    if let Some(items) = &s.items {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, property) in &s.properties {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    let allows_more = !matches!(s.additional, None | Some(Additional::Any(false)));
    for (wrong, name, why) in [
        (!s.type_.is_empty(), "type", "must be empty to be structural"),
        (allows_more, "additionalProperties", "must be undefined to be structural"),
        (s.default.is_some(), "default", "must be undefined to be structural"),
        (s.titled, "title", "must be empty to be structural"),
        (s.described, "description", "must be empty to be structural"),
        (s.nullable, "nullable", "must be false to be structural"),
        (s.preserve_unknown, "x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        (s.embedded, "x-kubernetes-embedded-resource", "must be false to be structural"),
        (s.int_or_string, "x-kubernetes-int-or-string", "must be false to be structural"),
        (!s.list_map_keys.is_empty(), "x-kubernetes-list-map-keys", "must be empty to be structural"),
        (s.list_type.is_some(), "x-kubernetes-list-type", "must be undefined to be structural"),
        (s.map_type.is_some(), "x-kubernetes-map-type", "must be undefined to be structural"),
        (!s.rules.is_empty(), "x-kubernetes-validations", "must be empty to be structural"),
    ] {
        if wrong {
            errors.push(FieldError::forbidden(&path.child(name), why));
        }
    }
    if s.properties.contains_key("metadata") {
        let at = path.child("properties");
        errors.push(FieldError::forbidden(&at.key("metadata"), "must not be specified in a nested context"));
    }
}

/// Whether everything that alternatives speak of is declared outside them.
fn complete_limits(l: &Limits, s: Option<&Schema>, place: &Path<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (name, alternatives) in [("allOf", &l.all_of), ("anyOf", &l.any_of), ("oneOf", &l.one_of)] {
        for (i, inner) in alternatives.iter().enumerate() {
            complete(inner, s, place, &path.child(name).index(i), errors);
        }
    }
    if let Some(not) = &l.not {
        complete(not, s, place, &path.child("not"), errors);
    }
}

fn complete(v: &Schema, s: Option<&Schema>, place: &Path<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(s) = s else {
        errors.push(FieldError::required(place, format!("because it is defined in {path}")));
        return;
    };
    if let Some(limits) = &v.limits {
        complete_limits(limits, Some(s), place, path, errors);
    }
    if let Some(items) = &v.items {
        complete(items, s.items.as_deref(), &place.child("items"), &path.child("items"), errors);
    }
    for (name, property) in &v.properties {
        let known = s.properties.get(name);
        complete(property, known, &place.child("properties").key(name), &path.child("properties").key(name), errors);
    }
}

/// The errors of the defaults in `schema`, the root of an `openAPIV3Schema` at `path`.
// upstream: apiextensions-apiserver pkg/apiserver/schema/defaulting, ValidateDefaults
pub fn defaults(schema: &Schema, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if schema.has_defaults() {
        defaults_in(schema, true, &Meta::Outside, path, &mut errors);
    }
    errors
}

/// Whether a schema is below the metadata of a whole object, and where.
enum Meta<'a> {
    Outside,
    Inside { root: &'a Schema, names: Vec<&'a str> },
}

fn defaults_in<'a>(s: &'a Schema, whole: bool, meta: &Meta<'a>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(value) = &s.default {
        default_errors(s, value, meta, &path.child("default"), errors);
    }
    let outside = Meta::Outside;
    let meta = if s.embedded { &outside } else { meta };
    if let Some(items) = &s.items {
        defaults_in(items, items.embedded, meta, &path.child("items"), errors);
    }
    for (name, property) in &s.properties {
        let below = match meta {
            _ if whole && super::META_FIELDS.contains(&name.as_str()) => Meta::Inside { root: s, names: vec![name] },
            Meta::Outside => Meta::Outside,
            Meta::Inside { root, names } => {
                Meta::Inside { root, names: names.iter().copied().chain([name.as_str()]).collect() }
            }
        };
        defaults_in(property, property.embedded, &below, &path.child("properties").key(name), errors);
    }
}

fn default_errors(s: &Schema, value: &Value, meta: &Meta<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut value = value.clone();
    if let Meta::Inside { root, names } = meta {
        let mut object = surround(names, value.clone());
        for (name, text) in [("apiVersion", "validation/v1"), ("kind", "Validation")] {
            if object.get(name).is_none() {
                object[name] = json!(text);
            }
        }
        let wrong = embedded::validate(&object, root, true, &Path::root(""));
        if !wrong.is_empty() {
            let why = format!("must result in valid metadata: {}", crate::field::aggregate(&wrong));
            errors.push(FieldError::invalid(path, &value, why));
            return;
        }
    } else {
        let mut pruned = value.clone();
        prune::prune_value(&mut pruned, s);
        if pruned != value {
            errors.push(FieldError::invalid(path, &value, "must not have unknown fields"));
        }
        if let Err(error) = embedded::coerce(&mut value, s, false, path, &mut prune::Unknown::default()) {
            errors.push(error);
            return;
        }
        let wrong = embedded::validate(&value, s, s.embedded, path);
        if !wrong.is_empty() {
            errors.extend(wrong);
            return;
        }
    }
    errors.extend(values::validate(&value, s, &path.to_string(), None));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(schema: Value) -> Vec<String> {
        let schema = Schema::parse(&schema).unwrap();
        let path = Path::root("s");
        let mut errors = structural(&schema, &path);
        errors.extend(defaults(&schema, &path));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_structural_schema_has_types_outside_alternatives_only() {
        assert_eq!(
            errors(json!({"properties": {"a": {"items": {}, "type": "array"}, "b": {"type": "array"}}})),
            [
                "s.properties[a].items.type: Required value: must not be empty for specified array items",
                "s.properties[b].items: Required value: must be specified",
                "s.type: Required value: must not be empty at the root",
            ]
        );
        assert_eq!(
            errors(json!({"type": "object", "properties": {"a": {"type": "string"}},
                "anyOf": [{"type": "object", "properties": {"a": {"pattern": "("}, "z": {"minimum": 1}}}]})),
            [
                "s.anyOf[0].properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: \
                 error parsing regexp: unclosed group",
                "s.anyOf[0].type: Forbidden: must be empty to be structural",
                "s.properties[z]: Required value: because it is defined in s.anyOf[0].properties[z]",
            ]
        );
    }

    #[test]
    fn integers_or_strings_may_be_spelled_out() {
        let port = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^x$"});
        assert_eq!(errors(json!({"type": "object", "properties": {"port": port}})), Vec::<String>::new());
    }

    #[test]
    fn metadata_of_the_object_itself_is_not_described() {
        let good = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}});
        assert_eq!(errors(json!({"type": "object", "properties": {"metadata": good}})), Vec::<String>::new());
        let bad = json!({"type": "object", "properties": {"labels": {"type": "object"}}});
        assert_eq!(errors(json!({"type": "object", "properties": {"metadata": bad}})).len(), 1);
    }

    #[test]
    fn defaults_must_fit_their_schema() {
        assert_eq!(
            errors(json!({"type": "object", "properties": {
                "n": {"type": "integer", "default": "x"},
                "o": {"type": "object", "default": {"z": 1}, "properties": {"a": {"type": "string"}}}}})),
            [
                "s.properties[n].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
                "s.properties[o].default: Invalid value: {\"z\":1}: must not have unknown fields",
            ]
        );
    }
}
