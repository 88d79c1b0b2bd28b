//! Updating objects: one loop for PUT, PATCH, status updates and the server's own changes.
use super::create::warn_of_duplicate_owners;
use super::write::{Committed, RETRIES, Write, Written, settle};
use super::{Registry, metadata, object_key, store_error};
use crate::admission::Operation;
use pintle_api::apply;
use pintle_api::convert;
use pintle_api::field::{FieldError, Path, go_quote};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::GroupKind;
use pintle_api::status::{ApiError, Reason};
use pintle_store::KeyValue;
use serde_json::Value;

/// Makes the new object from the stored one (none: there is none, and the update may create it).
pub type Change<'a> = &'a mut (dyn FnMut(Option<&Value>) -> Result<Value, ApiError> + Send);

impl Registry {
    /// Changes an object in place: reads it, lets `change` edit it, stores it; again if someone else wrote meanwhile.
    pub async fn update_with(
        &self,
        write: &Write<'_>,
        name: &str,
        mut change: impl FnMut(&mut Value) -> Result<(), ApiError> + Send,
    ) -> Result<Written, ApiError> {
        let resource = write.resource;
        let mut edit = |old: Option<&Value>| {
            let Some(old) = old else { return Err(ApiError::not_found(resource.group_resource(), name)) };
            let mut new = old.clone();
            change(&mut new)?;
            Ok(new)
        };
        self.update(write, name, false, &mut edit).await
    }

    /// Updates an object to what `change` makes of it: defaults, admission, validation, store.
    pub async fn update(
        &self,
        write: &Write<'_>,
        name: &str,
        force_create: bool,
        change: Change<'_>,
    ) -> Result<Written, ApiError> {
        let key = object_key(write.resource, write.namespace, name);
        let may_create = force_create || (write.strategy().allow_create_on_update() && write.subresource.is_empty());
        for _ in 0..RETRIES {
            let stored = self.store().get(&key).await.map_err(store_error)?;
            let committed = match &stored {
                Some(stored) => self.update_once(write, name, &key, stored, change).await?,
                None if may_create => return self.create_by_update(write, change).await,
                None => return Err(ApiError::not_found(write.resource.group_resource(), name)),
            };
            if let Committed::Done(written) = committed {
                return Ok(written);
            }
        }
        Err(ApiError::server_timeout(write.resource.group_resource(), "update", 1))
    }

    async fn create_by_update(&self, write: &Write<'_>, change: Change<'_>) -> Result<Written, ApiError> {
        let mut object = change(None)?;
        if !matches!(object.resource_version(), "" | "0") {
            return Err(ApiError::not_found(write.resource.group_resource(), object.name()));
        }
        object.set_meta_str("resourceVersion", "");
        self.create(write, object).await
    }

    async fn update_once(
        &self,
        write: &Write<'_>,
        name: &str,
        key: &[u8],
        stored: &KeyValue,
        change: Change<'_>,
    ) -> Result<Committed, ApiError> {
        let strategy = write.strategy();
        let old = self.open(write.resource, &stored.value).await?;
        let mut new = change(Some(&old))?;
        metadata::set_type(write.resource, &mut new);
        convert::in_stored_shape(write.resource, &mut new, |object| strategy.default(object));
        warn_of_duplicate_owners(write, &mut new, false);
        check_resource_version(write, name, &mut new, &old)?;
        write.track_fields(self, Some(&old), &mut new);
        write.admit(self, Operation::Update, name, Some(&mut new), Some(&old)).await?;
        metadata::ensure_namespace(write.resource, write.namespace, &mut new)?;
        new.set_meta_str("resourceVersion", old.resource_version());
        prepare_update(write, &mut new, &old);
        self.judge_update(write, &new, &old).await?;
        apply::keep_times(&mut new, &old);
        write.admit_valid(self, Operation::Update, name, Some(&new), Some(&old)).await?;
        let side = strategy.before_write(write.cx, self, Some(&old), &mut new).await?;
        settle(write.resource, &mut new)?;
        if should_delete(&new, &old) && !strategy.holds_deletion(&new) {
            let Some((object, revision)) = self.remove(write, key, stored, new).await? else {
                return Ok(Committed::Conflict);
            };
            let bytes = self.encode_stored(write.resource, &object).await?.stamped(revision);
            return Ok(Committed::Done(Written { object, bytes, created: false }));
        }
        if new == old && side.ops.is_empty() {
            return Ok(Committed::Done(Written { object: new, bytes: stored.value.clone(), created: false }));
        }
        self.commit(write, key.to_vec(), Some(stored), new, side).await
    }

    async fn judge_update(&self, write: &Write<'_>, new: &Value, old: &Value) -> Result<(), ApiError> {
        let (strategy, status) = (write.strategy(), write.subresource == "status");
        let mut errors = metadata::validate(write.resource, strategy, new);
        errors.extend(metadata::validate_update(new, old));
        let judged = (convert::judged(write.resource, new), convert::judged(write.resource, old));
        errors.extend(write.faults(self, Operation::Update, &judged.0, Some(&judged.1)).await);
        let mut warn = |warning| write.cx.warn(warning);
        errors.extend(strategy.judge_update(&judged.0, &judged.1, status, &mut warn));
        if !errors.is_empty() {
            return Err(ApiError::invalid(write.resource.group_kind(), old.name(), &errors));
        }
        if !status {
            for warning in strategy.warnings_on_update(new, old) {
                write.cx.warn(warning);
            }
        }
        Ok(())
    }
}

/// A resource version that the client gave must be the stored one.
fn check_resource_version(write: &Write<'_>, name: &str, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let resource = write.resource.group_resource();
    match new.resource_version() {
        "" | "0" if write.strategy().allow_unconditional_update() => {
            new.set_meta_str("resourceVersion", old.resource_version());
            Ok(())
        }
        given @ ("" | "0") => {
            let path = Path::root("metadata");
            let value = if given.is_empty() { 0 } else { given.parse().unwrap_or(0) };
            let error = FieldError::invalid(&path.child("resourceVersion"), value, "must be specified for an update");
            // upstream: the kind is the plural name here
            let kind = GroupKind { group: &write.resource.group, kind: &write.resource.plural };
            Err(ApiError::invalid(kind, name, &[error]))
        }
        given if given == old.resource_version() => Ok(()),
        given if given.bytes().all(|byte| byte.is_ascii_digit()) => Err(ApiError::object_modified(resource, name)),
        given => {
            let text = format!("strconv.ParseUint: parsing {}: invalid syntax", go_quote(given));
            Err(ApiError::new(500, Reason::Unknown, text))
        }
    }
}

fn prepare_update(write: &Write<'_>, new: &mut Value, old: &Value) {
    let strategy = write.strategy();
    let status = write.subresource == "status";
    match old.metadata().and_then(|metadata| metadata.get("generation")) {
        Some(generation) => new.metadata_mut().insert("generation".into(), generation.clone()),
        None => new.metadata_mut().remove("generation"),
    };
    if status {
        strategy.prepare_for_status_update(write.cx, new, old);
    } else {
        strategy.prepare_for_update(write.cx, new, old);
        if strategy.tracks_generation() && spec_differs(new, old) {
            new.set_generation(old.generation() + 1);
        }
    }
    metadata::keep_system_fields(new, old);
}

/// Whether anything but metadata and status differs.
fn spec_differs(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new != old };
    let counts = |key: &&String| !matches!(key.as_str(), "metadata" | "status" | "kind" | "apiVersion");
    let differs = |key: &String| new.get(key) != old.get(key);
    new.keys().filter(counts).any(differs) || old.keys().filter(counts).any(differs)
}

/// Whether an update takes the last finalizer from an object that waits only for that.
/// upstream: ShouldDeleteDuringUpdate.
fn should_delete(new: &Value, old: &Value) -> bool {
    new.finalizers().next().is_none()
        && old.deletion_timestamp().is_some()
        && old.deletion_grace_period_seconds().unwrap_or(0) == 0
}
