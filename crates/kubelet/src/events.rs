//! Events about pods and the node, aggregated as client-go's recorder does: the same event again raises its count.
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// How many events may wait to be sent; more are dropped, as upstream does.
const QUEUE: usize = 1000;
/// How many different events are remembered for aggregation.
const REMEMBERED: usize = 4096;
/// Spam protection per object: this many at once, then one every five minutes (client-go's defaults).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Records events; clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Event>,
    host: String,
}

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug)]
pub enum Severity {
    /// Something expected happened.
    Normal,
    /// Something the user should look at.
    Warning,
}

impl Recorder {
    /// A recorder that writes through `client` for node `host` until the last clone is dropped.
    pub fn new(client: Client, host: &str) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(client, receiver));
        Recorder { queue, host: host.to_owned() }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, severity: Severity, reason: &str, message: impl Into<String>) {
        self.record(pod_reference(pod, None), severity, reason, message.into());
    }

    /// An event about one container of a pod.
    pub fn container(&self, pod: &Pod, name: &str, severity: Severity, reason: &str, message: impl Into<String>) {
        let field = if pod.init_containers().iter().any(|container| container.name == name) {
            "spec.initContainers"
        } else if pod.containers().iter().any(|container| container.name == name) {
            "spec.containers"
        } else {
            "spec.ephemeralContainers"
        };
        self.record(pod_reference(pod, Some(format!("{field}{{{name}}}"))), severity, reason, message.into());
    }

    /// An event about the node.
    pub fn node(&self, severity: Severity, reason: &str, message: impl Into<String>) {
        let reference = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.host.clone()),
            uid: Some(self.host.clone()),
            ..Default::default()
        };
        self.record(reference, severity, reason, message.into());
    }

    fn record(&self, involved_object: ObjectReference, severity: Severity, reason: &str, message: String) {
        let now = Timestamp::now();
        let namespace = involved_object.namespace.clone().unwrap_or_else(|| "default".into());
        let object = involved_object.name.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object,
            reason: Some(reason.to_owned()),
            message: Some(message),
            type_: Some(format!("{severity:?}")),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.host.clone()) }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.host.clone()),
            ..Default::default()
        };
        if self.queue.try_send(event).is_err() {
            tracing::warn!(reason, "event dropped: too many are waiting");
        }
    }
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

#[derive(Hash, PartialEq, Eq)]
struct Key {
    uid: Option<String>,
    field_path: Option<String>,
    type_: Option<String>,
    reason: Option<String>,
    message: Option<String>,
}

fn key_of(event: &Event) -> Key {
    Key {
        uid: event.involved_object.uid.clone(),
        field_path: event.involved_object.field_path.clone(),
        type_: event.type_.clone(),
        reason: event.reason.clone(),
        message: event.message.clone(),
    }
}

async fn send_all(client: Client, mut queue: mpsc::Receiver<Event>) {
    let mut sent: HashMap<Key, (String, i32)> = HashMap::new();
    let mut budgets: HashMap<Option<String>, (f64, tokio::time::Instant)> = HashMap::new();
    while let Some(event) = queue.recv().await {
        if sent.len() >= REMEMBERED {
            sent.clear();
        }
        if budgets.len() >= REMEMBERED {
            budgets.clear();
        }
        let now = tokio::time::Instant::now();
        let (tokens, since) = budgets.entry(event.involved_object.uid.clone()).or_insert((BURST, now));
        *tokens = (*tokens + (now - *since).as_secs_f64() / REFILL_SECONDS).min(BURST);
        *since = now;
        if *tokens < 1.0 {
            continue;
        }
        *tokens -= 1.0;
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = key_of(&event);
        if let Some((name, count)) = sent.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": event.last_timestamp, "message": event.message});
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => continue,
                Err(kube::Error::Api(error)) if error.code == 404 => {
                    sent.remove(&key);
                }
                Err(error) => {
                    tracing::debug!(%error, "event not recorded");
                    continue;
                }
            }
        }
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                sent.insert(key, (event.metadata.name.unwrap_or_default(), 1));
            }
            Err(error) => tracing::debug!(%error, reason = event.reason, "event not recorded"),
        }
    }
}
