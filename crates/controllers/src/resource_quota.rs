//! The ResourceQuota controller: recounts in `status.used` what admission has charged, after objects went or changed, and all
//! quotas now and then. What counts is decided in [`pintle_api::quota`]. (upstream: pkg/controller/resourcequota)
use crate::Context;
use crate::claim::{name, namespace};
use crate::discovery::served;
use crate::error::{Error, unless_not_found};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use parking_lot::Mutex;
use pintle_api::quantity;
use pintle_api::quota::{Counted, counted_by};
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, Informer, Kind, ObjectKey, key_of};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// How often all quotas are counted again (upstream: `--resource-quota-sync-period`).
const RECOUNT: Duration = Duration::from_secs(300);
/// Resources of the core group that are counted in the process's own copies.
const FOLLOWED: [&str; 3] = ["pods", "services", "persistentvolumeclaims"];

type Amounts = BTreeMap<String, Quantity>;

struct Controller {
    client: Client,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    /// The version and kind of a resource, as far as it was asked for: `(group, plural)` → `(version, kind)`.
    kinds: Mutex<BTreeMap<(String, String), kube::discovery::ApiResource>>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("resourcequota-controller");
    let controller = Arc::new(Controller {
        client,
        quotas: cx.informers.of(),
        pods: cx.informers.of(),
        services: cx.informers.of(),
        claims: cx.informers.of(),
        kinds: Mutex::default(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    controller.quotas.on_change(move |change| match change {
        // The status is this controller's and admission's own work.
        Change::Updated(old, new) if hard(old) == hard(new) => {}
        Change::Added(quota) | Change::Updated(_, quota) => added.add(key_of(quota.as_ref())),
        Change::Deleted(_) => {}
    });
    let wake = {
        let (quotas, queue) = (controller.quotas.clone(), queue.clone());
        move |group: &str, plural: &str, in_namespace: &str| {
            let counted = Counted { group, plural };
            for quota in quotas.list_namespace(in_namespace) {
                let listed = quota.status.as_ref().and_then(|status| status.hard.as_ref());
                if listed.is_some_and(|listed| listed.keys().any(|name| counted.counts(name))) {
                    queue.add(key_of(quota.as_ref()));
                }
            }
        }
    };
    let woken = wake.clone();
    cx.deletions.listen(move |group, plural, in_namespace| {
        // The local copies that these are counted in may not know of the deletion yet: they tell of it themselves.
        if !(group.is_empty() && FOLLOWED.contains(&plural)) {
            woken(group, plural, in_namespace);
        }
    });
    let woken = wake.clone();
    controller.pods.on_change(move |change| {
        if frees(change, pod_frees) {
            woken("", "pods", namespace(change.object().as_ref()));
        }
    });
    let woken = wake.clone();
    controller.services.on_change(move |change| {
        if frees(change, |old, new| old.spec != new.spec) {
            woken("", "services", namespace(change.object().as_ref()));
        }
    });
    controller.claims.on_change(move |change| {
        if frees(change, |old, new| claim_size(old) != claim_size(new)) {
            wake("", "persistentvolumeclaims", namespace(change.object().as_ref()));
        }
    });
    let all = &controller;
    tokio::join!(all.quotas.synced(), all.pods.synced(), all.services.synced(), all.claims.synced());
    queue
        .run("resourcequota", WORKERS, cx.stop, move |(in_namespace, named)| {
            let controller = controller.clone();
            async move {
                let Some(quota) = controller.quotas.get(&in_namespace, &named) else { return Ok::<_, Error>(None) };
                controller.sync(&quota).await?;
                Ok(Some(RECOUNT))
            }
        })
        .await;
}

fn hard(quota: &ResourceQuota) -> Amounts {
    quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default()
}

/// True if a change may free what an object uses: it is gone, or was changed in a way that `by_update` says.
fn frees<K>(change: &Change<'_, K>, by_update: impl Fn(&K, &K) -> bool) -> bool {
    match change {
        Change::Added(_) => false,
        Change::Updated(old, new) => by_update(old, new),
        Change::Deleted(_) => true,
    }
}

/// True if a change of a pod may free what it uses: it ended, or is resized, or leaves a scope.
fn pod_frees(old: &Pod, new: &Pod) -> bool {
    let allocated = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.map(|status| (status.allocated_resources.clone(), status.resources.clone())).collect::<Vec<_>>()
    };
    (!pods::is_terminal(old) && pods::is_terminal(new))
        || (!pods::is_deleting(old) && pods::is_deleting(new))
        || old.spec != new.spec
        || allocated(old) != allocated(new)
}

fn claim_size(claim: &PersistentVolumeClaim) -> (Option<Amounts>, Option<Amounts>) {
    (
        claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.clone()),
        claim.status.as_ref().and_then(|status| status.allocated_resources.clone()),
    )
}

fn values<K: Kind + Serialize>(objects: &Informer<K>, in_namespace: &str) -> Result<Vec<Value>, Error> {
    objects
        .list_namespace(in_namespace)
        .iter()
        .map(|object| serde_json::to_value(object.as_ref()))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Unfinished(error.to_string()))
}

/// True if both lists have the same amounts, however written.
fn same(one: Option<&Amounts>, other: Option<&Amounts>) -> bool {
    let read = |amounts: Option<&Amounts>| -> BTreeMap<String, Option<quantity::Quantity>> {
        let amounts = amounts.into_iter().flatten();
        amounts.map(|(name, amount)| (name.clone(), quantity::Quantity::parse(&amount.0).ok())).collect()
    };
    read(one) == read(other)
}

/// The status of `quota` with `counted` usages; what could not be counted keeps its last value.
fn status(quota: &ResourceQuota, counted: Amounts) -> ResourceQuotaStatus {
    let limits = hard(quota);
    let mut used = quota.status.as_ref().and_then(|status| status.used.clone()).unwrap_or_default();
    used.extend(counted);
    used.retain(|name, _| limits.contains_key(name));
    ResourceQuotaStatus { hard: Some(limits), used: Some(used) }
}

impl Controller {
    async fn sync(&self, quota: &ResourceQuota) -> Result<(), Error> {
        let spec = serde_json::to_value(&quota.spec).map_err(|error| Error::Unfinished(error.to_string()))?;
        let limits = hard(quota);
        let mut kinds: Vec<Counted<'_>> = Vec::new();
        for counted in limits.keys().filter_map(|name| counted_by(name)) {
            if !kinds.contains(&counted) {
                kinds.push(counted);
            }
        }
        let (mut used, mut failure) = (Amounts::new(), None);
        for counted in kinds {
            match self.count(&counted, namespace(quota), &spec).await {
                Ok(amounts) => used.extend(amounts),
                // The others are written all the same.
                Err(error) => failure = Some(error),
            }
        }
        let status = status(quota, used);
        let before = quota.status.clone().unwrap_or_default();
        let changed = before.used.is_none()
            || !same(before.hard.as_ref(), status.hard.as_ref())
            || !same(before.used.as_ref(), status.used.as_ref());
        if changed {
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace(quota));
            let updated = ResourceQuota { status: Some(status), ..quota.clone() };
            unless_not_found(api.replace_status(name(quota), &PostParams::default(), &updated).await)?;
        }
        failure.map_or(Ok(()), Err)
    }

    async fn count(&self, counted: &Counted<'_>, in_namespace: &str, spec: &Value) -> Result<Amounts, Error> {
        let objects = match (counted.group, counted.plural) {
            ("", "pods") => values(&self.pods, in_namespace)?,
            ("", "services") => values(&self.services, in_namespace)?,
            ("", "persistentvolumeclaims") => values(&self.claims, in_namespace)?,
            _ => {
                // Only their number matters, which the API tells without them.
                let number = self.number(counted, in_namespace, spec).await?;
                let names = hard_names(spec).filter(|name| counted.counts(name));
                return Ok(names.map(|name| (name.to_owned(), Quantity(number.to_string()))).collect());
            }
        };
        let total = counted.total(spec, objects.iter(), Timestamp::now());
        Ok(total.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect())
    }

    async fn number(&self, counted: &Counted<'_>, in_namespace: &str, spec: &Value) -> Result<i64, Error> {
        // Scopes choose pods and claims; a quota with scopes counts nothing else.
        if !counted.in_scope(spec, &Value::Null) {
            return Ok(0);
        }
        let Some(resource) = self.resource(counted).await? else { return Ok(0) };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), in_namespace, &resource);
        let first = ListParams::default().limit(1);
        let Some(list) = unless_not_found(api.list_metadata(&first).await)? else { return Ok(0) };
        let listed = i64::try_from(list.items.len()).unwrap_or(i64::MAX);
        Ok(listed.saturating_add(list.metadata.remaining_item_count.unwrap_or(0)))
    }

    async fn resource(&self, counted: &Counted<'_>) -> Result<Option<kube::discovery::ApiResource>, Error> {
        let key = (counted.group.to_owned(), counted.plural.to_owned());
        let known = self.kinds.lock().get(&key).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let all = served(&self.client).await?.resources;
        let found = all.into_iter().find(|resource| {
            resource.namespaced && resource.api.group == counted.group && resource.api.plural == counted.plural
        });
        let Some(found) = found else { return Ok(None) };
        self.kinds.lock().insert(key, found.api.clone());
        Ok(Some(found.api))
    }
}

fn hard_names(spec: &Value) -> impl Iterator<Item = &str> {
    spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quota(used: Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q"},
            "spec": {"hard": {"pods": "5", "requests.cpu": "1"}}, "status": {"used": used}}))
        .unwrap()
    }

    #[test]
    fn what_cannot_be_counted_keeps_its_value_and_what_is_no_longer_limited_goes() {
        let counted = [("pods".to_owned(), Quantity("2".to_owned()))].into();
        let status = status(&quota(json!({"pods": "1", "requests.cpu": "100m", "secrets": "3"})), counted);
        let used: Vec<(String, String)> =
            status.used.unwrap().into_iter().map(|(name, amount)| (name, amount.0)).collect();
        assert_eq!(used, [("pods".to_owned(), "2".to_owned()), ("requests.cpu".to_owned(), "100m".to_owned())]);
    }

    #[test]
    fn a_pod_that_is_gone_frees_what_it_used() {
        let pod = Arc::new(Pod::default());
        assert!(frees(&Change::Deleted(&pod), pod_frees));
        assert!(!frees(&Change::Added(&pod), pod_frees));
        assert!(!frees(&Change::Updated(&pod, &pod), pod_frees));
    }

    #[test]
    fn amounts_are_compared_by_value() {
        let amounts = |text: &str| Amounts::from([("cpu".to_owned(), Quantity(text.to_owned()))]);
        assert!(same(Some(&amounts("1")), Some(&amounts("1000m"))));
        assert!(!same(Some(&amounts("1")), Some(&amounts("2"))) && !same(Some(&amounts("1")), None));
    }

    #[test]
    fn a_pod_that_ends_frees_what_it_used() {
        let pod = |phase: &str| serde_json::from_value::<Pod>(json!({"status": {"phase": phase}})).unwrap();
        assert!(pod_frees(&pod("Running"), &pod("Succeeded")));
        assert!(!pod_frees(&pod("Pending"), &pod("Running")));
    }
}
