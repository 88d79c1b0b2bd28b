//! The PersistentVolume controller: binds claims and volumes, asks provisioners, follows the reclaim policy. The decisions are
//! in [`plan`].
mod matching;
mod plan;

use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, is_not_found};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, PostParams};
use matching::{claim_class, volume_class};
use pintle_client::informer::{Change, Informer};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Index, Recorder, WorkQueue};
use plan::{ClaimPlan, PROVISIONER, PROVISIONER_BETA, Surroundings, Told, VolumePlan, claim_plan, volume_plan};
use std::sync::Arc;
use std::time::Duration;

/// One at a time: two claims must not take one volume.
const WORKERS: usize = 1;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Pods by "namespace/claim".
pub(crate) const PODS_BY_CLAIM: &str = "claim";

/// What must be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(String, String),
    Volume(String),
}

fn claim_key(claim: &PersistentVolumeClaim) -> Key {
    Key::Claim(namespace(claim).to_owned(), name(claim).to_owned())
}

struct Controller {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Index<Pod>,
    queue: WorkQueue<Key>,
}

/// The claims that a pod uses, also through ephemeral volumes, for [`PODS_BY_CLAIM`].
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", name(pod), volume.name)),
        (None, None) => None,
    });
    claims.map(|claim| format!("{}/{claim}", namespace(pod))).collect()
}

fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default().is_empty()
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("persistent-volume-binder");
    let (claims, volumes) = (cx.informers.of::<PersistentVolumeClaim>(), cx.informers.of::<PersistentVolume>());
    let (classes, pods) = (cx.informers.of::<StorageClass>(), cx.informers.of::<Pod>());
    let queue = WorkQueue::<Key>::new();
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "persistentvolume-controller", ""),
        client,
        claims: claims.clone(),
        volumes: volumes.clone(),
        classes: classes.clone(),
        pods: cx.informers.index(PODS_BY_CLAIM, claims_of),
        queue: queue.clone(),
    });
    let added = queue.clone();
    claims.on_change(move |change| {
        let claim = change.object();
        match (change, claim.spec.as_ref().and_then(|spec| spec.volume_name.clone())) {
            (Change::Deleted(_), Some(volume)) => added.add(Key::Volume(volume)),
            (Change::Deleted(_), None) => {}
            _ => added.add(claim_key(claim)),
        }
    });
    let (added, waiting) = (queue.clone(), claims.clone());
    volumes.on_change(move |change| {
        let volume = change.object();
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if let Some(reference) = reference {
            added.add(Key::Claim(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            ));
        } else {
            // A free volume may be what a claim of its class waits for.
            for claim in waiting.list().iter().filter(|claim| is_pending(claim)) {
                if claim_class(claim).unwrap_or_default() == volume_class(volume) {
                    added.add(claim_key(claim));
                }
            }
        }
        if !matches!(change, Change::Deleted(_)) {
            added.add(Key::Volume(name(volume.as_ref()).to_owned()));
        }
    });
    let (added, waiting) = (queue.clone(), claims.clone());
    classes.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            waiting.list().iter().filter(|claim| is_pending(claim)).for_each(|claim| added.add(claim_key(claim)));
        }
    });
    tokio::join!(claims.synced(), volumes.synced(), classes.synced(), pods.synced());
    queue
        .run("persistentvolume", WORKERS, cx.stop, move |key| {
            let controller = controller.clone();
            async move {
                match key {
                    Key::Claim(namespace, name) => controller.sync_claim(&namespace, &name).await,
                    Key::Volume(name) => controller.sync_volume(&name).await,
                }
            }
        })
        .await;
}

impl Controller {
    fn claims_api(&self, in_namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), in_namespace)
    }

    fn volumes_api(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn tell<K: kube::Resource<DynamicType = ()>>(&self, object: &K, told: Told) {
        self.recorder.event(object, if told.warning { Warning } else { Normal }, told.reason, told.message);
    }

    /// The newest of the classes that are marked as default.
    fn default_class(&self) -> Option<String> {
        let marked = |class: &StorageClass| {
            class
                .metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(DEFAULT_CLASS))
                .is_some_and(|is| is == "true")
        };
        let newest = self.classes.list().into_iter().filter(|class| marked(class)).max_by_key(|class| {
            let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, std::cmp::Reverse(name(class.as_ref()).to_owned()))
        })?;
        Some(name(newest.as_ref()).to_owned())
    }

    async fn sync_claim(&self, in_namespace: &str, named: &str) -> Result<Option<Duration>, Error> {
        let Some(claim) = self.claims.get(in_namespace, named) else { return Ok(None) };
        let volumes = self.volumes.list();
        let class = claim_class(&claim).and_then(|class| self.classes.get("", class));
        let unscheduled =
            |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default().is_empty();
        let waiting = self.pods.get(&format!("{in_namespace}/{named}")).into_iter().filter(|pod| unscheduled(pod));
        let around = Surroundings {
            volumes: &volumes,
            class: class.as_deref(),
            default_class: self.default_class(),
            waiting_pods: waiting.map(|pod| name(pod.as_ref()).to_owned()).collect(),
        };
        let api = self.claims_api(in_namespace);
        match claim_plan(&claim, &around) {
            ClaimPlan::Bind(volume) => self.bind(&claim, &volume).await?,
            ClaimPlan::SetClass(class) => {
                let mut updated = claim.as_ref().clone();
                updated.spec.get_or_insert_default().storage_class_name = Some(class);
                api.replace(named, &PostParams::default(), &updated).await?;
            }
            ClaimPlan::Pending(told) => {
                if let Some(told) = told {
                    self.tell(claim.as_ref(), told);
                }
                self.set_claim_status(&claim, "Pending").await?;
            }
            ClaimPlan::Lost(told) => {
                if self.set_claim_status(&claim, "Lost").await? {
                    self.tell(claim.as_ref(), told);
                }
            }
            ClaimPlan::Provision { provisioner, told } => {
                let mut updated = claim.as_ref().clone();
                let annotations = updated.metadata.annotations.get_or_insert_default();
                for key in [PROVISIONER, PROVISIONER_BETA] {
                    annotations.insert(key.to_owned(), provisioner.clone());
                }
                if updated.metadata.annotations == claim.metadata.annotations {
                    self.set_claim_status(&claim, "Pending").await?;
                } else {
                    api.replace(named, &PostParams::default(), &updated).await?;
                    self.tell(claim.as_ref(), told);
                }
            }
        }
        Ok(None)
    }

    async fn set_claim_status(&self, claim: &PersistentVolumeClaim, phase: &str) -> Result<bool, Error> {
        let Some(updated) = plan::claim_status(claim, phase, None) else { return Ok(false) };
        self.claims_api(namespace(claim)).replace_status(name(claim), &PostParams::default(), &updated).await?;
        Ok(true)
    }

    /// Four writes, each only if needed: volume, its phase, claim, its phase. Stopped anywhere, the next look goes on.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Error> {
        let mut volume = volume.clone();
        if let Some(bound) = plan::bound_volume(&volume, claim) {
            volume = self.volumes_api().replace(name(&volume), &PostParams::default(), &bound).await?;
        }
        volume = self.set_phase(volume, "Bound").await?;
        let api = self.claims_api(namespace(claim));
        let mut claim = claim.clone();
        if let Some(bound) = plan::bound_claim(&claim, &volume) {
            claim = api.replace(name(&claim), &PostParams::default(), &bound).await?;
        }
        if let Some(updated) = plan::claim_status(&claim, "Bound", Some(&volume)) {
            api.replace_status(name(&claim), &PostParams::default(), &updated).await?;
        }
        Ok(())
    }

    async fn set_phase(&self, mut volume: PersistentVolume, phase: &str) -> Result<PersistentVolume, Error> {
        let status = volume.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(volume);
        }
        status.phase = Some(phase.to_owned());
        status.message = None;
        Ok(self.volumes_api().replace_status(name(&volume), &PostParams::default(), &volume).await?)
    }

    async fn sync_volume(&self, named: &str) -> Result<Option<Duration>, Error> {
        let Some(volume) = self.volumes.get("", named) else { return Ok(None) };
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone()).unwrap_or_default();
        let in_namespace = reference.namespace.unwrap_or_default();
        let claim_name = reference.name.unwrap_or_default();
        let mut claim = self.claims.get(&in_namespace, &claim_name);
        if !claim_name.is_empty()
            && claim.as_ref().and_then(|claim| claim.metadata.uid.as_ref()) != reference.uid.as_ref()
        {
            // The local copy may be behind; data must not be given up for that.
            claim = match self.claims_api(&in_namespace).get(&claim_name).await {
                Ok(live) => Some(Arc::new(live)),
                Err(error) if is_not_found(&error) => None,
                Err(error) => return Err(error.into()),
            };
        }
        match volume_plan(&volume, claim.as_deref()) {
            VolumePlan::Phase(phase) => {
                self.set_phase(volume.as_ref().clone(), phase).await?;
            }
            VolumePlan::WakeClaim => self.queue.add(Key::Claim(in_namespace, claim_name)),
            VolumePlan::Unbind => {
                let freed =
                    self.volumes_api().replace(named, &PostParams::default(), &plan::unbound_volume(&volume)).await?;
                self.set_phase(freed, "Available").await?;
            }
            VolumePlan::Mismatch => {
                let text = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim_name:?} due to incompatible volumeMode."
                );
                self.recorder.event(volume.as_ref(), Warning, "VolumeMismatch", text);
                if let Some(claim) = claim {
                    let text = format!(
                        "Cannot bind PersistentVolume {named:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
                    );
                    self.recorder.event(claim.as_ref(), Warning, "VolumeMismatch", text);
                }
            }
            // Retain: nothing more to do. Delete: whoever provisioned the volume sees the phase.
            VolumePlan::Reclaim => {
                let failed = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
                if !failed {
                    self.set_phase(volume.as_ref().clone(), "Released").await?;
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_uses_its_claims_and_those_of_its_ephemeral_volumes() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}, {"name": "c"},
            ]},
        }))
        .unwrap();
        assert_eq!(claims_of(&pod), ["ns/data", "ns/p-b"]);
    }
}
