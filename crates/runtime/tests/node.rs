//! The runtime on a real machine: needs root and a static busybox (Debian: `busybox-static`).
//!
//! The test binary is its own shim, as the `pintle` binary is. Words on the command line choose tests by name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#[path = "node/support.rs"]
mod support;

#[path = "node/figures.rs"]
mod figures;
#[path = "node/lifecycle.rs"]
mod lifecycle;
#[path = "node/security.rs"]
mod security;
#[path = "node/socket.rs"]
mod socket;
#[path = "node/streams.rs"]
mod streams;
#[path = "node/volumes.rs"]
mod volumes;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use support::Node;

type Test = fn(Node) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), |node| Box::pin($module::$name(node)))),*]
    };
}

const TESTS: &[(&str, Test)] = tests![
    lifecycle::a_container_runs_logs_and_tells_its_exit_code,
    lifecycle::a_missing_program_is_a_start_error,
    lifecycle::stop_asks_then_kills,
    lifecycle::exec_sync_returns_output_and_code,
    lifecycle::exec_sync_is_killed_at_its_timeout,
    lifecycle::the_pod_shares_its_namespaces,
    lifecycle::user_capabilities_and_limits_are_set,
    lifecycle::a_shared_pid_namespace_is_reaped,
    lifecycle::out_of_memory_is_told,
    lifecycle::containers_outlive_the_runtime,
    lifecycle::a_killed_shim_ends_its_pod,
    lifecycle::a_missing_working_directory_is_made,
    lifecycle::what_was_never_finished_is_removed,
    lifecycle::the_command_line_reaches_the_images,
    lifecycle::shims_use_no_huge_pages_and_containers_may,
    security::a_container_is_confined,
    security::a_privileged_container_has_the_machine,
    security::mounts_stay_inside_the_root,
    security::mounts_propagate_as_asked,
    volumes::a_declared_volume_starts_with_the_images_content_and_stays_writable,
    volumes::a_part_of_an_image_is_mounted_without_leaving_it,
    socket::crictl_finds_the_runtime_at_its_socket,
    streams::exec_carries_streams_and_exit_code,
    streams::exec_with_a_terminal_has_its_size,
    streams::attach_joins_a_running_container,
    streams::a_container_with_a_terminal_can_be_attached,
    streams::ports_of_the_pod_are_forwarded,
];

const FIGURES: &[(&str, Test)] = tests![figures::pod_start_and_shim_memory, figures::fifty_pods_at_once];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == "shim") {
        return pintle_runtime::shim::main(args);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: the runtime's node tests need root");
        return ExitCode::SUCCESS;
    }
    if !std::path::Path::new(support::BUSYBOX).exists() {
        eprintln!("{} is missing: apt-get install busybox-static", support::BUSYBOX);
        return ExitCode::FAILURE;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut failed = 0;
    let named = |name: &str| words.iter().any(|word| name.contains(word));
    let tests = TESTS.iter().filter(|(name, _)| words.is_empty() || named(name));
    for (name, test) in tests.chain(FIGURES.iter().filter(|(name, _)| named(name))) {
        let result = std::panic::catch_unwind(|| {
            let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            tokio.block_on(async { test(Node::new().await).await });
        });
        support::clean_up();
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        failed += u32::from(result.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
