//! Derives the tables under `crates/api/schema` from upstream's published documents. Start at [`run`].
mod facts;
mod features;
mod go_types;
mod resources;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::Value;

/// Where the Go modules are, and where the tables go.
#[derive(clap::Args)]
pub struct Args {
    /// The directory that holds the Go modules `k8s.io/kubernetes`, `k8s.io/api` and `k8s.io/apimachinery`
    /// (`$(go env GOMODCACHE)/k8s.io`).
    #[arg(long)]
    modules: PathBuf,
    /// The directory of the tables.
    #[arg(long, default_value = "crates/api/schema")]
    out: PathBuf,
}

/// The release that the tables are derived from.
const KUBERNETES: &str = "kubernetes@v1.36.3";

/// Writes all tables.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let kubernetes = args.modules.join(KUBERNETES);
    write(&args.out.join("v1_36_resources.tsv"), &resources::generate(&kubernetes.join("api/discovery"))?)?;
    write(&args.out.join("v1_36_features.tsv"), &features::generate(&args.modules)?)?;
    let openapi = kubernetes.join("api/openapi-spec/v3");
    write(&args.out.join("v1_36_facts.tsv"), &facts::generate(&args.modules, &openapi)?)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    println!("{}: {} bytes", path.display(), text.len());
    Ok(())
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}
