//! The Deployment controller: rolls templates out through ReplicaSets. The decision is [`plan::plan`].
mod plan;
mod revision;
mod status;
#[cfg(test)]
mod tests;

use crate::Context;
use crate::claim::{claim, controller_of, name, namespace, uid};
use crate::error::{Error, is_already_exists, is_namespace_terminating, message, unless_not_found};
use crate::{pods, selector};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use pintle_client::informer::{Change, ObjectKey, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Index, Informer, Recorder, WorkQueue};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Index<ReplicaSet>,
    pods: Index<Pod>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("deployment-controller");
    let (deployments, sets, pods) =
        (cx.informers.of::<Deployment>(), cx.informers.of::<ReplicaSet>(), cx.informers.of::<Pod>());
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "deployment-controller", ""),
        client,
        deployments: deployments.clone(),
        sets: cx.informers.by_controller(),
        pods: cx.informers.by_controller(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    deployments.on_change(move |change| added.add(key_of(change.object().as_ref())));
    let (added, known) = (queue.clone(), deployments.clone());
    sets.on_change(move |change| enqueue_owners(change, &known, &added));
    let (added, known) = (queue.clone(), sets.clone());
    // A Recreate rollout waits for the last old pod.
    pods.on_change(move |change| {
        let Change::Deleted(pod) = change else { return };
        let Some(owner) = controller_of(pod.as_ref()).filter(|owner| owner.kind == "ReplicaSet") else { return };
        let set = known.get(namespace(pod.as_ref()), &owner.name).filter(|set| uid(set.as_ref()) == owner.uid);
        if let Some(owner) = set.as_deref().and_then(controller_of) {
            added.add((namespace(pod.as_ref()).to_owned(), owner.name.clone()));
        }
    });
    tokio::join!(deployments.synced(), sets.synced(), pods.synced());
    queue.run("deployment", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

fn enqueue_owners(change: &Change<'_, ReplicaSet>, deployments: &Informer<Deployment>, queue: &WorkQueue<ObjectKey>) {
    let add = |set: &ReplicaSet| {
        let in_namespace = namespace(set);
        match controller_of(set) {
            Some(owner) if owner.kind == "Deployment" => queue.add((in_namespace.to_owned(), owner.name.clone())),
            Some(_) => {}
            None => {
                for deployment in deployments.list_namespace(in_namespace) {
                    let wants = deployment.spec.as_ref().map(|spec| &spec.selector);
                    if wants.is_some_and(|wants| {
                        !selector::is_empty(wants) && selector::matches(wants, set.metadata.labels.as_ref())
                    }) {
                        queue.add(key_of(deployment.as_ref()));
                    }
                }
            }
        }
    };
    if let Change::Updated(old, new) = change
        && controller_of(old.as_ref()) != controller_of(new.as_ref())
    {
        add(old);
    }
    add(change.object());
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let Some(deployment) = controller.deployments.get(&in_namespace, &named) else { return Ok(None) };
    let sets_api: Api<ReplicaSet> = Api::namespaced(controller.client.clone(), &in_namespace);
    let api: Api<Deployment> = Api::namespaced(controller.client.clone(), &in_namespace);
    let Some(wants) = deployment.spec.as_ref().map(|spec| &spec.selector) else { return Ok(None) };
    if selector::is_empty(wants) {
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        controller.recorder.event(deployment.as_ref(), Warning, "SelectingAll", text);
        return Ok(None);
    }
    let sets = claim(deployment.as_ref(), wants, &controller.sets, &api, &sets_api).await?;
    let sets: Vec<ReplicaSet> = sets.iter().map(|set| set.as_ref().clone()).collect();
    let uids: Vec<String> = sets.iter().map(|set| uid(set).to_owned()).collect();
    let old_pods_running = |newest: Option<&ReplicaSet>| {
        let old = uids.iter().filter(|set| newest.is_none_or(|newest| uid(newest) != *set));
        old.flat_map(|set| controller.pods.get(set)).any(|pod| !pods::is_terminal(&pod))
    };
    let plan = plan::plan(&deployment, sets, old_pods_running, Timestamp::now());
    let again = plan.again;
    Box::pin(controller.apply(&deployment, plan, &api, &sets_api)).await?;
    Ok(again.and_then(|after| Duration::try_from(after).ok()))
}

impl Controller {
    async fn apply(
        &self,
        deployment: &Deployment,
        plan: plan::Plan,
        api: &Api<Deployment>,
        sets: &Api<ReplicaSet>,
    ) -> Result<(), Error> {
        if let Some(create) = plan.create {
            match sets.create(&PostParams::default(), &create.set).await {
                Ok(_) => self.scaled(deployment, create.events),
                Err(error) if is_already_exists(&error) => {
                    return self.collide(deployment, &create.set, api, sets).await;
                }
                Err(error) if is_namespace_terminating(&error) => return Ok(()),
                Err(error) => {
                    self.report_failure(deployment, &create.set, &error, api).await;
                    return Err(error.into());
                }
            }
        }
        for update in plan.updates {
            sets.replace(name(&update.set), &PostParams::default(), &update.set).await?;
            self.scaled(deployment, update.events);
        }
        for old in plan.deletes {
            unless_not_found(sets.delete(&old, &DeleteParams::background()).await)?;
        }
        if let Some(updated) = plan.status {
            api.replace_status(name(deployment), &PostParams::default(), &updated).await?;
        }
        Ok(())
    }

    fn scaled(&self, deployment: &Deployment, messages: Vec<String>) {
        for text in messages {
            self.recorder.event(deployment, Normal, "ScalingReplicaSet", text);
        }
    }

    /// The name is taken: by our own set that the local copy does not show yet, or by another template of the same hash.
    async fn collide(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        api: &Api<Deployment>,
        sets: &Api<ReplicaSet>,
    ) -> Result<(), Error> {
        let live = sets.get(name(set)).await?;
        let ours = controller_of(&live).is_some_and(|owner| owner.uid == uid(deployment));
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        if ours && template.is_some_and(|template| plan::same_template(template, &live)) {
            return Err(Error::Stale(format!("ReplicaSet {}", name(set))));
        }
        let mut updated = deployment.clone();
        let status = updated.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        api.replace_status(name(deployment), &PostParams::default(), &updated).await?;
        Err(Error::Unfinished(format!("the name of ReplicaSet {} is taken, a new one was chosen", name(set))))
    }

    async fn report_failure(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        error: &kube::Error,
        api: &Api<Deployment>,
    ) {
        let text = format!("Failed to create new replica set {:?}: {}", name(set), message(error));
        if status::progress_deadline(deployment).is_some() {
            let mut updated = deployment.clone();
            let condition = status::progress("False", status::CREATE_FAILED, text.clone(), Timestamp::now());
            status::set(updated.status.get_or_insert_default(), condition);
            if let Err(error) = api.replace_status(name(deployment), &PostParams::default(), &updated).await {
                tracing::debug!(%error, "the failure could not be written to the status");
            }
        }
        self.recorder.event(deployment, Warning, status::CREATE_FAILED, text);
    }
}
