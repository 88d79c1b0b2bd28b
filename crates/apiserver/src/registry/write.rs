//! What all writes share: who writes what and how ([`Write`]), and the store transaction at the end.
use super::{Registry, decode_stored, store_error};
use crate::admission::{Admission, Attributes, Operation};
use crate::context::RequestContext;
use crate::conversion;
use crate::encode::{Encoded, encode};
use crate::strategy::{self, SideWrites, Strategy};
use bytes::Bytes;
use pintle_api::convert;
use pintle_api::custom::Custom;
use pintle_api::field::FieldError;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{Resource, api_version};
use pintle_api::status::ApiError;
use pintle_api::{decode, facts};
use pintle_store::{Compare, KeyValue, Op, Revision, TxnOutcome};
use serde_json::Value;

/// How often a write whose transaction met a concurrent one starts over before it gives up.
pub(super) const RETRIES: usize = 64;

/// Who writes what, and how.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// The request.
    pub cx: &'a RequestContext,
    /// The resource, in the version in which the object is given.
    pub resource: &'a Resource,
    /// The subresource, empty for the object itself; with `status` only the status is written.
    pub subresource: &'a str,
    /// The namespace, empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
    /// Who must admit the write; none for writes of the server itself.
    pub admission: Option<&'a dyn Admission>,
    /// The request's options, for admission.
    pub options: &'a Value,
    /// Who comes to own the fields that change: the parameter `fieldManager`, or the client's name. None: the server's own
    /// book-keeping, which nobody owns, and server-side apply, which writes `managedFields` itself.
    pub manager: Option<&'a str>,
}

impl<'a> Write<'a> {
    /// A write of the server itself, or one whose admission has been done.
    pub fn internal(cx: &'a RequestContext, resource: &'a Resource, namespace: &'a str) -> Self {
        Write {
            cx,
            resource,
            subresource: "",
            namespace,
            dry_run: false,
            admission: None,
            options: &Value::Null,
            manager: None,
        }
    }

    /// The same for a subresource.
    #[must_use]
    pub fn subresource(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }

    /// The same, by which `manager` comes to own the fields that change.
    #[must_use]
    pub fn managed_by(mut self, manager: &'a str) -> Self {
        self.manager = Some(manager);
        self
    }

    pub(super) fn strategy(&self) -> &'a dyn Strategy {
        strategy::of_subresource(self.resource, self.subresource)
    }

    pub(super) fn attributes<'b>(
        &'b self,
        operation: Operation,
        name: &'b str,
        old: Option<&'b Value>,
    ) -> Attributes<'b>
    where
        'a: 'b,
    {
        Attributes {
            cx: self.cx,
            resource: self.resource,
            subresource: self.subresource,
            operation,
            namespace: self.namespace,
            name,
            dry_run: self.dry_run,
            options: self.options,
            old,
        }
    }

    /// The mutating phase of admission.
    pub(super) async fn admit(
        &self,
        registry: &Registry,
        operation: Operation,
        name: &str,
        object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let Some(admission) = self.admission else { return Ok(()) };
        admission.admit(&self.attributes(operation, name, old), object, registry).await
    }

    /// What is wrong with `object` as far as only the cluster knows.
    pub(super) async fn faults(
        &self,
        registry: &Registry,
        operation: Operation,
        object: &Value,
        old: Option<&Value>,
    ) -> Vec<FieldError> {
        let Some(admission) = self.admission else { return Vec::new() };
        admission.faults(&self.attributes(operation, object.name(), old), object, registry).await
    }

    /// The validating phase of admission.
    pub(super) async fn admit_valid(
        &self,
        registry: &Registry,
        operation: Operation,
        name: &str,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let Some(admission) = self.admission else { return Ok(()) };
        admission.validate(&self.attributes(operation, name, old), object, registry).await
    }
}

/// The outcome of a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object as it is now.
    pub object: Value,
    /// Its encoding in the version that is stored.
    pub bytes: Bytes,
    /// Whether it was created by this write.
    pub created: bool,
}

/// What a transaction came to.
pub(super) enum Committed {
    Done(Written),
    /// Someone else wrote first.
    Conflict,
}

impl Registry {
    /// Stores `object` if `key` is as `old` says (none: absent).
    pub(super) async fn commit(
        &self,
        write: &Write<'_>,
        key: Vec<u8>,
        old: Option<&KeyValue>,
        mut object: Value,
        side: SideWrites,
    ) -> Result<Committed, ApiError> {
        let encoded = self.encode_stored(write.resource, &object).await?;
        let (bytes, revision) = if write.dry_run {
            let revision = old.map(|kv| kv.mod_revision);
            object.set_meta_str("resourceVersion", "");
            (revision.map_or_else(|| object.to_string().into(), |revision| encoded.stamped(revision)), revision)
        } else {
            let put = Op::Put { key: key.clone().into(), value: encoded.bytes.clone(), stamp: Some(encoded.stamp) };
            match self.transact(key, old.map_or(0, |kv| kv.mod_revision), put, side).await? {
                Some(revision) => (encoded.stamped(revision), Some(revision)),
                None => return Ok(Committed::Conflict),
            }
        };
        object.set_meta_str("resourceVersion", revision.map(|revision| revision.to_string()).unwrap_or_default());
        Ok(Committed::Done(Written { object, bytes, created: old.is_none() }))
    }

    /// Applies `op` and `side` if `key` was last modified at `mod_revision`; `None` on conflict.
    pub(super) async fn transact(
        &self,
        key: Vec<u8>,
        mod_revision: Revision,
        op: Op,
        side: SideWrites,
    ) -> Result<Option<Revision>, ApiError> {
        let mut compares = vec![Compare { key: key.into(), mod_revision }];
        compares.extend(side.compares);
        let mut ops = vec![op];
        ops.extend(side.ops);
        match self.store().txn(compares, ops).await.map_err(store_error)? {
            TxnOutcome::Committed(revision) => Ok(Some(revision)),
            TxnOutcome::Conflict(_) => Ok(None),
        }
    }

    /// A stored object in the version of `resource`, also where a webhook has to convert it.
    pub(crate) async fn open(&self, resource: &Resource, stored: &[u8]) -> Result<Value, ApiError> {
        if conversion::webhook(resource).is_none() {
            return self.load(resource, stored);
        }
        let mut opened = Box::pin(self.open_all(resource, &[stored])).await?;
        opened.pop().ok_or_else(|| ApiError::internal("nothing was converted"))
    }

    /// As [`Registry::open`] for many objects, which are converted in one go.
    async fn open_all(&self, resource: &Resource, stored: &[&[u8]]) -> Result<Vec<Value>, ApiError> {
        let revive = |stored: &&[u8]| {
            let mut object = decode_stored(stored)?;
            if let Some(custom) = &resource.custom {
                custom.revive(&mut object).map_err(ApiError::internal)?;
            }
            Ok(object)
        };
        let objects = stored.iter().map(revive).collect::<Result<Vec<Value>, ApiError>>()?;
        self.0.converters.convert(self, resource, &resource.api_version(), objects).await
    }

    /// Stored objects in the version of `resource` as far as webhooks have to convert them; [`Registry::load`] does the rest.
    pub(crate) async fn converted(&self, resource: &Resource, stored: Vec<Bytes>) -> Result<Vec<Bytes>, ApiError> {
        if conversion::webhook(resource).is_none() {
            return Ok(stored);
        }
        let all: Vec<&[u8]> = stored.iter().map(|bytes| &bytes[..]).collect();
        let objects = Box::pin(self.open_all(resource, &all)).await?;
        Ok(objects.iter().map(|object| Bytes::from(object.to_string())).collect())
    }

    /// `object` as it is stored.
    pub(super) async fn encode_stored(&self, resource: &Resource, object: &Value) -> Result<Encoded, ApiError> {
        if conversion::webhook(resource).is_none() {
            return encode_for_storage(resource, object);
        }
        let wanted = api_version(&resource.storage_group, &resource.storage_version);
        let converted = Box::pin(self.0.converters.convert(self, resource, &wanted, vec![object.clone()])).await?;
        Ok(encode(converted.first().unwrap_or(object)))
    }

    /// A stored object in the version of `resource`.
    pub fn load(&self, resource: &Resource, stored: &[u8]) -> Result<Value, ApiError> {
        let mut object = decode_stored(stored)?;
        let Some(custom) = &resource.custom else {
            return convert::from_storage(resource, object).map_err(ApiError::internal);
        };
        // The schema may be another one than when the object was stored.
        custom.revive(&mut object).map_err(ApiError::internal)?;
        retarget(custom, &resource.api_version(), &mut object)?;
        Ok(object)
    }
}

/// Gives a custom resource another version, where versions differ in nothing else.
fn retarget(custom: &Custom, api_version: &str, object: &mut Value) -> Result<(), ApiError> {
    if object.api_version() == api_version {
        return Ok(());
    }
    object["apiVersion"] = api_version.into();
    custom.settle(object).map_err(ApiError::internal)
}

/// Removes from a custom resource what its schema does not know, which admission may have brought in, and from others what
/// upstream's storage forgets.
pub(super) fn settle(resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
    if let Some(custom) = &resource.custom {
        return custom.settle(object).map_err(ApiError::internal);
    }
    if let Some(ty) = facts::lookup(&resource.group, &resource.version, &resource.kind) {
        decode::forget_empty(object, ty);
    }
    Ok(())
}

/// Whether objects are stored as `resource` shows them; custom resources are read by their present schema instead.
pub fn is_storage_version(resource: &Resource) -> bool {
    resource.custom.is_none()
        && resource.group == resource.storage_group
        && resource.version == resource.storage_version
}

fn encode_for_storage(resource: &Resource, object: &Value) -> Result<Encoded, ApiError> {
    if is_storage_version(resource) {
        return Ok(encode(object));
    }
    if let Some(custom) = &resource.custom {
        let stored_version = api_version(&resource.storage_group, &resource.storage_version);
        if object.api_version() == stored_version {
            return Ok(encode(object));
        }
        let mut stored = object.clone();
        retarget(custom, &stored_version, &mut stored)?;
        return Ok(encode(&stored));
    }
    let stored = convert::to_storage(resource, object.clone()).map_err(ApiError::internal)?;
    Ok(encode(&stored))
}
