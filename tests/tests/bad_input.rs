//! What goes wrong on users' machines: each problem is one clear line, nothing is lost and nothing crashes.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Host, eventually, run, show};
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
