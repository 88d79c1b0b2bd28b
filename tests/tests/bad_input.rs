//! What goes wrong on users' machines: each problem is one clear line, nothing is lost and nothing crashes.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Disk, Host, eventually, run, show};
use std::io::{Seek, Write};

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let host = Host::new("port");
    let mut taken = host.command("python3");
    let script = "import socket, sys\ns = socket.socket()\ns.bind(('', 7443))\ns.listen()\nprint('up', flush=True)\nsys.stdin.read()";
    let mut listener = taken
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    std::io::Read::read_exact(listener.stdout.as_mut().unwrap(), &mut first).unwrap();
    let cluster = Cluster::new(&host);
    let output = cluster.start(&["--https-port", "7443"]);
    assert!(!output.status.success());
    let said = show(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("port 7443") && said.contains("--https-port"), "{said}");
    drop(listener.stdin.take());
    listener.wait().unwrap();
    assert!(cluster.start(&["--https-port", "7443"]).status.success(), "with the port free it starts");
    cluster.reset();
}

#[test]
fn a_damaged_store_is_refused_with_the_way_out() {
    let host = Host::new("damage");
    let cluster = Cluster::up(&host);
    cluster.kubectl_ok(&["create", "configmap", "needle", "--from-literal=marker=in-the-haystack"]);
    run(&mut cluster.pintle(&["down"]));
    let path = cluster.data().join("store.redb");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(15).position(|window| window == b"in-the-haystack").unwrap();
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    file.seek(std::io::SeekFrom::Start(at as u64)).unwrap();
    file.write_all(b"I").unwrap();
    drop(file);
    let said = show(&cluster.start(&[]));
    assert!(said.contains("damaged") && said.contains("Restore a snapshot"), "{said}");
    std::fs::write(&path, bytes).unwrap();
    assert!(cluster.start(&[]).status.success(), "the restored file serves");
    assert!(cluster.kubectl_ok(&["get", "configmap", "needle", "-o", "yaml"]).contains("in-the-haystack"));
    cluster.reset();
}

#[test]
fn bad_manifests_get_upstreams_words() {
    let host = Host::new("manifest");
    let cluster = Cluster::up(&host);
    let dir = tempfile::tempdir().unwrap();
    let apply = |text: &str| {
        let file = dir.path().join("manifest.yaml");
        std::fs::write(&file, text).unwrap();
        cluster.kubectl_err(&["apply", "-f", file.to_str().unwrap()])
    };
    let cases = [
        ("apiVersion: v1\nkind: Pot\nmetadata: {name: a}\n", "no matches for kind \"Pot\" in version \"v1\""),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatas: {}\n", "unknown field \"datas\""),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Valid}\n",
            "a lowercase RFC 1123 subdomain must consist of",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n", "spec.containers: Required value"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n  data: {\n", "error parsing"),
    ];
    for (manifest, expected) in cases {
        let said = apply(manifest);
        assert!(said.contains(expected), "{manifest}\nsaid: {said}\nwanted: {expected}");
    }
    assert!(cluster.kubectl_err(&["get", "pod", "absent"]).contains("pods \"absent\" not found"));
    let missing = "apiVersion: v1\nkind: Pod\nmetadata: {name: missing}\nspec: {containers: [{name: a, image: 'localhost:1/no/such:1'}]}\n";
    let file = dir.path().join("missing.yaml");
    std::fs::write(&file, missing).unwrap();
    cluster.kubectl_ok(&["apply", "-f", file.to_str().unwrap()]);
    eventually("the image's absence is said", || {
        let pod = cluster.get(&["pod", "missing"]);
        let reason =
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or("").to_owned();
        ["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()).then_some(())
    });
    cluster.reset();
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_loses_nothing() {
    let host = Host::new("full");
    let disk = Disk::new(320);
    let cluster = Cluster::below(&host, disk.path());
    assert!(cluster.start(&[]).status.success());
    let filler = disk.fill();
    let large = "x".repeat(100_000);
    let create = |n: usize| {
        cluster.kubectl(&["create", "configmap", &format!("n{n}"), "--from-literal", &format!("a={large}")]).output()
    };
    let mut acknowledged = Vec::new();
    let refused = (0..200).find_map(|n| {
        let output = create(n).unwrap();
        if !output.status.success() {
            return Some(show(&output));
        }
        acknowledged.push(format!("configmap/n{n}"));
        None
    });
    let said = refused.expect("a full disk takes no writes without end");
    assert!(said.contains("the store cannot write") && said.contains("No space left on device"), "{said}");
    let kept = |acknowledged: &[String], when: &str| {
        let names = cluster.kubectl_ok(&["get", "configmaps", "-o", "name"]);
        for name in acknowledged {
            assert!(names.lines().any(|line| line == name), "{name} is lost {when}");
        }
    };
    kept(&acknowledged, "while the disk is full");
    std::fs::remove_file(&filler).unwrap();
    let output = create(1000).unwrap();
    assert!(output.status.success(), "with room again it writes: {}", show(&output));
    acknowledged.push("configmap/n1000".into());
    run(&mut cluster.pintle(&["down"]));
    assert!(cluster.start(&[]).status.success());
    kept(&acknowledged, "after a restart");
    run(&mut cluster.pintle(&["down"]));
    let filler = disk.fill();
    let said = show(&cluster.start(&[]));
    assert!(said.lines().count() == 1 && said.contains("MiB are free on the disk"), "{said}");
    std::fs::remove_file(&filler).unwrap();
    cluster.reset();
}
