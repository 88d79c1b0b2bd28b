//! The life of pods, with a runtime and an API server in memory and on paused time.
#![allow(clippy::unwrap_used)]

#[path = "support/api.rs"]
mod api;
#[path = "support/runtime.rs"]
mod runtime;

use api::FakeApi;
use pintle_kubelet::Config;
use runtime::FakeRuntime;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

struct Node {
    api: FakeApi,
    runtime: Arc<FakeRuntime>,
    root: PathBuf,
    stop: CancellationToken,
}

impl Node {
    async fn start(name: &str) -> Node {
        let root = std::env::temp_dir().join(format!("pintle-kubelet-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let node = Node {
            api: FakeApi::new(),
            runtime: Arc::new(FakeRuntime::new(&root)),
            root,
            stop: CancellationToken::new(),
        };
        node.run(node.stop.clone()).await;
        node
    }

    async fn run(&self, stop: CancellationToken) {
        let mut config = Config::new("node", "192.0.2.1".parse().unwrap(), &self.root);
        config.manage_cgroups = false;
        config.static_pod_path = Some(self.root.join("manifests"));
        let (runtime, images) = (self.runtime.clone(), self.runtime.clone());
        let mut handle = pintle_kubelet::run(config, self.api.client(), runtime, images, stop).await.unwrap();
        assert!(handle.ready().await);
    }

    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node");
        self.api.put(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"}, "spec": spec}),
        );
    }

    async fn phase(&self, name: &str, phase: &str) -> Value {
        self.api.pod_until(name, |pod| pod["status"]["phase"] == phase).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        let memory = self.root.join("memory-volumes");
        nix::mount::umount(&memory).ok();
        std::fs::remove_dir_all(&self.root).ok();
    }
}

fn waiting<'a>(pod: &'a Value, field: &str) -> &'a Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"][field]
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_is_reported_and_leaves_nothing_after_deletion() {
    let node = Node::start("runs").await;
    node.pod("a", json!({"containers": [{"name": "c", "image": "i"}]}));
    let pod = node.phase("a", "Running").await;
    assert!(ready(&pod));
    assert_eq!(pod["status"]["podIP"], "10.1.0.1");
    assert_eq!(pod["status"]["hostIP"], "192.0.2.1");
    assert_eq!(pod["status"]["containerStatuses"][0]["containerID"], "fake://container-2");
    node.api.delete_pod("a", 30);
    node.api.pod_until("a", Value::is_null).await;
    node.runtime.seen("stopping c within 30s").await;
    node.runtime.seen("removed sandbox").await;
    assert!(node.runtime.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_restarts_after_ten_then_twenty_seconds() {
    let node = Node::start("crash").await;
    node.pod("a", json!({"containers": [{"name": "c", "image": "i"}]}));
    node.phase("a", "Running").await;
    node.runtime.exit("c", 1);
    let restarts =
        |count: i64| move |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == count && ready(pod);
    node.api.pod_until("a", restarts(1)).await;
    for (count, delay) in [(2, 10), (3, 20), (4, 40)] {
        let start = Instant::now();
        node.runtime.exit("c", 1);
        let pod = node.api.pod_until("a", |pod| waiting(pod, "reason") == "CrashLoopBackOff").await;
        let message = format!("back-off {delay}s restarting failed container=c pod=a_ns(uid-a)");
        assert_eq!(waiting(&pod, "message"), &json!(message));
        assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
        node.api.pod_until("a", restarts(count)).await;
        // The exit's time is a wall clock's, which runs on a little while time is paused.
        assert_eq!(start.elapsed().as_secs_f64().round() as u64, delay);
    }
    node.api.event("BackOff: Back-off restarting failed container c in pod a_ns(uid-a)").await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_sidecars_outlive_the_others() {
    let node = Node::start("init").await;
    node.runtime.answer_exec("started", 0);
    node.pod(
        "a",
        json!({
        "terminationGracePeriodSeconds": 30,
        "initContainers": [
            {"name": "first", "image": "i"},
            {"name": "side", "image": "i", "restartPolicy": "Always"},
            {"name": "second", "image": "i"}],
        "containers": [{"name": "main", "image": "i"}]}),
    );
    node.runtime.seen("started first").await;
    let pod =
        node.api.pod_until("a", |pod| !pod["status"]["initContainerStatuses"][0]["state"]["running"].is_null()).await;
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(waiting(&pod, "reason"), "PodInitializing");
    node.runtime.exit("first", 0);
    node.runtime.seen("started second").await;
    node.runtime.exit("second", 0);
    node.phase("a", "Running").await;
    node.api.delete_pod("a", 30);
    node.api.pod_until("a", Value::is_null).await;
    let order: Vec<String> = node.runtime.history().into_iter().filter(|line| !line.starts_with("created")).collect();
    let expected = [
        "sandbox",
        "started first",
        "exited first",
        "started side",
        "started second",
        "exited second",
        "started main",
        "stopping main within 30s",
        "exited main",
        "stopping side within 30s",
        "exited side",
    ];
    assert_eq!(order[..expected.len()], expected);
}

#[tokio::test(start_paused = true)]
async fn a_job_pod_succeeds_and_its_sandbox_stops() {
    let node = Node::start("job").await;
    node.pod("a", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}));
    node.phase("a", "Running").await;
    node.runtime.exit("c", 0);
    let pod = node.phase("a", "Succeeded").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert!(!ready(&pod));
    node.api.delete_pod("a", 0);
    node.api.pod_until("a", Value::is_null).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_pulled_again_with_back_off() {
    let node = Node::start("image").await;
    node.runtime.make_missing("i", true);
    node.pod("a", json!({"containers": [{"name": "c", "image": "i"}]}));
    let start = Instant::now();
    let pod = node.api.pod_until("a", |pod| waiting(pod, "reason") == "ImagePullBackOff").await;
    assert!(waiting(&pod, "message").as_str().unwrap().starts_with("Back-off pulling image \"i\": ErrImagePull: "));
    node.runtime.make_missing("i", false);
    node.phase("a", "Running").await;
    assert_eq!(start.elapsed().as_secs_f64().round() as u64, 10);
}

#[tokio::test(start_paused = true)]
async fn a_stubborn_container_is_killed_when_the_grace_period_shortens() {
    let node = Node::start("stubborn").await;
    node.runtime.make_stubborn("c");
    node.pod("a", json!({"containers": [{"name": "c", "image": "i"}]}));
    node.phase("a", "Running").await;
    let start = Instant::now();
    node.api.delete_pod("a", 300);
    node.runtime.seen("stopping c within 300s").await;
    node.api.delete_pod("a", 5);
    let pod = node.api.pod_until("a", Value::is_null).await;
    assert!(pod.is_null());
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn environment_and_volumes_come_from_config_maps_and_follow_them() {
    let node = Node::start("config").await;
    node.pod(
        "a",
        json!({
        "containers": [{"name": "c", "image": "i",
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}},
                    {"name": "B", "value": "[$(A)]"}],
            "args": ["$(B)"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}]}),
    );
    node.api.pod_until("a", |pod| pod["status"]["phase"] == "Pending").await;
    node.api.put("configmaps", json!({"metadata": {"namespace": "ns", "name": "m"}, "data": {"a": "1"}}));
    node.phase("a", "Running").await;
    let config = node.runtime.config_of("c").unwrap();
    assert_eq!(config.args, ["[1]"]);
    let mount = config.mounts.iter().find(|mount| mount.container_path == "/v").unwrap();
    let file = PathBuf::from(&mount.host_path).join("a");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    node.api.put("configmaps", json!({"metadata": {"namespace": "ns", "name": "m"}, "data": {"a": "2"}}));
    while std::fs::read_to_string(&file).unwrap() != "2" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_a_config_error_with_upstreams_words() {
    let node = Node::start("key").await;
    node.api.put("configmaps", json!({"metadata": {"namespace": "ns", "name": "m"}, "data": {"a": "1"}}));
    node.pod(
        "a",
        json!({"containers": [{"name": "c", "image": "i",
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "x"}}}]}]}),
    );
    let pod = node.api.pod_until("a", |pod| waiting(pod, "reason") == "CreateContainerConfigError").await;
    assert_eq!(waiting(&pod, "message"), "couldn't find key x in ConfigMap ns/m");
}

#[tokio::test(start_paused = true)]
async fn running_containers_are_adopted_after_a_restart() {
    let node = Node::start("adopt").await;
    let (second, third) = (CancellationToken::new(), CancellationToken::new());
    node.pod("a", json!({"containers": [{"name": "c", "image": "i"}]}));
    node.phase("a", "Running").await;
    node.stop.cancel();
    node.run(second.clone()).await;
    node.pod("b", json!({"containers": [{"name": "d", "image": "i"}]}));
    node.phase("b", "Running").await;
    second.cancel();
    node.api.delete_pod("a", 0);
    node.run(third.clone()).await;
    node.api.pod_until("a", Value::is_null).await;
    let started: Vec<String> = node.runtime.history().into_iter().filter(|line| line.starts_with("started")).collect();
    assert_eq!(started, ["started c", "started d"]);
    third.cancel();
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_its_probe_and_thresholds() {
    let node = Node::start("readiness").await;
    node.runtime.answer_exec("check", 1);
    let probe =
        json!({"exec": {"command": ["check"]}, "periodSeconds": 5, "failureThreshold": 2, "successThreshold": 1});
    node.pod("a", json!({"containers": [{"name": "c", "image": "i", "readinessProbe": probe}]}));
    let pod = node.phase("a", "Running").await;
    assert!(!ready(&pod));
    node.runtime.answer_exec("check", 0);
    node.api.pod_until("a", ready).await;
    let start = Instant::now();
    node.runtime.answer_exec("check", 1);
    node.api.pod_until("a", |pod| !ready(pod)).await;
    assert_eq!(start.elapsed().as_secs_f64().round() as u64, 10);
    node.api.event("Unhealthy: Readiness probe failed: ").await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_liveness_probe_restarts_only_after_startup() {
    let node = Node::start("liveness").await;
    node.runtime.answer_exec("boot", 1);
    node.runtime.answer_exec("live", 1);
    let probe = |command: &str, failures: i64| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": failures});
    node.pod(
        "a",
        json!({"containers": [{
        "name": "c", "image": "i", "startupProbe": probe("boot", 100), "livenessProbe": probe("live", 3)}]}),
    );
    node.phase("a", "Running").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let pod = node.api.pod("a").unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], false);
    assert!(!node.runtime.history().contains(&"exec live".into()));
    node.runtime.answer_exec("boot", 0);
    node.api.pod_until("a", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let history = node.runtime.history();
    let before = history.iter().take_while(|line| !line.starts_with("stopping"));
    let lives = before.filter(|line| *line == "exec live").count();
    assert_eq!(lives, 3);
    node.api.event("Killing: Container c failed liveness probe, will be restarted").await;
}

#[tokio::test(start_paused = true)]
async fn hooks_run_after_start_and_before_stop() {
    let node = Node::start("hooks").await;
    node.pod(
        "a",
        json!({"containers": [{"name": "c", "image": "i", "lifecycle": {
        "postStart": {"exec": {"command": ["hello"]}}, "preStop": {"sleep": {"seconds": 7}}}}]}),
    );
    node.phase("a", "Running").await;
    let start = Instant::now();
    node.api.delete_pod("a", 30);
    node.api.pod_until("a", Value::is_null).await;
    assert_eq!(start.elapsed().as_secs_f64().round() as u64, 7);
    let history = node.runtime.history();
    let at = |what: &str| history.iter().position(|line| line == what);
    assert!(at("started c") < at("exec hello") && at("exec hello") < at("stopping c within 23s"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_suit_the_node_is_rejected() {
    let node = Node::start("reject").await;
    node.pod("a", json!({"nodeSelector": {"zone": "x"}, "containers": [{"name": "c", "image": "i"}]}));
    let pod = node.phase("a", "Failed").await;
    let words = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    assert_eq!(pod["status"]["reason"], "NodeAffinity");
    assert_eq!(pod["status"]["message"], format!("Pod was rejected: {words}"));
    node.api.event(&format!("NodeAffinity: {words}")).await;
    let huge = json!({"requests": {"cpu": "100k"}});
    node.pod("b", json!({"containers": [{"name": "c", "image": "i", "resources": huge}]}));
    assert_eq!(node.phase("b", "Failed").await["status"]["reason"], "OutOfcpu");
    assert!(node.runtime.is_empty());
    node.api.delete_pod("a", 0);
    node.api.pod_until("a", Value::is_null).await;
}

/// Asks for other resources of the pod's first container.
fn resize(node: &Node, name: &str, resources: &Value) {
    let mut pod = node.api.pod(name).unwrap();
    pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
    pod["spec"]["containers"][0]["resources"] = resources.clone();
    node.api.put("pods", pod);
}

fn resize_condition(pod: &Value) -> Option<&Value> {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"].as_str().unwrap().starts_with("PodResize"))
}

#[tokio::test(start_paused = true)]
async fn resources_change_while_the_container_runs() {
    let node = Node::start("resize").await;
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}, "limits": {"cpu": amount}});
    node.pod("a", json!({"containers": [{"name": "c", "image": "i", "resources": cpu("10m")}]}));
    let pod = node.phase("a", "Running").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "10m");
    resize(&node, "a", &cpu("20m"));
    let done = |amount: &'static str| {
        move |pod: &Value| {
            pod["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"] == amount
                && resize_condition(pod).is_none()
        }
    };
    let pod = node.api.pod_until("a", done("20m")).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(pod["status"]["allocatedResources"]["cpu"], "20m");
    node.runtime.seen("updated c").await;
    // More than the machine has waits, and the container keeps what it has.
    resize(&node, "a", &cpu("100k"));
    let pod = node.api.pod_until("a", |pod| resize_condition(pod).is_some()).await;
    let condition = resize_condition(&pod).unwrap();
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("PodResizePending"), &json!("Deferred")));
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "20m");
    resize(&node, "a", &cpu("30m"));
    node.api.pod_until("a", done("30m")).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_restarts_for_a_resize_when_its_policy_says_so() {
    let node = Node::start("resize-restart").await;
    let memory = |amount: &str| json!({"requests": {"memory": amount}, "limits": {"memory": "64Mi"}});
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    node.pod(
        "a",
        json!({"containers": [{"name": "c", "image": "i", "resources": memory("16Mi"), "resizePolicy": policy}]}),
    );
    node.phase("a", "Running").await;
    resize(&node, "a", &memory("32Mi"));
    let restarted = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(pod) && resize_condition(pod).is_none()
    };
    let pod = node.api.pod_until("a", restarted).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["memory"], "32Mi");
    node.api.event("Killing: Container c resize requires restart").await;
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_runs_without_the_api_and_is_mirrored_there() {
    let node = Node::start("static").await;
    let manifest = node.root.join("manifests/web.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: ns}\nspec:\n  containers: [{name: c, image: i:1}]\n";
    std::fs::create_dir_all(node.root.join("manifests")).unwrap();
    std::fs::write(&manifest, text).unwrap();
    let mirror = node.phase("web-node", "Running").await;
    let hash = &mirror["metadata"]["annotations"]["kubernetes.io/config.hash"];
    assert_eq!(&mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"], hash);
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    // Deleting the mirror ends nothing: it comes back.
    node.api.delete_pod("web-node", 30);
    node.api
        .pod_until("web-node", |pod| {
            pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
        })
        .await;
    // A restart finds the pod running.
    node.stop.cancel();
    let second = CancellationToken::new();
    node.run(second.clone()).await;
    std::fs::remove_file(&manifest).unwrap();
    node.api.pod_until("web-node", Value::is_null).await;
    node.runtime.seen("removed sandbox").await;
    let started = node.runtime.history().into_iter().filter(|line| line == "started c").count();
    assert_eq!(started, 1);
    assert!(node.runtime.is_empty());
    second.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_pod_past_its_deadline_fails_once_its_containers_have_ended() {
    let node = Node::start("deadline").await;
    node.runtime.make_stubborn("c");
    node.pod(
        "a",
        json!({"activeDeadlineSeconds": 20, "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}),
    );
    node.phase("a", "Running").await;
    node.runtime.seen("stopping c within 30s").await;
    assert_eq!(node.api.pod("a").unwrap()["status"]["phase"], "Running");
    let pod = node.phase("a", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_wants_a_user_namespace_does_not_start_without_one() {
    let node = Node::start("users").await;
    node.pod("a", json!({"hostUsers": false, "containers": [{"name": "c", "image": "i"}]}));
    let words = "RuntimeClass handler \"\" does not support user namespaces";
    node.api.event(&format!("FailedCreatePodSandBox: Failed to create pod sandbox: {words}")).await;
    assert!(node.runtime.is_empty());
}
