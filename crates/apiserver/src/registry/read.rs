//! Reading: single objects and collections.
use super::{Registry, collection_prefix, decode_stored, object_key, prefix_end, store_error};
use bytes::Bytes;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use pintle_store::{KeyValue, Revision};
use serde_json::Value;

/// A consistent list.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// The objects, in the order of their keys.
    pub items: Vec<Value>,
    /// The revision that was read; a watch from here on misses nothing.
    pub revision: Revision,
}

impl Registry {
    /// One object as it is stored; 404 if there is none.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Value, ApiError> {
        decode_stored(&self.get_stored(resource, namespace, name).await?.value)
    }

    /// One object's encoding as it is stored, shared; 404 if there is none.
    pub async fn get_stored(&self, resource: &Resource, namespace: &str, name: &str) -> Result<KeyValue, ApiError> {
        let found = self.store().get(&object_key(resource, namespace, name)).await.map_err(store_error)?;
        found.ok_or_else(|| ApiError::not_found(resource.group_resource(), name))
    }

    /// All objects of `resource` in `namespace` (empty: in all namespaces).
    pub async fn list(&self, resource: &Resource, namespace: &str) -> Result<ObjectList, ApiError> {
        let (stored, revision) = self.list_stored(resource, namespace).await?;
        let items = stored.iter().map(|bytes| decode_stored(bytes)).collect::<Result<_, _>>()?;
        Ok(ObjectList { items, revision })
    }

    /// The encodings of all objects of `resource` in `namespace` (empty: in all namespaces), shared, and the revision read.
    pub async fn list_stored(&self, resource: &Resource, namespace: &str) -> Result<(Vec<Bytes>, Revision), ApiError> {
        let prefix = collection_prefix(resource, namespace);
        let range = self.store().range(&prefix, &prefix_end(&prefix), 0, None).await.map_err(store_error)?;
        Ok((range.items.into_iter().map(|kv| kv.value).collect(), range.revision))
    }

    /// All objects of `resource` in `namespace` (empty: in all namespaces) with their keys, and the revision read.
    pub async fn list_keyed(
        &self,
        resource: &Resource,
        namespace: &str,
    ) -> Result<(Vec<KeyValue>, Revision), ApiError> {
        let prefix = collection_prefix(resource, namespace);
        let range = self.store().range(&prefix, &prefix_end(&prefix), 0, None).await.map_err(store_error)?;
        Ok((range.items, range.revision))
    }
}
