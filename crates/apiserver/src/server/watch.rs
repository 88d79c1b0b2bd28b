//! GET with `watch`: the current objects if asked for, then every change, as it was encoded once for all watchers.
use super::ApiServer;
use super::resource::Call;
use crate::body::{Body, BoxError};
use crate::codec::encode_object;
use crate::conversion;
use crate::encode::restamp;
use crate::list_options::{ListOptions, Match};
use crate::negotiate::{Encoding, JSON, Negotiation, View};
use crate::registry::{Registry, collection_prefix, is_storage_version};
use crate::respond;
use crate::selection::Selection;
use crate::watch_cache::{Change, EventType, FrameForm, Ring, WatchCache};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use pintle_api::protobuf::watch_frame;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use pintle_api::table::{IncludeObject, partial_object_metadata};
use pintle_store::Revision;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// The shortest life of a watch whose client does not say; upstream: --min-request-timeout.
const MIN_LIFE: u64 = 1800;
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How many changes are taken from the ring at once, and how large a chunk they may become.
const BATCH: usize = 64;
const CHUNK: usize = 64 << 10;

impl ApiServer {
    pub(super) async fn watch(&self, call: &Call) -> Result<Response<Body>, ApiError> {
        let options = ListOptions::parse(&call.resource, &call.cx.info.query, true)?;
        let include = respond::include_object(&call.cx.info.query)?;
        let encoding = call.negotiation.encoding;
        if encoding == Encoding::Yaml {
            return Err(ApiError::not_acceptable(&[JSON, STREAM]));
        }
        let content_type = if encoding == Encoding::Protobuf { STREAM } else { JSON };
        let cache = self.registry().cache().clone();
        let ring = cache.ring(call.resource.storage_prefix().as_bytes());
        let show = Show::new(self.registry().clone(), call.resource.clone(), &call.negotiation, include);
        let initial = match (options.send_initial_events, options.revision) {
            (Some(send), _) => send,
            (None, revision) => matches!(revision, None | Some(0)),
        };
        let mut begin = Vec::new();
        let from = if initial {
            self.wait_for_revision(options.revision).await?;
            let everything = ListOptions { limit: 0, revision: None, revision_match: None::<Match>, ..options.clone() };
            let (items, meta) = self.page(call, &everything).await?;
            let stored = items.into_iter().map(|kv| kv.value).collect();
            for stored in &self.registry().converted(&call.resource, stored).await? {
                begin.push(show.frame(EventType::Added, stored));
            }
            if options.send_initial_events == Some(true) {
                begin.push(show.bookmark(meta.revision, true));
            }
            meta.revision
        } else {
            options.revision.filter(|revision| *revision > 0).unwrap_or_else(|| self.registry().store().revision())
        };
        let position = match ring.position_after(from) {
            Ok(position) => position,
            Err(error) => {
                let error = ApiError::expired(error.to_string());
                return Ok(respond::raw(StatusCode::OK, content_type, show.error(&error)));
            }
        };
        let life = options.timeout_seconds.filter(|seconds| *seconds > 0);
        let life = Duration::from_secs(life.unwrap_or_else(|| fastrand::u64(MIN_LIFE..2 * MIN_LIFE)));
        let watcher = Watcher {
            begin: begin.into_iter(),
            cache,
            ring,
            position,
            after: from,
            prefix: collection_prefix(&call.resource, &call.namespace),
            selection: options.selection,
            show,
            bookmarks: options.bookmarks.then(|| Instant::now() + BOOKMARK_INTERVAL),
            told: from,
            ends: Instant::now() + life,
            stop: self.parts().stop.clone(),
            batch: Vec::new(),
        };
        let frames = futures::stream::unfold(watcher, |mut watcher| async move {
            let chunk = watcher.next().await?;
            Some((Ok::<_, BoxError>(Frame::data(chunk)), watcher))
        });
        Ok(respond::raw(StatusCode::OK, content_type, Body::stream(StreamBody::new(frames.fuse()))))
    }
}

/// How a watcher's objects are shown.
struct Show {
    registry: Registry,
    resource: Arc<Resource>,
    encoding: Encoding,
    view: View,
    include: IncludeObject,
    /// Whether a Table of this watch has told its columns.
    headers_sent: AtomicBool,
    /// The number of this form in [`FrameForm`].
    form: u64,
}

impl Show {
    fn new(registry: Registry, resource: Arc<Resource>, negotiation: &Negotiation, include: IncludeObject) -> Self {
        let Negotiation { encoding, view, .. } = *negotiation;
        let mut hasher = DefaultHasher::new();
        (&resource.group, &resource.version, view, encoding).hash(&mut hasher);
        let form = hasher.finish();
        Show { registry, resource, encoding, view, include, headers_sent: AtomicBool::new(false), form }
    }

    /// The frame of `change` as an event of this type; shared where all watchers see the same.
    async fn change(&self, change: &Change, kind: EventType) -> Bytes {
        if conversion::webhook(&self.resource).is_some() {
            return self.converted(change, kind).await;
        }
        let make = || match (kind, &change.current, &change.previous) {
            (EventType::Deleted, _, Some(previous)) => self.frame(kind, &restamp(previous, change.revision)),
            (_, Some(current), _) => self.frame(kind, current),
            (_, None, _) => Bytes::new(),
        };
        match self.view {
            View::Table => make(),
            View::Whole | View::Metadata | View::MetadataList | View::Discovery => {
                change.frame(FrameForm { form: self.form, event: kind }, make)
            }
        }
    }

    /// The frame of a change of an object that a webhook converts.
    async fn converted(&self, change: &Change, kind: EventType) -> Bytes {
        let stored = match (kind, &change.current, &change.previous) {
            (EventType::Deleted, _, Some(previous)) => restamp(previous, change.revision),
            (_, Some(current), _) => current.clone(),
            (_, None, _) => return Bytes::new(),
        };
        match self.registry.converted(&self.resource, vec![stored]).await {
            Ok(converted) => converted.first().map_or_else(Bytes::new, |stored| self.frame(kind, stored)),
            Err(error) => self.error(&error),
        }
    }

    fn frame(&self, kind: EventType, stored: &Bytes) -> Bytes {
        if self.encoding == Encoding::Json && self.view == View::Whole && is_storage_version(&self.resource) {
            return event(kind.name(), stored);
        }
        let shown = self.registry.load(&self.resource, stored).map(|object| match self.view {
            View::Whole | View::Discovery => object,
            View::Metadata | View::MetadataList => partial_object_metadata(&object),
            View::Table => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let headers = !self.headers_sent.swap(true, Ordering::Relaxed);
                respond::table_of(&self.resource, std::slice::from_ref(&object), metadata, self.include, headers)
            }
        });
        match shown {
            Ok(object) => self.event(kind.name(), &object),
            Err(error) => self.error(&error),
        }
    }

    fn event(&self, kind: &str, object: &Value) -> Bytes {
        let plain = Negotiation { encoding: self.encoding, ..Negotiation::default() };
        match (self.encoding, encode_object(object, &plain)) {
            (Encoding::Protobuf, Ok((bytes, _))) => watch_frame(kind, &bytes).into(),
            _ => event(kind, object.to_string().as_bytes()),
        }
    }

    fn error(&self, error: &ApiError) -> Bytes {
        self.event("ERROR", &error.to_value())
    }

    fn bookmark(&self, revision: Revision, initial_events_end: bool) -> Bytes {
        let resource = &self.resource;
        let mut object = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": revision.to_string(), "creationTimestamp": null },
        });
        if initial_events_end {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        self.event("BOOKMARK", &object)
    }
}

struct Watcher {
    /// Frames that come before the changes.
    begin: std::vec::IntoIter<Bytes>,
    cache: Arc<WatchCache>,
    ring: Arc<Ring>,
    position: u64,
    /// Changes up to this revision are part of the beginning.
    after: Revision,
    prefix: Vec<u8>,
    selection: Selection,
    show: Show,
    /// When the next bookmark is due, if any are wanted.
    bookmarks: Option<Instant>,
    /// The revision that the client knows of.
    told: Revision,
    ends: Instant,
    stop: CancellationToken,
    batch: Vec<Arc<Change>>,
}

impl Watcher {
    /// The next bytes; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = join(&mut self.begin) {
                return Some(chunk);
            }
            let changed = self.ring.changed();
            let current = self.show.registry.is_current(&self.show.resource);
            let progress = self.cache.progress();
            // A watcher that fell behind is ended; its client starts again from where it was.
            self.position = self.ring.read(self.position, BATCH, &mut self.batch)?;
            let drained = self.batch.len() < BATCH;
            let mut frames = Vec::new();
            for change in std::mem::take(&mut self.batch) {
                if let Some(kind) = self.event_type(&change).await {
                    self.told = change.revision;
                    frames.push(self.show.change(&change, kind).await);
                }
            }
            if !frames.is_empty() {
                self.begin = frames.into_iter();
                continue;
            }
            if !drained {
                continue;
            }
            // All that happened has been told; another form of the objects needs another watch.
            if !current {
                return None;
            }
            let bookmark_due = self.bookmarks.unwrap_or(self.ends);
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(self.ends.min(bookmark_due)) => {
                    let ended = Instant::now() >= self.ends;
                    if let Some(due) = &mut self.bookmarks {
                        *due = Instant::now() + BOOKMARK_INTERVAL;
                        if progress > self.told {
                            self.told = progress;
                            return Some(self.show.bookmark(progress, false));
                        }
                    }
                    if ended {
                        return None;
                    }
                }
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// What `change` is to this watcher; none if it is nothing.
    async fn event_type(&self, change: &Change) -> Option<EventType> {
        if change.revision <= self.after || !change.key.starts_with(&self.prefix) {
            return None;
        }
        let (before, now) = if self.selection.is_everything() {
            (change.previous.is_some(), change.current.is_some())
        } else if self.selection.reads_content() && conversion::webhook(&self.show.resource).is_some() {
            self.matches_converted(change).await
        } else {
            self.matches(change)
        };
        match (before, now) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }
}

impl Watcher {
    /// Whether the object was selected before `change`, and is after it.
    fn matches(&self, change: &Change) -> (bool, bool) {
        let Some(kind) = self.selection.projected_kind() else {
            let matches = |stored: &Option<Bytes>| stored.as_ref().is_some_and(|s| self.selection.matches_stored(s));
            return (matches(&change.previous), matches(&change.current));
        };
        let (previous, current) = change.projections(kind);
        let matches = |object: &Option<Value>| object.as_ref().is_some_and(|object| self.selection.matches(object));
        (matches(previous), matches(current))
    }
}

impl Watcher {
    /// As [`Watcher::matches`], in the version that is watched. An object that cannot be converted counts as selected, so that
    /// the client is told.
    async fn matches_converted(&self, change: &Change) -> (bool, bool) {
        let stored: Vec<Bytes> = change.previous.iter().chain(&change.current).cloned().collect();
        let converted = self.show.registry.converted(&self.show.resource, stored).await;
        let mut matches = converted.map_or_else(
            |_| vec![true, true],
            |converted| converted.iter().map(|object| self.selection.matches_stored(object)).collect(),
        );
        let now = change.current.is_some() && matches.pop().unwrap_or_default();
        (change.previous.is_some() && matches.pop().unwrap_or_default(), now)
    }
}

/// Joins frames into a chunk of moderate size; a single one is passed on as it is.
fn join(frames: &mut std::vec::IntoIter<Bytes>) -> Option<Bytes> {
    let first = frames.next()?;
    let fits = |size: usize, next: Option<&Bytes>| next.is_some_and(|next| size + next.len() <= CHUNK);
    if !fits(first.len(), frames.as_slice().first()) {
        return Some(first);
    }
    let mut chunk =
        BytesMut::with_capacity(CHUNK.min(first.len() + frames.as_slice().iter().map(Bytes::len).sum::<usize>()));
    chunk.put(first);
    while fits(chunk.len(), frames.as_slice().first()) {
        chunk.extend_from_slice(&frames.next()?);
    }
    Some(chunk.freeze())
}

fn event(kind: &str, object: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(object.len() + 32);
    frame.put_slice(b"{\"type\":\"");
    frame.put_slice(kind.as_bytes());
    frame.put_slice(b"\",\"object\":");
    frame.put_slice(object);
    frame.put_slice(b"}\n");
    frame.freeze()
}
