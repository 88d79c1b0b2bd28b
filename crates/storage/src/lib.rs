//! Dynamic provisioning of local volumes: [`run`] answers the claims of StorageClass `local-path` on one node. The decisions
//! are in [`plan`], the directories in [`directory`].
pub mod directory;
pub mod plan;

use directory::Directory;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use pintle_client::informer::{Change, Informer, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Clients, Informers, Recorder, WorkQueue};
use plan::{Plan, claim_plan, owns_data, to_delete};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The provisioner's name in StorageClasses.
pub const PROVISIONER: &str = "pintle.dev/local-path";
/// The ServiceAccount in `kube-system` as which the provisioner acts.
pub const ACCOUNT: &str = "local-path-provisioner";

/// Where one node keeps its volumes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, as claims and volumes name it.
    pub node_name: String,
    /// The directory under which each volume gets one of its own.
    pub directory: PathBuf,
}

/// Why a claim or volume is not done with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused a request or could not be reached.
    #[error(transparent)]
    Api(#[from] Box<kube::Error>),
    /// A directory could not be made or removed.
    #[error(transparent)]
    Directory(#[from] directory::Error),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Error::Api(Box::new(error))
    }
}

/// What the cluster needs for the provisioner: the default StorageClass and its permissions. To be created once.
pub fn manifests() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        }),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": "kube-system"},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("pintle:{ACCOUNT}")},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:persistent-volume-provisioner",
            },
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "kube-system"}],
        }),
    ]
}

/// What must be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(String, String),
    Volume(String),
}

struct Provisioner {
    node: String,
    client: Client,
    recorder: Recorder,
    directory: Directory,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

/// Provisions and deletes the volumes of one node until `stop`.
pub async fn run(config: Config, clients: Clients, informers: Informers, stop: CancellationToken) {
    let client = clients.controller(ACCOUNT);
    let (claims, volumes) = (informers.of::<PersistentVolumeClaim>(), informers.of::<PersistentVolume>());
    let classes = informers.of::<StorageClass>();
    let provisioner = Arc::new(Provisioner {
        recorder: Recorder::core(client.clone(), PROVISIONER, &config.node_name),
        node: config.node_name,
        client,
        directory: Directory::new(config.directory),
        claims: claims.clone(),
        volumes: volumes.clone(),
        classes: classes.clone(),
    });
    let queue = WorkQueue::<Key>::new();
    let (added, this) = (queue.clone(), provisioner.clone());
    claims.on_change(move |change| {
        let claim = change.object();
        if !matches!(change, Change::Deleted(_)) && plan::is_asked(claim, &this.node) {
            let (namespace, name) = key_of(claim.as_ref());
            added.add(Key::Claim(namespace, name));
        }
    });
    let (added, this) = (queue.clone(), provisioner.clone());
    volumes.on_change(move |change| {
        let volume = change.object();
        if !matches!(change, Change::Deleted(_)) && to_delete(volume) && owns_data(volume, &this.node) {
            added.add(Key::Volume(key_of(volume.as_ref()).1));
        }
    });
    tokio::join!(claims.synced(), volumes.synced(), classes.synced());
    queue
        .run("local-path", 1, stop, move |key| {
            let this = provisioner.clone();
            async move {
                match key {
                    Key::Claim(namespace, name) => this.provision(&namespace, &name).await,
                    Key::Volume(name) => this.delete(&name).await,
                }
            }
        })
        .await;
}

impl Provisioner {
    async fn provision(&self, namespace: &str, name: &str) -> Result<Option<Duration>, Error> {
        let Some(claim) = self.claims.get(namespace, name) else { return Ok(None) };
        let class = plan::class_name(&claim).and_then(|class| self.classes.get("", class));
        let Plan::Provision(volume) = claim_plan(&claim, class.as_deref(), &self.node, self.directory.base()) else {
            return Ok(None);
        };
        let volume = match volume {
            Ok(volume) => volume,
            Err(reason) => {
                self.fail(&claim, &reason);
                return Ok(None);
            }
        };
        if self.volumes.get("", &key_of(&*volume).1).is_some() {
            return Ok(None);
        }
        let text = format!("External provisioner is provisioning volume for claim \"{namespace}/{name}\"");
        self.recorder.event(claim.as_ref(), Normal, "Provisioning", text);
        if let Err(error) = self.directory.make(&volume).await {
            self.fail(&claim, &error.to_string());
            return Err(error.into());
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => {
                self.fail(&claim, &error.to_string());
                return Err(error.into());
            }
        }
        let text = format!("Successfully provisioned volume {}", key_of(&*volume).1);
        self.recorder.event(claim.as_ref(), Normal, "ProvisioningSucceeded", text);
        Ok(None)
    }

    fn fail(&self, claim: &PersistentVolumeClaim, reason: &str) {
        let class = plan::class_name(claim).unwrap_or_default();
        let text = format!("failed to provision volume with StorageClass {class:?}: {reason}");
        self.recorder.event(claim, Warning, "ProvisioningFailed", text);
    }

    /// The data first, then the volume: stopped in between, the next look goes on.
    async fn delete(&self, name: &str) -> Result<Option<Duration>, Error> {
        let Some(volume) =
            self.volumes.get("", name).filter(|volume| to_delete(volume) && owns_data(volume, &self.node))
        else {
            return Ok(None);
        };
        if let Err(error) = self.directory.remove(&volume).await {
            self.recorder.event(volume.as_ref(), Warning, "VolumeFailedDelete", error.to_string());
            return Err(error.into());
        }
        let preconditions = Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match Api::<PersistentVolume>::all(self.client.clone()).delete(name, &params).await {
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(None),
        }
    }
}
