//! What clients observe of watches.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;
use common::{Events, Server};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, app: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": app}}})
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.into(), name.into())
}

#[tokio::test]
async fn a_watch_from_a_list_sees_every_later_change() {
    let server = Server::start();
    server.post(MAPS, &map("before", "x")).await.ok();
    let list = server.get(MAPS).await.ok();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = Events::open(&server, &format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    server.post(MAPS, &map("a", "x")).await.ok();
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "v"}})).await.ok();
    server.delete(&format!("{MAPS}/a")).await.ok();
    let added = events.next().await.unwrap();
    assert_eq!((&added["type"], &added["object"]["kind"]), (&json!("ADDED"), &json!("ConfigMap")));
    assert_eq!(events.brief().await, pair("MODIFIED", "a"));
    let deleted = events.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["k"]), (&json!("DELETED"), &json!("v")));
    let version =
        |event: &Value| event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&deleted) > version(&added) + 1);
}

#[tokio::test]
async fn a_watch_without_version_begins_with_what_is_there() {
    let server = Server::start();
    server.post(MAPS, &map("a", "x")).await.ok();
    let mut events = Events::open(&server, &format!("{MAPS}?watch=true")).await;
    assert_eq!(events.brief().await, pair("ADDED", "a"));
    server.post(MAPS, &map("b", "x")).await.ok();
    assert_eq!(events.brief().await, pair("ADDED", "b"));
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let server = Server::start();
    server.post(MAPS, &map("a", "x")).await.ok();
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::open(&server, &format!("{MAPS}?{query}")).await;
    assert_eq!(events.brief().await, pair("ADDED", "a"));
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn entering_and_leaving_a_selection_is_added_and_deleted() {
    let server = Server::start();
    let version = server.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let uri = format!("{MAPS}?watch=1&labelSelector=app%3Dx&resourceVersion={version}");
    let mut events = Events::open(&server, &uri).await;
    server.post(MAPS, &map("a", "y")).await.ok();
    for app in ["x", "x2", "x"] {
        server.merge(&format!("{MAPS}/a"), &json!({"metadata": {"labels": {"app": app}}})).await.ok();
    }
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "v"}})).await.ok();
    assert_eq!(events.brief().await, pair("ADDED", "a"));
    let left = events.next().await.unwrap();
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["app"]), (&json!("DELETED"), &json!("x")));
    assert_eq!(events.brief().await, pair("ADDED", "a"));
    assert_eq!(events.brief().await, pair("MODIFIED", "a"));
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_to_list_again() {
    let server = Server::start();
    server.post(MAPS, &map("a", "x")).await.ok();
    // Secrets have no ring yet that reaches back before the server started.
    let version = server.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let uri = format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=1");
    let mut events = Events::open(&server, &uri).await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn other_namespaces_are_not_seen() {
    let server = Server::start();
    let mut events = Events::open(&server, &format!("{MAPS}?watch=1")).await;
    server.post("/api/v1/namespaces/other/configmaps", &map("a", "x")).await.ok();
    server.post(MAPS, &map("b", "x")).await.ok();
    assert_eq!(events.brief().await, pair("ADDED", "b"));
}

#[tokio::test]
async fn a_watch_counts_as_running_as_long_as_somebody_reads_it() {
    let server = Server::start();
    let watch = Events::open(&server, "/api/v1/configmaps?watch=1&resourceVersion=0").await;
    let running = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"configmaps\",\
                   scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 1\n";
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains(running), "{metrics}");
    assert!(metrics.contains("authorization_attempts_total{result=\"allowed\"} 2\n"), "{metrics}");
    drop(watch);
    assert!(!server.get("/metrics").await.text.contains(running));
}
