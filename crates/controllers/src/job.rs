//! The Job controller: runs pods until enough of them have succeeded. The decision is [`plan::plan`].
mod backoff;
mod indexes;
pub(crate) mod plan;
mod pod;
mod policy;
#[cfg(test)]
mod tests;

use crate::Context;
use crate::claim::{claim, controller_of, name, uid};
use crate::error::{Error, is_conflict, is_namespace_terminating, message, unless_not_found};
use crate::expectations::Expectations;
use crate::node_lifecycle::positive;
use crate::pod_control::PodControl;
use crate::pod_owners::observe;
use crate::written::Written;
use crate::{pods, selector};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use pintle_client::informer::{Change, Informer, ObjectKey, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Index, Recorder, WorkQueue};
use plan::is_finished;
use pod::{TRACKING, is_tracked};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    recorder: Recorder,
    control: PodControl,
    jobs: Informer<Job>,
    all_pods: Informer<Pod>,
    pods: Index<Pod>,
    expectations: Expectations,
    written: Written,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("job-controller");
    let (jobs, pods) = (cx.informers.of::<Job>(), cx.informers.of::<Pod>());
    let recorder = Recorder::core(client.clone(), "job-controller", "");
    let controller = Arc::new(Controller {
        control: PodControl::new(client.clone(), recorder.clone()),
        recorder,
        client,
        jobs: jobs.clone(),
        all_pods: pods.clone(),
        pods: cx.informers.by_controller(),
        expectations: Expectations::default(),
        written: Written::default(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let orphans = WorkQueue::<ObjectKey>::new();
    let (added, watching) = (queue.clone(), controller.clone());
    jobs.on_change(move |change| {
        if let Change::Deleted(job) = change {
            watching.expectations.forget(uid(job.as_ref()));
            watching.written.forget(uid(job.as_ref()));
        }
        added.add(key_of(change.object().as_ref()));
    });
    let (added, expectations, known) = (queue.clone(), controller.expectations.clone(), jobs.clone());
    let lost = orphans.clone();
    pods.on_change(move |change| {
        let selects = |set: &Job, pod: &Pod| {
            let wanted = set.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            wanted.is_some_and(|wanted| selector::matches(wanted, pod.metadata.labels.as_ref()))
        };
        observe(change, Some(&expectations), &known, selects, &added);
        if !matches!(change, Change::Deleted(_)) && is_orphan(change.object()) {
            lost.add(key_of(change.object().as_ref()));
        }
    });
    tokio::join!(jobs.synced(), pods.synced());
    let (finding, stop) = (controller.clone(), cx.stop.clone());
    tokio::join!(
        queue.run("job", WORKERS, cx.stop, move |key| sync(controller.clone(), key)),
        orphans.run("job-orphans", 1, stop, move |key| {
            let controller = finding.clone();
            async move { controller.release_orphan(&key).await }
        })
    );
}

/// True if the pod waits to be counted and belongs to nobody: no Job would ever let it go.
fn is_orphan(pod: &Pod) -> bool {
    is_tracked(pod) && controller_of(pod).is_none()
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let Some(job) = controller.jobs.get(&in_namespace, &named) else {
        return controller.release_orphans(&in_namespace, &named).await;
    };
    let by_other = job
        .spec
        .as_ref()
        .and_then(|spec| spec.managed_by.as_deref())
        .is_some_and(|by| by != "kubernetes.io/job-controller");
    let Some(selector) = job.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|_| !by_other) else {
        return Ok(None);
    };
    let api: Api<Job> = Api::namespaced(controller.client.clone(), &in_namespace);
    let pods_api: Api<Pod> = Api::namespaced(controller.client.clone(), &in_namespace);
    let caught_up = controller.expectations.satisfied(uid(job.as_ref()));
    let owned = claim(job.as_ref(), selector, &controller.pods, &api, &pods_api).await?;
    for adopted in owned.iter().filter(|pod| controller_of(pod.as_ref()).is_none() && !pods::is_terminal(pod)) {
        let patch = Patch::Strategic(json!({"metadata": {"uid": uid(adopted.as_ref()), "finalizers": [TRACKING]}}));
        unless_not_found(pods_api.patch(name(adopted.as_ref()), &PatchParams::default(), &patch).await)?;
    }
    if is_finished(&job) {
        release(&pods_api, &owned).await?;
        return Ok(None);
    }
    // A change that is still to come wakes the Job again.
    if !caught_up || !controller.written.is_current(job.as_ref()) {
        return Ok(None);
    }
    let mut plan = plan::plan(&job, &owned, Timestamp::now());
    let (missing, failure) = controller.manage(&job, &plan, &pods_api).await?;
    let active = plan.status.active.unwrap_or(0) - i32::try_from(missing).unwrap_or(0);
    plan.status.active = Some(active).filter(|active| *active > 0);
    if job.status.as_ref() != Some(&plan.status) {
        let mut updated = job.as_ref().clone();
        updated.status = Some(plan.status);
        controller.written.note(&api.replace_status(&named, &PostParams::default(), &updated).await?);
        for (warning, reason, text) in plan.events {
            controller.recorder.event(job.as_ref(), if warning { Warning } else { Normal }, &reason, text);
        }
    }
    release(&pods_api, &plan.release).await?;
    failure.map_or(Ok(plan.again.map(positive)), Err)
}

/// Takes the tracking finalizer off: the pods are counted.
async fn release(api: &Api<Pod>, pods: &[Arc<Pod>]) -> Result<(), Error> {
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        let patch = json!({"metadata": {"uid": uid(pod.as_ref()), "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        unless_not_found(api.patch(name(pod.as_ref()), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
    }
    Ok(())
}

impl Controller {
    /// Lets an orphan go, if it is one still: a Job that adopts it meanwhile makes it another version.
    async fn release_orphan(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.all_pods.get(&key.0, &key.1).filter(|pod| is_orphan(pod)) else { return Ok(None) };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
        let patch = Patch::Strategic(json!({"metadata": {
            "uid": uid(pod.as_ref()), "resourceVersion": pod.metadata.resource_version,
            "$deleteFromPrimitiveList/finalizers": [TRACKING],
        }}));
        match unless_not_found(api.patch(&key.1, &PatchParams::default(), &patch).await) {
            // Its change comes here, too.
            Err(Error::Api(error)) if is_conflict(&error) => Ok(None),
            result => result.map(|_| None),
        }
    }

    /// The Job is gone: nobody counts its pods any more.
    async fn release_orphans(&self, in_namespace: &str, named: &str) -> Result<Option<Duration>, Error> {
        let of_job = |pod: &Pod| controller_of(pod).is_some_and(|owner| owner.kind == "Job" && owner.name == named);
        let mut orphans = self.all_pods.list_namespace(in_namespace);
        orphans.retain(|pod| is_tracked(pod) && of_job(pod));
        if orphans.is_empty() {
            return Ok(None);
        }
        let live = Api::<Job>::namespaced(self.client.clone(), in_namespace).get_opt(named).await?;
        orphans.retain(|pod| {
            controller_of(pod.as_ref()).map(|owner| &owner.uid)
                != live.as_ref().and_then(|job| job.metadata.uid.as_ref())
        });
        release(&Api::namespaced(self.client.clone(), in_namespace), &orphans).await?;
        Ok(None)
    }

    /// Creates and deletes pods. Returns how many could not be created and why; an error if any could not be deleted.
    async fn manage(&self, job: &Job, plan: &plan::Plan, pods_api: &Api<Pod>) -> Result<(usize, Option<Error>), Error> {
        let (key, regarding) = (uid(job), job.object_ref(&()));
        if plan.forget_deleted {
            release(pods_api, &plan.delete).await?;
        }
        self.expectations.expect_deletions(key, plan.delete.iter().map(|pod| uid(pod.as_ref()).to_owned()));
        let deleted = join_all(plan.delete.iter().map(|pod| async {
            let result = self.control.delete(pod, &regarding).await;
            if !matches!(result, Ok(true)) {
                self.expectations.deleted(key, uid(pod.as_ref()));
            }
            result
        }))
        .await;
        deleted.into_iter().find_map(Result::err).map_or(Ok(()), Err)?;
        self.expectations.expect_creations(key, plan.create.len());
        let (created, error) = self.control.create_slowly(&plan.create, &regarding).await;
        for _ in created..plan.create.len() {
            self.expectations.created(key);
        }
        let error = error.filter(|error| !is_namespace_terminating(error));
        Ok((plan.create.len() - created, error.map(|error| Error::Unfinished(message(&error)))))
    }
}

/// Runs the TTL controller: finished Jobs are deleted `spec.ttlSecondsAfterFinished` after their end.
pub(crate) async fn run_ttl(cx: Context) {
    let client = cx.clients.controller("ttl-after-finished-controller");
    let jobs = cx.informers.of::<Job>();
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    jobs.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && expires_at(change.object()).is_some() {
            added.add(key_of(change.object().as_ref()));
        }
    });
    jobs.synced().await;
    queue
        .run("ttl-after-finished", 1, cx.stop, move |(in_namespace, named)| {
            let (client, jobs) = (client.clone(), jobs.clone());
            async move {
                let Some(job) = jobs.get(&in_namespace, &named) else { return Ok::<_, Error>(None) };
                let Some(at) = expires_at(&job) else { return Ok(None) };
                let left = at.duration_since(Timestamp::now());
                if left.is_positive() {
                    return Ok(Some(positive(left)));
                }
                let preconditions = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
                unless_not_found(Api::<Job>::namespaced(client, &in_namespace).delete(&named, &params).await)?;
                Ok(None)
            }
        })
        .await;
}

/// When a finished Job is to be deleted.
fn expires_at(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if !is_finished(job) || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut ends = job.status.as_ref()?.conditions.iter().flatten();
    let end =
        ends.find(|condition| condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed"))?;
    end.last_transition_time.as_ref()?.0.checked_add(jiff::SignedDuration::from_secs(i64::from(ttl))).ok()
}

#[cfg(test)]
mod orphan_tests {
    use super::*;

    #[test]
    fn a_pod_that_no_job_can_let_go_is_an_orphan() {
        let pod = |owners: serde_json::Value, finalizer: &str| -> Pod {
            let meta = json!({"name": "p", "ownerReferences": owners, "finalizers": [finalizer]});
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true}]);
        assert!(is_orphan(&pod(json!([]), TRACKING)));
        assert!(!is_orphan(&pod(owner, TRACKING)));
        assert!(!is_orphan(&pod(json!([]), "example.com/other")));
    }
}
