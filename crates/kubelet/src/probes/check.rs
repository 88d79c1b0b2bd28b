//! What a probe does: run a command, ask over HTTP or gRPC, open a connection.
// upstream: pkg/probe
use super::grpc;
use crate::http_probe;
use k8s_openapi::api::core::v1::{Container, Probe};
use pintle_runtime::cri::{ExecSyncRequest, RuntimeService};
use std::time::Duration;
use tokio::net::TcpStream;

/// Who upstream's probes say they are.
const AGENT: &str = "kube-probe/1.36";
/// Most bytes of output that are shown.
const MAX_OUTPUT: usize = 10 * 1024;

/// What one run of a probe says.
pub enum Verdict {
    /// Healthy.
    Success,
    /// Healthy, with something to look at.
    Warning(String),
    /// Not healthy.
    Failure(String),
    /// The probe could not be run.
    Error(String),
}

/// Where a probe is aimed.
pub struct Target<'a> {
    pub runtime: &'a dyn RuntimeService,
    pub container: &'a Container,
    pub id: &'a str,
    pub pod_ip: &'a str,
}

/// Runs `probe` once.
pub async fn run(probe: &Probe, target: &Target<'_>) -> Verdict {
    let seconds = probe.timeout_seconds.unwrap_or(1).max(1);
    let timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    if let Some(exec) = &probe.exec {
        return run_exec(exec.command.clone().unwrap_or_default(), seconds, timeout, target).await;
    }
    if let Some(action) = &probe.http_get {
        let http = match http_probe::Target::new(action, target.container, target.pod_ip) {
            Ok(http) => http,
            Err(error) => return Verdict::Error(error),
        };
        return match http_probe::get(&http, AGENT, timeout).await {
            Ok((status, _)) if status.is_success() => Verdict::Success,
            Ok((status, body)) if status.is_redirection() => {
                Verdict::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            Ok((status, _)) => Verdict::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
            Err(error) => Verdict::Failure(error),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let port = match http_probe::port(&action.port, target.container) {
            Ok(port) => port,
            Err(error) => return Verdict::Error(error),
        };
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.pod_ip);
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        return match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Verdict::Success,
            Ok(Err(error)) => Verdict::Failure(format!("dial tcp {shown}: {}", http_probe::connect_error(&error))),
            Err(_) => Verdict::Failure(format!("dial tcp {shown}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let Ok(port) = u16::try_from(action.port) else {
            return Verdict::Error(format!("invalid port number: {}", action.port));
        };
        let service = action.service.as_deref().unwrap_or_default();
        return match grpc::check(target.pod_ip, port, service, AGENT, timeout).await {
            Ok(()) => Verdict::Success,
            Err(error) => Verdict::Failure(error),
        };
    }
    Verdict::Error(format!("missing probe handler for {}", target.container.name))
}

async fn run_exec(cmd: Vec<String>, seconds: i32, timeout: Duration, target: &Target<'_>) -> Verdict {
    let shown = cmd.join(" ");
    let request = ExecSyncRequest { container_id: target.id.to_owned(), cmd, timeout: i64::from(seconds) };
    // The runtime ends the command; a little longer here only guards against one that does not.
    let guard = timeout + Duration::from_secs(2);
    let timed_out = || Verdict::Failure(format!("command timed out: {shown:?} timed out after {seconds}s"));
    match tokio::time::timeout(guard, target.runtime.exec_sync(request)).await {
        Err(_) => timed_out(),
        Ok(Err(status)) if status.code() == tonic::Code::DeadlineExceeded => timed_out(),
        Ok(Err(status)) => Verdict::Error(crate::rpc_text(&status)),
        Ok(Ok(response)) if response.exit_code == 0 => Verdict::Success,
        Ok(Ok(response)) => {
            let mut output = [response.stdout, response.stderr].concat();
            output.truncate(MAX_OUTPUT);
            Verdict::Failure(String::from_utf8_lossy(&output).into_owned())
        }
    }
}
