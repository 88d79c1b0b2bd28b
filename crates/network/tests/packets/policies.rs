//! NetworkPolicy, asserted on packets.
use crate::services::{Machine, eventually, here, inside};
use crate::support::{Pod, ask_tcp, config};
use serde_json::{Value, json};
use std::io;

use crate::support::on_machine;

const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";

fn announce(machine: &Machine, pod: &Pod, app: &str) {
    machine.api.put("/api/v1/pods", json!({
        "metadata": {"namespace": "default", "name": pod.attachment.name, "labels": {"app": app}},
        "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": pod.ip()}]},
    }));
}

fn policy(machine: &Machine, spec: &Value) {
    machine.api.put(POLICIES, json!({"metadata": {"namespace": "default", "name": "p"}, "spec": spec}));
}

fn timed_out(result: io::Result<String>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

#[test]
fn an_isolated_pod_gets_only_what_a_policy_admits() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        machine.api.put("/api/v1/namespaces", json!({"metadata": {"name": "default"}}));
        let (web, friend) = (Pod::attach(&machine.network, "web").await, Pod::attach(&machine.network, "friend").await);
        let stranger = Pod::attach(&machine.network, "stranger").await;
        for (pod, app) in [(&web, "web"), (&friend, "friend"), (&stranger, "stranger")] {
            announce(&machine, pod, app);
        }
        web.serve_tcp(80);
        web.serve_tcp(81);
        let to = web.ip();
        let ask = |pod: &Pod, port: u16| {
            let netns = pod.netns.clone();
            async move { inside(&netns, move || ask_tcp((to, port))).await }
        };
        ask(&stranger, 80).await.unwrap();
        policy(
            &machine,
            &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": "http"}]}]}),
        );
        eventually(|| async { timed_out(ask(&stranger, 80).await) }).await;
        ask(&friend, 80).await.unwrap();
        timed_out(ask(&friend, 81).await).unwrap();
        ask(&web, 81).await.unwrap();
        here(move || ask_tcp((to, 80))).await.unwrap();
        // A pod becomes a friend by its labels.
        announce(&machine, &stranger, "friend");
        eventually(|| ask(&stranger, 80)).await;
        machine.api.delete(POLICIES, "default", "p");
        eventually(|| ask(&friend, 81)).await;
    });
}

#[test]
fn egress_is_limited_also_towards_the_node() {
    on_machine(|| async {
        let machine = Machine::start(config).await;
        machine.api.put("/api/v1/namespaces", json!({"metadata": {"name": "default"}}));
        let (web, client) = (Pod::attach(&machine.network, "web").await, Pod::attach(&machine.network, "client").await);
        announce(&machine, &web, "web");
        announce(&machine, &client, "client");
        web.serve_tcp(80);
        let node = here(crate::support::Netns::current).await;
        crate::support::serve_tcp(&node, "node", 9090);
        let to = web.ip();
        let ask_node = || inside(&client.netns, || ask_tcp(([10, 77, 0, 1], 9090)));
        ask_node().await.unwrap();
        policy(
            &machine,
            &json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}),
        );
        eventually(|| async { timed_out(ask_node().await) }).await;
        inside(&client.netns, move || ask_tcp((to, 80))).await.unwrap();
        policy(&machine, &json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]}));
        eventually(|| async { timed_out(inside(&client.netns, move || ask_tcp((to, 80))).await) }).await;
    });
}
