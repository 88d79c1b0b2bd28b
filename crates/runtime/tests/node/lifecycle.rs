//! Sandboxes and containers from start to end.
use pintle_runtime::Runtime;
use pintle_runtime::cri::{
    self, Capability, Int64Value, LinuxContainerResources, NamespaceMode, NamespaceOption, RuntimeService,
};

use crate::support::{self, Node, container, eventually, own};

pub async fn a_container_runs_logs_and_tells_its_exit_code(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "echo out; echo err >&2; exit 3").await;
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    let log = eventually(async || Some(node.log("app.log")).filter(|log| log.lines().count() == 2)).await;
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.0.clone() };
    node.runtime.remove_pod_sandbox(request).await.unwrap();
    let left = node.runtime.list_containers(cri::ListContainersRequest::default()).await.unwrap();
    assert!(left.containers.is_empty());
    assert!(std::fs::read_dir(node.directory.join("state/bundles")).unwrap().next().is_none());
    assert!(std::fs::read_dir(node.directory.join("root/snapshots")).unwrap().next().is_none());
}

pub async fn a_missing_program_is_a_start_error(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "");
    config.command = vec!["no-such-program".to_owned()];
    let id = node.create(&sandbox, config).await;
    let error = node.start(&id).await.unwrap_err();
    let text = "exec: \"no-such-program\": executable file not found in $PATH";
    assert!(error.message().contains(text), "{error}");
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
}

pub async fn stop_asks_then_kills(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let polite = node.run(&sandbox, "polite", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done").await;
    let stubborn = node.run(&sandbox, "stubborn", "trap '' TERM; echo ready; while :; do sleep 0.1; done").await;
    eventually(async || Some(()).filter(|()| node.log("polite.log").contains("ready"))).await;
    for (id, code) in [(polite, 7), (stubborn, 137)] {
        let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 1 };
        node.runtime.stop_container(request).await.unwrap();
        assert_eq!(node.status(&id).await.exit_code, code);
    }
}

pub async fn exec_sync_returns_output_and_code(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "sleep 1000").await;
    let response = node.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"], 10).await.unwrap();
    assert_eq!(response.exit_code, 5);
    assert_eq!((response.stdout.as_slice(), response.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let error = node.exec(&id, &["nothing"], 10).await.unwrap_err();
    assert!(error.message().contains("executable file not found"), "{error}");
    let error = node.exec("0123", &["true"], 10).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
}

pub async fn exec_sync_is_killed_at_its_timeout(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "sleep 1000").await;
    let error = node.exec(&id, &["sleep", "77"], 1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    eventually(async || Some(()).filter(|()| true)).await;
    let processes = eventually(async || {
        let text = node.exec_text(&id, "ps").await;
        (!text.contains("sleep 77")).then_some(text)
    });
    processes.await;
}

pub async fn the_pod_shares_its_namespaces(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let one = node.run(&sandbox, "one", "sleep 1000").await;
    let two = node.run(&sandbox, "two", "sleep 1000").await;
    for kind in ["net", "ipc", "uts"] {
        let script = format!("ls -l /proc/1/ns/{kind}");
        let link = |text: String| text.split("-> ").nth(1).map(str::to_owned);
        let (first, second) = (link(node.exec_text(&one, &script).await), link(node.exec_text(&two, &script).await));
        assert_eq!(first, second);
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(first.unwrap(), host.to_string_lossy());
    }
    assert_eq!(node.exec_text(&one, "hostname").await, "pod");
    node.exec_text(&one, "echo shared > /dev/shm/file").await;
    assert_eq!(node.exec_text(&two, "cat /dev/shm/file").await, "shared");
    assert!(node.exec_text(&one, "ps").await.lines().count() < 6);
}

pub async fn user_capabilities_and_limits_are_set(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "sleep 1000");
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    security.run_as_user = Some(Int64Value { value: 33 });
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    security.capabilities = Some(Capability { drop_capabilities: vec!["ALL".to_owned()], ..Default::default() });
    linux.resources = Some(LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: -997,
        ..Default::default()
    });
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    let status = node.exec_text(&id, "id; cat /proc/1/status /proc/self/status").await;
    assert!(status.starts_with("uid=33(web) gid=34(www) groups=34(www),50(logs)"), "{status}");
    let all = |line: &str| status.lines().filter(|known| *known == line).count();
    assert_eq!(all("NoNewPrivs:\t1"), 2, "{status}");
    assert_eq!(all("Seccomp:\t2"), 2, "{status}");
    assert_eq!(all("CapBnd:\t0000000000000000"), 2, "{status}");
    assert!(node.exec(&id, &["sh", "-c", "echo x > /file"], 10).await.unwrap().exit_code != 0);
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", pid(&node, &id).await)).unwrap();
    let memory = group.lines().find_map(|line| line.split_once(":memory:")).unwrap().1;
    let limit = std::fs::read_to_string(format!("/sys/fs/cgroup/memory{memory}/memory.limit_in_bytes")).unwrap();
    assert_eq!(limit.trim(), (64 << 20).to_string());
    assert!(memory.contains("/kubepods/pod"));

    let resources = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    let request =
        cri::UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(resources), ..Default::default() };
    node.runtime.update_container_resources(request).await.unwrap();
    let limit = std::fs::read_to_string(format!("/sys/fs/cgroup/memory{memory}/memory.limit_in_bytes")).unwrap();
    assert_eq!(limit.trim(), (96 << 20).to_string());
    let stats =
        node.runtime.container_stats(cri::ContainerStatsRequest { container_id: id }).await.unwrap().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
}

async fn pid(node: &Node, id: &str) -> u64 {
    let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let info = node.runtime.container_status(request).await.unwrap().info;
    serde_json::from_str::<serde_json::Value>(&info["info"]).unwrap()["pid"].as_u64().unwrap()
}

pub async fn a_shared_pid_namespace_is_reaped(node: Node) {
    let options = NamespaceOption { pid: NamespaceMode::Pod as i32, ..Default::default() };
    let sandbox = node.sandbox(options.clone()).await;
    let mut config = container("app", "(sleep 0.1 & ) ; sleep 1000");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    eventually(async || {
        let text = node.exec_text(&id, "ps").await;
        (!text.contains("sleep 0.1") && !text.contains("Z ")).then_some(())
    })
    .await;
    let text = node.exec_text(&id, "ps").await;
    assert!(text.contains("sleep 1000"), "{text}");
    let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    node.runtime.stop_container(request).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 137);
}

pub async fn out_of_memory_is_told(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "dd if=/dev/zero of=/dev/null bs=100M");
    config.linux.as_mut().unwrap().resources =
        Some(LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() });
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

pub async fn containers_outlive_the_runtime(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let stays = node.run(&sandbox, "stays", "while :; do echo tick; sleep 0.05; done").await;
    let ends = node.run(&sandbox, "ends", "sleep 0.5; exit 9").await;
    let Node { runtime, directory } = node;
    drop(runtime);
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    let runtime = Runtime::open(support::config(&directory)).await.unwrap();
    let node = Node { runtime, directory };
    assert_eq!(node.ended(&ends).await.exit_code, 9);
    assert_eq!(node.status(&stays).await.state, cri::ContainerState::ContainerRunning as i32);
    assert_eq!(node.exec_text(&stays, "echo here").await, "here");
    let lines = node.log("stays.log").lines().count();
    eventually(async || Some(()).filter(|()| node.log("stays.log").lines().count() > lines)).await;
    std::fs::rename(node.directory.join("logs/stays.log"), node.directory.join("logs/old.log")).unwrap();
    let request = cri::ReopenContainerLogRequest { container_id: stays };
    node.runtime.reopen_container_log(request).await.unwrap();
    eventually(async || Some(()).filter(|()| !node.log("stays.log").is_empty())).await;
}

pub async fn a_killed_shim_ends_its_pod(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "sleep 1000").await;
    let process = pid(&node, &id).await;
    let shim = node.directory.join("state/sandboxes").join(&sandbox.0).join("shim.pid");
    let shim: i32 = std::fs::read_to_string(shim).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    let gone = || {
        let state = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z")
    };
    eventually(async || Some(()).filter(|()| gone())).await;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.0.clone(), verbose: false };
    let status = node.runtime.pod_sandbox_status(request).await.unwrap().status.unwrap();
    assert_eq!(status.state, cri::PodSandboxState::SandboxNotready as i32);
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.0 };
    node.runtime.remove_pod_sandbox(request).await.unwrap();
}

pub async fn a_missing_working_directory_is_made(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "pwd; sleep 1000");
    "/made/for/me".clone_into(&mut config.working_dir);
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    eventually(async || Some(()).filter(|()| node.log("app.log").contains("/made/for/me"))).await;
    assert_eq!(node.exec_text(&id, "pwd").await, "/made/for/me");
}

pub async fn what_was_never_finished_is_removed(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let shim = node.directory.join("state/sandboxes").join(&sandbox.0).join("shim.pid");
    let shim: i32 = std::fs::read_to_string(shim).unwrap().parse().unwrap();
    // As if the runtime had been killed before it wrote the record.
    std::fs::remove_file(node.directory.join("root/sandboxes").join(format!("{}.json", sandbox.0))).unwrap();
    let Node { runtime, directory } = node;
    drop(runtime);
    let runtime = Runtime::open(support::config(&directory)).await.unwrap();
    assert!(!directory.join("state/sandboxes").join(&sandbox.0).exists());
    let list = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap();
    assert!(list.items.is_empty());
    eventually(async || {
        let state = std::fs::read_to_string(format!("/proc/{shim}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z")).then_some(())
    })
    .await;
}

pub async fn the_command_line_reaches_the_images(node: Node) {
    use pintle_runtime::image::control::{Request, ask};
    let state = node.directory.join("state");
    let images = ask(&state, &Request::List).await.unwrap();
    assert_eq!(images.len(), 1);
    let path = node.directory.join("busybox.tar");
    ask(&state, &Request::Load { path, names: Vec::new() }).await.unwrap();
    ask(&state, &Request::Remove { name: "busybox:test".to_owned() }).await.unwrap();
    assert!(ask(&state, &Request::List).await.unwrap().is_empty());
    let error = ask(&state, &Request::Remove { name: "busybox:test".to_owned() }).await.unwrap_err();
    assert!(error.to_string().contains("is not here"), "{error}");
    // Beside a running node nobody else opens the store.
    let error = pintle_runtime::image::store::ImageStore::open(&node.directory.join("root")).unwrap_err();
    assert!(error.to_string().contains("in use by a running node"), "{error}");
}

pub async fn shims_use_no_huge_pages_and_containers_may(node: Node) {
    let sandbox = node.sandbox(own()).await;
    let id = node.run(&sandbox, "app", "sleep 1000").await;
    let shim = node.directory.join("state/sandboxes").join(&sandbox.0).join("shim.pid");
    let shim = std::fs::read_to_string(shim).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    assert!(status.contains("THP_enabled:\t0"), "{status}");
    for script in ["grep THP_enabled /proc/1/status", "grep THP_enabled /proc/self/status"] {
        assert_eq!(node.exec_text(&id, script).await.trim(), "THP_enabled:\t1");
    }
}
