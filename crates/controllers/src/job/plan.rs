//! What to do about a Job: [`plan`] is a pure function of it and its pods. (upstream: pkg/controller/job, syncJob)
use super::backoff::{after_failures, ended_at, remaining};
use super::indexes::Indexes;
use super::pod::{all_failures, failures, index_of, is_failed, is_tracked, pod, replaces_ended_only};
use super::policy::{self, Verdict};
use crate::claim::uid;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Pods created or deleted in one go.
const BURST: usize = 500;
/// Pods that wait in the status to be counted.
const MAX_UNCOUNTED: usize = 500;

/// What to do, in this order: pods, status, finalizers, events.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// True if the deleted pods are not to be counted: their finalizer goes first.
    pub forget_deleted: bool,
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
    outcome(job).is_some()
}

/// How the Job ended: `Complete` or `Failed`.
pub fn outcome(job: &Job) -> Option<&'static str> {
    let status = job.status.as_ref()?;
    ["Complete", "Failed"].into_iter().find(|kind| holds(status, kind).is_some())
}

/// When the Job was completed.
pub fn completed_at(job: &Job) -> Option<Timestamp> {
    job.status.as_ref()?.completion_time.as_ref().map(|time| time.0)
}

/// Writes a condition; one that does not hold is not added. True if anything changed.
fn set(status: &mut JobStatus, kind: &str, is: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let fresh = JobCondition {
        type_: kind.to_owned(),
        status: is.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(held) => {
            let same = held.status == is && held.reason == fresh.reason && held.message == fresh.message;
            if !same {
                *held = fresh;
            }
            !same
        }
        None if is == "False" => false,
        None => {
            conditions.push(fresh);
            true
        }
    }
}

/// How a Job is about to end.
#[derive(Clone, Debug)]
struct End {
    success: bool,
    reason: String,
    message: String,
}

impl End {
    fn failure(reason: &str, message: impl Into<String>) -> Option<Self> {
        Some(End { success: false, reason: reason.to_owned(), message: message.into() })
    }

    fn success(reason: &str, message: impl Into<String>) -> Option<Self> {
        Some(End { success: true, reason: reason.to_owned(), message: message.into() })
    }

    fn of(condition: &JobCondition, success: bool) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        End { success, reason: text(&condition.reason), message: text(&condition.message) }
    }
}

/// A Job and its pods, sorted by what they mean for it.
struct View<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    active: Vec<Arc<Pod>>,
    /// Completed, for a Job with indexes.
    completed: Indexes,
    /// Given up, for a Job that counts failures by index.
    given_up: Option<Indexes>,
    /// The last failed pod of each index that waits for its replacement.
    replaced: BTreeMap<usize, Arc<Pod>>,
    succeeded: usize,
    failed: usize,
    now: Timestamp,
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Decides about `job` with its pods `owned`.
pub fn plan(job: &Job, owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    let Some(spec) = &job.spec else { return plan };
    let suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(Time(now));
    }
    settle(&mut plan.status, owned);
    let mut view = look(job, spec, owned, &plan.status, now);
    let end = judge(&view, &mut plan);
    let mut active = view.active.len();
    let ready = |pods: &[Arc<Pod>]| pods.iter().filter(|pod| pods::is_ready(pod)).count();
    let mut terminating = owned.iter().filter(|pod| pods::is_terminating(pod)).count();
    let end = if end.is_some() {
        plan.delete.clone_from(&view.active);
        end
    } else {
        let managed = job.metadata.deletion_timestamp.is_none();
        if managed {
            manage(&mut view, terminating, &mut plan);
        }
        let left = active - plan.delete.len() + plan.create.len();
        let complete = match spec.completions {
            None => view.succeeded > 0 && left == 0,
            Some(wanted) => view.succeeded >= count(wanted) && left == 0,
        };
        if complete {
            End::success("CompletionsReached", "Reached expected number of succeeded pods")
        } else {
            if managed {
                note_suspension(&mut plan, suspended, now);
            }
            None
        }
    };
    active = active - plan.delete.len() + plan.create.len();
    terminating += plan.delete.len();
    plan.status.active = Some(active).filter(|active| *active > 0).map(small);
    plan.status.ready = Some(small(ready(&view.active) - ready(&plan.delete)));
    plan.status.terminating = Some(small(terminating));
    let all = track(&view, end.as_ref(), &mut plan);
    if let Some(end) = end {
        finish(&view, &end, all && terminating == 0, &mut plan);
    }
    for counter in [&mut plan.status.succeeded, &mut plan.status.failed] {
        *counter = counter.filter(|count| *count != 0);
    }
    plan
}

/// Moves pods whose finalizer is gone from the waiting ones into the counters. A UID is written down before its pod is let
/// go and counted when it has been: stopped anywhere, nothing is lost or counted twice.
fn settle(status: &mut JobStatus, owned: &[Arc<Pod>]) {
    let tracked: HashSet<&str> = owned.iter().filter(|pod| is_tracked(pod)).map(|pod| uid(pod.as_ref())).collect();
    let waiting = status.uncounted_terminated_pods.get_or_insert_default();
    let lists = [(&mut waiting.succeeded, &mut status.succeeded), (&mut waiting.failed, &mut status.failed)];
    for (list, counter) in lists {
        let Some(ids) = list else { continue };
        let before = ids.len();
        ids.retain(|id| tracked.contains(id.as_str()));
        *counter = Some(counter.unwrap_or(0) + small(before - ids.len()));
        if ids.is_empty() {
            *list = None;
        }
    }
}

fn waiting(status: &JobStatus) -> (HashSet<String>, HashSet<String>) {
    let waiting = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let set = |list: Option<Vec<String>>| list.into_iter().flatten().collect();
    (set(waiting.succeeded), set(waiting.failed))
}

fn look<'a>(job: &'a Job, spec: &'a JobSpec, owned: &'a [Arc<Pod>], status: &JobStatus, now: Timestamp) -> View<'a> {
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let completions = count(spec.completions.unwrap_or(0));
    let valid = |pod: &Pod| !indexed || index_of(pod).is_some_and(|index| index < completions);
    let (waiting_succeeded, waiting_failed) = waiting(status);
    let new = |known: &HashSet<String>, which: &dyn Fn(&Pod) -> bool| {
        let all = owned.iter().filter(|pod| is_tracked(pod) && !known.contains(uid(pod.as_ref())) && valid(pod));
        all.filter(|pod| which(pod)).cloned().collect::<Vec<_>>()
    };
    let policy = spec.pod_failure_policy.as_ref();
    let new_succeeded = new(&waiting_succeeded, &|pod| pods::phase(pod) == "Succeeded");
    let new_failed = new(&waiting_failed, &|pod| is_failed(pod, job));
    let counted = new_failed.iter().filter(|pod| policy::judge(policy, pod) != Verdict::Ignore).count();
    let mut view = View {
        job,
        spec,
        pods: owned,
        active: owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect(),
        completed: Indexes::default(),
        given_up: None,
        replaced: BTreeMap::new(),
        succeeded: count(status.succeeded.unwrap_or(0)) + new_succeeded.len() + waiting_succeeded.len(),
        failed: count(status.failed.unwrap_or(0)) + counted + waiting_failed.len(),
        now,
    };
    if indexed {
        let tracked = || owned.iter().filter(|pod| is_tracked(pod) && valid(pod));
        view.completed = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        view.completed.extend(tracked().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| index_of(pod)));
        view.succeeded = view.completed.len();
        if let Some(limit) = spec.backoff_limit_per_index {
            let mut given_up = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
            let is_given_up = |pod: &&Arc<Pod>| {
                is_failed(pod, job)
                    && match policy::judge(policy, pod) {
                        Verdict::FailIndex => true,
                        Verdict::Ignore => false,
                        Verdict::Count | Verdict::FailJob(_) => failures(pod) >= limit,
                    }
            };
            given_up.extend(tracked().filter(is_given_up).filter_map(|pod| index_of(pod)));
            view.given_up = Some(given_up);
            view.replaced = to_be_replaced(&view, tracked().filter(|pod| is_failed(pod, job)));
        }
    }
    view
}

/// The last failed pod of each index that runs no pod and is neither completed nor given up: it stays until its replacement
/// has taken over its count of failures.
fn to_be_replaced<'a>(view: &View<'_>, failed: impl Iterator<Item = &'a Arc<Pod>>) -> BTreeMap<usize, Arc<Pod>> {
    let busy: HashSet<usize> = view.active.iter().filter_map(|pod| index_of(pod)).collect();
    let mut last: BTreeMap<usize, Arc<Pod>> = BTreeMap::new();
    for pod in failed {
        let Some(index) = index_of(pod) else { continue };
        let given_up = view.given_up.as_ref().is_some_and(|given_up| given_up.contains(index));
        if view.completed.contains(index) || given_up || busy.contains(&index) {
            continue;
        }
        let newer = |before: &Arc<Pod>| all_failures(before) <= all_failures(pod) && ended_at(pod) >= ended_at(before);
        if last.get(&index).is_none_or(newer) {
            last.insert(index, pod.clone());
        }
    }
    last
}

/// Decides if the Job has succeeded or failed, before anything is done about its pods.
fn judge(view: &View<'_>, plan: &mut Plan) -> Option<End> {
    let (spec, status) = (view.spec, &plan.status);
    if let Some(condition) = holds(status, "SuccessCriteriaMet") {
        return Some(End::of(condition, true));
    }
    if let Some(condition) = holds(status, "FailureTarget") {
        return Some(End::of(condition, false));
    }
    let policy = spec.pod_failure_policy.as_ref();
    for pod in view.pods.iter().filter(|pod| policy.is_some() && is_failed(pod, view.job)) {
        if let Verdict::FailJob(why) = policy::judge(policy, pod) {
            return End::failure("PodFailurePolicy", why);
        }
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if view.failed > count(limit) || restarts_too_often(view, limit) {
        return End::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let deadline = spec.active_deadline_seconds.filter(|_| spec.suspend != Some(true)).map(SignedDuration::from_secs);
    if let (Some(deadline), Some(start)) = (deadline, &status.start_time) {
        let left = deadline - view.now.duration_since(start.0);
        if !left.is_positive() {
            return End::failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        plan.again = Some(left);
    }
    let completions = count(spec.completions.unwrap_or(0));
    if let Some(given_up) = &view.given_up {
        let limit = spec.max_failed_indexes.map(count);
        if limit.is_some_and(|limit| given_up.len() > limit) {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return End::failure("MaxFailedIndexesExceeded", text);
        }
        if !given_up.is_empty() && given_up.len() + view.completed.len() >= completions {
            return End::failure("FailedIndexes", "Job has failed indexes");
        }
    }
    let met = policy::success(spec.success_policy.as_ref(), &view.completed, completions)?;
    End::success("SuccessPolicy", met)
}

/// True if containers that restart in place did so too often.
// upstream: pastBackoffLimitOnFailure
fn restarts_too_often(view: &View<'_>, limit: i32) -> bool {
    let in_place =
        view.spec.template.spec.as_ref().is_some_and(|spec| spec.restart_policy.as_deref() == Some("OnFailure"));
    let going = view.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let statuses = going.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    });
    let restarts: i32 = statuses.map(|status| status.restart_count).sum();
    in_place && if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn note_suspension(plan: &mut Plan, suspended: bool, now: Timestamp) {
    if suspended {
        if set(&mut plan.status, "Suspended", "True", "JobSuspended", "Job suspended", now) {
            plan.events.push((false, "Suspended".to_owned(), "Job suspended".to_owned()));
            plan.status.start_time = None;
        }
    } else if set(&mut plan.status, "Suspended", "False", "JobResumed", "Job resumed", now) {
        plan.events.push((false, "Resumed".to_owned(), "Job resumed".to_owned()));
        plan.status.start_time = Some(Time(now));
    }
}

/// Decides which pods to create or delete: never both at once.
// upstream: manageJob
fn manage(view: &mut View<'_>, terminating: usize, plan: &mut Plan) {
    let spec = view.spec;
    let (active, parallelism) = (view.active.len(), count(spec.parallelism.unwrap_or(1)));
    plan.forget_deleted = true;
    if spec.suspend == Some(true) {
        plan.delete.clone_from(&view.active);
        return;
    }
    let target = match spec.completions {
        None if view.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => parallelism.min(count(completions).saturating_sub(view.succeeded)),
    };
    plan.delete = superfluous(view, active.saturating_sub(target));
    plan.delete.truncate(BURST);
    if !plan.delete.is_empty() {
        return;
    }
    let held = if replaces_ended_only(view.job) { terminating } else { 0 };
    let missing = target.saturating_sub(active + held).min(BURST);
    if missing == 0 {
        return;
    }
    let wait = |plan: &mut Plan, wait: SignedDuration| {
        plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
    };
    if spec.backoff_limit_per_index.is_none() {
        let of = |which: &dyn Fn(&Pod) -> bool| view.pods.iter().filter(|pod| which(pod)).cloned().collect::<Vec<_>>();
        let succeeded = of(&|pod| pods::phase(pod) == "Succeeded");
        let left = after_failures(&succeeded, &of(&|pod| is_failed(pod, view.job)), view.now);
        if left.is_positive() {
            return wait(plan, left);
        }
    }
    if spec.completion_mode.as_deref() != Some("Indexed") {
        plan.create = vec![pod(view.job, None, None); missing];
        return;
    }
    let mut soonest: Option<SignedDuration> = None;
    for index in free_indexes(view, missing) {
        let before = view.replaced.get(&index);
        let left = before.map_or(SignedDuration::ZERO, |before| {
            remaining(count(all_failures(before)) + 1, ended_at(before), view.now)
        });
        if left.is_positive() {
            soonest = Some(soonest.map_or(left, |sooner| sooner.min(left)));
        } else {
            plan.create.push(pod(view.job, Some(index), before.map(AsRef::as_ref)));
        }
    }
    if let Some(left) = soonest {
        wait(plan, left);
    }
}

/// The first `wanted` indexes for which there is something to do.
fn free_indexes(view: &View<'_>, wanted: usize) -> Vec<usize> {
    let mut busy: HashSet<usize> = view.active.iter().filter_map(|pod| index_of(pod)).collect();
    if replaces_ended_only(view.job) {
        let ending = view.pods.iter().filter(|pod| pods::is_terminating(pod));
        busy.extend(ending.filter_map(|pod| index_of(pod)));
    }
    let given_up = |index: &usize| view.given_up.as_ref().is_some_and(|given_up| given_up.contains(*index));
    (0..count(view.spec.completions.unwrap_or(0)))
        .filter(|index| !view.completed.contains(*index) && !busy.contains(index) && !given_up(index))
        .take(wanted)
        .collect()
}

/// Pods of doubled or impossible indexes, then as many more as make `at_least`.
// upstream: activePodsForRemoval
fn superfluous(view: &View<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let mut left = view.active.clone();
    left.sort_by(|one, other| pods::deletion_order((one, 0), (other, 0), view.now));
    let mut gone = Vec::new();
    if view.spec.completion_mode.as_deref() == Some("Indexed") {
        let completions = count(view.spec.completions.unwrap_or(0));
        let mut seen = HashSet::new();
        // Of pods with the same index the one that would go last stays.
        let (kept, doubled): (Vec<_>, Vec<_>) = left
            .into_iter()
            .rev()
            .partition(|pod| index_of(pod).is_some_and(|index| index < completions && seen.insert(index)));
        gone = doubled;
        left = kept.into_iter().rev().collect();
    }
    let more = at_least.saturating_sub(gone.len()).min(left.len());
    gone.extend(left.into_iter().take(more));
    gone
}

/// Writes ended pods into the status and says which may be let go. False if some must wait for another round.
// upstream: trackJobStatusAndRemoveFinalizers
fn track(view: &View<'_>, end: Option<&End>, plan: &mut Plan) -> bool {
    let indexed = view.spec.completion_mode.as_deref() == Some("Indexed");
    let completions = count(view.spec.completions.unwrap_or(0));
    let (mut succeeded, mut failed) = waiting(&plan.status);
    let mut completed = Indexes::parse(plan.status.completed_indexes.as_deref().unwrap_or_default(), completions);
    let (mut complete, mut noted) = (true, succeeded.len() + failed.len());
    let leaving: HashSet<&str> =
        if plan.forget_deleted { plan.delete.iter().map(|pod| uid(pod.as_ref())).collect() } else { HashSet::new() };
    let lists = plan.status.uncounted_terminated_pods.get_or_insert_default();
    let mut order: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| is_tracked(pod)).collect();
    order.sort_by_key(|pod| index_of(pod));
    for pod in order {
        let (id, ended_well) = (uid(pod.as_ref()), pods::phase(pod) == "Succeeded");
        let bad = is_failed(pod, view.job);
        let delayed = index_of(pod)
            .and_then(|index| view.replaced.get(&index))
            .is_some_and(|last| uid(last.as_ref()) == id && view.given_up.is_some());
        let may_go = view.job.metadata.deletion_timestamp.is_some() || end.is_some() || ended_well || bad && !delayed;
        if !may_go || leaving.contains(id) {
            continue;
        }
        if noted >= MAX_UNCOUNTED {
            complete = false;
            break;
        }
        plan.release.push(pod.clone());
        let valid = !indexed || index_of(pod).is_some_and(|index| index < completions);
        if ended_well && !failed.contains(id) {
            match index_of(pod).filter(|_| indexed && valid) {
                Some(index) => noted += usize::from(completed.insert(index)),
                None if !indexed && succeeded.insert(id.to_owned()) => {
                    lists.succeeded.get_or_insert_default().push(id.to_owned());
                    noted += 1;
                }
                None => {}
            }
        } else if bad || end.is_some_and(|end| !end.success) {
            let ignored = policy::judge(view.spec.pod_failure_policy.as_ref(), pod) == Verdict::Ignore;
            if valid && !ignored && failed.insert(id.to_owned()) {
                lists.failed.get_or_insert_default().push(id.to_owned());
                noted += 1;
            }
        }
    }
    if indexed {
        plan.status.succeeded = Some(small(completed.len()));
        plan.status.completed_indexes = Some(completed.to_string()).filter(|text| !text.is_empty());
        plan.status.failed_indexes = view.given_up.as_ref().map(ToString::to_string);
    }
    complete && plan.release.is_empty()
}

/// Says how the Job ends, and that it has ended once every pod is `settled`.
fn finish(view: &View<'_>, end: &End, settled: bool, plan: &mut Plan) {
    let (now, reason, message) = (view.now, end.reason.as_str(), end.message.as_str());
    let target = if end.success { "SuccessCriteriaMet" } else { "FailureTarget" };
    if holds(&plan.status, target).is_none() {
        set(&mut plan.status, target, "True", reason, message, now);
    }
    let (succeeded, failed) = waiting(&plan.status);
    if !settled || !succeeded.is_empty() || !failed.is_empty() {
        return;
    }
    if !end.success {
        set(&mut plan.status, "Failed", "True", reason, message, now);
        plan.events.push((true, reason.to_owned(), message.to_owned()));
        return;
    }
    set(&mut plan.status, "Complete", "True", reason, message, now);
    plan.status.completion_time = Some(Time(now));
    if view.spec.completions.is_some_and(|wanted| plan.status.succeeded.unwrap_or(0) > wanted) {
        let text = "Too many succeeded pods running after completion count reached";
        plan.events.push((true, "TooManySucceededPods".to_owned(), text.to_owned()));
    }
    plan.events.push((false, "Completed".to_owned(), "Job completed".to_owned()));
}
