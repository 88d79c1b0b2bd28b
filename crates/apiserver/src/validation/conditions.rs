//! Conditions of two sorts: `status.conditions`, and the match conditions that admission evaluates.
use super::field::{Errors, Field};
use crate::admission::Expression;
use pintle_api::field::FieldError;
use pintle_api::names;
use pintle_cel::{Env, Type};

/// `status.conditions` of the common form.
// upstream: apimachinery pkg/apis/meta/v1/validation, ValidateConditions
pub(crate) fn conditions(list: &Field<'_>, errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for condition in list.items() {
        let (kind, reason) = (condition.child("type"), condition.child("reason"));
        super::common::unique(&mut seen, &kind, errors);
        kind.text_checked(names::qualified_name, errors);
        condition.child("status").one_of(&["False", "True", "Unknown"], errors);
        let observed = condition.child("observedGeneration");
        if observed.int() < 0 {
            errors.push(observed.invalid("must be greater than or equal to zero"));
        }
        condition.child("lastTransitionTime").required("", errors);
        reason.required_checked(condition_reason, errors);
        for (field, limit) in [(&reason, MAX_REASON), (&condition.child("message"), MAX_MESSAGE)] {
            if field.text().len() > limit {
                errors.push(FieldError::too_long(&field.path, limit));
            }
        }
    }
}

fn condition_reason(reason: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = reason.starts_with(|c: char| c.is_ascii_alphabetic());
    let inner = reason.chars().all(|c| word(c) || matches!(c, ',' | ':'));
    if starts && inner && reason.ends_with(word) {
        return Vec::new();
    }
    vec![
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
         characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
         'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
         '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
            .to_owned(),
    ]
}

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;

/// How many match conditions there may be.
const MAX_CONDITIONS: usize = 64;

/// `matchConditions` of a webhook or policy.
// upstream: validateMatchConditions
pub(crate) fn match_conditions(list: &Field<'_>, env: &Env, errors: &mut Errors) {
    let count = list.items().count();
    if count > MAX_CONDITIONS {
        errors.push(FieldError::too_many(&list.path, count, MAX_CONDITIONS));
    }
    let mut seen: Vec<String> = Vec::new();
    for condition in list.items() {
        let name = condition.child("name");
        if name.is_zero() {
            errors.push(name.missing(""));
        } else {
            errors.extend(names::qualified_name(name.text()).into_iter().map(|wrong| name.invalid(wrong)));
            super::common::unique(&mut seen, &name, errors);
        }
        expression(&condition.child("expression"), env, &[Type::Bool], errors);
    }
}

/// An expression must be there, and compile to one of the types `wanted`. Whether it does.
pub(crate) fn expression(at: &Field<'_>, env: &Env, wanted: &[Type], errors: &mut Errors) -> bool {
    if at.text().trim().is_empty() {
        errors.push(at.missing(""));
        return false;
    }
    match Expression::compile(env, at.text(), wanted).program {
        Ok(_) => true,
        Err(why) => {
            errors.push(at.invalid(why));
            false
        }
    }
}
