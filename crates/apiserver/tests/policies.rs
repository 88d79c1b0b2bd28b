//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy, as clients observe them.
#![allow(clippy::unwrap_used, reason = "test helpers")]
mod common;

use common::{Answer, Server};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn constraints(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v1"],
        "resources": [resource]}]})
}

async fn make(server: &Server, plural: &str, name: &str, spec: Value) {
    server.post(&format!("{GROUP}/{plural}"), &json!({"metadata": {"name": name}, "spec": spec})).await.ok();
}

/// Makes a validating policy with its binding.
async fn validating(server: &Server, spec: Value, binding: Value) {
    make(server, "validatingadmissionpolicies", "p", spec).await;
    make(server, "validatingadmissionpolicybindings", "b", binding).await;
}

/// The first answer that is as `wanted`, once the policies are in force.
async fn eventually(server: &Server, path: &str, object: &Value, wanted: impl Fn(&Answer) -> bool) -> Answer {
    loop {
        let answer = server.post(&format!("{path}?dryRun=All"), object).await;
        if wanted(&answer) {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validating_policy_denies_with_its_message() {
    let server = Server::admitting().await;
    let spec = json!({
        "matchConstraints": constraints("apps", "deployments"),
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "odd", "expression": "variables.replicas % 2 == 1"}],
        "validations": [
            {"expression": "variables.replicas > 1", "messageExpression": "'wants more than ' + string(variables.replicas)"},
            {"expression": "variables.odd", "message": "must be odd", "reason": "Forbidden"},
            {"expression": "namespaceObject.metadata.name == 'default'"},
            {"expression": "request.operation == 'CREATE' || oldObject.spec.replicas > 1"},
        ],
    });
    validating(&server, spec, json!({"policyName": "p", "validationActions": ["Deny"]})).await;
    let denied = eventually(&server, DEPLOYMENTS, &deployment("d", 1), |answer| answer.status != 201).await;
    let (code, reason, message) = denied.failure();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert_eq!(
        message,
        "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: wants more than 1"
    );
    let (code, reason, message) = server.post(DEPLOYMENTS, &deployment("d", 2)).await.failure();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert!(message.ends_with("denied request: must be odd"), "{message}");
    server.post(DEPLOYMENTS, &deployment("d", 3)).await.ok();
    server.post(MAPS, &json!({"metadata": {"name": "m"}})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_and_failures_follow_the_actions_and_the_failure_policy() {
    let server = Server::admitting().await;
    let spec = json!({"matchConstraints": constraints("", "configmaps"),
        "validations": [{"expression": "object.metadata.name != 'warn'"}]});
    validating(&server, spec, json!({"policyName": "p", "validationActions": ["Warn", "Audit"]})).await;
    let warned = |answer: &Answer| answer.headers.contains_key("warning");
    let answer = eventually(&server, MAPS, &json!({"metadata": {"name": "warn"}}), warned).await;
    let want = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: \
                object.metadata.name != 'warn'";
    assert!(answer.headers["warning"].to_str().unwrap().contains(want));
    let spec = |policy: &str| {
        json!({"matchConstraints": constraints("", "configmaps"), "failurePolicy": policy,
            "matchConditions": [{"name": "only", "expression": "object.metadata.name.startsWith('f')"}],
            "validations": [{"expression": "object.data.missing == 'x'"}]})
    };
    make(&server, "validatingadmissionpolicies", "strict", spec("Fail")).await;
    let binding = |policy: &str| json!({"policyName": policy, "validationActions": ["Deny"]});
    make(&server, "validatingadmissionpolicybindings", "strict", binding("strict")).await;
    let failed = eventually(&server, MAPS, &json!({"metadata": {"name": "f"}}), |answer| answer.status != 201).await;
    let want = "expression 'object.data.missing == 'x'' resulted in error: no such key: data";
    assert!(failed.failure().2.ends_with(want), "{}", failed.text);
    server.post(MAPS, &json!({"metadata": {"name": "other"}})).await.ok();
    server.delete(&format!("{GROUP}/validatingadmissionpolicybindings/strict")).await.ok();
    make(&server, "validatingadmissionpolicies", "lax", spec("Ignore")).await;
    make(&server, "validatingadmissionpolicybindings", "lax", binding("lax")).await;
    eventually(&server, MAPS, &json!({"metadata": {"name": "f"}}), |answer| answer.status == 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_come_from_an_object() {
    let server = Server::admitting().await;
    let spec = json!({"matchConstraints": constraints("apps", "deployments"),
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)"}]});
    let reference = json!({"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"});
    let binding = json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": reference});
    validating(&server, spec, binding).await;
    let answer = eventually(&server, DEPLOYMENTS, &deployment("d", 9), |answer| answer.status != 201).await;
    let want = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(answer.failure().2.ends_with(want), "{}", answer.text);
    server.post(MAPS, &json!({"metadata": {"name": "limits"}, "data": {"max": "5"}})).await.ok();
    let (_, _, message) = server.post(DEPLOYMENTS, &deployment("d", 9)).await.failure();
    assert!(message.ends_with("failed expression: object.spec.replicas <= int(params.data.max)"), "{message}");
    server.post(DEPLOYMENTS, &deployment("d", 5)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_policies_apply_and_patch() {
    let server = Server::admitting().await;
    let apply = "Object{metadata: Object.metadata{annotations: {'by': 'policy'}}, spec: Object.spec{replicas: 7}}";
    let patch = "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'n': string(object.spec.replicas)}}]";
    let spec = json!({"matchConstraints": constraints("apps", "deployments"), "reinvocationPolicy": "Never",
    "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}},
    ]});
    make(&server, "mutatingadmissionpolicies", "p", spec).await;
    make(&server, "mutatingadmissionpolicybindings", "b", json!({"policyName": "p"})).await;
    let mutated = |answer: &Answer| answer.json()["spec"]["replicas"] == 7;
    let made = eventually(&server, DEPLOYMENTS, &deployment("d", 1), mutated).await.ok();
    assert_eq!(made["metadata"]["annotations"]["by"], "policy");
    assert_eq!(made["metadata"]["labels"], json!({"n": "7"}));
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["name"], "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_fails_refuses_the_write() {
    let server = Server::admitting().await;
    let expression = "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'x': 'y'}}}}";
    let spec = json!({"matchConstraints": constraints("apps", "deployments"), "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    make(&server, "mutatingadmissionpolicies", "p", spec).await;
    make(&server, "mutatingadmissionpolicybindings", "b", json!({"policyName": "p"})).await;
    let answer = eventually(&server, DEPLOYMENTS, &deployment("d", 1), |answer| answer.status != 201).await;
    assert_eq!(
        answer.failure().2,
        "policy 'p' with binding 'b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate \
         atomic arrays, maps or structs: .spec.selector"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_make_no_sense_are_refused() {
    let server = Server::admitting().await;
    let policy = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let (_, _, message) = server.post(&path, &policy(json!({}))).await.failure();
    for want in [
        "spec.matchConstraints: Required value",
        "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
    ] {
        assert!(message.contains(want), "{message}");
    }
    let spec = json!({"matchConstraints": constraints("", "pods"),
        "validations": [{"expression": "object.spec.x"}, {"expression": "nothing"}]});
    let (_, _, message) = server.post(&path, &policy(spec)).await.failure();
    for want in [
        "spec.validations[0].expression: Invalid value: \"object.spec.x\": must evaluate to bool but got dyn",
        "compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')",
    ] {
        assert!(message.contains(want), "{message}");
    }
    let path = format!("{GROUP}/validatingadmissionpolicybindings");
    let (_, _, message) = server.post(&path, &policy(json!({"policyName": "p"}))).await.failure();
    assert!(message.contains("spec.validationActions: Required value: at least one validation action is required"));
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_are_checked_against_the_types_of_what_they_match() {
    let server = Server::admitting().await;
    let validations = json!([
        {"expression": "object.spec.replicas > 1"},
        {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + object.spec.replicas"},
    ]);
    let spec = json!({"matchConstraints": constraints("apps", "deployments"), "validations": validations});
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let created = server.post(&path, &json!({"metadata": {"name": "p"}, "spec": spec})).await.ok();
    let version = created["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = common::Events::open(&server, &format!("{path}?watch=true&resourceVersion={version}")).await;
    let policy = events.next().await.unwrap()["object"].clone();
    assert_eq!(policy["status"]["observedGeneration"], 1);
    let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
    assert_eq!(warnings.as_array().unwrap().len(), 2);
    for (warning, place, want) in [
        (&warnings[0], "expression", "'_>_' applied to '(int, string)'"),
        (&warnings[1], "messageExpression", "'_+_' applied to '(string, int)'"),
    ] {
        assert_eq!(warning["fieldRef"], format!("spec.validations[1].{place}"));
        let text = warning["warning"].as_str().unwrap();
        assert!(text.starts_with("apps/v1, Kind=Deployment: "), "{text}");
        assert!(text.contains(&format!("found no matching overload for {want}")), "{text}");
    }
}
