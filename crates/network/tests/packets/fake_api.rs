//! An API server of a few lines: lists and watches of objects that the test puts there.
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use parking_lot::Mutex;
use pintle_client::Informers;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

type Objects = BTreeMap<(String, String), Value>;

/// Objects by (resource path, namespace/name).
#[derive(Clone)]
pub struct FakeApi(Arc<Inner>);

struct Inner {
    objects: Mutex<(u64, Objects)>,
    events: broadcast::Sender<(String, Value)>,
}

impl FakeApi {
    pub fn new() -> Self {
        FakeApi(Arc::new(Inner { objects: Mutex::default(), events: broadcast::Sender::new(1024) }))
    }

    /// Creates or replaces an object of the collection `path`, for example `/api/v1/services`.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut objects = self.0.objects.lock();
        objects.0 += 1;
        object["metadata"]["resourceVersion"] = json!(objects.0.to_string());
        let old = objects.1.insert(key(path, &object), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.0.events.send((path.into(), json!({"type": kind, "object": object}))).ok();
    }

    pub fn delete(&self, path: &str, namespace: &str, name: &str) {
        let mut objects = self.0.objects.lock();
        objects.0 += 1;
        let mut object = objects.1.remove(&(path.into(), format!("{namespace}/{name}"))).unwrap();
        object["metadata"]["resourceVersion"] = json!(objects.0.to_string());
        self.0.events.send((path.into(), json!({"type": "DELETED", "object": object}))).ok();
    }

    pub fn informers(&self, stop: &CancellationToken) -> Informers {
        let api = self.0.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(&request)) }
        });
        Informers::new(kube::Client::new(service, "default"), stop.clone())
    }
}

impl Inner {
    fn answer(&self, request: &http::Request<Body>) -> http::Response<UnsyncBoxBody<Bytes, Infallible>> {
        let path = request.uri().path().to_owned();
        let objects = self.objects.lock();
        if request.uri().query().unwrap_or_default().contains("watch=true") {
            // Nothing happens between list and watch here: both hold the lock, and a watch starts with what it missed.
            let events = tokio_stream(self.events.subscribe(), path);
            return http::Response::new(StreamBody::new(events).boxed_unsync());
        }
        let items: Vec<&Value> =
            objects.1.iter().filter(|((collection, _), _)| *collection == path).map(|(_, object)| object).collect();
        let list = json!({"metadata": {"resourceVersion": objects.0.to_string()}, "items": items});
        http::Response::new(Full::new(Bytes::from(list.to_string())).boxed_unsync())
    }
}

fn tokio_stream(
    events: broadcast::Receiver<(String, Value)>,
    path: String,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::unfold(events, |mut events| async move { Some((events.recv().await.ok()?, events)) }).filter_map(
        move |(collection, event)| {
            let line = (collection == path).then(|| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
            async move { line }
        },
    )
}

fn key(path: &str, object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (path.into(), format!("{}/{}", text("namespace"), text("name")))
}
