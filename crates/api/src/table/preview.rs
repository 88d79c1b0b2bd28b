//! The rows of kinds that exist in alpha and beta versions only.
use serde_json::Value;

use super::{Printed, get, list, str_of, text::labels};

pub(super) fn cluster_trust_bundle(p: &Printed<'_>) -> Vec<Value> {
    vec![p.name(), p.text_or("spec.signerName", "<none>").into()]
}

pub(super) fn pod_certificate_request(p: &Printed<'_>) -> Vec<Value> {
    let conditions = p.list("status.conditions").iter().map(|condition| str_of(condition, "type"));
    let mut states = conditions.filter(|kind| matches!(*kind, "Issued" | "Denied" | "Failed"));
    let state = states.next_back().unwrap_or("Pending");
    vec![
        p.name(),
        p.text("spec.podName").into(),
        p.text("spec.serviceAccountName").into(),
        p.text("spec.nodeName").into(),
        p.text("spec.signerName").into(),
        state.into(),
        labels(p.get("spec.unverifiedUserAnnotations")).into(),
    ]
}

pub(super) fn lease_candidate(p: &Printed<'_>) -> Vec<Value> {
    let text = |path: &str| p.text(path).into();
    vec![p.name(), text("spec.leaseName"), text("spec.binaryVersion"), text("spec.emulationVersion"), p.age()]
}

pub(super) fn storage_version(p: &Printed<'_>) -> Vec<Value> {
    let versions = p.list("status.storageVersions");
    let shown =
        versions.iter().take(3).map(|v| format!("{}={}", str_of(v, "apiServerID"), str_of(v, "encodingVersion")));
    let mut text = shown.collect::<Vec<_>>().join(",");
    if versions.len() > 3 {
        text = format!("{text} + {} more...", versions.len() - 3);
    } else if text.is_empty() {
        text = "<unset>".into();
    }
    let common = match p.get("status.commonEncodingVersion") {
        Value::String(common) => common.as_str(),
        _ => "<unset>",
    };
    vec![p.name(), common.into(), text.into(), p.age()]
}

pub(super) fn device_taint_rule(p: &Printed<'_>) -> Vec<Value> {
    let added = match p.get("spec.taint.timeAdded") {
        Value::String(_) => p.since("spec.taint.timeAdded"),
        _ => String::new(),
    };
    vec![
        p.name(),
        p.text("spec.taint.key").into(),
        p.text("spec.taint.value").into(),
        p.text("spec.taint.effect").into(),
        added.into(),
        p.age(),
    ]
}

pub(super) fn resource_pool_status_request(p: &Printed<'_>) -> Vec<Value> {
    let holds = |kind: &str| {
        let of_kind = |c: &&Value| str_of(c, "type") == kind && str_of(c, "status") == "True";
        p.list("status.conditions").iter().position(|c| of_kind(&c))
    };
    let (complete, failed) = (holds("Complete"), holds("Failed"));
    let failed = failed.is_some_and(|at| complete.is_none_or(|complete| at < complete));
    let (pools, count) = (p.list("status.pools"), p.int("status.poolCount"));
    let status = match complete {
        _ if failed => "Failed".to_owned(),
        Some(_) if count > pools.len() as i64 => format!("Complete ({}/{count} pools)", pools.len()),
        Some(_) => "Complete".to_owned(),
        None => "Pending".to_owned(),
    };
    let counted = p.get("status").is_object() && !failed;
    let sum = |field: &str| match counted {
        true => pools.iter().map(|pool| get(pool, field).as_i64().unwrap_or(0)).sum::<i64>().to_string(),
        false => "-".to_owned(),
    };
    let errors = match counted {
        true => pools.iter().filter(|pool| !get(pool, "validationError").is_null()).count().to_string(),
        false => "-".to_owned(),
    };
    let completed = complete.filter(|_| !failed).and_then(|at| p.list("status.conditions").get(at));
    let completed = completed.map_or_else(|| "<none>".to_owned(), |c| p.since_text(str_of(c, "lastTransitionTime")));
    vec![
        p.name(),
        p.text("spec.driver").into(),
        sum("totalDevices").into(),
        sum("availableDevices").into(),
        sum("allocatedDevices").into(),
        sum("unavailableDevices").into(),
        errors.into(),
        count.into(),
        status.into(),
        completed.into(),
    ]
}

pub(super) fn pod_group(p: &Printed<'_>) -> Vec<Value> {
    let policy = if p.get("spec.schedulingPolicy.gang").is_object() { "Gang" } else { "Basic" };
    let condition = |kind: &str| p.list("status.conditions").iter().rfind(|c| str_of(c, "type") == kind);
    let status = match (condition("DisruptionTarget"), condition("PodGroupScheduled")) {
        (Some(disrupted), _) => str_of(disrupted, "reason"),
        (None, Some(scheduled)) if str_of(scheduled, "status") == "True" => "Scheduled",
        (None, Some(_)) => "Unschedulable",
        (None, None) => "Pending",
    };
    let workload = match p.get("spec.podGroupTemplateRef") {
        Value::Object(_) => p.text("spec.podGroupTemplateRef.workload.workloadName"),
        _ => "<none>",
    };
    vec![p.name(), policy.into(), workload.into(), status.into(), p.age()]
}

pub(super) fn storage_version_migration(p: &Printed<'_>) -> Vec<Value> {
    let (group, resource) = (p.text("spec.resource.group"), p.text("spec.resource.resource"));
    let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let conditions = list(p.object, "status.conditions").iter().filter(|c| str_of(c, "status") == "True");
    let mut states =
        conditions.map(|c| str_of(c, "type")).filter(|kind| matches!(*kind, "Running" | "Failed" | "Succeeded"));
    vec![p.name(), resource.into(), states.next_back().unwrap_or("Unknown").into()]
}
