//! Evictions through the API: budgets grant and refuse them, dry runs change nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;

use common::Server;
use pintle_apiserver::special::{Specials, register_kinds};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

struct Cluster(Server);

impl Cluster {
    async fn start() -> Self {
        let mut specials = Specials::default();
        register_kinds(&mut specials);
        let server = Server::with_specials(specials);
        server.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.ok();
        Cluster(server)
    }

    async fn pod(&self, name: &str, phase: &str, ready: bool) {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        self.0.post(PODS, &pod).await.ok();
        let status = json!({"status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        self.0.merge(&format!("{PODS}/{name}/status"), &status).await.ok();
    }

    async fn budget(&self, extra: Value, status: Value) {
        let mut spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.0.post(BUDGETS, &json!({"metadata": {"name": "b"}, "spec": spec})).await.ok();
        self.0.merge(&format!("{BUDGETS}/b/status"), &json!({"status": status})).await.ok();
    }

    async fn evict(&self, name: &str, query: &str) -> (u16, Value) {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let answer = self.0.post(&format!("{PODS}/{name}/eviction{query}"), &eviction).await;
        (answer.status.as_u16(), answer.json())
    }

    async fn read(&self, path: &str) -> Value {
        self.0.get(path).await.json()
    }
}

fn granted(count: i32) -> Value {
    json!({"observedGeneration": 1, "disruptionsAllowed": count, "currentHealthy": 1 + count, "desiredHealthy": 1, "expectedPods": 2})
}

#[tokio::test]
async fn a_budget_grants_what_it_allows_and_refuses_the_rest() {
    let cluster = Cluster::start().await;
    cluster.pod("a", "Running", true).await;
    cluster.pod("b", "Running", true).await;
    cluster.budget(json!({}), granted(1)).await;
    assert_eq!(cluster.evict("a", "?dryRun=All").await.0, 201);
    let untouched = cluster.read(&format!("{BUDGETS}/b")).await;
    assert_eq!(untouched["status"]["disruptionsAllowed"], 1, "a dry run takes nothing");
    assert_eq!(cluster.evict("a", "").await.0, 201);
    let pod = cluster.read(&format!("{PODS}/a")).await;
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI"));
    let (code, refusal) = cluster.evict("b", "").await;
    assert_eq!((code, refusal["reason"].as_str()), (429, Some("TooManyRequests")));
    assert_eq!(refusal["details"]["causes"][0]["reason"], "DisruptionBudget");
}

#[tokio::test]
async fn unready_pods_go_if_enough_others_are_healthy_or_the_policy_says_so() {
    let cluster = Cluster::start().await;
    cluster.pod("a", "Running", false).await;
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 1, "expectedPods": 1});
    cluster.budget(json!({}), status.clone()).await;
    assert_eq!(cluster.evict("a", "").await.0, 429);
    cluster.0.delete(&format!("{BUDGETS}/b")).await.ok();
    cluster.budget(json!({"unhealthyPodEvictionPolicy": "AlwaysAllow"}), status).await;
    assert_eq!(cluster.evict("a", "").await.0, 201);
    assert_eq!(cluster.read(&format!("{BUDGETS}/b")).await["status"]["disruptionsAllowed"], 0);
}

#[tokio::test]
async fn pods_that_have_not_begun_need_no_budget_and_the_names_must_agree() {
    let cluster = Cluster::start().await;
    cluster.pod("a", "Pending", false).await;
    cluster.budget(json!({}), granted(0)).await;
    let unnamed = cluster.0.post(&format!("{PODS}/a/eviction"), &json!({"metadata": {"name": "z"}})).await;
    assert_eq!(unnamed.failure().2, "name in URL does not match name in Eviction object");
    assert_eq!(cluster.evict("a", "").await.0, 201);
}
