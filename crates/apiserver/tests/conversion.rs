//! Custom resources whose versions are converted by a webhook, called over TLS on loopback.
#![allow(clippy::unwrap_used, reason = "test helpers")]
mod common;

use base64::Engine;
use common::{Events, Server};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pintle_pki::tls::{ClientAuth, server_config};
use pintle_pki::{Authority, Clock, Leaf, LeafSpec};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/default/widgets";
const V2: &str = "/apis/example.com/v2/namespaces/default/widgets";

/// Between `hostPort: a:1` in v1 and `host: a`, `port: "1"` in v2.
fn convert(mut object: Value, wanted: &Value) -> Value {
    if *wanted == "example.com/v2" {
        let text = object["hostPort"].as_str().unwrap_or_default().to_owned();
        let (host, port) = text.split_once(':').unwrap_or((&text, ""));
        object["host"] = host.into();
        object["port"] = port.into();
    } else {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        object["hostPort"] = format!("{}:{}", text("host"), text("port")).into();
    }
    object["apiVersion"] = wanted.clone();
    object
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap();
    let wanted = review["request"]["desiredAPIVersion"].clone();
    let objects = match review["request"]["objects"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    };
    let broken = objects.iter().any(|object| object["metadata"]["name"] == "broken");
    let result =
        if broken { json!({"status": "Failed", "message": "it is broken"}) } else { json!({"status": "Success"}) };
    let converted: Vec<Value> = objects.into_iter().map(|object| convert(object, &wanted)).collect();
    let response = json!({"uid": review["request"]["uid"], "result": result, "convertedObjects": converted});
    let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response});
    Ok(Response::new(review.to_string().into()))
}

/// Starts the webhook; its `clientConfig`.
async fn start(directory: &std::path::Path) -> Value {
    let authority = Authority::open_or_create(&directory.join("ca"), "hooks", Clock::system()).unwrap();
    let spec = LeafSpec::server("w", ["127.0.0.1".to_owned()]);
    let leaf = Leaf::open_or_create(&directory.join("leaf"), spec, &authority).unwrap();
    let tls = TlsAcceptor::from(Arc::new(server_config(leaf, &authority, ClientAuth::Requested, &[]).unwrap()));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let served = hyper::server::conn::http1::Builder::new();
                served.serve_connection(TokioIo::new(stream), service_fn(answer)).await.unwrap_or_default();
            });
        }
    });
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
    json!({"url": format!("https://127.0.0.1:{port}/convert"), "caBundle": bundle})
}

fn definition(config: &Value) -> Value {
    let schema = |fields: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        json!({"openAPIV3Schema": {"type": "object", "properties": properties}})
    };
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1"]}},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": schema(&["hostPort"])},
            {"name": "v2", "served": true, "storage": false, "schema": schema(&["host", "port"]),
             "selectableFields": [{"jsonPath": ".host"}]}]}})
}

async fn establish(server: &Server, definition: &Value) {
    let created = server.post(DEFINITIONS, definition).await.ok();
    let since = created["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = Events::open(server, &format!("{DEFINITIONS}?watch=true&resourceVersion={since}")).await;
    while !events.next().await.unwrap()["object"]["status"].to_string().contains("InitialNamesAccepted") {}
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "hostPort": "a:1"})
}

#[tokio::test]
async fn every_way_of_reading_and_writing_converts() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    establish(&server, &definition(&start(directory.path()).await)).await;
    server.post(V1, &widget("a")).await.ok();
    let one = server.get(&format!("{V2}/a")).await.ok();
    assert_eq!((&one["host"], &one["port"], one.get("hostPort")), (&json!("a"), &json!("1"), None));
    let mut watch = Events::open(&server, &format!("{V2}?watch=true")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["host"], "a");
    let second =
        json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "b"}, "host": "b", "port": "2"});
    let created = server.post(V2, &second).await.ok();
    assert_eq!((&created["apiVersion"], &created["host"]), (&json!("example.com/v2"), &json!("b")));
    assert_eq!(watch.next().await.unwrap()["object"]["host"], "b");
    assert_eq!(server.get(&format!("{V1}/b")).await.ok()["hostPort"], "b:2");
    server.merge(&format!("{V2}/a"), &json!({"port": "9"})).await.ok();
    assert_eq!(server.get(&format!("{V1}/a")).await.ok()["hostPort"], "a:9");
    let list = server.get(V2).await.ok();
    let ports: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["port"]).collect();
    assert_eq!(ports, ["9", "2"]);
    server.delete(&format!("{V2}/a")).await.ok();
}

#[tokio::test]
async fn fields_are_selected_in_the_version_that_is_asked_for() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    establish(&server, &definition(&start(directory.path()).await)).await;
    let selected = format!("{V2}?fieldSelector=host%3Da");
    let mut watch = Events::open(&server, &format!("{selected}&watch=true")).await;
    for (name, host_port) in [("a", "a:1"), ("b", "b:1")] {
        let mut widget = widget(name);
        widget["hostPort"] = json!(host_port);
        server.post(V1, &widget).await.ok();
    }
    let list = server.get(&selected).await.ok();
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["a"]);
    let mut next = async || {
        let event = watch.next().await.unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["object"]["metadata"]["name"].as_str().unwrap().to_owned())
    };
    let is = |event: &str| (event.to_owned(), "a".to_owned());
    assert_eq!(next().await, is("ADDED"));
    server.merge(&format!("{V1}/a"), &json!({"hostPort": "c:1"})).await.ok();
    assert_eq!(next().await, is("DELETED"));
    server.merge(&format!("{V1}/a"), &json!({"hostPort": "a:2"})).await.ok();
    assert_eq!(next().await, is("ADDED"));
}

#[tokio::test]
async fn a_webhook_that_fails_is_told_of() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    establish(&server, &definition(&start(directory.path()).await)).await;
    server.post(V1, &widget("broken")).await.ok();
    let failure = server.get(&format!("{V2}/broken")).await.failure();
    assert_eq!(
        (failure.0, failure.2.as_str()),
        (500, "conversion webhook for example.com/v1, Kind=Widget failed: it is broken")
    );
    assert_eq!(server.get(&format!("{V1}/broken")).await.status, 200);
}
