//! Several nodes on one machine: what runs on each, how they reach each other, what outlives what, who may join.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Host, binary, eventually, run, show, text};
use std::path::Path;
use std::process::Command;

/// A web server on every node that says its node's name, and the address that asks.
const WEB: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: example.org/busybox:1
        imagePullPolicy: Never
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        command:
        - sh
        - -c
        - |
          mkdir -p /www/cgi-bin && echo $NODE >/www/index.html
          printf '#!/bin/sh\necho; echo $REMOTE_ADDR\n' >/www/cgi-bin/ip && chmod +x /www/cgi-bin/ip
          echo serving on $NODE && exec httpd -f -p 80 -h /www
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, type: NodePort, ports: [{port: 80, nodePort: 30080}]}
"#;

/// The pod of `web` on one node.
struct Web {
    name: String,
    ip: String,
    uid: String,
}

impl Web {
    /// Fetches from inside the pod's network; the body, or curl's error.
    fn curl(&self, url: &str) -> Result<String, String> {
        let process = process_of(&self.uid).expect("the pod has a process");
        let netns = format!("--net=/proc/{process}/ns/net");
        let output = Command::new("nsenter").args([&netns, "curl", "-sS", "--fail", "--max-time", "5", url]).output();
        let output = output.unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().into())
        } else {
            Err(show(&output))
        }
    }
}

/// A process of the pod with this UID, which is not the sandbox's.
fn process_of(uid: &str) -> Option<u32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (groups.contains(uid) && comm.trim() == "httpd").then_some(pid)
    })
}

/// A cluster of two nodes with [`WEB`] on both.
fn two_nodes<'a>(host: &'a Host, flags: &[&str]) -> Cluster<'a> {
    let cluster = Cluster::new(host);
    let output = cluster.start(&[&["--nodes", "2", "--node-name", "one"], flags].concat());
    assert!(output.status.success(), "up failed:\n{}", show(&output));
    load_busybox(&cluster);
    let manifest = cluster.data().join("web.yaml");
    std::fs::write(&manifest, WEB).unwrap();
    cluster.kubectl_ok(&["apply", "-f", manifest.to_str().unwrap()]);
    cluster.kubectl_ok(&["rollout", "status", "ds/web", "--timeout=120s"]);
    cluster
}

/// Packs the host's static busybox into an image and loads it on all nodes.
fn load_busybox(cluster: &Cluster<'_>) {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("root/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for applet in ["sh", "httpd", "mkdir", "chmod", "printf", "echo", "sleep", "hostname", "cat"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    let tar = dir.path().join("busybox.tar");
    let root = dir.path().join("root");
    let pack = ["image", "pack", root.to_str().unwrap(), "--name", "example.org/busybox:1", "--output"];
    run(Command::new(binary()).args(pack).arg(&tar));
    run(cluster.pintle(&["image", "load"]).arg(&tar));
}

fn web(cluster: &Cluster<'_>, node: &str) -> Web {
    let pods = cluster.get(&["pods", "-l", "app=web"]);
    let pod = pods["items"].as_array().unwrap().iter().find(|pod| pod["spec"]["nodeName"] == node).unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    Web { name: text(&pod["metadata"]["name"]), ip: text(&pod["status"]["podIP"]), uid: text(&pod["metadata"]["uid"]) }
}

/// Pods reach each other with their own addresses, and a Service answers from both nodes to both and from outside.
fn check_network(cluster: &Cluster<'_>) {
    let (one, two) = (web(cluster, "one"), web(cluster, "one-2"));
    for (from, to) in [(&one, &two), (&two, &one), (&one, &one), (&two, &two)] {
        assert_eq!(
            from.curl(&format!("http://{}/cgi-bin/ip", to.ip))
                .unwrap()
                .trim_matches(['[', ']'])
                .trim_start_matches("::ffff:"),
            from.ip
        );
    }
    let service = cluster.get(&["service", "web"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let address = |node: &str| {
        let node = cluster.get(&["node", node]);
        node["status"]["addresses"][0]["address"].as_str().unwrap().to_owned()
    };
    let node_ports = ["one", "one-2"].map(|node| format!("http://{}:30080/", address(node)));
    for asker in [&one, &two] {
        for url in node_ports.iter().chain([&format!("http://{service}/")]) {
            for node in ["one", "one-2"] {
                eventually(&format!("{url} answers from {node}"), || (asker.curl(url).unwrap() == node).then_some(()));
            }
        }
    }
    for node in ["one", "one-2"] {
        let url = &node_ports[1];
        eventually(&format!("{url} answers from {node}"), || (cluster.curl(url).unwrap().trim() == node).then_some(()));
    }
}

#[test]
fn two_nodes_of_a_machine_run_pods_that_reach_each_other_and_leave_nothing() {
    let host = Host::new("nodes");
    let cluster = two_nodes(&host, &[]);
    check_network(&cluster);
    let two = web(&cluster, "one-2");
    assert_eq!(cluster.kubectl_ok(&["logs", &two.name]).trim(), "serving on one-2");
    assert_eq!(cluster.kubectl_ok(&["exec", &two.name, "--", "hostname"]).trim(), two.name);
    let token = std::fs::read_to_string(cluster.data().join("nodes/one-2/token")).unwrap();
    let said = refused(&host, &cluster, &token);
    assert!(said.contains("used") && said.contains("pintle token create"), "{said}");
    run(&mut cluster.pintle(&["node", "add", "extra"]));
    cluster.kubectl_ok(&["rollout", "status", "ds/web", "--timeout=120s"]);
    assert_eq!(
        cluster.kubectl_ok(&["exec", &web(&cluster, "extra").name, "--", "cat", "/www/index.html"]).trim(),
        "extra"
    );
    run(&mut cluster.pintle(&["node", "drain", "extra"]));
    run(&mut cluster.pintle(&["node", "rm", "extra"]));
    assert!(cluster.kubectl_err(&["get", "node", "extra"]).contains("NotFound"));
    cluster.reset();
}

#[test]
fn packets_between_nodes_can_travel_in_vxlan() {
    let host = Host::new("vxlan");
    let cluster = two_nodes(&host, &["--network-mode", "vxlan"]);
    check_network(&cluster);
    cluster.reset();
}

#[test]
fn pods_outlive_their_agent_and_the_main_process() {
    let host = Host::new("kill");
    let cluster = two_nodes(&host, &[]);
    let before = [web(&cluster, "one"), web(&cluster, "one-2")].map(|pod| process_of(&pod.uid).unwrap());
    let agent = cluster.data().join("nodes/one-2/lock");
    let agent_pid = agent_of(&agent);
    for pid in [cluster.pid(), agent_pid] {
        run(Command::new("kill").args(["-9", &pid.to_string()]));
    }
    eventually("the agent is started again", || agent_process(&agent).filter(|pid| *pid != agent_pid));
    start(&cluster);
    check_network(&cluster);
    let two = web(&cluster, "one-2");
    assert_eq!(cluster.kubectl_ok(&["exec", &two.name, "--", "hostname"]).trim(), two.name);
    assert_eq!([web(&cluster, "one"), two].map(|pod| process_of(&pod.uid).unwrap()), before);
    run(&mut cluster.pintle(&["down"]));
    assert_eq!(agent_process(&agent), None, "down ends the agents");
    start(&cluster);
    assert_eq!([web(&cluster, "one"), web(&cluster, "one-2")].map(|pod| process_of(&pod.uid).unwrap()), before);
    cluster.reset();
}

/// Starts a cluster again.
fn start(cluster: &Cluster<'_>) {
    let output = cluster.start(&[]);
    assert!(output.status.success(), "up failed:\n{}", show(&output));
}

fn agent_of(lock: &Path) -> i32 {
    agent_process(lock).expect("the agent runs")
}

/// The process that runs on the data directory with this lock.
fn agent_process(lock: &Path) -> Option<i32> {
    let data = lock.parent().unwrap().to_str().unwrap().to_owned();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
        (words.get(1) == Some(&b"agent".as_slice()) && words.contains(&data.as_bytes())).then_some(pid)
    })
}

/// Has an agent on `host` join with `token`, which must fail; what it said.
fn refused(host: &Host, cluster: &Cluster<'_>, token: &str) -> String {
    let server = cluster.kubectl_ok(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let dir = tempfile::tempdir().unwrap();
    let mut command = host.command(binary());
    command.args(["agent", "--server", server.trim(), "--node-name", "guest", "--token", token, "--data-dir"]);
    let output = command.arg(dir.path().join("data")).output().unwrap();
    assert!(!output.status.success());
    show(&output)
}

#[test]
fn a_token_that_is_revoked_expired_or_of_another_cluster_is_refused_with_the_reason() {
    let host = Host::new("token");
    let cluster = Cluster::up(&host);
    let create = |flags: &[&str]| text(cluster.pintle(&["token", "create"]).args(flags)).trim().to_owned();
    let token = create(&[]);
    let id = token.split('.').next().unwrap();
    assert!(text(&mut cluster.pintle(&["token", "ls"])).contains(id));
    run(&mut cluster.pintle(&["token", "rm", id]));
    let said = refused(&host, &cluster, &token);
    assert!(said.contains("refuses token") && said.contains("pintle token create"), "{said}");
    let (head, hash) = token.split_once("@sha256:").unwrap();
    let flipped = if hash.starts_with('0') { "1" } else { "0" };
    let said = refused(&host, &cluster, &format!("{head}@sha256:{flipped}{}", &hash[1..]));
    assert!(said.contains("is not the one that the token is of") && said.contains("nothing was told"), "{said}");
    let expired = create(&["--ttl", "1s"]);
    eventually("the token expires", || text(&mut cluster.pintle(&["token", "ls"])).contains("expired").then_some(()));
    assert!(refused(&host, &cluster, &expired).contains("has expired"));
    assert!(refused(&host, &cluster, "nonsense").contains("pintle token create"));
    cluster.reset();
}
