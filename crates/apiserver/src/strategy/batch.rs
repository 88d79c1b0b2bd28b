//! Strategies of `batch`.
use super::{Strategy, rules::Rules};
use crate::defaults::batch as defaults;
use crate::validation::{batch as validation, warnings};
use crate::value::{Fill, Object, Read, is_zero};
use serde_json::Value;

/// The rules of a kind of `batch`.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Job" => &JOB,
        "CronJob" => &CRON_JOB,
        _ => return None,
    })
}

static JOB: Rules = Rules {
    default: Some(defaults::job),
    create: own_selector,
    validate: validation::job,
    validate_update: validation::job_update,
    validate_status_update: validation::job_status,
    warnings: warnings::named_workload,
    orphans_dependents: true,
    ..Rules::WITH_STATUS
};

static CRON_JOB: Rules = Rules {
    default: Some(defaults::cron_job),
    validate: validation::cron_job,
    validate_update: validation::cron_job_update,
    warnings: warnings::cron_job,
    ..Rules::WITH_STATUS
};

/// A job selects its pods by its own UID unless it has a selector made by hand.
fn own_selector(job: &mut Object) {
    if job.field("spec").flag("manualSelector") {
        return;
    }
    let metadata = job.field("metadata");
    let (name, uid) = (metadata.text("name").to_owned(), metadata.text("uid").to_owned());
    let (own, template) =
        (metadata.field("labels"), job.field("spec").field("template").field("metadata").field("labels"));
    let share = is_zero(own) || own == template;
    let spec = job.child_or_new("spec");
    let labels = spec.child_or_new("template").child_or_new("metadata").child_or_new("labels");
    for prefix in ["", "batch.kubernetes.io/"] {
        labels.fill(&format!("{prefix}job-name"), name.clone());
        labels.fill(&format!("{prefix}controller-uid"), uid.clone());
    }
    let all = Value::Object(labels.clone());
    spec.child_or_new("selector").child_or_new("matchLabels").fill("batch.kubernetes.io/controller-uid", uid);
    if share {
        // The defaults made these the same map.
        job.child_or_new("metadata").set("labels", all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_selects_its_pods_by_uid() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"metadata": {}}}});
        own_selector(job.as_object_mut().unwrap());
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"],
            json!({"job-name": "j", "controller-uid": "u", "batch.kubernetes.io/job-name": "j",
                   "batch.kubernetes.io/controller-uid": "u"})
        );
    }
}
