//! The Node object: registration, status, and the lease that says the kubelet lives.
// upstream: pkg/kubelet, kubelet_node_status.go; pkg/kubelet/nodestatus
mod machine;
mod status;

use crate::config::Config;
use crate::events::{Recorder, Severity};
use crate::eviction::Pressure;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use pintle_client::Informer;
use pintle_runtime::cri::{self, ImageService, RuntimeService};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use machine::{Disk, Machine, available_memory, busy_seconds, disk, free_memory, max_pids, processes};
pub use status::{disk_pressure, memory_pressure};

/// Where nodes' leases live.
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How often the status is sent although nothing changed.
const REPORT_EVERY: Duration = Duration::from_secs(300);
/// How often the machine is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(7));
/// Most images listed in the Node's status.
const MAX_IMAGES: usize = 50;

/// Keeps the Node object and its lease.
pub struct NodeAgent {
    pub config: Config,
    pub client: Client,
    pub machine: Machine,
    pub recorder: Recorder,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub pressure: Pressure,
    /// Follows the Node object.
    pub nodes: Informer<Node>,
    pub runtime_version: String,
}

fn handler(handler: cri::RuntimeHandler) -> NodeRuntimeHandler {
    let features = handler.features.map(|features| NodeRuntimeHandlerFeatures {
        recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
        user_namespaces: Some(features.user_namespaces),
    });
    NodeRuntimeHandler { name: Some(handler.name), features }
}

impl NodeAgent {
    /// Registers the node, tells `ready` once it is reported Ready, and keeps it so until `stop`.
    pub async fn run(self, ready: watch::Sender<bool>, stop: CancellationToken) {
        let this = Arc::new(self);
        let work = async {
            let mut node = this.register().await;
            ready.send_replace(true);
            this.recorder.node(Severity::Normal, "Starting", "Starting kubelet.");
            tokio::join!(this.clone().keep_lease(node.metadata.uid.clone()), this.keep_status(&mut node));
        };
        tokio::select! { () = work => {} () = stop.cancelled() => {} }
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Creates the Node with a complete status, or takes over the one that is there.
    async fn register(&self) -> Node {
        let mut delay = RETRY.0;
        loop {
            match self.try_register().await {
                Ok(node) => return node,
                Err(error) => {
                    tracing::warn!(%error, "cannot register the node yet");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY.1);
                }
            }
        }
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        let fresh = Node {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                labels: Some(status::labels(&self.config)),
                annotations: Some(
                    [("volumes.kubernetes.io/controller-managed-attach-detach".into(), "true".into())].into(),
                ),
                ..Default::default()
            },
            spec: Some(NodeSpec::default()),
            status: Some(self.status(None).await),
        };
        match self.api().create(&PostParams::default(), &fresh).await {
            Ok(node) => return self.report(&node).await,
            Err(kube::Error::Api(error)) if error.code == 409 => {}
            Err(error) => return Err(error),
        }
        let known = self.api().get(&self.config.node_name).await?;
        let labels = json!({"metadata": {"labels": fresh.metadata.labels, "annotations": fresh.metadata.annotations}});
        let wanted = fresh.metadata.labels.iter().flatten();
        let same = wanted
            .into_iter()
            .all(|(key, value)| known.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value));
        let known = if same {
            known
        } else {
            self.api().patch(&self.config.node_name, &PatchParams::default(), &Patch::Strategic(labels)).await?
        };
        self.report(&known).await
    }

    async fn status(&self, known: Option<&NodeStatus>) -> NodeStatus {
        let machine = Machine { disk: disk(&self.config.root_dir), ..self.machine.clone() };
        let (problems, runtime) = self.runtime_status().await;
        self.pressure.look(&self.config);
        let health = status::Health {
            problems: &problems,
            memory_pressure: self.pressure.memory(),
            disk_pressure: self.pressure.disk(),
            features: runtime
                .features
                .map(|features| NodeFeatures { supplemental_groups_policy: Some(features.supplemental_groups_policy) }),
            handlers: Some(runtime.runtime_handlers.into_iter().map(handler).collect())
                .filter(|handlers: &Vec<_>| !handlers.is_empty()),
        };
        let mut status =
            status::generate(&self.config, &machine, &self.runtime_version, &health, known, Timestamp::now());
        status.images = Some(self.image_list().await);
        status
    }

    /// What the runtime says of itself: what keeps it from running pods, and what it can do.
    async fn runtime_status(&self) -> (Vec<String>, cri::StatusResponse) {
        match self.runtime.status(cri::StatusRequest { verbose: false }).await {
            Ok(response) => {
                let conditions = response.status.iter().flat_map(|status| &status.conditions);
                let bad = conditions.filter(|condition| {
                    !condition.status && matches!(condition.r#type.as_str(), "RuntimeReady" | "NetworkReady")
                });
                let problems = bad.map(|one| {
                    let what =
                        if one.r#type == "NetworkReady" { "container runtime network" } else { "container runtime" };
                    format!(
                        "{what} not ready: {}={} reason:{} message:{}",
                        one.r#type, one.status, one.reason, one.message
                    )
                });
                (problems.collect(), response)
            }
            Err(status) => {
                (vec![format!("container runtime is down: {}", status.message())], cri::StatusResponse::default())
            }
        }
    }

    async fn image_list(&self) -> Vec<ContainerImage> {
        let mut images = match self.images.list_images(cri::ListImagesRequest { filter: None }).await {
            Ok(response) => response.images,
            Err(_) => Vec::new(),
        };
        images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        let image = |image: cri::Image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect::<Vec<_>>())
                .filter(|names| !names.is_empty()),
            size_bytes: i64::try_from(image.size).ok(),
        };
        images.into_iter().map(image).filter(|image| image.names.is_some()).take(MAX_IMAGES).collect()
    }

    /// Sends what differs from the API's status; returns the Node as it is then.
    async fn report(&self, node: &Node) -> Result<Node, kube::Error> {
        let known = node.status.clone().unwrap_or_default();
        let wanted = self.status(Some(&known)).await;
        let patch = status::patch(&known, &wanted);
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(node.clone());
        }
        self.send(patch).await
    }

    async fn send(&self, status: Value) -> Result<Node, kube::Error> {
        let patch = Patch::Strategic(json!({"status": status}));
        self.api().patch_status(&self.config.node_name, &PatchParams::default(), &patch).await
    }

    /// Reports changes of the machine, corrections of what others wrote, and every five minutes a sign of life.
    async fn keep_status(&self, node: &mut Node) {
        let informer = &self.nodes;
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        informer.on_change(move |_| notify.notify_one());
        let (mut last_report, mut delay) = (Instant::now(), RETRY.0);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.tick().await;
        loop {
            tokio::select! { () = changed.notified() => {} () = self.pressure.changed() => {} _ = look.tick() => {} }
            if let Some(newer) = informer.get("", &self.config.node_name) {
                *node = newer.as_ref().clone();
            } else if informer.list().is_empty() {
                // Deleted: as upstream, not made again before the next start.
                continue;
            }
            let known = node.status.clone().unwrap_or_default();
            let wanted = self.status(Some(&known)).await;
            let due = last_report.elapsed() >= REPORT_EVERY;
            if !due && !status::differs(&known, &wanted) {
                continue;
            }
            match self.send(status::patch(&known, &wanted)).await {
                Ok(new) => {
                    *node = new;
                    (last_report, delay) = (Instant::now(), RETRY.0);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot report the node's status, will retry");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY.1);
                    changed.notify_one();
                }
            }
        }
    }

    /// Renews the node's lease every ten seconds.
    async fn keep_lease(self: Arc<Self>, node_uid: Option<String>) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let name = self.config.node_name.clone();
        let mut timer = tokio::time::interval(RENEW_EVERY);
        loop {
            timer.tick().await;
            let now = MicroTime(Timestamp::now());
            let renewal = json!({"spec": {
                "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}});
            let result = match leases.patch(&name, &PatchParams::default(), &Patch::Merge(renewal)).await {
                Err(kube::Error::Api(error)) if error.code == 404 => {
                    let lease = Lease {
                        metadata: ObjectMeta {
                            name: Some(name.clone()),
                            namespace: Some(LEASE_NAMESPACE.into()),
                            owner_references: node_uid.clone().map(|uid| {
                                vec![OwnerReference {
                                    api_version: "v1".into(),
                                    kind: "Node".into(),
                                    name: name.clone(),
                                    uid,
                                    ..Default::default()
                                }]
                            }),
                            ..Default::default()
                        },
                        spec: Some(LeaseSpec {
                            holder_identity: Some(name.clone()),
                            lease_duration_seconds: Some(LEASE_SECONDS),
                            renew_time: Some(now),
                            ..Default::default()
                        }),
                    };
                    leases.create(&PostParams::default(), &lease).await
                }
                other => other,
            };
            if let Err(error) = result {
                tracing::warn!(%error, "cannot renew the node's lease, will retry");
                // The namespace may not exist yet, or the server restarts.
                timer.reset_after(Duration::from_secs(1));
            }
        }
    }
}
