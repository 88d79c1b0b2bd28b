//! Validation errors on fields, as upstream's `field.Error`: paths ([`Path`]) and errors ([`FieldError`]) with its texts.
use std::fmt;

use serde_json::Value;

/// The place of a field in an object. A path borrows its parent, so that valid objects cost no allocation:
///
/// ```text
/// let spec = Path::root("spec");
/// let containers = spec.child("containers");
/// containers.index(1).child("resources.limits").key("cpu") // spec.containers[1].resources.limits[cpu]
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A top-level field; dots in `name` make several levels.
    pub const fn root(name: &'a str) -> Path<'a> {
        Path { parent: None, segment: Segment::Name(name) }
    }

    /// A field of the object here; dots in `name` make several levels.
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Name(name) }
    }

    /// An item of the list here.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// A value of the map here.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            // An empty root stands for the object itself.
            Segment::Name("") => Ok(()),
            Segment::Name(name) if self.parent.is_none_or(Path::is_empty) => f.write_str(name),
            Segment::Name(name) => write!(f, ".{name}"),
            Segment::Index(i) => write!(f, "[{i}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl Path<'_> {
    fn is_empty(&self) -> bool {
        matches!(self.segment, Segment::Name("")) && self.parent.is_none_or(Path::is_empty)
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// A reference to something that does not exist.
    NotFound,
    /// A value is missing.
    Required,
    /// A value that must be unique appears twice.
    Duplicate,
    /// A value breaks a rule.
    Invalid,
    /// A value is not one of those known.
    NotSupported,
    /// A value may not be set here and now.
    Forbidden,
    /// A string is too long.
    TooLong,
    /// A string is too short.
    TooShort,
    /// A list or map has too many items.
    TooMany,
    /// A list or map has too few items.
    TooFew,
    /// Validation itself failed.
    Internal,
    /// A value is of a wrong type.
    TypeInvalid,
}

impl ErrorType {
    /// The `reason` of a cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooShort => "FieldValueTooShort",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::TooFew => "FieldValueTooFew",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooShort => "Too short",
            ErrorType::TooMany => "Too many",
            ErrorType::TooFew => "Too few",
            ErrorType::Internal => "Internal error",
        }
    }
}

/// One error on one field. Collect them in a `Vec` and hand it to [`crate::status::ApiError::invalid`].
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub error_type: ErrorType,
    /// The path of the field.
    pub field: String,
    /// The rejected value as the message shows it; empty where none is shown.
    bad_value: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// A value as upstream prints it in an error: strings quoted as Go's `%q`, everything else as JSON.
#[derive(Clone, Debug)]
pub struct BadValue(String);

impl BadValue {
    /// A value that is JSON already, in the order of fields that upstream's Go type has.
    pub fn json(text: impl Into<String>) -> Self {
        BadValue(text.into())
    }
}

macro_rules! bad_value_display {
    ($($t:ty),*) => {$(
        impl From<$t> for BadValue {
            fn from(v: $t) -> Self {
                BadValue(v.to_string())
            }
        }
    )*};
}
bad_value_display!(i32, i64, u16, u32, u64, usize, f64, bool);

impl From<&str> for BadValue {
    fn from(v: &str) -> Self {
        BadValue(go_quote(v))
    }
}

impl From<&String> for BadValue {
    fn from(v: &String) -> Self {
        BadValue(go_quote(v))
    }
}

impl From<String> for BadValue {
    fn from(v: String) -> Self {
        BadValue(go_quote(&v))
    }
}

impl From<&Value> for BadValue {
    fn from(v: &Value) -> Self {
        match v {
            Value::String(s) => BadValue(go_quote(s)),
            other => BadValue(go_json(other)),
        }
    }
}

impl From<Option<&Value>> for BadValue {
    fn from(v: Option<&Value>) -> Self {
        v.unwrap_or(&Value::Null).into()
    }
}

impl FieldError {
    fn new(error_type: ErrorType, path: &Path<'_>, bad_value: impl Into<BadValue>, detail: impl Into<String>) -> Self {
        FieldError { error_type, field: path.to_string(), bad_value: bad_value.into().0, detail: detail.into() }
    }

    fn without_value(error_type: ErrorType, path: &Path<'_>, detail: impl Into<String>) -> Self {
        FieldError { error_type, field: path.to_string(), bad_value: String::new(), detail: detail.into() }
    }

    /// A value is missing.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::without_value(ErrorType::Required, path, detail)
    }

    /// A value breaks a rule.
    pub fn invalid(path: &Path<'_>, value: impl Into<BadValue>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, path, value, detail)
    }

    /// A value is of a wrong type.
    pub fn type_invalid(path: &Path<'_>, value: impl Into<BadValue>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, path, value, detail)
    }

    /// A reference to something that does not exist.
    pub fn not_found(path: &Path<'_>, value: impl Into<BadValue>) -> Self {
        Self::new(ErrorType::NotFound, path, value, "")
    }

    /// A value that must be unique appears twice.
    pub fn duplicate(path: &Path<'_>, value: impl Into<BadValue>) -> Self {
        Self::new(ErrorType::Duplicate, path, value, "")
    }

    /// A value is not one of those known; `supported` is listed in the order given (upstream sorts most of them).
    pub fn not_supported(path: &Path<'_>, value: impl Into<BadValue>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| go_quote(s)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(ErrorType::NotSupported, path, value, detail)
    }

    /// A value may not be set here and now.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::without_value(ErrorType::Forbidden, path, detail)
    }

    /// A string has more than `max` bytes.
    pub fn too_long(path: &Path<'_>, max: usize) -> Self {
        let bytes = if max == 1 { "byte" } else { "bytes" };
        Self::without_value(ErrorType::TooLong, path, format!("may not be more than {max} {bytes}"))
    }

    /// A string has more than `max` characters.
    pub fn too_long_characters(path: &Path<'_>, max: usize) -> Self {
        let characters = if max == 1 { "character" } else { "characters" };
        Self::without_value(ErrorType::TooLong, path, format!("may not be more than {max} {characters}"))
    }

    /// A string has fewer than `min` characters.
    pub fn too_short(path: &Path<'_>, min: usize) -> Self {
        let characters = if min == 1 { "character" } else { "characters" };
        Self::without_value(ErrorType::TooShort, path, format!("must be at least {min} {characters}"))
    }

    /// A list or map has `actual` items and may have `max`.
    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(ErrorType::TooMany, path, actual, format!("must have at most {max} {items}"))
    }

    /// A list or map has `actual` items and needs `min`.
    pub fn too_few(path: &Path<'_>, actual: usize, min: usize) -> Self {
        let items = if min == 1 { "item" } else { "items" };
        Self::new(ErrorType::TooFew, path, actual, format!("must have at least {min} {items}"))
    }

    /// Validation itself failed.
    pub fn internal(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::without_value(ErrorType::Internal, path, detail)
    }

    /// The message without the field's path, as a cause of a Status shows it.
    pub fn body(&self) -> String {
        let mut out = self.error_type.text().to_owned();
        for part in [&self.bad_value, &self.detail] {
            if !part.is_empty() {
                out.push_str(": ");
                out.push_str(part);
            }
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// All errors as one text, each once: alone as it is, several as `[a, b]`.
// upstream: apimachinery pkg/util/errors, Aggregate
pub fn aggregate<E: fmt::Display>(errors: &[E]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for e in errors {
        let text = e.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.len() == 1 { texts.swap_remove(0) } else { format!("[{}]", texts.join(", ")) }
}

/// Quotes as Go's `%q` does.
pub fn go_quote(s: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\x7f' => {
                write!(out, "\\x{:02x}", c as u32).expect("writing to a String succeeds");
            }
            c if c.is_control() || matches!(c, '\u{a0}' | '\u{ad}' | '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                write!(out, "\\u{:04x}", c as u32).expect("writing to a String succeeds");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// JSON as Go's `json.Marshal` writes it: `<`, `>` and `&` are escaped.
pub fn go_json(value: &Value) -> String {
    let text = value.to_string();
    if text.contains(['<', '>', '&']) {
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_upstreams() {
        let spec = Path::root("spec");
        let replicas = spec.child("replicas");
        let text = |e: FieldError| e.to_string();
        assert_eq!(
            text(FieldError::invalid(&replicas, -1, "must be greater than or equal to 0")),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(text(FieldError::required(&replicas, "")), "spec.replicas: Required value");
        assert_eq!(
            text(FieldError::not_supported(&replicas, "x", &["Always", "Never"])),
            "spec.replicas: Unsupported value: \"x\": supported values: \"Always\", \"Never\""
        );
        assert_eq!(
            text(FieldError::too_long(&replicas, 253)),
            "spec.replicas: Too long: may not be more than 253 bytes"
        );
        assert_eq!(text(FieldError::too_many(&replicas, 2, 1)), "spec.replicas: Too many: 2: must have at most 1 item");
        assert_eq!(
            text(FieldError::duplicate(&replicas, &json!({"a": "<"}))),
            "spec.replicas: Duplicate value: {\"a\":\"\\u003c\"}"
        );
        assert_eq!(text(FieldError::forbidden(&replicas, "no")), "spec.replicas: Forbidden: no");
        assert_eq!(text(FieldError::invalid(&replicas, "", "x")), "spec.replicas: Invalid value: \"\": x");
    }

    #[test]
    fn paths_name_fields_items_and_keys() {
        let containers = Path::root("spec").child("containers").to_string();
        assert_eq!(containers, "spec.containers");
        let path = Path::root("spec.containers").index(1).child("resources.limits").key("cpu").to_string();
        assert_eq!(path, "spec.containers[1].resources.limits[cpu]");
    }

    #[test]
    fn an_empty_root_adds_nothing_to_the_path() {
        let root = Path::root("");
        assert_eq!(root.child("spec").index(0).to_string(), "spec[0]");
    }

    #[test]
    fn quoting_is_gos() {
        assert_eq!(go_quote("a\"b\\\n\x01\u{7f}é"), "\"a\\\"b\\\\\\n\\x01\\x7fé\"");
    }

    #[test]
    fn aggregates_show_each_error_once() {
        assert_eq!(aggregate(&["a"]), "a");
        assert_eq!(aggregate(&["a", "b", "a"]), "[a, b]");
    }
}
