//! Pods per second: the decision alone at 5,000 nodes, and from POST to binding through the API with nodes that only exist
//! on paper.
use super::{Bench, Cluster, Spread, heading};
use crate::cluster::run;
use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use pintle_scheduler::algorithm::{Profile, schedule};
use pintle_scheduler::cache::Cache;
use pintle_scheduler::framework::NoObjects;
use pintle_scheduler::pod_info::PodInfo;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// As upstream's scheduler_perf: nodes, pods that are there already, pods that are timed.
const NODES: usize = 5000;
const BEFORE: usize = 5000;
const TIMED: usize = 2000;
/// Through the API.
const PAPER_NODES: usize = 1000;
const PAPER_PODS: usize = 2000;

/// Name, floor, and the affinity of the pods.
type Case = (&'static str, &'static str, fn() -> Value);

/// The cases with the floors that upstream's own benchmark asserts at 5,000 nodes, in pods/s.
const CASES: [Case; 5] = [
    ("basic", "270", || json!({})),
    (
        "required anti-affinity, by node",
        "60",
        || json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term("kubernetes.io/hostname")] } }),
    ),
    (
        "required affinity, by zone",
        "35",
        || json!({ "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term("topology.kubernetes.io/zone")] } }),
    ),
    ("preferred affinity, by node", "90", || {
        let preferred = json!([{ "weight": 1, "podAffinityTerm": term("kubernetes.io/hostname") }]);
        json!({ "podAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preferred } })
    }),
    ("topology spread, by zone", "85", || Value::Null),
];

fn term(key: &str) -> Value {
    json!({ "topologyKey": key, "labelSelector": { "matchLabels": { "color": "blue" } } })
}

fn node(n: usize) -> Value {
    let labels = json!({ "kubernetes.io/hostname": format!("node-{n}"), "topology.kubernetes.io/zone": format!("zone-{}", n % 3) });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("node-{n}"), "labels": labels },
        "status": {
            "allocatable": { "cpu": "16", "memory": "64Gi", "pods": "110" },
            "capacity": { "cpu": "16", "memory": "64Gi", "pods": "110" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        }
    })
}

/// A pod; `affinity` is `Null` for the case of the spread.
fn pod(name: &str, affinity: &Value) -> Value {
    let requests = json!({ "cpu": "100m", "memory": "500Mi" });
    let mut spec = json!({
        "containers": [{ "name": "main", "image": "pause", "resources": { "requests": requests } }],
        "tolerations": [{ "operator": "Exists" }],
    });
    match affinity {
        Value::Null => {
            spec["topologySpreadConstraints"] = json!([{
                "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": { "matchLabels": { "color": "blue" } },
            }]);
        }
        affinity => spec["affinity"] = affinity.clone(),
    }
    let labels = json!({ "color": "blue" });
    json!({ "metadata": { "name": name, "namespace": "default", "uid": name, "labels": labels }, "spec": spec })
}

/// Measures and prints.
pub fn measure(bench: &Bench) -> Result<()> {
    heading(
        &format!("Scheduler: decisions at {NODES} nodes with {BEFORE} pods"),
        &["case", "Pintle, pods/s", "floor of upstream's benchmark, pods/s"],
    );
    for (name, floor, affinity) in CASES {
        let runs: Result<Vec<f64>> = (0..bench.runs.max(1)).map(|_| decisions(&affinity())).collect();
        println!("| {name} | {} | {floor} |", Spread::of(runs?)?);
    }
    if bench.pintle.exists() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let rate = runtime.block_on(through_the_api(bench))?;
        heading(&format!("Scheduler: {PAPER_PODS} pods on {PAPER_NODES} nodes through the API"), &["figure", "Pintle"]);
        println!("| from the first POST to the last binding, pods/s | {rate:.0} |");
    }
    Ok(())
}

/// Decisions per second for pods with such rules.
fn decisions(affinity: &Value) -> Result<f64> {
    let mut cache = Cache::default();
    for n in 0..NODES {
        cache.set_node(&Arc::new(serde_json::from_value::<Node>(node(n))?));
    }
    for n in 0..BEFORE {
        let mut placed = pod(&format!("before-{n}"), &json!({}));
        placed["spec"]["nodeName"] = format!("node-{n}").into();
        // Anti-affinity needs nodes without pods of the kind.
        placed["metadata"]["labels"]["color"] = if n < NODES / 4 { "blue" } else { "red" }.into();
        cache.set_pod(&Arc::new(serde_json::from_value::<Pod>(placed)?));
    }
    let pods: Vec<Arc<Pod>> = (0..TIMED)
        .map(|n| Ok(Arc::new(serde_json::from_value(pod(&format!("pod-{n}"), affinity))?)))
        .collect::<Result<_>>()?;
    let (profile, mut start) = (Profile::default(), 0);
    let begin = Instant::now();
    for pod in pods {
        let info = Arc::new(PodInfo::new(pod));
        let decision = schedule(&info, &mut cache, &NoObjects, &profile, &mut start);
        let decision = decision.map_err(|failure| anyhow::anyhow!("{}", failure.error))?;
        cache.assume(info, &decision.node);
    }
    Ok(TIMED as f64 / begin.elapsed().as_secs_f64())
}

/// Pods bound per second through the API of a control plane without nodes of its own.
async fn through_the_api(bench: &Bench) -> Result<f64> {
    let cluster: Cluster = bench.cluster()?;
    run(cluster.command(&["server"]).arg("--detach").arg("--kubeconfig").arg(cluster.kubeconfig()))?;
    let client = cluster.client().await?;
    let (nodes, pods) = (Api::<Node>::all(client.clone()), Api::<Pod>::namespaced(client, "default"));
    let post = PostParams::default();
    let made = futures::stream::iter(0..PAPER_NODES).map(|n| {
        let (nodes, post) = (nodes.clone(), post.clone());
        async move { anyhow::Ok(nodes.create(&post, &serde_json::from_value(node(n))?).await.map(drop)?) }
    });
    let made: Vec<Result<()>> = made.buffer_unordered(32).collect().await;
    made.into_iter().collect::<Result<()>>()?;
    let version = pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let mut events = pods.watch(&WatchParams::default(), &version).await?.boxed();
    let begin = Instant::now();
    let posts = futures::stream::iter(0..PAPER_PODS).map(|n| {
        let (pods, post) = (pods.clone(), post.clone());
        async move {
            let mut pod = pod(&format!("pod-{n}"), &json!({}));
            pod["metadata"].as_object_mut().context("a pod has metadata")?.remove("uid");
            anyhow::Ok(pods.create(&post, &serde_json::from_value(pod)?).await.map(drop)?)
        }
    });
    let posted = async {
        let posted: Vec<Result<()>> = posts.buffer_unordered(64).collect().await;
        posted.into_iter().collect::<Result<()>>()
    };
    let bound = async {
        let mut bound = HashSet::new();
        while bound.len() < PAPER_PODS {
            if let WatchEvent::Modified(pod) = events.next().await.context("the watch ended")??
                && pod.spec.is_some_and(|spec| spec.node_name.is_some())
            {
                bound.insert(pod.metadata.name.unwrap_or_default());
            }
        }
        anyhow::Ok(())
    };
    futures::try_join!(posted, bound)?;
    Ok(PAPER_PODS as f64 / begin.elapsed().as_secs_f64())
}
