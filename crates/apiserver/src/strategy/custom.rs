//! Custom resources: what their definition says about status, generation and validity.
// upstream: apiextensions-apiserver pkg/registry/customresource
use super::{Strategy, generic};
use crate::context::RequestContext;
use crate::definitions::rules::{self, Rules};
use crate::value::same;
use pintle_api::custom::{Custom, Scale};
use pintle_api::field::{FieldError, Path, go_quote};
use pintle_api::meta::ObjectExt;
use pintle_api::names;
use pintle_api::structural::{embedded, lists, values};
use serde_json::Value;

/// The place of errors about the object itself.
const ROOT: Path<'static> = Path::root("");

impl Strategy for Custom {
    fn default(&self, object: &mut Value) {
        Custom::default(self, object);
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        if self.has_status {
            generic::clear_status(object);
        }
        object.set_generation(1);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        if self.has_status {
            generic::keep_status(new, old);
        }
        if !same(&without_metadata(new), &without_metadata(old)) {
            new.set_generation(old.generation() + 1);
        }
    }

    fn prepare_for_status_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        let Some(sent) = new.as_object_mut() else { return };
        let status = sent.remove("status");
        let managed = sent.get_mut("metadata").and_then(|m| m.as_object_mut()?.remove("managedFields"));
        // The version of the client's copy decides whether the write conflicts, and has been compared already.
        *new = old.clone();
        match managed {
            Some(managed) => new.metadata_mut().insert("managedFields".into(), managed),
            None => new.metadata_mut().remove("managedFields"),
        };
        let Some(object) = new.as_object_mut() else { return };
        match status {
            Some(status) => object.insert("status".into(), status),
            None => object.remove("status"),
        };
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(schema) = self.schema() {
            errors.extend(values::validate(object, schema, "", None));
        }
        scale_spec(self.scale.as_ref(), object, &mut errors);
        scale_status(self.scale.as_ref(), object, &mut errors);
        if let Some(schema) = self.schema() {
            errors.extend(embedded::validate(object, schema, false, &ROOT));
            errors.extend(lists::validate(object, schema, &ROOT));
        }
        ask_rules(self, object, None, &mut errors, &mut |_| {});
        errors
    }

    fn judge_update(&self, new: &Value, old: &Value, status: bool, warn: &mut dyn FnMut(String)) -> Vec<FieldError> {
        let mut errors = if status { self.validate_status_update(new, old) } else { self.validate_update(new, old) };
        ask_rules(self, new, Some(old), &mut errors, warn);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(schema) = self.schema() {
            errors.extend(values::validate(new, schema, "", Some(old)));
        }
        scale_spec(self.scale.as_ref(), new, &mut errors);
        scale_status(self.scale.as_ref(), new, &mut errors);
        if let Some(schema) = self.schema() {
            errors.extend(embedded::validate(new, schema, false, &ROOT));
            if lists::validate(old, schema, &ROOT).is_empty() {
                errors.extend(lists::validate(new, schema, &ROOT));
            }
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let schema = self.schema();
        if let (Some(status), Some(schema)) = (new.get("status"), schema.and_then(|s| s.properties.get("status"))) {
            errors.extend(values::validate(status, schema, "status", old.get("status")));
        }
        scale_status(self.scale.as_ref(), new, &mut errors);
        if let Some(schema) = schema {
            let wrong = lists::validate(new, schema, &ROOT);
            if !wrong.is_empty() && lists::validate(old, schema, &ROOT).is_empty() {
                errors.extend(wrong);
            }
        }
        errors
    }

    fn warnings_on_create(&self, object: &Value) -> Vec<String> {
        object.finalizers().flat_map(finalizer_warnings).collect()
    }

    fn warnings_on_update(&self, new: &Value, old: &Value) -> Vec<String> {
        new.finalizers().filter(|finalizer| !old.has_finalizer(finalizer)).flat_map(finalizer_warnings).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Asks the schema's rules, unless the form of the object is wrong already.
fn ask_rules(
    custom: &Custom,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
    warn: &mut dyn FnMut(String),
) {
    let Some(rules) = Rules::of(custom) else { return };
    match rules::blocked(errors) {
        Some(blocked) => errors.push(blocked),
        None => errors.extend(rules.judge(object, old, warn)),
    }
}

fn without_metadata(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(object) = object.as_object_mut() {
        object.remove("metadata");
    }
    object
}

// upstream: validateKubeFinalizerName
fn finalizer_warnings(finalizer: &str) -> Vec<String> {
    let about = |text: &str| format!("metadata.finalizers: {}: {text}", go_quote(finalizer));
    let mut warnings: Vec<String> = names::qualified_name(finalizer).iter().map(|text| about(text)).collect();
    let standard = ["orphan", "foregroundDeletion", "kubernetes"];
    if !finalizer.contains('/') && !standard.contains(&finalizer) {
        warnings.push(about(if finalizer.contains('.') {
            "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer \
             writers"
        } else {
            "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
        }));
    }
    warnings
}

/// The value at a path such as `.spec.replicas`.
pub(crate) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |value, key| value.get(key))
}

fn scale_spec(scale: Option<&Scale>, object: &Value, errors: &mut Vec<FieldError>) {
    if let Some(scale) = scale {
        replicas(object, &scale.spec_replicas_path, errors);
    }
}

fn scale_status(scale: Option<&Scale>, object: &Value, errors: &mut Vec<FieldError>) {
    let Some(scale) = scale else { return };
    replicas(object, &scale.status_replicas_path, errors);
    let Some(path) = &scale.label_selector_path else { return };
    if let Some(value) = at(object, path).filter(|value| !value.is_string()) {
        let why = wrong_type(path, value, "string");
        errors.push(FieldError::invalid(&Path::root(path), "", why));
    }
}

fn replicas(object: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(value) = at(object, path) else { return };
    let place = Path::root(path);
    match value.as_i64() {
        None => errors.push(FieldError::invalid(&place, 0, wrong_type(path, value, "int64"))),
        Some(n) if n < 0 => errors.push(FieldError::invalid(&place, n, "should be a non-negative integer")),
        Some(n) if n > i64::from(i32::MAX) => {
            errors.push(FieldError::invalid(&place, n, format!("should be less than or equal to {}", i32::MAX)));
        }
        Some(_) => {}
    }
}

/// As `unstructured.Nested…` complains.
pub(crate) fn wrong_type(path: &str, value: &Value, expected: &str) -> String {
    let (shown, got) = match value {
        Value::Null => ("<nil>".to_owned(), "<nil>"),
        Value::Bool(b) => (b.to_string(), "bool"),
        Value::Number(n) if n.is_f64() => (n.to_string(), "float64"),
        Value::Number(n) => (n.to_string(), "int64"),
        Value::String(text) => (text.clone(), "string"),
        Value::Array(_) => (value.to_string(), "[]interface {}"),
        Value::Object(_) => (value.to_string(), "map[string]interface {}"),
    };
    format!("{path} accessor error: {shown} is of the type {got}, expected {expected}")
}
