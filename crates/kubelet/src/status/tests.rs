use super::*;
use crate::view::{ContainerView, State};
use pintle_runtime::cri;
use serde_json::json;

fn pod(spec: serde_json::Value) -> Pod {
    let meta = json!({"name": "p", "namespace": "ns", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn view(containers: Vec<ContainerView>) -> PodView {
    let network = cri::PodSandboxNetworkStatus { ip: "10.0.0.2".into(), ..Default::default() };
    let sandbox = cri::PodSandboxStatus { id: "s".into(), network: Some(network), ..Default::default() };
    PodView { sandboxes: vec![sandbox], containers }
}

fn container(name: &str, state: State) -> ContainerView {
    let (id, sandbox_id) = (format!("{name}-id"), "s".into());
    ContainerView { id, name: name.into(), state, sandbox_id, started_at: 1_000_000_000, ..Default::default() }
}

fn status(pod: &Pod, view: &PodView, previous: &PodStatus, failures: &StartFailures) -> PodStatus {
    generate(
        pod,
        view,
        &Inputs {
            previous,
            failures,
            probes: &ProbeResults::default(),
            host_ips: &["192.0.2.1".into()],
            terminal: false,
            evicted: None,
            runtime_name: "pintle",
            more: &[],
            now: Timestamp::UNIX_EPOCH,
        },
    )
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|one| one.type_ == type_).unwrap()
}

#[test]
fn a_pod_without_sandbox_is_pending_and_creating() {
    let status = status(
        &pod(json!({"containers": [{"name": "a"}]})),
        &PodView::default(),
        &PodStatus::default(),
        &StartFailures::new(),
    );
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    let ready = condition(&status, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
    assert_eq!(ready.observed_generation, Some(3));
    assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
}

#[test]
fn a_running_pod_is_ready_and_has_its_address() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let status =
        status(&pod, &view(vec![container("a", State::Running)]), &PodStatus::default(), &StartFailures::new());
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(status.container_statuses.unwrap()[0].started, Some(true));
}

#[test]
fn a_crashing_container_waits_with_the_back_off_message_and_keeps_its_last_exit() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let dead = ContainerView { exit_code: 1, reason: "Error".into(), ..container("a", State::Exited) };
    let message = "back-off 10s restarting failed container=a pod=p_ns(u)".to_owned();
    let failures = StartFailures::from([("a".into(), ("CrashLoopBackOff".into(), message.clone()))]);
    let status = status(&pod, &view(vec![dead]), &PodStatus::default(), &failures);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.state.as_ref().unwrap().waiting.as_ref().unwrap().message, Some(message));
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
}

#[test]
fn a_job_pod_ends_as_its_containers_do() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
    let end = |code| {
        let b = ContainerView { exit_code: code, ..container("b", State::Exited) };
        status(&pod, &view(vec![container("a", State::Exited), b]), &PodStatus::default(), &StartFailures::new())
    };
    assert_eq!(end(0).phase.as_deref(), Some("Succeeded"));
    assert_eq!(condition(&end(0), "Ready").reason.as_deref(), Some("PodCompleted"));
    assert_eq!(end(2).phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&end(2), "ContainersReady").reason.as_deref(), Some("PodFailed"));
}

#[test]
fn transition_times_stay_while_the_status_does() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let failures = StartFailures::new();
    let first = status(&pod, &view(vec![container("a", State::Running)]), &PodStatus::default(), &failures);
    let inputs = Inputs {
        previous: &first,
        failures: &failures,
        probes: &ProbeResults::default(),
        host_ips: &["192.0.2.1".into()],
        terminal: false,
        evicted: None,
        runtime_name: "pintle",
        more: &[],
        now: Timestamp::from_second(100).unwrap(),
    };
    assert_eq!(generate(&pod, &view(vec![container("a", State::Running)]), &inputs), first);
}

#[test]
fn a_lost_container_counts_as_a_restart() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let failures = StartFailures::new();
    let before = status(&pod, &view(vec![container("a", State::Running)]), &PodStatus::default(), &failures);
    let after = status(&pod, &view(Vec::new()), &before, &failures);
    let container = &after.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.restart_count, 1);
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));
    assert_eq!(after.phase.as_deref(), Some("Running"));
}
