//! Small facts about pods that many parts need: accessors, labels on CRI objects, QoS class.
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use std::collections::{BTreeMap, HashMap};

/// Labels and annotations the kubelet puts on CRI sandboxes and containers, and reads back after a restart.
pub mod labels {
    /// Label: the pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Label: the pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Label: the pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Label: the container's name.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: hash of the container's spec.
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how many instances came before.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: path of the termination message in the container.
    pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: `File` or `FallbackToLogsOnError`.
    pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the pod's termination grace period in seconds.
    pub const TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// Annotation: the memory request the container was made with, in bytes; the runtime does not know it.
    pub const MEMORY_REQUEST: &str = "pintle.dev/container.memoryRequest";
}

/// Accessors for what every valid pod has.
pub trait PodExt {
    /// `metadata.name`.
    fn name(&self) -> &str;
    /// `metadata.namespace`.
    fn namespace(&self) -> &str;
    /// `metadata.uid`.
    fn uid(&self) -> &str;
    /// `spec`.
    fn pod_spec(&self) -> Option<&PodSpec>;
    /// Regular containers.
    fn containers(&self) -> &[Container];
    /// Init containers, sidecars included.
    fn init_containers(&self) -> &[Container];
    /// Ephemeral containers in the shape of regular ones.
    fn ephemeral_containers(&self) -> Vec<Container>;
    /// `name_namespace(uid)`, as upstream words pods in messages.
    fn described(&self) -> String;
    /// `spec.restartPolicy`, by default `Always`.
    fn restart_policy(&self) -> &str;
    /// Whether it uses the node's network.
    fn host_network(&self) -> bool;
    /// Whether deletion was asked for.
    fn is_deleting(&self) -> bool;
    /// The container of this name, of any kind.
    fn container_spec(&self, name: &str) -> Option<Container>;
    /// `status.phase`.
    fn phase(&self) -> &str;
    /// Whether the phase is `Succeeded` or `Failed`.
    fn is_terminal(&self) -> bool;
    /// Grace period for termination in seconds: of the deletion, else of the spec.
    fn grace_period(&self) -> i64;
    /// Whether it is the API's mirror of a static pod.
    fn is_mirror(&self) -> bool;
    /// Whether it comes from a manifest on this node.
    fn is_static(&self) -> bool;
}

impl PodExt for Pod {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    fn pod_spec(&self) -> Option<&PodSpec> {
        self.spec.as_ref()
    }
    fn containers(&self) -> &[Container] {
        self.spec.as_ref().map_or(&[], |spec| &spec.containers)
    }
    fn init_containers(&self) -> &[Container] {
        self.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
    }
    fn ephemeral_containers(&self) -> Vec<Container> {
        let ephemeral = self.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        ephemeral.iter().map(ephemeral_as_container).collect()
    }
    fn described(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
    fn restart_policy(&self) -> &str {
        self.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }
    fn host_network(&self) -> bool {
        self.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
    }
    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
    fn container_spec(&self, name: &str) -> Option<Container> {
        let all = self.containers().iter().chain(self.init_containers());
        all.into_iter()
            .find(|container| container.name == name)
            .cloned()
            .or_else(|| self.ephemeral_containers().into_iter().find(|container| container.name == name))
    }
    fn phase(&self) -> &str {
        self.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
    }
    fn is_terminal(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }
    fn grace_period(&self) -> i64 {
        let spec = || self.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        self.metadata.deletion_grace_period_seconds.or_else(spec).unwrap_or(30)
    }
    fn is_mirror(&self) -> bool {
        self.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"))
    }
    fn is_static(&self) -> bool {
        let source = self.metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/config.source"));
        source.is_some_and(|source| source != "api") && !self.is_mirror()
    }
}

fn ephemeral_as_container(ephemeral: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        name: e.name,
        ports: e.ports,
        resources: e.resources,
        security_context: e.security_context,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
        ..Default::default()
    }
}

/// Whether an init container is a sidecar (`restartPolicy: Always`).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container that exited with `exit_code` runs again, by its own rules, its own policy or the pod's.
// upstream: pkg/api/v1/pod, ContainerShouldRestart
pub fn should_restart(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
        let matches = rules.iter().find(|rule| {
            rule.exit_codes.as_ref().is_some_and(|codes| {
                let contains = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
                match codes.operator.as_str() {
                    "In" => contains,
                    "NotIn" => !contains,
                    _ => false,
                }
            })
        });
        if matches.is_some_and(|rule| rule.action == "Restart") {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return exit_code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match pod.restart_policy() {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    }
}

/// Hash of what cannot change without a new container: its name and image.
// upstream: pkg/kubelet/container, HashContainer
pub fn container_hash(container: &Container) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in container.name.bytes().chain([0]).chain(container.image.as_deref().unwrap_or_default().bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

/// CRI labels of the pod's sandbox: the pod's own and the kubelet's.
pub fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let own = pod.metadata.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    own.chain(pod_labels(pod)).collect()
}

/// CRI labels of a container of the pod.
pub fn container_labels(pod: &Pod, container: &str) -> HashMap<String, String> {
    let name = (labels::CONTAINER_NAME.to_owned(), container.to_owned());
    pod_labels(pod).into_iter().chain([name]).collect()
}

fn pod_labels(pod: &Pod) -> [(String, String); 3] {
    [
        (labels::POD_NAME.to_owned(), pod.name().to_owned()),
        (labels::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (labels::POD_UID.to_owned(), pod.uid().to_owned()),
    ]
}

/// A map as CRI messages want it.
pub fn to_hash_map(map: Option<&BTreeMap<String, String>>) -> HashMap<String, String> {
    map.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}
