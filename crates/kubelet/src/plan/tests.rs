use super::*;
use pintle_runtime::cri::PodSandboxStatus;
use serde_json::json;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec})).unwrap()
}

fn ready() -> PodView {
    PodView {
        sandboxes: vec![PodSandboxStatus { id: "s".into(), state: 0, ..Default::default() }],
        containers: Vec::new(),
    }
}

fn container(name: &str, state: State, exit_code: i32) -> ContainerView {
    let id = format!("{name}-id");
    ContainerView { id, name: name.into(), state, exit_code, sandbox_id: "s".into(), ..Default::default() }
}

#[test]
fn a_new_pod_gets_a_sandbox_and_its_containers() {
    let plan = actions(
        &pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        &PodView::default(),
        &ProbeResults::default(),
    );
    assert!(plan.create_sandbox);
    assert_eq!(plan.start, [0, 1]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}));
    let probes = ProbeResults::default();
    assert_eq!(actions(&pod, &PodView::default(), &probes).init, [0]);
    let mut view = ready();
    assert_eq!(actions(&pod, &view, &probes).init, [0]);
    view.containers = vec![container("i", State::Running, 0)];
    assert_eq!(actions(&pod, &view, &probes).init, [] as [usize; 0]);
    view.containers = vec![container("i", State::Exited, 0)];
    assert_eq!(actions(&pod, &view, &probes).init, [1]);
    view.containers = vec![container("j", State::Exited, 0)];
    let plan = actions(&pod, &view, &probes);
    assert_eq!((plan.init, plan.start), (vec![], vec![0]));
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let spec = |policy| {
        pod(json!({"restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}))
    };
    let mut view = ready();
    view.containers = vec![container("i", State::Exited, 1)];
    assert!(actions(&spec("Never"), &view, &ProbeResults::default()).kill_pod);
    assert_eq!(actions(&spec("OnFailure"), &view, &ProbeResults::default()).init, [0]);
}

#[test]
fn a_sidecar_lets_the_next_container_start_once_it_is_started() {
    let pod = pod(json!({
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["true"]}}},
            {"name": "i"}],
        "containers": [{"name": "a"}]}));
    let mut view = ready();
    view.containers = vec![container("side", State::Running, 0)];
    let mut probes = ProbeResults::default();
    assert_eq!(actions(&pod, &view, &probes).init, [] as [usize; 0]);
    probes.set("side-id", crate::probes::Kind::Startup, Outcome::Success);
    assert_eq!(actions(&pod, &view, &probes).init, [1]);
}

#[test]
fn a_dead_sidecar_restarts_while_the_pod_runs() {
    let pod = pod(json!({
        "initContainers": [{"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}));
    let mut view = ready();
    view.containers = vec![container("side", State::Exited, 1), container("a", State::Running, 0)];
    let plan = actions(&pod, &view, &ProbeResults::default());
    assert_eq!((plan.init, plan.start, plan.kill_pod), (vec![0], vec![], false));
}

#[test]
fn a_pod_whose_containers_are_all_done_is_killed() {
    let pod = pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}]}));
    let mut view = ready();
    view.containers = vec![container("a", State::Exited, 0)];
    assert!(actions(&pod, &view, &ProbeResults::default()).kill_pod);
    view.containers = vec![container("a", State::Exited, 3)];
    assert_eq!(actions(&pod, &view, &ProbeResults::default()).start, [0]);
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut view = ready();
    view.containers = vec![container("a", State::Running, 0)];
    let mut probes = ProbeResults::default();
    probes.set("a-id", crate::probes::Kind::Liveness, Outcome::Failure);
    let plan = actions(&pod, &view, &probes);
    assert_eq!(plan.start, [0]);
    assert_eq!(plan.kill[0].message, "Container a failed liveness probe, will be restarted");
}

#[test]
fn a_changed_image_restarts_the_container_whatever_the_policy() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "new"}]}));
    let mut view = ready();
    view.containers = vec![ContainerView { hash: Some("0".into()), ..container("a", State::Running, 0) }];
    let plan = actions(&pod, &view, &ProbeResults::default());
    assert_eq!((plan.start, plan.kill.len()), (vec![0], 1));
}

#[test]
fn restart_rules_of_a_container_override_the_pod() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{
        "name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}));
    let mut view = ready();
    view.containers = vec![container("a", State::Exited, 42)];
    assert_eq!(actions(&pod, &view, &ProbeResults::default()).start, [0]);
    view.containers = vec![container("a", State::Exited, 1)];
    assert!(actions(&pod, &view, &ProbeResults::default()).kill_pod);
}
