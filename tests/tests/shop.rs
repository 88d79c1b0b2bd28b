//! The shop of `examples/`: a front end, a service and a database, through everything that happens to an application.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Host, eventually, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop/shop.yaml");

#[test]
fn the_shop_runs_scales_rolls_restarts_and_leaves_nothing() {
    let host = Host::new("shop");
    let cluster = Cluster::up(&host);
    cluster.load_images(&["nginx", "postgres", "python"]);
    let url = format!("http://{}:30080", host.address);
    let ns = |args: &[&str]| cluster.kubectl_ok(&[&["-n", "shop"], args].concat());

    // Deploy, and a packet is answered through front end, DNS, service and database.
    ns(&["apply", "-f", SHOP]);
    for deployment in ["db", "orders", "front"] {
        ns(&["rollout", "status", "--timeout=180s", &format!("deployment/{deployment}")]);
    }
    assert_eq!(cluster.curl(&format!("{url}/")).unwrap(), "the shop is open\n");
    let orders = eventually("the first orders", || cluster.curl(&format!("{url}/orders")).ok());
    assert!(orders.contains("gudgeon"), "{orders}");
    // kubectl sends a Secret's stringData again each time and says so; nothing changes by it.
    let again = ns(&["apply", "-f", SHOP]);
    let changed: Vec<&str> = again.lines().filter(|line| !line.ends_with("unchanged")).collect();
    assert_eq!(changed, ["secret/db configured"], "a second apply changes nothing");
    ns(&["diff", "-f", SHOP]);

    // What an operator does: logs, exec, cp, port-forward is covered by its own test.
    assert!(ns(&["logs", "deployment/orders"]).contains("GET /"));
    assert_eq!(
        ns(&["exec", "deploy/db", "--", "psql", "-U", "postgres", "shop", "-Atc", "select count(*) from orders"]),
        "3\n"
    );
    let pod = ns(&["get", "pods", "-l", "app=front", "-o", "name"]).lines().next().unwrap().replace("pod/", "");
    let copy = tempfile::tempdir().unwrap();
    let local = copy.path().join("site");
    ns(&["cp", &format!("{pod}:/etc/nginx/sites-available/default"), local.to_str().unwrap()]);
    assert!(
        std::fs::read_to_string(&local).unwrap().contains("the shop is open"),
        "the ConfigMap's key was mounted by subPath"
    );

    // Scale.
    ns(&["scale", "deployment/front", "--replicas=4"]);
    ns(&["rollout", "status", "--timeout=120s", "deployment/front"]);
    ns(&["scale", "deployment/front", "--replicas=2"]);
    eventually("two front pods", || {
        (ns(&["get", "pods", "-l", "app=front", "-o", "name"]).lines().count() == 2).then_some(())
    });

    // A rolling update and its undo lose no request.
    let load = cluster.load(&format!("{url}/"));
    ns(&["set", "env", "deployment/front", "ROUND=2"]);
    ns(&["rollout", "status", "--timeout=120s", "deployment/front"]);
    ns(&["rollout", "undo", "deployment/front"]);
    ns(&["rollout", "status", "--timeout=120s", "deployment/front"]);
    let (answered, lost) = load.stop();
    assert!(answered > 0 && lost == 0, "rolling update: {answered} answered, {lost} lost");

    // A container that is killed comes back.
    let restarts = || {
        let pods = cluster.get(&["-n", "shop", "pods", "-l", "app=orders"]);
        pods["items"][0]["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0)
    };
    let before = restarts();
    let pid = process_named("/app/orders.py").expect("the service runs");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("the container restarted", || (restarts() == before + 1).then_some(()));
    eventually("orders after the restart", || cluster.curl(&format!("{url}/orders")).ok());

    // Pintle ends, even by SIGKILL, and starts again under load: the pods serve on.
    let started = ns(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}"]);
    let load = cluster.load(&format!("{url}/"));
    kill(Pid::from_raw(cluster.pid()), Signal::SIGKILL).unwrap();
    assert!(cluster.start(&[]).status.success());
    run(&mut cluster.pintle(&["down"]));
    assert!(cluster.start(&[]).status.success());
    let (answered, lost) = load.stop();
    assert!(answered > 0 && lost == 0, "restart: {answered} answered, {lost} lost");
    let after = ns(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}"]);
    assert_eq!(started, after, "no container was restarted");

    // The database's rows outlive its pod.
    ns(&[
        "exec",
        "deploy/db",
        "--",
        "psql",
        "-U",
        "postgres",
        "shop",
        "-qc",
        "insert into orders (item) values ('tiller')",
    ]);
    ns(&["delete", "pod", "-l", "app=db", "--wait"]);
    ns(&["rollout", "status", "--timeout=120s", "deployment/db"]);
    let orders = eventually("orders after the database moved", || cluster.curl(&format!("{url}/orders")).ok());
    assert!(orders.contains("tiller"), "{orders}");

    // The namespace goes, and everything in it.
    cluster.kubectl_ok(&["delete", "namespace", "shop", "--timeout=120s"]);
    assert!(cluster.curl(&format!("{url}/")).is_err());
    eventually("the volume is reclaimed", || cluster.kubectl_ok(&["get", "pv", "-o", "name"]).is_empty().then_some(()));
    assert_eq!(process_named("/app/orders.py"), None);
    cluster.reset();
}

fn process_named(part: &str) -> Option<i32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        (cmdline.starts_with("python3") && cmdline.contains(part)).then_some(pid)
    })
}
