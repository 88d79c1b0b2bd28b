//! As much of an API server as a kubelet talks to, in memory.
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

type Reply = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub struct FakeApi(Arc<Inner>);

struct Inner {
    /// By collection path and name.
    objects: Mutex<BTreeMap<(String, String), Value>>,
    log: Mutex<Vec<Logged>>,
    version: watch::Sender<u64>,
}

struct Logged {
    version: u64,
    collection: String,
    kind: &'static str,
    object: Value,
}

impl FakeApi {
    pub fn new() -> Self {
        let version = watch::Sender::new(1);
        FakeApi(Arc::new(Inner { objects: Mutex::default(), log: Mutex::default(), version }))
    }

    pub fn client(&self) -> kube::Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Puts an object at `/api/v1/namespaces/<ns>/<resource>`.
    pub fn put(&self, resource: &str, mut object: Value) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{name}"));
        }
        self.store(&format!("/api/v1/namespaces/{namespace}/{resource}"), &name, object);
    }

    fn store(&self, collection: &str, name: &str, mut object: Value) -> Value {
        let version = *self.0.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = (collection.to_owned(), name.to_owned());
        let before = self.0.objects.lock().insert(key, object.clone());
        self.announce(version, collection, if before.is_some() { "MODIFIED" } else { "ADDED" }, object.clone());
        object
    }

    fn announce(&self, version: u64, collection: &str, kind: &'static str, object: Value) {
        self.0.log.lock().push(Logged { version, collection: collection.to_owned(), kind, object });
        self.0.version.send_replace(version);
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (format!("/api/v1/namespaces/{namespace}/{resource}"), name.to_owned());
        self.0.objects.lock().get(&key).cloned()
    }

    pub fn pod(&self, name: &str) -> Option<Value> {
        self.get("pods", "ns", name)
    }

    /// Asks for deletion as the API server does: a time stamp and a grace period.
    pub fn delete_pod(&self, name: &str, grace: i64) {
        let mut pod = self.pod(name).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put("pods", pod);
    }

    /// Waits until `test` holds for the pod (`Null` when there is none).
    pub async fn pod_until(&self, name: &str, test: impl Fn(&Value) -> bool) -> Value {
        let mut version = self.0.version.subscribe();
        // Paused time runs on while nothing happens: an hour is long enough to wait.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(3600);
        loop {
            version.borrow_and_update();
            let pod = self.pod(name).unwrap_or(Value::Null);
            if test(&pod) {
                return pod;
            }
            let change = tokio::time::timeout_at(deadline, version.changed());
            change.await.unwrap_or_else(|_| panic!("waited in vain: {pod:#}")).unwrap();
        }
    }

    /// Waits for an event, written `reason: message`.
    pub async fn event(&self, wanted: &str) {
        let mut version = self.0.version.subscribe();
        // Paused time runs on while nothing happens: an hour is long enough to wait.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(3600);
        loop {
            version.borrow_and_update();
            let events = self.events();
            if events.iter().any(|event| event == wanted) {
                return;
            }
            let change = tokio::time::timeout_at(deadline, version.changed());
            change.await.unwrap_or_else(|_| panic!("no {wanted:?} in {events:#?}")).unwrap();
        }
    }

    fn events(&self) -> Vec<String> {
        let objects = self.0.objects.lock();
        let events = objects.iter().filter(|((collection, _), _)| collection.ends_with("/events"));
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        events.map(|(_, event)| format!("{}: {}", text(event, "reason"), text(event, "message"))).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Reply> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = head.uri.path().to_owned();
        let query: BTreeMap<String, String> = head.uri.query().map(parse_query).unwrap_or_default();
        if head.method == Method::GET && is_collection(&path) {
            return self.list(&path, &query);
        }
        let (parent, name) = path.rsplit_once('/').unwrap();
        match head.method {
            Method::POST if path.ends_with("/token") => {
                let status = json!({"token": "a-token", "expirationTimestamp": "2099-01-01T00:00:00Z"});
                json_reply(
                    StatusCode::CREATED,
                    &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
                    "metadata": {}, "spec": body["spec"], "status": status}),
                )
            }
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if self.0.objects.lock().contains_key(&(path.clone(), name.clone())) {
                    return problem(StatusCode::CONFLICT, "AlreadyExists");
                }
                json_reply(StatusCode::CREATED, &self.store(&path, &name, body))
            }
            Method::GET => match self.find(parent, name) {
                Some(object) => json_reply(StatusCode::OK, &object),
                None => problem(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::PATCH => {
                let (parent, name) = match path.strip_suffix("/status") {
                    Some(path) => path.rsplit_once('/').unwrap(),
                    None => (parent, name),
                };
                let Some(mut object) = self.find(parent, name) else {
                    return problem(StatusCode::NOT_FOUND, "NotFound");
                };
                merge(&mut object, &body);
                json_reply(StatusCode::OK, &self.store(parent, name, object))
            }
            Method::DELETE => {
                let key = (parent.to_owned(), name.to_owned());
                let Some(object) = self.0.objects.lock().remove(&key) else {
                    return problem(StatusCode::NOT_FOUND, "NotFound");
                };
                let version = *self.0.version.borrow() + 1;
                self.announce(version, parent, "DELETED", object.clone());
                json_reply(StatusCode::OK, &object)
            }
            _ => problem(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn find(&self, collection: &str, name: &str) -> Option<Value> {
        self.0.objects.lock().get(&(collection.to_owned(), name.to_owned())).cloned()
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Response<Reply> {
        let name = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name="));
        let filter = Filter { path: path.to_owned(), name: name.map(ToOwned::to_owned) };
        if query.get("watch").is_some_and(|value| value == "true") {
            let from: u64 = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
            return self.watch(filter, from);
        }
        let objects = self.0.objects.lock();
        let found = objects.iter().filter(|((collection, _), object)| filter.takes(collection, object));
        let items: Vec<Value> = found.map(|(_, object)| object.clone()).collect();
        let version = self.0.version.borrow().to_string();
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items});
        json_reply(StatusCode::OK, &list)
    }

    fn watch(&self, filter: Filter, from: u64) -> Response<Reply> {
        let (this, changes) = (self.clone(), self.0.version.subscribe());
        let stream = futures::stream::unfold((from, changes), move |(mut from, mut changes)| {
            let (this, filter) = (this.clone(), filter.clone());
            async move {
                loop {
                    changes.borrow_and_update();
                    let news: Vec<u8> = {
                        let log = this.0.log.lock();
                        let new = log.iter().filter(|event| event.version > from);
                        let lines = new
                            .filter(|event| filter.takes(&event.collection, &event.object))
                            .map(|event| format!("{}\n", json!({"type": event.kind, "object": event.object})));
                        lines.collect::<String>().into_bytes()
                    };
                    from = this.0.log.lock().last().map_or(from, |event| event.version.max(from));
                    if !news.is_empty() {
                        let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(news)));
                        return Some((frame, (from, changes)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(stream).boxed_unsync())
    }
}

#[derive(Clone)]
struct Filter {
    path: String,
    name: Option<String>,
}

impl Filter {
    fn takes(&self, collection: &str, object: &Value) -> bool {
        let resource = self.path.rsplit('/').next().unwrap();
        let all = !self.path.contains("/namespaces/") && collection.ends_with(&format!("/{resource}"));
        let name = self.name.as_ref();
        (all || collection == self.path) && name.is_none_or(|name| object["metadata"]["name"] == **name)
    }
}

fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    matches!(rest, [_] | ["namespaces", _, _])
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%2F", "/"))).collect()
}

fn json_reply(status: StatusCode, value: &Value) -> Response<Reply> {
    let body = http_body_util::Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

fn problem(code: StatusCode, reason: &str) -> Response<Reply> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code.as_u16()});
    json_reply(code, &status)
}

/// A strategic merge as far as statuses need it: conditions merge by type, other lists are replaced.
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    for (key, value) in fields {
        match (key.as_str(), value) {
            (_, Value::Null) => {
                object.as_object_mut().unwrap().remove(key);
            }
            ("conditions", Value::Array(changes)) => {
                let mut all = object[key].as_array().cloned().unwrap_or_default();
                for change in changes {
                    if change["$patch"] == "delete" {
                        all.retain(|one| one["type"] != change["type"]);
                        continue;
                    }
                    match all.iter_mut().find(|one| one["type"] == change["type"]) {
                        Some(one) => merge(one, change),
                        None => all.push(change.clone()),
                    }
                }
                object[key] = Value::Array(all);
            }
            (_, Value::Object(_)) => merge(&mut object[key], value),
            (_, Value::Array(items)) => {
                let plain = items.iter().filter(|item| item["$patch"].is_null()).cloned().collect();
                object[key] = Value::Array(plain);
            }
            _ => object[key] = value.clone(),
        }
    }
}
