//! Creating objects.
use super::write::{Committed, RETRIES, Write, Written, settle};
use super::{Registry, metadata, object_key};
use crate::admission::Operation;
use pintle_api::convert;
use pintle_api::meta::ObjectExt;
use pintle_api::status::{ApiError, Reason};
use serde_json::Value;

/// How many generated names are tried. upstream: maxNameGenerationCreateAttempts.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates `object`: defaults, admission, validation, store.
    pub async fn create(&self, write: &Write<'_>, mut object: Value) -> Result<Written, ApiError> {
        let strategy = write.strategy();
        if write.resource.custom.as_ref().is_some_and(|custom| custom.terminating) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::forbidden(write.resource.group_resource(), object.name(), why));
        }
        metadata::set_type(write.resource, &mut object);
        convert::in_stored_shape(write.resource, &mut object, |object| strategy.default(object));
        metadata::wipe_system_fields(&mut object);
        metadata::ensure_namespace(write.resource, write.namespace, &mut object)?;
        warn_of_duplicate_owners(write, &mut object, false);
        write.track_fields(self, None, &mut object);
        let name = object.name().to_owned();
        write.admit(self, Operation::Create, &name, Some(&mut object), None).await?;
        warn_of_duplicate_owners(write, &mut object, true);
        metadata::fill_system_fields(&mut object);
        if !object.name().is_empty() || object.generate_name().is_empty() {
            return self.create_named(write, object).await;
        }
        let base = object.generate_name().to_owned();
        for _ in 0..NAME_ATTEMPTS {
            let mut candidate = object.clone();
            candidate.set_meta_str("name", metadata::generate_name(&base));
            match self.create_named(write, candidate).await {
                Err(error) if error.is_already_exists() => {}
                other => return other,
            }
        }
        Err(ApiError::generate_name_conflict(write.resource.group_resource(), &metadata::generate_name(&base), 1))
    }

    async fn create_named(&self, write: &Write<'_>, mut object: Value) -> Result<Written, ApiError> {
        self.prepare_create(write, &mut object).await?;
        if !write.dry_run && !matches!(object.resource_version(), "" | "0") {
            let text = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::new(500, Reason::Unknown, text));
        }
        object.set_meta_str("resourceVersion", "");
        let name = object.name().to_owned();
        let key = object_key(write.resource, write.namespace, &name);
        let exists = || ApiError::already_exists(write.resource.group_resource(), &name);
        for _ in 0..RETRIES {
            if self.store().get(&key).await.map_err(super::store_error)?.is_some() {
                return Err(exists());
            }
            let mut attempt = object.clone();
            let side = write.strategy().before_write(write.cx, self, None, &mut attempt).await?;
            settle(write.resource, &mut attempt)?;
            match self.commit(write, key.clone(), None, attempt, side).await? {
                Committed::Done(written) => return Ok(written),
                Committed::Conflict => {}
            }
        }
        Err(ApiError::server_timeout(write.resource.group_resource(), "create", 1))
    }

    /// Everything between mutating admission and the store.
    pub(super) async fn prepare_create(&self, write: &Write<'_>, object: &mut Value) -> Result<(), ApiError> {
        let strategy = write.strategy();
        if strategy.tracks_generation() {
            object.set_generation(1);
        }
        strategy.prepare_for_create(write.cx, object);
        for finalizer in strategy.initial_finalizers() {
            if !object.has_finalizer(finalizer) {
                let all: Vec<String> = object.finalizers().chain([*finalizer]).map(str::to_owned).collect();
                object.set_finalizers(all);
            }
        }
        let mut errors = metadata::validate(write.resource, strategy, object);
        let judged = convert::judged(write.resource, object);
        errors.extend(write.faults(self, Operation::Create, &judged, None).await);
        errors.extend(strategy.validate_create(&judged));
        if !errors.is_empty() {
            return Err(ApiError::invalid(write.resource.group_kind(), object.name(), &errors));
        }
        for warning in strategy.warnings_on_create(object) {
            write.cx.warn(warning);
        }
        write.admit_valid(self, Operation::Create, object.name(), Some(object), None).await
    }
}

pub(super) fn warn_of_duplicate_owners(write: &Write<'_>, object: &mut Value, after_admission: bool) {
    let dropped = metadata::dedup_owner_references(object);
    if dropped.is_empty() {
        return;
    }
    let when = if after_admission { "after mutating admission happens" } else { "" };
    let text = if when.is_empty() {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            dropped.join(", ")
        )
    } else {
        format!(
            ".metadata.ownerReferences contains duplicate entries {when}; API server dedups owner references in 1.20+, \
             and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            dropped.join(", ")
        )
    };
    write.cx.warn(text);
}
