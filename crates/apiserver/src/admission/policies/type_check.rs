//! `status.typeChecking` of ValidatingAdmissionPolicies: what is wrong with their expressions, given the types of what they
//! match. Warnings only; nothing depends on them. Start at [`run`].
// upstream: validating/typechecking.go, pkg/controller/validatingadmissionpolicystatus
use super::definition::Environments;
use crate::admission::matching::conditions::Expression;
use crate::context::RequestContext;
use crate::follow::follow;
use crate::registry::{Registry, Write};
use crate::value::{Fill, Read, object_of};
use parking_lot::Mutex;
use pintle_api::facts::{self, Shape};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{Resource, split_api_version};
use pintle_api::status::ApiError;
use pintle_cel::schema::escape;
use pintle_cel::{Field, Fields, ObjectType, Type};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How many kinds a policy's expressions are checked against. upstream: maxTypesToCheck
const MAX_TYPES: usize = 10;

/// Follows the policies of `registry` and writes their status until `stop`.
pub(super) async fn run(registry: &Registry, stop: &CancellationToken) -> Result<(), ApiError> {
    let resource = registry.resource("admissionregistration.k8s.io", "validatingadmissionpolicies")?;
    let (due, wake) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(Notify::new()));
    let (noted, woken) = (due.clone(), wake.clone());
    let note = move |_: &str, name: &str, stored: Option<&bytes::Bytes>| {
        let policy: Option<Value> = stored.and_then(|bytes| serde_json::from_slice(bytes).ok());
        if policy.is_some_and(|policy| is_due(&policy)) {
            noted.lock().insert(name.to_owned());
            woken.notify_one();
        }
    };
    follow(registry, &resource, stop.clone(), Box::new(note)).await?;
    let (registry, stop) = (registry.clone(), stop.clone());
    tokio::spawn(async move {
        let work = async {
            loop {
                let next = due.lock().pop_first();
                match next {
                    None => wake.notified().await,
                    Some(name) => {
                        if let Err(error) = update(&registry, &resource, &name).await {
                            tracing::warn!(policy = name, %error, "the type check could not be written");
                        }
                    }
                }
            }
        };
        tokio::select! { () = stop.cancelled() => {} () = work => {} }
    });
    Ok(())
}

fn is_due(policy: &Value) -> bool {
    policy.generation() > policy.field("status").int("observedGeneration")
}

async fn update(registry: &Registry, resource: &Resource, name: &str) -> Result<(), ApiError> {
    let cx = RequestContext::system();
    let write = Write::internal(&cx, resource, "").subresource("status");
    let updated = registry.update_with(&write, name, |policy| {
        if is_due(policy) {
            let warnings = check(policy.field("spec"), registry);
            let checked = match warnings.is_empty() {
                true => json!({}),
                false => json!({"expressionWarnings": warnings}),
            };
            let generation = policy.generation();
            let status = object_of(policy).child_or_new("status");
            status.set("observedGeneration", generation);
            status.set("typeChecking", checked);
        }
        Ok(())
    });
    match updated.await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The warnings on a policy's spec.
fn check(spec: &Value, registry: &Registry) -> Vec<Value> {
    let kinds = kinds(spec, registry);
    let mut warnings = Vec::new();
    for (index, validation) in spec.items("validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = validation.text(field);
            let found: Vec<String> = if text.is_empty() { Vec::new() } else { issues(spec, &kinds, text) };
            if !found.is_empty() {
                let place = format!("spec.validations[{index}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": found.join("\n")}));
            }
        }
    }
    warnings
}

fn issues(spec: &Value, kinds: &BTreeMap<String, Type>, text: &str) -> Vec<String> {
    let issue = |(kind, ty): (&String, &Type)| {
        let envs = Environments::of(spec, Some(ty), |_, _| {});
        let why = Expression::compile(&envs.full, text, &[]).program.err()?;
        Some(format!("{kind}: {why}\n"))
    };
    kinds.iter().filter_map(issue).collect()
}

/// The kinds that a policy's rules name, with their types. Rules with wildcards name none.
fn kinds(spec: &Value, registry: &Registry) -> BTreeMap<String, Type> {
    let scheme = registry.scheme();
    let mut kinds = BTreeMap::new();
    for rule in spec.field("matchConstraints").items("resourceRules") {
        let wild = |list: &str| rule.texts(list).any(|item| item.contains('*'));
        if wild("apiGroups") || wild("apiVersions") {
            continue;
        }
        for group in rule.texts("apiGroups") {
            for version in rule.texts("apiVersions") {
                for plural in rule.texts("resources").filter(|plural| !plural.contains(['*', '/'])) {
                    let Some(resource) = scheme.by_plural(group, version, plural) else { continue };
                    if let Some(ty) = type_of(resource)
                        && kinds.len() < MAX_TYPES
                    {
                        kinds.insert(shown(resource), ty);
                    }
                }
            }
        }
    }
    kinds
}

/// `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
fn shown(resource: &Resource) -> String {
    let api_version = resource.api_version();
    let (group, version) = split_api_version(&api_version);
    format!("{group}/{version}, Kind={}", resource.kind)
}

fn type_of(resource: &Resource) -> Option<Type> {
    facts::lookup(&resource.group, &resource.version, &resource.kind).map(object)
}

/// A type of the schema facts; its fields are looked up when they are asked for, because types contain themselves.
#[derive(Debug)]
struct Known(&'static facts::Type);

fn object(ty: &'static facts::Type) -> Type {
    Type::Object(Arc::new(ObjectType { name: ty.go_name().to_owned(), fields: Arc::new(Known(ty)) }))
}

impl Fields for Known {
    fn field(&self, name: &str) -> Option<Field> {
        let escaped = |field: &&facts::Field| escape(field.name).as_deref() == Some(name);
        let plain = self.0.field(name).filter(escaped);
        let field = plain.or_else(|| self.0.fields.iter().find(escaped))?;
        Some(Field { json: field.name.to_owned(), ty: of_shape(&field.shape) })
    }
}

fn of_shape(shape: &'static Shape) -> Type {
    match shape {
        Shape::String | Shape::Duration => Type::String,
        Shape::Bool => Type::Bool,
        Shape::Int32 | Shape::Int64 => Type::Int,
        Shape::Double => Type::Double,
        Shape::Bytes => Type::Bytes,
        Shape::Time | Shape::MicroTime => Type::Timestamp,
        Shape::Object(id) => object(id.get()),
        Shape::List(item) | Shape::WrappedList(item) => Type::list(of_shape(item)),
        Shape::Map(value) => Type::map(Type::String, of_shape(value)),
        Shape::Quantity | Shape::IntOrString | Shape::RawExtension | Shape::FieldsV1 | Shape::Json => Type::Dyn,
    }
}
