//! A runtime in a directory of its own, with an image of busybox.
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pintle_runtime::cri::{
    self, ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, RuntimeService,
};
use pintle_runtime::image::store::ProcessConfig;
use pintle_runtime::image::{archive, pack};
use pintle_runtime::pod_network::{Attachment, PodNetwork};
use pintle_runtime::{Config, Runtime};

pub const BUSYBOX: &str = "/bin/busybox";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A pod network that leaves sandboxes with their loopback.
struct NoNetwork;

#[async_trait::async_trait]
impl PodNetwork for NoNetwork {
    async fn setup(&self, netns: &Path, _: &Attachment) -> Result<Vec<IpAddr>, String> {
        assert!(netns.exists());
        Ok(vec![IpAddr::from([10, 0, 0, 1])])
    }

    async fn teardown(&self, _: &Path, _: &Attachment) -> Result<(), String> {
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A runtime under test.
pub struct Node {
    pub runtime: Runtime,
    pub directory: PathBuf,
}

pub fn cgroup() -> String {
    format!("/pintle-test-{}", std::process::id())
}

fn base() -> PathBuf {
    std::env::temp_dir().join(format!("pintle-test-{}", std::process::id()))
}

pub fn config(directory: &Path) -> Config {
    Config {
        root: directory.join("root"),
        state: directory.join("state"),
        cgroup_parent: cgroup(),
        executable: std::env::current_exe().unwrap(),
        network: Arc::new(NoNetwork),
        registries: Default::default(),
        image_directory: None,
    }
}

impl Node {
    pub async fn new() -> Self {
        let directory = base().join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&directory).unwrap();
        let runtime = Runtime::open(config(&directory)).await.unwrap();
        let archive = directory.join("busybox.tar");
        busybox_image(&directory, &archive);
        archive::load(runtime.images(), &archive, &[]).unwrap();
        Self { runtime, directory }
    }

    /// A sandbox with the given options.
    pub async fn sandbox(&self, options: NamespaceOption) -> (String, PodSandboxConfig) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: format!("pod-{number}"),
                namespace: "default".to_owned(),
                uid: number.to_string(),
                attempt: 0,
            }),
            hostname: "pod".to_owned(),
            log_directory: self.directory.join("logs").to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/pod{number}"),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
        (id, config)
    }

    pub async fn create(&self, sandbox: &(String, PodSandboxConfig), config: ContainerConfig) -> String {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.0.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.1.clone()),
        };
        self.runtime.create_container(request).await.unwrap().container_id
    }

    pub async fn start(&self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.start_container(request).await.map(|_| ())
    }

    /// Creates and starts a container that runs a shell script.
    pub async fn run(&self, sandbox: &(String, PodSandboxConfig), name: &str, script: &str) -> String {
        let id = self.create(sandbox, container(name, script)).await;
        self.start(&id).await.unwrap();
        id
    }

    pub async fn status(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        self.runtime.container_status(request).await.unwrap().status.unwrap()
    }

    pub async fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<cri::ExecSyncResponse, tonic::Status> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        self.runtime.exec_sync(cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout }).await
    }

    pub async fn exec_text(&self, id: &str, script: &str) -> String {
        let response = self.exec(id, &["sh", "-c", script], 10).await.unwrap();
        assert_eq!(response.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&response.stderr));
        String::from_utf8(response.stdout).unwrap().trim_end().to_owned()
    }

    /// Waits until a container has ended.
    pub async fn ended(&self, id: &str) -> cri::ContainerStatus {
        eventually(async || {
            let status = self.status(id).await;
            (status.state == cri::ContainerState::ContainerExited as i32).then_some(status)
        })
        .await
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join("logs").join(name)).unwrap_or_default()
    }
}

/// Waits for something that another process does.
pub async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(value) = condition().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("what was waited for did not happen");
}

/// Every namespace its own.
pub fn own() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }
}

/// A container that runs a shell script.
pub fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: "busybox:test".to_owned(), ..Default::default() }),
        command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(own()),
                seccomp: Some(cri::SecurityProfile::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn busybox_image(directory: &Path, target: &Path) {
    let root = directory.join("busybox");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    std::fs::create_dir_all(root.join("var")).unwrap();
    symlink("/run", root.join("var/run")).unwrap();
    symlink("/../../../../../../etc", root.join("escape")).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "sleep", "id", "hostname", "ps", "ls", "dd", "true", "nc", "tail", "kill", "stty", "pwd",
        "mount", "umount", "mkdir", "unshare", "mknod", "readlink", "head",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/tmp:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nlogs:x:50:web\n").unwrap();
    let config = ProcessConfig { cmd: vec!["sh".to_owned()], ..Default::default() };
    pack::pack(&root, "busybox:test", &config, target).unwrap();
}

/// Removes what a test left.
pub fn clean_up() {
    for entry in std::fs::read_dir(base()).into_iter().flatten().flatten() {
        if let Err(error) = {
            let config = config(&entry.path());
            pintle_runtime::purge(&config.root, &config.state, &config.cgroup_parent)
        } {
            eprintln!("{error}");
        }
    }
    std::fs::remove_dir_all(base()).ok();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left = mounts.lines().filter(|line| line.contains(&*base().to_string_lossy())).count();
    assert_eq!(left, 0, "mounts are left:\n{mounts}");
    assert!(!Path::new(&format!("/sys/fs/cgroup/memory{}", cgroup())).exists(), "a group is left");
}
