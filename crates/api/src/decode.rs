//! Typed decoding of built-in objects: from JSON, or from a dynamic value (after YAML or a patch), into the form in which
//! Go would encode them. Start at [`decode`].
//!
//! The result has no unknown fields, no nulls that Go leaves out, quantities and times in canonical form, and the empty
//! structs that Go always writes (`status: {}`), so that it can be stored and served as it is. Unknown and duplicate fields
//! come back as strict errors for `fieldValidation`.
mod forget;
mod text;
mod visitor;
mod zero;

use std::cell::RefCell;

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::{facts::Type, field::go_quote, status::ApiError};

pub use forget::forget_empty;
pub use zero::zero;
pub(crate) use zero::{complete, omitted, zero_shape};

/// Upstream reports at most this many strict errors.
const MAX_STRICT_ERRORS: usize = 100;

/// Removes the fields that are null: such a field is one that is not set.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.foo"`.
    pub strict_errors: Vec<String>,
}

/// Why a body could not be decoded, in Go's words (`json: cannot unmarshal …`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

impl DecodeError {
    /// The answer to a request whose body claims to be of `kind`: 400 with upstream's text.
    // upstream: apiserver pkg/endpoints/handlers/rest.go, transformDecodeError
    pub fn bad_request(&self, kind: &str, version: &str, into_kind: &str) -> ApiError {
        cannot_be_handled(kind, version, into_kind, &self.0)
    }
}

fn cannot_be_handled(kind: &str, version: &str, into_kind: &str, why: &str) -> ApiError {
    let version = go_quote(version);
    ApiError::bad_request(format!("{kind} in version {version} cannot be handled as a {into_kind}: {why}"))
}

/// The answer to a body whose `kind` could not be read, for `why` as `couldn't get version/kind; json parse error: …`.
pub fn unrecognized(body: &[u8], into_kind: &str, why: &str) -> ApiError {
    const SHOWN: usize = 30;
    let head = &body[..body.len().min(SHOWN)];
    let more = if body.len() > SHOWN { " ..." } else { "" };
    let summary = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|b| format!("{b:02x}")).collect(),
    };
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {into_kind}): {why} ({summary}{more})"
    ))
}

/// Strict errors as one text.
pub fn strict_error_text(errors: &[String]) -> String {
    format!("strict decoding error: {}", errors.join(", "))
}

/// The answer to `fieldValidation=Strict` for strict errors.
pub fn strict_bad_request(errors: &[String], kind: &str, version: &str, into_kind: &str) -> ApiError {
    cannot_be_handled(kind, version, into_kind, &strict_error_text(errors))
}

/// Decodes JSON text as an object of type `ty`.
pub fn decode(json: &[u8], ty: &'static Type) -> Result<Decoded, DecodeError> {
    decode_json(json, |context, deserializer| visitor::root(context, ty).deserialize(deserializer))
}

/// Decodes JSON text; again without what only Go lets pass if it is such text.
fn decode_json(
    json: &[u8],
    walk: impl Fn(&Context, &mut JsonReader<'_>) -> Result<Value, serde_json::Error>,
) -> Result<Decoded, DecodeError> {
    let once = |json: &[u8]| {
        let context = Context::default();
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let result = walk(&context, &mut deserializer);
        (context, result.and_then(|value| deserializer.end().map(|()| value)))
    };
    let (context, result) = once(json);
    match result {
        Err(_) if context.error.borrow().is_none() && text::malformed(json).is_none() => {
            let (context, result) = once(&text::mended(json));
            finish(context, result.map_err(|e| e.to_string()), json)
        }
        result => finish(context, result.map_err(|e| e.to_string()), json),
    }
}

/// Decodes a dynamic value as an object of type `ty`.
pub fn decode_value(value: Value, ty: &'static Type) -> Result<Decoded, DecodeError> {
    value_in(Words::Json, value, ty)
}

/// The same for what a strategic merge patch made, which Go does not read as JSON: it complains in other words and takes
/// numbers more freely.
// upstream: apimachinery pkg/runtime/converter.go, FromUnstructuredWithValidation
pub fn decode_unstructured(value: Value, ty: &'static Type) -> Result<Decoded, DecodeError> {
    value_in(Words::Unstructured, value, ty)
}

fn value_in(words: Words, value: Value, ty: &'static Type) -> Result<Decoded, DecodeError> {
    let context = Context { words, ..Context::default() };
    let result = visitor::root(&context, ty).deserialize(value).map_err(|e| e.to_string());
    finish(context, result, b"null")
}

/// Reads JSON of any form as Go does, with Go's complaint about it.
pub fn parse(json: &[u8]) -> Result<Value, String> {
    let error = match serde_json::from_slice(json) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match text::malformed(json) {
        Some(complaint) => Err(complaint),
        None => serde_json::from_slice(&text::mended(json)).map_err(|_| error.to_string()),
    }
}

/// Decodes JSON text of any form, noting duplicate fields.
pub fn decode_untyped(json: &[u8]) -> Result<Decoded, DecodeError> {
    decode_json(json, |context, deserializer| visitor::untyped(context).deserialize(deserializer))
}

fn finish(context: Context, result: Result<Value, String>, json: &[u8]) -> Result<Decoded, DecodeError> {
    result
        .map(|value| Decoded { value, strict_errors: context.strict_errors.into_inner() })
        // Go checks the form of the whole text before it looks at types.
        .map_err(|e| DecodeError(text::malformed(json).or(context.error.into_inner()).unwrap_or(e)))
}

/// The complaint of `encoding/json` about text that is no JSON; `error` is the parser's own, for what Go lets pass.
pub fn go_json_error(json: &[u8], error: &serde_json::Error) -> String {
    text::malformed(json).unwrap_or_else(|| error.to_string())
}

type JsonReader<'a> = serde_json::Deserializer<serde_json::de::SliceRead<'a>>;

/// How Go complains of values of a wrong type.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Words {
    /// As `encoding/json` does.
    #[default]
    Json,
    /// As apimachinery's converter of unstructured values does.
    Unstructured,
}

/// What decoding finds besides the value.
#[derive(Default)]
struct Context {
    words: Words,
    strict_errors: RefCell<Vec<String>>,
    /// The first error that is not one of JSON's form.
    error: RefCell<Option<String>>,
}

impl Context {
    fn strict(&self, what: &str, path: &str) {
        let mut errors = self.strict_errors.borrow_mut();
        let error = format!("{what} {}", go_quote(path));
        if errors.len() < MAX_STRICT_ERRORS && !errors.contains(&error) {
            errors.push(error);
        }
    }

    fn fail(&self, error: String) {
        self.error.borrow_mut().get_or_insert(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::lookup;
    use serde_json::json;

    fn deployment(json: &str) -> Result<Decoded, DecodeError> {
        decode(json.as_bytes(), lookup("apps", "v1", "Deployment").unwrap())
    }

    fn error(json: &str) -> String {
        deployment(json).unwrap_err().0
    }

    #[test]
    fn what_go_always_writes_is_there_and_what_it_omits_is_gone() {
        let decoded = deployment(
            r#"{"kind": "Deployment", "metadata": {"name": "a", "labels": {}, "creationTimestamp": null},
                "spec": {"replicas": 0, "paused": false, "template": {"spec": {"containers": [
                  {"name": "c", "args": [], "resources": {"limits": {"cpu": "1000m", "memory": 1024}}}]}}}}"#,
        );
        assert_eq!(
            decoded.unwrap().value,
            json!({"kind": "Deployment", "metadata": {"name": "a"}, "status": {},
                "spec": {"replicas": 0, "selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": [
                    {"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}]}}}})
        );
    }

    #[test]
    fn unknown_and_duplicate_fields_are_noted_and_dropped() {
        let decoded = deployment(
            r#"{"spec": {"foo": 1, "replicas": 1, "replicas": 2, "Paused": true,
                "template": {"spec": {"containers": [{"name": "a"}, {"imag": "x", "env": [{"name": "a", "valu": ""}]}]}}}}"#,
        )
        .unwrap();
        assert_eq!(
            decoded.strict_errors,
            [
                "unknown field \"spec.foo\"",
                "duplicate field \"spec.replicas\"",
                "unknown field \"spec.Paused\"",
                "unknown field \"spec.template.spec.containers[1].imag\"",
                "unknown field \"spec.template.spec.containers[1].env[0].valu\"",
            ]
        );
        assert_eq!(decoded.value["spec"]["replicas"], 2);
        assert_eq!(decoded.value["spec"].get("foo"), None);
    }

    #[test]
    fn wrong_types_are_refused_in_gos_words() {
        assert_eq!(
            error(r#"{"spec": {"replicas": "1"}}"#),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            error(r#"{"spec": {"replicas": 1.5}}"#),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            error(r#"{"spec": {"replicas": 99999999999}}"#),
            "json: cannot unmarshal number 99999999999 into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            error(r#"{"spec": {"template": {"spec": {"containers": {}}}}}"#),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
        );
        assert_eq!(
            error(r#"{"spec": {"template": {"spec": {"containers": [{"env": [{"name": 1}]}]}}}}"#),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.name of type string"
        );
        assert_eq!(
            error(r#"{"metadata": {"labels": {"a": 1}}}"#),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
        );
        assert_eq!(error("[]"), "json: cannot unmarshal array into Go value of type v1.Deployment");
        assert_eq!(
            error(r#"{"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}}}"#),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
    }

    #[test]
    fn fields_of_embedded_structs_are_named_with_them() {
        let policy = lookup("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy").unwrap();
        let error = decode(br#"{"spec": {"matchConstraints": {"resourceRules": [{"apiGroups": {}}]}}}"#, policy);
        assert_eq!(
            error.unwrap_err().0,
            "json: cannot unmarshal object into Go struct field \
             NamedRuleWithOperations.spec.matchConstraints.resourceRules.RuleWithOperations.Rule.apiGroups of type []string"
        );
    }

    #[test]
    fn values_of_wrong_types_in_patches_are_refused_in_the_converters_words() {
        let error = |value: Value| {
            decode_unstructured(value, lookup("apps", "v1", "Deployment").unwrap())
                .map_err(|error| error.0)
                .unwrap_err()
        };
        for (value, text) in [
            (json!({"metadata": 7}), "cannot restore struct from: int64"),
            (json!({"metadata": {"labels": "x"}}), "cannot restore map from string"),
            (json!({"metadata": {"finalizers": {}}}), "cannot restore slice from map"),
            (json!({"metadata": {"name": 1}}), "cannot convert int64 to string"),
            (json!({"metadata": {"name": true}}), "unrecognized type: string"),
            (json!({"spec": {"replicas": "1"}}), "unrecognized type: int32"),
            (json!({"spec": {"replicas": 1.5}}), "cannot convert float64 to int32"),
            (json!({"spec": {"paused": []}}), "unrecognized type: bool"),
        ] {
            assert_eq!(error(value), text);
        }
        let whole = json!({"spec": {"replicas": 2.0}});
        let decoded = decode_unstructured(whole, lookup("apps", "v1", "Deployment").unwrap()).unwrap();
        assert_eq!(decoded.value["spec"]["replicas"], 2);
    }

    #[test]
    fn half_of_a_surrogate_pair_is_taken_as_an_unknown_character() {
        let decoded = deployment(r#"{"metadata": {"name": "\ud800x"}}"#).unwrap();
        assert_eq!(decoded.value["metadata"]["name"], "\u{fffd}x");
        assert_eq!(parse(br#"["\ud83d\ude00", "\udc00\\ud800"]"#), Ok(json!(["\u{1f600}", "\u{fffd}\\ud800"])));
        assert_eq!(parse(b"\xef\xbb\xbf{}"), Err("invalid character '\u{ef}' looking for beginning of value".into()));
    }

    #[test]
    fn times_and_bytes_are_checked() {
        let secret = lookup("", "v1", "Secret").unwrap();
        let decoded = decode(
            br#"{"data": {"a": "YQ==", "b": null}, "metadata": {"deletionTimestamp": "2024-01-02T03:04:05+01:00"}}"#,
            secret,
        );
        let value = decoded.unwrap().value;
        assert_eq!(value["metadata"]["deletionTimestamp"], "2024-01-02T02:04:05Z");
        assert_eq!(value["data"], json!({"a": "YQ==", "b": ""}));
        let error = decode(br#"{"data": {"a": "a"}}"#, secret).unwrap_err().0;
        assert_eq!(error, "illegal base64 data at input byte 0");
        let error = decode(br#"{"metadata": {"creationTimestamp": "x"}}"#, secret).unwrap_err().0;
        assert_eq!(error, "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"");
    }

    #[test]
    fn malformed_json_is_refused_in_gos_words() {
        assert_eq!(error(""), "unexpected end of JSON input");
        assert_eq!(error("{"), "unexpected end of JSON input");
        assert_eq!(error("{a"), "invalid character 'a' looking for beginning of object key string");
        assert_eq!(error("{\"a\" 1}"), "invalid character '1' after object key");
        assert_eq!(error("{} x"), "invalid character 'x' after top-level value");
        assert_eq!(error("[1 2]"), "invalid character '2' after array element");
        assert_eq!(error("nul}"), "invalid character '}' in literal null (expecting 'l')");
    }

    #[test]
    fn answers_are_upstreams() {
        let answer = strict_bad_request(&["unknown field \"spec.foo\"".into()], "Pod", "v1", "Pod");
        let text = "strict decoding error: unknown field \"spec.foo\"";
        assert_eq!(answer.message, format!("Pod in version \"v1\" cannot be handled as a Pod: {text}"));
    }

    #[test]
    fn unrecognized_bodies_are_summarized() {
        let text = |body: &str| unrecognized(body.as_bytes(), "Pod", "why").message;
        let about = "the object provided is unrecognized (must be of type Pod): why";
        assert_eq!(text(""), format!("{about} (<empty>)"));
        assert_eq!(text("[]"), format!("{about} (5b5d)"));
        assert_eq!(text(&format!("{{{:>40}", "")), format!("{about} ({{{:>29} ...)", ""));
    }

    #[test]
    fn decoding_twice_changes_nothing() {
        let ty = lookup("apps", "v1", "Deployment").unwrap();
        let once =
            decode(br#"{"spec": {"template": {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}}}"#, ty).unwrap();
        assert_eq!(decode_value(once.value.clone(), ty).unwrap(), once);
    }
}
