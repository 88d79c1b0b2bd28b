//! The StatefulSet controller: pods with a number, a name and storage of their own. The decision is [`plan::plan`].
mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use crate::claim::{claim, claim_if, name, namespace, uid};
use crate::controller_revision::{self, history};
use crate::error::{Error, is_already_exists, message, unless_not_found};
use crate::node_lifecycle::positive;
use crate::pod_owners::observe;
use crate::{pods, selector};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use pintle_client::informer::{Informer, ObjectKey, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Index, Recorder, WorkQueue};
use plan::{Revisions, Step, ordinal};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    recorder: Recorder,
    sets: Informer<StatefulSet>,
    pods: Index<Pod>,
    revisions: Index<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("statefulset-controller");
    let (sets, pods) = (cx.informers.of::<StatefulSet>(), cx.informers.of::<Pod>());
    let (revisions, claims) = (cx.informers.of::<ControllerRevision>(), cx.informers.of::<PersistentVolumeClaim>());
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "statefulset-controller", ""),
        client,
        sets: sets.clone(),
        pods: cx.informers.by_controller(),
        revisions: cx.informers.by_controller(),
        claims: claims.clone(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    sets.on_change(move |change| added.add(key_of(change.object().as_ref())));
    let (added, known) = (queue.clone(), sets.clone());
    pods.on_change(move |change| {
        let selects = |set: &StatefulSet, pod: &Pod| {
            let wanted = set.spec.as_ref().map(|spec| &spec.selector);
            wanted.is_some_and(|wanted| selector::matches(wanted, pod.metadata.labels.as_ref()))
        };
        observe(change, None, &known, selects, &added);
    });
    tokio::join!(sets.synced(), pods.synced(), revisions.synced(), claims.synced());
    queue.run("statefulset", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let Some(set) = controller.sets.get(&in_namespace, &named) else { return Ok(None) };
    let Some(spec) = &set.spec else { return Ok(None) };
    let api: Api<StatefulSet> = Api::namespaced(controller.client.clone(), &in_namespace);
    let pods_api: Api<Pod> = Api::namespaced(controller.client.clone(), &in_namespace);
    let revisions_api: Api<ControllerRevision> = Api::namespaced(controller.client.clone(), &in_namespace);
    let own =
        |pod: &Pod| ordinal(&set, pod).is_some() && selector::matches(&spec.selector, pod.metadata.labels.as_ref());
    let owned = claim_if(set.as_ref(), own, &controller.pods, &api, &pods_api).await?;
    let existing = claim(set.as_ref(), &spec.selector, &controller.revisions, &api, &revisions_api).await?;
    let status = set.status.clone().unwrap_or_default();
    let known =
        history(set.as_ref(), &spec.template, spec.selector.match_labels.as_ref(), status.collision_count, &existing);
    if !controller_revision::write(&revisions_api, &known).await? {
        let mut updated = set.as_ref().clone();
        let status = updated.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        api.replace_status(&named, &PostParams::default(), &updated).await?;
        return Ok(None);
    }
    let running = known.all.iter().find(|revision| Some(name(*revision)) == status.current_revision.as_deref());
    let current = running.unwrap_or(&known.current);
    let current_template = controller_revision::template(current).unwrap_or_else(|| spec.template.clone());
    let revisions = Revisions { current, current_template: &current_template, update: &known.current };
    let plan = plan::plan(&set, &revisions, &owned, Timestamp::now());
    if Some(&plan.status) != set.status.as_ref() {
        let mut updated = set.as_ref().clone();
        updated.status = Some(plan.status.clone());
        api.replace_status(&named, &PostParams::default(), &updated).await?;
    }
    // Before a pod that is scaled away goes, its claims must know that they follow it.
    controller.own_claims(&set, &owned).await?;
    for step in plan.steps {
        controller.apply(&set, step, &pods_api).await?;
    }
    let mut live: HashSet<String> = owned
        .iter()
        .filter_map(|pod| pod.metadata.labels.as_ref()?.get(controller_revision::HASH_LABEL).cloned())
        .collect();
    live.extend(plan.status.current_revision.clone());
    let limit = spec.revision_history_limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(10);
    controller_revision::delete(&revisions_api, &controller_revision::expired(&known, &live, limit)).await?;
    Ok(plan.again.map(positive))
}

impl Controller {
    async fn apply(&self, set: &StatefulSet, step: Step, pods: &Api<Pod>) -> Result<(), Error> {
        match step {
            Step::Create(pod) => {
                self.create_claims(set, &pod).await?;
                match pods.create(&PostParams::default(), &pod).await {
                    Ok(_) => {
                        let text = format!("create Pod {} in StatefulSet {} successful", name(&*pod), name(set));
                        self.recorder.event(set, Normal, "SuccessfulCreate", text);
                    }
                    Err(error) if is_already_exists(&error) => {}
                    Err(error) => {
                        let text = format!(
                            "create Pod {} in StatefulSet {} failed error: {}",
                            name(&*pod),
                            name(set),
                            message(&error)
                        );
                        self.recorder.event(set, Warning, "FailedCreate", text);
                        return Err(error.into());
                    }
                }
            }
            Step::Correct(pod) => {
                pods.replace(name(&*pod), &PostParams::default(), &pod).await?;
            }
            Step::Delete { pod } => {
                let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                if unless_not_found(pods.delete(name(pod.as_ref()), &params).await)?.is_some() {
                    let text = format!("delete Pod {} in StatefulSet {} successful", name(pod.as_ref()), name(set));
                    self.recorder.event(set, Normal, "SuccessfulDelete", text);
                }
            }
        }
        Ok(())
    }

    async fn create_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let Some(number) = ordinal(set, pod) else { return Ok(()) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace(set));
        for mut claim in plan::claims(set, number) {
            if let Some(existing) = self.claims.get(namespace(set), name(&claim)) {
                // It goes with the pod that had this name before; the new pod needs one of its own.
                let stale = existing
                    .metadata
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|owner| owner.kind == "Pod" && owner.name == name(pod) && owner.uid != uid(pod));
                if stale || existing.metadata.deletion_timestamp.is_some() {
                    return Err(Error::Unfinished(format!("pvc {} is being deleted", name(&claim))));
                }
                continue;
            }
            claim.metadata.owner_references = plan::claim_owners(set, pod, &claim);
            let text = format!("create Claim {} Pod {} in StatefulSet {}", name(&claim), name(pod), name(set));
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => self.recorder.event(set, Normal, "SuccessfulCreate", format!("{text} success")),
                Err(error) if is_already_exists(&error) => {}
                Err(error) => {
                    self.recorder.event(
                        set,
                        Warning,
                        "FailedCreate",
                        format!("{text} failed error: {}", message(&error)),
                    );
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Lets claims go with the set, or with a pod that is scaled away, as the retention policy says; makes those that a
    /// waiting pod lacks.
    async fn own_claims(&self, set: &StatefulSet, owned: &[Arc<Pod>]) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace(set));
        for pod in owned {
            let Some(number) = ordinal(set, pod) else { continue };
            if pods::phase(pod) == "Pending" && !pods::is_deleting(pod) {
                self.create_claims(set, pod).await?;
            }
            for template in plan::claims(set, number) {
                let Some(existing) = self.claims.get(namespace(set), name(&template)) else { continue };
                if let Some(owners) = plan::claim_owners(set, pod, &existing) {
                    let mut updated = existing.as_ref().clone();
                    updated.metadata.owner_references = Some(owners);
                    unless_not_found(api.replace(name(&updated), &PostParams::default(), &updated).await)?;
                }
            }
        }
        Ok(())
    }
}
