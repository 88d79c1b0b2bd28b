//! Judges values against a schema, with kube-openapi's messages. Start at [`validate`].
// upstream: kube-openapi pkg/validation/validate and apiextensions-apiserver pkg/apiserver/validation
use serde_json::{Map, Number, Value};

use super::{Additional, Limits, Schema, formats};
use crate::field::{FieldError, Path, go_quote};

/// The errors of `value`. `place` is where the value is in its object (empty: it is the object); `old` is what was there before
/// an update: what was wrong already and did not change is let pass.
pub fn validate(value: &Value, schema: &Schema, place: &str, old: Option<&Value>) -> Vec<FieldError> {
    let old = old.map(|value| Old { value, schema });
    let judge = Judge { place };
    judge.ratchet(value, schema, &Path::root(""), old).errors
}

/// What was there before, and the schema that says how its parts correspond to the new ones.
#[derive(Clone, Copy)]
struct Old<'a> {
    value: &'a Value,
    schema: &'a Schema,
}

impl<'a> Old<'a> {
    fn key(self, name: &str) -> Option<Old<'a>> {
        if self.schema.map_type.as_deref() == Some("atomic") {
            return None;
        }
        Some(Old { value: self.value.as_object()?.get(name)?, schema: self.schema.field(name)? })
    }

    /// The old item that has the keys of `item`.
    fn item(self, item: &Value) -> Option<Old<'a>> {
        if self.schema.list_type.as_deref() != Some("map") {
            return None;
        }
        let keys = &self.schema.list_map_keys;
        let same = |old: &&Value| keys.iter().all(|key| old.get(key) == item.get(key));
        Some(Old { value: self.value.as_array()?.iter().find(same)?, schema: self.schema.items.as_deref()? })
    }
}

/// What came of judging a value.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    /// How many rules were looked at with success: among failed alternatives, the one with the most is reported.
    matches: usize,
}

impl Outcome {
    fn of(error: FieldError) -> Outcome {
        Outcome { errors: vec![error], matches: 0 }
    }

    fn merge(&mut self, other: Outcome) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }
}

#[derive(Clone, Copy)]
struct Judge<'a> {
    place: &'a str,
}

impl Judge<'_> {
    fn ratchet(self, value: &Value, schema: &Schema, path: &Path<'_>, old: Option<Old<'_>>) -> Outcome {
        let mut outcome = self.judge(value, schema, path, old);
        if !outcome.errors.is_empty() && old.is_some_and(|old| old.value == value) {
            outcome.errors.clear();
        }
        outcome
    }

    fn judge(self, value: &Value, schema: &Schema, path: &Path<'_>, old: Option<Old<'_>>) -> Outcome {
        let mut outcome = Outcome::default();
        let limits = schema.limits.as_deref();
        let format = limits.map_or("", |l| l.format.as_str());
        let format = if formats::is_known(&schema.type_, format) { format } else { "" };
        if !schema.type_.is_empty() || schema.int_or_string || !format.is_empty() {
            outcome.merge(self.type_of(value, schema, format, path));
            outcome.matches += 1;
        }
        if value.is_null() {
            outcome.errors.extend(limits.and_then(|l| self.one_of_values(value, l, path)));
            return outcome;
        }
        if let Some(limits) = limits {
            outcome.merge(self.alternatives(value, limits, path, old));
            match value {
                Value::String(text) => {
                    outcome.errors.extend(self.text(text, limits, path));
                    if !format.is_empty() && !formats::is_valid(format, text) {
                        let why = format!("must be of type {format}: {}", go_quote(text));
                        outcome.errors.push(FieldError::type_invalid(&self.at(path).path(), text, said(path, &why)));
                    }
                }
                Value::Number(number) => outcome.merge(self.number(number, schema, limits, format, path)),
                _ => {}
            }
        }
        if let Value::Array(items) = value {
            outcome.merge(self.items(items, schema, path, old));
        }
        outcome.errors.extend(limits.and_then(|l| self.one_of_values(value, l, path)));
        if let Value::Object(map) = value {
            outcome.merge(self.fields(map, schema, path, old));
        }
        outcome.matches += 6;
        outcome
    }

    /// Where an error is reported.
    fn at(self, path: &Path<'_>) -> At {
        let name = path.to_string();
        At(match (self.place, name.as_str()) {
            // Upstream prints the path that it does not have.
            ("", "") => "<nil>".to_owned(),
            ("", _) => name,
            (place, "") => place.to_owned(),
            (place, _) => format!("{place}.{name}"),
        })
    }

    /// An error that upstream reports without a place.
    fn elsewhere(self, why: impl Into<String>) -> FieldError {
        let at = if self.place.is_empty() { "<nil>" } else { self.place };
        FieldError::invalid(&Path::root(at), "", why)
    }

    fn type_of(self, value: &Value, schema: &Schema, format: &str, path: &Path<'_>) -> Outcome {
        let wanted: &[&str] = match (schema.int_or_string, schema.type_.as_str()) {
            (true, _) => &["integer", "string"],
            (false, "") => &[],
            (false, type_) => &[type_],
        };
        let wrong = |wanted: &str, got: &str| {
            let why = said(path, &format!("must be of type {wanted}: {}", go_quote(got)));
            Outcome::of(FieldError::type_invalid(&self.at(path).path(), got, why))
        };
        if value.is_null() {
            return match wanted {
                [] => Outcome { matches: 1, ..Outcome::default() },
                _ if schema.nullable => Outcome { matches: 1, ..Outcome::default() },
                _ => wrong(&wanted.join(","), "null"),
            };
        }
        let (got, got_format) = match value {
            Value::Bool(_) => ("boolean", ""),
            Value::String(_) => ("string", ""),
            Value::Array(_) => ("array", ""),
            Value::Object(_) | Value::Null => ("object", ""),
            Value::Number(n) if n.is_f64() => ("number", "float64"),
            Value::Number(_) => ("integer", "int64"),
        };
        let has = |name: &str| wanted.contains(&name);
        let whole = |n: f64| n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0;
        let float_as_int = got == "number" && value.as_f64().is_some_and(whole) && has("integer");
        let int_as_float = got == "integer" && has("number");
        let textual = matches!(value, Value::String(_) | Value::Array(_));
        let fits = has(got) || float_as_int || int_as_float;
        let numeric = has("number") || has("integer");
        match (format.is_empty(), textual) {
            (false, false) if !fits && got_format != format => wrong(format, got_format),
            // The format alone judges.
            (false, true) if !numeric => Outcome { matches: 1, ..Outcome::default() },
            _ if fits => Outcome { matches: 1, ..Outcome::default() },
            _ => wrong(&wanted.join(","), got),
        }
    }

    fn one_of_values(self, value: &Value, limits: &Limits, path: &Path<'_>) -> Option<FieldError> {
        let same = |allowed: &Value| match (allowed, value) {
            (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            (a, b) => a == b,
        };
        if limits.values.is_empty() || limits.values.iter().any(same) {
            return None;
        }
        let texts: Vec<String> = limits
            .values
            .iter()
            .map(|allowed| allowed.as_str().map_or_else(|| allowed.to_string(), str::to_owned))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Some(FieldError::not_supported(&self.at(path).path(), value, &texts))
    }

    fn text(self, text: &str, limits: &Limits, path: &Path<'_>) -> Option<FieldError> {
        let at =
            self.at_if(limits.max_length.is_some() || limits.min_length.is_some() || limits.pattern.is_some(), path);
        let at = at?;
        let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = limits.max_length.filter(|max| length() > *max) {
            return Some(FieldError::too_long(&at.path(), usize::try_from(max).unwrap_or_default()));
        }
        if let Some(min) = limits.min_length.filter(|min| length() < *min) {
            let why = said(path, &format!("should be at least {min} chars long"));
            return Some(FieldError::invalid(&at.path(), text, why));
        }
        let pattern = limits.pattern.as_ref()?;
        let given = pattern.text();
        let why = match pattern.regex() {
            Ok(regex) if regex.is_match(text) => return None,
            Ok(_) => format!("should match '{given}'"),
            Err(error) => format!("should match '{given}, but pattern is invalid: {error}'"),
        };
        Some(FieldError::invalid(&at.path(), text, said(path, &why)))
    }

    fn at_if(self, wanted: bool, path: &Path<'_>) -> Option<At> {
        wanted.then(|| self.at(path))
    }

    fn number(self, number: &Number, schema: &Schema, limits: &Limits, format: &str, path: &Path<'_>) -> Outcome {
        let mut outcome = Outcome { errors: Vec::new(), matches: 1 };
        let value = number.as_f64().unwrap_or_default();
        let integer = number.as_i64();
        if format == "int32" && schema.type_ == "integer" && integer.is_none_or(|i| i32::try_from(i).is_err()) {
            let why = format!("Checked value must be of type integer with format int32 in {path}");
            outcome.errors.push(self.elsewhere(why));
        }
        let mut wrong = |why: String| {
            let value = Value::Number(number.clone());
            outcome.errors.push(FieldError::invalid(&self.at(path).path(), &value, said(path, &why)));
        };
        if let Some(factor) = limits.multiple_of {
            let fits = match integer {
                Some(i) if factor.fract() == 0.0 && factor > 0.0 => i % (factor as i64) == 0,
                _ => factor > 0.0 && (value / factor).fract() == 0.0,
            };
            if !fits {
                wrong(format!("should be a multiple of {}", go_float(factor)));
            }
        }
        if let Some(min) = limits.minimum {
            let words = if limits.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            if value < min || (limits.exclusive_minimum && value == min) {
                wrong(format!("should be {words} {}", go_float(min)));
            }
        }
        if let Some(max) = limits.maximum {
            let words = if limits.exclusive_maximum { "less than" } else { "less than or equal to" };
            if value > max || (limits.exclusive_maximum && value == max) {
                wrong(format!("should be {words} {}", go_float(max)));
            }
        }
        outcome
    }

    fn items(self, items: &[Value], schema: &Schema, path: &Path<'_>, old: Option<Old<'_>>) -> Outcome {
        let mut outcome = Outcome { errors: Vec::new(), matches: 1 };
        if let Some(inner) = &schema.items {
            for (i, item) in items.iter().enumerate() {
                let old = old.and_then(|old| old.item(item));
                outcome.merge(self.ratchet(item, inner, &path.index(i), old));
            }
        }
        let Some(limits) = &schema.limits else { return outcome };
        if let Some(min) = limits.min_items.filter(|min| (items.len() as i64) < *min) {
            let why = said(path, &format!("should have at least {min} items"));
            outcome.errors.push(FieldError::invalid(&self.at(path).path(), items.len(), why));
        }
        if let Some(max) = limits.max_items.filter(|max| (items.len() as i64) > *max) {
            let max = usize::try_from(max).unwrap_or_default();
            outcome.errors.push(FieldError::too_many(&self.at(path).path(), items.len(), max));
        }
        if limits.unique_items && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
            let why = said(path, "shouldn't contain duplicates");
            outcome.errors.push(FieldError::invalid(&self.at(path).path(), "", why));
        }
        outcome
    }

    fn fields(self, map: &Map<String, Value>, schema: &Schema, path: &Path<'_>, old: Option<Old<'_>>) -> Outcome {
        let mut outcome = Outcome::default();
        let count = map.len() as i64;
        if let Some(limits) = &schema.limits {
            if let Some(min) = limits.min_properties.filter(|min| count < *min) {
                let why = said(path, &format!("should have at least {min} properties"));
                outcome.errors.push(FieldError::invalid(&self.at(path).path(), count, why));
            }
            if let Some(max) = limits.max_properties.filter(|max| count > *max) {
                let max = usize::try_from(max).unwrap_or_default();
                outcome.errors.push(FieldError::too_many(&self.at(path).path(), map.len(), max));
            }
        }
        for (name, value) in map {
            let known = schema.properties.get(name);
            let inner = match (known, &schema.additional) {
                (Some(property), _) => property,
                (None, Some(Additional::Schema(additional))) => additional,
                (None, Some(Additional::Any(false))) => {
                    let why = format!("{path}.{name} in body is a forbidden property");
                    outcome.errors.push(FieldError::invalid(&self.at(path).path(), name, why));
                    continue;
                }
                (None, _) => continue,
            };
            let old = old.and_then(|old| old.key(name));
            outcome.merge(self.ratchet(value, inner, &path.child(name), old));
        }
        for name in schema.limits.iter().flat_map(|l| &l.required).filter(|name| !map.contains_key(*name)) {
            outcome.errors.push(FieldError::required(&self.at(&path.child(name)).path(), ""));
        }
        outcome
    }

    fn alternatives(self, value: &Value, limits: &Limits, path: &Path<'_>, old: Option<Old<'_>>) -> Outcome {
        let mut outcome = Outcome { errors: Vec::new(), matches: 1 };
        let judged = |schemas: &[Schema]| -> Vec<Outcome> {
            schemas.iter().map(|schema| self.judge_alternative(value, schema, path, old)).collect()
        };
        let quoted = || go_quote(&path.to_string());
        if !limits.any_of.is_empty() {
            let results = judged(&limits.any_of);
            match results.iter().position(|result| result.errors.is_empty()) {
                Some(_) => outcome.matches += 1,
                None => {
                    let why = format!("{} must validate at least one schema (anyOf)", quoted());
                    outcome.errors.push(self.elsewhere(why));
                    outcome.merge(best(results));
                }
            }
        }
        if !limits.one_of.is_empty() {
            let results = judged(&limits.one_of);
            let valid = results.iter().filter(|result| result.errors.is_empty()).count();
            if valid == 1 {
                outcome.matches += 1;
            } else {
                let more = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                let why = format!("{} must validate one and only one schema (oneOf). {more}", quoted());
                outcome.errors.push(self.elsewhere(why));
                if valid == 0 {
                    outcome.merge(best(results));
                }
            }
        }
        if !limits.all_of.is_empty() {
            let results = judged(&limits.all_of);
            let valid = results.iter().filter(|result| result.errors.is_empty()).count();
            let all = results.len();
            results.into_iter().for_each(|result| outcome.merge(result));
            if valid != all {
                let more = if valid == 0 { ". None validated" } else { "" };
                outcome
                    .errors
                    .push(self.elsewhere(format!("{} must validate all the schemas (allOf){more}", quoted())));
            }
        }
        if let Some(not) = &limits.not
            && self.judge_alternative(value, not, path, old).errors.is_empty()
        {
            outcome.errors.push(self.elsewhere(format!("{} must not validate the schema (not)", quoted())));
        }
        outcome
    }

    fn judge_alternative(self, value: &Value, schema: &Schema, path: &Path<'_>, old: Option<Old<'_>>) -> Outcome {
        self.judge(value, schema, path, old)
    }
}

/// The path of an error as text, which [`Path`] borrows.
struct At(String);

impl At {
    fn path(&self) -> Path<'_> {
        Path::root(&self.0)
    }
}

/// `spec.x in body …`
fn said(path: &Path<'_>, what: &str) -> String {
    format!("{path} in body {what}")
}

/// The failed alternative that came furthest.
fn best(results: Vec<Outcome>) -> Outcome {
    let most = |best: Option<Outcome>, next: Outcome| match best {
        Some(best) if best.matches >= next.matches => Some(best),
        _ => Some(next),
    };
    results.into_iter().fold(None, most).unwrap_or_default()
}

/// A number as Go prints it with `%v`.
fn go_float(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e21 { format!("{n:.0}") } else { n.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(schema: Value, value: Value) -> Vec<String> {
        let schema = Schema::parse(&schema).unwrap();
        validate(&value, &schema, "", None).iter().map(ToString::to_string).collect()
    }

    fn object(property: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": property}}}})
    }

    fn error(property: Value, x: Value) -> String {
        errors(object(property), json!({"spec": {"x": x}})).join("; ")
    }

    #[test]
    fn messages_are_kube_openapis() {
        assert_eq!(
            error(json!({"type": "integer"}), json!("a")),
            "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\""
        );
        assert_eq!(
            error(json!({"type": "string"}), json!(null)),
            "spec.x: Invalid value: \"null\": spec.x in body must be of type string: \"null\""
        );
        assert_eq!(error(json!({"type": "string", "nullable": true}), json!(null)), "");
        assert_eq!(
            error(json!({"type": "integer", "maximum": 10}), json!(11)),
            "spec.x: Invalid value: 11: spec.x in body should be less than or equal to 10"
        );
        assert_eq!(
            error(json!({"type": "string", "pattern": "^a+$"}), json!("b")),
            "spec.x: Invalid value: \"b\": spec.x in body should match '^a+$'"
        );
        assert_eq!(
            error(json!({"type": "string", "enum": ["a", "b"]}), json!("c")),
            "spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\""
        );
        assert_eq!(
            error(json!({"type": "string", "maxLength": 1}), json!("ab")),
            "spec.x: Too long: may not be more than 1 byte"
        );
        assert_eq!(
            error(json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}), json!(["a", "b"])),
            "spec.x: Too many: 2: must have at most 1 item"
        );
        assert_eq!(
            error(json!({"type": "string", "format": "date-time"}), json!("x")),
            "spec.x: Invalid value: \"x\": spec.x in body must be of type date-time: \"x\""
        );
    }

    #[test]
    fn required_fields_are_named_with_their_path() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object"}}});
        assert_eq!(errors(schema, json!({})), ["spec: Required value"]);
        let inner = json!({"type": "object", "required": ["y"], "properties": {"y": {"type": "string"}}});
        assert_eq!(error(inner, json!({})), "spec.x.y: Required value");
    }

    #[test]
    fn alternatives_report_the_closest() {
        let one_of = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
        assert_eq!(
            error(one_of.clone(), json!({})),
            "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found none valid; \
             spec.x.a: Required value"
        );
        assert_eq!(
            error(one_of, json!({"a": "1", "b": "2"})),
            "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
        );
    }

    #[test]
    fn ports_are_integers_or_strings() {
        let port = json!({"x-kubernetes-int-or-string": true});
        assert_eq!((error(port.clone(), json!(1)), error(port.clone(), json!("http"))), (String::new(), String::new()));
        assert_eq!(
            error(port, json!(true)),
            "spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\""
        );
    }

    #[test]
    fn what_was_wrong_before_and_did_not_change_passes() {
        let schema = Schema::parse(&object(json!({"type": "string", "maxLength": 1}))).unwrap();
        let (old, new) = (json!({"spec": {"x": "ab"}}), json!({"spec": {"x": "ab", "y": 1}}));
        assert!(validate(&new, &schema, "", Some(&old)).is_empty());
        assert_eq!(validate(&json!({"spec": {"x": "abc"}}), &schema, "", Some(&old)).len(), 1);
    }

    #[test]
    fn a_status_alone_is_reported_below_status() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {"n": {"type": "integer"}}})).unwrap();
        let error = validate(&json!({"n": "x"}), &schema, "status", None).remove(0);
        assert_eq!(
            error.to_string(),
            "status.n: Invalid value: \"string\": n in body must be of type integer: \"string\""
        );
    }
}
