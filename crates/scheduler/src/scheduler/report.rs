//! What the scheduler writes about pods: events, conditions, nominations, and the end of a preemption's victims.
use super::Inner;
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use pintle_client::recorder::EventType;
use serde_json::{Value, json};

/// What becomes of `status.nominatedNodeName`.
pub enum Nomination {
    /// It stays as it is.
    Keep,
    /// The pod waits for this node.
    Node(String),
    /// The pod waits for no node.
    End,
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

impl Inner {
    pub(super) fn record(
        &self,
        pod: &PodInfo,
        related: Option<&PodInfo>,
        kind: EventType,
        reason: &str,
        action: &str,
        message: String,
    ) {
        let Some(recorder) = self.recorders.get(pod.scheduler_name()).or_else(|| self.recorders.values().next()) else {
            return;
        };
        let reference = |pod: &PodInfo| kube::Resource::object_ref(pod.pod.as_ref(), &());
        recorder.event_with(reference(pod), related.map(reference), kind, reason, action, message);
    }

    /// Says why the pod has no node: as an event, and in its status if that does not say so already.
    pub(super) async fn failed(&self, pod: &PodInfo, reason: &str, message: &str, nomination: Nomination) {
        self.record(pod, None, EventType::Warning, "FailedScheduling", "Scheduling", shortened(message));
        let mut status = json!({});
        if let Some(condition) = condition(pod, reason, message) {
            status["conditions"] = json!([condition]);
        }
        match nomination {
            Nomination::Node(node) if pod.nominated_node() != Some(&node) => status["nominatedNodeName"] = node.into(),
            Nomination::End if pod.nominated_node().is_some() => status["nominatedNodeName"] = Value::Null,
            _ => {}
        }
        if status.as_object().is_some_and(|status| !status.is_empty()) {
            self.patch_status(pod, status).await;
        }
    }

    /// The pod is about to be bound, once its volumes are: others may know (upstream: NominatedNodeNameForExpectation).
    pub(super) async fn announce(&self, pod: &PodInfo, node: &str) {
        if pod.nominated_node() != Some(node) {
            self.patch_status(pod, json!({ "nominatedNodeName": node })).await;
        }
    }

    /// The pod does not wait for its node any more: a more important one does.
    pub(super) async fn end_nomination(&self, pod: &PodInfo) {
        self.patch_status(pod, json!({ "nominatedNodeName": null })).await;
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value) {
        let pods = Api::<Pod>::namespaced(self.client.clone(), pod.namespace());
        let patch = Patch::Strategic(json!({ "metadata": { "uid": pod.uid() }, "status": status }));
        match pods.patch_status(pod.name(), &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => tracing::debug!(pod = pod.name(), %error, "cannot write a pod's status"),
        }
    }

    /// Tells the victims of a preemption to leave.
    pub(super) async fn evict(&self, pod: &PodInfo, candidate: &Candidate) -> Result<(), kube::Error> {
        let message = format!("{}: preempting to accommodate a higher priority pod", pod.scheduler_name());
        for victim in candidate.victims.iter().filter(|victim| !victim.is_leaving()) {
            let pods = Api::<Pod>::namespaced(self.client.clone(), victim.namespace());
            let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": message, "lastProbeTime": null, "lastTransitionTime": now(),
                "observedGeneration": victim.pod.metadata.generation });
            let patch = json!({ "metadata": { "uid": victim.uid() }, "status": { "conditions": [condition] } });
            let told = pods.patch_status(victim.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            if let Err(error) = told {
                if is_missing(&error) {
                    continue;
                }
                return Err(error);
            }
            let uid = Some(victim.uid().to_owned());
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid, resource_version: None }),
                ..DeleteParams::default()
            };
            match pods.delete(victim.name(), &params).await {
                Ok(_) => {
                    let message = format!("Preempted by pod {} on node {}", pod.uid(), candidate.node);
                    self.record(victim, Some(pod), EventType::Normal, "Preempted", "Preempting", message);
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The condition that says why the pod has no node, unless its status says so already.
fn condition(pod: &PodInfo, reason: &str, message: &str) -> Option<Value> {
    let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let generation = pod.pod.metadata.generation;
    let same = known.is_some_and(|known| {
        known.reason.as_deref() == Some(reason)
            && known.message.as_deref() == Some(message)
            && known.observed_generation == generation
    });
    if same {
        return None;
    }
    let since = known.and_then(|condition| condition.last_transition_time.clone()).unwrap_or_else(now);
    Some(json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": generation }))
}

/// Events take 1024 bytes (upstream: `truncateMessage`).
fn shortened(message: &str) -> String {
    const MAX: usize = 1024;
    const SUFFIX: &str = " ...";
    if message.len() <= MAX {
        return message.to_owned();
    }
    let end = (0..=MAX - SUFFIX.len()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{SUFFIX}", &message[..end])
}
