//! What writers of ResourceClaims need besides the rights on the claims.
#![allow(clippy::unwrap_used, reason = "test helpers")]
mod common;

use common::Server;
use serde_json::{Value, json};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";

fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [
        {"name": "a", "exactly": {"deviceClassName": "c", "adminAccess": true}}]}}})
}

#[tokio::test]
async fn access_for_administrators_needs_a_label_on_the_namespace() {
    let server = Server::admitting().await;
    let (code, reason, message) = server.post(CLAIMS, &claim("x")).await.failure();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    let why = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the \
               `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    assert!(message.contains(why), "{message}");

    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    server.merge("/api/v1/namespaces/default", &label).await.ok();
    server.post(CLAIMS, &claim("x")).await.ok();
}

#[tokio::test]
async fn an_allocation_with_access_for_administrators_needs_the_label_too() {
    let server = Server::admitting().await;
    let label = |value: Value| json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": value}}});
    server.merge("/api/v1/namespaces/default", &label(json!("true"))).await.ok();
    server.post(CLAIMS, &claim("x")).await.ok();
    server.merge("/api/v1/namespaces/default", &label(Value::Null)).await.ok();
    let result = json!({"request": "a", "driver": "d.io", "pool": "p", "device": "d", "adminAccess": true});
    let status = json!({"status": {"allocation": {"devices": {"results": [result]}}}});
    let (code, _, message) = server.merge(&format!("{CLAIMS}/x/status"), &status).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("status.allocation.devices.results[0].adminAccess: Forbidden"), "{message}");
}
