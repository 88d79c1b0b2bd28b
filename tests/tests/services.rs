//! How applications are reached from outside.
#![allow(clippy::unwrap_used)]
use cluster_tests::{Cluster, Host, eventually, run};

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

#[test]
fn an_ingress_is_answered_by_host_and_path_with_the_certificate_of_its_secret() {
    let host = Host::new("ingress");
    let cluster = Cluster::up(&host);
    cluster.load_images(&["nginx"]);
    cluster.kubectl_ok(&["create", "deployment", "web", "--image=pintle.dev/examples/nginx:1.22"]);
    cluster.kubectl_ok(&["rollout", "status", "--timeout=120s", "deployment/web"]);
    cluster.kubectl_ok(&["expose", "deployment", "web", "--port=80"]);
    cluster.kubectl_ok(&["create", "ingress", "web", "--rule=shop.example/*=web:80,tls=shop"]);
    // It has the default class, and says where it is reached.
    let ingress = eventually("an address", || {
        let ingress = cluster.get(&["ingress", "web"]);
        ingress["status"]["loadBalancer"]["ingress"][0]["ip"].is_string().then_some(ingress)
    });
    assert_eq!(ingress["status"]["loadBalancer"]["ingress"][0]["ip"], host.address);
    assert_eq!(ingress["spec"]["ingressClassName"], "pintle");
    let [http, https] = [80, 443].map(|port| format!("shop.example:{port}:{}", host.address));
    let plain = ["--resolve", &http, "http://shop.example/"];
    eventually("an answer", || cluster.curl_with(&plain).ok());
    assert!(cluster.curl(&format!("http://{}/", host.address)).is_err(), "another host is not answered");
    // Without the Secret the default certificate is shown, and an event says why.
    eventually("the event", || {
        let events = cluster.kubectl_ok(&["get", "events", "--field-selector", "reason=NoCertificate"]);
        events.contains("there is no such Secret").then_some(())
    });
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| cluster.kubeconfig().with_file_name(name));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let subject = ["-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"];
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate];
    run(host.command("openssl").args(request).args(subject));
    let secure = ["--cacert", certificate, "--resolve", &https, "https://shop.example/"];
    assert!(cluster.curl_with(&secure).is_err(), "the default certificate is not the shop's");
    cluster.kubectl_ok(&["create", "secret", "tls", "shop", "--cert", certificate, "--key", key]);
    eventually("an answer with the shop's certificate", || cluster.curl_with(&secure).ok());
    // A new backend is taken up without a restart.
    cluster.kubectl_ok(&["scale", "deployment", "web", "--replicas=0"]);
    eventually("nobody answers", || cluster.curl_with(&plain).err());
    cluster.kubectl_ok(&["scale", "deployment", "web", "--replicas=1"]);
    eventually("an answer again", || cluster.curl_with(&plain).ok());
    cluster.reset();
}
