//! `metadata.managedFields` through all the ways in which an object can be written.
mod common;
use common::{Answer, Server};
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(replicas: i64) -> Value {
    let labels = json!({"app": "a"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// Manager, operation, subresource and fields of each entry.
fn managers(object: &Value) -> Vec<(String, String, String, Value)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.map(|e| (text(e, "manager"), text(e, "operation"), text(e, "subresource"), e["fieldsV1"].clone())).collect()
}

async fn apply(server: &Server, uri: &str, config: &Value) -> Answer {
    server.call("PATCH", uri, &[("content-type", "application/apply-patch+yaml")], config.to_string()).await
}

#[tokio::test]
async fn whoever_creates_owns_the_fields_and_their_defaults() {
    let server = Server::start();
    let agent = [("user-agent", "kubectl/v1.36.3 (linux/amd64)")];
    let config = json!({"metadata": {"name": "c", "labels": {"a": "b"}}, "data": {"k": "v"}});
    let uri = "/api/v1/namespaces/default/configmaps";
    let created = server.call("POST", uri, &agent, config.to_string()).await.ok();
    let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:data": {".": {}, "f:k": {}}});
    assert_eq!(managers(&created), [("kubectl".into(), "Update".into(), String::new(), fields)]);
    let stored = server.get(&format!("{uri}/c")).await.ok();
    assert_eq!(stored, created);
    let created = server.post(&format!("{DEPLOYMENTS}?fieldManager=me"), &deployment(1)).await.ok();
    let (manager, _, _, fields) = &managers(&created)[0];
    assert_eq!((manager.as_str(), &fields["f:spec"]["f:revisionHistoryLimit"]), ("me", &json!({})));
    assert_eq!(fields.get("f:status"), None);
}

#[tokio::test]
async fn a_status_is_owned_through_its_subresource() {
    let server = Server::start();
    server.post(&format!("{DEPLOYMENTS}?fieldManager=me"), &deployment(1)).await.ok();
    let patch = json!({"spec": {"replicas": 7}, "status": {"replicas": 1, "observedGeneration": 1}});
    let patched = server.merge(&format!("{DEPLOYMENTS}/d/status?fieldManager=c"), &patch).await.ok();
    assert_eq!(patched["spec"]["replicas"], 1);
    let fields = json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}});
    let own = managers(&patched).into_iter().find(|m| m.0 == "c").unwrap();
    assert_eq!(own, ("c".into(), "Update".into(), "status".into(), fields));
    let mut sent = patched.clone();
    sent["status"]["replicas"] = json!(9);
    let updated = server.put(&format!("{DEPLOYMENTS}/d?fieldManager=x"), &sent).await.ok();
    assert_eq!(updated, patched);
}

#[tokio::test]
async fn what_changes_nothing_is_not_written() {
    let server = Server::start();
    let uri = format!("{DEPLOYMENTS}/d?fieldManager=me");
    let applied = apply(&server, &uri, &deployment(1)).await.ok();
    assert_eq!(managers(&applied)[0].1, "Apply");
    assert_eq!(apply(&server, &uri, &deployment(1)).await.ok(), applied);
    assert_eq!(server.put(&uri, &deployment(1)).await.ok(), applied);
    assert_eq!(server.merge(&uri, &json!({"spec": {"replicas": 1}})).await.ok(), applied);
    let dry = apply(&server, &format!("{uri}&dryRun=All"), &deployment(2)).await.ok();
    assert_eq!(dry["spec"]["replicas"], 2);
    assert_eq!(server.get(&format!("{DEPLOYMENTS}/d")).await.ok(), applied);
}

#[tokio::test]
async fn scaling_takes_the_replicas_over() {
    let server = Server::start();
    apply(&server, &format!("{DEPLOYMENTS}/d?fieldManager=me"), &deployment(1)).await.ok();
    let scale = format!("{DEPLOYMENTS}/d/scale");
    let scaled = server.merge(&format!("{scale}?fieldManager=hpa"), &json!({"spec": {"replicas": 3}})).await.ok();
    assert_eq!((&scaled["spec"]["replicas"], scaled["metadata"].get("managedFields")), (&json!(3), None));
    let now = server.get(&format!("{DEPLOYMENTS}/d")).await.ok();
    let owners = managers(&now);
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    assert_eq!(owners[1], ("hpa".into(), "Update".into(), "scale".into(), replicas));
    assert_eq!(owners[0].3["f:spec"].get("f:replicas"), None);
    let refused = apply(&server, &format!("{DEPLOYMENTS}/d?fieldManager=me"), &deployment(2)).await.failure();
    let text =
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert_eq!(refused, (409, "Conflict".into(), text.into()));
    let config =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 4}});
    let forced = apply(&server, &format!("{scale}?fieldManager=you&force=true"), &config).await.ok();
    assert_eq!(forced["spec"]["replicas"], 4);
}

#[tokio::test]
async fn managers_can_be_forgotten() {
    let server = Server::start();
    let uri = format!("{DEPLOYMENTS}/d");
    let created = server.post(DEPLOYMENTS, &deployment(1)).await.ok();
    assert_eq!(managers(&created).len(), 1);
    let forgotten = server.merge(&uri, &json!({"metadata": {"managedFields": [{}]}})).await.ok();
    assert_eq!(forgotten["metadata"].get("managedFields"), None);
    let updated = server.merge(&uri, &json!({"spec": {"replicas": 2}})).await.ok();
    assert_eq!(updated["metadata"].get("managedFields"), None);
    let applied = apply(&server, &format!("{uri}?fieldManager=me"), &deployment(2)).await.ok();
    let names: Vec<String> = managers(&applied).into_iter().map(|m| m.0).collect();
    assert_eq!(names, ["me", "before-first-apply"]);
}

#[tokio::test]
async fn an_applied_configuration_is_checked() {
    let server = Server::start();
    let uri = format!("{DEPLOYMENTS}/d?fieldManager=me");
    let mut config = deployment(1);
    config["spec"]["foo"] = json!(1);
    let (code, _, message) = apply(&server, &uri, &config).await.failure();
    let text =
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema";
    assert_eq!((code, message.as_str()), (500, text));
    let (code, _, message) = apply(&server, &uri, &json!({"kind": "Deployment", "apiVersion": "v1"})).await.failure();
    assert_eq!((code, message.as_str()), (400, "invalid object type: /v1, Kind=Deployment"));
}

#[tokio::test]
async fn owners_are_found_in_every_version_of_a_kind() {
    let server = Server::start();
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h");
    let config = |version: &str, spec: Value| {
        let mut config = json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "maxReplicas": 3}});
        pintle_api::patch::merge_patch(&mut config, json!({"spec": spec}));
        config
    };
    let one = config("v1", json!({"targetCPUUtilizationPercentage": 50, "minReplicas": 2}));
    apply(&server, &format!("{}?fieldManager=one", path("v1")), &one).await.ok();
    let two = config("v2", json!({"minReplicas": 3}));
    let refused = apply(&server, &format!("{}?fieldManager=two", path("v2")), &two).await.failure();
    assert_eq!(refused.2, "Apply failed with 1 conflict: conflict with \"one\": .spec.minReplicas");
    let forced = apply(&server, &format!("{}?fieldManager=two&force=true", path("v2")), &two).await.ok();
    let versions: Vec<&str> = forced["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["apiVersion"].as_str())
        .collect();
    assert_eq!(versions, ["autoscaling/v1", "autoscaling/v2"]);
    let less = config("v2", json!({}));
    let left = apply(&server, &format!("{}?fieldManager=two", path("v2")), &less).await.ok();
    assert_eq!(left["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}
