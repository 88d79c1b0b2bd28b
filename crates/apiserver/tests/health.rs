//! A server that is about to end says so while it still answers, and counts what it stores.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;

use common::Server;
use serde_json::json;

#[tokio::test]
async fn a_draining_server_is_alive_but_not_ready_and_answers() {
    let server = Server::start();
    assert_eq!(server.get("/readyz").await.status, 200);
    server.api.drain();
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 500);
    assert!(ready.text.ends_with("[-]shutdown failed: reason withheld\nreadyz check failed\n"), "{}", ready.text);
    assert_eq!(server.get("/livez").await.status, 200);
    server.post("/api/v1/namespaces", &json!({"metadata": {"name": "late"}})).await.ok();
}

#[tokio::test]
async fn the_metrics_count_what_is_stored() {
    let server = Server::start();
    for name in ["a", "b"] {
        server.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await.ok();
    }
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("apiserver_storage_objects{resource=\"namespaces\"} 2\n"), "{metrics}");
    assert!(metrics.contains("apiserver_resource_objects{group=\"apps\",resource=\"deployments\"} 0\n"), "{metrics}");
    assert!(metrics.contains("kubernetes_build_info{"), "{metrics}");
}
