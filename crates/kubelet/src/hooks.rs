//! Lifecycle hooks: `exec`, `httpGet` and `sleep` handlers.
// upstream: pkg/kubelet/lifecycle, handlers.go
use crate::http_probe;
use crate::kubelet::Kubelet;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use pintle_runtime::cri;
use std::time::Duration;

/// Runs one hook of a container; the error is its waiting message.
pub async fn run(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
    id: &str,
    hook: &LifecycleHandler,
    pod_ip: Option<&str>,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let cmd = exec.command.clone().unwrap_or_default();
        let shown = cmd.join(" ");
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 0 };
        let response = kubelet.runtime.exec_sync(request).await.map_err(|status| {
            format!(
                "Exec lifecycle hook ([{shown}]) for Container {:?} failed - error: {}",
                container.name,
                status.message()
            )
        })?;
        if response.exit_code != 0 {
            let output = [response.stdout, response.stderr].concat();
            return Err(format!(
                "Exec lifecycle hook ([{shown}]) for Container {:?} in Pod {:?} failed - error: command '{shown}' exited \
                 with {}: {}, message: {:?}",
                container.name,
                crate::pods::PodExt::described(pod),
                response.exit_code,
                String::from_utf8_lossy(&output),
                String::from_utf8_lossy(&output),
            ));
        }
        return Ok(());
    }
    if let Some(http) = &hook.http_get {
        let target = http_probe::Target::new(http, container, pod_ip.unwrap_or_default())?;
        let answer = http_probe::get(&target, "kube-lifecycle", Duration::from_secs(60)).await;
        return answer.map(drop).map_err(|error| {
            format!("HTTP lifecycle hook ({}) for Container {:?} failed - error: {error}", target.path, container.name)
        });
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler".to_owned())
}
