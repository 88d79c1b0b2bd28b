//! A value together with its path, so that rules read as a list: [`Field`].
use crate::value::{Read, is_zero};
use pintle_api::field::{FieldError, Path};
use serde_json::Value;

/// The errors found so far.
pub type Errors = Vec<FieldError>;

/// A place in an object and what is there (null if nothing).
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// What is there.
    pub value: &'a Value,
    /// The place.
    pub path: Path<'a>,
}

impl<'a> Field<'a> {
    /// A top-level field of `object`.
    pub fn root(object: &'a Value, name: &'a str) -> Field<'a> {
        Field { value: object.field(name), path: Path::root(name) }
    }

    /// A field of the object here.
    pub fn child<'b>(&'b self, name: &'b str) -> Field<'b> {
        Field { value: self.value.field(name), path: self.path.child(name) }
    }

    /// The items of the list here.
    pub fn items(&self) -> impl Iterator<Item = Field<'_>> {
        let list = self.value.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().enumerate().map(|(i, value)| Field { value, path: self.path.index(i) })
    }

    /// The entries of the map here.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Field<'_>)> {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), Field { value, path: self.path.key(key) }))
    }

    /// The string here; empty if there is none.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The number here; 0 if there is none.
    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or_default()
    }

    /// The boolean here; false if there is none.
    pub fn flag(&self) -> bool {
        self.value.as_bool().unwrap_or_default()
    }

    /// Whether there is something here.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether there is nothing here, or the zero value.
    pub fn is_zero(&self) -> bool {
        is_zero(self.value)
    }

    /// The value here breaks a rule.
    pub fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path, self.value, detail)
    }

    /// There is nothing here.
    pub fn missing(&self, detail: impl Into<String>) -> FieldError {
        FieldError::required(&self.path, detail)
    }

    /// Nothing may be here.
    pub fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(&self.path, detail)
    }

    /// Something must be here.
    pub fn required(&self, detail: &str, errors: &mut Errors) {
        if self.is_zero() {
            errors.push(self.missing(detail));
        }
    }

    /// The string here, if any, must pass `check`.
    pub fn checked(&self, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
        if !self.is_set() {
            return;
        }
        errors.extend(check(self.text()).into_iter().map(|wrong| self.invalid(wrong)));
    }

    /// As [`Field::checked`], where nothing counts as an empty string.
    pub fn text_checked(&self, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
        errors.extend(check(self.text()).into_iter().map(|e| FieldError::invalid(&self.path, self.text(), e)));
    }

    /// The string here must be there and pass `check`.
    pub fn required_checked(&self, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
        if self.text().is_empty() {
            errors.push(self.missing(""));
        } else {
            self.checked(check, errors);
        }
    }

    /// The string here must be one of `known` (sorted).
    pub fn one_of(&self, known: &[&str], errors: &mut Errors) {
        if !known.contains(&self.text()) {
            errors.push(FieldError::not_supported(&self.path, self.text(), known));
        }
    }

    /// As [`Field::one_of`], where nothing is an error of its own.
    pub fn required_one_of(&self, known: &[&str], errors: &mut Errors) {
        if self.is_zero() {
            errors.push(self.missing(""));
        } else {
            self.one_of(known, errors);
        }
    }

    /// The number here, if any, must not be negative.
    pub fn nonnegative(&self, errors: &mut Errors) {
        if self.int() < 0 {
            errors.push(self.invalid("must be greater than or equal to 0"));
        }
    }

    /// The number here, if any, must be in this range.
    pub fn in_range(&self, min: i64, max: i64, errors: &mut Errors) {
        if self.is_set() && !(min..=max).contains(&self.int()) {
            errors.push(self.invalid(format!("must be between {min} and {max}, inclusive")));
        }
    }

    /// What is here must be what was in `old`.
    pub fn immutable(&self, old: &Value, errors: &mut Errors) {
        if !crate::value::same(self.value, old) {
            errors.push(self.invalid("field is immutable"));
        }
    }
}
