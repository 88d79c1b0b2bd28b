//! What clients observe of the kinds equals upstream: the same requests to this server and to an upstream one, compared.
//!
//! Skipped unless `PINTLE_ORACLE_KUBECONFIG` names the kubeconfig of an upstream kube-apiserver v1.36 that may be used for
//! it (a namespace of its own is made there and removed). `PINTLE_ORACLE_FIXTURES` may name the directory
//! `testdata/HEAD` of the Go module `k8s.io/api`; its objects are then sent too. `PINTLE_ORACLE_CASES` selects cases by a
//! part of their path.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;
use common::Server;
use pintle_api::scheme::{Scheme, Verb};
use pintle_apiserver::admission::ClusterAdmission;
use pintle_apiserver::bootstrap;
use pintle_apiserver::special::Specials;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

const CASES: &str = include_str!("differential/cases.json");

/// An upstream API server, asked through `curl`.
struct Oracle {
    server: String,
    files: [String; 3],
}

impl Oracle {
    fn from_environment() -> Option<Oracle> {
        let path = std::env::var("PINTLE_ORACLE_KUBECONFIG").ok()?;
        let text = std::fs::read_to_string(path).unwrap();
        let field = |name: &str| {
            let pattern = regex::Regex::new(&format!(r#"{name}: "?([^",}}\s]+)"#)).unwrap();
            pattern.captures(&text).unwrap_or_else(|| panic!("no {name} in the kubeconfig"))[1].to_owned()
        };
        let files = ["certificate-authority", "client-certificate", "client-key"].map(field);
        Some(Oracle { server: field("server"), files })
    }

    fn call(&self, method: &str, uri: &str, body: Option<&Value>) -> (u16, String) {
        let [ca, cert, key] = &self.files;
        let url = format!("{}{uri}", self.server);
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", method, "--cacert", ca, "--cert", cert, "--key", key, "-w", "\n%{http_code}"]);
        curl.args(["-H", "Content-Type: application/json", "--data-binary", "@-", &url]);
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let (text, code) = output.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), text.to_owned())
    }
}

struct Both {
    ours: Server,
    oracle: Oracle,
    namespace: String,
    different: Vec<String>,
    compared: usize,
}

impl Both {
    async fn start(oracle: Oracle) -> Both {
        let ours = Server::with(Specials::default(), Arc::new(ClusterAdmission::without_rights()));
        let registry = ours.api.registry();
        bootstrap::reconcile(registry, &[]).await.unwrap();
        let config = bootstrap::service::Config {
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            advertise_address: "192.0.2.1".parse().unwrap(),
            port: 16443,
        };
        bootstrap::service::ensure(registry, &config).await.unwrap();
        let namespace = format!("differential-{}", std::process::id());
        let mut both = Both { ours, oracle, namespace, different: Vec::new(), compared: 0 };
        let object = json!({"metadata": {"name": both.namespace}});
        both.real("POST", "/api/v1/namespaces", &object).await;
        let account = json!({"metadata": {"name": "default"}});
        both.real("POST", "/api/v1/namespaces/{ns}/serviceaccounts", &account).await;
        both
    }

    /// Sends a request to both, for its effect.
    async fn real(&mut self, method: &str, path: &str, body: &Value) -> (Value, Value) {
        let query = if path.contains('?') { '&' } else { '?' };
        let uri = format!("{}{query}fieldManager=differential", path.replace("{ns}", &self.namespace));
        let theirs = self.oracle.call(method, &uri, Some(body)).1;
        let ours = self.ours.call(method, &uri, &[], body.to_string()).await.text;
        let parse = |text: &str| serde_json::from_str(text).unwrap_or_default();
        (parse(&ours), parse(&theirs))
    }

    /// Sends requests that change nothing and compares the answers.
    async fn compare(&mut self, what: &str, method: &str, path: &str, ours: &Value, theirs: &Value) {
        let query = if path.contains('?') { '&' } else { '?' };
        let uri = format!("{}{query}dryRun=All&fieldManager=differential", path.replace("{ns}", &self.namespace));
        let (their_code, their_text) = self.oracle.call(method, &uri, Some(theirs));
        let answer = self.ours.call(method, &uri, &[], ours.to_string()).await;
        self.compared += 1;
        let ours = (answer.status.as_u16(), normalized(&answer.text));
        let theirs = (their_code, normalized(&their_text));
        if ours != theirs {
            let changes = pintle_apiserver::diff::diff(&theirs.1, &ours.1);
            self.different.push(format!("{what}: upstream {} ours {}\n{changes}", theirs.0, ours.0));
        }
    }

    async fn case(&mut self, case: &Value) {
        let path = case["path"].as_str().unwrap();
        let base = &case["base"];
        let name = base["metadata"]["name"].as_str().unwrap_or_default();
        self.compare(&format!("{path} base"), "POST", path, base, base).await;
        for patch in case["creates"].as_array().into_iter().flatten() {
            let object = merged(base, patch);
            self.compare(&format!("POST {path} {patch}"), "POST", path, &object, &object).await;
        }
        let updates = case["updates"].as_array().into_iter().flatten().map(|patch| ("", patch));
        let statuses = case["status"].as_array().into_iter().flatten().map(|patch| ("/status", patch));
        let all: Vec<(&str, &Value)> = updates.chain(statuses).collect();
        if all.is_empty() {
            return;
        }
        let (ours, theirs) = self.real("POST", path, base).await;
        for (subresource, patch) in all {
            let uri = format!("{path}/{name}{subresource}");
            let what = format!("PUT {uri} {patch}");
            self.compare(&what, "PUT", &uri, &merged(&ours, patch), &merged(&theirs, patch)).await;
        }
        self.real("DELETE", &format!("{path}/{name}?gracePeriodSeconds=0"), &Value::Null).await;
    }

    async fn finish(mut self) -> (usize, Vec<String>) {
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        self.real("DELETE", &path, &Value::Null).await;
        let finalize =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}, "spec": {}});
        self.real("PUT", &format!("{path}/finalize"), &finalize).await;
        self.ours.stop.cancel();
        (self.compared, self.different)
    }
}

fn merged(base: &Value, patch: &Value) -> Value {
    let mut object = base.clone();
    pintle_api::patch::merge_patch(&mut object, patch.clone());
    object
}

/// An answer without what differs from server to server and from moment to moment.
fn normalized(text: &str) -> Value {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return json!(text) };
    let mut text = text.to_owned();
    if let Some(uid) = value["metadata"]["uid"].as_str() {
        text = text.replace(uid, "<uid>");
    }
    for (pattern, mask) in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"\b10\.(9[6-9]|1[01]\d)\.\d+\.\d+\b", "<cluster ip>"),
        (r#""(nodePort|healthCheckNodePort)":\s*\d+"#, r#""$1":0"#),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
        (r"kube-api-access-[a-z0-9]{5}", "kube-api-access-"),
        (r#""uid":"[0-9a-f-]{36}""#, r#""uid":"<uid>""#),
    ] {
        text = regex::Regex::new(pattern).unwrap().replace_all(&text, mask).into_owned();
    }
    let mut value: Value = serde_json::from_str(&text).unwrap();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    value
}

/// The objects of the fixtures whose kinds are served, with the paths of their collections.
fn fixtures(directory: &str) -> Vec<(String, Value)> {
    let scheme = Scheme::builtin();
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let mut object: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let meta = object.clone();
        let (api_version, kind) = (meta["apiVersion"].as_str().unwrap_or(""), meta["kind"].as_str().unwrap_or(""));
        let (group, version) = pintle_api::scheme::split_api_version(api_version);
        let Some(resource) = scheme.by_kind(group, version, kind) else { continue };
        if !resource.verbs.contains(Verb::Create) || !resource.is_stored() {
            continue;
        }
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let namespace = if resource.namespaced { "/namespaces/{ns}" } else { "" };
        object["metadata"] = json!({"name": "fixture"});
        found.push((format!("{root}/{version}{namespace}/{}", resource.plural), object));
    }
    found
}

#[tokio::test]
async fn answers_equal_upstreams() {
    let Some(oracle) = Oracle::from_environment() else { return };
    let selected = std::env::var("PINTLE_ORACLE_CASES").unwrap_or_default();
    let mut both = Both::start(oracle).await;
    let text = CASES.replace("{ns}", &both.namespace);
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    for case in cases.iter().filter(|case| case["path"].as_str().unwrap().contains(&selected)) {
        both.case(case).await;
    }
    if let Ok(directory) = std::env::var("PINTLE_ORACLE_FIXTURES") {
        for (path, object) in fixtures(&directory).iter().filter(|(path, _)| path.contains(&selected)) {
            both.compare(&format!("fixture {path}"), "POST", path, object, object).await;
        }
    }
    let (compared, different) = both.finish().await;
    assert!(different.is_empty(), "{} of {compared} answers differ:\n{}", different.len(), different.join("\n"));
}
