//! Security contexts of pods and containers in CRI's terms.
// upstream: pkg/securitycontext; pkg/kubelet/kuberuntime, security_context.go
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use pintle_runtime::cri::{self, NamespaceMode, SupplementalGroupsPolicy, security_profile::ProfileType};
use std::collections::HashMap;
use std::path::Path;

/// Why a container may not run; shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `runAsNonRoot`, and the configured user is root.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RunAsUserIsRoot {
        /// `name_namespace(uid)`
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot`, and the image's user is root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRunsAsRoot {
        /// `name_namespace(uid)`
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot`, and the image names its user by a word.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \
         \"{pod}\", container: {container})"
    )]
    NonNumericUser {
        /// The image's user.
        user: String,
        /// `name_namespace(uid)`
        pod: String,
        /// The container's name.
        container: String,
    },
}

/// Who an image runs as.
#[derive(Clone, Debug, Default)]
pub struct ImageUser {
    /// Numeric user, when the image names one (or none: root).
    pub uid: Option<i64>,
    /// User by name.
    pub username: String,
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.pod_spec().and_then(|spec| spec.security_context.clone()).unwrap_or_default()
}

/// The container's own settings over those of the pod.
pub fn effective(pod: &Pod, container: &Container) -> SecurityContext {
    let of_pod = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    SecurityContext {
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        run_as_non_root: own.run_as_non_root.or(of_pod.run_as_non_root),
        se_linux_options: own.se_linux_options.clone().or(of_pod.se_linux_options),
        seccomp_profile: own.seccomp_profile.clone().or(of_pod.seccomp_profile),
        app_armor_profile: own.app_armor_profile.clone().or(of_pod.app_armor_profile),
        ..own
    }
}

/// Refuses a container that must not run as root but would.
pub fn verify_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), Error> {
    let context = effective(pod, container);
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let (pod, container) = (pod.described(), container.name.clone());
    match (context.run_as_user, image.uid, image.username.as_str()) {
        (Some(0), _, _) => Err(Error::RunAsUserIsRoot { pod, container }),
        (Some(_), _, _) => Ok(()),
        (None, Some(0), _) => Err(Error::ImageRunsAsRoot { pod, container }),
        (None, None, user) if !user.is_empty() => Err(Error::NonNumericUser { user: user.to_owned(), pod, container }),
        (None, None, _) => Err(Error::ImageRunsAsRoot { pod, container }),
        (None, Some(_), _) => Ok(()),
    }
}

fn int(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

/// The namespaces of the pod; `target` is the container whose processes an ephemeral container shares.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> cri::NamespaceOption {
    let spec = pod.pod_spec();
    let on = |flag: Option<bool>| flag == Some(true);
    let mode = |host: bool| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if on(spec.and_then(|spec| spec.host_pid)) {
        NamespaceMode::Node
    } else if target.is_some() {
        NamespaceMode::Target
    } else if on(spec.and_then(|spec| spec.share_process_namespace)) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: mode(pod.host_network()) as i32,
        ipc: mode(on(spec.and_then(|spec| spec.host_ipc))) as i32,
        pid: pid as i32,
        target_id: target.unwrap_or_default().to_owned(),
        userns_options: None,
    }
}

fn seccomp(profile: Option<&SeccompProfile>, root_dir: &Path) -> cri::SecurityProfile {
    let (kind, reference) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|profile| profile.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, root_dir.join("seccomp").join(name).to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref: reference }
}

fn groups_policy(pod: &PodSecurityContext) -> i32 {
    let policy = match pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    };
    policy as i32
}

fn groups(pod: &PodSecurityContext) -> Vec<i64> {
    let own = pod.supplemental_groups.iter().flatten().copied();
    pod.fs_group.into_iter().chain(own).collect()
}

/// The sandbox's security context.
pub fn sandbox(pod: &Pod, root_dir: &Path) -> cri::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = pod
        .containers()
        .iter()
        .chain(pod.init_containers())
        .any(|container| container.security_context.as_ref().and_then(|context| context.privileged) == Some(true));
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        run_as_user: context.run_as_user.map(int),
        run_as_group: context.run_as_group.map(int),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        seccomp: Some(match &context.seccomp_profile {
            Some(profile) => seccomp(Some(profile), root_dir),
            None => cri::SecurityProfile { profile_type: ProfileType::RuntimeDefault as i32, ..Default::default() },
        }),
        ..Default::default()
    }
}

/// Kernel parameters of the pod.
pub fn sysctls(pod: &Pod) -> HashMap<String, String> {
    pod_context(pod).sysctls.into_iter().flatten().map(|one| (one.name.replace('/', "."), one.value)).collect()
}

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The container's security context.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
    root_dir: &Path,
) -> cri::LinuxContainerSecurityContext {
    let of_pod = pod_context(pod);
    let context = effective(pod, container);
    let privileged = context.privileged == Some(true);
    let unmasked = context.proc_mount.as_deref() == Some("Unmasked");
    let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let capabilities = context.capabilities.unwrap_or_default();
    let run_as_user = context.run_as_user.or(image.uid);
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        run_as_user: run_as_user.map(int),
        run_as_username: if run_as_user.is_some() { String::new() } else { image.username.clone() },
        run_as_group: context.run_as_group.map(int),
        readonly_rootfs: context.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&of_pod),
        supplemental_groups_policy: groups_policy(&of_pod),
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths: if unmasked || privileged { Vec::new() } else { list(&MASKED) },
        readonly_paths: if unmasked || privileged { Vec::new() } else { list(&READ_ONLY) },
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), root_dir)),
        ..Default::default()
    }
}
