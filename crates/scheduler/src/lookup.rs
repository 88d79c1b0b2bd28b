//! [`Objects`] as informers know them, with what decisions have taken before the API says so.
use crate::framework::Objects;
use crate::plugins::volume_binding::ClaimStep;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use parking_lot::Mutex;
use pintle_client::{Index, Informer, Informers};
use std::collections::HashMap;
use std::sync::Arc;

/// Volumes and claims that decisions have taken and bindings are about to write.
#[derive(Default)]
struct Taken {
    /// Volume to `namespace/claim`.
    volumes: HashMap<String, String>,
    /// `namespace/claim` to node.
    claims: HashMap<String, String>,
}

/// The informers.
pub struct Lookup {
    /// Claims.
    pub claims: Informer<PersistentVolumeClaim>,
    /// Volumes.
    pub volumes: Informer<PersistentVolume>,
    by_class: Index<PersistentVolume>,
    /// Classes.
    pub classes: Informer<StorageClass>,
    /// CSI drivers of nodes.
    pub csi_nodes: Informer<CSINode>,
    /// CSI drivers.
    pub csi_drivers: Informer<CSIDriver>,
    /// Room that drivers have.
    pub capacities: Informer<CSIStorageCapacity>,
    /// Volumes on nodes.
    pub attachments: Informer<VolumeAttachment>,
    by_node: Index<VolumeAttachment>,
    services: Informer<Service>,
    replica_sets: Informer<ReplicaSet>,
    replication_controllers: Informer<ReplicationController>,
    stateful_sets: Informer<StatefulSet>,
    budgets: Informer<PodDisruptionBudget>,
    taken: Mutex<Taken>,
}

impl Lookup {
    /// Reads through `informers`.
    pub fn new(informers: &Informers) -> Self {
        let class = |volume: &PersistentVolume| {
            let class = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
            vec![class.unwrap_or_default()]
        };
        Lookup {
            claims: informers.of(),
            volumes: informers.of(),
            by_class: informers.index("storage-class", class),
            classes: informers.of(),
            csi_nodes: informers.of(),
            csi_drivers: informers.of(),
            capacities: informers.of(),
            attachments: informers.of(),
            by_node: informers
                .index("attached-node", |attachment: &VolumeAttachment| vec![attachment.spec.node_name.clone()]),
            services: informers.of(),
            replica_sets: informers.of(),
            replication_controllers: informers.of(),
            stateful_sets: informers.of(),
            budgets: informers.of(),
            taken: Mutex::default(),
        }
    }

    /// Waits until everything that a decision must not miss has been listed once.
    pub async fn synced(&self) {
        tokio::join!(
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
            self.csi_nodes.synced(),
            self.csi_drivers.synced(),
            self.capacities.synced(),
            self.attachments.synced(),
            self.budgets.synced(),
        );
    }

    /// A decision takes volumes and chooses a node for claims.
    pub fn assume(&self, namespace: &str, node: &str, steps: &[ClaimStep]) {
        let mut taken = self.taken.lock();
        for step in steps {
            match step {
                ClaimStep::Provision(claim) => {
                    taken.claims.insert(format!("{namespace}/{claim}"), node.to_owned());
                }
                ClaimStep::Reserve { claim, volume } => {
                    taken.volumes.insert(volume.clone(), format!("{namespace}/{claim}"));
                }
            }
        }
    }

    /// The binding is over: the API says what is true.
    pub fn forget(&self, namespace: &str, steps: &[ClaimStep]) {
        if steps.is_empty() {
            return;
        }
        let mut taken = self.taken.lock();
        for step in steps {
            match step {
                ClaimStep::Provision(claim) => taken.claims.remove(&format!("{namespace}/{claim}")),
                ClaimStep::Reserve { volume, .. } => taken.volumes.remove(volume),
            };
        }
    }
}

impl Objects for Lookup {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.by_class.get(class)
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get("", name)
    }
    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        self.csi_nodes.get("", name)
    }
    fn csi_driver(&self, name: &str) -> Option<Arc<CSIDriver>> {
        self.csi_drivers.get("", name)
    }
    fn capacities(&self) -> Vec<Arc<CSIStorageCapacity>> {
        self.capacities.list()
    }
    fn attachments(&self, node: &str) -> Vec<Arc<VolumeAttachment>> {
        self.by_node.get(node)
    }
    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.services.list_namespace(namespace)
    }
    fn replica_set(&self, namespace: &str, name: &str) -> Option<Arc<ReplicaSet>> {
        self.replica_sets.get(namespace, name)
    }
    fn replication_controller(&self, namespace: &str, name: &str) -> Option<Arc<ReplicationController>> {
        self.replication_controllers.get(namespace, name)
    }
    fn stateful_set(&self, namespace: &str, name: &str) -> Option<Arc<StatefulSet>> {
        self.stateful_sets.get(namespace, name)
    }
    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>> {
        self.budgets.list_namespace(namespace)
    }
    fn assumed_for(&self, volume: &str) -> Option<String> {
        self.taken.lock().volumes.get(volume).cloned()
    }
    fn assumed_node(&self, namespace: &str, claim: &str) -> Option<String> {
        self.taken.lock().claims.get(&format!("{namespace}/{claim}")).cloned()
    }
}
