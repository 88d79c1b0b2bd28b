//! An extension API server behind an APIService: availability, requests, discovery.
#![allow(clippy::unwrap_used, reason = "test helpers")]
mod common;
use common::Server;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pintle_api::scheme::Scheme;
use pintle_apiserver::admission::ClusterAdmission;
use pintle_apiserver::aggregator::Aggregator;
use pintle_apiserver::registry::Registry;
use pintle_apiserver::special::Specials;
use pintle_pki::tls::{ClientAuth, server_config};
use pintle_pki::{ClusterPki, LeafSpec, Params};
use pintle_store::embedded::{EmbeddedStore, Options};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An extension server that tells what it is asked.
async fn extension(pki: &ClusterPki) -> (u16, mpsc::UnboundedReceiver<(String, HeaderMap)>) {
    let leaf = pki.leaf("extension", LeafSpec::server("x", vec!["ext.default.svc".to_owned()])).unwrap();
    let tls = server_config(leaf, pki.authority(), ClientAuth::Requested, &["http/1.1"]).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let (told, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            let (tls, told) = (tls.clone(), told.clone());
            tokio::spawn(async move {
                let stream = tls.accept(tcp).await.unwrap();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let told = told.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let answer = match path.as_str() {
                            "/apis/x.example.com/v1" => {
                                json!({"resources": [{"name": "things", "singularName": "thing",
                                "namespaced": true, "kind": "Thing", "verbs": ["get", "list"]}]})
                            }
                            "/openapi/v3" => json!({"paths": {}}),
                            _ => json!({"kind": "Thing"}),
                        };
                        told.send((path, request.headers().clone())).unwrap();
                        Ok::<_, hyper::Error>(Response::new(Full::new(bytes::Bytes::from(answer.to_string()))))
                    }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), service).await.unwrap_or_default();
            });
        }
    });
    (port, asked)
}

fn api_service(pki: &ClusterPki, port: u16) -> Value {
    use base64::Engine;
    let bundle = base64::engine::general_purpose::STANDARD.encode(pki.authority().certificate_pem());
    json!({"metadata": {"name": "v1.x.example.com"}, "spec": {"group": "x.example.com", "version": "v1",
        "groupPriorityMinimum": 2000, "versionPriority": 10, "caBundle": bundle,
        "service": {"namespace": "default", "name": "ext", "port": port}}})
}

#[tokio::test]
async fn requests_for_an_extension_servers_group_go_on_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let pki = ClusterPki::open_or_create(&directory.path().join("pki"), &Params::default()).unwrap();
    let (port, mut asked) = extension(&pki).await;
    let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
    let stop = CancellationToken::new();
    let registry = Registry::new(Arc::new(store), Scheme::builtin(), stop.clone());
    let aggregator = Aggregator::start(&registry, &pki, &stop).await.unwrap();
    let server = Server::of(
        registry.clone(),
        Specials::default(),
        Arc::new(ClusterAdmission::without_rights()),
        Some(aggregator),
        stop.clone(),
    );
    server.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.ok();
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    server.post(services, &api_service(&pki, port)).await.ok();
    let reason = |object: &Value| object["status"]["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned();
    let mut watch =
        common::Events::open(&server, &format!("{services}?watch=true&fieldSelector=metadata.name=v1.x.example.com"))
            .await;
    let mut seen = reason(&watch.next().await.unwrap()["object"]);
    while seen != "ServiceNotFound" {
        seen = reason(&watch.next().await.unwrap()["object"]);
    }
    let refused = server.get("/apis/x.example.com/v1/namespaces/default/things").await;
    assert_eq!((refused.status.as_u16(), refused.text.as_str()), (503, "service unavailable\n"));
    let service = json!({"metadata": {"name": "ext"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
    server.post("/api/v1/namespaces/default/services", &service).await.ok();
    while seen != "Passed" {
        seen = reason(&watch.next().await.unwrap()["object"]);
    }
    while asked.try_recv().is_ok() {}
    let thing = server.get("/apis/x.example.com/v1/namespaces/default/things/a").await.ok();
    assert_eq!(thing, json!({"kind": "Thing"}));
    let (path, headers) = loop {
        let (path, headers) = asked.recv().await.unwrap();
        if path.ends_with("/things/a") {
            break (path, headers);
        }
    };
    assert_eq!(
        (path.as_str(), headers["x-remote-user"].to_str().unwrap()),
        ("/apis/x.example.com/v1/namespaces/default/things/a", "admin")
    );
    assert_eq!(headers.get_all("x-remote-group").iter().count(), 2);
    let groups = server.get("/apis").await.ok();
    let last = groups["groups"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["name"], &last["preferredVersion"]["version"]), (&json!("x.example.com"), &json!("v1")));
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let document = server.call("GET", "/apis", &accept, "").await.json();
    let last = document["items"].as_array().unwrap().last().unwrap();
    assert_eq!(last["versions"][0]["resources"][0]["resource"], "things");
    assert_eq!(last["versions"][0]["freshness"], "Current");
    stop.cancel();
}
