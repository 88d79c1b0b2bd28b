//! The ephemeral volume controller: makes the claims of pods' generic ephemeral volumes. They go with their pod.
//! (upstream: pkg/controller/volume/ephemeral)
use crate::Context;
use crate::claim::{controller_of, controller_ref, name, namespace, uid};
use crate::error::{Error, is_already_exists, message};
use crate::pods;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kube::api::{Api, ObjectMeta, PostParams};
use pintle_client::informer::{Change, ObjectKey, key_of};
use pintle_client::recorder::EventType::Warning;
use pintle_client::{Recorder, WorkQueue};
use std::time::Duration;

const WORKERS: usize = 2;

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

fn claim_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", name(pod), volume.name)
}

/// The claim of `volume`, which goes with `pod`.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
    let meta = template.metadata.unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(pod, volume)),
            namespace: Some(namespace(pod).to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    })
}

/// What to do about one volume: make a claim, nothing, or say why neither is right.
fn decide(
    pod: &Pod,
    volume: &Volume,
    existing: Option<&PersistentVolumeClaim>,
) -> Result<Option<PersistentVolumeClaim>, String> {
    match existing {
        None => Ok(claim(pod, volume)),
        Some(existing) if controller_of(existing).is_some_and(|owner| owner.uid == uid(pod)) => Ok(None),
        Some(existing) => {
            let (of, claim, named) = (namespace(pod), name(existing), name(pod));
            Err(format!("PVC {of}/{claim} was not created for pod {of}/{named} (pod is not owner)"))
        }
    }
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("ephemeral-volume-controller");
    let recorder = Recorder::core(client.clone(), "ephemeral_volume", "");
    let (all, claims) = (cx.informers.of::<Pod>(), cx.informers.of::<PersistentVolumeClaim>());
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    all.on_change(move |change| {
        if let Change::Added(pod) = change
            && !pods::is_deleting(pod)
            && ephemeral(pod).next().is_some()
        {
            added.add(key_of(pod.as_ref()));
        }
    });
    let added = queue.clone();
    claims.on_change(move |change| {
        // Somebody deleted the claim of a pod that still needs it.
        if let Change::Deleted(claim) = change
            && let Some(owner) = controller_of(claim.as_ref()).filter(|owner| owner.kind == "Pod")
        {
            added.add((namespace(claim.as_ref()).to_owned(), owner.name.clone()));
        }
    });
    tokio::join!(all.synced(), claims.synced());
    queue
        .run("ephemeral-volume", WORKERS, cx.stop, move |(in_namespace, named)| {
            let (client, recorder, all, claims) = (client.clone(), recorder.clone(), all.clone(), claims.clone());
            async move {
                let Some(pod) = all.get(&in_namespace, &named).filter(|pod| !pods::is_deleting(pod)) else {
                    return Ok::<_, Error>(None::<Duration>);
                };
                let api: Api<PersistentVolumeClaim> = Api::namespaced(client, &in_namespace);
                for volume in ephemeral(&pod) {
                    let existing = claims.get(&in_namespace, &claim_name(&pod, volume));
                    let failure = match decide(&pod, volume, existing.as_deref()) {
                        Ok(None) => continue,
                        Ok(Some(claim)) => match api.create(&PostParams::default(), &claim).await {
                            Err(error) if !is_already_exists(&error) => {
                                format!("create PVC {}: {}", name(&claim), message(&error))
                            }
                            _ => continue,
                        },
                        Err(why) => why,
                    };
                    let text = format!("ephemeral volume {}: {failure}", volume.name);
                    recorder.event(pod.as_ref(), Warning, "FailedBinding", text.clone());
                    return Err(Error::Unfinished(text));
                }
                Ok(None)
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}, {"name": "plain"}]}}))
        .unwrap()
    }

    #[test]
    fn a_claim_is_made_once_and_never_taken_from_another() {
        let pod = pod();
        let volumes: Vec<_> = ephemeral(&pod).collect();
        assert_eq!(volumes.len(), 1);
        let mut made = decide(&pod, volumes[0], None).unwrap().unwrap();
        assert_eq!((name(&made), made.metadata.labels.as_ref().unwrap()["a"].as_str()), ("web-scratch", "b"));
        assert_eq!(decide(&pod, volumes[0], Some(&made)), Ok(None));
        made.metadata.owner_references = None;
        let refused = decide(&pod, volumes[0], Some(&made)).unwrap_err();
        assert_eq!(refused, "PVC ns/web-scratch was not created for pod ns/web (pod is not owner)");
    }
}
