//! Start, restart and idle.
use super::process::{named, usage};
use super::{Bench, Cluster, Spread, heading};
use anyhow::{Context, Result};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long an idle cluster settles and is then watched.
const SETTLE: Duration = Duration::from_secs(60);
const WATCH: Duration = Duration::from_secs(60);

/// Times empty directory → node Ready and restart → serving, in milliseconds, beside upstream's API server alone.
pub fn run(bench: &Bench) -> Result<()> {
    let (mut ready, mut serving, mut upstream, mut upstream_again) = (vec![], vec![], vec![], vec![]);
    for _ in 0..bench.runs {
        let cluster = bench.cluster()?;
        let start = Instant::now();
        cluster.up()?;
        ready.push(millis(start));
        cluster.down()?;
        serving.push(restart(&cluster)?);
        upstream.push(upstream_start(bench, false)?);
        upstream_again.push(upstream_start(bench, true)?);
    }
    heading("Start (ms): median (min–max)", &["figure", "Pintle", "upstream etcd + kube-apiserver", "ratio"]);
    for (name, ours, theirs) in [
        ("empty directory to node Ready (upstream: API ready)", ready, upstream),
        ("restart to serving", serving, upstream_again),
    ] {
        let (ours, theirs) = (Spread::of(ours)?, Spread::of(theirs)?);
        println!("| {name} | {ours} | {theirs} | {:.2} |", ours.median / theirs.median);
    }
    Ok(())
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// Starts a stopped cluster; the time until `/readyz` says ok.
fn restart(cluster: &Cluster) -> Result<f64> {
    let config = std::fs::read_to_string(cluster.kubeconfig())?;
    let server =
        config.lines().find_map(|line| line.trim().strip_prefix("server:")).context("a kubeconfig names a server")?;
    let url = format!("{}/readyz", server.trim().trim_matches('"'));
    let start = Instant::now();
    let mut up = cluster.command(&["up"]).arg("--detach").stdout(std::process::Stdio::null()).spawn()?;
    let ready = || {
        let output = Command::new("curl").args(["--insecure", "--silent", "--max-time", "2", &url]).output();
        output.is_ok_and(|output| output.stdout == b"ok")
    };
    while !ready() {
        anyhow::ensure!(start.elapsed() < Duration::from_secs(60), "not serving within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    let elapsed = millis(start);
    anyhow::ensure!(up.wait()?.success(), "up failed");
    Ok(elapsed)
}

/// Upstream's API server and etcd: started on empty data, or on what the last start left.
fn upstream_start(bench: &Bench, keep: bool) -> Result<f64> {
    let script = bench.upstream.join("apiserver.sh");
    let output = crate::cluster::run(Command::new(&script).arg("start").env("KEEP", if keep { "1" } else { "" }))?;
    crate::cluster::run(Command::new(&script).arg("stop"))?;
    let after = output.split("API server ready after ").nth(1).context("apiserver.sh prints its time")?;
    Ok(after.split_whitespace().next().context("a number")?.parse()?)
}

/// Memory, CPU and writes of an idle cluster, beside upstream's API server and etcd without any client.
pub fn idle(bench: &Bench) -> Result<()> {
    let cluster = bench.cluster()?;
    cluster.up()?;
    let script = bench.upstream.join("apiserver.sh");
    crate::cluster::run(Command::new(&script).arg("start"))?;
    std::thread::sleep(SETTLE);
    let ours = vec![cluster.pid()?];
    let theirs = [named("kube-apiserver")?, named("etcd")?].concat();
    let (before, upstream_before) = (usage(&ours)?, usage(&theirs)?);
    std::thread::sleep(WATCH);
    let (after, upstream_after) = (usage(&ours)?, usage(&theirs)?);
    crate::cluster::run(Command::new(&script).arg("stop"))?;
    heading("Idle", &["figure", "Pintle, control plane and node", "upstream etcd + kube-apiserver", "ratio"]);
    let mib = |kib: u64| kib as f64 / 1024.0;
    let row = |name: &str, a: f64, b: f64| println!("| {name} | {a:.2} | {b:.2} | {:.2} |", a / b);
    row("PSS (MiB)", mib(after.pss_kib), mib(upstream_after.pss_kib));
    let percent = |before: f64, after: f64| (after - before) / 10.0 / WATCH.as_secs_f64();
    row(
        "CPU (% of a core)",
        percent(before.cpu_ms, after.cpu_ms),
        percent(upstream_before.cpu_ms, upstream_after.cpu_ms),
    );
    let rate = |before: u64, after: u64| (after - before) as f64 / 1024.0 / WATCH.as_secs_f64();
    row("written (KiB/s)", rate(before.written, after.written), rate(upstream_before.written, upstream_after.written));
    Ok(())
}
