//! Which objects are related to which node: node ← pod ← secrets, config maps, claims, … ← volumes. Start at
//! [`Graph::relates`].
use crate::follow;
use crate::registry::Registry;
use crate::value::Read;
use bytes::Bytes;
use parking_lot::RwLock;
use pintle_api::status::ApiError;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What can be related to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The pod itself.
    Pod,
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    Claim,
    /// A PersistentVolume.
    Volume,
    /// A ServiceAccount.
    ServiceAccount,
    /// A ResourceClaim.
    ResourceClaim,
    /// A VolumeAttachment.
    VolumeAttachment,
}

/// Kind, namespace, name.
type Object = (Kind, String, String);

/// A change of what the graph is made of; `None`: the object is gone.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A pod, by namespace and name.
    Pod(&'a str, &'a str, Option<&'a Value>),
    /// A PersistentVolume.
    Volume(&'a str, Option<&'a Value>),
    /// A VolumeAttachment.
    Attachment(&'a str, Option<&'a Value>),
}

/// What a pod on a node refers to.
#[derive(Debug, PartialEq, Eq)]
struct Placed {
    node: String,
    objects: BTreeSet<Object>,
}

/// A volume's claim and the secrets it is mounted with.
#[derive(Debug)]
struct Volume {
    claim: Object,
    secrets: Vec<(String, String)>,
}

/// The relations.
#[derive(Debug, Default)]
pub struct Graph {
    pods: HashMap<(String, String), Placed>,
    /// For each object how many pods of each node refer to it.
    nodes: HashMap<Object, HashMap<String, usize>>,
    volumes: HashMap<String, Volume>,
    /// Which volumes are mounted with a secret.
    volume_secrets: HashMap<(String, String), BTreeSet<String>>,
    attachments: HashMap<String, String>,
}

impl Graph {
    /// Whether the object is related to `node`.
    pub fn relates(&self, kind: Kind, namespace: &str, name: &str, node: &str) -> bool {
        let direct = |object: &Object| self.nodes.get(object).is_some_and(|nodes| nodes.contains_key(node));
        let of_volume = |name: &str| self.volumes.get(name).is_some_and(|volume| direct(&volume.claim));
        match kind {
            Kind::Volume => of_volume(name),
            Kind::VolumeAttachment => self.attachments.get(name).is_some_and(|attached| attached == node),
            Kind::Secret => {
                let key = (namespace.to_owned(), name.to_owned());
                let volumes = self.volume_secrets.get(&key);
                volumes.is_some_and(|volumes| volumes.iter().any(|volume| of_volume(volume)))
                    || direct(&(kind, key.0, key.1))
            }
            _ => direct(&(kind, namespace.to_owned(), name.to_owned())),
        }
    }

    /// Takes a change.
    pub fn apply(&mut self, event: Event<'_>) {
        match event {
            Event::Pod(namespace, name, pod) => self.set_pod(namespace, name, pod.and_then(placed)),
            Event::Volume(name, volume) => self.set_volume(name, volume.and_then(volume_of)),
            Event::Attachment(name, attachment) => {
                let node = attachment.map(|attachment| attachment.field("spec").text("nodeName").to_owned());
                match node {
                    Some(node) => drop(self.attachments.insert(name.to_owned(), node)),
                    None => drop(self.attachments.remove(name)),
                }
            }
        }
    }

    fn set_pod(&mut self, namespace: &str, name: &str, new: Option<Placed>) {
        let key = (namespace.to_owned(), name.to_owned());
        if self.pods.get(&key) == new.as_ref() {
            return;
        }
        if let Some(old) = self.pods.remove(&key) {
            for object in old.objects {
                if let Some(nodes) = self.nodes.get_mut(&object) {
                    if let Some(count) = nodes.get_mut(&old.node) {
                        *count -= 1;
                        if *count == 0 {
                            nodes.remove(&old.node);
                        }
                    }
                    if nodes.is_empty() {
                        self.nodes.remove(&object);
                    }
                }
            }
        }
        if let Some(new) = new {
            for object in &new.objects {
                *self.nodes.entry(object.clone()).or_default().entry(new.node.clone()).or_default() += 1;
            }
            self.pods.insert(key, new);
        }
    }

    fn set_volume(&mut self, name: &str, new: Option<Volume>) {
        if let Some(old) = self.volumes.remove(name) {
            for secret in old.secrets {
                if let Some(volumes) = self.volume_secrets.get_mut(&secret) {
                    volumes.remove(name);
                    if volumes.is_empty() {
                        self.volume_secrets.remove(&secret);
                    }
                }
            }
        }
        if let Some(new) = new {
            for secret in &new.secrets {
                self.volume_secrets.entry(secret.clone()).or_default().insert(name.to_owned());
            }
            self.volumes.insert(name.to_owned(), new);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty_but_for_volumes(&self) -> bool {
        self.pods.is_empty() && self.nodes.is_empty()
    }
}

/// Feeds `graph` from `registry` until `stop`, and tells `changed` after each change.
pub(super) async fn follow(
    graph: &Arc<RwLock<Graph>>,
    changed: &Arc<Notify>,
    registry: &Registry,
    stop: &CancellationToken,
) -> Result<(), ApiError> {
    for (group, plural) in [("", "pods"), ("", "persistentvolumes"), ("storage.k8s.io", "volumeattachments")] {
        let resource = registry.resource(group, plural)?;
        let (graph, changed) = (graph.clone(), changed.clone());
        let apply = move |namespace: &str, name: &str, stored: Option<&Bytes>| {
            // What cannot be read relates to nothing.
            let object: Option<Value> = stored.and_then(|bytes| serde_json::from_slice(bytes).ok());
            let object = object.as_ref();
            graph.write().apply(match plural {
                "pods" => Event::Pod(namespace, name, object),
                "persistentvolumes" => Event::Volume(name, object),
                _ => Event::Attachment(name, object),
            });
            changed.notify_waiters();
        };
        follow::follow(registry, &resource, stop.clone(), Box::new(apply)).await?;
    }
    Ok(())
}

fn placed(pod: &Value) -> Option<Placed> {
    let spec = pod.field("spec");
    let node = spec.text("nodeName");
    if node.is_empty() {
        return None;
    }
    let (namespace, name) = (pod.field("metadata").text("namespace"), pod.field("metadata").text("name"));
    let mut objects = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            objects.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    add(Kind::Pod, name);
    // Mirror pods, which kubelets make, give no access to anything else.
    if pod.field("metadata").field("annotations").has("kubernetes.io/config.mirror") {
        return Some(Placed { node: node.to_owned(), objects });
    }
    add(Kind::ServiceAccount, spec.text("serviceAccountName"));
    for secret in spec.items("imagePullSecrets") {
        add(Kind::Secret, secret.text("name"));
    }
    for container in ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| spec.items(list)) {
        for variable in container.items("env") {
            let source = variable.field("valueFrom");
            add(Kind::Secret, source.field("secretKeyRef").text("name"));
            add(Kind::ConfigMap, source.field("configMapKeyRef").text("name"));
        }
        for source in container.items("envFrom") {
            add(Kind::Secret, source.field("secretRef").text("name"));
            add(Kind::ConfigMap, source.field("configMapRef").text("name"));
        }
    }
    for volume in spec.items("volumes") {
        add(Kind::Secret, volume.field("secret").text("secretName"));
        add(Kind::ConfigMap, volume.field("configMap").text("name"));
        add(Kind::Claim, volume.field("persistentVolumeClaim").text("claimName"));
        if volume.has("ephemeral") {
            add(Kind::Claim, &format!("{name}-{}", volume.text("name")));
        }
        for source in volume.field("projected").items("sources") {
            add(Kind::Secret, source.field("secret").text("name"));
            add(Kind::ConfigMap, source.field("configMap").text("name"));
        }
        for driver in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(Kind::Secret, volume.field(driver).field("secretRef").text("name"));
        }
        add(Kind::Secret, volume.field("azureFile").text("secretName"));
        add(Kind::Secret, volume.field("csi").field("nodePublishSecretRef").text("name"));
    }
    for status in pod.field("status").items("resourceClaimStatuses") {
        add(Kind::ResourceClaim, status.text("resourceClaimName"));
    }
    for claim in spec.items("resourceClaims") {
        add(Kind::ResourceClaim, claim.text("resourceClaimName"));
    }
    Some(Placed { node: node.to_owned(), objects })
}

fn volume_of(volume: &Value) -> Option<Volume> {
    let spec = volume.field("spec");
    let claim = spec.field("claimRef");
    if claim.is_null() {
        return None;
    }
    let own = claim.text("namespace");
    let secret = |reference: &Value| {
        let namespace = Some(reference.text("namespace")).filter(|namespace| !namespace.is_empty()).unwrap_or(own);
        let name = reference.text("name");
        (!name.is_empty()).then(|| (namespace.to_owned(), name.to_owned()))
    };
    let csi = spec.field("csi");
    let references =
        ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef", "controllerPublishSecretRef"]
            .iter()
            .map(|field| csi.field(field))
            .chain(
                ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"]
                    .iter()
                    .map(|d| spec.field(d).field("secretRef")),
            );
    Some(Volume {
        claim: (Kind::Claim, own.to_owned(), claim.text("name").to_owned()),
        secrets: references.filter_map(secret).collect(),
    })
}
