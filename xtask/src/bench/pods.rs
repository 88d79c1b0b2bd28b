//! From POST to Running: one pod at a time, fifty at once, and what each running pod costs.
use super::process::{named, usage};
use super::{Bench, Spread, heading};
use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use std::collections::HashSet;
use std::time::Instant;

const IMAGE: &str = "pintle.dev/bench/busybox:1";
const SINGLE: usize = 20;
const MANY: usize = 50;

/// Measures pod starts and memory per pod on Pintle.
pub fn run_subject(bench: &Bench) -> Result<()> {
    let cluster = bench.cluster()?;
    cluster.up()?;
    cluster.load_busybox(IMAGE, &["sleep"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pods = Api::<Pod>::namespaced(cluster.client().await?, "default");
        let mut single = Vec::new();
        for n in 0..=SINGLE {
            let elapsed = start(&pods, &[format!("single-{n}")]).await?;
            if n > 0 {
                single.push(elapsed);
            }
        }
        let before = pintle_pss()?;
        let names: Vec<String> = (0..MANY).map(|n| format!("many-{n}")).collect();
        let many = start(&pods, &names).await?;
        let per_pod = (pintle_pss()? - before) as f64 / 1024.0 / MANY as f64;
        heading("Pods", &["figure", "Pintle"]);
        println!("| POST to Running, one pod (ms) | {} |", Spread::of(single)?);
        println!("| {MANY} pods at once, all Running (ms) | {many:.0} |");
        println!("| memory per running pod (MiB PSS, all of Pintle's growth) | {per_pod:.2} |");
        pods.delete_collection(
            &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() },
            &ListParams::default(),
        )
        .await?;
        anyhow::Ok(())
    })
}

fn pintle_pss() -> Result<u64> {
    Ok(usage(&named("pintle")?)?.pss_kib)
}

/// Creates pods and waits until all run; the milliseconds from the first POST.
async fn start(pods: &Api<Pod>, names: &[String]) -> Result<f64> {
    let version = pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let mut events = pods.watch(&WatchParams::default(), &version).await?.boxed();
    let mut waiting: HashSet<&str> = names.iter().map(String::as_str).collect();
    let begin = Instant::now();
    let create = async {
        let creations = names.iter().map(|name| async move {
            let pod = serde_json::from_value(serde_json::json!({
                "metadata": { "name": name },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{ "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"] }]
                }
            }))?;
            pods.create(&PostParams::default(), &pod).await?;
            anyhow::Ok(())
        });
        futures::future::try_join_all(creations).await.map(drop)
    };
    let wait = async {
        while !waiting.is_empty() {
            match events.next().await.context("the watch ended")?? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    let phase = pod.status.and_then(|status| status.phase);
                    if phase.as_deref() == Some("Running") {
                        waiting.remove(pod.metadata.name.unwrap_or_default().as_str());
                    }
                }
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    futures::try_join!(create, wait)?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}
