//! Expressions that admission evaluates: match conditions.
use super::field::{Errors, Field};
use crate::admission::Expression;
use pintle_api::field::FieldError;
use pintle_api::names;
use pintle_cel::{Env, Type};

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
