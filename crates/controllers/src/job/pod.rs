//! The pods of a Job: [`pod`] makes one, the rest reads what a pod means for its Job.
use super::policy::{self, Verdict};
use crate::claim::{controller_ref, name, namespace};
use crate::pod_control::from_template;
use crate::pods;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

/// Holds a finished pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The pod's completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How many pods of the same index failed before this one.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How many more failed that the policy ignores.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Longer prefixes are cut, so that the name with its suffix stays a label.
const MAX_PREFIX: usize = 58;

/// True if the pod waits to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

/// The pod's completion index.
pub fn index_of(pod: &Pod) -> Option<usize> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// True if failed pods are replaced only when they have ended.
pub fn replaces_ended_only(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| {
        spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed")
    })
}

/// True if the pod has failed, or is on its way out and counts as that.
pub fn is_failed(pod: &Pod, job: &Job) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_deleting(pod) && !replaces_ended_only(job),
    }
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(annotation));
    text.and_then(|text| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
}

/// How many pods of the index failed before this one and were counted.
pub fn failures(pod: &Pod) -> i32 {
    number(pod, FAILURES)
}

/// The same with those that were ignored.
pub fn all_failures(pod: &Pod) -> i32 {
    failures(pod).saturating_add(number(pod, IGNORED))
}

/// A new pod of `job`; with an index it replaces `before`, the last failed pod of that index.
pub fn pod(job: &Job, index: Option<usize>, before: Option<&Pod>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = from_template(&template, namespace(job), controller_ref(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some(index) = index else { return pod };
    let suffix = format!("-{index}-");
    let mut prefix = name(job).to_owned();
    prefix.truncate(MAX_PREFIX.saturating_sub(suffix.len()));
    pod.metadata.generate_name = Some(prefix + &suffix);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some()) {
        let (counted, ignored) = before.map_or((0, 0), |before| {
            let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
            let ignore = policy::judge(policy, before) == Verdict::Ignore;
            (failures(before) + i32::from(!ignore), number(before, IGNORED) + i32::from(ignore))
        });
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED.to_owned(), ignored.to_string());
        }
    }
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
