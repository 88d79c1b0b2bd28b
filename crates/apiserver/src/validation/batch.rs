//! Jobs and CronJobs.
use super::apps::{mismatch, selects};
use super::common::{domain_prefixed_path, internal, label_selector};
use super::field::{Errors, Field};
use super::pod;
use crate::value::{Read, same};
use jiff::tz::TimeZone;
use pintle_api::{
    cron::Schedule,
    field::{BadValue, FieldError},
    names,
    selector::LabelSelector,
    time_zone,
};
use serde_json::{Value, json};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// A new Job.
pub(crate) fn job(object: &Value) -> Errors {
    let mut errors = Errors::new();
    generated_selector(object, &mut errors);
    let spec = Field::root(object, "spec");
    spec_with_selector(&spec, &mut errors);
    let (name, completions) = (object.field("metadata").text("name"), spec.value.int("completions"));
    if spec.value.text("completionMode") == "Indexed" && completions > 0 {
        let last = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&last).is_empty() {
            let metadata = Field::root(object, "metadata");
            let text = format!("will not able to create pod with invalid DNS label: {last}");
            errors.push(metadata.child("name").invalid(text));
        }
    }
    errors
}

fn generated_selector(object: &Value, errors: &mut Errors) {
    let (spec, metadata) = (Field::root(object, "spec"), object.field("metadata"));
    let selector = spec.child("selector");
    if spec.value.flag("manualSelector") || !selector.is_set() {
        return;
    }
    let (uid, name) = (metadata.text("uid"), metadata.text("name"));
    let template = spec.child("template");
    let template = template.child("metadata");
    let labels = template.value.field("labels");
    let expected = [("controller-uid", uid), ("job-name", name), (CONTROLLER_UID, uid), (JOB_NAME, name)];
    for (key, value) in expected {
        let at = template.child("labels");
        match labels.field(key).as_str() {
            None => {
                let at = at.path.key(key);
                errors.push(FieldError::required(&at, format!("must be '{value}'")));
            }
            Some(found) if found != value => {
                let path = at.path.key(key);
                errors.push(FieldError::invalid(&path, labels, format!("must be '{value}'")));
            }
            Some(_) => {}
        }
    }
    let wanted = json!({"controller-uid": uid, "job-name": name, CONTROLLER_UID: uid, JOB_NAME: name});
    if LabelSelector::from_value(selector.value).is_ok_and(|s| !s.matches(wanted.as_object())) {
        errors.push(selector.invalid("`selector` not auto-generated"));
    }
}

fn spec_with_selector(spec: &Field<'_>, errors: &mut Errors) {
    job_spec(spec, errors);
    let (selector, template) = (spec.child("selector"), spec.child("template"));
    if selector.is_set() {
        label_selector(&selector, errors);
    } else {
        errors.push(selector.missing(""));
    }
    if !selects(&selector, &template) {
        mismatch(&template, errors);
    }
}

fn job_spec(spec: &Field<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.child(field).nonnegative(errors);
    }
    let per_index = spec.child("backoffLimitPerIndex");
    let max_failed = spec.child("maxFailedIndexes");
    if max_failed.is_set() && !per_index.is_set() {
        errors.push(per_index.missing("when maxFailedIndexes is specified"));
    }
    let managed_by = spec.child("managedBy");
    if managed_by.is_set() {
        domain_prefixed_path(&managed_by, errors);
    }
    if managed_by.text().len() > 63 {
        errors.push(FieldError::too_long(&managed_by.path, 63));
    }
    let mode = spec.child("completionMode");
    if mode.is_set() {
        mode.one_of(&["NonIndexed", "Indexed"], errors);
    }
    if mode.text() == "Indexed" {
        indexed(spec, errors);
    } else if matches!(mode.text(), "" | "NonIndexed") {
        for field in [&per_index, &max_failed].into_iter().filter(|f| f.is_set()) {
            errors.push(field.invalid("requires indexed completion mode"));
        }
    }
    let failure = spec.child("podFailurePolicy");
    if failure.is_set() {
        failure_policy(spec, &failure.child("rules"), errors);
    }
    let success = spec.child("successPolicy");
    if success.is_set() {
        if mode.text() == "Indexed" {
            success_policy(spec, &success.child("rules"), errors);
        } else {
            let shown = internal("api.batch.v1.SuccessPolicy", success.value);
            errors.push(FieldError::invalid(&success.path, shown, "requires indexed completion mode"));
        }
    }
    let replacement = spec.child("podReplacementPolicy");
    if replacement.is_set() {
        let known: &[&str] = if failure.is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        replacement.one_of(known, errors);
    }
    let template = spec.child("template");
    pod::template(&template, errors);
    let template = template.child("spec");
    let restart = template.child("restartPolicy");
    match restart.text() {
        "Always" | "" => errors.push(restart.missing("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if failure.is_set() => {
            errors.push(restart.invalid("only \"Never\" is supported when podFailurePolicy is specified"));
        }
        _ => restart.one_of(&["OnFailure", "Never"], errors),
    }
}

fn indexed(spec: &Field<'_>, errors: &mut Errors) {
    let (completions, parallelism, max_failed) =
        (spec.child("completions"), spec.child("parallelism"), spec.child("maxFailedIndexes"));
    if !completions.is_set() {
        errors.push(completions.missing("when completion mode is Indexed"));
    }
    if parallelism.int() > 100_000 {
        let text = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.push(parallelism.invalid(text));
    }
    if completions.is_set() && max_failed.int() > completions.int() {
        errors.push(max_failed.invalid("must be less than or equal to completions"));
    }
    if max_failed.int() > 100_000 {
        errors.push(max_failed.invalid("must be less than or equal to 100000"));
    }
    if completions.int() > 100_000 && spec.value.has("backoffLimitPerIndex") {
        if !max_failed.is_set() {
            errors.push(max_failed.missing("must be specified when completions is above 100000"));
        }
        for field in [&parallelism, &max_failed].into_iter().filter(|f| f.int() > 10_000) {
            errors.push(field.invalid(
                "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
            ));
        }
    }
}

fn failure_policy(spec: &Field<'_>, rules: &Field<'_>, errors: &mut Errors) {
    let count = rules.items().count();
    if count > 20 {
        errors.push(FieldError::too_many(&rules.path, count, 20));
    }
    let pod = spec.value.field("template").field("spec");
    let known_containers: Vec<&str> =
        pod.items("containers").iter().chain(pod.items("initContainers")).map(|c| c.text("name")).collect();
    for rule in rules.items() {
        let action = rule.child("action");
        match action.text() {
            "" => errors.push(action.missing("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
            "FailIndex" if !spec.value.has("backoffLimitPerIndex") => {
                errors.push(action.invalid("requires the backoffLimitPerIndex to be set"));
            }
            _ => action.one_of(&["Count", "FailIndex", "FailJob", "Ignore"], errors),
        }
        let (codes, conditions) = (rule.child("onExitCodes"), rule.child("onPodConditions"));
        let one = match (codes.is_set(), !conditions.is_zero()) {
            (true, true) => Some("specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => Some("specifying one of OnExitCodes and OnPodConditions is required"),
            _ => None,
        };
        if codes.is_set() {
            exit_codes(&codes, &known_containers, errors);
        }
        let count = conditions.items().count();
        if count > 20 {
            errors.push(FieldError::too_many(&conditions.path, count, 20));
        }
        for condition in conditions.items() {
            condition.child("type").text_checked(names::qualified_name, errors);
            let status = condition.child("status");
            if status.is_zero() {
                errors.push(status.missing("valid values: [\"False\" \"True\" \"Unknown\"]"));
            } else {
                status.one_of(&["False", "True", "Unknown"], errors);
            }
        }
        if let Some(text) = one {
            errors.push(FieldError::invalid(&rule.path, BadValue::json(""), text));
        }
    }
}

fn exit_codes(codes: &Field<'_>, containers: &[&str], errors: &mut Errors) {
    let (operator, container, values) = (codes.child("operator"), codes.child("containerName"), codes.child("values"));
    if operator.is_zero() {
        errors.push(operator.missing("valid values: [\"In\" \"NotIn\"]"));
    } else {
        operator.one_of(&["In", "NotIn"], errors);
    }
    if container.is_set() && !containers.contains(&container.text()) {
        let text = "must be one of the container or initContainer names in the pod template";
        errors.push(container.invalid(text));
    }
    let numbers: Vec<i64> = values.items().map(|v| v.int()).collect();
    if numbers.is_empty() {
        errors.push(values.invalid("at least one value is required"));
    } else if numbers.len() > 255 {
        errors.push(FieldError::too_many(&values.path, numbers.len(), 255));
    }
    for (i, value) in values.items().enumerate() {
        if operator.text() == "In" && value.int() == 0 {
            errors.push(value.invalid("must not be 0 for the In operator"));
        }
        if numbers[..i].contains(&value.int()) {
            errors.push(FieldError::duplicate(&value.path, value.int()));
        }
    }
    if !numbers.is_sorted() {
        errors.push(values.invalid("must be ordered"));
    }
}

fn success_policy(spec: &Field<'_>, rules: &Field<'_>, errors: &mut Errors) {
    let count = rules.items().count();
    if count == 0 {
        errors.push(rules.missing("at least one rules must be specified when the successPolicy is specified"));
    }
    if count > 20 {
        errors.push(FieldError::too_many(&rules.path, count, 20));
    }
    let completions = spec.value.int("completions");
    for rule in rules.items() {
        let (count, indexes) = (rule.child("succeededCount"), rule.child("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            errors.push(rule.missing("at least one of succeededCount or succeededIndexes must be specified"));
        }
        count.nonnegative(errors);
        if count.int() > completions {
            let text = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(count.invalid(text));
        }
    }
}

/// A changed Job: while it is suspended, where its pods may run can still change.
pub(crate) fn job_update(new: &Value, old: &Value) -> Errors {
    // upstream judges the spec twice
    let (mut errors, spec, before) = (job(new), Field::root(new, "spec"), old.field("spec"));
    spec_with_selector(&spec, &mut errors);
    let completions = spec.child("completions");
    if spec.value.text("completionMode") != "Indexed" {
        completions.immutable(before.field("completions"), &mut errors);
    } else if completions.is_set()
        && completions.value != before.field("completions")
        && completions.int() != spec.value.int("parallelism")
    {
        errors.push(completions.invalid("can only be modified in tandem with spec.parallelism"));
    }
    spec.child("selector").immutable(before.field("selector"), &mut errors);
    let template = spec.child("template");
    let not_begun = before.flag("suspend") && old.field("status").is_zero("startTime");
    let mut allowed = template.value.clone();
    if not_begun {
        undo_scheduling_changes(&mut allowed, before.field("template"));
    }
    if !same(&allowed, before.field("template")) {
        let shown = internal("api.core.v1.PodTemplateSpec", template.value);
        errors.push(FieldError::invalid(&template.path, shown, "field is immutable"));
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        spec.child(field).immutable(before.field(field), &mut errors);
    }
    errors
}

fn undo_scheduling_changes(new: &mut Value, old: &Value) {
    let copy = |to: &mut Value, from: &Value, field: &str| {
        if let Some(to) = to.as_object_mut() {
            match from.get(field) {
                Some(value) => _ = to.insert(field.to_owned(), value.clone()),
                None => _ = to.remove(field),
            }
        }
    };
    for field in ["annotations", "labels"] {
        copy(&mut new["metadata"], old.field("metadata"), field);
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy(&mut new["spec"], old.field("spec"), field);
    }
    let affinity = old.field("spec").field("affinity");
    if affinity.is_null()
        && new["spec"].field("affinity").as_object().is_some_and(|a| a.keys().all(|k| k == "nodeAffinity"))
    {
        copy(&mut new["spec"], old.field("spec"), "affinity");
    } else if !affinity.is_null() {
        copy(&mut new["spec"]["affinity"], affinity, "nodeAffinity");
    }
}

/// A new CronJob.
pub(crate) fn cron_job(object: &Value) -> Errors {
    let mut errors = cron_job_spec(object, None);
    let metadata = Field::root(object, "metadata");
    let name = metadata.child("name");
    if name.text().len() > 52 {
        errors.push(name.invalid("must be no more than 52 characters"));
    }
    errors
}

/// A changed CronJob.
pub(crate) fn cron_job_update(new: &Value, old: &Value) -> Errors {
    cron_job_spec(new, Some(old.field("spec")))
}

fn cron_job_spec(object: &Value, old: Option<&Value>) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let (schedule, zone) = (spec.child("schedule"), spec.child("timeZone"));
    if schedule.is_zero() {
        errors.push(schedule.missing(""));
    } else {
        if let Err(wrong) = Schedule::parse(schedule.text(), TimeZone::UTC) {
            errors.push(schedule.invalid(wrong));
        }
        let zone_allowed = old.is_some_and(|old| old.text("schedule").contains("TZ"));
        if schedule.text().contains("TZ") {
            if !zone_allowed {
                errors.push(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
            } else if zone.is_set() {
                errors.push(schedule.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule"));
            }
        }
    }
    spec.child("startingDeadlineSeconds").nonnegative(&mut errors);
    if zone.is_set() && old.is_none_or(|old| old.field("timeZone") != zone.value) {
        zone_name(&zone, &mut errors);
    }
    spec.child("concurrencyPolicy").required_one_of(&["Allow", "Forbid", "Replace"], &mut errors);
    let template = spec.child("jobTemplate");
    let job = template.child("spec");
    job_spec(&job, &mut errors);
    let selector = job.child("selector");
    if selector.is_set() {
        errors.push(selector.invalid("`selector` will be auto-generated"));
    }
    if job.value.flag("manualSelector") {
        let manual = job.child("manualSelector");
        errors.push(FieldError::not_supported(&manual.path, true, &["nil", "false"]));
    }
    spec.child("successfulJobsHistoryLimit").nonnegative(&mut errors);
    spec.child("failedJobsHistoryLimit").nonnegative(&mut errors);
    errors
}

fn zone_name(zone: &Field<'_>, errors: &mut Errors) {
    let name = zone.text();
    if name.is_empty() {
        errors.push(zone.invalid("timeZone must be nil or non-empty string"));
        return;
    }
    let odd = |part: &str| {
        part == "."
            || part == ".."
            || part.starts_with('-')
            || part.is_empty()
            || !part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'))
    };
    if name.split('/').any(odd) {
        errors.push(zone.invalid(format!("unknown time zone {name}")));
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(zone.invalid(text));
    } else if time_zone::get(name).is_none() {
        errors.push(zone.invalid(format!("unknown time zone {name}")));
    }
}

/// A changed status of a Job.
pub(crate) fn job_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    for count in ["active", "succeeded", "failed", "ready", "terminating"] {
        status.child(count).nonnegative(&mut errors);
    }
    let is_true = |kind: &str| {
        let mut conditions = status.value.items("conditions").iter();
        conditions.any(|c| c.text("type") == kind && c.text("status") == "True")
    };
    let completion = status.child("completionTime");
    if is_true("Complete") {
        if is_true("Failed") {
            let at = status.child("conditions");
            let text = "cannot set Complete=True and Failed=true conditions";
            errors.push(FieldError::invalid(&at.path, BadValue::json(""), text));
        }
        if !completion.is_set() {
            errors.push(completion.missing("completionTime is required for Complete jobs"));
        }
    } else if completion.is_set() {
        errors.push(completion.invalid("cannot set completionTime when there is no Complete=True condition"));
    }
    errors
}
