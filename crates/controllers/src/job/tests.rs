//! What the Job controller decides, against a small model of its pods.
use super::plan::{Plan, is_finished, plan};
use super::pod::{INDEX, TRACKING};
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

#[test]
fn a_failed_pod_counts_ends_the_job_or_is_ignored_as_the_policy_says() {
    let policy = json!({"podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]}, "backoffLimit": 0});
    let mut world = World::new(policy.clone());
    world.sync();
    world.end(1, "Failed");
    world.settle();
    assert_eq!(world.condition("FailureTarget").as_deref(), Some("PodFailurePolicy"));
    assert_eq!(world.condition("Failed").as_deref(), Some("PodFailurePolicy"));

    let mut world = World::new(policy);
    world.sync();
    world.end(1, "Failed");
    let mut disrupted = world.pods[0].as_ref().clone();
    let condition = json!({"type": "DisruptionTarget", "status": "True"});
    disrupted.status.as_mut().unwrap().conditions = Some(vec![serde_json::from_value(condition).unwrap()]);
    world.pods[0] = Arc::new(disrupted);
    world.settle();
    assert!(!is_finished(&world.job), "an ignored failure does not use up the limit");
    assert_eq!(world.job.status.as_ref().unwrap().failed, None);
    world.second += 700;
    world.sync();
    assert_eq!(world.made, 2);
}

#[test]
fn a_success_policy_ends_the_job_early_without_counting_the_rest_as_failed() {
    let mut world = World::new(json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "1"}]}}));
    world.sync();
    world.end(2, "Succeeded");
    let verdict = world.sync();
    assert_eq!(verdict.delete.len(), 2);
    assert_eq!(world.condition("SuccessCriteriaMet").as_deref(), Some("SuccessPolicy"));
    world.settle();
    assert_eq!(world.condition("Complete").as_deref(), Some("SuccessPolicy"));
    let status = world.job.status.clone().unwrap();
    assert_eq!((status.succeeded, status.failed), (Some(1), None));
}

#[test]
fn each_index_has_failures_of_its_own() {
    let mut world = World::new(json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed",
        "backoffLimit": 100, "backoffLimitPerIndex": 1}));
    world.sync();
    world.end(1, "Failed");
    let waiting = world.sync();
    assert!(waiting.release.is_empty() && waiting.again.is_some(), "the failed pod stays until it is replaced");
    world.second += 60;
    let again = world.sync();
    let annotations = again.create[0].metadata.annotations.clone().unwrap();
    assert_eq!(annotations["batch.kubernetes.io/job-index-failure-count"], "1");
    world.end(3, "Failed");
    world.settle();
    assert_eq!(world.job.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
    assert!(!is_finished(&world.job), "the other index goes on");
    world.end(2, "Succeeded");
    world.settle();
    assert_eq!(world.condition("Failed").as_deref(), Some("FailedIndexes"));
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("1"));
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let mut world = World::new(json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed",
        "backoffLimit": 100, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0}));
    world.sync();
    world.end(2, "Failed");
    assert_eq!(world.sync().delete.len(), 2);
    world.settle();
    assert_eq!(world.condition("Failed").as_deref(), Some("MaxFailedIndexesExceeded"));
}

#[test]
fn a_pod_on_its_way_out_is_replaced_at_once_or_when_it_has_ended() {
    for (policy, made) in [("TerminatingOrFailed", 2), ("Failed", 1)] {
        let mut world = World::new(json!({"podReplacementPolicy": policy}));
        world.sync();
        let mut leaving = world.pods[0].as_ref().clone();
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("1970-01-01T00:00:01Z")).unwrap();
        world.pods[0] = Arc::new(leaving);
        world.second += 700;
        world.sync();
        assert_eq!(world.made, made, "{policy}");
        assert_eq!(world.job.status.as_ref().unwrap().terminating, Some(1));
    }
}

#[test]
fn a_suspended_job_takes_its_pods_back_without_counting_them() {
    let mut world = World::new(json!({}));
    world.sync();
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    assert!(world.sync().forget_deleted);
    world.settle();
    assert_eq!(world.job.status.as_ref().unwrap().failed, None);
}
