//! A pod's first steps on the node: whether the node takes it, and which runtime handler it asks for.
// upstream: pkg/kubelet, HandlePodAdditions and rejectPod; pkg/kubelet/runtimeclass
use super::Worker;
use crate::admission::{NODE_AFFINITY, Rejection};
use crate::events::Severity;
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::Api;
use std::sync::Arc;
use std::time::Duration;

/// How long the first list of RuntimeClasses may take before the pod's start is tried again.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

impl Worker {
    /// Takes the pod in; false when the node refuses it, which its status then says.
    pub(super) async fn admit(&mut self, pod: &Arc<Pod>) -> bool {
        let kubelet = self.kubelet.clone();
        // A pod that some kubelet started was admitted then.
        let fresh = pod.status.as_ref().is_none_or(|status| status.start_time.is_none());
        if fresh && !pod.is_static() {
            kubelet.nodes.synced().await;
        }
        let node = kubelet.nodes.get("", &kubelet.config.node_name);
        if fresh && let Err(rejection) = crate::eviction::admit(pod, &kubelet.pressure) {
            self.reject(pod, rejection);
            return false;
        }
        let mut verdict = kubelet.allocations.admit(pod, node.as_deref(), fresh);
        if verdict.as_ref().is_err_and(|rejection| rejection.reason == NODE_AFFINITY) {
            // The scheduler may have seen labels that have not come here yet.
            let nodes: Api<Node> = Api::all(kubelet.client.clone());
            if let Ok(newest) = nodes.get(&kubelet.config.node_name).await {
                verdict = kubelet.allocations.admit(pod, Some(&newest), fresh);
            }
        }
        match verdict {
            Ok(()) => {
                self.admitted = true;
                self.resizing.resume(pod);
                true
            }
            Err(rejection) => {
                self.reject(pod, rejection);
                false
            }
        }
    }

    fn reject(&self, pod: &Arc<Pod>, rejection: Rejection) {
        let Rejection { reason, message } = rejection;
        tracing::info!(pod = pod.described(), reason, message, "the node does not take the pod");
        let status = PodStatus {
            phase: Some("Failed".to_owned()),
            qos_class: Some(crate::resources::qos_class(pod).to_owned()),
            observed_generation: pod.metadata.generation,
            message: Some(format!("Pod was rejected: {message}")),
            reason: Some(reason.clone()),
            ..Default::default()
        };
        self.kubelet.recorder.pod(pod, Severity::Warning, &reason, message);
        self.kubelet.statuses.set(pod, status, true);
    }

    /// The runtime handler of the pod's RuntimeClass; empty for the default.
    pub(super) async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let name = pod.pod_spec().and_then(|spec| spec.runtime_class_name.as_deref()).unwrap_or_default();
        if name.is_empty() {
            return Ok(String::new());
        }
        let classes = self.kubelet.informers.of::<RuntimeClass>();
        if tokio::time::timeout(SYNC_TIMEOUT, classes.synced()).await.is_err() {
            return Err("failed to sync runtimeclass cache: timed out waiting for the condition".to_owned());
        }
        match classes.get("", name) {
            Some(class) => Ok(class.handler.clone()),
            None => Err(format!("RuntimeClass.node.k8s.io {name:?} not found")),
        }
    }
}
