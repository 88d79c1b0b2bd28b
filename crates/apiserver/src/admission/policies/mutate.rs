//! The mutating phase. Start at [`admit`].
// upstream: mutating/dispatcher.go
use super::definition::{Mutation, Policy};
use super::{Index, Invocation, Misconfigured, patch, subject, versions};
use crate::admission::matching::conditions::Held;
use crate::admission::matching::{Event, convert_between};
use crate::admission::reinvocation::Round;
use crate::codec::{FieldValidation, Made, retype};
use crate::strategy;
use crate::value::{Read, same};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::Resource;
use pintle_api::status::{ApiError, Cause, Reason};
use pintle_cel::Budget;
use serde_json::Value;

/// Applies all policies that apply, in the order of their names.
pub(super) async fn admit(
    index: &Index,
    event: &Event<'_>,
    mut object: Option<&mut Value>,
    round: &mut Round,
) -> Result<(), ApiError> {
    let (invocations, wrong) = index.invocations(event, object.as_deref()).await;
    let mut errors: Vec<(String, Option<Reason>)> = Vec::new();
    for Misconfigured { policy, binding, why } in wrong.into_iter().filter(|wrong| !wrong.policy.fails_open) {
        errors.push((denied(&policy, binding.as_deref().map(|b| b.name.as_str()), &why), None));
    }
    round.begin(object.as_deref());
    for invocation in &invocations {
        let params = invocation.params.as_ref();
        let place = params.map(|params| format!("{}/{}", params.namespace(), params.name())).unwrap_or_default();
        let id = format!("{}/{}/{place}", invocation.policy.name, invocation.binding.name);
        if !round.calls(&id) {
            continue;
        }
        let changed = match apply(invocation, event, object.as_deref_mut()).await? {
            Ok(changed) => changed,
            Err(why) => {
                if !invocation.policy.fails_open {
                    let text = denied(&invocation.policy, Some(&invocation.binding.name), &why);
                    errors.push((text, Some(Reason::Invalid)));
                }
                false
            }
        };
        round.called(&id, invocation.policy.reinvocable, changed);
    }
    round.end(object.as_deref());
    refuse(event, object.as_deref(), errors)
}

fn denied(policy: &Policy, binding: Option<&str>, why: &str) -> String {
    match binding {
        Some(binding) => format!("policy '{}' with binding '{binding}' denied request: {why}", policy.name),
        None => format!("policy {:?} denied request: {why}", policy.name),
    }
}

fn refuse(event: &Event<'_>, object: Option<&Value>, errors: Vec<(String, Option<Reason>)>) -> Result<(), ApiError> {
    let Some((message, reason)) = errors.first() else { return Ok(()) };
    let mut error = event.attributes.refuse(object.unwrap_or(&Value::Null), "admission request denied by policy");
    error.message.clone_from(message);
    error.reason = reason.unwrap_or(error.reason);
    for (message, _) in errors {
        error = error.with_cause(Cause { message, ..Cause::default() });
    }
    Err(error)
}

/// Applies one policy's mutations. Whether the object changed, or why the policy cannot be applied.
async fn apply(
    invocation: &Invocation,
    event: &Event<'_>,
    object: Option<&mut Value>,
) -> Result<Result<bool, String>, ApiError> {
    let Invocation { policy, resource, params, .. } = invocation;
    let mut versions = versions(event, resource, object.as_deref())?;
    let held = subject(event, resource, &versions).await?;
    match policy.conditions.hold(&held.activation(params.as_ref())) {
        Held::Yes => {}
        Held::No => return Ok(Ok(false)),
        Held::Failed(why) => return Ok(Err(why)),
    }
    drop(held);
    let Some(object) = object else { return Ok(Ok(false)) };
    for mutation in &policy.mutations {
        let subject = subject(event, resource, &versions).await?;
        let Some(current) = subject.object else { return Ok(Ok(false)) };
        let mut activation = subject.activation(params.as_ref());
        let (expression, make): (_, patch::Make) = match mutation {
            Mutation::Apply(expression) => (expression, patch::applied),
            Mutation::Patch(expression) => (expression, patch::patched),
        };
        let made = policy
            .eval(expression, &mut activation, &mut Budget::default())
            .and_then(|value| make(current, &value, resource));
        let made = match made {
            Ok(made) => made,
            Err(why) => return Ok(Err(why)),
        };
        let made = finished(event, resource, made)?;
        drop(activation);
        drop(subject);
        versions.0 = Some(made);
    }
    let Some(made) = versions.0 else { return Ok(Ok(false)) };
    let made = convert_between(resource, event.attributes.resource, &made)?;
    let changed = !same(object, &made);
    *object = made;
    Ok(Ok(changed))
}

/// What a mutation made, as an object of its kind with its defaults.
fn finished(event: &Event<'_>, resource: &Resource, made: Value) -> Result<Value, ApiError> {
    if event.attributes.subresource == "scale" || made.field("kind").as_str() != Some(&resource.kind) {
        return Ok(made);
    }
    let mut made = retype(event.attributes.cx, resource, FieldValidation::Ignore, Made::ByApply, made)?;
    strategy::of(resource).default(&mut made);
    Ok(made)
}
