//! What the Job controller decides, against a small model of its pods.
use super::plan::{INDEX, Plan, TRACKING, is_finished, plan};
use crate::claim::uid;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

struct World {
    job: Job,
    pods: Vec<Arc<Pod>>,
    made: usize,
    second: i64,
}

impl World {
    fn new(extra: Value) -> Self {
        let mut spec = json!({"parallelism": 1, "completions": 1, "backoffLimit": 2,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let job = json!({"metadata": {"name": "work", "namespace": "ns", "uid": "j"}, "spec": spec});
        World { job: serde_json::from_value(job).unwrap(), pods: Vec::new(), made: 0, second: 0 }
    }

    fn sync(&mut self) -> Plan {
        self.second += 1;
        let now = Timestamp::from_second(self.second).unwrap();
        let decided = plan(&self.job, &self.pods, now);
        for pod in &decided.create {
            let mut pod = pod.clone();
            self.made += 1;
            pod.metadata.uid = Some(format!("p{}", self.made));
            pod.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
            assert!(pod.metadata.finalizers.as_ref().unwrap().contains(&TRACKING.to_owned()));
            self.pods.push(Arc::new(pod));
        }
        self.pods.retain(|pod| !decided.delete.iter().any(|gone| uid(gone.as_ref()) == uid(pod.as_ref())));
        self.job.status = Some(decided.status.clone());
        for pod in &mut self.pods {
            if decided.release.iter().any(|free| uid(free.as_ref()) == uid(pod.as_ref())) {
                let mut free = pod.as_ref().clone();
                free.metadata.finalizers = None;
                *pod = Arc::new(free);
            }
        }
        decided
    }

    fn end(&mut self, number: usize, phase: &str) {
        let id = format!("p{number}");
        let pod = self.pods.iter_mut().find(|pod| uid(pod.as_ref()) == id).unwrap();
        let mut ended = pod.as_ref().clone();
        ended.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "finishedAt": Timestamp::from_second(self.second).unwrap().to_string()}}}]}))
        .unwrap();
        *pod = Arc::new(ended);
    }

    fn settle(&mut self) {
        for _ in 0..6 {
            self.sync();
        }
    }

    fn condition(&self, kind: &str) -> Option<String> {
        let conditions = self.job.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?.reason.clone()
    }
}

#[test]
fn a_job_completes_when_its_pod_has_succeeded_and_is_counted() {
    let mut world = World::new(json!({}));
    assert_eq!(world.sync().create.len(), 1);
    world.end(1, "Succeeded");
    let first = world.sync();
    assert_eq!(first.release.len(), 1);
    assert!(!is_finished(&world.job), "the pod is written down but not counted yet");
    world.settle();
    assert!(is_finished(&world.job));
    let status = world.job.status.clone().unwrap();
    assert_eq!((status.succeeded, status.active), (Some(1), None));
    assert_eq!(world.condition("Complete").as_deref(), Some("CompletionsReached"));
    assert!(status.completion_time.is_some());
}

#[test]
fn failures_are_retried_after_a_pause_until_the_limit() {
    let mut world = World::new(json!({}));
    world.sync();
    for failure in 1..=3 {
        world.end(failure, "Failed");
        let waiting = world.sync();
        if failure < 3 {
            assert!(waiting.create.is_empty() && waiting.again.is_some(), "a failed pod is not replaced at once");
            world.second += 400;
            world.sync();
            assert_eq!(world.made, failure + 1);
        }
    }
    world.settle();
    assert_eq!(world.condition("Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(world.job.status.as_ref().unwrap().failed, Some(3));
}

#[test]
fn parallelism_limits_the_pods_and_completions_their_sum() {
    let mut world = World::new(json!({"parallelism": 2, "completions": 3}));
    assert_eq!(world.sync().create.len(), 2);
    world.end(1, "Succeeded");
    world.settle();
    assert_eq!(world.made, 3);
    world.end(2, "Succeeded");
    world.settle();
    assert_eq!(world.made, 3);
    world.end(3, "Succeeded");
    world.settle();
    assert!(is_finished(&world.job));
}

#[test]
fn an_indexed_job_runs_each_index_once() {
    let mut world = World::new(json!({"parallelism": 2, "completions": 3, "completionMode": "Indexed"}));
    let first = world.sync();
    let indexes: Vec<&str> =
        first.create.iter().map(|pod| pod.metadata.annotations.as_ref().unwrap()[INDEX].as_str()).collect();
    assert_eq!(indexes, ["0", "1"]);
    assert_eq!(first.create[1].spec.as_ref().unwrap().hostname.as_deref(), Some("work-1"));
    world.end(2, "Succeeded");
    world.settle();
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("1"));
    world.end(1, "Succeeded");
    world.end(3, "Succeeded");
    world.settle();
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0-2"));
    assert!(is_finished(&world.job));
}

#[test]
fn a_suspended_job_has_no_pods_and_resumes() {
    let mut world = World::new(json!({}));
    world.sync();
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    assert_eq!(world.sync().delete.len(), 1);
    assert_eq!(world.condition("Suspended").as_deref(), Some("JobSuspended"));
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    assert_eq!(world.sync().create.len(), 1);
    assert_eq!(world.condition("Suspended"), None);
}

#[test]
fn a_deadline_ends_the_job_and_its_pods() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 30}));
    assert!(world.sync().again.is_some());
    world.second += 60;
    assert_eq!(world.sync().delete.len(), 1);
    world.settle();
    assert_eq!(world.condition("Failed").as_deref(), Some("DeadlineExceeded"));
}
