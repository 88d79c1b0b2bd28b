//! The API under load, on Pintle and on upstream's API server in one run, with the servers' CPU time and memory. Each phase can
//! be run alone with `--phase`; what has a target is followed by PASS or FAIL.
//!
//! | module | what it measures |
//! |---|---|
//! | [`crud`] | single objects: operations per second, latency, CPU |
//! | [`lists`] | lists of 10,000 pods, and their deletion at once |
//! | [`watches`] | events to many watchers, and how many are held |
//! | [`stored`] | memory with 100,000 pods |
//! | [`definitions`] | 1,000 CustomResourceDefinitions |
mod crud;
mod definitions;
mod lists;
mod stored;
mod watches;

use super::Bench;
use super::process::{Usage, usage};
use crate::cluster::{client_of, run};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Phase {
    /// Single objects.
    Crud,
    /// Lists and the deletion of 10,000 pods.
    Lists,
    /// 1,000 watchers of 1,000 events.
    Watches,
    /// 5,000 watchers.
    Watchers,
    /// 100,000 pods.
    Stored,
    /// 1,000 CustomResourceDefinitions.
    Definitions,
}

/// Measures Pintle and upstream, in this order, and prints.
type Measure = fn(&Server, &Server) -> Result<()>;

const PHASES: [(Phase, Measure); 6] = [
    (Phase::Crud, crud::measure),
    (Phase::Lists, lists::measure),
    (Phase::Watches, watches::measure),
    (Phase::Watchers, watches::hold),
    (Phase::Stored, stored::measure),
    (Phase::Definitions, definitions::measure),
];

/// A server under load.
struct Server {
    kubeconfig: PathBuf,
    pids: Vec<i32>,
    apibench: PathBuf,
}

impl Server {
    /// Runs `apibench`; its report, and what the server used before and after.
    fn load(&self, flags: &[&str]) -> Result<(Value, Usage, Usage)> {
        let report = tempfile::NamedTempFile::new()?;
        let before = usage(&self.pids)?;
        let mut command = Command::new(&self.apibench);
        run(command.arg("-kubeconfig").arg(&self.kubeconfig).arg("-json").arg(report.path()).args(flags))?;
        let after = usage(&self.pids)?;
        Ok((serde_json::from_str(&std::fs::read_to_string(report.path())?)?, before, after))
    }

    /// A client of its API.
    async fn client(&self) -> Result<kube::Client> {
        client_of(&self.kubeconfig).await
    }

    /// Its memory in MiB PSS.
    fn memory(&self) -> Result<f64> {
        Ok(usage(&self.pids)?.pss_kib as f64 / 1024.0)
    }
}

/// Measures both servers and prints the ratios.
pub fn measure(bench: &Bench) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("apibench-").tempdir()?;
    let apibench = directory.path().join("apibench");
    run(Command::new("go").current_dir(bench.upstream.join("apibench")).args(["build", "-o"]).arg(&apibench).arg("."))?;
    let cluster = bench.cluster()?;
    cluster.up()?;
    let ours = Server { kubeconfig: cluster.kubeconfig(), pids: vec![cluster.pid()?], apibench: apibench.clone() };
    let script = bench.upstream.join("apiserver.sh");
    let started = run(Command::new(&script).arg("start"))?;
    let measured = upstream(&started, apibench).and_then(|theirs| {
        let wanted = |phase: &Phase| bench.phases.is_empty() || bench.phases.contains(phase);
        PHASES.iter().filter(|(phase, _)| wanted(phase)).try_for_each(|(_, measure)| measure(&ours, &theirs))
    });
    run(Command::new(&script).arg("stop"))?;
    measured
}

/// Upstream's server, from what its script printed.
fn upstream(started: &str, apibench: PathBuf) -> Result<Server> {
    let kubeconfig = started.lines().find_map(|line| line.strip_prefix("kubeconfig: "));
    let kubeconfig = PathBuf::from(kubeconfig.context("apiserver.sh prints a kubeconfig")?.trim());
    let pid = |name: &str| -> Result<i32> {
        let path = kubeconfig.parent().unwrap_or(Path::new(".")).join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().parse()?)
    };
    let pids = vec![pid("kube-apiserver.pid")?, pid("etcd.pid")?];
    Ok(Server { kubeconfig, pids, apibench })
}

/// What a figure must come to.
#[derive(Clone, Copy, Debug)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// Says whether a figure reaches its target.
fn verdict(what: &str, figure: f64, target: Target) -> String {
    let (reached, bound) = match target {
        Target::AtLeast(bound) => (figure >= bound, format!("at least {bound}")),
        Target::AtMost(bound) => (figure <= bound, format!("at most {bound}")),
    };
    format!("{}: {what}: {figure:.3}, {bound} wanted", if reached { "PASS" } else { "FAIL" })
}

/// Prints verdicts below a table.
fn judge(verdicts: &[(&str, f64, Target)]) {
    println!();
    verdicts.iter().for_each(|(what, figure, target)| println!("{}", verdict(what, *figure, *target)));
}

fn rows<'a>(report: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    report[name].as_array().with_context(|| format!("apibench reports {name}"))
}

fn number(row: &Value, name: &str) -> Result<f64> {
    row[name].as_f64().with_context(|| format!("apibench reports {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_its_bound_reaches_the_target() {
        assert!(verdict("a", 5.0, Target::AtLeast(5.0)).starts_with("PASS"));
        assert!(verdict("a", 4.9, Target::AtLeast(5.0)).starts_with("FAIL"));
        assert!(verdict("a", 0.125, Target::AtMost(0.125)).starts_with("PASS"));
        assert!(verdict("a", 0.126, Target::AtMost(0.125)).starts_with("FAIL"));
    }
}
