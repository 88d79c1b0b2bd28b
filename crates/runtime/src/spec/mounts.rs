//! The mounts of a container: `/proc`, `/dev` and their like, the sandbox's files, and the pod's volumes.
use std::path::Path;

use serde_json::{Value, json};

use super::Input;
use crate::cri::{LinuxContainerSecurityContext, MountPropagation, NamespaceMode};
use crate::shim::protocol::Bind;

/// The mounts of a container.
pub(super) struct Mounts {
    pub list: Vec<Value>,
    /// Of the root file system.
    pub propagation: Option<&'static str>,
    /// What the shim prepares.
    pub binds: Vec<Bind>,
}

/// The runtime's own mounts and those that the pod asks for.
pub(super) fn mounts(security: &LinuxContainerSecurityContext, input: &Input<'_>) -> Result<Mounts, String> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let writable = if security.privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", writable]),
    ];
    if input.host.cgroup_v2 {
        list.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", writable]));
    } else {
        // Gathered by the shim.
        let cgroup = input.rootfs.with_file_name("cgroup");
        let options = if security.privileged { ["rbind", "rprivate", "rw"] } else { ["rbind", "rprivate", "rro"] };
        list.push(json!({"destination": "/sys/fs/cgroup", "type": "bind", "source": cgroup, "options": options}));
    }
    let given = |path: &str| input.config.mounts.iter().any(|mount| clean(&mount.container_path) == path);
    let bind = |destination: &str, source: &Path, options: &[&str]| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    for (name, path) in [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")] {
        if !given(path) {
            let access = if security.readonly_rootfs { "ro" } else { "rw" };
            list.push(bind(path, &input.sandbox.join(name), &["rbind", "rprivate", access]));
        }
    }
    if !given("/dev/shm") {
        let ipc = security.namespace_options.as_ref().map_or(0, |options| options.ipc);
        let shm = if ipc == NamespaceMode::Node as i32 { "/dev/shm".into() } else { input.sandbox.join("shm") };
        list.push(bind("/dev/shm", &shm, &["rbind", "rprivate", "rw"]));
    }

    // Parents before what lies in them.
    let mut images = input.image_mounts.iter();
    let mut wanted: Vec<(&crate::cri::Mount, std::path::PathBuf)> = Vec::new();
    for mount in &input.config.mounts {
        let source = match &mount.image {
            Some(_) => images.next().cloned().ok_or("an image volume was not prepared")?,
            None => mount.host_path.clone().into(),
        };
        wanted.push((mount, source));
    }
    wanted.sort_by_key(|(mount, _)| clean(&mount.container_path).matches('/').count());
    let has = |wanted: MountPropagation| input.config.mounts.iter().any(|mount| mount.propagation == wanted as i32);
    let bidirectional = has(MountPropagation::PropagationBidirectional);
    let propagation = if bidirectional {
        Some("shared")
    } else {
        has(MountPropagation::PropagationHostToContainer).then_some("slave")
    };
    let mut binds = Vec::new();
    for (mount, source) in wanted {
        // libcontainer heeds the propagation of the root only. As that is `slave` or `shared`, what shall be less has to
        // come from a mount that is less.
        let slave = mount.propagation == MountPropagation::PropagationHostToContainer as i32;
        let through = match MountPropagation::try_from(mount.propagation) {
            Ok(MountPropagation::PropagationBidirectional) => false,
            Ok(MountPropagation::PropagationHostToContainer) => bidirectional,
            Ok(MountPropagation::PropagationPrivate) | Err(_) => mount.image.is_none(),
        };
        let source = if through {
            let target = input.rootfs.with_file_name("mounts").join(binds.len().to_string());
            binds.push(Bind { source, target: target.clone(), slave });
            target
        } else {
            source
        };
        let destination = clean(&mount.container_path);
        let mut options = vec!["rbind", if mount.readonly || mount.image.is_some() { "ro" } else { "rw" }];
        if mount.recursive_read_only {
            if !mount.readonly {
                return Err(format!("recursive_read_only mount {destination:?} is not read-only"));
            }
            if mount.propagation != MountPropagation::PropagationPrivate as i32 {
                return Err(format!("recursive_read_only mount {destination:?} must have private propagation"));
            }
            options.push("rro");
        }
        list.retain(|known| known["destination"] != destination.as_str());
        list.push(bind(&destination, &source, &options));
    }
    Ok(Mounts { list, propagation, binds })
}

/// A path without doubled or trailing slashes.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{generated, secured};
    use crate::cri::{LinuxContainerSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption};
    use crate::image::store::ProcessConfig;

    #[test]
    fn mounts_of_the_pod_replace_the_runtimes_and_come_after_their_parents() {
        let mut config = secured(LinuxContainerSecurityContext {
            namespace_options: Some(NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }),
            ..Default::default()
        });
        let mount =
            |path: &str| Mount { container_path: path.to_owned(), host_path: "/x".to_owned(), ..Default::default() };
        config.mounts = vec![mount("/a/b/c/"), mount("/a"), mount("/etc/hosts")];
        let spec = generated(&config, &ProcessConfig::default()).unwrap().spec;
        let destinations: Vec<&str> =
            spec["mounts"].as_array().unwrap().iter().filter_map(|mount| mount["destination"].as_str()).collect();
        assert_eq!(destinations.iter().filter(|path| **path == "/etc/hosts").count(), 1);
        let position = |path: &str| destinations.iter().position(|known| *known == path).unwrap();
        assert!(position("/a") < position("/a/b/c"));
        let last = spec["mounts"].as_array().unwrap().last().unwrap();
        assert_eq!(last["source"], "/mounts/2");
        assert_eq!(spec["linux"]["namespaces"], json!([{"type": "mount"}, {"type": "pid"}]));
    }

    #[test]
    fn a_mount_that_is_read_only_all_the_way_down_is_private() {
        let with = |readonly: bool, propagation: MountPropagation| {
            let mut config = secured(LinuxContainerSecurityContext::default());
            let (container_path, propagation) = ("/v".to_owned(), propagation as i32);
            let mount =
                Mount { container_path, readonly, propagation, recursive_read_only: true, ..Default::default() };
            config.mounts = vec![mount];
            generated(&config, &ProcessConfig::default()).map(|generated| generated.spec)
        };
        let spec = with(true, MountPropagation::PropagationPrivate).unwrap();
        let options =
            &spec["mounts"].as_array().and_then(|mounts| mounts.last()).map_or(&Value::Null, |m| &m["options"]);
        assert_eq!(**options, json!(["rbind", "ro", "rro"]));
        assert!(with(false, MountPropagation::PropagationPrivate).unwrap_err().contains("not read-only"));
        for wrong in [MountPropagation::PropagationHostToContainer, MountPropagation::PropagationBidirectional] {
            assert!(with(true, wrong).unwrap_err().contains("must have private propagation"));
        }
    }
}
