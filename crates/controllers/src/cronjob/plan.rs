//! What to do about a CronJob now: [`plan`] is a pure function of the CronJob, its Jobs and the time.
use crate::claim::{controller_ref, name, namespace, uid};
use crate::job::plan::{completed_at, outcome};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use pintle_api::cron::Schedule;
use pintle_api::time_zone;
use std::collections::HashSet;
use std::sync::Arc;

/// Added to the time of the next start, so that a clock that is a little off does not wake too early.
const PADDING: SignedDuration = SignedDuration::from_millis(100);
/// When a Job was to start, on the Job.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More starts than this may not be missed without a warning.
const MANY_MISSED: i64 = 100;

/// An event to record: true for a warning, reason, message.
pub type Event = (bool, &'static str, String);

/// What to do about a CronJob.
#[derive(Debug, Default)]
pub struct Plan {
    /// Its status, before anything is started.
    pub status: CronJobStatus,
    /// Events to record, in order.
    pub events: Vec<Event>,
    /// Running Jobs to delete before the start.
    pub replace: Vec<ObjectReference>,
    /// A Job to start, and the time that it is for.
    pub start: Option<(Job, Timestamp)>,
    /// When to look again.
    pub again: Option<SignedDuration>,
}

fn active(cron: &CronJob) -> &[ObjectReference] {
    cron.status.as_ref().and_then(|status| status.active.as_deref()).unwrap_or_default()
}

fn lists(cron: &CronJob, job: &Job) -> bool {
    active(cron).iter().any(|listed| listed.uid.as_deref() == Some(uid(job)))
}

/// True if an unfinished Job is not in the status: the copy of the CronJob may be older than the start.
pub fn may_be_stale(cron: &CronJob, jobs: &[Arc<Job>]) -> bool {
    jobs.iter().any(|job| outcome(job).is_none() && !lists(cron, job))
}

/// The Jobs in the status that are not among `jobs`.
pub fn missing<'a>(cron: &'a CronJob, jobs: &[Arc<Job>]) -> Vec<&'a ObjectReference> {
    let known: HashSet<&str> = jobs.iter().map(|job| uid(job.as_ref())).collect();
    active(cron).iter().filter(|listed| !known.contains(listed.uid.as_deref().unwrap_or_default())).collect()
}

/// The finished Jobs beyond the history limits, oldest first.
pub fn excess(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cron.spec;
    let mut all = Vec::new();
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.map(|limit| usize::try_from(limit).unwrap_or(0)) else { continue };
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(|job| outcome(job) == Some(kind)).cloned().collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            (start.is_none(), start, name(job.as_ref()).to_owned())
        });
        ended.truncate(ended.len().saturating_sub(limit));
        all.extend(ended);
    }
    all
}

/// Takes the Job of that UID out of the list of running ones; true if it was there.
pub fn forget(status: &mut CronJobStatus, uid: &str) -> bool {
    let Some(listed) = &mut status.active else { return false };
    let before = listed.len();
    listed.retain(|job| job.uid.as_deref() != Some(uid));
    let changed = listed.len() != before;
    if listed.is_empty() {
        status.active = None;
    }
    changed
}

/// The schedule of `cron` in its time zone, or why there is none.
pub fn schedule(cron: &CronJob) -> Result<Schedule, String> {
    Schedule::parse(&cron.spec.schedule, zone(cron).unwrap_or(TimeZone::UTC))
}

fn zone(cron: &CronJob) -> Option<TimeZone> {
    time_zone::get(cron.spec.time_zone.as_deref().unwrap_or_default())
}

/// Decides about `cron`, whose Jobs are `jobs`; `vanished` are the UIDs of Jobs in its status that do not exist.
pub fn plan(cron: &CronJob, jobs: &[Arc<Job>], vanished: &HashSet<String>, now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    observe(cron, jobs, vanished, &mut plan);
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let spec = &cron.spec;
    if let (Some(named), None) = (&spec.time_zone, zone(cron)) {
        let text = format!("invalid timeZone: {named:?}: unknown time zone {named}");
        plan.events.push((true, "UnknownTimeZone", text));
        return plan;
    }
    if spec.suspend == Some(true) {
        return plan;
    }
    if spec.schedule.contains("TZ") {
        let text = format!(
            "CRON_TZ or TZ used in schedule {:?} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
            spec.schedule
        );
        plan.events.push((true, "UnsupportedSchedule", text));
    }
    let schedule = match schedule(cron) {
        Ok(schedule) => schedule,
        Err(why) => {
            plan.events.push((
                true,
                "UnparseableSchedule",
                format!("unparseable schedule: {:?} : {why}", spec.schedule),
            ));
            return plan;
        }
    };
    decide(cron, &schedule, &mut plan, now);
    plan
}

/// Brings the status up to date with the Jobs.
fn observe(cron: &CronJob, jobs: &[Arc<Job>], vanished: &HashSet<String>, plan: &mut Plan) {
    for job in jobs {
        let Some(end) = outcome(job) else {
            if !lists(cron, job) {
                let text = format!("Saw a job that the controller did not create or forgot: {}", name(job.as_ref()));
                plan.events.push((true, "UnexpectedJob", text));
            }
            continue;
        };
        if forget(&mut plan.status, uid(job.as_ref())) {
            let text = format!("Saw completed job: {}, condition: {end}", name(job.as_ref()));
            plan.events.push((false, "SawCompletedJob", text));
        }
        if let Some(at) = completed_at(job).filter(|_| end == "Complete")
            && plan.status.last_successful_time.as_ref().is_none_or(|last| at > last.0)
        {
            plan.status.last_successful_time = Some(Time(at));
        }
    }
    for listed in active(cron) {
        let id = listed.uid.as_deref().unwrap_or_default();
        if vanished.contains(id) && forget(&mut plan.status, id) {
            let text = format!("Active job went missing: {}", listed.name.as_deref().unwrap_or_default());
            plan.events.push((false, "MissingJob", text));
        }
    }
}

fn decide(cron: &CronJob, schedule: &Schedule, plan: &mut Plan, now: Timestamp) {
    let spec = &cron.spec;
    let recent = match most_recent(cron, schedule, now, true) {
        Ok(recent) => recent,
        Err(why) => {
            plan.events.push((true, "InvalidSchedule", format!("invalid schedule: {} : {why}", spec.schedule)));
            return;
        }
    };
    plan.again = next_look(cron, schedule, now);
    let Some(at) = recent.at else { return };
    if recent.missed > MANY_MISSED {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push((true, "TooManyMissedTimes", text.to_owned()));
    }
    if spec.starting_deadline_seconds.is_some_and(|limit| at + SignedDuration::from_secs(limit) < now) {
        let text = format!("Missed scheduled time to start a job: {}", at.strftime("%a, %d %b %Y %H:%M:%S +0000"));
        plan.events.push((true, "MissSchedule", text));
        return;
    }
    let job = job_for(cron, at);
    let running = plan.status.active.clone().unwrap_or_default();
    let listed = running.iter().any(|other| other.name.as_deref() == Some(name(&job)));
    if listed || plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push((false, "JobAlreadyActive", text.to_owned()));
            return;
        }
        Some("Replace") => plan.replace = running,
        _ => {}
    }
    plan.start = Some((job, at));
}

/// A look back at the schedule.
struct Recent {
    /// From where the look began: the last start, or the creation.
    since: Timestamp,
    /// The newest time that has come since.
    at: Option<Timestamp>,
    /// About how many have come; 0 if no more than one.
    missed: i64,
}

// upstream: mostRecentScheduleTime
fn most_recent(cron: &CronJob, schedule: &Schedule, now: Timestamp, with_deadline: bool) -> Result<Recent, String> {
    let started = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let created = cron.metadata.creation_timestamp.as_ref();
    let mut since = started.or(created).map_or(now, |time| time.0);
    if let Some(limit) = cron.spec.starting_deadline_seconds.filter(|_| with_deadline) {
        since = since.max(now.checked_sub(SignedDuration::from_secs(limit)).unwrap_or(Timestamp::MIN));
    }
    let never = || "time difference between two schedules is less than 1 second".to_owned();
    let first = schedule.next(since).ok_or_else(never)?;
    let second = schedule.next(first).ok_or_else(never)?;
    if now < first {
        return Ok(Recent { since, at: None, missed: 0 });
    }
    if now < second {
        return Ok(Recent { since, at: Some(first), missed: 0 });
    }
    let distance = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / distance + 1;
    // Schedules are not even: begin a step early and walk to the newest.
    let early = first.checked_add(SignedDuration::from_secs((missed - 2) * distance)).unwrap_or(first);
    let walk = std::iter::successors(schedule.next(early), |at| schedule.next(*at));
    Ok(Recent { since, at: walk.take_while(|at| *at <= now).last(), missed })
}

/// How long until the next time of the schedule.
// upstream: nextScheduleTimeDuration
pub fn next_look(cron: &CronJob, schedule: &Schedule, now: Timestamp) -> Option<SignedDuration> {
    let from = match most_recent(cron, schedule, now, false) {
        Ok(Recent { at: Some(at), .. }) => at,
        Ok(Recent { since, missed: 0, .. }) => since,
        Ok(_) | Err(_) => now,
    };
    Some((schedule.next(from)? + PADDING).duration_since(now).max(SignedDuration::ZERO))
}

/// The Job of the start at `at`: its name is the same whoever makes it, so that it is made once.
fn job_for(cron: &CronJob, at: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let local = at.to_zoned(zone(cron).unwrap_or(TimeZone::UTC));
    let format = if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), local.strftime(format).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", name(cron), at.as_second() / 60)),
            namespace: Some(namespace(cron).to_owned()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
