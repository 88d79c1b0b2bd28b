//! The CronJob controller: starts Jobs by a schedule and keeps a history of them. The decision is [`plan::plan`].
//! (upstream: pkg/controller/cronjob)
mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use crate::claim::{controller_of, name, namespace, uid};
use crate::error::{Error, is_already_exists, is_namespace_terminating, is_not_found, message, unless_not_found};
use crate::node_lifecycle::positive;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::Resource;
use kube::api::{Api, DeleteParams, PostParams};
use pintle_client::informer::{Change, Informer, ObjectKey, key_of};
use pintle_client::recorder::EventType::{self, Normal, Warning};
use pintle_client::{Index, Recorder, WorkQueue};
use plan::Plan;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    recorder: Recorder,
    crons: Informer<CronJob>,
    jobs: Index<Job>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("cronjob-controller");
    let (crons, jobs) = (cx.informers.of::<CronJob>(), cx.informers.of::<Job>());
    let recorder = Recorder::core(client.clone(), "cronjob-controller", "");
    let controller = Arc::new(Controller {
        client,
        recorder: recorder.clone(),
        crons: crons.clone(),
        jobs: cx.informers.by_controller(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    crons.on_change(move |change| wake(change, &added, &recorder));
    let added = queue.clone();
    jobs.on_change(move |change| {
        let owned = |job: &Job| controller_of(job).filter(|owner| owner.kind == "CronJob").cloned();
        let before = match change {
            Change::Updated(old, _) => owned(old),
            _ => None,
        };
        for owner in before.into_iter().chain(owned(change.object())) {
            added.add((namespace(change.object().as_ref()).to_owned(), owner.name));
        }
    });
    tokio::join!(crons.synced(), jobs.synced());
    queue.run("cronjob", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

/// A changed schedule waits for its next time; it does not make up for times that it would have had.
// upstream: updateCronJob
fn wake(change: &Change<'_, CronJob>, queue: &WorkQueue<ObjectKey>, recorder: &Recorder) {
    let when = |cron: &CronJob| (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
    match change {
        Change::Updated(old, new) if when(old) != when(new) => match plan::schedule(new) {
            Ok(schedule) => {
                if let Some(after) = plan::next_look(new, &schedule, Timestamp::now()) {
                    queue.add_after(key_of(new.as_ref()), positive(after));
                }
            }
            Err(_) => {
                let text = format!("unparseable schedule for cronjob: {}", new.spec.schedule);
                recorder.event(new.as_ref(), Warning, "UnParseableCronJobSchedule", text);
            }
        },
        Change::Added(cron) | Change::Updated(_, cron) => queue.add(key_of(cron.as_ref())),
        Change::Deleted(_) => {}
    }
}

fn kind(warning: bool) -> EventType {
    if warning { Warning } else { Normal }
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let Some(cron) = controller.crons.get(&in_namespace, &named) else { return Ok(None) };
    let api: Api<CronJob> = Api::namespaced(controller.client.clone(), &in_namespace);
    let jobs: Api<Job> = Api::namespaced(controller.client.clone(), &in_namespace);
    let owned = controller.jobs.get(uid(cron.as_ref()));
    let mut cron = cron.as_ref().clone();
    if plan::may_be_stale(&cron, &owned) {
        match unless_not_found(api.get(&named).await)? {
            Some(live) if uid(&live) == uid(&cron) => cron = live,
            _ => return Ok(None),
        }
    }
    let mut removed: HashSet<String> = HashSet::new();
    for job in plan::excess(&cron, &owned) {
        if controller.delete(&cron, &jobs, job.as_ref()).await {
            removed.insert(uid(job.as_ref()).to_owned());
        }
    }
    let mut vanished = HashSet::new();
    for listed in plan::missing(&cron, &owned) {
        // The local copy may be behind: only the API knows that a Job is gone.
        if unless_not_found(jobs.get_metadata(listed.name.as_deref().unwrap_or_default()).await)?.is_none() {
            vanished.extend(listed.uid.clone());
        }
    }
    let decided = plan::plan(&cron, &owned, &vanished, Timestamp::now());
    for (warning, reason, text) in &decided.events {
        controller.recorder.event(&cron, kind(*warning), reason, text.clone());
    }
    let mut status = decided.status.clone();
    removed.iter().for_each(|uid| {
        plan::forget(&mut status, uid);
    });
    let again = decided.again;
    let result = controller.start(&cron, decided, &mut status, &jobs).await;
    if cron.status.clone().unwrap_or_default() != status {
        let updated = CronJob { status: Some(status), ..cron.clone() };
        unless_not_found(api.replace_status(&named, &PostParams::default(), &updated).await)?;
    }
    result.map(|()| again.map(positive))
}

impl Controller {
    /// Replaces running Jobs and starts the new one; `status` shows how far it came.
    async fn start(
        &self,
        cron: &CronJob,
        plan: Plan,
        status: &mut CronJobStatus,
        jobs: &Api<Job>,
    ) -> Result<(), Error> {
        let Some((job, at)) = plan.start else { return Ok(()) };
        for listed in &plan.replace {
            let running = match jobs.get(listed.name.as_deref().unwrap_or_default()).await {
                Ok(running) => running,
                Err(error) => {
                    self.recorder.event(cron, Warning, "FailedGet", format!("Get job: {}", message(&error)));
                    return Err(error.into());
                }
            };
            if !self.delete(cron, jobs, &running).await {
                let text = format!("could not replace job {}/{}", namespace(&running), name(&running));
                return Err(Error::Unfinished(text));
            }
            plan::forget(status, uid(&running));
        }
        let started = match jobs.create(&PostParams::default(), &job).await {
            Ok(started) => {
                self.recorder.event(cron, Normal, "SuccessfulCreate", format!("Created job {}", name(&started)));
                started
            }
            Err(error) if is_already_exists(&error) => {
                let existing = jobs.get(name(&job)).await?;
                let ours = controller_of(&existing).is_some_and(|owner| owner.uid == uid(cron));
                let listed = status.active.iter().flatten().any(|listed| listed.uid.as_deref() == Some(uid(&existing)));
                if !ours || listed {
                    return Ok(());
                }
                existing
            }
            Err(error) => {
                if !is_namespace_terminating(&error) {
                    let text = format!("Error creating job: {}", message(&error));
                    self.recorder.event(cron, Warning, "FailedCreate", text);
                }
                return Err(error.into());
            }
        };
        let reference: ObjectReference = started.object_ref(&());
        status.active.get_or_insert_default().push(reference);
        status.last_schedule_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
        Ok(())
    }

    /// Deletes a Job and its pods; true if it is gone.
    async fn delete(&self, cron: &CronJob, jobs: &Api<Job>, job: &Job) -> bool {
        match jobs.delete(name(job), &DeleteParams::background()).await {
            Ok(_) => {
                self.recorder.event(cron, Normal, "SuccessfulDelete", format!("Deleted job {}", name(job)));
                true
            }
            Err(error) if is_not_found(&error) => true,
            Err(error) => {
                let text = format!("Deleted job: {}", message(&error));
                self.recorder.event(cron, Warning, "FailedDelete", text);
                false
            }
        }
    }
}
