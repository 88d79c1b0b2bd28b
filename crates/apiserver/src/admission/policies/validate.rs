//! The validating phase. Start at [`validate`].
// upstream: validating/dispatcher.go, validating/validator.go
use super::definition::{Policy, Validation};
use super::{Index, Invocation, Misconfigured, subject, versions};
use crate::admission::matching::Event;
use crate::admission::matching::conditions::{Held, Subject};
use pintle_api::status::{ApiError, Cause, Reason};
use pintle_cel::{Activation, Budget, Value as Cel};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How long the value of an audit annotation may be, in bytes. upstream: maxAuditAnnotationValueLength
const MAX_ANNOTATION: usize = 10 * 1024;
/// How long a message may be that an expression makes, in bytes. upstream: MaxEvaluatedMessageExpressionSizeBytes
const MAX_MESSAGE: usize = 5 * 1024;

/// Why a policy denies.
#[derive(Debug, Default)]
struct Denial {
    message: String,
    reason: String,
    /// The position of the validation among the policy's.
    index: usize,
}

/// What evaluating a policy came to.
#[derive(Debug, Default)]
struct Outcome {
    /// Denials to which the binding's actions apply.
    denials: Vec<Denial>,
    /// Failures of audit annotations, which always deny.
    unconditional: Vec<Denial>,
    /// Audit annotations by key.
    annotations: Vec<(String, String)>,
}

/// Asks all policies that apply; the first denial answers.
pub(super) async fn validate(index: &Index, event: &Event<'_>, object: Option<&Value>) -> Result<(), ApiError> {
    let (invocations, wrong) = index.invocations(event, object).await;
    let mut denied: Option<(String, Denial)> = None;
    let mut deny = |who: String, denial: Denial| {
        denied.get_or_insert((who, denial));
    };
    for Misconfigured { policy, binding, why } in wrong.into_iter().filter(|wrong| !wrong.policy.fails_open) {
        deny(who(&policy, binding.as_deref().map(|b| b.name.as_str())), Denial { message: why, ..Denial::default() });
    }
    let mut annotated = BTreeMap::new();
    for Invocation { policy, binding, resource, params } in &invocations {
        let versions = versions(event, resource, object)?;
        let subject = subject(event, resource, &versions).await?;
        let Outcome { denials, unconditional, annotations } = evaluate(policy, &subject, params.as_ref());
        for (key, value) in annotations {
            let values: &mut Vec<String> = annotated.entry(format!("{}/{key}", policy.name)).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        for denial in denials {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => {
                        let Denial { message, reason, index } = &denial;
                        let denial = Denial { message: message.clone(), reason: reason.clone(), index: *index };
                        deny(who(policy, Some(&binding.name)), denial);
                    }
                    "Warn" => event.attributes.cx.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, denial.message
                    )),
                    _ => {
                        let failure = json!([{
                            "message": denial.message, "policy": policy.name, "binding": binding.name,
                            "expressionIndex": denial.index, "validationActions": binding.actions,
                        }]);
                        let key = "validation.policy.admission.k8s.io/validation_failure";
                        event.attributes.cx.annotate(key, failure.to_string());
                        tracing::debug!(policy = policy.name, binding = binding.name, "{}", denial.message);
                    }
                }
            }
        }
        for denial in unconditional {
            deny(who(policy, Some(&binding.name)), denial);
        }
    }
    for (key, values) in annotated {
        event.attributes.cx.annotate(key, values.join(", "));
    }
    match denied {
        None => Ok(()),
        Some((who, denial)) => Err(refusal(event, object, &who, &denial)),
    }
}

fn who(policy: &Policy, binding: Option<&str>) -> String {
    match binding {
        Some(binding) => format!("ValidatingAdmissionPolicy '{}' with binding '{binding}'", policy.name),
        None => format!("ValidatingAdmissionPolicy '{}'", policy.name),
    }
}

fn refusal(event: &Event<'_>, object: Option<&Value>, who: &str, denial: &Denial) -> ApiError {
    let message = format!("{who} denied request: {}", denial.message);
    let mut error = event.attributes.refuse(object.unwrap_or(&Value::Null), &message);
    (error.reason, error.code) = match denial.reason.as_str() {
        "Unauthorized" => (Reason::Unauthorized, 401),
        "Forbidden" => (Reason::Forbidden, 403),
        "RequestEntityTooLarge" => (Reason::RequestEntityTooLarge, 413),
        _ => (Reason::Invalid, 422),
    };
    error.with_cause(Cause { message, ..Cause::default() })
}

fn evaluate(policy: &Policy, subject: &Subject<'_>, params: Option<&Value>) -> Outcome {
    let failed = |why: String| {
        let denial = Denial { message: why, ..Denial::default() };
        if policy.fails_open { Vec::new() } else { vec![denial] }
    };
    let mut activation = subject.activation(params);
    match policy.conditions.hold(&activation) {
        Held::Yes => {}
        Held::No => return Outcome::default(),
        Held::Failed(why) => return Outcome { denials: failed(why), ..Outcome::default() },
    }
    let (mut budget, mut denials) = (Budget::default(), Vec::new());
    for (index, validation) in policy.validations.iter().enumerate() {
        match policy.eval(&validation.expression, &mut activation, &mut budget) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => denials.push(Denial {
                message: message(policy, validation, &mut activation, &mut budget),
                reason: validation.reason.clone(),
                index,
            }),
            Err(why) => denials.extend(failed(why).into_iter().map(|denial| Denial { index, ..denial })),
        }
    }
    let (mut unconditional, mut annotations) = (Vec::new(), Vec::new());
    for (key, expression) in &policy.audit_annotations {
        match policy.eval(expression, &mut activation, &mut budget) {
            Ok(Cel::String(value)) if !value.trim().is_empty() => {
                let value = value.trim();
                let end = (0..=MAX_ANNOTATION.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
                annotations.push((key.clone(), value[..end.unwrap_or_default()].to_owned()));
            }
            Ok(Cel::String(_) | Cel::Null) => {}
            Ok(other) => unconditional.extend(failed(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                expression.text,
                other.type_name()
            ))),
            Err(why) => unconditional.extend(failed(why)),
        }
    }
    Outcome { denials, unconditional, annotations }
}

/// What a denial says: what the expression for it makes, the fixed text, or the expression that does not hold.
fn message(policy: &Policy, validation: &Validation, activation: &mut Activation<'_>, budget: &mut Budget) -> String {
    if let Some(expression) = &validation.message_expression {
        match policy.eval(expression, activation, budget) {
            Ok(Cel::String(text)) => {
                let text = text.trim();
                if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
                    return text.to_owned();
                }
            }
            Ok(_) => {}
            Err(why) => tracing::debug!(policy = policy.name, why, "a messageExpression has no result"),
        }
    }
    match validation.message.trim() {
        "" => format!("failed expression: {}", validation.expression.text.trim()),
        text => text.to_owned(),
    }
}
