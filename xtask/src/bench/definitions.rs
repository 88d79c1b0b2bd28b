//! How long 1,000 CustomResourceDefinitions take until all are served, and what they cost in memory.
use super::process::{named, usage};
use super::{Bench, heading};
use crate::cluster::{client_of, run};
use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MANY: usize = 1000;
/// How many are created at the same time.
const WORKERS: usize = 16;
/// Pause before discovery is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Measures both servers and prints the figures.
pub fn measure(bench: &Bench) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = bench.cluster()?;
    cluster.up()?;
    let ours = runtime.block_on(install(&cluster.kubeconfig(), &[cluster.pid()?]))?;
    let script = bench.upstream.join("apiserver.sh");
    let started = run(Command::new(&script).arg("start"))?;
    let config = started.lines().find_map(|line| line.strip_prefix("kubeconfig: "));
    let pids = [named("kube-apiserver")?, named("etcd")?].concat();
    let theirs = config
        .context("apiserver.sh prints a kubeconfig")
        .and_then(|config| runtime.block_on(install(Path::new(config.trim()), &pids)));
    run(Command::new(&script).arg("stop"))?;
    let theirs = theirs?;
    heading(&format!("{MANY} CustomResourceDefinitions"), &["figure", "Pintle", "upstream", "ratio"]);
    let row =
        |what: &str, ours: f64, theirs: f64| println!("| {what} | {ours:.1} | {theirs:.1} | {:.2} |", ours / theirs);
    row("until all are established and in discovery (s)", ours.seconds, theirs.seconds);
    row("memory before (MiB PSS)", ours.before, theirs.before);
    row("memory after (MiB PSS)", ours.after, theirs.after);
    Ok(())
}

struct Figures {
    seconds: f64,
    before: f64,
    after: f64,
}

async fn install(kubeconfig: &Path, pids: &[i32]) -> Result<Figures> {
    let mib = |pids| Ok::<_, anyhow::Error>(usage(pids)?.pss_kib as f64 / 1024.0);
    let client = client_of(kubeconfig).await?;
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let before = mib(pids)?;
    let begin = Instant::now();
    let creations = (0..MANY).map(|n| {
        let api = &api;
        async move { api.create(&PostParams::default(), &definition(n)?).await.map_err(anyhow::Error::from) }
    });
    let mut creations = futures::stream::iter(creations).buffer_unordered(WORKERS);
    while let Some(created) = creations.next().await {
        created?;
    }
    // Discovery tells of those that are established, and only of them.
    while client.list_api_group_resources("bench.example.com/v1").await?.resources.len() < 2 * MANY {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Figures { seconds, before, after: mib(pids)? })
}

/// A definition of ordinary size: some fields of each type, a status and a column.
fn definition(n: usize) -> Result<CustomResourceDefinition> {
    let plural = format!("things{n}");
    let text = json!({"type": "string", "description": "A text that says what this field is for, as most fields have.", "maxLength": 100});
    let item = json!({"type": "object", "required": ["name"], "properties": {"name": text, "weight": {"type": "integer", "default": 1}, "labels": {"type": "object", "additionalProperties": text}}});
    let spec = json!({"type": "object", "properties": {"a": text, "b": text, "c": text, "d": {"type": "integer", "minimum": 0}, "e": {"type": "boolean", "default": true},
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": item}, "nested": item}});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("{plural}.bench.example.com")},
        "spec": {
            "group": "bench.example.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": format!("thing{n}"), "kind": format!("Thing{n}"), "listKind": format!("Thing{n}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".spec.a"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]
        }
    }))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_differ_in_their_names() {
        let name = |n| definition(n).expect("a definition").metadata.name;
        assert_ne!(name(1), name(2));
    }
}
