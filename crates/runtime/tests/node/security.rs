//! What containers may not do.
use pintle_runtime::cri::{Mount, MountPropagation};

use crate::support::{Node, container, own};

/// Whether a command in a container succeeds.
async fn succeeds(node: &Node, id: &str, script: &str) -> bool {
    node.exec(id, &["sh", "-c", script], 10).await.unwrap().exit_code == 0
}

pub async fn a_container_is_confined(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "sleep 1000").await;
    for denied in [
        "mount -t tmpfs none /tmp",
        "unshare -m true",
        "unshare -U true",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore",
        "mkdir /sys/fs/cgroup/memory/x",
        "mkdir /sys/fs/cgroup/systemd/x",
        "echo 1 > /sys/kernel/mm/ksm/run",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
        "ls /proc/1/root/work",
    ] {
        assert!(!succeeds(&node, &id, denied).await, "{denied}");
    }
    assert_eq!(
        node.exec_text(&id, "readlink /proc/self/ns/mnt").await,
        node.exec_text(&id, "readlink /proc/1/ns/mnt").await
    );
    // Nothing of the host's is open in the process.
    let files = node.exec_text(&id, "ls /proc/self/fd /proc/1/fd").await;
    assert!(files.lines().all(|line| line.len() < 2 || line.starts_with("/proc")), "{files}");
    let mounts = node.exec_text(&id, "cat /proc/self/mountinfo").await;
    assert!(mounts.lines().all(|line| !line.contains(" / / rw,relatime - ext4")), "{mounts}");
    assert!(mounts.lines().next().unwrap().contains("overlay"), "{mounts}");
}

pub async fn a_privileged_container_has_the_machine(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "sleep 1000");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    for allowed in
        ["mount -t tmpfs none /tmp", "ls -l /dev/loop-control", "head -c 1 /dev/mem || true", "unshare -m true"]
    {
        assert!(succeeds(&node, &id, allowed).await, "{allowed}");
    }
}

fn mount(host: &std::path::Path, path: &str, propagation: MountPropagation, readonly: bool) -> Mount {
    Mount {
        container_path: path.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        propagation: propagation as i32,
        readonly,
        ..Default::default()
    }
}

pub async fn mounts_stay_inside_the_root(node: Node) {
    let volume = node.directory.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "content").unwrap();
    let private = MountPropagation::PropagationPrivate;
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "sleep 1000");
    config.mounts = vec![
        mount(&volume, "/var/run/secrets", private, true),
        mount(&volume, "/escape/volume", private, false),
        mount(&volume.join("file"), "/etc/deep/file", private, false),
        mount(&volume.join("made"), "/made", private, false),
    ];
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    assert_eq!(
        node.exec_text(&id, "cat /run/secrets/file /etc/volume/file /etc/deep/file").await,
        "contentcontentcontent"
    );
    assert!(!succeeds(&node, &id, "echo x > /run/secrets/file").await);
    assert!(succeeds(&node, &id, "echo x > /made/file").await);
    assert!(volume.join("made/file").exists());
    assert!(!std::path::Path::new("/etc/volume").exists() && !std::path::Path::new("/run/secrets").exists());
}

pub async fn mounts_propagate_as_asked(node: Node) {
    use nix::mount::{MntFlags, MsFlags, mount as sys_mount, umount2};
    let shared = node.directory.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let none = None::<&str>;
    sys_mount(Some(&shared), &shared, none, MsFlags::MS_BIND, none).unwrap();
    sys_mount(none, &shared, none, MsFlags::MS_SHARED, none).unwrap();
    for name in ["from-host", "from-container"] {
        std::fs::create_dir(shared.join(name)).unwrap();
    }
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "sleep 1000");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    config.mounts = vec![
        mount(&shared, "/both", MountPropagation::PropagationBidirectional, false),
        mount(&shared, "/in", MountPropagation::PropagationHostToContainer, false),
        mount(&shared, "/none", MountPropagation::PropagationPrivate, false),
    ];
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    sys_mount(Some("t"), &shared.join("from-host"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    std::fs::write(shared.join("from-host/file"), "x").unwrap();
    assert!(succeeds(&node, &id, "cat /both/from-host/file").await);
    assert!(succeeds(&node, &id, "cat /in/from-host/file").await);
    assert!(!succeeds(&node, &id, "cat /none/from-host/file").await);
    assert!(succeeds(&node, &id, "mount -t tmpfs t /both/from-container && echo x > /both/from-container/file").await);
    assert!(shared.join("from-container/file").exists());
    for name in ["from-host", "from-container"] {
        umount2(&shared.join(name), MntFlags::MNT_DETACH).unwrap();
    }
    umount2(&shared, MntFlags::MNT_DETACH).unwrap();
}
