//! GET of objects and collections.
use super::ApiServer;
use super::resource::Call;
use crate::body::Body;
use crate::conversion;
use crate::list_options::{Continue, ListOptions, Match, parse_exact_revision};
use crate::registry::{collection_prefix, is_storage_version, object_key, prefix_end, store_error};
use crate::respond::{self, ListMeta, Shown};
use bytes::Bytes;
use http::{Response, StatusCode};
use pintle_api::status::{ApiError, Reason};
use pintle_store::{Error, KeyValue, RangeResult, Revision};
use std::time::Duration;

/// How long a read waits for a revision that is yet to come. upstream: blockTimeout.
const FUTURE_REVISION_WAIT: Duration = Duration::from_secs(3);
/// How many objects are looked at in one go when a selection is paged.
const SCAN: usize = 1000;
/// Lists of so many objects are converted aside.
const LARGE: usize = 200;

impl ApiServer {
    pub(super) async fn get(&self, call: &Call) -> Result<Response<Body>, ApiError> {
        let query = &call.cx.info.query;
        let revision = parse_exact_revision(query.text("resourceVersion"))?;
        self.wait_for_revision(revision).await?;
        let include = respond::include_object(query)?;
        let stored = self.registry().get_stored(&call.resource, &call.namespace, &call.cx.info.name).await?;
        if is_storage_version(&call.resource) {
            let shown = Shown::Stored(&stored.value);
            return respond::object(StatusCode::OK, &call.negotiation, &call.resource, shown, include);
        }
        let object = self.registry().open(&call.resource, &stored.value).await?;
        respond::object(StatusCode::OK, &call.negotiation, &call.resource, Shown::Value(&object), include)
    }

    pub(super) async fn list(&self, call: &Call) -> Result<Response<Body>, ApiError> {
        let options = ListOptions::parse(&call.resource, &call.cx.info.query, false)?;
        let include = respond::include_object(&call.cx.info.query)?;
        let (stored, meta) = match (self.page(call, &options).await, &options.position) {
            (Err(error), Some(position)) if error.reason == Reason::Expired => return expired(call, &error, position),
            (page, _) => page?,
        };
        let stored: Vec<Bytes> = stored.into_iter().map(|kv| kv.value).collect();
        let stored = self.registry().converted(&call.resource, stored).await?;
        if stored.len() < LARGE || respond::is_plain(&call.negotiation, &call.resource) {
            return respond::list(self.registry(), &call.negotiation, &call.resource, stored, &meta, include);
        }
        // Converting thousands of objects takes long enough to be in other requests' way.
        let (registry, negotiation, resource) = (self.registry().clone(), call.negotiation, call.resource.clone());
        let convert = move || respond::list(&registry, &negotiation, &resource, stored, &meta, include);
        tokio::task::spawn_blocking(convert).await.map_err(ApiError::internal)?
    }

    /// One page of a collection.
    pub(super) async fn page(&self, call: &Call, options: &ListOptions) -> Result<(Vec<KeyValue>, ListMeta), ApiError> {
        let exact = match (options.revision, options.revision_match) {
            (Some(revision), Some(Match::Exact)) => Some(revision),
            // Older clients page so: upstream reads the given revision.
            (Some(revision), None) if revision > 0 && options.limit > 0 => Some(revision),
            _ => None,
        };
        self.wait_for_revision(options.revision).await?;
        let prefix = collection_prefix(&call.resource, &call.namespace);
        let (mut start, mut end) = (prefix.clone(), prefix_end(&prefix));
        if let Some(name) = options.selection.name()
            && (!call.resource.namespaced || !call.namespace.is_empty())
        {
            start = object_key(&call.resource, &call.namespace, name);
            end = [start.as_slice(), b"\0"].concat();
        }
        let mut revision = exact;
        if let Some(position) = &options.position {
            start = [prefix.as_slice(), position.start.as_bytes()].concat();
            // A negative revision continues with whatever is there now.
            revision = Revision::try_from(position.revision).ok();
        }
        let range = |error| match error {
            Error::Compacted { .. } if exact.is_some() => {
                ApiError::expired("The resourceVersion for the provided list is too old.")
            }
            Error::Future { requested, current } => too_large(requested, current),
            other => store_error(other),
        };
        let all = options.selection.is_everything();
        // Fields are those of the version that is asked for.
        let converts = options.selection.reads_content() && conversion::webhook(&call.resource).is_some();
        let mut items: Vec<KeyValue> = Vec::new();
        loop {
            let step = if options.limit == 0 {
                0
            } else if all {
                options.limit
            } else {
                options.limit.max(SCAN)
            };
            let mut found: RangeResult =
                self.registry().store().range(&start, &end, step, revision).await.map_err(range)?;
            if converts {
                let stored = found.items.iter().map(|kv| kv.value.clone()).collect();
                let converted = self.registry().converted(&call.resource, stored).await?;
                found.items.iter_mut().zip(converted).for_each(|(kv, value)| kv.value = value);
            }
            let read = revision.unwrap_or(found.revision);
            revision = Some(read);
            let mut remaining = found.remaining;
            let last = found.items.last().map(|kv| kv.key.clone());
            let mut rest = found.items.into_iter();
            for kv in rest.by_ref() {
                if all || options.selection.matches_stored(&kv.value) {
                    items.push(kv);
                    if options.limit > 0 && items.len() == options.limit {
                        break;
                    }
                }
            }
            remaining += rest.len();
            let full = options.limit > 0 && items.len() == options.limit;
            let meta = ListMeta { revision: read, ..ListMeta::default() };
            if remaining == 0 {
                return Ok((items, meta));
            }
            if full {
                let next = items.last().map(|kv| after(&kv.key, &prefix));
                let next = next.map(|start| Continue::new(read, start).encode());
                return Ok((items, ListMeta { next, remaining: all.then_some(remaining), ..meta }));
            }
            let Some(last) = last else { return Ok((items, meta)) };
            start = [last.as_ref(), b"\0"].concat();
        }
    }

    /// Waits shortly for a revision that is newer than the newest; 504 if it does not come.
    pub(super) async fn wait_for_revision(&self, revision: Option<Revision>) -> Result<(), ApiError> {
        let Some(revision) = revision.filter(|revision| *revision > self.registry().store().revision()) else {
            return Ok(());
        };
        let reached = self.registry().cache().reached(revision);
        if tokio::time::timeout(FUTURE_REVISION_WAIT, reached).await.is_ok() {
            return Ok(());
        }
        Err(too_large(revision, self.registry().store().revision()))
    }
}

/// The answer to a token whose revision is gone: with another one, that continues with what is there now.
/// upstream: etcd3, handleCompactedErrorForPaging.
fn expired(call: &Call, error: &ApiError, position: &Continue) -> Result<Response<Body>, ApiError> {
    let mut status = error.to_value();
    status["message"] = "The provided continue parameter is too old to display a consistent list result. You can start a \
                         new list without the continue parameter, or use the continue token in this response to \
                         retrieve the remainder of the results. Continuing with the provided token results in an \
                         inconsistent list - objects that were created, modified, or deleted between the time the first \
                         chunk was returned and now may show up in the list."
        .into();
    status["metadata"]["continue"] = position.inconsistent().encode().into();
    respond::value(StatusCode::GONE, &call.negotiation, &status)
}

/// upstream: storage.NewTooLargeResourceVersionError.
fn too_large(requested: Revision, current: Revision) -> ApiError {
    let mut error = ApiError::timeout(&format!("Too large resource version: {requested}, current: {current}"), 1);
    error.details_mut().causes.push(pintle_api::status::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        ..Default::default()
    });
    error
}

/// The first key after `key`, from `prefix` on.
fn after(key: &Bytes, prefix: &[u8]) -> String {
    let mut start = String::from_utf8_lossy(key.get(prefix.len()..).unwrap_or_default()).into_owned();
    start.push('\0');
    start
}
