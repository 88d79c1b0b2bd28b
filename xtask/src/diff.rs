//! `cargo xtask diff`: the same requests to Pintle's API server and to upstream's, the answers compared. Start at [`run`].
//!
//! Both servers start with nothing in them. Neither has controllers that could act: on both sides the rights of the
//! controllers are taken away first. What differs by nature (uids, times, revisions) is masked by [`normal`]; what differs
//! for a reason is listed in `xtask/diff/known.yaml`.
mod compare;
mod kinds;
mod known;
mod mutate;
mod normal;
mod report;
mod servers;
mod session;
mod suites;

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// What to compare, with what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to compare; everything by default.
    #[arg(value_enum)]
    subjects: Vec<suites::Subject>,
    /// Only requests about kinds whose path contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Pintle's binary.
    #[arg(long, default_value = "target/x86_64-unknown-linux-gnu/debug/pintle")]
    pintle: PathBuf,
    /// The directory of upstream's scripts (apiserver.sh).
    #[arg(long, default_value = "../shared/upstream")]
    upstream: PathBuf,
    /// The directory of the fixtures; by default `testdata/HEAD` of the Go module k8s.io/api in the module cache.
    #[arg(long)]
    fixtures: Option<PathBuf>,
    /// The upstream kubectl whose output is compared.
    #[arg(long, default_value = "kubectl")]
    kubectl: PathBuf,
    /// Print at most this many differences of one kind of difference.
    #[arg(long, default_value_t = 3)]
    examples: usize,
    /// Keep differences that have a known reason in the list.
    #[arg(long)]
    all: bool,
}

/// Compares and prints what differs; fails if anything does that has no known reason.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let known = known::Known::load()?;
    let servers = servers::Servers::start(args)?;
    let report = runtime.block_on(async {
        let mut session = session::Session::open(&servers).await?;
        suites::run(args, &servers, &mut session).await?;
        anyhow::Ok(session.into_report())
    })?;
    drop(servers);
    let (unknown, explained) = if args.all { (report.differences.clone(), 0) } else { known.split(&report) };
    print!("{}", report::render(&unknown, args.examples));
    println!("\n{} answers compared, {} differences, {explained} with a known reason", report.compared, unknown.len());
    if !unknown.is_empty() {
        bail!("the answers differ");
    }
    Ok(())
}

/// The directory of the fixtures in the Go module cache.
fn fixtures(args: &Args) -> Result<PathBuf> {
    if let Some(directory) = &args.fixtures {
        return Ok(directory.clone());
    }
    let output = std::process::Command::new("go").args(["env", "GOMODCACHE"]).output().context("go")?;
    let cache = String::from_utf8(output.stdout)?;
    Ok(PathBuf::from(cache.trim()).join("k8s.io/api@v0.36.3/testdata/HEAD"))
}
