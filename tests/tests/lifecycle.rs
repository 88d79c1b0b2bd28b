//! Starting, stopping and removing clusters, and two of them on one machine.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Host, eventually, run, show, text};

#[test]
fn two_clusters_live_side_by_side_and_each_is_removed_without_the_other() {
    let host = Host::new("two");
    let (first, second) = (Cluster::up(&host), Cluster::up(&host));
    for cluster in [&first, &second] {
        let nodes = cluster.kubectl_ok(&["get", "nodes", "--no-headers"]);
        assert_eq!(nodes.lines().count(), 1);
        assert!(nodes.contains(" Ready "), "{nodes}");
    }
    let cluster_ip = |cluster: &Cluster<'_>| {
        cluster.kubectl_ok(&["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"])
    };
    assert_ne!(cluster_ip(&first), cluster_ip(&second), "each has a Service range of its own");
    run(&mut first.pintle(&["reset", "--yes"]));
    assert!(second.kubectl_ok(&["get", "--raw", "/readyz"]).contains("ok"));
    second.reset();
}

#[test]
fn up_again_is_no_error_and_down_twice_neither() {
    let host = Host::new("again");
    let cluster = Cluster::up(&host);
    let again = cluster.start(&[]);
    assert!(again.status.success() && show(&again).contains("runs already"), "{}", show(&again));
    run(&mut cluster.pintle(&["down"]));
    assert!(text(&mut cluster.pintle(&["down"])).contains("was not running"));
    assert_eq!(cluster.pintle(&["status"]).output().unwrap().status.code(), Some(3));
    assert!(cluster.start(&[]).status.success());
    assert_eq!(cluster.pintle(&["status"]).output().unwrap().status.code(), Some(0));
    cluster.reset();
}

#[test]
fn everything_acknowledged_before_a_sigkill_is_there_after_it() {
    let host = Host::new("kill");
    let cluster = Cluster::up(&host);
    for n in 0..20 {
        cluster.kubectl_ok(&["create", "configmap", &format!("kept-{n}"), "--from-literal=a=b"]);
    }
    // Killed and started at once: a process that is still dying is none that runs.
    for _ in 0..5 {
        run(std::process::Command::new("kill").args(["-9", &cluster.pid().to_string()]));
        assert!(cluster.start(&[]).status.success());
        assert_eq!(cluster.kubectl_ok(&["get", "--raw", "/readyz"]), "ok");
    }
    let names = cluster.kubectl_ok(&["get", "configmaps", "-o", "name"]);
    for n in 0..20 {
        assert!(names.lines().any(|name| name == format!("configmap/kept-{n}")), "kept-{n} is lost");
    }
    cluster.reset();
}

/// As after a kill between two steps of a pod's end, when the API has forgotten the pod.
#[test]
fn what_is_left_of_pods_that_are_gone_is_removed_at_the_next_start() {
    let host = Host::new("orphans");
    let cluster = Cluster::up(&host);
    run(&mut cluster.pintle(&["down"]));
    let instance = std::fs::read_to_string(cluster.data().join("instance.json")).unwrap();
    let instance: serde_json::Value = serde_json::from_str(&instance).unwrap();
    let uid = "6a2f41ac-0000-4000-8000-000000000001";
    let group = format!("pintle-{}/kubepods/besteffort/pod{uid}", instance["id"].as_str().unwrap());
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/pids"];
    let pods = roots.map(|root| std::path::Path::new(root).join(&group));
    let mut left: Vec<_> =
        pods.into_iter().filter(|dir| dir.parent().unwrap().parent().unwrap().parent().unwrap().exists()).collect();
    left.push(cluster.data().join(format!("kubelet/logs/default_web_{uid}")));
    assert!(left.len() > 1, "there is a cgroup");
    left.iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    assert!(cluster.start(&[]).status.success());
    eventually("nothing of the pod is left", || left.iter().all(|dir| !dir.exists()).then_some(()));
    cluster.reset();
}
