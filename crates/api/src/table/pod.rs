//! The row of a Pod.
use serde_json::{Value, json};

use super::{Printed, get, list, str_of};

const CONTAINER_STATE_RUNNING: &str = "state.running";

fn condition_is_true(object: &Value, type_: &str) -> bool {
    list(object, "status.conditions").iter().any(|c| c["type"] == type_ && c["status"] == "True")
}

/// The later of two RFC 3339 times in UTC; empty: never.
fn later<'a>(a: &'a str, b: &'a str) -> &'a str {
    if b > a { b } else { a }
}

/// Why a terminated container ended.
fn terminated_reason(terminated: &Value) -> String {
    let reason = str_of(terminated, "reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match get(terminated, "signal").as_i64() {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", get(terminated, "exitCode").as_i64().unwrap_or(0)),
    }
}

/// What the statuses of the containers come to.
struct Summary<'a> {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: &'a str,
}

fn init_containers<'a>(p: &Printed<'a>, summary: &mut Summary<'a>) -> bool {
    let init = p.list("spec.initContainers");
    let sidecar = |name: &str| init.iter().any(|c| c["name"] == name && c["restartPolicy"] == "Always");
    let mut sidecars = (0, "");
    let mut initializing = false;
    for (i, status) in p.list("status.initContainerStatuses").iter().enumerate() {
        let restarts = get(status, "restartCount").as_i64().unwrap_or(0);
        let finished = str_of(status, "lastState.terminated.finishedAt");
        summary.restarts += restarts;
        summary.last_restart = later(summary.last_restart, finished);
        let is_sidecar = sidecar(str_of(status, "name"));
        if is_sidecar {
            sidecars = (sidecars.0 + restarts, later(sidecars.1, finished));
        }
        let terminated = get(status, "state.terminated");
        let waiting = str_of(status, "state.waiting.reason");
        if terminated.is_object() && get(terminated, "exitCode").as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if is_sidecar && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        summary.reason = if terminated.is_object() {
            format!("Init:{}", terminated_reason(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", init.len())
        };
        initializing = true;
        break;
    }
    if !initializing || condition_is_true(p.object, "Initialized") {
        (summary.restarts, summary.last_restart) = sidecars;
        return false;
    }
    true
}

fn main_containers<'a>(p: &Printed<'a>, summary: &mut Summary<'a>) {
    let (mut running, mut error) = (false, String::new());
    for status in p.list("status.containerStatuses").iter().rev() {
        summary.restarts += get(status, "restartCount").as_i64().unwrap_or(0);
        summary.last_restart = later(summary.last_restart, str_of(status, "lastState.terminated.finishedAt"));
        let terminated = get(status, "state.terminated");
        let waiting = str_of(status, "state.waiting.reason");
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if terminated.is_object() {
            summary.reason = terminated_reason(terminated);
            if get(terminated, "exitCode").as_i64().unwrap_or(0) != 0 {
                error.clone_from(&summary.reason);
            }
        } else if status["ready"] == true && get(status, CONTAINER_STATE_RUNNING).is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && condition_is_true(p.object, "Ready") {
            summary.reason = "Running".into();
        } else if !error.is_empty() {
            summary.reason = error;
        } else if running {
            summary.reason = "NotReady".into();
        }
    }
}

pub(super) fn cells(p: &Printed<'_>) -> Vec<Value> {
    let phase = p.text("status.phase");
    let mut summary =
        Summary { reason: p.text_or("status.reason", phase).to_owned(), ready: 0, restarts: 0, last_restart: "" };
    let conditions = p.list("status.conditions");
    if conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        summary.reason = "SchedulingGated".into();
    }
    let sidecars = p.list("spec.initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
    let total = p.list("spec.containers").len() + sidecars;
    if !init_containers(p, &mut summary) {
        main_containers(p, &mut summary);
    }
    if p.deleted() {
        if p.text("status.reason") == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".into();
        }
    }
    let mut restarts = summary.restarts.to_string();
    if summary.restarts != 0 && !summary.last_restart.is_empty() {
        restarts = format!("{restarts} ({} ago)", p.since_text(summary.last_restart));
    }
    let gates = p.list("spec.readinessGates");
    let open = gates.iter().filter(|g| condition_is_true(p.object, str_of(g, "conditionType"))).count();
    let readiness_gates = if gates.is_empty() { "<none>".to_owned() } else { format!("{open}/{}", gates.len()) };
    let ip = p.list("status.podIPs").first().map_or("", |ip| str_of(ip, "ip"));
    vec![
        p.name(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        p.age(),
        if ip.is_empty() { "<none>" } else { ip }.into(),
        p.text_or("spec.nodeName", "<none>").into(),
        p.text_or("status.nominatedNodeName", "<none>").into(),
        readiness_gates.into(),
    ]
}

/// `conditions` of the row of a pod that has ended, which `kubectl` may hide.
pub(super) fn row_conditions(object: &Value) -> Option<Value> {
    if object["kind"] != "Pod" {
        return None;
    }
    let message = match object["status"]["phase"].as_str()? {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!([
        {"type": "Completed", "status": "True", "reason": object["status"]["phase"], "message": message},
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(pod: &Value) -> (String, String, String) {
        let now = "2024-01-01T01:00:00Z".parse().unwrap();
        let cells = cells(&Printed { object: pod, now });
        let text = |i: usize| cells[i].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    fn pod(status: &Value) -> Value {
        json!({"kind": "Pod", "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
    }

    fn printed(ready: &str, status: &str, restarts: &str) -> (String, String, String) {
        (ready.into(), status.into(), restarts.into())
    }

    #[test]
    fn a_running_pod_shows_ready_containers_and_restarts() {
        let statuses = json!([
            {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "2024-01-01T00:58:00Z"}}},
            {"name": "b", "ready": false, "restartCount": 0, "state": {"running": {}}},
        ]);
        let pod = pod(&json!({"phase": "Running", "containerStatuses": statuses}));
        assert_eq!(status(&pod), printed("1/2", "Running", "2 (2m ago)"));
    }

    #[test]
    fn waiting_and_terminated_containers_give_the_status() {
        let waiting = json!([{"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        let with = |statuses: &Value| status(&pod(&json!({"phase": "Running", "containerStatuses": statuses}))).1;
        assert_eq!(with(&waiting), "CrashLoopBackOff");
        assert_eq!(with(&json!([{"state": {"terminated": {"exitCode": 3}}}])), "ExitCode:3");
        assert_eq!(with(&json!([{"state": {"terminated": {"exitCode": 137, "signal": 9}}}])), "Signal:9");
        let one_done =
            json!([{"state": {"running": {}}, "ready": true}, {"state": {"terminated": {"reason": "Completed"}}}]);
        assert_eq!(with(&one_done), "NotReady");
    }

    #[test]
    fn init_containers_come_first_and_sidecars_count() {
        let init = json!([{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]);
        let mut waiting = pod(&json!({"phase": "Pending", "initContainerStatuses": init}));
        waiting["spec"]["initContainers"] = json!([{"name": "i"}]);
        assert_eq!(status(&waiting), printed("0/2", "Init:0/1", "0"));
        let init = json!([{"name": "i", "started": true, "ready": true, "state": {"running": {}}}]);
        let mut sidecar = pod(&json!({"phase": "Running", "initContainerStatuses": init}));
        sidecar["spec"]["initContainers"] = json!([{"name": "i", "restartPolicy": "Always"}]);
        assert_eq!(status(&sidecar), printed("1/3", "Running", "0"));
    }

    #[test]
    fn deleted_pods_terminate_and_ended_ones_are_marked() {
        let mut deleted = pod(&json!({"phase": "Running"}));
        deleted["metadata"] = json!({"deletionTimestamp": "2024-01-01T00:00:00Z"});
        assert_eq!(status(&deleted).1, "Terminating");
        deleted["status"]["phase"] = "Succeeded".into();
        assert_eq!(status(&deleted).1, "Succeeded");
        assert_eq!(row_conditions(&deleted).unwrap()[0]["reason"], "Succeeded");
        assert_eq!(row_conditions(&pod(&json!({"phase": "Running"}))), None);
    }
}
