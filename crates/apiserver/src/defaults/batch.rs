//! Defaults of `batch`.
use super::pod_spec::template;
use crate::value::{Fill, Object, Read};

/// Fills in a Job.
pub(crate) fn job(object: &mut Object) {
    let labels = object.field("spec").field("template").field("metadata").field("labels").clone();
    if labels.is_object() {
        object.child_or_new("metadata").fill_zero("labels", labels);
    }
    let spec = object.child_or_new("spec");
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.set("completions", 1);
    }
    spec.fill("parallelism", 1);
    spec.fill("backoffLimit", if spec.has("backoffLimitPerIndex") { i32::MAX } else { 6 });
    spec.fill("completionMode", "NonIndexed");
    spec.fill("suspend", false);
    let replace = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.fill("podReplacementPolicy", replace);
    spec.fill("manualSelector", false);
    job_template_spec(spec);
}

/// Fills in a CronJob. Of the job's own fields only the pod template's are filled in, the rest when a Job is made.
pub(crate) fn cron_job(object: &mut Object) {
    let spec = object.child_or_new("spec");
    spec.fill_zero("concurrencyPolicy", "Allow");
    spec.fill("suspend", false);
    spec.fill("successfulJobsHistoryLimit", 3);
    spec.fill("failedJobsHistoryLimit", 1);
    if let Some(job) = spec.child("jobTemplate").and_then(|t| t.child("spec")) {
        job_template_spec(job);
    }
}

fn job_template_spec(spec: &mut Object) {
    template(spec);
    let rules = spec.child("podFailurePolicy").into_iter().flat_map(|p| p.each("rules"));
    for condition in rules.flat_map(|r| r.each("onPodConditions")) {
        condition.fill_zero("status", "True");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn completions_stay_open_where_parallelism_is_given() {
        let filled = |mut job: Value| {
            super::job(job.as_object_mut().unwrap());
            job["spec"].clone()
        };
        let plain = filled(json!({"spec": {}}));
        assert_eq!(
            (&plain["completions"], &plain["parallelism"], &plain["backoffLimit"]),
            (&json!(1), &json!(1), &json!(6))
        );
        let queue = filled(json!({"spec": {"parallelism": 3}}));
        assert_eq!(queue.get("completions"), None);
    }
}
