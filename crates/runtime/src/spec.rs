//! The OCI spec of a container, from its CRI configuration and its image. Start at [`generate`].
//!
//! The model is what containerd's CRI plugin does (internal/cri/server/container_create.go and internal/cri/opts).
use std::path::Path;

use serde_json::{Value, json};

use crate::cri::{
    ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode, SupplementalGroupsPolicy,
};
use crate::image::store::ProcessConfig;
use crate::shim::protocol::Bind;

pub mod capabilities;
mod mounts;
pub mod seccomp;
pub mod user;

use mounts::{Mounts, mounts};
use user::User;

/// The search path of a program when the image sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden from containers that are not privileged, when the kubelet names no paths.
const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];

/// Read-only in containers that are not privileged, when the kubelet names no paths.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container is made of.
#[derive(Debug)]
pub struct Input<'a> {
    /// Its CRI configuration.
    pub config: &'a ContainerConfig,
    /// Its image's configuration.
    pub image: &'a ProcessConfig,
    /// The image's `/etc/passwd`.
    pub passwd: &'a str,
    /// The image's `/etc/group`.
    pub group: &'a str,
    /// Where the root file system is mounted.
    pub rootfs: &'a Path,
    /// The container's group.
    pub cgroup: &'a str,
    /// The sandbox's state directory: `resolv.conf`, `hosts`, `hostname`, `shm`, `pidns`.
    pub sandbox: &'a Path,
    /// The host name of the sandbox.
    pub hostname: &'a str,
    /// The PID namespace to join instead of a new one, for the TARGET mode.
    pub target_pid: Option<i32>,
    /// Where images are mounted that `config.mounts` name, in their order.
    pub image_mounts: &'a [std::path::PathBuf],
    /// What this machine and process allow.
    pub host: &'a Host,
}

/// What this machine and process allow.
#[derive(Clone, Debug)]
pub struct Host {
    /// The capabilities that can be handed on.
    pub bounding: u64,
    /// The lowest `oom_score_adj` that can be set.
    pub lowest_oom_score: i64,
    /// Control groups are unified.
    pub cgroup_v2: bool,
}

impl Host {
    /// Looks at this process.
    pub fn detect(cgroup_v2: bool) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        let resource = capabilities::ALL.iter().position(|name| *name == "SYS_RESOURCE").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let lowest = if effective & (1 << resource) == 0 { own.trim().parse().unwrap_or(0) } else { -1000 };
        Self { bounding: capabilities::bounding_set(&status), lowest_oom_score: lowest, cgroup_v2 }
    }
}

/// A generated spec.
#[derive(Clone, Debug)]
pub struct Generated {
    /// `config.json`.
    pub spec: Value,
    /// Who the process runs as.
    pub user: User,
    /// What the shim has to bind into the bundle first.
    pub binds: Vec<Bind>,
}

/// Makes the spec.
pub fn generate(input: &Input<'_>) -> Result<Generated, String> {
    let config = input.config;
    let default_linux = crate::cri::LinuxContainerConfig::default();
    let linux = config.linux.as_ref().unwrap_or(&default_linux);
    let default_security = LinuxContainerSecurityContext::default();
    let security = linux.security_context.as_ref().unwrap_or(&default_security);
    let default_resources = LinuxContainerResources::default();
    let resources = linux.resources.as_ref().unwrap_or(&default_resources);

    let user = user(security, input)?;
    let granted = capabilities::compute(security.capabilities.as_ref(), security.privileged, input.host.bounding)?;
    let args = arguments(config, input.image)?;
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args,
        "env": environment(config, input.image, input.hostname),
        "cwd": working_directory(config, input.image),
        "capabilities": {
            "bounding": granted.granted,
            "effective": granted.granted,
            "permitted": granted.granted,
            "inheritable": granted.ambient,
            "ambient": granted.ambient,
        },
        "oomScoreAdj": resources.oom_score_adj.clamp(input.host.lowest_oom_score, 1000),
    });
    if security.no_new_privs {
        // Absent otherwise: libcontainer takes `false` for "set up seccomp after dropping capabilities".
        process["noNewPrivileges"] = json!(true);
    }

    let mut linux_spec = json!({
        "namespaces": namespaces(security, input),
        "cgroupsPath": input.cgroup,
        "resources": limits(resources, security.privileged, config, input.host),
        "devices": devices(config, security.privileged)?,
        "maskedPaths": [],
        "readonlyPaths": [],
    });
    if !security.privileged {
        // Callers other than the kubelet may leave both lists out.
        let unnamed = security.masked_paths.is_empty() && security.readonly_paths.is_empty();
        if unnamed && !has_user_namespace(security) {
            linux_spec["maskedPaths"] = json!(MASKED_PATHS);
            linux_spec["readonlyPaths"] = json!(READONLY_PATHS);
        } else {
            linux_spec["maskedPaths"] = json!(security.masked_paths);
            linux_spec["readonlyPaths"] = json!(security.readonly_paths);
        }
        if let Some(profile) = seccomp::profile(security.seccomp.as_ref(), &granted.granted)? {
            linux_spec["seccomp"] = profile;
        }
    }
    let Mounts { list, propagation, binds } = mounts(security, input)?;
    if let Some(propagation) = propagation {
        linux_spec["rootfsPropagation"] = json!(propagation);
    }
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": input.rootfs, "readonly": security.readonly_rootfs},
        "mounts": list,
        "linux": linux_spec,
    });
    Ok(Generated { spec, user, binds })
}

/// The kubelet sends both lists empty for `procMount: Unmasked`, which needs a user namespace and so never gets here
/// with namespaces of the node.
fn has_user_namespace(security: &LinuxContainerSecurityContext) -> bool {
    security.namespace_options.as_ref().is_some_and(|options| options.userns_options.is_some())
}

fn user(security: &LinuxContainerSecurityContext, input: &Input<'_>) -> Result<User, String> {
    let mut name = if !security.run_as_username.is_empty() {
        security.run_as_username.clone()
    } else if let Some(uid) = &security.run_as_user {
        uid.value.to_string()
    } else {
        input.image.user.clone()
    };
    if let Some(group) = &security.run_as_group {
        if name.is_empty() {
            return Err("user group is specified without user".to_owned());
        }
        // The group given here wins; the groups of the user by /etc/group still count.
        name = name.split(':').next().unwrap_or_default().to_owned();
        let mut user = user::look_up(&name, input.passwd, input.group).map_err(|error| error.to_string())?;
        let gid = u32::try_from(group.value).map_err(|_| user::Error::Range.to_string())?;
        user.groups.retain(|known| *known != user.gid);
        user.gid = gid;
        user.groups.insert(0, gid);
        return supplement(user, security);
    }
    let user = user::look_up(&name, input.passwd, input.group).map_err(|error| error.to_string())?;
    supplement(user, security)
}

fn supplement(mut user: User, security: &LinuxContainerSecurityContext) -> Result<User, String> {
    if security.supplemental_groups_policy == SupplementalGroupsPolicy::Strict as i32 {
        user.groups = vec![user.gid];
    }
    for group in &security.supplemental_groups {
        let id = u32::try_from(*group).map_err(|_| user::Error::Range.to_string())?;
        if !user.groups.contains(&id) {
            user.groups.push(id);
        }
    }
    Ok(user)
}

/// The command line: the pod's `command` hides the image's entrypoint and its arguments.
fn arguments(config: &ContainerConfig, image: &ProcessConfig) -> Result<Vec<String>, String> {
    let mut args = Vec::new();
    if config.command.is_empty() {
        args.extend(image.entrypoint.iter().cloned());
        args.extend(if config.args.is_empty() { image.cmd.clone() } else { config.args.clone() });
    } else {
        args.extend(config.command.iter().chain(&config.args).cloned());
    }
    if args.is_empty() { Err("no command specified".to_owned()) } else { Ok(args) }
}

fn environment(config: &ContainerConfig, image: &ProcessConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default();
        match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    };
    image.env.iter().cloned().for_each(&mut set);
    config.envs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).for_each(&mut set);
    env
}

fn working_directory(config: &ContainerConfig, image: &ProcessConfig) -> String {
    [&config.working_dir, &image.working_dir].into_iter().find(|path| !path.is_empty()).map_or("/", |p| p).to_owned()
}

/// Network, IPC and UTS are the shim's own, which the container inherits.
fn namespaces(security: &LinuxContainerSecurityContext, input: &Input<'_>) -> Value {
    let mut namespaces = vec![json!({"type": "mount"})];
    let pid = security.namespace_options.as_ref().map_or(NamespaceMode::Pod as i32, |options| options.pid);
    match NamespaceMode::try_from(pid) {
        Ok(NamespaceMode::Node) => {}
        Ok(NamespaceMode::Container) | Err(_) => namespaces.push(json!({"type": "pid"})),
        Ok(NamespaceMode::Pod) => namespaces.push(json!({"type": "pid", "path": input.sandbox.join("pidns")})),
        Ok(NamespaceMode::Target) => {
            let path = input.target_pid.map_or_else(String::new, |pid| format!("/proc/{pid}/ns/pid"));
            namespaces.push(json!({"type": "pid", "path": path}));
        }
    }
    if input.host.cgroup_v2 && !security.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    json!(namespaces)
}

fn limits(resources: &LinuxContainerResources, privileged: bool, config: &ContainerConfig, host: &Host) -> Value {
    let mut devices = Vec::new();
    let rule = |allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = json!({"allow": allow, "type": kind, "access": access});
        if let Some(major) = major {
            rule["major"] = json!(major);
        }
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    if privileged {
        devices.push(rule(true, "a", None, None, "rwm"));
    } else {
        devices.push(rule(false, "a", None, None, "rwm"));
        devices.push(rule(true, "c", None, None, "m"));
        devices.push(rule(true, "b", None, None, "m"));
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
            devices.push(rule(true, "c", Some(major), Some(minor), "rwm"));
        }
        devices.push(rule(true, "c", Some(136), None, "rwm"));
        for device in &config.devices {
            for (_, found) in host_devices(device) {
                let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
                let kind = if found.block { "b" } else { "c" };
                devices.push(rule(true, kind, Some(found.major), Some(found.minor), access));
            }
        }
    }
    let mut limits = json!({"devices": devices});
    let mut cpu = json!({});
    if resources.cpu_shares > 0 {
        cpu["shares"] = json!(resources.cpu_shares);
    }
    if resources.cpu_quota != 0 {
        cpu["quota"] = json!(resources.cpu_quota);
    }
    if resources.cpu_period > 0 {
        cpu["period"] = json!(resources.cpu_period);
    }
    if !resources.cpuset_cpus.is_empty() {
        cpu["cpus"] = json!(resources.cpuset_cpus);
    }
    if !resources.cpuset_mems.is_empty() {
        cpu["mems"] = json!(resources.cpuset_mems);
    }
    if cpu.as_object().is_some_and(|cpu| !cpu.is_empty()) {
        limits["cpu"] = cpu;
    }
    if resources.memory_limit_in_bytes > 0 {
        limits["memory"] = json!({"limit": resources.memory_limit_in_bytes});
        // v1 machines without swap accounting have no file for it.
        if resources.memory_swap_limit_in_bytes > 0 && host.cgroup_v2 {
            limits["memory"]["swap"] = json!(resources.memory_swap_limit_in_bytes);
        }
    }
    if !resources.hugepage_limits.is_empty() {
        let list = resources.hugepage_limits.iter().map(|h| json!({"pageSize": h.page_size, "limit": h.limit}));
        limits["hugepageLimits"] = list.collect();
    }
    if !resources.unified.is_empty() && host.cgroup_v2 {
        limits["unified"] = json!(resources.unified);
    }
    limits
}

struct HostDevice {
    block: bool,
    major: i64,
    minor: i64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The device nodes at a path of the node, or below it, with their paths in the container.
fn host_devices(device: &crate::cri::Device) -> Vec<(String, HostDevice)> {
    fn visit(host: &Path, metadata: &std::fs::Metadata, container: &str, found: &mut Vec<(String, HostDevice)>) {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let kind = metadata.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
            found.push((
                container.to_owned(),
                HostDevice {
                    block: kind.is_block_device(),
                    major: i64::from(major),
                    minor: i64::from(minor),
                    mode: metadata.mode() & 0o7777,
                    uid: metadata.uid(),
                    gid: metadata.gid(),
                },
            ));
        } else if kind.is_dir() {
            for entry in std::fs::read_dir(host).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // These have content of the container's own.
                if matches!(name.as_str(), "pts" | "ptmx" | "shm" | "fd" | "mqueue" | "console") {
                    continue;
                }
                // Links are not followed: /dev/stdin would be what this process reads from.
                if let Ok(metadata) = entry.metadata() {
                    visit(&entry.path(), &metadata, &format!("{container}/{name}"), found);
                }
            }
        }
    }
    let mut found = Vec::new();
    if let Ok(metadata) = std::fs::metadata(&device.host_path) {
        visit(Path::new(&device.host_path), &metadata, &device.container_path, &mut found);
    }
    found
}

fn devices(config: &ContainerConfig, privileged: bool) -> Result<Value, String> {
    let all = crate::cri::Device {
        container_path: "/dev".to_owned(),
        host_path: "/dev".to_owned(),
        permissions: "rwm".to_owned(),
    };
    let mut list = Vec::new();
    for device in config.devices.iter().chain(privileged.then_some(&all)) {
        let found = host_devices(device);
        if found.is_empty() && device.host_path != "/dev" {
            return Err(format!("failed to stat device {:?}: no such device on the node", device.host_path));
        }
        for (path, device) in found {
            list.push(json!({
                "path": path,
                "type": if device.block { "b" } else { "c" },
                "major": device.major,
                "minor": device.minor,
                "fileMode": device.mode,
                "uid": device.uid,
                "gid": device.gid,
            }));
        }
    }
    Ok(json!(list))
}

#[cfg(test)]
pub(super) mod tests {
    use libcontainer::oci_spec::runtime::Spec;

    use super::*;
    use crate::cri::{Int64Value, KeyValue, LinuxContainerConfig};

    fn host() -> Host {
        Host { bounding: u64::MAX, lowest_oom_score: 0, cgroup_v2: false }
    }

    pub(super) fn generated(config: &ContainerConfig, image: &ProcessConfig) -> Result<Generated, String> {
        generate(&Input {
            config,
            image,
            passwd: "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n",
            group: "extra:x:50:web\n",
            rootfs: Path::new("/r"),
            cgroup: "/p/c",
            sandbox: Path::new("/s"),
            hostname: "pod",
            target_pid: None,
            image_mounts: &[],
            host: &host(),
        })
    }

    pub(super) fn secured(security: LinuxContainerSecurityContext) -> ContainerConfig {
        ContainerConfig {
            command: vec!["x".to_owned()],
            linux: Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        }
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_pods_command_hides_the_images() {
        let image = ProcessConfig { entrypoint: list(&["e"]), cmd: list(&["c"]), ..Default::default() };
        let args = |command: &[&str], args: &[&str]| {
            let config = ContainerConfig { command: list(command), args: list(args), ..Default::default() };
            arguments(&config, &image)
        };
        assert_eq!(args(&[], &[]).unwrap(), ["e", "c"]);
        assert_eq!(args(&[], &["a"]).unwrap(), ["e", "a"]);
        assert_eq!(args(&["x"], &[]).unwrap(), ["x"]);
        assert_eq!(args(&["x"], &["a"]).unwrap(), ["x", "a"]);
        assert_eq!(
            arguments(&ContainerConfig::default(), &ProcessConfig::default()).unwrap_err(),
            "no command specified"
        );
    }

    #[test]
    fn the_pods_environment_wins() {
        let config = ContainerConfig {
            envs: vec![KeyValue { key: "A".to_owned(), value: "2=3".to_owned() }],
            ..Default::default()
        };
        let image = ProcessConfig { env: list(&["A=1", "PATH=/bin"]), ..Default::default() };
        assert_eq!(environment(&config, &image, "h"), ["PATH=/bin", "HOSTNAME=h", "A=2=3"]);
    }

    #[test]
    fn a_spec_is_read_by_libcontainer() {
        let generated =
            generated(&secured(LinuxContainerSecurityContext::default()), &ProcessConfig::default()).unwrap();
        let spec: Spec = serde_json::from_value(generated.spec).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), None);
        assert_eq!(process.oom_score_adj(), Some(0));
        assert!(spec.linux().as_ref().unwrap().masked_paths().as_ref().unwrap().contains(&"/proc/kcore".to_owned()));
    }

    #[test]
    fn users_and_groups_follow_the_policy() {
        let security = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 33 }),
            supplemental_groups: vec![7],
            ..Default::default()
        };
        let groups = |security: LinuxContainerSecurityContext| {
            generated(&secured(security), &ProcessConfig::default()).unwrap().user
        };
        assert_eq!(groups(security.clone()).groups, [34, 50, 7]);
        let strict = SupplementalGroupsPolicy::Strict as i32;
        let security = LinuxContainerSecurityContext { supplemental_groups_policy: strict, ..security };
        assert_eq!(groups(security.clone()).groups, [34, 7]);
        let security = LinuxContainerSecurityContext { run_as_group: Some(Int64Value { value: 9 }), ..security };
        assert_eq!(groups(security).gid, 9);
        let image = ProcessConfig { user: "missing".to_owned(), ..Default::default() };
        let error = generated(&secured(LinuxContainerSecurityContext::default()), &image).unwrap_err();
        assert_eq!(error, "unable to find user missing: no matching entries in passwd file");
    }

    #[test]
    fn privileged_containers_are_not_confined() {
        let security = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        let spec = generated(&secured(security), &ProcessConfig::default()).unwrap().spec;
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        assert_eq!(spec["linux"]["seccomp"], Value::Null);
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
    }
}
