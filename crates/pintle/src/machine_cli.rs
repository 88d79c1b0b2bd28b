//! `pintle node`: add, drain and remove nodes on this machine while the cluster runs.
use crate::cli::NodeCommand;
use crate::instance::{Instance, Paths};
use crate::machine;
use crate::token::connect;
use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// Pause before a pod that its disruption budget protects is asked to go again.
const PROTECTED: Duration = Duration::from_secs(5);

/// Runs a node command.
pub fn run(command: NodeCommand) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            NodeCommand::Add { data_dir, names } => {
                let (paths, client) = connect(&data_dir).await?;
                let mut instance = server(&paths)?;
                let first = instance.node_name.clone();
                let names: Vec<Option<String>> =
                    if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
                let machine =
                    instance.machine.as_mut().context("the cluster was made by an older version; restart it")?;
                let nodes = names.into_iter().map(|name| machine.add(name, &first)).collect::<Result<Vec<_>>>()?;
                paths.save(&instance)?;
                machine::start(&paths, &instance, &client, &nodes).await?;
                nodes.iter().for_each(|node| println!("node {} is Ready", node.name));
                Ok(())
            }
            NodeCommand::Drain { data_dir, name } => {
                let (_, client) = connect(&data_dir).await?;
                drain(&client, &name).await?;
                println!("node {name} is drained");
                Ok(())
            }
            NodeCommand::Rm { data_dir, names } => {
                let (paths, client) = connect(&data_dir).await?;
                let instance = server(&paths)?;
                for name in &names {
                    if !instance.machine.iter().flat_map(|machine| &machine.nodes).any(|node| node.name == *name) {
                        bail!("{name} is not a node of this machine that can be removed");
                    }
                }
                for name in names {
                    remove(&paths, &client, &name).await.with_context(|| format!("cannot remove node {name}"))?;
                    println!("node {name} is gone");
                }
                Ok(())
            }
        }
    })
}

fn server(paths: &Paths) -> Result<Instance> {
    let instance = paths.load()?.context("there is no cluster")?;
    if instance.server.is_some() {
        bail!("{} is that of a node whose control plane is elsewhere", paths.data.display());
    }
    Ok(instance)
}

async fn remove(paths: &Paths, client: &kube::Client, name: &str) -> Result<()> {
    let mut instance = server(paths)?;
    machine::remove(paths, &instance, name)?;
    match Api::<Node>::all(client.clone()).delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        result => _ = result?,
    }
    if let Some(machine) = &mut instance.machine {
        machine.nodes.retain(|node| node.name != name);
    }
    paths.save(&instance)
}

/// Cordons the node and evicts its pods, but for those of DaemonSets and static ones; returns when they are gone.
async fn drain(client: &kube::Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch(name, &PatchParams::default(), &cordon).await.with_context(|| format!("cannot cordon node {name}"))?;
    let pods: Api<Pod> = Api::all(client.clone());
    let here = format!("spec.nodeName={name}");
    let mut left = BTreeSet::new();
    let listed = pods.list(&ListParams::default().fields(&here)).await?;
    let mut changes = watcher(pods, watcher::Config::default().fields(&here)).default_backoff().boxed();
    for pod in listed.items.iter().filter(|pod| leaves(pod)) {
        left.insert(pod.metadata.uid.clone());
        evict(client, pod).await?;
    }
    while !left.is_empty() {
        match changes.next().await {
            Some(Ok(watcher::Event::Delete(pod))) => _ = left.remove(&pod.metadata.uid),
            Some(Ok(watcher::Event::Init)) => left.clear(),
            Some(Ok(watcher::Event::InitApply(pod))) if leaves(&pod) => _ = left.insert(pod.metadata.uid.clone()),
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::debug!(%error, "the watch on the node's pods was interrupted"),
            None => bail!("cannot follow the node's pods"),
        }
    }
    Ok(())
}

fn leaves(pod: &Pod) -> bool {
    let owned_by_daemon = pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "DaemonSet");
    let mirror = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"));
    !owned_by_daemon && !mirror
}

async fn evict(client: &kube::Client, pod: &Pod) -> Result<()> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    loop {
        match pods.evict(name, &EvictParams::default()).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 429 => {
                println!("pod {name} may not leave yet: {}", status.message);
                tokio::time::sleep(PROTECTED).await;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot evict pod {name}")),
        }
    }
}
