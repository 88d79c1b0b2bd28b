//! The pod network, asserted on packets between network namespaces.
use crate::support::{Netns, Pod, ask_tcp, config, dual_stack, ip, on_machine, outside, run, serve_tcp};
use pintle_network::{Network, purge};
use pintle_runtime::pod_network::{Attachment, PodNetwork, PortMapping};

#[test]
fn pods_reach_each_other_the_host_and_themselves() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let (a, b) = (Pod::attach(&network, "a").await, Pod::attach(&network, "b").await);
        b.serve_tcp(80);
        let (a_ip, b_ip) = (a.ip(), b.ip());
        assert_eq!(a.netns.run(move || ask_tcp((b_ip, 80))).unwrap(), format!("b {a_ip}"));
        assert_eq!(b.netns.run(move || ask_tcp((b_ip, 80))).unwrap(), format!("b {b_ip}"));
        assert_eq!(b.netns.run(|| ask_tcp(([127, 0, 0, 1], 80))).unwrap(), "b 127.0.0.1");
        assert_eq!(ask_tcp((b_ip, 80)).unwrap(), "b 10.77.0.1");
        network.ready().await.unwrap();
    });
}

#[test]
fn both_families_are_wired() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(dual_stack(dir.path())).await.unwrap();
        let (a, b) = (Pod::attach(&network, "a").await, Pod::attach(&network, "b").await);
        b.serve_tcp(80);
        for family in 0..2 {
            let (from, to) = (a.addresses[family], b.addresses[family]);
            assert_eq!(a.netns.run(move || ask_tcp((to, 80))).unwrap(), format!("b {from}"));
            assert_eq!(ask_tcp((to, 80)).unwrap(), format!("b {}", network.gateways()[family]));
        }
    });
}

#[test]
fn traffic_that_leaves_the_cluster_carries_the_nodes_address() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let far = outside();
        serve_tcp(&far, "far", 80);
        let network = Network::open(config(dir.path())).await.unwrap();
        let pod = Pod::attach(&network, "a").await;
        assert_eq!(pod.netns.run(|| ask_tcp(([192, 0, 2, 2], 80))).unwrap(), "far 192.0.2.1");
    });
}

#[test]
fn a_host_port_leads_into_the_pod_from_everywhere() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let far = outside();
        let network = Network::open(config(dir.path())).await.unwrap();
        let mapping =
            |host_port, host_ip| PortMapping { protocol: "TCP".into(), host_port, container_port: 80, host_ip };
        let mappings = vec![mapping(8080, None), mapping(8081, Some([192, 0, 2, 1].into()))];
        let web = Pod::with_ports(&network, "web", mappings).await;
        let other = Pod::attach(&network, "other").await;
        web.serve_tcp(80);
        assert_eq!(ask_tcp(([192, 0, 2, 1], 8080)).unwrap(), "web 192.0.2.1");
        assert_eq!(ask_tcp(([127, 0, 0, 1], 8080)).unwrap(), "web 10.77.0.1");
        assert!(ask_tcp(([127, 0, 0, 1], 8081)).is_err());
        assert_eq!(far.run(|| ask_tcp(([192, 0, 2, 1], 8080))).unwrap(), "web 192.0.2.2");
        assert_eq!(far.run(|| ask_tcp(([192, 0, 2, 1], 8081))).unwrap(), "web 192.0.2.2");
        let other_ip = other.ip();
        assert_eq!(other.netns.run(|| ask_tcp(([192, 0, 2, 1], 8080))).unwrap(), format!("web {other_ip}"));
        assert_eq!(web.netns.run(|| ask_tcp(([192, 0, 2, 1], 8080))).unwrap(), "web 10.77.0.1");

        // The mapping outlives a restart, and goes with the pod.
        let network = Network::open(config(dir.path())).await.unwrap();
        assert_eq!(far.run(|| ask_tcp(([192, 0, 2, 1], 8080))).unwrap(), "web 192.0.2.2");
        network.teardown(&web.netns.path(), &web.attachment).await.unwrap();
        network.teardown(&web.netns.path(), &web.attachment).await.unwrap();
        assert!(ask_tcp(([192, 0, 2, 1], 8080)).is_err());
    });
}

#[test]
fn pods_cannot_reach_the_hosts_loopback_services_or_forge_addresses() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let pod = Pod::attach(&network, "a").await;
        let listener = std::net::UdpSocket::bind("127.0.0.1:5353").unwrap();
        let open = std::net::UdpSocket::bind("0.0.0.0:5354").unwrap();
        open.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        listener.set_nonblocking(true).unwrap();
        pod.netns.run(|| {
            run("ip", "route add 127.0.0.1/32 via 10.77.0.1 dev eth0 src 10.77.0.2 table 5");
            run("ip", "rule add pref 0 to 127.0.0.1/32 lookup 5");
            run("ip", "rule del pref 0 lookup local");
            run("ip", "rule add pref 1 lookup local");
            run("ip", "addr add 10.77.0.99/32 dev eth0");
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            let honest = std::net::UdpSocket::bind("10.77.0.2:0").unwrap();
            let forged = std::net::UdpSocket::bind("10.77.0.99:0").unwrap();
            honest.send_to(b"1", "10.77.0.1:5354").unwrap();
            honest.send_to(b"x", "127.0.0.1:5353").unwrap();
            forged.send_to(b"x", "10.77.0.1:5354").unwrap();
            honest.send_to(b"2", "10.77.0.1:5354").unwrap();
        });
        let mut buffer = [0; 16];
        for expected in [b'1', b'2'] {
            assert_eq!((open.recv(&mut buffer).unwrap(), buffer[0]), (1, expected));
        }
        assert!(listener.recv(&mut buffer).is_err());
    });
}

#[test]
fn setup_is_idempotent_and_survives_restarts() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let pod = Pod::attach(&network, "a").await;
        let gone = Pod::attach(&network, "gone").await;
        assert_eq!(network.setup(&pod.netns.path(), &pod.attachment).await.unwrap(), pod.addresses);
        // A leftover link of a crash, and a sandbox whose namespace vanished.
        ip("link add pt0123abcd000ee type veth peer name left");
        let gone_attachment = gone.attachment.clone();
        drop(gone);
        let network = Network::open(config(dir.path())).await.unwrap();
        assert_eq!(network.setup(&pod.netns.path(), &pod.attachment).await.unwrap(), pod.addresses);
        assert!(!ip("-br link").contains("000ee"));
        network.teardown("/nonexistent".as_ref(), &gone_attachment).await.unwrap();
        pod.serve_tcp(80);
        assert!(ask_tcp((pod.ip(), 80)).is_ok());
    });
}

#[test]
fn purge_leaves_nothing_and_touches_nothing_else() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        run("nft", "add table ip pintle-99999999");
        let before = (ip("-br link"), ip("route show table all"), run("nft", "list ruleset"));
        let network = Network::open(config(dir.path())).await.unwrap();
        let _pod = Pod::attach(&network, "a").await;
        drop(network);
        purge("0123abcd", &config(dir.path()).cluster_cidrs, dir.path()).await.unwrap();
        purge("0123abcd", &config(dir.path()).cluster_cidrs, dir.path()).await.unwrap();
        assert_eq!((ip("-br link"), ip("route show table all"), run("nft", "list ruleset")), before);
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    });
}

#[test]
fn bandwidth_annotations_limit_both_directions() {
    on_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let netns = Netns::new();
        let limits = [("kubernetes.io/ingress-bandwidth", "8M"), ("kubernetes.io/egress-bandwidth", "16M")];
        let mut attachment = Attachment {
            sandbox_id: "limited".into(),
            annotations: limits.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Attachment::default()
        };
        network.setup(&netns.path(), &attachment).await.unwrap();
        network.setup(&netns.path(), &attachment).await.unwrap();
        let host = run("tc", "qdisc show");
        assert!(host.contains("qdisc tbf") && host.contains("rate 8Mbit"), "{host}");
        let pod = netns.run(|| run("tc", "qdisc show dev eth0"));
        assert!(pod.contains("rate 16Mbit"), "{pod}");
        attachment.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "fast".into());
        let error = network.setup(&netns.path(), &attachment).await.unwrap_err();
        assert!(error.contains("ingress-bandwidth"), "{error}");
    });
}
