//! What clients observe of the generic registry: create, get, list, update, patch, delete.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;
use common::Server;
use pintle_apiserver::special::Specials;
use pintle_apiserver::special::identity_review::SelfSubjectReview;
use serde_json::{Value, json};
use std::sync::Arc;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}})
}

#[tokio::test]
async fn a_created_object_is_read_back_with_what_the_server_sets() {
    let server = Server::start();
    let created = server.post(MAPS, &map("a")).await;
    assert_eq!(created.status, 201);
    let created = created.json();
    let meta = &created["metadata"];
    assert_eq!((&meta["name"], &meta["namespace"]), (&json!("a"), &json!("default")));
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(server.get(&format!("{MAPS}/a")).await.ok(), created);
}

#[tokio::test]
async fn generated_names_begin_with_the_given_prefix() {
    let server = Server::start();
    let object = json!({"metadata": {"generateName": "web-"}});
    let created = server.post(MAPS, &object).await.ok();
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn failures_carry_upstreams_codes_reasons_and_messages() {
    let server = Server::start();
    server.post(MAPS, &map("a")).await.ok();
    let mut elsewhere = map("b");
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut versioned = map("b");
    versioned["metadata"]["resourceVersion"] = json!("5");
    for (answer, want) in [
        (server.post(MAPS, &map("a")).await, (409, "AlreadyExists", "configmaps \"a\" already exists")),
        (server.get(&format!("{MAPS}/no")).await, (404, "NotFound", "configmaps \"no\" not found")),
        (server.delete(&format!("{MAPS}/no")).await, (404, "NotFound", "configmaps \"no\" not found")),
        (server.put(&format!("{MAPS}/no"), &map("no")).await, (404, "NotFound", "configmaps \"no\" not found")),
        (
            server.put(&format!("{MAPS}/b"), &map("a")).await,
            (400, "BadRequest", "the name of the object (a) does not match the name on the URL (b)"),
        ),
        (
            server.post(MAPS, &elsewhere).await,
            (
                400,
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request",
            ),
        ),
        (server.post(MAPS, &versioned).await, (500, "", "resourceVersion should not be set on objects to be created")),
        (
            server.post(MAPS, &json!({"metadata": {}})).await,
            (
                422,
                "Invalid",
                "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
            ),
        ),
        (server.get("/api/v1/nothing").await, (404, "NotFound", "the server could not find the requested resource")),
        (
            server.post("/api/v1/configmaps", &map("a")).await,
            (405, "MethodNotAllowed", "the server does not allow this method on the requested resource"),
        ),
    ] {
        let (code, reason, message) = answer.failure();
        assert_eq!((code, reason.as_str(), message.as_str()), want);
    }
}

#[tokio::test]
async fn an_update_at_an_old_version_conflicts_and_one_without_version_does_not() {
    let server = Server::start();
    let uri = format!("{MAPS}/a");
    let first = server.post(MAPS, &map("a")).await.ok();
    let mut second = first.clone();
    second["data"]["key"] = json!("changed");
    let second = server.put(&uri, &second).await.ok();
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let (code, reason, message) = server.put(&uri, &first).await.failure();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    let unconditional = server.put(&uri, &map("a")).await.ok();
    assert_eq!(unconditional["data"]["key"], "value");
    assert_eq!(unconditional["metadata"]["uid"], first["metadata"]["uid"]);
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let server = Server::start();
    let first = server.post(MAPS, &map("a")).await.ok();
    let again = server.put(&format!("{MAPS}/a"), &first).await.ok();
    assert_eq!(first, again);
}

#[tokio::test]
async fn finalizers_hold_a_deleted_object_until_the_last_is_removed() {
    let server = Server::start();
    let uri = format!("{MAPS}/a");
    let mut object = map("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(MAPS, &object).await.ok();
    let deleting = server.delete(&uri).await.ok();
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    let added = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let (code, _, message) = server.merge(&uri, &added).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("no new finalizers can be added if the object is being deleted"), "{message}");
    server.merge(&uri, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(server.get(&uri).await.status, 404);
}

#[tokio::test]
async fn propagation_policies_become_finalizers() {
    let server = Server::start();
    for (policy, finalizer) in [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")] {
        server.post(MAPS, &map(finalizer)).await;
        let name = finalizer.to_lowercase();
        server.post(MAPS, &map(&name)).await;
        let uri = format!("{MAPS}/{name}");
        let deleting = server.call("DELETE", &uri, &[], json!({"propagationPolicy": policy}).to_string()).await.ok();
        assert_eq!(deleting["metadata"]["finalizers"], json!([finalizer]));
    }
    let (code, _, message) =
        server.call("DELETE", MAPS, &[], json!({"propagationPolicy": "X"}).to_string()).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("propagationPolicy: Unsupported value: \"X\""), "{message}");
}

#[tokio::test]
async fn delete_preconditions_must_hold() {
    let server = Server::start();
    let uri = format!("{MAPS}/a");
    let object = server.post(MAPS, &map("a")).await.ok();
    let wrong = json!({"preconditions": {"uid": "x"}});
    let (code, _, message) = server.call("DELETE", &uri, &[], wrong.to_string()).await.failure();
    assert_eq!(code, 409);
    assert!(message.contains("the UID in the precondition (x) does not match the UID in record"), "{message}");
    let right = json!({"preconditions": {"uid": object["metadata"]["uid"]}});
    let status = server.call("DELETE", &uri, &[], right.to_string()).await.ok();
    assert_eq!((&status["status"], &status["details"]["kind"]), (&json!("Success"), &json!("configmaps")));
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_stores_nothing() {
    let server = Server::start();
    let created = server.post(&format!("{MAPS}?dryRun=All"), &map("a")).await;
    assert_eq!((created.status.as_u16(), created.json()["metadata"].get("resourceVersion")), (201, None));
    assert_eq!(server.get(&format!("{MAPS}/a")).await.status, 404);
    server.post(MAPS, &map("a")).await.ok();
    server.delete(&format!("{MAPS}/a?dryRun=All")).await.ok();
    let changed = server.merge(&format!("{MAPS}/a?dryRun=All"), &json!({"data": {"key": "new"}})).await.ok();
    assert_eq!(changed["data"]["key"], "new");
    assert_eq!(server.get(&format!("{MAPS}/a")).await.ok()["data"]["key"], "value");
    let (code, _, message) = server.post(&format!("{MAPS}?dryRun=x"), &map("b")).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("dryRun: Unsupported value: [\"x\"]: supported values: \"All\""), "{message}");
}

#[tokio::test]
async fn lists_are_paged_in_one_snapshot() {
    let server = Server::start();
    for name in ["a", "b", "c", "d"] {
        server.post(MAPS, &map(name)).await.ok();
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = server.get(&format!("{MAPS}?limit=2")).await.ok();
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a".into(), "b".into()], &json!(2)));
    server.delete(&format!("{MAPS}/c")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"].get("continue"), None);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(first["items"][0].get("kind"), None);
    assert_eq!(names(&server.get(MAPS).await.ok()), ["a", "b", "d"]);
}

#[tokio::test]
async fn selectors_narrow_lists_and_collections_of_deletions() {
    let server = Server::start();
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut object = map(name);
        object["metadata"]["labels"] = json!({ "app": app });
        server.post(MAPS, &object).await.ok();
    }
    let count =
        async |query: &str| server.get(&format!("{MAPS}?{query}")).await.ok()["items"].as_array().unwrap().len();
    assert_eq!(count("labelSelector=app%3Dx").await, 2);
    assert_eq!(count("labelSelector=app%21%3Dx").await, 1);
    assert_eq!(count("labelSelector=app%3Dx&limit=1").await, 1);
    assert_eq!(count("fieldSelector=metadata.name%3Db").await, 1);
    server.delete(&format!("{MAPS}?labelSelector=app%3Dx")).await.ok();
    assert_eq!(count("").await, 1);
}

#[tokio::test]
async fn json_and_merge_patches_change_an_object() {
    let server = Server::start();
    let uri = format!("{MAPS}/a");
    server.post(MAPS, &map("a")).await.ok();
    let merged = server.merge(&uri, &json!({"data": {"key": null, "other": "x"}})).await.ok();
    assert_eq!(merged["data"], json!({"other": "x"}));
    let patch = json!([{"op": "replace", "path": "/data/other", "value": "y"}]).to_string();
    let patched = server.call("PATCH", &uri, &[("content-type", "application/json-patch+json")], patch).await.ok();
    assert_eq!(patched["data"], json!({"other": "y"}));
    assert_eq!(server.call("PATCH", &uri, &[("content-type", "text/plain")], "{}").await.status, 415);
}

#[tokio::test]
async fn too_large_a_body_is_refused() {
    let server = Server::start();
    let (code, reason, message) = server.call("POST", MAPS, &[], vec![b' '; (3 << 20) + 1]).await.failure();
    assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(message, "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn yaml_comes_in_and_goes_out() {
    let server = Server::start();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  n: \"1\"\n";
    let headers = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let created = server.call("POST", MAPS, &headers, yaml).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert!(created.text.contains("kind: ConfigMap"), "{}", created.text);
    assert_eq!(server.get(&format!("{MAPS}/a")).await.ok()["data"], json!({"n": "1"}));
}

#[tokio::test]
async fn events_are_forgotten_after_an_hour() {
    let server = Server::start();
    let uri = "/api/v1/namespaces/default/events";
    let event = |name: &str, last: &str| {
        let object = json!({"kind": "Pod", "name": "p", "namespace": "default"});
        json!({"metadata": {"name": name}, "involvedObject": object, "lastTimestamp": last, "type": "Normal"})
    };
    server.post(uri, &event("a", "2026-01-01T00:00:00Z")).await.ok();
    server.post(uri, &event("b", "2126-01-01T00:00:00Z")).await.ok();
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(61);
    pintle_apiserver::event_ttl::sweep(server.api.registry(), later).await.unwrap();
    assert_eq!(server.get(&format!("{uri}/a")).await.status, 404);
    server.get(&format!("{uri}/b")).await.ok();
}

#[tokio::test]
async fn a_page_whose_revision_was_compacted_away_can_be_continued_inconsistently() {
    let server = Server::start();
    for name in ["a", "b", "c"] {
        server.post(MAPS, &map(name)).await.ok();
    }
    let first = server.get(&format!("{MAPS}?limit=1")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.delete(&format!("{MAPS}/b")).await.ok();
    let store = server.api.registry().store();
    store.compact(store.revision()).await.unwrap();
    let gone = server.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    let (code, reason, message) = gone.failure();
    assert_eq!((code, reason.as_str()), (410, "Expired"));
    assert!(message.starts_with("The provided continue parameter is too old to display a consistent list result."));
    let status = gone.json();
    let token = status["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?continue={token}")).await.ok();
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");
}

#[tokio::test]
async fn an_ip_address_is_named_by_its_canonical_form() {
    let server = Server::start();
    let uri = "/apis/networking.k8s.io/v1/ipaddresses";
    let address = |name: &str| {
        let parent = json!({"resource": "services", "name": "s", "namespace": "default"});
        json!({"metadata": {"name": name}, "spec": {"parentRef": parent}})
    };
    server.post(uri, &address("fe80::42:1dff:fe84:f9e2")).await.ok();
    let (code, _, message) = server.post(uri, &address("FE80::1")).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("must be in canonical form (\"fe80::1\")"), "{message}");
}

#[tokio::test]
async fn reviews_are_not_shown_as_tables() {
    let mut specials = Specials::default();
    specials.register("authentication.k8s.io", "selfsubjectreviews", "", Arc::new(SelfSubjectReview));
    let server = Server::with_specials(specials);
    let uri = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    assert_eq!(server.call("POST", uri, &table, "{}").await.failure().0, 406);
    assert_eq!(server.call("POST", uri, &[], "{}").await.ok()["kind"], "SelfSubjectReview");
}

#[tokio::test]
async fn each_encoding_of_a_document_has_a_tag_of_its_own() {
    let server = Server::start();
    let protobuf = ("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf");
    let json = server.get("/openapi/v2").await;
    let encoded = server.call("GET", "/openapi/v2", &[protobuf], "").await;
    let tag = |answer: &common::Answer| answer.headers["etag"].to_str().unwrap().to_owned();
    assert_ne!(tag(&json), tag(&encoded));
    assert!(encoded.text.contains("dryRun"), "the paths are in it");
    let known = |known: String| {
        let server = &server;
        async move { server.call("GET", "/openapi/v2", &[protobuf, ("if-none-match", &known)], "").await.status }
    };
    assert_eq!(known(tag(&encoded)).await, 304);
    assert_eq!(known(tag(&json)).await, 200, "the tag of the other encoding");
}
