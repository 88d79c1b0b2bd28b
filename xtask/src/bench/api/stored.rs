//! Memory with 100,000 stored pods.
use super::{Server, Target, judge};
use crate::bench::heading;
use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::time::Instant;

const PODS: usize = 100_000;
const WORKERS: usize = 32;

/// Measures and prints.
pub fn measure(ours: &Server, theirs: &Server) -> Result<()> {
    heading(&format!("{PODS} stored pods"), &["server", "created in s", "memory before", "with them, MiB PSS"]);
    let mut memory = Vec::new();
    for (name, server) in [("Pintle", ours), ("upstream", theirs)] {
        let (before, begin) = (server.memory()?, Instant::now());
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(fill(server))?;
        let (seconds, after) = (begin.elapsed().as_secs_f64(), server.memory()?);
        println!("| {name} | {seconds:.0} | {before:.0} | {after:.0} |");
        memory.push(after);
    }
    judge(&[("memory, ratio", memory[0] / memory[1], Target::AtMost(0.25))]);
    Ok(())
}

async fn fill(server: &Server) -> Result<()> {
    let client = server.client().await?;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    match post(&client, "/api/v1/namespaces/default/serviceaccounts", &account).await {
        Ok(()) => {}
        // A controller made it.
        Err(error) if matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409) => {}
        Err(error) => return Err(error),
    }
    let posts = futures::stream::iter(0..PODS).map(|n| {
        let client = client.clone();
        async move { post(&client, "/api/v1/namespaces/default/pods", &pod(n)).await }
    });
    posts.buffer_unordered(WORKERS).try_collect().await
}

async fn post(client: &kube::Client, path: &str, object: &Value) -> Result<()> {
    let request = http::Request::post(path).header("content-type", "application/json");
    client.request_text(request.body(serde_json::to_vec(object)?)?).await?;
    Ok(())
}

/// A pod of ordinary size that no scheduler takes up.
fn pod(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("stored-{n:06}"),
            "labels": { "app": format!("app-{}", n % 100), "tier": "backend", "release": "stable" }
        },
        "spec": {
            "schedulingGates": [{ "name": "example.com/bench" }],
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": "example.com/team/service:1.2.3", "args": ["--listen=:8080", "--log-level=info"],
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "env": [{ "name": "MODE", "value": "production" }, { "name": "REGION", "value": "north" }]
            }]
        }
    })
}
