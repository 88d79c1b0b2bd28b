//! What to do about a Job: [`plan`] is a pure function of it and its pods.
//! (upstream: pkg/controller/job)
use super::indexes::Indexes;
use crate::claim::{controller_ref, name, namespace, uid};
use crate::pod_control::from_template;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;

/// Holds a finished pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The pod's completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Delay before a failed pod is replaced; doubles with each failure in a row.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const MAX_BACKOFF: SignedDuration = SignedDuration::from_secs(360);
/// Pods created or deleted in one go.
const BURST: usize = 500;

/// What to do, in this order: pods, status, finalizers, events.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    pub status: JobStatus,
    /// Pods that the status accounts for: they may go.
    pub release: Vec<Arc<Pod>>,
    /// (warning, reason, message)
    pub events: Vec<(bool, String, String)>,
    pub again: Option<SignedDuration>,
}

/// The condition of type `kind`, if it holds.
fn holds<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// True if the Job has ended, well or badly.
pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| holds(status, "Complete").is_some() || holds(status, "Failed").is_some())
}

/// True if the pod waits to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

fn index_of(pod: &Pod) -> Option<usize> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

fn set(status: &mut JobStatus, kind: &str, is: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == kind && condition.status == is) {
        return false;
    }
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: is.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    true
}

/// What the Job asks for, with defaults.
struct Wanted {
    parallelism: usize,
    completions: Option<usize>,
    backoff_limit: i32,
    indexed: bool,
    suspended: bool,
    /// Failed pods are replaced only when they have ended.
    replace_ended_only: bool,
}

fn wanted(job: &Job) -> Wanted {
    let spec = job.spec.clone().unwrap_or_default();
    let count = |number: i32| usize::try_from(number).unwrap_or(0);
    Wanted {
        parallelism: count(spec.parallelism.unwrap_or(1)),
        completions: spec.completions.map(count),
        backoff_limit: spec.backoff_limit.unwrap_or(6),
        indexed: spec.completion_mode.as_deref() == Some("Indexed"),
        suspended: spec.suspend == Some(true),
        replace_ended_only: spec.pod_replacement_policy.as_deref() == Some("Failed"),
    }
}

/// The pods of a Job by what they mean for it.
struct Sorted {
    active: Vec<Arc<Pod>>,
    succeeded: Vec<Arc<Pod>>,
    failed: Vec<Arc<Pod>>,
    terminating: usize,
}

fn sort(owned: &[Arc<Pod>], wanted: &Wanted) -> Sorted {
    let mut sorted = Sorted { active: Vec::new(), succeeded: Vec::new(), failed: Vec::new(), terminating: 0 };
    for pod in owned {
        match pods::phase(pod) {
            "Succeeded" => sorted.succeeded.push(pod.clone()),
            "Failed" => sorted.failed.push(pod.clone()),
            _ if pods::is_deleting(pod) => {
                sorted.terminating += 1;
                if !wanted.replace_ended_only {
                    sorted.failed.push(pod.clone());
                }
            }
            _ => sorted.active.push(pod.clone()),
        }
    }
    sorted
}

/// Moves finished pods through `uncountedTerminatedPods` into the counters: first the UID is written down, then the finalizer
/// is taken off, then the pod is counted. Stopped anywhere, nothing is lost or counted twice.
fn account(status: &mut JobStatus, sorted: &Sorted, owned: &[Arc<Pod>], indexed: bool) -> Vec<Arc<Pod>> {
    let mut uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let tracked = |id: &str| owned.iter().any(|pod| uid(pod.as_ref()) == id && is_tracked(pod));
    let settle = |list: &mut Option<Vec<String>>, finished: &[Arc<Pod>], counter: &mut Option<i32>, counts: bool| {
        let ids = list.get_or_insert_default();
        let before = ids.len();
        ids.retain(|id| tracked(id));
        if counts {
            *counter = Some(counter.unwrap_or(0) + i32::try_from(before - ids.len()).unwrap_or(0));
        }
        let new = finished.iter().filter(|pod| is_tracked(pod)).map(|pod| uid(pod.as_ref()).to_owned());
        for id in new {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            *list = None;
        }
    };
    settle(&mut uncounted.succeeded, &sorted.succeeded, &mut status.succeeded, !indexed);
    settle(&mut uncounted.failed, &sorted.failed, &mut status.failed, true);
    let waits = |pod: &&Arc<Pod>| {
        let listed = uncounted.succeeded.iter().chain(&uncounted.failed).flatten();
        is_tracked(pod) && listed.into_iter().any(|id| id == uid(pod.as_ref()))
    };
    let release = owned.iter().filter(waits).cloned().collect();
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods { ..uncounted });
    release
}

fn pending(status: &JobStatus) -> (i32, i32) {
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let count = |list: Option<Vec<String>>| i32::try_from(list.unwrap_or_default().len()).unwrap_or(i32::MAX);
    (count(uncounted.succeeded), count(uncounted.failed))
}

/// Decides about `job` with its pods `owned`.
pub fn plan(job: &Job, owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let (wanted, mut plan) = (wanted(job), Plan::default());
    let mut status = job.status.clone().unwrap_or_default();
    let sorted = sort(owned, &wanted);
    if status.start_time.is_none() && !wanted.suspended {
        status.start_time = Some(Time(now));
    }
    plan.release = account(&mut status, &sorted, owned, wanted.indexed);
    let (pending_succeeded, pending_failed) = pending(&status);
    let mut done = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default());
    if wanted.indexed {
        let limit = wanted.completions.unwrap_or(0);
        done.extend(sorted.succeeded.iter().filter_map(|pod| index_of(pod)).filter(|index| *index < limit));
        status.completed_indexes = Some(done.to_string()).filter(|text| !text.is_empty());
        status.succeeded = Some(i32::try_from(done.len()).unwrap_or(i32::MAX));
    }
    let extra = if wanted.indexed { 0 } else { pending_succeeded };
    let succeeded = usize::try_from(status.succeeded.unwrap_or(0) + extra).unwrap_or(0);
    let failed = status.failed.unwrap_or(0) + pending_failed;
    judge(job, &wanted, &sorted, (succeeded, failed), &mut status, &mut plan, now);
    let ended = holds(&status, "FailureTarget").is_some() || holds(&status, "SuccessCriteriaMet").is_some();
    if ended {
        plan.delete.clone_from(&sorted.active);
    } else if job.metadata.deletion_timestamp.is_none() {
        manage(job, &wanted, &sorted, &done, succeeded, &mut status, &mut plan, now);
    }
    let active = sorted.active.len() - plan.delete.len().min(sorted.active.len()) + plan.create.len();
    let number = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
    status.active = number(active).filter(|count| *count != 0);
    status.ready = number(sorted.active.iter().filter(|pod| pods::is_ready(pod) && !plan.delete.contains(pod)).count());
    status.terminating = number(sorted.terminating + plan.delete.len());
    if ended && active == 0 && status.terminating == Some(0) && pending(&status) == (0, 0) {
        finish(&mut status, &mut plan, now);
    }
    status.succeeded = status.succeeded.filter(|count| *count != 0);
    status.failed = status.failed.filter(|count| *count != 0);
    plan.status = status;
    plan
}

/// Decides if the Job has succeeded or failed.
fn judge(
    job: &Job,
    wanted: &Wanted,
    sorted: &Sorted,
    (succeeded, failed): (usize, i32),
    status: &mut JobStatus,
    plan: &mut Plan,
    now: Timestamp,
) {
    if holds(status, "FailureTarget").is_some() || holds(status, "SuccessCriteriaMet").is_some() {
        return;
    }
    let restarts: i32 = sorted.active.iter().map(|pod| pods::max_restarts(pod)).sum();
    let in_place =
        job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()?.restart_policy.as_deref()) == Some("OnFailure");
    let too_often = failed > wanted.backoff_limit
        || in_place
            && restarts > 0
            && restarts >= wanted.backoff_limit.max(1)
            && restarts + failed > wanted.backoff_limit;
    let deadline = job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).map(SignedDuration::from_secs);
    let running_for = status.start_time.as_ref().map_or(SignedDuration::ZERO, |start| now.duration_since(start.0));
    let late = !wanted.suspended && deadline.is_some_and(|deadline| running_for >= deadline);
    if too_often {
        let text = "Job has reached the specified backoff limit";
        set(status, "FailureTarget", "True", "BackoffLimitExceeded", text, now);
    } else if late {
        set(status, "FailureTarget", "True", "DeadlineExceeded", "Job was active longer than specified deadline", now);
    } else {
        let complete = match wanted.completions {
            None => succeeded > 0 && sorted.active.is_empty(),
            Some(completions) => succeeded >= completions && sorted.active.is_empty(),
        };
        if complete {
            let text = "Reached expected number of succeeded pods";
            set(status, "SuccessCriteriaMet", "True", "CompletionsReached", text, now);
        } else if let Some(deadline) = deadline.filter(|_| !wanted.suspended) {
            plan.again = Some(deadline - running_for);
        }
    }
}

fn finish(status: &mut JobStatus, plan: &mut Plan, now: Timestamp) {
    if is_over(status) {
        return;
    }
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    if let Some(failure) = holds(status, "FailureTarget").cloned() {
        let (reason, message) = (failure.reason.unwrap_or_default(), failure.message.unwrap_or_default());
        set(status, "Failed", "True", &reason, &message, now);
        plan.events.push((true, reason, message));
    } else if let Some(success) = holds(status, "SuccessCriteriaMet").cloned() {
        let (reason, message) = (success.reason.unwrap_or_default(), success.message.unwrap_or_default());
        set(status, "Complete", "True", &reason, &message, now);
        status.completion_time = Some(Time(now));
        plan.events.push((false, "Completed".to_owned(), "Job completed".to_owned()));
    }
}

fn is_over(status: &JobStatus) -> bool {
    holds(status, "Complete").is_some() || holds(status, "Failed").is_some()
}

#[allow(clippy::too_many_arguments)]
fn manage(
    job: &Job,
    wanted: &Wanted,
    sorted: &Sorted,
    done: &Indexes,
    succeeded: usize,
    status: &mut JobStatus,
    plan: &mut Plan,
    now: Timestamp,
) {
    if wanted.suspended {
        plan.delete.clone_from(&sorted.active);
        if set(status, "Suspended", "True", "JobSuspended", "Job suspended", now) {
            plan.events.push((false, "Suspended".to_owned(), "Job suspended".to_owned()));
            status.start_time = None;
        }
        return;
    }
    if holds(status, "Suspended").is_some() {
        set(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        plan.events.push((false, "Resumed".to_owned(), "Job resumed".to_owned()));
        status.start_time = Some(Time(now));
    }
    let mut active = sorted.active.clone();
    if wanted.indexed {
        // A pod of a finished, doubled or impossible index serves nothing.
        let mut seen = Indexes::default();
        active.retain(|pod| {
            let useful = index_of(pod).is_some_and(|index| {
                index < wanted.completions.unwrap_or(0) && !done.contains(index) && seen.insert(index)
            });
            if !useful {
                plan.delete.push(pod.clone());
            }
            useful
        });
    }
    let target = match wanted.completions {
        None if succeeded > 0 => active.len().min(wanted.parallelism),
        None => wanted.parallelism,
        Some(completions) => wanted.parallelism.min(completions.saturating_sub(succeeded)),
    };
    if active.len() > target {
        active.sort_by(|one, other| pods::deletion_order((one, 0), (other, 0), now));
        plan.delete.extend(active[..active.len() - target].iter().take(BURST).cloned());
        return;
    }
    let held = if wanted.replace_ended_only { sorted.terminating } else { 0 };
    let missing = target.saturating_sub(active.len() + held).min(BURST);
    if missing == 0 {
        return;
    }
    let wait = backoff(sorted, now);
    if wait.is_positive() {
        plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
        return;
    }
    let taken = |index: &usize| done.contains(*index) || active.iter().any(|pod| index_of(pod) == Some(*index));
    let mut free = (0..wanted.completions.unwrap_or(0)).filter(|index| !taken(index));
    for _ in 0..missing {
        let index = if wanted.indexed { free.next() } else { None };
        if wanted.indexed && index.is_none() {
            break;
        }
        plan.create.push(pod(job, index));
    }
}

/// How long to wait before the next pod, after failures in a row.
fn backoff(sorted: &Sorted, now: Timestamp) -> SignedDuration {
    let ended = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let finished = statuses
            .filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|at| at.0))
            .max();
        finished.or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|at| at.0)).unwrap_or(now)
    };
    let last_success = sorted.succeeded.iter().map(|pod| ended(pod)).max();
    let failures: Vec<Timestamp> = sorted
        .failed
        .iter()
        .map(|pod| ended(pod))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    let Some(last) = failures.iter().max() else { return SignedDuration::ZERO };
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(6);
    let delay = (BACKOFF * (1i32 << doublings)).min(MAX_BACKOFF);
    (delay - now.duration_since(*last)).max(SignedDuration::ZERO)
}

fn pod(job: &Job, index: Option<usize>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = from_template(&template, namespace(job), controller_ref(job));
    pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    let Some(index) = index else { return pod };
    pod.metadata.generate_name = Some(format!("{}-{index}-", name(job)));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{}-{index}", name(job)));
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX") {
            env.push(EnvVar {
                name: "JOB_COMPLETION_INDEX".to_owned(),
                value: None,
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: None,
                        field_path: format!("metadata.labels['{INDEX}']"),
                    }),
                    ..EnvVarSource::default()
                }),
            });
        }
    }
    pod
}
