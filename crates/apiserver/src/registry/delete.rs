//! Deleting objects: grace periods, finalizers, preconditions, collections.
use super::metadata::{FOREGROUND_DELETION, ORPHAN_DEPENDENTS};
use super::write::{Committed, RETRIES, Write};
use super::{Registry, object_key, store_error};
use crate::admission::Operation;
use crate::strategy::SideWrites;
use pintle_api::meta::{self, ObjectExt};
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use pintle_store::{KeyValue, Op, Revision};
use serde_json::Value;

/// `metav1.DeleteOptions`, as far as the registry goes by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// How long whoever runs the object may take, in seconds.
    pub grace_period_seconds: Option<i64>,
    /// Only delete the object with this UID.
    pub uid: Option<String>,
    /// Only delete the object at this resource version.
    pub resource_version: Option<String>,
    /// What happens to dependents: `Orphan`, `Background`, `Foreground`.
    pub propagation_policy: Option<String>,
    /// The older form of `propagation_policy`.
    pub orphan_dependents: Option<bool>,
}

impl DeleteOptions {
    /// Deletes at once.
    pub fn immediate() -> Self {
        DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() }
    }

    /// Reads the options from a `DeleteOptions` object.
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        DeleteOptions {
            grace_period_seconds: object["gracePeriodSeconds"].as_i64(),
            uid: text(&object["preconditions"]["uid"]),
            resource_version: text(&object["preconditions"]["resourceVersion"]),
            propagation_policy: text(&object["propagationPolicy"]),
            orphan_dependents: object["orphanDependents"].as_bool(),
        }
    }
}

/// What a deletion came to.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The object's last state.
    pub object: Value,
    /// Whether it is gone; otherwise finalizers or a grace period hold it.
    pub gone: bool,
}

enum Step {
    /// Nothing to do: the deletion is under way.
    Pending,
    /// Store this state, which waits for finalizers or for the grace period to end.
    Mark(Value),
    /// Remove it.
    Remove(Value),
}

impl Registry {
    /// Deletes an object, or marks it as being deleted.
    pub async fn delete(&self, write: &Write<'_>, name: &str, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let key = object_key(write.resource, write.namespace, name);
        for _ in 0..RETRIES {
            let stored = self.store().get(&key).await.map_err(store_error)?;
            let stored = stored.ok_or_else(|| ApiError::not_found(write.resource.group_resource(), name))?;
            let old = self.open(write.resource, &stored.value).await?;
            check_preconditions(write.resource, &old, options)?;
            write.admit(self, Operation::Delete, name, None, Some(&old)).await?;
            write.admit_valid(self, Operation::Delete, name, None, Some(&old)).await?;
            let step = decide(write, &old, options);
            match step {
                Step::Pending => return Ok(Deleted { object: old, gone: false }),
                Step::Mark(new) => {
                    let side = SideWrites::default();
                    if let Committed::Done(written) = self.commit(write, key.clone(), Some(&stored), new, side).await? {
                        return Ok(Deleted { object: written.object, gone: false });
                    }
                }
                Step::Remove(last) => {
                    if let Some((object, _)) = self.remove(write, &key, &stored, last).await? {
                        return Ok(Deleted { object, gone: true });
                    }
                }
            }
        }
        Err(ApiError::server_timeout(write.resource.group_resource(), "delete", 1))
    }

    /// Takes `stored`, whose last state is `last`, from the store: that state with the revision at which it went, and the
    /// revision. `None` if someone else wrote meanwhile.
    pub(super) async fn remove(
        &self,
        write: &Write<'_>,
        key: &[u8],
        stored: &KeyValue,
        mut last: Value,
    ) -> Result<Option<(Value, Revision)>, ApiError> {
        if write.dry_run {
            return Ok(Some((last, stored.mod_revision)));
        }
        let side = write.strategy().before_removal(self, &last).await?;
        let op = Op::Delete { key: key.to_vec().into() };
        let Some(revision) = self.transact(key.to_vec(), stored.mod_revision, op, side).await? else { return Ok(None) };
        last.set_meta_str("resourceVersion", revision.to_string());
        Ok(Some((last, revision)))
    }
}

fn check_preconditions(resource: &Resource, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    // upstream names the kind here where other conflicts name the resource.
    let about = pintle_api::scheme::GroupResource { group: &resource.group, resource: &resource.kind };
    if let Some(uid) = &options.uid
        && uid != old.uid()
    {
        let text = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            old.uid()
        );
        return Err(ApiError::conflict(about, old.name(), text));
    }
    if let Some(version) = &options.resource_version
        && version != old.resource_version()
    {
        let text = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). \
             The object might have been modified",
            old.resource_version()
        );
        return Err(ApiError::conflict(about, old.name(), text));
    }
    Ok(())
}

/// upstream: registry.Store.Delete with rest.BeforeDelete.
fn decide(write: &Write<'_>, old: &Value, options: &DeleteOptions) -> Step {
    let requested = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let mut new = old.clone();
    let mut grace = None;
    let graceful_kind = write.strategy().grace_period(old, requested);
    match (graceful_kind, old.deletion_timestamp(), old.deletion_grace_period_seconds()) {
        (None, _, _) | (_, Some(_), None | Some(0)) => {}
        (Some(_), Some(timestamp), Some(pending)) => match requested {
            Some(shorter) if shorter < pending => grace = Some(shorten(&mut new, timestamp, pending, shorter)),
            _ => return Step::Pending,
        },
        (Some(seconds), None, _) => {
            let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
            mark(&mut new, end, seconds);
            grace = Some(seconds);
        }
    }
    let finalizers = garbage_collection_finalizers(write, old, options);
    let held = !finalizers.is_empty() || write.strategy().holds_deletion(old);
    new.set_finalizers(finalizers);
    match (grace, held) {
        (Some(seconds), _) if seconds > 0 => Step::Mark(new),
        (Some(_), true) => Step::Mark(new),
        (None, true) => {
            let now = jiff::Timestamp::now();
            let earlier = old.deletion_timestamp().and_then(|t| t.parse().ok()).filter(|t: &jiff::Timestamp| *t <= now);
            mark(&mut new, earlier.unwrap_or(now), 0);
            write.strategy().mark_deleting(&mut new);
            if new == *old { Step::Pending } else { Step::Mark(new) }
        }
        (_, false) => Step::Remove(new),
    }
}

/// Writes the time by which the object is to be gone; the first mark counts as a new generation.
fn mark(object: &mut Value, end: jiff::Timestamp, grace_seconds: i64) {
    if object.deletion_timestamp().is_none() && object.generation() > 0 {
        object.set_generation(object.generation() + 1);
    }
    object.set_meta_str("deletionTimestamp", meta::time(end));
    object.metadata_mut().insert("deletionGracePeriodSeconds".into(), grace_seconds.into());
}

/// Shortens a grace period under way and returns it: the end never moves into the past.
fn shorten(object: &mut Value, timestamp: &str, pending: i64, requested: i64) -> i64 {
    let now = jiff::Timestamp::now();
    let end: jiff::Timestamp = timestamp.parse().unwrap_or(now);
    let end = end - jiff::SignedDuration::from_secs(pending) + jiff::SignedDuration::from_secs(requested);
    let (end, seconds) = if end < now { (now, requested.min(1)) } else { (end, requested) };
    mark(object, end, seconds);
    seconds
}

/// The finalizers after the deletion was asked for. upstream: deletionFinalizersForGarbageCollection.
fn garbage_collection_finalizers(write: &Write<'_>, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let supported = write.strategy().supports_garbage_collection();
    let policy = options.propagation_policy.as_deref();
    let orphan = supported
        && match (options.orphan_dependents, policy) {
            (Some(orphan), _) => orphan,
            (None, Some("Orphan")) => true,
            (None, Some("Background" | "Foreground")) => false,
            _ if old.has_finalizer(ORPHAN_DEPENDENTS) => true,
            _ if old.has_finalizer(FOREGROUND_DELETION) => false,
            _ => write.strategy().orphans_dependents_by_default(),
        };
    let foreground = supported
        && match (options.orphan_dependents, policy) {
            (Some(_), _) => false,
            (None, Some("Foreground")) => true,
            (None, Some("Background" | "Orphan")) => false,
            _ => old.has_finalizer(FOREGROUND_DELETION),
        };
    let others = old.finalizers().filter(|f| *f != ORPHAN_DEPENDENTS && *f != FOREGROUND_DELETION);
    let mut finalizers: Vec<String> = others.map(str::to_owned).collect();
    finalizers.extend(orphan.then(|| ORPHAN_DEPENDENTS.to_owned()));
    finalizers.extend(foreground.then(|| FOREGROUND_DELETION.to_owned()));
    finalizers
}
