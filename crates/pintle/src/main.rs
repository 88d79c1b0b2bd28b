//! The `pintle` command: one program that is the whole cluster, its pods' shims, and the operator's tool.
//!
//! [`cli`] is what can be said; [`start`] runs a cluster, wired from the components' crates in [`control_plane`] and [`node`];
//! [`agent`] runs a node of a cluster elsewhere, [`machine`] further nodes on this machine; [`lifecycle`] acts on a cluster
//! from outside; [`image`] handles images, [`token`] what lets nodes join.
mod agent;
mod api;
mod cli;
mod control_plane;
mod image;
mod ingress;
mod instance;
mod kubeconfig;
mod lifecycle;
mod machine;
mod machine_cli;
mod node;
mod options;
mod preflight;
mod progress;
mod settings_map;
mod start;
mod token;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A heap of 2 MiB pages holds megabytes that nobody asked for. Where this is refused the heap is only larger.
    nix::sys::prctl::set_thp_disable(true).ok();
    // A pod's shim, a node's first process: before anything that costs memory.
    let mut args = std::env::args_os();
    match args.nth(1) {
        Some(verb) if verb == "shim" => return pintle_runtime::shim::main(args),
        Some(verb) if verb == machine::hold::VERB => return machine::hold::main(args),
        _ => {}
    }
    // Tools find every process of Pintle by this name, whatever the file is called.
    if let Err(error) = nix::sys::prctl::set_name(c"pintle") {
        eprintln!("pintle: cannot set the process name: {error}");
    }
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            if !error.is::<progress::Reported>() {
                eprintln!("pintle: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => start::up(args),
        Command::Server(args) => start::server(args),
        Command::Agent(args) => agent::run(args),
        Command::Token(command) => token::run(command).map(|()| ExitCode::SUCCESS),
        Command::Node(command) => machine_cli::run(command).map(|()| ExitCode::SUCCESS),
        Command::Down(args) => lifecycle::down(&args).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => lifecycle::status(&args),
        Command::Reset(args) => lifecycle::reset(&args).map(|()| ExitCode::SUCCESS),
        Command::Kubeconfig(args) => lifecycle::kubeconfig(&args).map(|()| ExitCode::SUCCESS),
        Command::Image(command) => image::run(command).map(|()| ExitCode::SUCCESS),
        Command::Version => {
            println!("pintle {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), pintle_apiserver::KUBERNETES_VERSION);
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "pintle", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
