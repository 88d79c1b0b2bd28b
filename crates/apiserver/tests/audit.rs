//! What the audit log holds of requests, and what a webhook is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod common;

use common::{Events, Server};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use pintle_apiserver::Features;
use pintle_apiserver::audit::backend::Mode;
use pintle_apiserver::audit::{Audit, log, policy::Policy, webhook};
use pintle_apiserver::remote::Remote;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

fn log_to(path: PathBuf) -> log::Config {
    log::Config {
        path,
        max_age: 0,
        max_backups: 0,
        max_size: 100,
        compress: false,
        mode: Mode::Blocking,
        buffer: 100,
        size_limit: None,
    }
}

async fn audited(rules: &str, path: &Path) -> Server {
    let policy = Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}")).unwrap();
    let audit = Audit::new(policy, vec![log::start(log_to(path.to_owned())).unwrap()]);
    Server::with_features(Features { audit: Some(audit), ..Features::default() }).await
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(events: &'a [Value], uri: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["requestURI"].as_str().unwrap().starts_with(uri)).collect()
}

#[tokio::test]
async fn every_stage_of_a_request_is_one_event_of_the_same_id() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let server =
        audited("rules: [{level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}]", &path).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    let headers = [("audit-id", "mine"), ("user-agent", "test/1"), ("content-type", "application/json")];
    let answer = server.call("POST", &format!("{maps}?fieldManager=me"), &headers, map.to_string()).await;
    assert_eq!(answer.headers["audit-id"], "mine");
    let events = lines(&path);
    assert_eq!(events.len(), 2, "{events:?}");
    let (first, last) = (&events[0], &events[1]);
    assert_eq!((&first["stage"], &last["stage"]), (&json!("RequestReceived"), &json!("ResponseComplete")));
    assert_eq!(first["stageTimestamp"], first["requestReceivedTimestamp"]);
    assert_eq!((&first["auditID"], &last["auditID"]), (&json!("mine"), &json!("mine")));
    assert_eq!(last["kind"], "Event");
    assert_eq!(last["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(last["requestURI"], format!("{maps}?fieldManager=me"));
    assert_eq!(last["verb"], "create");
    assert_eq!(last["user"], json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]}));
    assert_eq!(last["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(last["userAgent"], "test/1");
    assert_eq!(
        last["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"})
    );
    assert_eq!(last["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(last["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(last["responseObject"]["metadata"]["managedFields"][0]["manager"], "me");
    assert_eq!(last["annotations"]["authorization.k8s.io/decision"], "allow");
    server.get("/api/v1/namespaces/default/secrets").await.ok();
    assert_eq!(lines(&path).len(), 2);
}

#[tokio::test]
async fn failures_are_recorded_with_their_status_and_managed_fields_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let rules = "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
                 - {level: Metadata, verbs: [get, delete]}\n- {level: RequestResponse}\n";
    let server = audited(rules, &path).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    server.post(maps, &json!({"metadata": {"name": "a"}})).await.ok();
    server.merge(&format!("{maps}/a"), &json!({"data": {"k": "v"}})).await.ok();
    assert_eq!(server.get(&format!("{maps}/b")).await.status, 404);
    server.delete(&format!("{maps}/a")).await.ok();
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    server.call("GET", &format!("{maps}?limit=1"), &protobuf, "").await;
    let events = lines(&path);
    let patched = of(&events, &format!("{maps}/a"))[0];
    assert_eq!(patched["requestObject"], json!({"data": {"k": "v"}}));
    assert!(patched["responseObject"]["metadata"]["managedFields"].is_null());
    let missing = of(&events, &format!("{maps}/b"))[0];
    assert_eq!(missing["responseStatus"]["reason"], "NotFound");
    assert_eq!(missing["responseStatus"]["message"], "configmaps \"b\" not found");
    assert!(missing["responseObject"].is_null());
    let deleted = of(&events, &format!("{maps}/a"))[1];
    assert_eq!(deleted["responseStatus"]["status"], "Success");
    let listed = of(&events, &format!("{maps}?limit"))[0];
    assert_eq!(listed["responseObject"]["kind"], "ConfigMapList");
}

#[tokio::test]
async fn a_watch_is_complete_when_nobody_reads_it_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let server = audited("rules: [{level: Metadata, verbs: [watch]}, {level: Metadata, users: [flush]}]", &path).await;
    let watch = Events::open(&server, "/api/v1/configmaps?watch=1&resourceVersion=0").await;
    let stages =
        |events: Vec<Value>| events.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(stages(lines(&path)), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    tokio::task::yield_now().await;
    server.api.close().await;
    assert_eq!(stages(lines(&path)), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn policies_with_the_action_audit_annotate_the_event() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let rules = "omitStages: [RequestReceived]\nrules: [{level: Metadata}]";
    let server = audited(rules, &path).await;
    let labels = json!({"pod-security.kubernetes.io/audit": "restricted"});
    server.merge("/api/v1/namespaces/default", &json!({"metadata": {"labels": labels}})).await.ok();
    server.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    let events = lines(&path);
    let annotations = &of(&events, "/api/v1/namespaces/default/pods")[0]["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let violations = annotations["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(
        violations.starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation"),
        "{violations}"
    );
}

#[tokio::test]
async fn a_webhook_is_sent_batches() {
    let (sent, mut received) = mpsc::channel(10);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let sent = sent.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                sent.send(serde_json::from_slice::<Value>(&body).unwrap()).await.unwrap();
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(bytes::Bytes::from_static(b"{}"))))
            }
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
    });
    let remote = Remote::at(&format!("http://{address}/events"), None).unwrap();
    let config = webhook::Config {
        mode: Mode::Batch,
        buffer: 100,
        batch: 400,
        wait: Duration::from_secs(600),
        throttle: None,
        backoff: Duration::from_secs(1),
        size_limit: None,
    };
    let policy =
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, resources: [{resources: [pods]}]}]";
    let audit = Audit::new(Policy::parse(policy).unwrap(), vec![webhook::start(remote, config)]);
    let server = Server::with_features(Features { audit: Some(audit), ..Features::default() }).await;
    server.get("/api/v1/pods").await.ok();
    server.api.close().await;
    let list = received.recv().await.unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(list["items"][1]["stage"], "ResponseComplete");
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("apiserver_audit_event_total 2\n"), "{metrics}");
}
