//! The APIServices of the groups that this server serves itself, and those of custom resources. Start at [`local`] and
//! [`keep_registered`].
// upstream: pkg/controlplane/apiserver/aggregator.go, pkg/controlplane/controller/crdregistration
use crate::context::RequestContext;
use crate::follow::follow;
use crate::registry::{Registry, Write, decode_stored};
use crate::value::Read;
use parking_lot::Mutex;
use pintle_api::meta::{self, ObjectExt};
use pintle_api::scheme::{Resource, Scheme};
use pintle_api::status::ApiError;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The API group of APIServices.
pub const GROUP: &str = "apiregistration.k8s.io";
/// Who looks after an APIService: `onstart` this server, `true` the registration of custom resources.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// The priority of groups that nothing else is known of.
const CUSTOM: (i64, i64) = (1000, 100);

/// The served groups and versions of each custom resource, by the name of its definition.
type Wanted = Arc<Mutex<BTreeMap<String, Vec<(String, String)>>>>;

/// The priorities of a group, and of a version within it, by which discovery is ordered.
pub fn priority(group: &str, version: &str) -> (i64, i64) {
    let (of_group, of_version) = match group {
        "" => return (18_000, 1),
        "apps" => (17_800, 15),
        "events.k8s.io" => (17_750, 15),
        "authentication.k8s.io" => (17_700, 15),
        "authorization.k8s.io" => (17_600, 15),
        "autoscaling" => return (17_500, if version == "v2" { 30 } else { 15 }),
        "batch" => (17_400, 15),
        "certificates.k8s.io" => (17_300, 15),
        "networking.k8s.io" => (17_200, 15),
        "policy" => (17_100, 15),
        "rbac.authorization.k8s.io" => (17_000, 15),
        "storage.k8s.io" => (16_800, 15),
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => (16_700, 15),
        "scheduling.k8s.io" => (16_600, 15),
        "coordination.k8s.io" => (16_500, 15),
        "node.k8s.io" => (16_300, 15),
        "discovery.k8s.io" => (16_200, 15),
        "resource.k8s.io" => (16_200, 21),
        "flowcontrol.apiserver.k8s.io" => (16_100, 21),
        "internal.apiserver.k8s.io" => (16_000, 9),
        "storagemigration.k8s.io" => (15_800, 9),
        // Served by the aggregator itself: always first.
        GROUP => (20_000, 15),
        _ => return CUSTOM,
    };
    let of_version = match (group, version) {
        ("admissionregistration.k8s.io", "v1beta1") | ("coordination.k8s.io", "v1alpha2") => 12,
        ("coordination.k8s.io", "v1beta1") => 13,
        ("resource.k8s.io", "v1beta2") => 15,
        ("scheduling.k8s.io", "v1alpha2") => 2,
        ("certificates.k8s.io" | "resource.k8s.io", "v1alpha1" | "v1alpha3") => 1,
        (_, "v1beta1" | "v1alpha1") => 9,
        _ => of_version,
    };
    (of_group, of_version)
}

/// The APIServices of all groups of `scheme`, as a new cluster gets them.
pub fn local(scheme: &Scheme) -> Vec<Value> {
    let served = scheme.group_versions().iter().filter(|gv| gv.group != GROUP);
    served.map(|gv| object(&gv.group, &gv.version, "onstart")).collect()
}

fn object(group: &str, version: &str, automanaged: &str) -> Value {
    let (of_group, of_version) = priority(group, version);
    let mut spec = json!({"groupPriorityMinimum": of_group, "version": version, "versionPriority": of_version});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
        "metadata": {"name": format!("{version}.{group}"), "labels": {AUTOMANAGED: automanaged}},
        "spec": spec,
        "status": {"conditions": [available_here()]},
    })
}

/// The condition of every APIService that this server serves itself.
pub(crate) fn available_here() -> Value {
    json!({
        "type": "Available", "status": "True", "lastTransitionTime": meta::now(), "reason": "Local",
        "message": "Local APIServices are always available",
    })
}

/// Keeps an APIService for every served version of every custom resource, until `stop`.
pub async fn keep_registered(registry: &Registry, stop: CancellationToken) -> Result<(), ApiError> {
    let definitions = registry.resource("apiextensions.k8s.io", "customresourcedefinitions")?;
    let services = registry.resource(GROUP, "apiservices")?;
    let (changed, changes) = mpsc::channel(1);
    let wanted = Wanted::default();
    let known = wanted.clone();
    let apply = move |_: &str, name: &str, stored: Option<&bytes::Bytes>| {
        let served = stored.and_then(|stored| decode_stored(stored).ok()).map(|crd| served_versions(&crd));
        let mut known = known.lock();
        match served.filter(|served| !served.is_empty()) {
            Some(served) => _ = known.insert(name.to_owned(), served),
            None => _ = known.remove(name),
        }
        // One that waits already will look at this change, too.
        if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
            tracing::debug!("custom resources are registered no more");
        }
    };
    follow(registry, &definitions, stop.clone(), Box::new(apply)).await?;
    tokio::spawn(register(registry.clone(), services, wanted, changes, stop));
    Ok(())
}

fn served_versions(crd: &Value) -> Vec<(String, String)> {
    let (spec, status) = (crd.field("spec"), crd.field("status"));
    let established =
        status.items("conditions").iter().any(|c| c.text("type") == "Established" && c.text("status") == "True");
    let served = spec.items("versions").iter().filter(|version| established && version.flag("served"));
    served.map(|version| (spec.text("group").to_owned(), version.text("name").to_owned())).collect()
}

async fn register(
    registry: Registry,
    services: Arc<Resource>,
    wanted: Wanted,
    mut changes: mpsc::Receiver<()>,
    stop: CancellationToken,
) {
    let mut registered: Option<BTreeSet<(String, String)>> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => if change.is_none() { return },
        }
        let now: BTreeSet<(String, String)> = wanted.lock().values().flatten().cloned().collect();
        if registered.as_ref() == Some(&now) {
            continue;
        }
        match reconcile(&registry, &services, &now).await {
            Ok(()) => registered = Some(now),
            Err(error) => tracing::warn!(%error, "the APIServices of custom resources cannot be kept"),
        }
    }
}

async fn reconcile(registry: &Registry, services: &Resource, now: &BTreeSet<(String, String)>) -> Result<(), ApiError> {
    let cx = RequestContext::default();
    let write = Write::internal(&cx, services, "").managed_by("kube-apiserver");
    let present = registry.list(services, "").await?.items;
    for service in &present {
        let spec = service.field("spec");
        let key = (spec.text("group").to_owned(), spec.text("version").to_owned());
        if service.label(AUTOMANAGED) == Some("true") && !now.contains(&key) {
            let options = crate::registry::DeleteOptions { uid: Some(service.uid().to_owned()), ..Default::default() };
            match registry.delete(&write, service.name(), &options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    for (group, version) in now {
        let name = format!("{version}.{group}");
        if present.iter().any(|service| service.name() == name) {
            continue;
        }
        match registry.create(&write, object(group, version, "true")).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_an_api_service_but_the_aggregators_own() {
        let all = local(Scheme::all());
        let names: Vec<&str> = all.iter().map(ObjectExt::name).collect();
        assert!(
            names.contains(&"v1.")
                && names.contains(&"v2.autoscaling")
                && !names.contains(&"v1.apiregistration.k8s.io")
        );
        assert!(all.iter().all(|service| service["spec"]["groupPriorityMinimum"].as_i64() > Some(CUSTOM.0)));
        // The versions of a group are preferred in their order.
        let versions = Scheme::all().group_versions().windows(2).filter(|two| two[0].group == two[1].group);
        for two in versions {
            let of = |at: usize| priority(&two[at].group, &two[at].version).1;
            assert!(of(0) > of(1), "{two:?}");
        }
    }
}
