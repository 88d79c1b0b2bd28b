//! CRI configurations of sandboxes and containers, made from the pod's spec.
// upstream: pkg/kubelet/kuberuntime, generatePodSandboxConfig, generateContainerConfig; pkg/kubelet, makeMounts
use crate::config::Config;
use crate::expansion::expand;
use crate::pods::{self, PodExt, labels};
use crate::security::{self, ImageUser};
use crate::volumes::{Mounted, subpath};
use crate::{cgroups, dns, resources};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use pintle_runtime::cri::{self, MountPropagation, Protocol};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Why a configuration cannot be made; shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The security context forbids it.
    #[error(transparent)]
    Security(#[from] security::Error),
    /// A mount names a volume that the pod does not have.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// Anything else, in words for the user.
    #[error("{0}")]
    Other(String),
}

/// The sandbox's configuration.
pub fn sandbox(pod: &Pod, attempt: u32, config: &Config) -> Result<cri::PodSandboxConfig, String> {
    let host = pod.host_network();
    let ports = pod.containers().iter().chain(pod.init_containers()).flat_map(|one| one.ports.iter().flatten());
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        hostname: if host { String::new() } else { dns::kernel_hostname(pod, &config.cluster_domain)? },
        log_directory: path_text(config.pod_log_dir(pod.namespace(), pod.name(), pod.uid())),
        dns_config: Some(dns::resolver(pod, config)),
        port_mappings: ports
            .filter(|_| !host)
            .map(|port| cri::PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                } as i32,
                container_port: port.container_port,
                host_port: port.host_port.unwrap_or(0),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
            .collect(),
        labels: pods::sandbox_labels(pod),
        annotations: pods::to_hash_map(pod.metadata.annotations.as_ref()),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroups::pod_path(config, pod),
            security_context: Some(security::sandbox(pod, &config.root_dir)),
            sysctls: security::sysctls(pod),
            resources: Some(resources::pod(pod)),
            overhead: pod.pod_spec().and_then(|spec| spec.overhead.as_ref()).map(resources::overhead),
        }),
        windows: None,
    })
}

fn path_text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// What one container instance is made from.
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How many instances came before.
    pub restart_count: i32,
    /// Its image.
    pub image: &'a crate::images::Ready,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// The pod's volumes.
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// The container whose processes an ephemeral container shares.
    pub target: Option<&'a str>,
    /// The machine's memory in bytes.
    pub machine_memory: i64,
}

/// The container's configuration; makes the files that it mounts.
pub fn container(inputs: Inputs<'_>, config: &Config) -> Result<cri::ContainerConfig, Error> {
    let Inputs { pod, container, restart_count, image, env, .. } = &inputs;
    security::verify_non_root(pod, container, &image.user)?;
    let lookup = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let mounts = mounts(&inputs, config, &lookup)?;
    let log_dir = config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()).join(&container.name);
    std::fs::create_dir_all(&log_dir).map_err(|error| {
        Error::Other(format!("create container log directory for container {} failed: {error}", container.name))
    })?;
    let user: &ImageUser = &image.user;
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: u32::try_from(*restart_count).unwrap_or(0),
        }),
        image: Some(cri::ImageSpec {
            image: image.reference.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts,
        labels: pods::container_labels(pod, &container.name),
        annotations: annotations(pod, container, *restart_count),
        log_path: format!("{}/{restart_count}.log", container.name),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::container(pod, container, inputs.machine_memory)),
            security_context: Some(security::container(pod, container, user, inputs.target, &config.root_dir)),
        }),
        ..Default::default()
    })
}

fn annotations(pod: &Pod, container: &Container, restart_count: i32) -> HashMap<String, String> {
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let grace = pod.pod_spec().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    [
        (labels::CONTAINER_HASH, pods::container_hash(container)),
        (labels::RESTART_COUNT, restart_count.to_string()),
        (labels::TERMINATION_MESSAGE_PATH, path.to_owned()),
        (labels::TERMINATION_MESSAGE_POLICY, policy.to_owned()),
        (labels::TERMINATION_GRACE_PERIOD, grace.to_string()),
        (labels::MEMORY_REQUEST, resources::memory_request(container).to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn mounts(
    inputs: &Inputs<'_>,
    config: &Config,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<cri::Mount>, Error> {
    let (pod, container) = (inputs.pod, inputs.container);
    let mut all = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = inputs
            .volumes
            .get(&mount.name)
            .ok_or_else(|| Error::NoVolume { volume: mount.name.clone(), container: container.name.clone() })?;
        let places = config.pod_dir(pod.uid()).join("volume-subpaths").join(&mount.name).join(&container.name);
        all.push(volume_mount(mount, volume, &places.join(index.to_string()), lookup)?);
    }
    let has = |all: &[cri::Mount], path: &str| all.iter().any(|mount| mount.container_path == path);
    if !has(&all, "/etc/hosts") {
        let path = write_hosts(inputs, config).map_err(|error| Error::Other(error.to_string()))?;
        all.push(cri::Mount { container_path: "/etc/hosts".into(), host_path: path, ..Default::default() });
    }
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !path.is_empty() {
        let dir = config.pod_dir(pod.uid()).join("containers").join(&container.name);
        let file = dir.join(format!("{:08x}", fastrand::u32(..)));
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(&file, ""))
            .and_then(|()| crate::volumes::set_mode(&file, 0o666))
            .map_err(|error| {
                Error::Other(format!("error on creating termination-log file {}: {error}", file.display()))
            })?;
        all.push(cri::Mount { container_path: path.to_owned(), host_path: path_text(file), ..Default::default() });
    }
    Ok(all)
}

fn volume_mount(
    mount: &VolumeMount,
    volume: &Mounted,
    place: &Path,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<cri::Mount, Error> {
    let sub = match mount.sub_path_expr.as_deref().filter(|expr| !expr.is_empty()) {
        Some(expression) => {
            let expanded = expand(expression, lookup);
            if expanded.contains("$(") {
                return Err(Error::Other(format!("missing value for {expression:?}")));
            }
            Some(expanded)
        }
        None => mount.sub_path.clone().filter(|path| !path.is_empty()),
    };
    let mut image_sub_path = None;
    let host_path = match sub {
        Some(sub) if volume.image.is_none() => {
            subpath::bind(&volume.path, &sub, place).map_err(Error::Other)?;
            place.to_owned()
        }
        Some(sub) => {
            image_sub_path = Some(sub);
            PathBuf::new()
        }
        None => volume.path.clone(),
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    let read_only = mount.read_only == Some(true) || volume.read_only;
    Ok(cri::Mount {
        container_path: absolute(&mount.mount_path),
        host_path: path_text(host_path),
        readonly: read_only,
        recursive_read_only: read_only
            && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: propagation as i32,
        image: volume.image.as_ref().map(|image| cri::ImageSpec {
            image: image.clone(),
            annotations: image_sub_path.map(|sub| (cri::IMAGE_SUB_PATH.to_owned(), sub)).into_iter().collect(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Writes the pod's hosts file once it has an address; later containers of the pod share it.
fn write_hosts(inputs: &Inputs<'_>, config: &Config) -> std::io::Result<String> {
    let dir = config.pod_dir(inputs.pod.uid());
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("etc-hosts");
    let text = dns::hosts_file(inputs.pod, inputs.pod_ips, &config.cluster_domain, Path::new("/etc/hosts"));
    if std::fs::read_to_string(&file).ok().as_deref() != Some(text.as_str()) {
        std::fs::write(&file, text)?;
        crate::volumes::set_mode(&file, 0o644)?;
    }
    Ok(path_text(file))
}
