//! How applications are reached from outside.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Host, eventually};

#[test]
fn a_load_balancer_is_answered_at_the_nodes_address_and_a_port_has_one_owner() {
    let host = Host::new("balancer");
    let cluster = Cluster::up(&host);
    cluster.load_images(&["nginx"]);
    let url = format!("http://{}:8081/", host.address);
    cluster.kubectl_ok(&["create", "deployment", "web", "--image=pintle.dev/examples/nginx:1.22"]);
    cluster.kubectl_ok(&["rollout", "status", "--timeout=120s", "deployment/web"]);
    let expose = ["expose", "deployment", "web", "--type=LoadBalancer", "--port=8081", "--target-port=80"];
    cluster.kubectl_ok(&expose);
    let address = |service: &str| {
        let service = cluster.get(&["service", service]);
        service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    };
    assert_eq!(eventually("an address", || address("web")), host.address);
    eventually("an answer at the node's address", || cluster.curl(&url).ok());
    // Another Service with the same port waits, and says so.
    cluster.kubectl_ok(&[&expose[..], &["--name=second"]].concat());
    let event = eventually("the event of the second", || {
        let events = cluster.kubectl_ok(&["get", "events", "--field-selector", "involvedObject.name=second"]);
        events.contains("SyncLoadBalancerFailed").then_some(events)
    });
    assert!(event.contains("port 8081/TCP of the nodes belongs to Service default/web"), "{event}");
    assert_eq!(address("second"), None);
    // It takes over when the first is none any more.
    cluster.kubectl_ok(&["patch", "service", "web", "-p", r#"{"spec":{"type":"ClusterIP"}}"#]);
    eventually("the second has the address", || address("second"));
    eventually("the first has given it up", || address("web").is_none().then_some(()));
    eventually("an answer of the second", || cluster.curl(&url).ok());
    cluster.kubectl_ok(&["delete", "service", "second", "--timeout=60s"]);
    eventually("nobody answers", || cluster.curl(&url).err());
    cluster.reset();
}
