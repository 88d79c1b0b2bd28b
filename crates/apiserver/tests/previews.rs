//! Alpha and beta APIs where they are switched on: one place in the store, fields of each version, warnings.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;

use common::Server;
use pintle_api::features::FeatureGates;
use pintle_api::runtime_config::RuntimeConfig;
use pintle_api::scheme::Scheme;
use pintle_apiserver::admission::ClusterAdmission;
use pintle_apiserver::registry::Registry;
use pintle_apiserver::special::Specials;
use pintle_store::embedded::{EmbeddedStore, Options};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

async fn server(apis: &str) -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
    let stop = CancellationToken::new();
    let scheme = Scheme::served(&RuntimeConfig::parse(apis).unwrap(), &FeatureGates::default());
    let registry = Registry::new(Arc::new(store), scheme, stop.clone());
    let admission = Arc::new(ClusterAdmission::without_rights());
    let server = Server::of(registry, Specials::default(), admission, None, stop);
    server.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.ok();
    (server, directory)
}

fn claims(version: &str) -> String {
    format!("/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims")
}

#[tokio::test]
async fn a_claim_is_the_same_object_in_each_version() {
    let (server, _directory) = server("resource.k8s.io/v1beta1=true,resource.k8s.io/v1beta2=true").await;
    let claim =
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "a", "deviceClassName": "d"}]}}});
    let created = server.post(&claims("v1beta1"), &claim).await;
    let warning = created.headers["warning"].to_str().unwrap();
    assert!(
        warning.contains("resource.k8s.io/v1beta1 ResourceClaim is deprecated in v1.35+, unavailable in v1.38+"),
        "{warning}"
    );
    let flat = json!({"name": "a", "deviceClassName": "d", "allocationMode": "ExactCount", "count": 1});
    assert_eq!(created.ok()["spec"]["devices"]["requests"][0], flat);
    let nested = json!({"name": "a", "exactly": {"deviceClassName": "d", "allocationMode": "ExactCount", "count": 1}});
    for version in ["v1", "v1beta2"] {
        let read = server.get(&format!("{}/c", claims(version))).await.ok();
        assert_eq!(read["spec"]["devices"]["requests"][0], nested);
        assert_eq!(read["apiVersion"], format!("resource.k8s.io/{version}"));
    }
    let list = server.get(&claims("v1beta1")).await.ok();
    assert_eq!((&list["items"][0]["spec"]["devices"]["requests"][0], list["items"][0].get("kind")), (&flat, None));
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains(
        "apiserver_requested_deprecated_apis{group=\"resource.k8s.io\",removed_release=\"1.38\",\
         resource=\"resourceclaims\",subresource=\"\",version=\"v1beta1\"} 1"
    ));
}

#[tokio::test]
async fn a_claim_of_an_older_version_is_judged_as_the_stored_one() {
    let (server, _directory) = server("api/beta=true").await;
    let claim = json!({"metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "a", "deviceClassName": "d", "count": -1}]}}});
    let (code, reason, message) = server.post(&claims("v1beta1"), &claim).await.failure();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.contains("spec.devices.requests[0].exactly.count"), "{message}");
}

#[tokio::test]
async fn what_is_not_switched_on_is_not_there() {
    let (server, _directory) = server("").await;
    assert_eq!(server.get(&claims("v1beta1")).await.status, 404);
    let groups: Value = server.get("/apis/resource.k8s.io").await.ok();
    assert_eq!(groups["versions"].as_array().unwrap().len(), 1);
}
