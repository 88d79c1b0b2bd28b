//! Developer commands: `cargo xtask <command>`.
mod bench;
mod cluster;
mod diff;
mod schema;
mod soak;

use clap::{Parser, Subcommand};

/// Developer commands of Pintle.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Derive the tables under crates/api/schema from upstream's Go modules.
    Schema(schema::Args),
    /// Measure Pintle beside upstream.
    Bench(bench::Bench),
    /// Compare the answers of Pintle's API server with those of upstream's.
    Diff(diff::Args),
    /// Run pods at random while the server is killed, and look for what is left or wrong.
    Soak(soak::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Schema(args) => schema::run(&args),
        Command::Bench(bench) => bench.run(),
        Command::Diff(args) => diff::run(&args),
        Command::Soak(args) => soak::run(&args),
    }
}
