//! The pods of the soak: what each sort is made of and what it must become.
use super::IMAGE;
use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

/// What a pod is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Runs until it is deleted.
    Runs,
    /// Ends well and is not restarted.
    Completes,
    /// Ends badly and is not restarted.
    Fails,
    /// Ends badly and is restarted, with growing pauses.
    Crashes,
    /// Runs, behind probes of every kind, after init containers and with a sidecar.
    Probed,
    /// Runs with a volume of every sort.
    Mounts,
    /// Cannot start: its image is not there.
    NoImage,
}

impl Sort {
    /// All of them.
    pub const ALL: [Sort; 7] =
        [Sort::Runs, Sort::Completes, Sort::Fails, Sort::Crashes, Sort::Probed, Sort::Mounts, Sort::NoImage];

    /// What pods of this sort are called, with a number behind.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Runs => "runs",
            Sort::Completes => "completes",
            Sort::Fails => "fails",
            Sort::Crashes => "crashes",
            Sort::Probed => "probed",
            Sort::Mounts => "mounts",
            Sort::NoImage => "no-image",
        }
    }

    /// What is wrong with a pod that was left alone for a while; `None`: it is what it should be.
    pub fn complaint(self, pod: &Pod) -> Option<String> {
        if pod.metadata.deletion_timestamp.is_some() {
            return Some("is being deleted".to_owned());
        }
        let status = pod.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let main = status.container_statuses.iter().flatten().find(|c| c.name == "main");
        let waiting = main.and_then(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone()).unwrap_or_default();
        let restarted = main.is_some_and(|c| c.restart_count > 0);
        let right = match self {
            // A container that the soak killed is restarted.
            Sort::Runs | Sort::Probed | Sort::Mounts => phase == "Running" && ready,
            // One that was killed did not end well.
            Sort::Completes => phase == "Succeeded" || phase == "Failed",
            Sort::Fails => phase == "Failed",
            Sort::Crashes => phase == "Running" && restarted && !ready,
            Sort::NoImage => phase == "Pending" && waiting == "ErrImageNeverPull",
        };
        (!right).then(|| format!("phase {phase}, ready {ready}, waiting {waiting:?}, restarted {restarted}"))
    }
}

/// Makes what the pods refer to.
pub async fn prepare(client: kube::Client) -> Result<()> {
    let config: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "config"}, "data": {"key": "value"}}))?;
    Api::namespaced(client.clone(), "default").create(&PostParams::default(), &config).await?;
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "secret"}, "stringData": {"key": "value"}}))?;
    Api::namespaced(client, "default").create(&PostParams::default(), &secret).await?;
    Ok(())
}

/// A pod of this sort.
pub fn pod(name: &str, sort: Sort) -> Result<Pod> {
    let shell = |script: &str| json!(["sh", "-c", script]);
    let main = |script: &str| json!({"name": "main", "image": IMAGE, "command": shell(script)});
    let sleeps = "trap 'exit 0' TERM; while true; do sleep 1; done";
    let mut spec = json!({"terminationGracePeriodSeconds": 2, "containers": [main(sleeps)]});
    match sort {
        Sort::Runs => {}
        Sort::Completes | Sort::Fails => {
            spec["containers"] = json!([main(if sort == Sort::Fails { "sleep 1; exit 3" } else { "sleep 1" })]);
            spec["restartPolicy"] = json!("Never");
        }
        Sort::Crashes => spec["containers"] = json!([main("sleep 0.2; exit 1")]),
        Sort::Probed => {
            let probe =
                json!({"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "timeoutSeconds": 10});
            let mut container = main(&format!("mkdir -p /tmp; touch /tmp/up; {sleeps}"));
            for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
                container[kind] = probe.clone();
            }
            container["startupProbe"]["failureThreshold"] = json!(60);
            container["livenessProbe"]["failureThreshold"] = json!(60);
            container["lifecycle"] = json!({"preStop": {"exec": {"command": ["true"]}}});
            spec["containers"] = json!([container]);
            spec["initContainers"] = json!([
                {"name": "first", "image": IMAGE, "command": shell("true")},
                {"name": "sidecar", "image": IMAGE, "command": shell(sleeps), "restartPolicy": "Always"}]);
        }
        Sort::Mounts => {
            let mut container = main(&format!("cat /config/key /secret/key /all/key /sub && {sleeps}"));
            container["volumeMounts"] = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
                {"name": "config", "mountPath": "/config"}, {"name": "secret", "mountPath": "/secret"},
                {"name": "all", "mountPath": "/all"}, {"name": "config", "mountPath": "/sub", "subPath": "key"}]);
            spec["containers"] = json!([container]);
            spec["volumes"] = json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "config", "configMap": {"name": "config"}}, {"name": "secret", "secret": {"secretName": "secret"}},
                {"name": "all", "projected": {"sources": [{"configMap": {"name": "config"}}, {"downwardAPI": {"items": [
                    {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}]);
        }
        Sort::NoImage => {
            let mut container = main("true");
            container["image"] = json!("pintle.dev/soak/none:1");
            container["imagePullPolicy"] = json!("Never");
            spec["containers"] = json!([container]);
        }
    }
    let pod: Value = json!({"metadata": {"name": name}, "spec": spec});
    Ok(serde_json::from_value(pod)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_became_something_else_is_complained_about() {
        let with = |status: Value| {
            let mut pod = pod("a", Sort::Runs).expect("a pod");
            pod.status = serde_json::from_value(status).expect("a status");
            pod
        };
        let running = with(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(Sort::Runs.complaint(&running), None);
        assert!(Sort::Completes.complaint(&running).is_some());
        assert!(Sort::Crashes.complaint(&running).is_some());
        let failed = with(json!({"phase": "Failed"}));
        assert_eq!(Sort::Fails.complaint(&failed), None);
        assert!(Sort::Runs.complaint(&failed).is_some());
    }
}
