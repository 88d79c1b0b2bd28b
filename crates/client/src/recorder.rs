//! [`Recorder`]: posts Events about objects, with client-go's correlation: repeats raise a count, similar ones are combined,
//! floods are dropped. Recording never waits: a bounded queue feeds one task, and a full queue loses events, not time.
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource, ObjectReference};
use k8s_openapi::api::events::v1::{Event as SeriesEvent, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events waiting to be sent; upstream's broadcaster keeps as many.
const QUEUE: usize = 1000;
/// Distinct events remembered, as client-go's cache.
const REMEMBERED: usize = 4096;
/// Similar events (same object and reason, other words) within [`SIMILAR_WINDOW`] before they are combined.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);
/// Token bucket per source and object: so many at once, then one per [`SPAM_REFILL`].
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL: f64 = 300.0;
/// How often a running series of events.k8s.io is refreshed.
const SERIES_REFRESH: SignedDuration = SignedDuration::from_secs(360);
/// Attempts per event when the API cannot be reached.
const ATTEMPTS: u32 = 5;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Information.
    Normal,
    /// Something may go wrong.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What happened, to which object.
#[derive(Clone, Debug)]
struct Record {
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    kind: EventType,
    reason: String,
    action: String,
    message: String,
    at: Timestamp,
}

/// A handle that records events as one component; clones share its queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

impl Recorder {
    /// Records `v1` Events with `source.component`, as upstream's controllers and kubelet do. `host` is the node's name, or
    /// empty for components of the control plane.
    pub fn core(client: Client, component: &str, host: &str) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        tokio::spawn(send_core(client, component.to_owned(), host.to_owned(), records));
        Recorder { queue }
    }

    /// Records `events.k8s.io/v1` Events with series, as upstream's scheduler does.
    pub fn events_v1(client: Client, controller: &str, instance: &str) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        tokio::spawn(send_series(client, controller.to_owned(), instance.to_owned(), records));
        Recorder { queue }
    }

    /// Records that `reason` happened to `object`.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event_for(object.object_ref(&()), kind, reason, message);
    }

    /// Records that `reason` happened to the object that `regarding` names.
    pub fn event_for(&self, regarding: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        self.event_with(regarding, None, kind, reason, "", message);
    }

    /// Records an event with the `related` object and the `action` of events.k8s.io.
    pub fn event_with(
        &self,
        regarding: ObjectReference,
        related: Option<ObjectReference>,
        kind: EventType,
        reason: &str,
        action: &str,
        message: impl Into<String>,
    ) {
        let record = Record {
            regarding,
            related,
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if let Err(error) = self.queue.try_send(record) {
            tracing::debug!(%error, reason, "event dropped");
        }
    }
}

/// What to do about one record.
#[derive(Debug, PartialEq)]
enum Send {
    Drop,
    Create,
    /// Raise the count of the event of that namespace and name.
    Repeat {
        name: String,
        count: i32,
        message: String,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct SimilarKey {
    uid: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    field_path: Option<String>,
    kind: EventType,
    reason: String,
}

/// client-go's EventCorrelator: spam filter, aggregator, then the count of equal events.
#[derive(Default)]
struct Correlator {
    buckets: HashMap<(Option<String>, Option<String>), (f64, Timestamp)>,
    similar: HashMap<SimilarKey, (HashSet<String>, Timestamp)>,
    sent: HashMap<(SimilarKey, String), (String, i32, Timestamp)>,
}

impl Correlator {
    fn correlate(&mut self, record: &Record) -> Send {
        let now = record.at;
        let similar_key = SimilarKey {
            uid: record.regarding.uid.clone(),
            name: record.regarding.name.clone(),
            namespace: record.regarding.namespace.clone(),
            field_path: record.regarding.field_path.clone(),
            kind: record.kind,
            reason: record.reason.clone(),
        };
        self.trim(now);
        let (words, since) = self.similar.entry(similar_key.clone()).or_insert_with(|| (HashSet::new(), now));
        if now.duration_since(*since) > SIMILAR_WINDOW {
            words.clear();
        }
        *since = now;
        words.insert(record.message.clone());
        let combined = words.len() >= SIMILAR_MAX;
        let message = if combined {
            words.remove(&record.message);
            format!("(combined from similar events): {}", record.message)
        } else {
            record.message.clone()
        };
        let bucket = (record.regarding.uid.clone(), record.regarding.name.clone());
        let (tokens, filled) = self.buckets.entry(bucket).or_insert((SPAM_BURST, now));
        *tokens = (*tokens + now.duration_since(*filled).as_secs_f64() / SPAM_REFILL).min(SPAM_BURST);
        *filled = now;
        if *tokens < 1.0 {
            return Send::Drop;
        }
        *tokens -= 1.0;
        let words = if combined { String::new() } else { record.message.clone() };
        match self.sent.get_mut(&(similar_key.clone(), words.clone())) {
            Some((name, count, at)) => {
                *count += 1;
                *at = now;
                Send::Repeat { name: name.clone(), count: *count, message }
            }
            None => {
                self.sent.insert((similar_key, words), (event_name(record), 1, now));
                Send::Create
            }
        }
    }

    /// Forgets what is older than the window when the memory is full.
    fn trim(&mut self, now: Timestamp) {
        let recent = |at: &Timestamp| now.duration_since(*at) <= SIMILAR_WINDOW;
        if self.sent.len() >= REMEMBERED {
            self.sent.retain(|_, (_, _, at)| recent(at));
            if self.sent.len() >= REMEMBERED {
                self.sent.clear();
            }
        }
        if self.similar.len() >= REMEMBERED {
            self.similar.retain(|_, (_, at)| recent(at));
            if self.similar.len() >= REMEMBERED {
                self.similar.clear();
            }
        }
        if self.buckets.len() >= REMEMBERED {
            self.buckets.retain(|_, (_, at)| recent(at));
            if self.buckets.len() >= REMEMBERED {
                self.buckets.clear();
            }
        }
    }
}

/// As upstream names events: the object's name and the time in hexadecimal.
fn event_name(record: &Record) -> String {
    format!("{}.{:x}", record.regarding.name.as_deref().unwrap_or_default(), record.at.as_nanosecond())
}

fn event_namespace(record: &Record) -> String {
    record.regarding.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".to_owned())
}

fn core_event(record: &Record, component: &str, host: &str, message: String) -> CoreEvent {
    let host = (!host.is_empty()).then(|| host.to_owned());
    CoreEvent {
        metadata: ObjectMeta {
            name: Some(event_name(record)),
            namespace: Some(event_namespace(record)),
            ..ObjectMeta::default()
        },
        involved_object: record.regarding.clone(),
        reason: Some(record.reason.clone()),
        message: Some(message),
        first_timestamp: Some(Time(record.at)),
        last_timestamp: Some(Time(record.at)),
        count: Some(1),
        type_: Some(record.kind.as_str().to_owned()),
        source: Some(EventSource { component: Some(component.to_owned()), host: host.clone() }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: host,
        ..CoreEvent::default()
    }
}

async fn send_core(client: Client, component: String, host: String, mut records: mpsc::Receiver<Record>) {
    let (mut correlator, post) = (Correlator::default(), PostParams::default());
    while let Some(record) = records.recv().await {
        let api: Api<CoreEvent> = Api::namespaced(client.clone(), &event_namespace(&record));
        match correlator.correlate(&record) {
            Send::Drop => {}
            Send::Create => {
                let event = core_event(&record, &component, &host, record.message.clone());
                retried(|| api.create(&post, &event)).await;
            }
            Send::Repeat { name, count, message } => {
                let patch = Patch::Strategic(serde_json::json!({
                    "count": count, "lastTimestamp": Time(record.at), "message": message,
                }));
                let params = PatchParams::default();
                if !retried(|| api.patch(&name, &params, &patch)).await {
                    // The event expired, or its creation failed: start it again under the name it is known by.
                    let mut event = core_event(&record, &component, &host, message);
                    event.metadata.name = Some(name);
                    event.count = Some(count);
                    retried(|| api.create(&post, &event)).await;
                }
            }
        }
    }
}

async fn send_series(client: Client, controller: String, instance: String, mut records: mpsc::Receiver<Record>) {
    let post = PostParams::default();
    // Per kind of event: its name, how often it happened, when it was last written and last seen.
    let mut series: HashMap<String, (String, i32, Timestamp, Timestamp)> = HashMap::new();
    while let Some(record) = records.recv().await {
        let api: Api<SeriesEvent> = Api::namespaced(client.clone(), &event_namespace(&record));
        let now = record.at;
        series.retain(|_, (_, _, _, seen)| now.duration_since(*seen) < SERIES_REFRESH);
        if series.len() >= REMEMBERED {
            series.clear();
        }
        let key = format!(
            "{:?}|{:?}|{:?}|{}|{}",
            record.regarding.uid, record.regarding.name, record.kind, record.reason, record.action
        );
        if let Some((name, count, written, seen)) = series.get_mut(&key) {
            *count += 1;
            *seen = now;
            if *count > 2 && now.duration_since(*written) < SERIES_REFRESH / 2 {
                continue;
            }
            *written = now;
            let patch = Patch::Strategic(serde_json::json!({
                "series": EventSeries { count: *count, last_observed_time: MicroTime(now) },
            }));
            let params = PatchParams::default();
            if retried(|| api.patch(name, &params, &patch)).await {
                continue;
            }
            series.remove(&key);
        }
        let event = SeriesEvent {
            metadata: ObjectMeta {
                name: Some(event_name(&record)),
                namespace: Some(event_namespace(&record)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(controller.clone()),
            reporting_instance: Some(instance.clone()),
            action: Some(record.action.clone()),
            reason: Some(record.reason.clone()),
            regarding: Some(record.regarding.clone()),
            related: record.related.clone(),
            // Longer notes are refused by the API.
            note: Some(truncated(&record.message, 1024)),
            type_: Some(record.kind.as_str().to_owned()),
            ..SeriesEvent::default()
        };
        if retried(|| api.create(&post, &event)).await {
            series.insert(key, (event_name(&record), 1, now, now));
        }
    }
}

fn truncated(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

/// Sends until the API answers; an answer that refuses the event ends it. True if it was accepted.
async fn retried<F, Fut, T>(send: F) -> bool
where
    F: Fn() -> Fut,
    Fut: Future<Output = kube::Result<T>>,
{
    for attempt in 1..=ATTEMPTS {
        match send().await {
            Ok(_) => return true,
            Err(kube::Error::Api(status)) => {
                tracing::debug!(code = status.code, message = %status.message, "event refused");
                return false;
            }
            Err(error) => {
                tracing::debug!(%error, attempt, "event not sent");
                tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str, second: i64) -> Record {
        Record {
            regarding: ObjectReference {
                name: Some("web".into()),
                uid: Some("1".into()),
                ..ObjectReference::default()
            },
            related: None,
            kind: EventType::Normal,
            reason: "Pulled".into(),
            action: String::new(),
            message: message.into(),
            at: Timestamp::from_second(1_700_000_000 + second).unwrap(),
        }
    }

    #[test]
    fn a_repeated_event_raises_the_count_of_the_first() {
        let mut correlator = Correlator::default();
        let first = record("same", 0);
        assert_eq!(correlator.correlate(&first), Send::Create);
        let again = correlator.correlate(&record("same", 5));
        assert_eq!(again, Send::Repeat { name: event_name(&first), count: 2, message: "same".into() });
    }

    #[test]
    fn the_tenth_similar_event_is_combined() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            assert_eq!(correlator.correlate(&record(&format!("m{n}"), n)), Send::Create);
        }
        assert_eq!(correlator.correlate(&record("m9", 9)), Send::Create, "the combined event itself is new");
        let Send::Repeat { count, message, .. } = correlator.correlate(&record("m10", 10)) else {
            panic!("the eleventh must repeat the combined event");
        };
        assert_eq!((count, message.as_str()), (2, "(combined from similar events): m10"));
    }

    #[test]
    fn a_flood_about_one_object_is_dropped_after_the_burst() {
        let mut correlator = Correlator::default();
        let sent = (0..60).filter(|_| correlator.correlate(&record("same", 0)) != Send::Drop).count();
        assert_eq!(sent, 25);
        assert_ne!(correlator.correlate(&record("same", 301)), Send::Drop, "a token is back after five minutes");
    }

    #[test]
    fn notes_are_cut_at_a_character_boundary() {
        assert_eq!(truncated("aé", 2), "a");
        assert_eq!(truncated("ab", 5), "ab");
    }
}
