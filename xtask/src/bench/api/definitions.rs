//! 1,000 CustomResourceDefinitions: the time until the last is established, and the memory then.
use super::{Server, Target, judge};
use crate::bench::heading;
use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Instant;

const DEFINITIONS: usize = 1000;
const WORKERS: usize = 16;

/// Measures and prints.
pub fn measure(ours: &Server, theirs: &Server) -> Result<()> {
    heading(
        &format!("{DEFINITIONS} CustomResourceDefinitions"),
        &["server", "all established after s", "memory before", "with them, MiB PSS"],
    );
    let mut verdicts = Vec::new();
    for (name, server) in [("upstream", theirs), ("Pintle", ours)] {
        let before = server.memory()?;
        let seconds = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(install(server))?;
        let after = server.memory()?;
        println!("| {name} | {seconds:.1} | {before:.0} | {after:.0} |");
        verdicts = vec![
            ("seconds until all are established", seconds, Target::AtMost(10.0)),
            ("memory that they add, MiB", after - before, Target::AtMost(300.0)),
        ];
    }
    judge(&verdicts);
    Ok(())
}

/// Creates them and waits until each is established; the seconds from the first POST.
async fn install(server: &Server) -> Result<f64> {
    let definitions = Api::<CustomResourceDefinition>::all(server.client().await?);
    let begin = Instant::now();
    let posts = futures::stream::iter(0..DEFINITIONS).map(|n| {
        let definitions = definitions.clone();
        async move {
            definitions.create(&PostParams::default(), &serde_json::from_value(definition(n))?).await?;
            anyhow::Ok(())
        }
    });
    let posted = posts.buffer_unordered(WORKERS).try_collect::<()>();
    futures::try_join!(posted, established(&definitions))?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Waits until all are established; a watch that the server ends, as it may at any time, is begun again from a list.
async fn established(definitions: &Api<CustomResourceDefinition>) -> Result<()> {
    let is_established = |definition: &CustomResourceDefinition| {
        let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Established" && c.status == "True")
    };
    loop {
        let list = definitions.list(&ListParams::default()).await?;
        let known = list.items.into_iter().filter(is_established);
        let mut established: HashSet<String> = known.filter_map(|definition| definition.metadata.name).collect();
        let version = list.metadata.resource_version.unwrap_or_default();
        let mut events = definitions.watch(&WatchParams::default(), &version).await?.boxed();
        while established.len() < DEFINITIONS {
            match events.next().await {
                Some(Ok(WatchEvent::Added(definition) | WatchEvent::Modified(definition))) => {
                    if is_established(&definition) {
                        established.extend(definition.metadata.name);
                    }
                }
                Some(Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_))) => {}
                Some(Ok(WatchEvent::Error(_)) | Err(_)) | None => break,
            }
        }
        if established.len() >= DEFINITIONS {
            return Ok(());
        }
    }
}

/// A definition of ordinary size: some dozens of fields, a rule, a default, columns and both subresources.
fn definition(n: usize) -> Value {
    let text = json!({ "type": "string", "description": "What the field means, in a sentence of ordinary length.", "maxLength": 253 });
    let group: serde_json::Map<String, Value> = (0..12).map(|n| (format!("field{n}"), text.clone())).collect();
    let group = json!({ "type": "object", "properties": group });
    let (plural, kind) = (format!("benches{n}"), format!("Bench{n}"));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.group{}.example.com", n % 50) },
        "spec": {
            "group": format!("group{}.example.com", n % 50), "scope": "Namespaced",
            "names": { "plural": plural, "singular": format!("bench{n}"), "kind": kind, "listKind": format!("{kind}List") },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {
                    "status": {}, "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas" }
                },
                "additionalPrinterColumns": [{ "name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas" }],
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": {
                        "type": "object",
                        "properties": {
                            "replicas": { "type": "integer", "minimum": 0, "maximum": 100, "default": 1 },
                            "template": group,
                            "others": { "type": "array", "maxItems": 16, "items": group }
                        },
                        "x-kubernetes-validations": [{ "rule": "self.replicas < 100", "message": "too many" }]
                    },
                    "status": { "type": "object", "properties": { "replicas": { "type": "integer" }, "state": group } }
                } } }
            }]
        }
    })
}
