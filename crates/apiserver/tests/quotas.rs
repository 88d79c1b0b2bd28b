//! Quotas charge what is created.
#![allow(clippy::unwrap_used, reason = "test helpers")]
mod common;

use common::Server;
use serde_json::{Value, json};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Makes a quota with this status, and waits until admission knows it: what `hard` limits and `used` lacks cannot be made.
async fn quota(server: &Server, hard: &Value, used: &Value) {
    let mut created = server.post(QUOTAS, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await.ok();
    created["status"] = json!({"hard": hard, "used": used});
    server.put(&format!("{QUOTAS}/q/status"), &created).await.ok();
    loop {
        let answer = server.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": "probe"}})).await;
        if answer.status == 403 {
            assert!(
                answer.text.contains("configmaps \\\"probe\\\" is forbidden: status unknown for quota: q, resources: ")
            );
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn count(server: &Server, used: &Value) {
    let mut known = server.get(&format!("{QUOTAS}/q")).await.ok();
    known["status"]["used"] = used.clone();
    server.put(&format!("{QUOTAS}/q/status"), &known).await.ok();
}

async fn used(server: &Server) -> Value {
    server.get(&format!("{QUOTAS}/q")).await.ok()["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_counted_until_the_quota_is_full() {
    let server = Server::admitting().await;
    quota(&server, &json!({"count/configmaps": "2", "configmaps": "5"}), &json!({})).await;
    count(&server, &json!({"count/configmaps": "0", "configmaps": "0"})).await;
    for name in ["a", "b"] {
        server.post(MAPS, &json!({"metadata": {"name": name}})).await.ok();
    }
    assert_eq!(used(&server).await, json!({"count/configmaps": "2", "configmaps": "2"}));
    server.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": "c"}})).await.failure();
    let (code, reason, message) = server.post(MAPS, &json!({"metadata": {"name": "c"}})).await.failure();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "configmaps \"c\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2, \
         limited: count/configmaps=2"
    );
    assert_eq!(used(&server).await, json!({"count/configmaps": "2", "configmaps": "2"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_charged_for_what_changes() {
    let server = Server::admitting().await;
    let hard = json!({"services": "2", "services.nodeports": "1", "count/configmaps": "9"});
    quota(&server, &hard, &json!({"services": "0", "services.nodeports": "0"})).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let mut created = server.post(services, &service).await.ok();
    assert_eq!(used(&server).await, json!({"services": "1", "services.nodeports": "0"}));
    created["spec"]["ports"] = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    created["spec"]["type"] = json!("NodePort");
    let (_, _, message) = server.put(&format!("{services}/s"), &created).await.failure();
    let want = "services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: \
                services.nodeports=0, limited: services.nodeports=1";
    assert_eq!(message, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_are_all_charged() {
    let server = Server::admitting().await;
    quota(&server, &json!({"count/configmaps": "10"}), &json!({})).await;
    count(&server, &json!({"count/configmaps": "0"})).await;
    let names: Vec<String> = (0..16).map(|i| format!("m{i}")).collect();
    let objects: Vec<Value> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
    let answers = futures::future::join_all(objects.iter().map(|object| server.post(MAPS, object))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 10);
    assert_eq!(used(&server).await, json!({"count/configmaps": "10"}));
}
