//! Creates and deletes the pods of a controller, with upstream's events (`SuccessfulCreate`, `FailedCreate`, …).
use crate::claim::name;
use crate::error::{Error, is_namespace_terminating, is_not_found, message};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use pintle_client::Recorder;
use pintle_client::recorder::EventType::{Normal, Warning};

/// Names longer than this leave no room for the generated suffix.
const MAX_PREFIX: usize = 253 - 10;

/// Writes pods for one controller.
#[derive(Clone)]
pub struct PodControl {
    client: Client,
    recorder: Recorder,
}

/// A pod from `template`, managed by `owner` and named after it.
pub fn from_template(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(prefix(&owner.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

fn prefix(owner: &str) -> String {
    if owner.len() < MAX_PREFIX { format!("{owner}-") } else { owner.to_owned() }
}

impl PodControl {
    /// Writes through `client` and reports through `recorder`.
    pub fn new(client: Client, recorder: Recorder) -> Self {
        PodControl { client, recorder }
    }

    /// Creates `pod` and reports it on `owner`.
    pub async fn create(&self, pod: &Pod, owner: &ObjectReference) -> Result<Pod, kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match Api::<Pod>::namespaced(self.client.clone(), namespace).create(&PostParams::default(), pod).await {
            Ok(created) => {
                let text = format!("Created pod: {}", name(&created));
                self.recorder.event_for(owner.clone(), Normal, "SuccessfulCreate", text);
                Ok(created)
            }
            Err(error) => {
                if !is_namespace_terminating(&error) {
                    let text = format!("Error creating: {}", message(&error));
                    self.recorder.event_for(owner.clone(), Warning, "FailedCreate", text);
                }
                Err(error)
            }
        }
    }

    /// Deletes `pod`, if it is still the same one, and reports it on `owner`. False if it was gone already.
    pub async fn delete(&self, pod: &Pod, owner: &ObjectReference) -> Result<bool, Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match Api::<Pod>::namespaced(self.client.clone(), namespace).delete(name(pod), &params).await {
            Ok(_) => {
                let text = format!("Deleted pod: {}", name(pod));
                self.recorder.event_for(owner.clone(), Normal, "SuccessfulDelete", text);
                Ok(true)
            }
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => {
                let text = format!("Error deleting: {}", message(&error));
                self.recorder.event_for(owner.clone(), Warning, "FailedDelete", text);
                Err(error.into())
            }
        }
    }

    /// Creates `pods` in batches of 1, 2, 4, … and stops after the first batch with a failure, so that a set whose pods are
    /// refused does not flood the server. Returns how many were created and the first failure.
    pub async fn create_slowly(&self, pods: &[Pod], owner: &ObjectReference) -> (usize, Option<kube::Error>) {
        let (mut done, mut batch) = (0, 1);
        while done < pods.len() {
            let end = pods.len().min(done + batch);
            let results = join_all(pods[done..end].iter().map(|pod| self.create(pod, owner))).await;
            let created = results.iter().filter(|result| result.is_ok()).count();
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return (done + created, Some(error));
            }
            done = end;
            batch *= 2;
        }
        (done, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_takes_its_template_and_names_its_owner() {
        let template: PodTemplateSpec = serde_json::from_value(serde_json::json!({
            "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}, "name": "ignored"},
            "spec": {"containers": [{"name": "c"}]},
        }))
        .unwrap();
        let owner = OwnerReference { name: "web-abc".into(), controller: Some(true), ..OwnerReference::default() };
        let pod = from_template(&template, "ns", owner);
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-abc-"));
        assert_eq!(pod.metadata.name, None);
        assert_eq!(pod.metadata.labels.unwrap()["app"], "web");
        assert_eq!(pod.metadata.owner_references.unwrap()[0].name, "web-abc");
    }
}
