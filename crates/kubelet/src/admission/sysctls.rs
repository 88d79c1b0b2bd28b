//! Which kernel parameters pods may set: those that reach no further than the pod.
use super::Rejection;
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::Pod;

const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Refuses a pod with kernel parameters that are not safe, or not its own.
pub fn check(pod: &Pod) -> Result<(), Rejection> {
    let Some(spec) = pod.pod_spec() else { return Ok(()) };
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for name in sysctls.map(|sysctl| sysctl.name.replace('/', ".")) {
        let forbid = |why: &str| Err(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {name:?} {why}")));
        if !SAFE.contains(&name.as_str()) {
            return forbid("not allowlisted");
        }
        if name.starts_with("net.") && spec.host_network == Some(true) {
            return forbid("not allowed with host net enabled");
        }
        if name.starts_with("kernel.") && spec.host_ipc == Some(true) {
            return forbid("not allowed with host ipc enabled");
        }
    }
    Ok(())
}
