//! Where audit events go: a bounded queue before a writer. Start at [`Backend`].
// upstream: apiserver plugin/pkg/audit/buffered, plugin/pkg/audit/truncate
use super::event::Event;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the end of the process waits for what is not yet written.
const FLUSH_WAIT: Duration = Duration::from_secs(10);

/// How a request and its events wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: events are written later, together; what does not fit into the queue is lost and counted.
    Batch,
    /// The request waits until its event is written, and goes on if that failed.
    #[default]
    Blocking,
    /// A request whose first event cannot be written fails.
    BlockingStrict,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "batch" => Ok(Mode::Batch),
            "blocking" => Ok(Mode::Blocking),
            "blocking-strict" => Ok(Mode::BlockingStrict),
            _ => Err(format!("invalid audit mode {text}, allowed modes are \"batch,blocking,blocking-strict\"")),
        }
    }
}

/// An event in JSON, without its type.
#[derive(Clone, Debug)]
pub struct Encoded {
    whole: Bytes,
    /// The same without the objects, if it is larger than some backend wants it.
    short: Option<Bytes>,
}

impl Encoded {
    /// The encoding of `event`; `limit` is the smallest size that some backend does not want to be exceeded.
    pub fn of(event: &Event, limit: Option<usize>) -> Result<Self, serde_json::Error> {
        let whole: Bytes = serde_json::to_vec(event)?.into();
        let mut short = None;
        if limit.is_some_and(|limit| whole.len() > limit) {
            let mut event = Event { request_object: None, response_object: None, ..event.clone() };
            event.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
            short = Some(serde_json::to_vec(&event)?.into());
        }
        Ok(Encoded { whole, short })
    }

    fn within(&self, limit: Option<usize>) -> Option<Bytes> {
        let fits = |bytes: &&Bytes| limit.is_none_or(|limit| bytes.len() <= limit);
        [Some(&self.whole), self.short.as_ref()].into_iter().flatten().find(fits).cloned()
    }
}

/// What a writer is given.
#[derive(Debug)]
pub enum Entry {
    /// An event, and who waits to hear whether it was written.
    Event(Bytes, Option<oneshot::Sender<bool>>),
    /// Somebody waits until everything before this is written.
    Flush(oneshot::Sender<bool>),
}

/// Events that were lost.
#[derive(Clone, Debug, Default)]
pub struct Errors(Arc<AtomicU64>);

impl Errors {
    /// Counts `count` events more.
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// One place to which events go.
#[derive(Debug)]
pub struct Backend {
    /// Upstream's name of the plugin.
    pub(super) name: &'static str,
    /// Larger events lose their objects, and if that is not enough are dropped.
    pub(super) size_limit: Option<usize>,
    mode: Mode,
    queue: mpsc::Sender<Entry>,
    errors: Errors,
}

impl Backend {
    /// A backend whose writer takes from `queue` and counts what it loses in `errors`.
    pub fn new(
        name: &'static str,
        mode: Mode,
        size_limit: Option<usize>,
        queue: mpsc::Sender<Entry>,
        errors: Errors,
    ) -> Self {
        Backend { name, size_limit, mode, queue, errors }
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors.0.load(Ordering::Relaxed)
    }

    pub(super) fn waits(&self) -> bool {
        self.mode != Mode::Batch
    }

    /// Hands over an event, and waits as the mode says. False if the request must not go on.
    pub(super) async fn process(&self, event: &Encoded) -> bool {
        if !self.waits() {
            self.enqueue(event);
            return true;
        }
        let Some(bytes) = self.fitting(event) else { return true };
        let (done, written) = oneshot::channel();
        let sent = self.queue.send(Entry::Event(bytes, Some(done))).await.is_ok();
        let written = sent && written.await.unwrap_or(false);
        written || self.mode != Mode::BlockingStrict
    }

    /// Hands over an event if there is room.
    pub(super) fn enqueue(&self, event: &Encoded) {
        let Some(bytes) = self.fitting(event) else { return };
        if self.queue.try_send(Entry::Event(bytes, None)).is_err() {
            self.errors.add(1);
            tracing::warn!(backend = self.name, "the queue of audit events is full: an event is lost");
        }
    }

    fn fitting(&self, event: &Encoded) -> Option<Bytes> {
        let bytes = event.within(self.size_limit);
        if bytes.is_none() {
            self.errors.add(1);
            tracing::warn!(backend = self.name, "an audit event is too large and lost");
        }
        bytes
    }

    pub(super) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let flush = async { self.queue.send(Entry::Flush(done)).await.is_ok() && written.await.unwrap_or(false) };
        if tokio::time::timeout(FLUSH_WAIT, flush).await != Ok(true) {
            tracing::warn!(backend = self.name, "audit events may be lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::Level;
    use crate::request_info::RequestInfo;
    use pintle_api::user::UserInfo;
    use serde_json::{Value, json};

    fn event(size: usize) -> Event {
        let (parts, ()) = http::Request::get("/api/v1/pods").body(()).unwrap().into_parts();
        let info = RequestInfo::parse(&parts.method, &parts.uri);
        let mut event = Event::of_request(Level::Request, &UserInfo::new("a", &[]), &info, &parts, "id");
        event.request_object = Some(json!({"kind": "Pod", "x": "y".repeat(size)}));
        event
    }

    #[test]
    fn events_that_are_too_large_lose_their_objects_and_then_are_lost() {
        let encoded = Encoded::of(&event(2000), Some(1000)).unwrap();
        let short: Value = serde_json::from_slice(&encoded.within(Some(1000)).unwrap()).unwrap();
        assert_eq!(short["annotations"]["audit.k8s.io/truncated"], "true");
        assert!(short["requestObject"].is_null());
        assert!(encoded.within(None).unwrap().len() > 2000);
        assert_eq!(encoded.within(Some(10)), None);
    }

    #[tokio::test]
    async fn a_full_queue_loses_events_in_batches_and_waits_otherwise() {
        let (queue, mut taken) = mpsc::channel(1);
        let backend = Backend::new("x", Mode::Batch, None, queue.clone(), Errors::default());
        let encoded = Encoded::of(&event(1), None).unwrap();
        assert!(backend.process(&encoded).await && backend.process(&encoded).await);
        assert_eq!(backend.errors(), 1);
        taken.recv().await.unwrap();
        let strict = Backend::new("x", Mode::BlockingStrict, None, queue.clone(), Errors::default());
        let lenient = Backend::new("x", Mode::Blocking, None, queue, Errors::default());
        let answer = async {
            for written in [true, false, false] {
                let Some(Entry::Event(_, Some(done))) = taken.recv().await else {
                    panic!("an event that is waited for")
                };
                done.send(written).unwrap();
            }
        };
        let ask = async {
            let first = strict.process(&encoded).await;
            (first, strict.process(&encoded).await, lenient.process(&encoded).await)
        };
        assert_eq!(tokio::join!(answer, ask).1, (true, false, true));
    }
}
