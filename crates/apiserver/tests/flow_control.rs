//! API priority and fairness as clients see it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod common;

use bytes::Bytes;
use common::{Events, Server};
use http_body_util::{BodyExt, Full};
use pintle_api::user::UserInfo;
use pintle_apiserver::body::Body;
use serde_json::{Value, json};
use tower::Service;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

fn schema(name: &str, level: &str) -> Value {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "eve"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
    });
    json!({
        "metadata": {"name": name},
        "spec": {"matchingPrecedence": 2, "priorityLevelConfiguration": {"name": level}, "rules": [rule]},
    })
}

/// What somebody is answered who is not exempt.
async fn as_eve(server: &Server) -> http::Response<Body> {
    let request = http::Request::get("/api/v1/namespaces/default").body(Full::<Bytes>::default()).unwrap();
    server.api.service(UserInfo::new("eve", &[])).call(request).await.unwrap()
}

/// The condition `Dangling` of a schema, as soon as it has one that says `status`.
async fn dangling(server: &Server, name: &str, status: &str) -> Value {
    let uri = format!("{SCHEMAS}?watch=1&fieldSelector=metadata.name%3D{name}");
    let mut events = Events::open(server, &uri).await;
    loop {
        let event = events.next().await.expect("the watch goes on");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(found) = conditions.into_iter().find(|held| held["type"] == "Dangling" && held["status"] == status)
        {
            return found;
        }
    }
}

#[tokio::test]
async fn answers_name_the_schema_and_level_that_they_were_classified_by() {
    let server = Server::flow_controlled(600).await;
    let limited = json!({"nominalConcurrencyShares": 10, "limitResponse": {"type": "Reject"}});
    let level = json!({"metadata": {"name": "mine"}, "spec": {"type": "Limited", "limited": limited}});
    let before = server.post(SCHEMAS, &schema("mine", "mine")).await.ok();
    let told = dangling(&server, "mine", "True").await;
    assert_eq!(told["reason"], "NotFound");
    let level = server.post(LEVELS, &level).await.ok();
    let told = dangling(&server, "mine", "False").await;
    assert_eq!(
        told["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"mine\" and it exists"
    );
    let answer = as_eve(&server).await;
    assert_eq!(answer.headers()["x-kubernetes-pf-flowschema-uid"], before["metadata"]["uid"].as_str().unwrap());
    assert_eq!(answer.headers()["x-kubernetes-pf-prioritylevel-uid"], level["metadata"]["uid"].as_str().unwrap());
    let object = server.get(&format!("{SCHEMAS}/mine")).await.ok();
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    let writer = managers.iter().find(|held| held["subresource"] == "status").unwrap();
    assert_eq!(writer["manager"], "api-priority-and-fairness-config-consumer-v1");
    assert_eq!(writer["operation"], "Apply");
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"mine\"}"), "{metrics}");
    let table = server.get("/debug/api_priority_and_fairness/dump_priority_levels").await.text;
    assert!(table.starts_with("PriorityLevelName,") && table.contains("\nmine,"), "{table}");
    assert_eq!(server.get("/debug/api_priority_and_fairness/dump_nothing").await.status, 404);
}

#[tokio::test]
async fn a_level_without_seats_and_queues_turns_away() {
    let server = Server::flow_controlled(0).await;
    let limited = json!({"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}});
    let level = json!({"metadata": {"name": "none"}, "spec": {"type": "Limited", "limited": limited}});
    server.post(LEVELS, &level).await.ok();
    server.post(SCHEMAS, &schema("none", "none")).await.ok();
    // Until the schema counts, requests are let in.
    let answer = loop {
        let answer = as_eve(&server).await;
        if !answer.status().is_success() {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(answer.headers().contains_key("x-kubernetes-pf-flowschema-uid"));
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
}
