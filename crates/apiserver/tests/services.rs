//! Services through the registry: addresses and ports are given, kept, refused when taken, and released.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
use pintle_api::{scheme::Scheme, status::ApiError};
use pintle_apiserver::{
    bootstrap,
    context::RequestContext,
    registry::{DeleteOptions, Registry, Write},
};
use pintle_store::EmbeddedStore;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

struct Cluster {
    registry: Registry,
    cx: RequestContext,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Default::default()).unwrap();
        let stop = CancellationToken::new();
        let registry = Registry::new(Arc::new(store), Scheme::builtin(), stop.clone());
        let config = bootstrap::service::Config {
            service_cidrs: vec!["10.96.0.0/28".parse().unwrap()],
            advertise_address: "192.0.2.1".parse().unwrap(),
            port: 6443,
        };
        bootstrap::reconcile(&registry, &[]).await.unwrap();
        bootstrap::service::ensure(&registry, &config).await.unwrap();
        bootstrap::service::ensure(&registry, &config).await.unwrap();
        Cluster { registry, cx: RequestContext::system(), stop, _directory: directory }
    }

    async fn create(&self, name: &str, spec: Value) -> Result<Value, ApiError> {
        let services = self.registry.resource("", "services")?;
        let write = Write::internal(&self.cx, &services, "default");
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        Ok(self.registry.create(&write, object).await?.object)
    }

    async fn delete(&self, name: &str) {
        let services = self.registry.resource("", "services").unwrap();
        let write = Write::internal(&self.cx, &services, "default");
        self.registry.delete(&write, name, &DeleteOptions::default()).await.unwrap();
    }

    async fn names(&self, group: &str, plural: &str) -> Vec<String> {
        let resource = self.registry.resource(group, plural).unwrap();
        let list = self.registry.list(&resource, "").await.unwrap();
        list.items.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn spec(ip: &str) -> Value {
    let mut spec = json!({"selector": {"a": "b"}, "ports": [{"port": 80}]});
    if !ip.is_empty() {
        spec["clusterIP"] = ip.into();
    }
    spec
}

#[tokio::test]
async fn the_kubernetes_service_has_the_first_address() {
    let cluster = Cluster::start().await;
    let services = cluster.registry.resource("", "services").unwrap();
    let service = cluster.registry.get(&services, "default", "kubernetes").await.unwrap();
    assert_eq!(service["spec"]["clusterIPs"], json!(["10.96.0.1"]));
    assert_eq!(cluster.names("networking.k8s.io", "ipaddresses").await, ["10.96.0.1"]);
}

#[tokio::test]
async fn an_address_is_given_once_and_released_with_its_service() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.create("a", spec("10.96.0.5")).await.unwrap()["spec"]["clusterIP"], "10.96.0.5");
    let taken = cluster.create("b", spec("10.96.0.5")).await.unwrap_err();
    assert!(taken.to_string().ends_with(
        "spec.clusterIPs: Invalid value: [\"10.96.0.5\"]: failed to allocate IP 10.96.0.5: provided IP is already allocated"
    ));
    cluster.delete("a").await;
    assert!(cluster.create("b", spec("10.96.0.5")).await.is_ok());
}

#[tokio::test]
async fn a_full_range_is_told() {
    let cluster = Cluster::start().await;
    for i in 0..13 {
        cluster.create(&format!("s{i}"), spec("")).await.unwrap();
    }
    let full = cluster.create("last", spec("")).await.unwrap_err();
    assert!(full.to_string().contains("failed to allocate a serviceIP for Service \"last\": range is full"), "{full}");
}

#[tokio::test]
async fn node_ports_are_given_and_refused_when_taken() {
    let cluster = Cluster::start().await;
    let ports = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let node_port = json!({"type": "NodePort", "selector": {"a": "b"}, "ports": ports});
    let service = cluster.create("a", node_port.clone()).await.unwrap();
    let number = service["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&number));
    assert_eq!(service["spec"]["ports"][1]["nodePort"], number, "one port number, one node port");
    let mut same = node_port;
    same["ports"][0]["nodePort"] = number.into();
    let taken = cluster.create("b", same).await.unwrap_err();
    assert!(taken.to_string().ends_with("provided port is already allocated"), "{taken}");
}
