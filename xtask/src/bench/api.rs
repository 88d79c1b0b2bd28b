//! Writes, lists and watches through upstream's `apibench`, on Pintle and on upstream's API server, with the servers' CPU time.
use super::process::{Usage, named, usage};
use super::{Bench, heading};
use crate::cluster::run;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const CONCURRENCY: [u32; 3] = [1, 16, 128];
/// Operations of each verb that `apibench` makes at a concurrency.
const OPS: u64 = 2000;

/// A server under load.
struct Server<'a> {
    kubeconfig: &'a Path,
    pids: Vec<i32>,
    apibench: &'a Path,
}

impl Server<'_> {
    /// Runs `apibench`; its report, and what the server used meanwhile.
    fn load(&self, flags: &[&str]) -> Result<(Value, Usage, Usage)> {
        let report = tempfile::NamedTempFile::new()?;
        let before = usage(&self.pids)?;
        let mut command = Command::new(self.apibench);
        run(command
            .arg("-kubeconfig")
            .arg(self.kubeconfig)
            .arg("-json")
            .arg(report.path())
            .args(["-encodings", "json"])
            .args(flags))?;
        let after = usage(&self.pids)?;
        Ok((serde_json::from_str(&std::fs::read_to_string(report.path())?)?, before, after))
    }
}

/// Measures both servers and prints the ratios.
pub fn measure(bench: &Bench) -> Result<()> {
    let apibench = tempfile::Builder::new().prefix("apibench-").tempdir()?;
    let program = apibench.path().join("apibench");
    run(Command::new("go").current_dir(bench.upstream.join("apibench")).args(["build", "-o"]).arg(&program).arg("."))?;
    let cluster = bench.cluster()?;
    cluster.up()?;
    let script = bench.upstream.join("apiserver.sh");
    let started = run(Command::new(&script).arg("start"))?;
    let config = started
        .lines()
        .find_map(|line| line.strip_prefix("kubeconfig: "))
        .context("apiserver.sh prints a kubeconfig")?;
    let kubeconfig = cluster.kubeconfig();
    let ours = Server { kubeconfig: &kubeconfig, pids: vec![cluster.pid()?], apibench: &program };
    let pids = [named("kube-apiserver")?, named("etcd")?].concat();
    let theirs = Server { kubeconfig: Path::new(config.trim()), pids, apibench: &program };
    let measured = crud(&ours, &theirs).and_then(|()| list_and_watch(&ours, &theirs));
    run(Command::new(&script).arg("stop"))?;
    measured
}

fn crud(ours: &Server<'_>, theirs: &Server<'_>) -> Result<()> {
    heading(
        "Writes and reads of 1 KB objects, JSON, durable before the answer",
        &["workers", "verb", "Pintle /s", "upstream /s", "ratio", "Pintle p99 ms", "upstream p99 ms"],
    );
    let mut cpu = Vec::new();
    for workers in CONCURRENCY {
        let flags = ["-run", "crud", "-concurrency", &workers.to_string(), "-ops", &OPS.to_string()];
        let (a, a0, a1) = ours.load(&flags)?;
        let (b, b0, b1) = theirs.load(&flags)?;
        let mut operations = 0.0;
        for (a, b) in rows(&a, "crud")?.iter().zip(rows(&b, "crud")?) {
            let (x, y) = (number(a, "PerSecond")?, number(b, "PerSecond")?);
            operations += number(a, "Operations")?;
            println!(
                "| {workers} | {} | {x:.0} | {y:.0} | {:.1} | {:.1} | {:.1} |",
                a["Verb"].as_str().unwrap_or("?"),
                x / y,
                number(a, "P99")?,
                number(b, "P99")?
            );
        }
        cpu.push((workers, (a1.cpu_ms - a0.cpu_ms) / operations, (b1.cpu_ms - b0.cpu_ms) / operations));
    }
    heading("Server CPU per operation (ms)", &["workers", "Pintle", "upstream", "ratio"]);
    for (workers, ours, theirs) in cpu {
        println!("| {workers} | {ours:.3} | {theirs:.3} | {:.2} |", ours / theirs);
    }
    Ok(())
}

fn list_and_watch(ours: &Server<'_>, theirs: &Server<'_>) -> Result<()> {
    let (a, _, _) = ours.load(&["-run", "list"])?;
    let (b, _, _) = theirs.load(&["-run", "list"])?;
    heading("List of 10,000 pods (ms)", &["what", "Pintle", "upstream", "ratio"]);
    for (a, b) in rows(&a, "list")?.iter().zip(rows(&b, "list")?) {
        let (x, y) = (number(a, "Milliseconds")?, number(b, "Milliseconds")?);
        println!("| {} | {x:.0} | {y:.0} | {:.2} |", a["What"].as_str().unwrap_or("?"), x / y);
    }
    let (a, _, a1) = ours.load(&["-run", "watch"])?;
    let (b, _, b1) = theirs.load(&["-run", "watch"])?;
    heading("Watchers × events, deliveries per second", &["watchers", "events", "Pintle", "upstream", "ratio"]);
    for (a, b) in rows(&a, "watch")?.iter().zip(rows(&b, "watch")?) {
        let (x, y) = (number(a, "DeliveredPerSecond")?, number(b, "DeliveredPerSecond")?);
        println!("| {} | {} | {x:.0} | {y:.0} | {:.1} |", a["Watchers"], a["Events"], x / y);
    }
    let (x, y) = (a1.pss_kib as f64 / 1024.0, b1.pss_kib as f64 / 1024.0);
    println!("\nMemory afterwards: Pintle {x:.0} MiB PSS, upstream {y:.0} MiB PSS, ratio {:.2}", x / y);
    Ok(())
}

fn rows<'a>(report: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    report[name].as_array().with_context(|| format!("apibench reports {name}"))
}

fn number(row: &Value, name: &str) -> Result<f64> {
    row[name].as_f64().with_context(|| format!("apibench reports {name}"))
}
