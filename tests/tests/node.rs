//! Pods on a real node: other resources while they run, manifests of the node, limits on disk, and what outlives the process.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Host, eventually, run, text};
use serde_json::{Value, json};
use std::process::Command;

const IMAGE: &str = "pintle.dev/test/busybox:1";

/// A cluster with an image of busybox.
fn cluster(host: &Host) -> Cluster<'_> {
    let cluster = Cluster::up(host);
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("root/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("install busybox-static");
    for applet in ["sh", "sleep", "cat", "dd", "ln", "ls"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    let tar = dir.path().join("busybox.tar");
    let mut pack = host.command(cluster_tests::binary());
    run(pack.args(["image", "pack"]).arg(dir.path().join("root")).args(["--name", IMAGE, "--output"]).arg(&tar));
    run(cluster.pintle(&["image", "load"]).arg(&tar));
    cluster
}

fn pod(name: &str, script: &str, more: &Value) -> Value {
    let mut container = json!({"name": "main", "image": IMAGE, "command": ["sh", "-c", script]});
    let mut spec = json!({"terminationGracePeriodSeconds": 0});
    for (key, value) in more.as_object().into_iter().flatten() {
        let to = if key == "volumes" { &mut spec } else { &mut container };
        to[key] = value.clone();
    }
    spec["containers"] = json!([container]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn create(cluster: &Cluster<'_>, pod: &Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pod.to_string()).unwrap();
    cluster.kubectl_ok(&["create", "-f", file.path().to_str().unwrap()]);
}

fn phase(cluster: &Cluster<'_>, name: &str, phase: &str) -> Value {
    eventually(&format!("{name} is {phase}"), || {
        let pod = cluster.get(&["pods", "--field-selector", &format!("metadata.name={name}")])["items"][0].take();
        (pod["status"]["phase"] == phase).then_some(pod)
    })
}

/// A file of the pod's cgroup, and of its one container's.
fn cgroup(pod: &Value, controller: &str, file: &str) -> (String, String) {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let root = format!("/sys/fs/cgroup/{controller}");
    let root = if std::path::Path::new(&root).exists() { root } else { "/sys/fs/cgroup".to_owned() };
    let find = ["-path", &format!("*/pod{uid}*"), "-name", file].map(str::to_owned);
    let found = text(Command::new("find").arg(root).args(find));
    let mut paths: Vec<&str> = found.lines().collect();
    paths.sort_by_key(|path| path.len());
    let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
    (read(paths[0]), read(paths[1]))
}

#[test]
fn a_running_container_gets_other_resources_and_outlives_the_process() {
    let host = Host::new("node-resize");
    let cluster = cluster(&host);
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    create(&cluster, &pod("a", "sleep 3600", &json!({"resources": resources("100m")})));
    let mut pod = phase(&cluster, "a", "Running");
    let (file, before, after) = match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => ("cpu.max", "10000 100000", "30000 100000"),
        false => ("cpu.cfs_quota_us", "10000", "30000"),
    };
    assert_eq!(cgroup(&pod, "cpu", file), (before.to_owned(), before.to_owned()));
    pod["spec"]["containers"][0]["resources"] = resources("300m");
    let sent = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(sent.path(), pod.to_string()).unwrap();
    let path = "/api/v1/namespaces/default/pods/a/resize";
    cluster.kubectl_ok(&["replace", "--raw", path, "-f", sent.path().to_str().unwrap()]);
    let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    let resized = eventually("the pod is resized", || {
        let pod = cluster.get(&["pod", "a"]);
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        let settled = conditions.iter().all(|one| !one["type"].as_str().unwrap().starts_with("PodResize"));
        (settled && status(&pod)["resources"]["limits"]["cpu"] == "300m").then_some(pod)
    });
    assert_eq!(cgroup(&resized, "cpu", file), (after.to_owned(), after.to_owned()));
    assert_eq!(status(&resized)["containerID"], status(&pod)["containerID"]);
    // The next process takes the pod up as it is.
    let pid = cluster.pid();
    run(Command::new("kill").args(["-9", &pid.to_string()]));
    eventually("the process is gone", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    assert!(cluster.start(&[]).status.success());
    let pod = phase(&cluster, "a", "Running");
    assert_eq!(status(&pod)["containerID"], status(&resized)["containerID"]);
    assert_eq!(status(&pod)["restartCount"], 0);
    assert_eq!(cgroup(&pod, "cpu", file), (after.to_owned(), after.to_owned()));
    cluster.reset();
}

#[test]
fn manifests_of_the_node_run_and_are_mirrored() {
    let host = Host::new("node-static");
    let cluster = cluster(&host);
    let manifests = cluster.data().join("manifests");
    std::fs::write(manifests.join("part"), pod("web", "sleep 3600", &json!({})).to_string()).unwrap();
    std::fs::rename(manifests.join("part"), manifests.join("web.json")).unwrap();
    let nodes = cluster.kubectl_ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let name = format!("web-{nodes}");
    let pod = phase(&cluster, &name, "Running");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "Node");
    let first = pod["metadata"]["uid"].clone();
    cluster.kubectl_ok(&["delete", "pod", &name, "--wait=false"]);
    let again = eventually("the mirror is back", || {
        let pods = cluster.get(&["pods"]);
        let pod = pods["items"][0].clone();
        (!pod["metadata"]["uid"].is_null() && pod["metadata"]["uid"] != first).then_some(pod)
    });
    let again = phase(&cluster, again["metadata"]["name"].as_str().unwrap(), "Running");
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(id(&again), id(&pod), "deleting the mirror ends nothing");
    std::fs::remove_file(manifests.join("web.json")).unwrap();
    eventually("the mirror is gone", || cluster.get(&["pods"])["items"].as_array().unwrap().is_empty().then_some(()));
    cluster.reset();
}

#[test]
fn pods_leave_that_do_not_suit_the_node_or_use_more_disk_than_they_may() {
    let host = Host::new("node-evict");
    let cluster = cluster(&host);
    let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let script = "dd if=/dev/zero of=/v/x bs=1024 count=3000; sleep 3600";
    create(&cluster, &pod("greedy", script, &json!({"volumes": volumes, "volumeMounts": mounts})));
    let evicted = phase(&cluster, "greedy", "Failed");
    assert_eq!(evicted["status"]["reason"], "Evicted");
    assert_eq!(evicted["status"]["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    assert_eq!(evicted["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    let mut misfit = pod("misfit", "sleep 3600", &json!({}));
    misfit["spec"]["nodeName"] = cluster.get(&["nodes"])["items"][0]["metadata"]["name"].clone();
    misfit["spec"]["nodeSelector"] = json!({"zone": "elsewhere"});
    create(&cluster, &misfit);
    assert_eq!(phase(&cluster, "misfit", "Failed")["status"]["reason"], "NodeAffinity");
    cluster.reset();
}

#[test]
fn a_sub_path_is_mounted_and_a_link_out_of_the_volume_is_not() {
    let host = Host::new("node-subpath");
    let cluster = cluster(&host);
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let mounts =
        |sub: &str| json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/sub", "subPath": sub}]);
    let script = "echo inside > /sub/file; ln -s /etc /v/out; cat /v/a/b/file; sleep 3600";
    create(&cluster, &pod("a", script, &json!({"volumes": volumes, "volumeMounts": mounts("a/b")})));
    phase(&cluster, "a", "Running");
    let log = eventually("the log", || Some(cluster.kubectl_ok(&["logs", "a"])).filter(|log| !log.is_empty()));
    assert_eq!(log, "inside\n");
    // A volume with a link that leads to the machine's own files.
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
    let volumes = json!([{"name": "v", "hostPath": {"path": dir.path()}}]);
    create(&cluster, &pod("b", "sleep 3600", &json!({"volumes": volumes, "volumeMounts": mounts("out")})));
    let waiting = eventually("the container waits", || {
        let pod = cluster.get(&["pod", "b"]);
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        (waiting["reason"] == "CreateContainerConfigError").then_some(waiting)
    });
    assert!(waiting["message"].as_str().unwrap().contains("path escapes from the volume"), "{waiting}");
    let refused = cluster.kubectl_err(&["exec", "b", "--", "ls"]);
    assert!(refused.contains("unable to upgrade connection: container not found (\"main\")"), "{refused}");
    cluster.reset();
}

#[test]
fn the_node_tells_what_its_pods_use() {
    let host = Host::new("node-stats");
    let cluster = cluster(&host);
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let script = "dd if=/dev/zero of=/v/x bs=1024 count=100; sleep 3600";
    create(&cluster, &pod("a", script, &json!({"volumes": volumes, "volumeMounts": mounts})));
    phase(&cluster, "a", "Running");
    let node = cluster.get(&["nodes"])["items"][0].clone();
    assert_eq!(node["status"]["features"]["supplementalGroupsPolicy"], true);
    let proxy = format!("/api/v1/nodes/{}/proxy", node["metadata"]["name"].as_str().unwrap());
    let raw = |path: &str| cluster.kubectl_ok(&["get", "--raw", &format!("{proxy}{path}")]);
    let summary = eventually("the volume is written", || {
        let summary: Value = serde_json::from_str(&raw("/stats/summary")).unwrap();
        let used = summary["pods"][0]["volume"][0]["usedBytes"].as_i64().unwrap_or(0);
        (used >= 100 << 10).then_some(summary)
    });
    assert!(summary["node"]["cpu"]["usageCoreNanoSeconds"].as_u64().unwrap() > 0);
    let container = &summary["pods"][0]["containers"][0];
    assert!(container["memory"]["workingSetBytes"].as_u64().unwrap() > 0, "{container}");
    assert!(container["startTime"].is_string() && container["rootfs"]["capacityBytes"].is_number(), "{container}");
    for (path, line) in [
        ("/metrics/resource", "container_start_time_seconds{container=\"main\",namespace=\"default\",pod=\"a\"} "),
        ("/metrics/cadvisor", "container_cpu_usage_seconds_total{container=\"main\","),
    ] {
        let metrics = raw(path);
        assert!(metrics.lines().any(|found| found.starts_with(line)), "{path}: {metrics}");
    }
    let config: Value = serde_json::from_str(&raw("/configz")).unwrap();
    assert_eq!(config["kubeletconfig"]["clusterDomain"], "cluster.local");
    cluster.reset();
}
