//! Deletes the objects of a definition that is going away, and then lets the definition go.
// upstream: apiextensions-apiserver pkg/controller/finalizer
use super::{FINALIZER, PLURAL, plan, stored_definition};
use crate::context::RequestContext;
use crate::registry::{DeleteOptions, Registry, Write, decode_stored};
use pintle_api::custom::definition::Condition;
use pintle_api::meta::{self, ObjectExt};
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use pintle_store::KeyValue;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The wait before a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(5);

/// Empties the definition with this UID; ends when it is done or the definition is gone.
pub(super) async fn run(registry: Registry, name: String, uid: String, stop: CancellationToken) -> String {
    loop {
        let done = tokio::select! {
            done = empty(&registry, &name, &uid) => done,
            () = stop.cancelled() => return name,
        };
        let Err(error) = done else { return name };
        tracing::warn!(name, %error, "the objects of a definition cannot be deleted, will retry");
        tokio::select! { () = tokio::time::sleep(RETRY) => {} () = stop.cancelled() => return name }
    }
}

async fn empty(registry: &Registry, name: &str, uid: &str) -> Result<(), ApiError> {
    let Some((definition, resource)) = stored_definition(registry, name).await? else { return Ok(()) };
    if definition.metadata.uid != uid {
        return Ok(());
    }
    let (reason, message) = match resource.filter(|_| definition.status.is_true("Established")) {
        None => ("NeverEstablished", "resource was never established"),
        Some(resource) => {
            let progress = ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
            terminating(registry, name, uid, progress, false).await?;
            if let Err(error) = delete_all(registry, &resource).await {
                let message = format!("could not issue all deletes: {error}");
                terminating(registry, name, uid, ("True", "InstanceDeletionFailed", &message), false).await?;
                return Err(error);
            }
            ("InstanceDeletionCompleted", "removed all instances")
        }
    };
    terminating(registry, name, uid, ("False", reason, message), true).await
}

/// Deletes every object and waits until all are gone.
async fn delete_all(registry: &Registry, resource: &Resource) -> Result<(), ApiError> {
    let cx = RequestContext::system();
    let ring = registry.cache().ring(resource.storage_prefix().as_bytes());
    loop {
        let changed = ring.changed();
        let (stored, _) = registry.list_keyed(resource, "").await?;
        if stored.is_empty() {
            return Ok(());
        }
        let mut asked = false;
        for kv in &stored {
            let object = decode_stored(&kv.value)?;
            if object.deletion_timestamp().is_none() {
                asked = true;
                delete_one(registry, &cx, resource, kv).await?;
            }
        }
        if !asked {
            // What is left waits for finalizers of others.
            changed.await;
        }
    }
}

async fn delete_one(
    registry: &Registry,
    cx: &RequestContext,
    resource: &Resource,
    kv: &KeyValue,
) -> Result<(), ApiError> {
    let prefix = resource.storage_prefix().len();
    let key = String::from_utf8_lossy(kv.key.get(prefix..).unwrap_or_default()).into_owned();
    let (namespace, name) = match key.split_once('/') {
        Some((namespace, name)) if resource.namespaced => (namespace, name),
        _ => ("", key.as_str()),
    };
    match registry.delete(&Write::internal(cx, resource, namespace), name, &DeleteOptions::default()).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Sets the condition `Terminating`; at the end also takes the finalizer away, and with it the definition.
async fn terminating(
    registry: &Registry,
    name: &str,
    uid: &str,
    (status, reason, message): (&str, &str, &str),
    done: bool,
) -> Result<(), ApiError> {
    let resource = registry.resource(pintle_api::custom::GROUP, PLURAL)?;
    let cx = RequestContext::system();
    let write = Write::internal(&cx, &resource, "").subresource("status");
    let change = |object: &mut Value| {
        if object.uid() != uid {
            return Err(ApiError::not_found(resource.group_resource(), name));
        }
        let mut conditions: Vec<Condition> =
            serde_json::from_value(object["status"]["conditions"].clone()).unwrap_or_default();
        plan::set(&mut conditions, "Terminating", status, reason, message, &meta::now());
        object["status"]["conditions"] = json!(conditions);
        if done {
            let others: Vec<String> = object.finalizers().filter(|f| *f != FINALIZER).map(str::to_owned).collect();
            object.set_finalizers(others);
        }
        Ok(())
    };
    match registry.update_with(&write, name, change).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
