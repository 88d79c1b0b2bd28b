//! Which objects a controller manages: adoption and release by `ownerReferences[].controller` and selector.
use crate::error::{Error, is_not_found, is_reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use pintle_client::informer::Kind;
use pintle_client::{Index, index};
use serde_json::json;
use std::sync::Arc;

/// The managing controller of `object`.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The UID of `object`, empty if it has none yet.
pub fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The namespace of `object`, empty for cluster-scoped kinds.
pub fn namespace<K: Resource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// The name of `object`.
pub fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// An owner reference that makes `owner` the managing controller.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What to do about one candidate.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// Another controller's, or none of our business.
    Ignore,
    /// Ours, and stays so.
    Keep,
    /// Nobody's, and the selector wants it.
    Adopt,
    /// Ours, but the selector no longer wants it.
    Release,
}

/// Decides about `candidate` for `owner`, whose selector answered `selected`.
pub fn decide<O: Resource, K: Resource>(owner: &O, selected: bool, candidate: &K) -> Claim {
    let deleting = owner.meta().deletion_timestamp.is_some();
    match controller_of(candidate) {
        Some(controller) if controller.uid != uid(owner) => Claim::Ignore,
        Some(_) if selected => Claim::Keep,
        Some(_) if deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if deleting || !selected || candidate.meta().deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Claims objects of kind `K` for `owner`: returns those it manages, after adopting and releasing through `api`.
/// Before the first adoption the owner is read again through `owners`, so that a deleted owner adopts nothing.
pub async fn claim<O, K>(
    owner: &O,
    selector: &LabelSelector,
    index: &Index<K>,
    owners: &Api<O>,
    api: &Api<K>,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Kind,
    K: Kind,
{
    claim_if(owner, |object| crate::selector::matches(selector, object.meta().labels.as_ref()), index, owners, api)
        .await
}

/// As [`claim`], with any condition instead of a selector.
pub async fn claim_if<O, K>(
    owner: &O,
    selects: impl Fn(&K) -> bool,
    index: &Index<K>,
    owners: &Api<O>,
    api: &Api<K>,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Kind,
    K: Kind,
{
    let mut claimed = Vec::new();
    let mut confirmed = false;
    let mut candidates = index.get(uid(owner));
    candidates.extend(index.get(&index::orphans(namespace(owner))));
    for candidate in candidates {
        match decide(owner, selects(&candidate), candidate.as_ref()) {
            Claim::Ignore => {}
            Claim::Keep => claimed.push(candidate),
            Claim::Release => release(owner, api, candidate.as_ref()).await?,
            Claim::Adopt => {
                if !confirmed {
                    let live = owners.get(name(owner)).await?;
                    if uid(&live) != uid(owner) || live.meta().deletion_timestamp.is_some() {
                        return Err(Error::Stale(format!("{} {}", O::kind(&()), owner.name_any())));
                    }
                    confirmed = true;
                }
                if adopt(owner, api, candidate.as_ref()).await? {
                    claimed.push(candidate);
                }
            }
        }
    }
    Ok(claimed)
}

async fn adopt<O: Kind, K: Kind>(owner: &O, api: &Api<K>, object: &K) -> Result<bool, Error> {
    let patch = json!({"metadata": {"ownerReferences": [controller_ref(owner)], "uid": uid(object)}});
    match api.patch(name(object), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn release<O: Kind, K: Kind>(owner: &O, api: &Api<K>, object: &K) -> Result<(), Error> {
    let patch = json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": uid(owner)}], "uid": uid(object)}});
    match api.patch(name(object), &PatchParams::default(), &Patch::Strategic(patch)).await {
        // Invalid: the object has been replaced by another of the same name, or has no owner any more.
        Err(error) if !is_not_found(&error) && !is_reason(&error, "Invalid") => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::Value;

    fn pod(owners: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "ownerReferences": owners}})).unwrap()
    }

    fn set(uid: &str, deleting: bool) -> ReplicaSet {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": "s", "uid": uid, "deletionTimestamp": deleted}})).unwrap()
    }

    #[test]
    fn candidates_are_kept_adopted_released_or_left_alone() {
        let owner = |uid: &str| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": uid, "controller": true}]);
        assert_eq!(decide(&set("1", false), true, &pod(owner("1"))), Claim::Keep);
        assert_eq!(decide(&set("1", false), false, &pod(owner("1"))), Claim::Release);
        assert_eq!(decide(&set("1", true), false, &pod(owner("1"))), Claim::Ignore);
        assert_eq!(decide(&set("1", false), true, &pod(owner("2"))), Claim::Ignore);
        assert_eq!(decide(&set("1", false), true, &pod(json!([]))), Claim::Adopt);
        assert_eq!(decide(&set("1", true), true, &pod(json!([]))), Claim::Ignore);
        assert_eq!(decide(&set("1", false), false, &pod(json!([]))), Claim::Ignore);
    }
}
