//! The controllers of the control plane, one module each: ordinary clients of the API that act as upstream's identities.
//! Start reading at [`run`]; each controller is a pure decision and a thin edge that applies it.
pub mod certificate_signing;
mod claim;
pub mod conditions;
pub mod controller_revision;
mod cronjob;
mod daemonset;
pub mod deletions;
mod deployment;
pub mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
pub mod error;
pub mod expectations;
mod garbage_collector;
pub mod hash;
mod horizontal_pod_autoscaler;
pub mod int_or_percent;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_selector;
mod per_namespace;
mod persistent_volume;
pub mod pod_control;
mod pod_gc;
mod pod_owners;
pub mod pods;
mod replicaset;
mod replicationcontroller;
mod resource_quota;
mod root_ca;
pub mod scale;
pub mod selector;
mod service;
mod service_cidr;
mod service_pods;
mod serviceaccount;
mod statefulset;
mod taint_eviction;
mod volume_protection;
pub mod written;

use ipnet::IpNet;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use pintle_client::{Clients, Informers};
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the controllers need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The certificate of the cluster's authority in PEM, published as ConfigMap `kube-root-ca.crt` in every namespace.
    pub root_ca_pem: String,
    /// Networks from which nodes get their `spec.podCIDRs`; empty if something else assigns them.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 pod network (upstream: `--node-cidr-mask-size-ipv4`, 24).
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 pod network (upstream: `--node-cidr-mask-size-ipv6`, 64).
    pub node_mask_v6: u8,
    /// Whether Services of type LoadBalancer are answered at the nodes' addresses.
    pub load_balancer: bool,
    /// Signs the certificates of kubelets; `None` if something else does.
    pub signer: Option<Arc<pintle_pki::Authority>>,
}

/// What every controller starts from.
#[derive(Clone)]
pub(crate) struct Context {
    config: Arc<Config>,
    clients: Clients,
    informers: Informers,
    stop: CancellationToken,
    deletions: deletions::Deletions,
}

/// Runs all controllers until `stop`. `informers` should read as `system:kube-controller-manager`.
pub async fn run(config: Config, clients: Clients, informers: Informers, stop: CancellationToken) {
    let deletions = deletions::Deletions::default();
    let cx = Context { config: Arc::new(config), clients, informers, stop, deletions };
    let mut tasks = JoinSet::new();
    let mut start = |controller: &'static str,
                     task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
                     stop: CancellationToken| {
        tasks.spawn(async move {
            tokio::select! { () = task => {} () = stop.cancelled() => {} }
            tracing::debug!(controller, "stopped");
        });
    };
    let stop = cx.stop.clone();
    start("deployment", Box::pin(deployment::run(cx.clone())), stop.clone());
    start("replicaset", Box::pin(replicaset::run::<ReplicaSet>(cx.clone())), stop.clone());
    start("replicationcontroller", Box::pin(replicaset::run::<ReplicationController>(cx.clone())), stop.clone());
    start("endpointslice", Box::pin(endpointslice::run(cx.clone())), stop.clone());
    start("endpoints", Box::pin(endpoints::run(cx.clone())), stop.clone());
    start("serviceaccount", Box::pin(serviceaccount::run(cx.clone())), stop.clone());
    start("root-ca-cert-publisher", Box::pin(root_ca::run(cx.clone())), stop.clone());
    start("namespace", Box::pin(namespace::run(cx.clone())), stop.clone());
    start("garbage-collector", Box::pin(garbage_collector::run(cx.clone())), stop.clone());
    start("persistentvolume", Box::pin(persistent_volume::run(cx.clone())), stop.clone());
    start("pvc-protection", Box::pin(volume_protection::run_claims(cx.clone())), stop.clone());
    start("pv-protection", Box::pin(volume_protection::run_volumes(cx.clone())), stop.clone());
    start("vac-protection", Box::pin(volume_protection::run_attributes_classes(cx.clone())), stop.clone());
    start("node-ipam", Box::pin(node_ipam::run(cx.clone())), stop.clone());
    start("pod-gc", Box::pin(pod_gc::run(cx.clone())), stop.clone());
    start("node-lifecycle", Box::pin(node_lifecycle::run(cx.clone())), stop.clone());
    start("taint-eviction", Box::pin(taint_eviction::run(cx.clone())), stop.clone());
    start("statefulset", Box::pin(statefulset::run(cx.clone())), stop.clone());
    start("daemonset", Box::pin(daemonset::run(cx.clone())), stop.clone());
    start("job", Box::pin(job::run(cx.clone())), stop.clone());
    start("ttl-after-finished", Box::pin(job::run_ttl(cx.clone())), stop.clone());
    start("certificate-signing", Box::pin(certificate_signing::run(cx.clone())), stop.clone());
    start("endpointslice-mirroring", Box::pin(endpointslice_mirroring::run(cx.clone())), stop.clone());
    start("disruption", Box::pin(disruption::run(cx.clone())), stop.clone());
    start("cronjob", Box::pin(cronjob::run(cx.clone())), stop.clone());
    start("horizontal-pod-autoscaler", Box::pin(horizontal_pod_autoscaler::run(cx.clone())), stop.clone());
    start("ephemeral-volume", Box::pin(ephemeral_volume::run(cx.clone())), stop.clone());
    start("service", Box::pin(service::run(cx.clone())), stop.clone());
    start("service-cidr", Box::pin(service_cidr::run(cx.clone())), stop.clone());
    start("resourcequota", Box::pin(resource_quota::run(cx.clone())), stop.clone());
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended by itself");
        }
    }
}
