//! `status.typeChecking` of ValidatingAdmissionPolicies: what is wrong with their expressions, given the types of what they
//! match. Warnings only; nothing depends on them. Start at [`run`].
// upstream: validating/typechecking.go, pkg/controller/validatingadmissionpolicystatus
mod types;

use super::definition::with_variables;
use crate::admission::matching::conditions::environment;
use crate::context::RequestContext;
use crate::follow::follow;
use crate::registry::{Registry, Write};
use crate::value::{Fill, Read, object_of};
use parking_lot::Mutex;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{Resource, Scheme, split_api_version};
use pintle_api::status::ApiError;
use pintle_cel::{Env, Type};
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
            let warnings = check(policy.field("spec"), &registry.scheme());
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
fn check(spec: &Value, scheme: &Scheme) -> Vec<Value> {
    let params = parameters(spec, scheme);
    let typed = |(kind, ty): (Kind, Type)| {
        let (group, version, kind) = kind;
        (format!("{group}/{version}, Kind={kind}"), typed_environment(spec, &ty, params.as_ref()))
    };
    let kinds: Vec<(String, Env)> = kinds(spec, scheme).into_iter().map(typed).collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec.items("validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = validation.text(field);
            let issue = |(kind, env): &(String, Env)| Some(format!("{kind}: {}\n", env.compile(text).err()?));
            let found: Vec<String> =
                if text.is_empty() { Vec::new() } else { kinds.iter().filter_map(issue).collect() };
            if !found.is_empty() {
                let place = format!("spec.validations[{index}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": found.join("\n")}));
            }
        }
    }
    warnings
}

/// What expressions may use, for objects of this type.
// upstream: buildEnvSet, which does not know authorizer.requestResource
fn typed_environment(spec: &Value, object: &Type, params: Option<&Type>) -> Env {
    let mut env = environment(spec.has("paramKind"), false)
        .variable("object", object.clone())
        .variable("oldObject", object.clone())
        .variable("authorizer", pintle_cel::types::AUTHORIZER);
    if let Some(params) = params {
        env = env.variable("params", params.clone());
    }
    env = with_variables(env);
    for variable in spec.items("variables") {
        let output =
            env.compile(variable.text("expression")).map_or(Type::Dyn, |program| program.output().of_variable());
        env = env.variable(format!("variables.{}", variable.text("name")), output);
    }
    env
}

/// The type of the policy's parameters, if it is known.
fn parameters(spec: &Value, scheme: &Scheme) -> Option<Type> {
    let kind = spec.field("paramKind");
    let (group, version) = split_api_version(kind.text("apiVersion"));
    types::of_resource(scheme.by_kind(group, version, kind.text("kind"))?)
}

/// Group, version and kind.
type Kind = (String, String, String);

/// The kinds that a policy's rules name, with their types. Rules with wildcards name none.
// upstream: typesToCheck
fn kinds(spec: &Value, scheme: &Scheme) -> BTreeMap<Kind, Type> {
    let mut kinds = BTreeMap::new();
    for rule in spec.field("matchConstraints").items("resourceRules") {
        let sorted = |list: &str| rule.texts(list).collect::<BTreeSet<&str>>();
        let (groups, versions) = (sorted("apiGroups"), sorted("apiVersions"));
        if groups.iter().chain(&versions).any(|item| item.contains('*')) {
            continue;
        }
        let resources = sorted("resources").into_iter().filter(|name| !name.contains(['*', '/']));
        let named = resources.flat_map(|name| groups.iter().map(move |group| (*group, name)));
        let mut named: Vec<(&str, &str, &str)> =
            named.flat_map(|(group, name)| versions.iter().map(move |version| (group, *version, name))).collect();
        named.sort_unstable();
        let found = named.into_iter().flat_map(|(group, version, name)| resolve(scheme, group, version, name));
        let mut count = 0;
        for resource in found.take(MAX_TYPES) {
            count += 1;
            let kind = (resource.group.clone(), resource.version.clone(), resource.kind.clone());
            kinds.insert(kind, resource);
        }
        // A rule that names so many is the last one that counts.
        if count == MAX_TYPES {
            break;
        }
    }
    kinds.into_iter().filter_map(|(kind, resource)| Some((kind, types::of_resource(resource)?))).collect()
}

/// The resources that are called so: no group stands for any.
// upstream: apimachinery pkg/api/meta/restmapper.go, KindsFor
fn resolve<'a>(scheme: &'a Scheme, group: &'a str, version: &'a str, name: &str) -> Vec<&'a Resource> {
    let name = name.to_lowercase();
    let fits = |resource: &&Resource| {
        (group.is_empty() || resource.group == group)
            && resource.version == version
            && (resource.plural == name || resource.singular == name)
    };
    scheme.resources().map(|resource| &**resource).filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rule: (&[&str], &[&str], &[&str]), expressions: &[&str]) -> Value {
        let (groups, versions, resources) = rule;
        let validations: Vec<Value> = expressions.iter().map(|text| json!({"expression": text})).collect();
        json!({"matchConstraints": {"resourceRules": [{"apiGroups": groups, "apiVersions": versions, "resources": resources}]},
            "validations": validations})
    }

    fn warnings(spec: &Value) -> Vec<String> {
        let texts = check(spec, &Scheme::builtin());
        texts.iter().map(|warning| warning.text("warning").lines().next().unwrap_or_default().to_owned()).collect()
    }

    const DEPLOYMENTS: (&[&str], &[&str], &[&str]) = (&["apps"], &["v1"], &["deployments"]);

    #[test]
    fn kinds_are_found_by_the_names_that_a_rest_mapper_knows() {
        let named = |groups: &[&str], resources: &[&str]| -> Vec<String> {
            let kinds = kinds(&spec((groups, &["v1"], resources), &[]), &Scheme::builtin());
            kinds.into_keys().map(|(group, version, kind)| format!("{group}/{version} {kind}")).collect()
        };
        assert_eq!(named(&["apps"], &["deployment"]), ["apps/v1 Deployment"]);
        assert_eq!(named(&["apps"], &["Deployments", "deployments/scale"]), ["apps/v1 Deployment"]);
        assert_eq!(named(&[""], &["events"]), ["/v1 Event", "events.k8s.io/v1 Event"]);
        assert_eq!(named(&["*"], &["deployments"]), Vec::<String>::new());
        let all = [
            "pods",
            "services",
            "configmaps",
            "secrets",
            "nodes",
            "endpoints",
            "replicationcontrollers",
            "limitranges",
            "resourcequotas",
            "serviceaccounts",
            "namespaces",
            "events",
        ];
        assert_eq!(named(&[""], &all).len(), MAX_TYPES);
    }

    #[test]
    fn warnings_name_the_kind_and_the_place() {
        let found =
            check(&spec(DEPLOYMENTS, &["object.spec.replicas > 1", "object.spec.copies > 1"]), &Scheme::builtin());
        assert_eq!(
            found,
            [
                json!({"fieldRef": "spec.validations[1].expression", "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:12: \
                undefined field 'copies'\n | object.spec.copies > 1\n | ...........^\n"})
            ]
        );
    }

    #[test]
    fn types_are_those_of_the_published_schemas() {
        let undefined = |expression: &str| warnings(&spec((&[""], &["v1"], &["pods"]), &[expression]));
        // Quantities have no one type there, and so are not there at all.
        for (expression, field) in [
            ("object.spec.containers.all(c, has(c.resources.limits))", "limits"),
            ("object.metadata.managedFields[0].fieldsV1.x == 1", "x"),
            ("object.spec.overhead.size() > 0", "overhead"),
        ] {
            let found = undefined(expression);
            assert!(found[0].ends_with(&format!("undefined field '{field}'")), "{found:?}");
        }
        let good = "object.metadata.namespace == object.metadata.__namespace__ && object.spec.containers[0].ports[0].hostPort == 1 \
                    && object.metadata.creationTimestamp > timestamp('2024-01-01T00:00:00Z')";
        assert_eq!(undefined(good), Vec::<String>::new());
        let definitions: (&[&str], &[&str], &[&str]) =
            (&["apiextensions.k8s.io"], &["v1"], &["customresourcedefinitions"]);
        // A type inside itself is an object of which nothing is known.
        let deep = "object.spec.versions[0].schema.openAPIV3Schema.properties['a'].type == 'string'";
        assert!(warnings(&spec(definitions, &[deep]))[0].ends_with("undefined field 'type'"));
    }

    #[test]
    fn variables_keep_the_types_of_plain_values_and_parameters_those_of_their_kind() {
        let mut spec =
            spec(DEPLOYMENTS, &["variables.n == 'a'", "variables.spec.x == 1", "params.data.x == 1", "params.x == 1"]);
        spec["variables"] =
            json!([{"name": "n", "expression": "object.spec.replicas"}, {"name": "spec", "expression": "object.spec"}]);
        spec["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        let found = warnings(&spec);
        assert_eq!(found.len(), 3);
        assert!(found[0].ends_with("found no matching overload for '_==_' applied to '(int, string)'"), "{found:?}");
        assert!(found[1].ends_with("found no matching overload for '_==_' applied to '(string, int)'"), "{found:?}");
        assert!(found[2].ends_with("undefined field 'x'"), "{found:?}");
        spec["paramKind"] = json!({"apiVersion": "example.com/v1", "kind": "Unknown"});
        assert_eq!(warnings(&spec).len(), 1);
    }
}
