//! Publishes pod statuses to the API: only changes, one request at a time for each pod, the newest status wins.
// upstream: pkg/kubelet/status, status_manager.go
mod patch;

use crate::pods::PodExt;
use crate::status::conditions::OWNED;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait after a failed request; doubles up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The statuses of this node's pods; clones share it.
#[derive(Clone)]
pub struct StatusManager(Arc<Inner>);

struct Inner {
    client: Client,
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    /// The status last set.
    status: PodStatus,
    /// All containers have ended and resources are released: the API object may go.
    finished: bool,
    /// The newest object of the API this manager knows.
    api: Option<Arc<Pod>>,
    /// What was last sent, and what the API made of it: not sent again, whatever the difference.
    settled: Option<(PodStatus, PodStatus)>,
    /// A status waits to be sent.
    dirty: bool,
    /// A task is sending.
    sending: bool,
}

enum Step {
    Nothing,
    Patch { api: Arc<Pod>, patch: serde_json::Value, status: Box<PodStatus> },
    Delete { api: Arc<Pod> },
}

impl StatusManager {
    /// A manager that writes through `client`.
    pub fn new(client: Client) -> Self {
        StatusManager(Arc::new(Inner { client, entries: Mutex::default() }))
    }

    /// The status last set for the pod.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        self.0.entries.lock().get(uid).filter(|entry| entry.status.phase.is_some()).map(|entry| entry.status.clone())
    }

    /// Notes the newest API object of a pod; sends again what it lacks.
    pub fn observe(&self, pod: &Arc<Pod>) {
        if pod.is_static() {
            // The API knows its mirror only.
            return;
        }
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(pod.uid().to_owned()).or_default();
        if entry.api.as_ref().is_none_or(|known| version(known) <= version(pod)) {
            entry.api = Some(pod.clone());
        }
        let known = entry.status.phase.is_some();
        drop(entries);
        if known {
            self.send(pod.uid());
        }
    }

    /// Notes the API's mirror of the static pod `uid`; sends the pod's status there.
    pub fn observe_mirror(&self, uid: &str, mirror: &Arc<Pod>) {
        let known = {
            let mut entries = self.0.entries.lock();
            let entry = entries.entry(uid.to_owned()).or_default();
            let newer = |api: &Arc<Pod>| api.uid() != mirror.uid() || version(api) <= version(mirror);
            if entry.api.as_ref().is_none_or(newer) {
                entry.api = Some(mirror.clone());
            }
            entry.status.phase.is_some()
        };
        if known {
            self.send(uid);
        }
    }

    /// Sets the status of `pod`; `finished` allows the removal of the API object once deletion was asked for.
    pub fn set(&self, pod: &Arc<Pod>, status: PodStatus, finished: bool) {
        {
            let mut entries = self.0.entries.lock();
            let entry = entries.entry(pod.uid().to_owned()).or_default();
            if entry.api.is_none() && !pod.is_static() {
                entry.api = Some(pod.clone());
            }
            if entry.status == status && entry.finished == finished {
                return;
            }
            entry.status = status;
            entry.finished |= finished;
        }
        self.send(pod.uid());
    }

    /// Forgets a pod that is gone from the API.
    pub fn forget(&self, uid: &str) {
        self.0.entries.lock().remove(uid);
    }

    fn send(&self, uid: &str) {
        {
            let mut entries = self.0.entries.lock();
            let Some(entry) = entries.get_mut(uid) else { return };
            entry.dirty = true;
            if entry.sending {
                return;
            }
            entry.sending = true;
        }
        let (this, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move { this.send_all(&uid).await });
    }

    async fn send_all(&self, uid: &str) {
        let mut delay = RETRY.0;
        loop {
            let step = {
                let mut entries = self.0.entries.lock();
                let Some(entry) = entries.get_mut(uid) else { return };
                if !entry.dirty {
                    entry.sending = false;
                    return;
                }
                entry.dirty = false;
                next_step(entry)
            };
            let result = match step {
                Step::Nothing => continue,
                Step::Patch { api, patch, status } => self.patch(uid, &api, patch, *status).await,
                Step::Delete { api } => self.delete(&api).await,
            };
            match result {
                Ok(()) => delay = RETRY.0,
                // The pod is gone, or another one has its name: the watch will tell.
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => {
                    tracing::debug!(uid, message = %error.message, "pod status not wanted any more");
                }
                Err(error) => {
                    tracing::warn!(uid, %error, "could not update the pod's status, will retry");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY.1);
                    if let Some(entry) = self.0.entries.lock().get_mut(uid) {
                        entry.dirty = true;
                    }
                }
            }
        }
    }

    async fn patch(
        &self,
        uid: &str,
        api: &Pod,
        patch: serde_json::Value,
        status: PodStatus,
    ) -> Result<(), kube::Error> {
        let body = serde_json::json!({"metadata": {"uid": api.uid()}, "status": patch});
        let pods: Api<Pod> = Api::namespaced(self.0.client.clone(), api.namespace());
        let new = pods.patch_status(api.name(), &PatchParams::default(), &Patch::Strategic(body)).await?;
        if let Some(entry) = self.0.entries.lock().get_mut(uid) {
            entry.settled = Some((status, new.status.clone().unwrap_or_default()));
            if entry.api.as_ref().is_none_or(|known| known.uid() == new.uid() && version(known) <= version(&new)) {
                entry.api = Some(Arc::new(new));
            }
            // A finished pod whose last status is now known may be ready to go.
            entry.dirty = true;
        }
        Ok(())
    }

    async fn delete(&self, api: &Pod) -> Result<(), kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.0.client.clone(), api.namespace());
        let options = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: api.metadata.uid.clone(), resource_version: None }),
            ..Default::default()
        };
        pods.delete(api.name(), &options).await.map(drop)
    }
}

/// What to do for an entry: patch what differs, then delete what is finished.
fn next_step(entry: &Entry) -> Step {
    let Some(api) = &entry.api else { return Step::Nothing };
    if entry.status.phase.is_none() {
        return Step::Nothing;
    }
    let merged = merge(api, entry);
    let current = api.status.clone().unwrap_or_default();
    let settled = entry.settled.as_ref().is_some_and(|(sent, got)| *sent == merged && *got == current);
    if !settled && let Some(patch) = patch::between(&current, &merged) {
        return Step::Patch { api: api.clone(), patch, status: Box::new(merged) };
    }
    if entry.finished && api.is_deleting() && !api.is_mirror() && api.is_terminal() {
        return Step::Delete { api: api.clone() };
    }
    Step::Nothing
}

/// The status to publish: conditions of others come from the API's object, a phase is terminal only once all containers have
/// ended.
// upstream: mergePodStatus
fn merge(api: &Pod, entry: &Entry) -> PodStatus {
    let mut status = entry.status.clone();
    let current = api.status.clone().unwrap_or_default();
    let owned = |type_: &str| OWNED.contains(&type_);
    let mut conditions: Vec<_> =
        current.conditions.iter().flatten().filter(|one| !owned(&one.type_)).cloned().collect();
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    for one in status.conditions.iter().flatten() {
        if owned(&one.type_) {
            conditions.push(one.clone());
        } else if one.type_ == "DisruptionTarget" && ended {
            conditions.retain(|known| known.type_ != one.type_);
            conditions.push(one.clone());
        }
    }
    status.conditions = Some(conditions);
    status.resource_claim_statuses = current.resource_claim_statuses;
    status.nominated_node_name = current.nominated_node_name;
    status
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
