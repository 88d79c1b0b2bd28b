//! Admission webhooks, called over TLS on loopback.
#![allow(clippy::unwrap_used, reason = "test helpers")]
mod common;

use base64::Engine;
use common::{Answer, Server};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pintle_pki::tls::{ClientAuth, server_config};
use pintle_pki::{Authority, Clock, Leaf, LeafSpec};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Answers = Arc<dyn Fn(&str, &Value) -> Value + Send + Sync>;

/// A webhook server; what it answers depends on the path and the review's request.
struct Hook {
    port: u16,
    bundle: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    _directory: tempfile::TempDir,
}

impl Hook {
    async fn start(answers: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(&directory.path().join("ca"), "hooks", Clock::system()).unwrap();
        let names = ["127.0.0.1", "w.default.svc"].map(str::to_owned);
        let leaf =
            Leaf::open_or_create(&directory.path().join("leaf"), LeafSpec::server("w", names), &authority).unwrap();
        let tls = TlsAcceptor::from(Arc::new(server_config(leaf, &authority, ClientAuth::Requested, &[]).unwrap()));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, log): (Answers, _) = (Arc::new(answers), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                let (tls, answers, log) = (tls.clone(), answers.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service =
                        service_fn(move |request: Request<Incoming>| answer(request, answers.clone(), log.clone()));
                    let served = hyper::server::conn::http1::Builder::new();
                    served.serve_connection(TokioIo::new(stream), service).await.unwrap_or_default();
                });
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
        Hook { port, bundle, asked, _directory: directory }
    }

    /// A webhook at `path` of this server for config maps.
    fn webhook(&self, path: &str) -> Value {
        json!({
            "name": format!("{path}.example.com"),
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{path}", self.port), "caBundle": self.bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        })
    }

    fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock();
        let is_probe = |request: &Value| request["name"].as_str().is_some_and(|name| name.starts_with("probe-"));
        let meant = asked.iter().filter(|(at, request)| at.trim_matches('/') == path && !is_probe(request));
        meant.map(|(_, request)| request.clone()).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    log: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&review["kind"], &review["apiVersion"]), (&json!("AdmissionReview"), &json!("admission.k8s.io/v1")));
    log.lock().push((path.clone(), review["request"].clone()));
    let mut response = answers(&path, &review["request"]);
    if response == json!("hang") {
        std::future::pending::<()>().await;
    }
    response["uid"] = review["request"]["uid"].clone();
    let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
    Ok(Response::new(review.to_string().into()))
}

fn allow() -> Value {
    json!({"allowed": true})
}

fn patch(operations: &Value) -> Value {
    let encoded = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": encoded})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Registers webhooks, and waits until they are in force: `probe` is one among them that refuses dry runs of `probe`.
async fn register(server: &Server, hook: &Hook, kind: &str, webhooks: &[Value]) {
    let plural = format!("{}s", kind.to_lowercase());
    let mut all = webhooks.to_vec();
    // Of its own name: the probe of a configuration that is in force already says nothing about this one.
    let probed = format!("probe-{plural}");
    let mut probe = hook.webhook("probe");
    let expression = format!("request.name == '{probed}' && request.dryRun");
    probe["matchConditions"] = json!([{"name": "probe", "expression": expression}]);
    all.push(probe);
    let object = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": format!("test-{}", kind.to_lowercase())}, "webhooks": all});
    server.post(&format!("/apis/admissionregistration.k8s.io/v1/{plural}"), &object).await.ok();
    let probe_map = json!({"metadata": {"name": probed}, "data": {"p": "q"}});
    loop {
        let answer = server.post(&format!("{MAPS}?dryRun=All"), &probe_map).await;
        if answer.text.contains("probe.example.com") {
            return;
        }
        assert!(answer.status.is_success(), "{}", answer.text);
        tokio::task::yield_now().await;
    }
}

async fn create(server: &Server, name: &str) -> Answer {
    server.post(MAPS, &json!({"metadata": {"name": name}, "data": {"a": "b"}})).await
}

fn with_probe(
    answers: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
) -> impl Fn(&str, &Value) -> Value + Send + Sync + 'static {
    move |path, request| match path {
        "/probe" => json!({"allowed": false, "status": {"message": "in force"}}),
        path => answers(path, request),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validating_webhook_refuses_with_its_message_and_sees_the_request() {
    let server = Server::admitting().await;
    let hook = Hook::start(with_probe(|_, request| match request["name"].as_str() {
        Some("bad") => json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "no"}}),
        Some("mute") => json!({"allowed": false}),
        _ => json!({"allowed": true, "warnings": ["careful"]}),
    }))
    .await;
    register(&server, &hook, "ValidatingWebhookConfiguration", &[hook.webhook("check")]).await;
    let good = create(&server, "good").await;
    good.ok();
    assert!(good.headers["warning"].to_str().unwrap().contains("careful"));
    let (code, reason, message) = create(&server, "bad").await.failure();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(message, r#"admission webhook "check.example.com" denied the request: no"#);
    let (code, _, message) = create(&server, "mute").await.failure();
    assert_eq!(code, 400);
    assert_eq!(message, r#"admission webhook "check.example.com" denied the request without explanation"#);
    server.delete(&format!("{MAPS}/good")).await.ok();
    let asked = hook.asked("check");
    let first = &asked[0];
    assert_eq!(first["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(first["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&first["operation"], &first["namespace"]), (&json!("CREATE"), &json!("default")));
    assert_eq!(first["userInfo"]["username"], "admin");
    assert_eq!(first["object"]["data"]["a"], "b");
    assert_eq!(first["oldObject"], Value::Null);
    let last = asked.last().unwrap();
    assert_eq!((&last["operation"], &last["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(last["oldObject"]["metadata"]["name"], "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_webhooks_patch_in_order_and_are_asked_again_if_they_want() {
    let server = Server::admitting().await;
    let hook = Hook::start(with_probe(|path, request| {
        let data = &request["object"]["data"];
        match path {
            "/first" if data["first"].is_null() => patch(&json!([{"op": "add", "path": "/data/first", "value": "1"}])),
            "/second" if data["first"] == "1" && data["second"].is_null() => {
                patch(&json!([{"op": "add", "path": "/data/second", "value": "2"}]))
            }
            _ => allow(),
        }
    }))
    .await;
    let mut first = hook.webhook("first");
    first["reinvocationPolicy"] = json!("IfNeeded");
    register(&server, &hook, "MutatingWebhookConfiguration", &[first, hook.webhook("second")]).await;
    let data = create(&server, "m").await.ok()["data"].clone();
    assert_eq!(data, json!({"a": "b", "first": "1", "second": "2"}));
    assert_eq!(hook.asked("first").len(), 2);
    assert_eq!(hook.asked("second").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_asked_fails_as_its_policy_says() {
    let server = Server::admitting().await;
    let hook = Hook::start(with_probe(|path, _| if path == "/hang" { json!("hang") } else { allow() })).await;
    let only = |mut webhook: Value, name: &str| {
        webhook["matchConditions"] = json!([{"name": "only", "expression": format!("request.name == '{name}'")}]);
        webhook
    };
    let mut untrusted = only(hook.webhook("untrusted"), "untrusted");
    let other = Hook::start(|_, _| allow()).await;
    untrusted["clientConfig"]["caBundle"] = json!(other.bundle);
    let mut ignored = only(hook.webhook("ignored"), "ignored");
    ignored["clientConfig"]["caBundle"] = json!(other.bundle);
    ignored["failurePolicy"] = json!("Ignore");
    let mut hang = only(hook.webhook("hang"), "hang");
    hang["timeoutSeconds"] = json!(1);
    let mut gone = only(hook.webhook("gone"), "gone");
    gone["clientConfig"] = json!({"service": {"name": "none", "namespace": "default"}, "caBundle": hook.bundle});
    register(&server, &hook, "ValidatingWebhookConfiguration", &[untrusted, ignored, hang, gone]).await;
    create(&server, "ignored").await.ok();
    let (code, reason, message) = create(&server, "untrusted").await.failure();
    assert_eq!((code, reason.as_str()), (500, "InternalError"));
    let want =
        r#"Internal error occurred: failed calling webhook "untrusted.example.com": failed to call webhook: Post "#;
    assert!(message.starts_with(want), "{message}");
    let (_, _, message) = create(&server, "hang").await.failure();
    assert!(message.contains("/hang?timeout=1s\": context deadline exceeded"), "{message}");
    let (_, _, message) = create(&server, "gone").await.failure();
    assert!(
        message.contains("Post \"https://none.default.svc:443/?timeout=10s\": service \"none\" not found"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_called_under_its_cluster_name() {
    let server = Server::admitting().await;
    let hook = Hook::start(with_probe(|_, request| match request["name"].as_str() {
        Some("bad") => json!({"allowed": false, "status": {"message": "by service"}}),
        _ => allow(),
    }))
    .await;
    let service = json!({"metadata": {"name": "w"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    server.post("/api/v1/namespaces/default/services", &service).await.ok();
    let mut webhook = hook.webhook("service");
    let service = json!({"name": "w", "namespace": "default", "port": hook.port, "path": "/service"});
    webhook["clientConfig"] = json!({"service": service, "caBundle": hook.bundle});
    register(&server, &hook, "ValidatingWebhookConfiguration", &[webhook]).await;
    let (_, _, message) = create(&server, "bad").await.failure();
    assert_eq!(message, r#"admission webhook "service.example.com" denied the request: by service"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_dry_runs_and_configurations_themselves() {
    let server = Server::admitting().await;
    let hook = Hook::start(with_probe(|_, _| json!({"allowed": false, "status": {"message": "no"}}))).await;
    let mut chosen = hook.webhook("chosen");
    chosen["objectSelector"] = json!({"matchLabels": {"check": "me"}});
    let mut elsewhere = hook.webhook("elsewhere");
    elsewhere["namespaceSelector"] = json!({"matchLabels": {"no": "such"}});
    let mut everything = hook.webhook("everything");
    everything["rules"] = json!([{"operations": ["*"], "apiGroups": ["admissionregistration.k8s.io"],
        "apiVersions": ["*"], "resources": ["*"]}]);
    register(&server, &hook, "ValidatingWebhookConfiguration", &[chosen, elsewhere, everything]).await;
    create(&server, "free").await.ok();
    let labelled = json!({"metadata": {"name": "l", "labels": {"check": "me"}}});
    assert!(server.post(MAPS, &labelled).await.failure().2.contains("chosen.example.com"));
    let path =
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/test-validatingwebhookconfiguration";
    server.delete(path).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_that_do_not_compile_are_refused() {
    let server = Server::admitting().await;
    let hook = Hook::start(|_, _| allow()).await;
    let mut webhook = hook.webhook("x");
    webhook["matchConditions"] = json!([{"name": "bad", "expression": "... [] bad expression"}]);
    let object = json!({"metadata": {"name": "bad"}, "webhooks": [webhook]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let (code, _, message) = server.post(path, &object).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{message}");
    assert!(message.contains("compilation failed: ERROR: <input>:1:"), "{message}");
}

/// The webhook at `path` for `resources` of all groups.
fn about(hook: &Hook, path: &str, resources: &[&str]) -> Value {
    let mut webhook = hook.webhook(path);
    webhook["rules"] = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}]);
    webhook
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_through_subresources_is_admitted_as_what_it_is() {
    let hook = Hook::start(with_probe(|path, request| match (path, request["subResource"].as_str()) {
        ("/mutate", Some("scale")) => patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 7}])),
        ("/mutate", Some("binding")) => {
            patch(&json!([{"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}}]))
        }
        ("/refuse", Some("eviction")) => {
            json!({"allowed": false, "status": {"message": "no"}, "warnings": ["think again"]})
        }
        _ => allow(),
    }))
    .await;
    let server = Server::admitting().await;
    let account = json!({"metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", &account).await.ok();
    let resources = ["pods/binding", "pods/eviction", "*/scale"];
    register(&server, &hook, "MutatingWebhookConfiguration", &[about(&hook, "mutate", &resources)]).await;
    register(&server, &hook, "ValidatingWebhookConfiguration", &[about(&hook, "refuse", &resources)]).await;

    let pods = "/api/v1/namespaces/default/pods";
    let container = json!({"name": "c", "image": "i"});
    server.post(pods, &json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{pods}/p/binding"), &binding).await.ok();
    let pod = server.get(&format!("{pods}/p")).await.ok();
    assert_eq!((&pod["spec"]["nodeName"], &pod["metadata"]["labels"]["by"]), (&json!("n"), &json!("hook")));
    let asked = &hook.asked("refuse")[0];
    assert_eq!(asked["kind"], json!({"group": "", "version": "v1", "kind": "Binding"}));
    assert_eq!((&asked["resource"]["resource"], &asked["subResource"]), (&json!("pods"), &json!("binding")));
    assert_eq!(asked["object"]["target"]["name"], "n");

    let eviction = json!({"metadata": {"name": "p", "namespace": "default"}});
    let answer = server.post(&format!("{pods}/p/eviction"), &eviction).await;
    assert_eq!(answer.headers["warning"], "299 - \"think again\"");
    assert_eq!(answer.failure().2, "admission webhook \"refuse.example.com\" denied the request: no");

    let labels = json!({"a": "b"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    let deployment =
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    server.post(deployments, &deployment).await.ok();
    let scale = server.merge(&format!("{deployments}/d/scale"), &json!({"spec": {"replicas": 2}})).await.ok();
    assert_eq!(scale["spec"]["replicas"], 7);
    assert_eq!(server.get(&format!("{deployments}/d")).await.ok()["spec"]["replicas"], 7);
    let asked = hook.asked("refuse").pop().unwrap();
    assert_eq!(asked["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&asked["operation"], &asked["oldObject"]["spec"]["replicas"]), (&json!("UPDATE"), &json!(1)));
    assert_eq!(asked["object"]["spec"]["replicas"], 7);
}
