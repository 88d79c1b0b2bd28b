//! The Service proxy, asserted on packets.
use crate::fake_api::FakeApi;
use crate::support::{
    Netns, Pod, ask_tcp, ask_udp, ask_udp_on, config, dual_stack, ip, on_machine, outside, run, serve_tcp,
};
use pintle_network::{Config, Network};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// A machine with a pod network, a neighbour and a running proxy.
pub struct Machine {
    _dir: TempDir,
    config: Config,
    pub network: Network,
    pub api: FakeApi,
    far: Netns,
    stop: CancellationToken,
}

impl Machine {
    pub async fn start(make: fn(&std::path::Path) -> Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = make(dir.path());
        let far = outside();
        let network = Network::open(config.clone()).await.unwrap();
        let mut machine =
            Machine { _dir: dir, config, network, api: FakeApi::new(), far, stop: CancellationToken::new() };
        machine.run();
        machine
    }

    fn run(&mut self) {
        self.stop = CancellationToken::new();
        tokio::spawn(pintle_network::run(self.config.clone(), self.api.informers(&self.stop), self.stop.clone()));
    }

    fn service(&self, spec: Value) {
        let mut spec = spec;
        let address = spec["clusterIP"].as_str().unwrap().to_owned();
        spec["clusterIPs"] = json!([address]);
        self.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec}));
    }

    fn endpoints(&self, endpoints: &Value, port: u16, protocol: &str) {
        let v6 = endpoints[0]["addresses"][0].as_str().is_some_and(|address| address.contains(':'));
        self.api.put(
            SLICES,
            json!({
                "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": if v6 { "IPv6" } else { "IPv4" },
                "ports": [{"name": "", "port": port, "protocol": protocol}],
                "endpoints": endpoints,
            }),
        );
    }
}

fn on_node(pods: &[&Pod]) -> Value {
    pods.iter().map(|pod| json!({"addresses": [pod.ip()], "nodeName": "node"})).collect()
}

/// Runs `ask` until it is `Ok`, as rules follow the API some milliseconds later.
pub async fn eventually<T, F: Future<Output = io::Result<T>>>(mut ask: impl FnMut() -> F) -> T {
    let mut last = None;
    for _ in 0..1500 {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still not: {last:?}\n{}", run("nft", "list ruleset"));
}

/// Asks from the machine itself without blocking the proxy's thread.
pub async fn here<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// Asks from another namespace without blocking the proxy's thread.
pub async fn inside<T: Send + 'static>(netns: &Netns, ask: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.clone();
    here(move || netns.run(ask)).await
}

fn cluster_ip(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 78, 0, 10], port))
}

fn tcp_spec() -> Value {
    json!({"clusterIP": "10.78.0.10", "ports": [{"port": 80, "protocol": "TCP"}]})
}

#[test]
fn a_cluster_ip_answers_pods_the_host_and_its_own_endpoint() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let (a, b) = (Pod::attach(&machine.network, "a").await, Pod::attach(&machine.network, "b").await);
        b.serve_tcp(8080);
        machine.service(tcp_spec());
        machine.endpoints(&on_node(&[&b]), 8080, "TCP");
        let answer = eventually(|| inside(&a.netns, || ask_tcp(cluster_ip(80)))).await;
        assert_eq!(answer, format!("b {}", a.ip()), "the source of a pod is preserved");
        assert_eq!(here(|| ask_tcp(cluster_ip(80))).await.unwrap(), "b 10.77.0.1");
        assert_eq!(inside(&b.netns, || ask_tcp(cluster_ip(80))).await.unwrap(), "b 10.77.0.1", "hairpin");
        machine.stop.cancel();
        assert!(here(|| ask_tcp(cluster_ip(80))).await.is_ok(), "it goes on without the proxy");
    });
}

#[test]
fn traffic_is_spread_over_the_endpoints_and_follows_their_changes() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let pods = [Pod::attach(&machine.network, "a").await, Pod::attach(&machine.network, "b").await];
        for pod in &pods {
            pod.serve_tcp(8080);
        }
        machine.service(tcp_spec());
        machine.endpoints(&on_node(&[&pods[0], &pods[1]]), 8080, "TCP");
        eventually(|| here(|| ask_tcp(cluster_ip(80)))).await;
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            seen.insert(here(|| ask_tcp(cluster_ip(80))).await.unwrap());
        }
        assert_eq!(seen.len(), 2);
        machine.endpoints(&on_node(&[&pods[1]]), 8080, "TCP");
        let only_b = || here(|| (0..30).all(|_| ask_tcp(cluster_ip(80)).is_ok_and(|answer| answer.starts_with("b "))));
        eventually(|| async { only_b().await.then_some(()).ok_or(io::ErrorKind::Other.into()) }).await;
    });
}

#[test]
fn a_node_port_answers_on_every_address_of_the_node_also_localhost() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let (web, other) = (Pod::attach(&machine.network, "web").await, Pod::attach(&machine.network, "other").await);
        web.serve_tcp(8080);
        machine.service(json!({"type": "NodePort", "clusterIP": "10.78.0.10",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}));
        machine.endpoints(&on_node(&[&web]), 8080, "TCP");
        let node = || SocketAddr::from(([192, 0, 2, 1], 30080));
        assert_eq!(eventually(|| inside(&machine.far, move || ask_tcp(node()))).await, "web 10.77.0.1");
        assert!(here(move || ask_tcp(node())).await.is_ok());
        assert!(here(|| ask_tcp(([127, 0, 0, 1], 30080))).await.is_ok());
        assert!(here(|| ask_tcp(([127, 0, 0, 5], 30080))).await.is_ok());
        assert!(inside(&other.netns, move || ask_tcp(node())).await.is_ok());
        assert!(inside(&web.netns, move || ask_tcp(node())).await.is_ok());
    });
}

#[test]
fn the_external_local_policy_preserves_the_clients_address() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let (web, other) = (Pod::attach(&machine.network, "web").await, Pod::attach(&machine.network, "other").await);
        web.serve_tcp(8080);
        machine.service(json!({"type": "LoadBalancer", "clusterIP": "10.78.0.10", "externalTrafficPolicy": "Local",
            "externalIPs": ["198.51.100.7"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}));
        machine.endpoints(&on_node(&[&web]), 8080, "TCP");
        machine.far.run(|| ip("route add default via 192.0.2.1"));
        let node = || SocketAddr::from(([192, 0, 2, 1], 30080));
        assert_eq!(eventually(|| inside(&machine.far, move || ask_tcp(node()))).await, "web 192.0.2.2");
        let external = || SocketAddr::from(([198, 51, 100, 7], 80));
        assert_eq!(inside(&machine.far, move || ask_tcp(external())).await.unwrap(), "web 192.0.2.2");
        assert_eq!(inside(&other.netns, move || ask_tcp(external())).await.unwrap(), format!("web {}", other.ip()));
        // The endpoint moves to another node: outside clients are dropped, not rejected.
        machine.endpoints(&json!([{"addresses": ["10.77.9.9"], "nodeName": "elsewhere"}]), 8080, "TCP");
        eventually(|| async {
            match inside(&machine.far, move || ask_tcp(node())).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
                other => Err(io::Error::other(format!("{other:?}"))),
            }
        })
        .await;
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let pod = Pod::attach(&machine.network, "a").await;
        machine.service(json!({"type": "NodePort", "clusterIP": "10.78.0.10",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}));
        let refused = |result: io::Result<String>| match result {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(io::Error::other(format!("{other:?}"))),
        };
        eventually(|| async { refused(inside(&pod.netns, || ask_tcp(cluster_ip(80))).await) }).await;
        refused(here(|| ask_tcp(cluster_ip(80))).await).unwrap();
        refused(here(|| ask_tcp(cluster_ip(81))).await).unwrap();
        refused(inside(&machine.far, || ask_tcp(([192, 0, 2, 1], 30080))).await).unwrap();
        refused(inside(&pod.netns, || ask_tcp(([192, 0, 2, 1], 30080))).await).unwrap();
    });
}

#[test]
fn session_affinity_keeps_a_client_with_its_endpoint_also_over_a_restart() {
    on_machine(|| async {
        let mut machine = Machine::start(config).await;
        let mut pods = Vec::new();
        for name in ["a", "b", "c", "d"] {
            pods.push(Pod::attach(&machine.network, name).await);
        }
        for pod in &pods {
            pod.serve_tcp(8080);
        }
        let mut spec = tcp_spec();
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 600}});
        machine.service(spec);
        machine.endpoints(&on_node(&pods.iter().collect::<Vec<_>>()), 8080, "TCP");
        eventually(|| here(|| ask_tcp(cluster_ip(80)))).await;
        let same = || here(|| (0..20).map(|_| ask_tcp(cluster_ip(80)).unwrap()).collect::<BTreeSet<_>>());
        let before = same().await;
        assert_eq!(before.len(), 1);
        machine.stop.cancel();
        let generation = run("nft", "-j list tables");
        machine.run();
        eventually(|| async {
            let now = run("nft", "-j list tables");
            if now == generation { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        })
        .await;
        assert_eq!(same().await, before);
    });
}

#[test]
fn udp_clients_follow_to_the_new_endpoint() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let (a, b) = (Pod::attach(&machine.network, "a").await, Pod::attach(&machine.network, "b").await);
        let client = Pod::attach(&machine.network, "client").await;
        a.serve_udp(5353);
        b.serve_udp(5353);
        machine.service(json!({"clusterIP": "10.78.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}));
        machine.endpoints(&on_node(&[&a]), 5353, "UDP");
        eventually(|| inside(&client.netns, || ask_udp(cluster_ip(53)))).await;
        let socket = client.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        assert!(ask_udp_on(&socket, cluster_ip(53)).unwrap().starts_with("a "));
        machine.endpoints(&on_node(&[&b]), 5353, "UDP");
        eventually(|| {
            let socket = socket.try_clone().unwrap();
            here(move || match ask_udp_on(&socket, cluster_ip(53)) {
                Ok(answer) if answer.starts_with("b ") => Ok(()),
                other => Err(io::Error::other(format!("{other:?}"))),
            })
        })
        .await;
    });
}

#[test]
fn both_families_are_served() {
    on_machine(|| async {
        let machine = Machine::start(dual_stack).await;
        let (a, b) = (Pod::attach(&machine.network, "a").await, Pod::attach(&machine.network, "b").await);
        b.serve_tcp(8080);
        machine.service(json!({"type": "NodePort", "clusterIP": "fd00:78::10",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}));
        machine.endpoints(&json!([{"addresses": [b.addresses[1]], "nodeName": "node"}]), 8080, "TCP");
        let service: IpAddr = "fd00:78::10".parse().unwrap();
        let answer = eventually(|| inside(&a.netns, move || ask_tcp((service, 80)))).await;
        assert_eq!(answer, format!("b {}", a.addresses[1]));
        assert!(here(move || ask_tcp((service, 80))).await.is_ok());
        assert!(inside(&b.netns, move || ask_tcp((service, 80))).await.is_ok());
        let gateway = machine.network.gateways()[1];
        assert!(inside(&a.netns, move || ask_tcp((gateway, 30080))).await.is_ok());
    });
}

#[test]
fn removed_tables_come_back_and_a_deleted_service_leaves_nothing() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let pod = Pod::attach(&machine.network, "a").await;
        pod.serve_tcp(8080);
        machine.service(tcp_spec());
        machine.endpoints(&on_node(&[&pod]), 8080, "TCP");
        eventually(|| here(|| ask_tcp(cluster_ip(80)))).await;
        run("nft", "flush ruleset");
        eventually(|| here(|| ask_tcp(cluster_ip(80)))).await;
        let pods = || async {
            let tables = run("nft", "list tables");
            if tables.contains("0123abcd\n") { Ok(()) } else { Err(io::Error::other(tables)) }
        };
        eventually(pods).await;
        machine.api.delete(SERVICES, "default", "web");
        machine.api.delete(SLICES, "default", "web-1");
        eventually(|| async {
            let table = run("nft", "list table ip pintle-0123abcd-services");
            if table.contains("default/web") || table.contains("10.78.0.10") {
                return Err(io::Error::other(table));
            }
            Ok(())
        })
        .await;
    });
}

#[test]
fn a_service_leads_to_a_server_on_the_node_itself() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        let pod = Pod::attach(&machine.network, "a").await;
        let node = here(Netns::current).await;
        serve_tcp(&node, "node", 9090);
        machine.service(tcp_spec());
        machine.endpoints(&json!([{"addresses": ["10.77.0.1"], "nodeName": "node"}]), 9090, "TCP");
        let answer = eventually(|| inside(&pod.netns, || ask_tcp(cluster_ip(80)))).await;
        assert_eq!(answer, format!("node {}", pod.ip()));
        assert!(here(|| ask_tcp(cluster_ip(80))).await.is_ok());
    });
}

#[test]
fn a_restart_under_load_loses_no_request() {
    on_machine(|| async {
        let mut machine = Machine::start(config).await;
        let (web, client) = (Pod::attach(&machine.network, "web").await, Pod::attach(&machine.network, "client").await);
        web.serve_tcp(8080);
        machine.service(json!({"type": "NodePort", "clusterIP": "10.78.0.10",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}));
        machine.endpoints(&on_node(&[&web]), 8080, "TCP");
        eventually(|| inside(&client.netns, || ask_tcp(cluster_ip(80)))).await;
        let done = CancellationToken::new();
        let load = |netns: &Netns, to: SocketAddr| {
            let done = done.clone();
            netns.spawn(move || {
                let mut answers = 0;
                while !done.is_cancelled() {
                    ask_tcp(to).unwrap();
                    answers += 1;
                }
                answers
            })
        };
        let loads = [
            load(&client.netns, cluster_ip(80)),
            load(&machine.far, ([192, 0, 2, 1], 30080).into()),
            load(&Netns::current(), ([127, 0, 0, 1], 30080).into()),
        ];
        for _ in 0..5 {
            machine.stop.cancel();
            let before = run("nft", "-j list tables");
            machine.network = Network::open(machine.config.clone()).await.unwrap();
            machine.run();
            eventually(|| async {
                let tables = run("nft", "-j list tables");
                let handle = |tables: &str| tables.split("0123abcd-services").nth(1).map(str::to_owned);
                if handle(&tables) == handle(&before) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            })
            .await;
        }
        done.cancel();
        for load in loads {
            let answers = here(|| load.join().unwrap()).await;
            assert!(answers > 5, "{answers}");
        }
    });
}
