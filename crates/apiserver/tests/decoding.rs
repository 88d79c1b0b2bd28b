//! What clients observe of decoding, field validation, strategic patches and discovery.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;
use common::Server;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const STRATEGIC: &[(&str, &str)] = &[("content-type", "application/strategic-merge-patch+json")];

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "creationTimestamp": null},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn unknown_fields_warn_or_are_refused_as_asked() {
    let server = Server::start();
    let mut object = json!({"metadata": {"name": "a"}, "nonsense": 1});
    let warned = server.post(MAPS, &object).await;
    assert_eq!(warned.status, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"nonsense\\\"\"");
    assert_eq!(warned.json().get("nonsense"), None);
    object["metadata"]["name"] = json!("b");
    let (code, _, message) = server.post(&format!("{MAPS}?fieldValidation=Strict"), &object).await.failure();
    assert_eq!(code, 400);
    assert_eq!(
        message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"nonsense\""
    );
    let ignored = server.post(&format!("{MAPS}?fieldValidation=Ignore"), &object).await;
    assert_eq!((ignored.status.as_u16(), ignored.headers.get("warning")), (201, None));
}

#[tokio::test]
async fn a_body_of_another_kind_or_no_json_is_refused() {
    let server = Server::start();
    let (code, _, message) = server.post(MAPS, &deployment()).await.failure();
    assert_eq!(code, 400);
    assert!(message.contains("Deployment in version \"v1\" cannot be handled as a ConfigMap"), "{message}");
    let (code, _, message) = server.call("POST", MAPS, &[], "{\"a\":").await.failure();
    assert_eq!(code, 400);
    assert!(message.starts_with("the object provided is unrecognized (must be of type ConfigMap)"), "{message}");
    let (code, _, _) = server.call("POST", MAPS, &[("content-type", "text/html")], "<p>").await.failure();
    assert_eq!(code, 415);
}

#[tokio::test]
async fn a_strategic_merge_patch_merges_lists_by_key() {
    let server = Server::start();
    let created = server.post(DEPLOYMENTS, &deployment()).await.ok();
    assert_eq!(created["metadata"]["generation"], 1);
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "b:2"}]}}}});
    let patched = server.call("PATCH", &format!("{DEPLOYMENTS}/web"), STRATEGIC, patch.to_string()).await.ok();
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let images: Vec<&str> = containers.iter().map(|container| container["image"].as_str().unwrap()).collect();
    assert_eq!(images, ["a:1", "b:2"]);
    assert_eq!(patched["metadata"]["generation"], 2);
}

#[tokio::test]
async fn the_status_is_written_through_its_subresource_only() {
    let server = Server::start();
    server.post(DEPLOYMENTS, &deployment()).await.ok();
    let uri = format!("{DEPLOYMENTS}/web");
    let both = json!({"spec": {"replicas": 7}, "status": {"replicas": 3}});
    let spec = server.merge(&uri, &both).await.ok();
    assert_eq!((&spec["spec"]["replicas"], spec["status"].get("replicas")), (&json!(7), None));
    let both = json!({"spec": {"replicas": 9}, "status": {"replicas": 4, "observedGeneration": 2}});
    let status = server.merge(&format!("{uri}/status"), &both).await.ok();
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(7), &json!(4)));
    assert_eq!(status["metadata"]["generation"], spec["metadata"]["generation"]);
}

#[tokio::test]
async fn discovery_names_groups_versions_and_resources() {
    let server = Server::start();
    assert_eq!(server.get("/api").await.ok()["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.ok();
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "apps"));
    let core = server.get("/api/v1").await.ok();
    assert!(core["resources"].as_array().unwrap().iter().any(|resource| resource["name"] == "pods/log"));
    let aggregated =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")];
    let answer = server.call("GET", "/apis", &aggregated, "").await;
    assert_eq!(answer.ok()["kind"], "APIGroupDiscoveryList");
    assert!(answer.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    assert_eq!(server.get("/apis/none").await.status, 404);
}

#[tokio::test]
async fn health_version_and_metrics_answer() {
    let server = Server::start();
    assert_eq!(server.get("/livez").await.text, "ok");
    let verbose = server.get("/readyz?verbose").await.text;
    assert!(verbose.contains("[+]ping ok\n") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(server.get("/healthz/ping").await.text, "ok");
    assert_eq!(server.get("/version").await.ok()["minor"], "36");
    server.get(MAPS).await.ok();
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains(
        "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\""
    ));
}

#[tokio::test]
async fn every_answer_has_an_audit_id_and_partial_metadata_is_given_on_demand() {
    let server = Server::start();
    server.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.ok();
    let accept = [("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), ("audit-id", "x")];
    let answer = server.call("GET", &format!("{MAPS}/a"), &accept, "").await;
    assert_eq!(answer.headers["audit-id"], "x");
    let object = answer.ok();
    assert_eq!((&object["kind"], object.get("data")), (&json!("PartialObjectMetadata"), None));
}

#[tokio::test]
async fn the_scale_of_a_workload_is_read_and_written() {
    let server = Server::start();
    server.post(DEPLOYMENTS, &deployment()).await.ok();
    let uri = format!("{DEPLOYMENTS}/web/scale");
    let scale = server.get(&uri).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"], json!({"replicas": 0, "selector": "app=web"}));
    let scaled = server.merge(&uri, &json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    assert_eq!(server.get(&format!("{DEPLOYMENTS}/web")).await.ok()["metadata"]["generation"], 2);
    assert_eq!(server.put(&uri, &scale).await.status, 409);
    assert_eq!(server.merge(&uri, &json!({"spec": {"replicas": -1}})).await.status, 422);
}

#[tokio::test]
async fn a_namespace_waits_for_its_own_finalizer() {
    let server = Server::start();
    let uri = "/api/v1/namespaces/shop";
    server.post("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}})).await.ok();
    let deleting = server.delete(uri).await.ok();
    assert_eq!(deleting["status"]["phase"], "Terminating");
    let again = server.delete(uri).await.ok();
    assert_eq!(again["metadata"]["deletionTimestamp"], deleting["metadata"]["deletionTimestamp"]);
    let mut emptied = again;
    emptied["spec"] = json!({});
    server.put(&format!("{uri}/finalize"), &emptied).await.ok();
    assert_eq!(server.get(uri).await.status, 404);
}

#[tokio::test]
async fn tables_have_the_columns_of_the_kind() {
    let server = Server::start();
    server.post(DEPLOYMENTS, &deployment()).await.ok();
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let table = server.call("GET", DEPLOYMENTS, &accept, "").await.ok();
    assert_eq!(table["columnDefinitions"][1]["name"], "Ready");
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("web"), json!("0/1")]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let uri = format!("{DEPLOYMENTS}?watch=1");
    let mut events = common::Events::of(server.send("GET", &uri, &accept, "").await);
    let first = events.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    server.merge(&format!("{DEPLOYMENTS}/web"), &json!({"spec": {"replicas": 2}})).await.ok();
    let second = events.next().await.unwrap();
    assert_eq!((&second["type"], second["object"]["rows"].as_array().unwrap().len()), (&json!("MODIFIED"), 1));
    let columns = |event: &Value| event["object"]["columnDefinitions"].as_array().map_or(0, Vec::len);
    assert!(columns(&first) > 0 && columns(&second) == 0);
}

#[tokio::test]
async fn protobuf_comes_in_and_goes_out() {
    use pintle_api::{facts, protobuf};
    let server = Server::start();
    let object = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    let ty = facts::lookup("", "v1", "ConfigMap").unwrap();
    let body = protobuf::encode(&object, "v1", "ConfigMap", ty);
    let headers = [("content-type", protobuf::MEDIA_TYPE), ("accept", protobuf::MEDIA_TYPE)];
    let created = server.call("POST", MAPS, &headers, body).await;
    assert_eq!(
        (created.status.as_u16(), created.headers["content-type"].to_str().unwrap()),
        (201, protobuf::MEDIA_TYPE)
    );
    let stored = server.get(&format!("{MAPS}/a")).await.ok();
    assert_eq!(stored["data"], json!({"k": "v"}));
    let got = server.bytes("GET", &format!("{MAPS}/a"), &headers).await;
    assert_eq!(protobuf::decode(&got, ("", "")).unwrap(), stored);
    let list = server.bytes("GET", MAPS, &headers).await;
    assert_eq!(protobuf::open(&list).unwrap().1, "ConfigMapList");
    let gone = protobuf::encode(
        &json!({"propagationPolicy": "Background"}),
        "apps/v1",
        "DeleteOptions",
        facts::by_name("apimachinery.pkg.apis.meta.v1.DeleteOptions").unwrap(),
    );
    assert_eq!(server.call("DELETE", &format!("{MAPS}/a"), &headers, gone).await.status, 200);
    let missing = server.bytes("GET", &format!("{MAPS}/a"), &headers).await;
    assert_eq!(protobuf::decode(&missing, ("", "")).unwrap()["reason"], "NotFound");
}

#[tokio::test]
async fn who_reads_or_writes_endpoints_is_told_of_their_successor() {
    let server = Server::start();
    let path = "/api/v1/namespaces/default/endpoints";
    let warning = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    let created = server.post(path, &json!({"metadata": {"name": "e"}})).await;
    assert_eq!((created.status.as_u16(), &created.headers["warning"]), (201, &warning.parse().unwrap()));
    assert_eq!(server.get(&format!("{path}/e")).await.headers["warning"], warning);
    assert_eq!(server.get(path).await.headers["warning"], warning);
}

#[tokio::test]
async fn the_generation_of_a_pod_template_counts_changes_of_its_template() {
    let server = Server::start();
    let path = "/api/v1/namespaces/default/podtemplates";
    let template = json!({
        "metadata": {"name": "t"}, "template": {"spec": {"containers": [{"name": "a", "image": "a:1"}]}},
    });
    server.post(path, &template).await.ok();
    let uri = format!("{path}/t");
    let labelled = server.merge(&uri, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let changed = server.merge(&uri, &json!({"template": {"metadata": {"labels": {"a": "b"}}}})).await.ok();
    assert_eq!(changed["metadata"]["generation"], 2);
}
