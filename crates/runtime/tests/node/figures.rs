//! Not a test but a measurement: run by name only, `cargo test --test node figures`.
use std::time::Instant;

use pintle_runtime::cri::{self, RuntimeService};

use crate::support::{Node, container, own};

/// Milliseconds for each step of a pod's start, and the memory of its shim.
pub async fn pod_start_and_shim_memory(node: Node) {
    let mut rows = Vec::new();
    for number in 0..15 {
        let start = Instant::now();
        let sandbox = node.sandbox(own()).await;
        let sandboxed = start.elapsed();
        let id = node.create(&sandbox, container(&format!("app{number}"), "sleep 1000")).await;
        let created = start.elapsed();
        node.start(&id).await.unwrap();
        let started = start.elapsed();
        let exec = Instant::now();
        node.exec(&id, &["true"], 10).await.unwrap();
        let exec = exec.elapsed();
        let remove = Instant::now();
        let pod_sandbox_id = sandbox.0.clone();
        if number < 10 {
            node.runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
        }
        rows.push(
            [sandboxed, created - sandboxed, started - created, started, exec, remove.elapsed()].map(|t| t.as_micros()),
        );
        if number == 14 {
            let shim = node.directory.join("state/sandboxes").join(&sandbox.0).join("shim.pid");
            let pid = std::fs::read_to_string(shim).unwrap();
            let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            for line in smaps
                .lines()
                .filter(|line| ["Pss:", "Pss_Anon", "Rss", "Private_D"].iter().any(|w| line.starts_with(w)))
            {
                println!("shim {line}");
            }
        }
    }
    for (index, name) in ["sandbox", "create", "start", "total", "exec", "remove"].iter().enumerate() {
        let mut column: Vec<u128> = rows.iter().map(|row| row[index]).collect();
        column.sort_unstable();
        println!(
            "{name}: median {} µs, min {} µs, max {} µs",
            column[column.len() / 2],
            column[0],
            column[column.len() - 1]
        );
    }
}

/// Seconds until fifty pods run that were asked for at once.
pub async fn fifty_pods_at_once(node: Node) {
    let start = Instant::now();
    let pods = (0..50).map(|number| {
        let node = &node;
        async move {
            let sandbox = node.sandbox(own()).await;
            let id = node.create(&sandbox, container(&format!("app{number}"), "sleep 1000")).await;
            node.start(&id).await.unwrap();
            sandbox.0
        }
    });
    let pods = futures::future::join_all(pods).await;
    println!("fifty pods: {:?}", start.elapsed());
    let used = pintle_runtime::cgroup::Cgroups::detect().unwrap().cpu_nanoseconds(&crate::support::cgroup()).unwrap();
    println!("CPU time of shims, helpers and containers: {} µs each", used / 50_000);
    let memory = |id: &String| {
        let pid = std::fs::read_to_string(node.directory.join("state/sandboxes").join(id).join("shim.pid")).unwrap();
        let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = smaps.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    println!("shims: {} kB each", pods.iter().map(memory).sum::<u64>() / 50);
    let start = Instant::now();
    let removals = pods
        .into_iter()
        .map(|pod_sandbox_id| node.runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }));
    for removed in futures::future::join_all(removals).await {
        removed.unwrap();
    }
    println!("removed: {:?}", start.elapsed());
}
