//! What the CronJob controller decides at a given time.
use super::plan::{Plan, excess, may_be_stale, missing, next_look, plan, schedule};
use crate::claim::name;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

fn cron(extra: Value, status: Value) -> CronJob {
    let mut spec = json!({"schedule": "*/10 * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}},
        "spec": {"template": {"spec": {"containers": []}}}}});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let meta = json!({"name": "tick", "namespace": "ns", "uid": "c", "creationTimestamp": "2026-01-01T10:01:00Z"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
}

fn job(named: &str, end: Option<&str>, start: &str) -> Arc<Job> {
    let conditions: Vec<Value> = end.iter().map(|end| json!({"type": end, "status": "True"})).collect();
    let completed = (end == Some("Complete")).then_some(start);
    let status = json!({"startTime": start, "completionTime": completed, "conditions": conditions});
    let object = json!({"metadata": {"name": named, "namespace": "ns", "uid": named}, "status": status});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn decide(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan(cron, jobs, &HashSet::new(), at(now))
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|(_, reason, _)| *reason).collect()
}

fn running(named: &str) -> Value {
    json!({"active": [{"kind": "Job", "namespace": "ns", "name": named, "uid": named}]})
}

#[test]
fn a_job_starts_when_its_time_has_come_and_once() {
    let mut tick = cron(json!({}), json!({}));
    let early = decide(&tick, &[], "10:05:00");
    assert!(early.start.is_none());
    assert_eq!(early.again.unwrap().as_millis(), 300_100);
    let (job, time) = decide(&tick, &[], "10:10:02").start.unwrap();
    assert_eq!((name(&job), time), (&*format!("tick-{}", time.as_second() / 60), at("10:10:00")));
    let meta = &job.metadata;
    assert_eq!(
        meta.annotations.as_ref().unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-01-01T10:10:00Z"
    );
    assert_eq!(meta.labels.as_ref().unwrap()["a"], "b");
    assert_eq!(meta.owner_references.as_ref().unwrap()[0].kind, "CronJob");
    tick.status = serde_json::from_value(json!({"lastScheduleTime": "2026-01-01T10:10:00Z"})).unwrap();
    let after = decide(&tick, &[], "10:10:03");
    assert!(after.start.is_none());
    assert_eq!(after.again.unwrap().as_millis(), 597_100);
}

#[test]
fn of_many_missed_times_the_newest_counts_and_a_late_one_is_given_up() {
    let mut tick = cron(json!({"schedule": "* * * * *"}), json!({}));
    let decided = decide(&tick, &[], "13:00:30");
    assert_eq!(decided.start.as_ref().unwrap().1, at("13:00:00"));
    assert_eq!(reasons(&decided), ["TooManyMissedTimes"]);
    tick.spec.starting_deadline_seconds = Some(20);
    let late = decide(&tick, &[], "13:00:30");
    assert!(late.start.is_none() && late.events.is_empty(), "the deadline also bounds the look back");
    tick.spec.starting_deadline_seconds = Some(30);
    assert!(decide(&tick, &[], "13:00:20").start.is_some());
}

#[test]
fn the_policy_decides_about_jobs_that_still_run() {
    let old = [job("old", None, "2026-01-01T10:10:00Z")];
    let with = |policy: &str| cron(json!({"concurrencyPolicy": policy}), running("old"));
    let forbidden = decide(&with("Forbid"), &old, "10:20:01");
    assert!(forbidden.start.is_none());
    assert_eq!(reasons(&forbidden), ["JobAlreadyActive"]);
    let replaced = decide(&with("Replace"), &old, "10:20:01");
    assert_eq!((replaced.replace.len(), replaced.start.is_some()), (1, true));
    let allowed = decide(&with("Allow"), &old, "10:20:01");
    assert_eq!((allowed.replace.len(), allowed.start.is_some()), (0, true));
}

#[test]
fn suspended_and_unreadable_schedules_start_nothing() {
    assert!(decide(&cron(json!({"suspend": true}), json!({})), &[], "10:20:00").start.is_none());
    let odd = decide(&cron(json!({"schedule": "61 * * * *"}), json!({})), &[], "10:20:00");
    assert_eq!(reasons(&odd), ["UnparseableSchedule"]);
    let never = decide(&cron(json!({"schedule": "0 0 31 2 *"}), json!({})), &[], "10:20:00");
    assert_eq!(reasons(&never), ["InvalidSchedule"]);
    let nowhere = decide(&cron(json!({"timeZone": "Moon/Base"}), json!({})), &[], "10:20:00");
    assert_eq!(nowhere.events[0].2, "invalid timeZone: \"Moon/Base\": unknown time zone Moon/Base");
}

#[test]
fn a_time_zone_moves_the_schedule_and_its_annotation() {
    let tick = cron(json!({"schedule": "30 19 * * *", "timeZone": "Asia/Tokyo"}), json!({}));
    let (job, time) = decide(&tick, &[], "10:30:01").start.unwrap();
    assert_eq!(time, at("10:30:00"));
    assert!(job.metadata.annotations.unwrap().values().any(|text| text == "2026-01-01T19:30:00+09:00"));
}

#[test]
fn ended_and_vanished_jobs_leave_the_status() {
    let tick = cron(json!({"suspend": true}), running("a"));
    let decided = decide(&tick, &[job("a", Some("Complete"), "2026-01-01T10:10:00Z")], "10:15:00");
    assert_eq!(decided.events[0].2, "Saw completed job: a, condition: Complete");
    assert_eq!(decided.status.active, None);
    assert_eq!(decided.status.last_successful_time.unwrap().0, at("10:10:00"));
    assert_eq!(missing(&tick, &[]).len(), 1);
    let gone = plan(&tick, &[], &HashSet::from(["a".to_owned()]), at("10:15:00"));
    assert_eq!((reasons(&gone), gone.status.active.is_none()), (vec!["MissingJob"], true));
    assert!(may_be_stale(&tick, &[job("b", None, "2026-01-01T10:10:00Z")]));
}

#[test]
fn only_the_newest_ended_jobs_are_kept() {
    let tick = cron(json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0}), json!({}));
    let jobs = [
        job("new", Some("Complete"), "2026-01-01T10:20:00Z"),
        job("old", Some("Complete"), "2026-01-01T10:10:00Z"),
        job("bad", Some("Failed"), "2026-01-01T10:30:00Z"),
        job("runs", None, "2026-01-01T10:00:00Z"),
    ];
    let gone: Vec<_> = excess(&tick, &jobs).iter().map(|job| name(job.as_ref()).to_owned()).collect();
    assert_eq!(gone, ["old", "bad"]);
}

#[test]
fn a_changed_schedule_waits_for_its_next_time() {
    let tick = cron(json!({"schedule": "0 10 * * *"}), json!({"lastScheduleTime": "2025-12-31T12:00:00Z"}));
    let wait = next_look(&tick, &schedule(&tick).unwrap(), at("10:30:00")).unwrap();
    assert_eq!(wait.as_millis(), 23 * 3_600_000 + 30 * 60_000 + 100);
}
