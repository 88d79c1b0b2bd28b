//! `/configz`: the node agent's settings as a `KubeletConfiguration`.
// upstream: staging/src/k8s.io/kubelet/config/v1beta1
use crate::config::Config;
use serde_json::{Value, json};

/// The settings under the name that upstream's kubelet registers them.
pub fn document(config: &Config) -> Value {
    let addresses: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let mut own = json!({
        "enableServer": config.server.is_some(),
        "staticPodPath": config.static_pod_path,
        "syncFrequency": "1m0s",
        "fileCheckFrequency": "20s",
        "authentication": {"x509": {}, "webhook": {"enabled": true, "cacheTTL": "2m0s"}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook"},
        "clusterDomain": config.cluster_domain,
        "clusterDNS": addresses,
        "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40,
        "imageMinimumGCAge": "2m0s",
        "imageGCHighThresholdPercent": config.image_gc_thresholds.0,
        "imageGCLowThresholdPercent": config.image_gc_thresholds.1,
        "cgroupRoot": config.cgroup_root,
        "cgroupsPerQOS": config.manage_cgroups,
        "cgroupDriver": "cgroupfs",
        "cpuManagerPolicy": "none",
        "memoryManagerPolicy": "None",
        "topologyManagerPolicy": "none",
        "runtimeRequestTimeout": "2m0s",
        "maxPods": config.max_pods,
        "podPidsLimit": -1,
        "resolvConf": config.resolv_conf,
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": "100ms",
        "crashLoopBackOff": {"maxContainerRestartPeriod": format!("{}s", config.crash_loop_back_off.1.as_secs())},
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"},
        "evictionPressureTransitionPeriod": "5m0s",
        "enableControllerAttachDetach": true,
        "containerLogMaxSize": format!("{}Mi", config.container_log_max_size >> 20),
        "containerLogMaxFiles": config.container_log_max_files,
        "containerLogMonitorInterval": "10s",
        "podLogsDir": config.pod_logs_dir,
        "enforceNodeAllocatable": ["pods"],
    });
    if let Some(server) = &config.server {
        own["address"] = json!(server.address.ip().to_string());
        own["port"] = json!(server.address.port());
    }
    json!({"kubeletconfig": own})
}
