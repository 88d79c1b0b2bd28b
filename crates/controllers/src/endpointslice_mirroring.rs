//! The EndpointSlice mirroring controller: Endpoints that a user maintains for a Service without selector become slices. The
//! decision is [`plan`]. (upstream: pkg/controller/endpointslicemirroring)
use crate::Context;
use crate::claim::{controller_ref, name, namespace, uid};
use crate::endpointslice::managed_by;
use crate::endpointslice::plan::{MANAGED_BY, port_key};
use crate::endpointslice::write::{Changes, write};
use crate::error::{Error, is_conflict, is_namespace_terminating, message};
use crate::expectations::Expectations;
use crate::hash::semantically_equal;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::Client;
use kube::api::{Api, ObjectMeta};
use pintle_client::index::{SERVICE_NAME, service_of};
use pintle_client::informer::{Change, Informer, ObjectKey, key_of};
use pintle_client::recorder::EventType::Warning;
use pintle_client::{Index, Recorder, WorkQueue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses of one subset that are mirrored (`--mirroring-max-endpoints-per-subset`).
const MAX_ADDRESSES: usize = 1000;

/// True if a user maintains `endpoints` for `service`.
fn is_custom(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let has = |map: Option<&BTreeMap<String, String>>, key: &str| map.and_then(|map| map.get(key)).cloned();
    let meta = &endpoints.metadata;
    let without_selector = |service: &Service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_none());
    has(meta.labels.as_ref(), SKIP).as_deref() != Some("true")
        && has(meta.annotations.as_ref(), LEADER).is_none()
        && meta.deletion_timestamp.is_none()
        && service.is_some_and(without_selector)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone(),
        ..Endpoint::default()
    }
}

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, family: &str) -> Option<EndpointSlice> {
    let of_family = |address: &&EndpointAddress| address.ip.contains(':') == (family == "IPv6");
    let ready = subset.addresses.iter().flatten().filter(of_family).map(|address| endpoint(address, true));
    let waiting = subset.not_ready_addresses.iter().flatten().filter(of_family).map(|address| endpoint(address, false));
    let listed: Vec<Endpoint> = ready.chain(waiting).take(MAX_ADDRESSES).collect();
    if listed.is_empty() {
        return None;
    }
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name(endpoints).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    Some(EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(endpoints))),
            namespace: Some(namespace(endpoints).to_owned()),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports.collect()),
        endpoints: Some(listed),
    })
}

/// Decides about the mirrored slices `existing` of `endpoints`: none if nothing is to be mirrored.
fn plan(endpoints: Option<&Endpoints>, existing: &[Arc<EndpointSlice>]) -> Changes {
    let mut plan = Changes::default();
    let mut left: Vec<&Arc<EndpointSlice>> = existing.iter().collect();
    let subsets = || {
        endpoints
            .into_iter()
            .flat_map(|endpoints| endpoints.subsets.iter().flatten().map(move |subset| (endpoints, subset)))
    };
    for (of, subset) in subsets() {
        for family in ["IPv4", "IPv6"] {
            let Some(wanted) = slice(of, subset, family) else { continue };
            let key = |slice: &EndpointSlice| {
                (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or_default()))
            };
            let owned = |slice: &EndpointSlice| {
                slice.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid(of))
            };
            let Some(at) = left.iter().position(|old| key(old) == key(&wanted) && owned(old)) else {
                plan.create.push(wanted);
                continue;
            };
            let old = left.swap_remove(at);
            let mut updated = old.as_ref().clone();
            updated.metadata.labels = wanted.metadata.labels;
            updated.metadata.annotations = wanted.metadata.annotations;
            updated.endpoints = wanted.endpoints;
            if !semantically_equal(&updated, old.as_ref()) {
                plan.update.push(updated);
            }
        }
    }
    plan.delete.extend(left.iter().map(|slice| name(slice.as_ref()).to_owned()));
    plan
}

struct Controller {
    client: Client,
    recorder: Recorder,
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Index<EndpointSlice>,
    expectations: Expectations,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("endpointslicemirroring-controller");
    let (endpoints, services) = (cx.informers.of::<Endpoints>(), cx.informers.of::<Service>());
    let slices = cx.informers.of::<EndpointSlice>();
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "endpoint-slice-mirroring-controller", ""),
        client,
        endpoints: endpoints.clone(),
        services: services.clone(),
        slices: cx.informers.by_service(),
        expectations: Expectations::default(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    endpoints.on_change(move |change| added.add(key_of(change.object().as_ref())));
    let added = queue.clone();
    services.on_change(move |change| added.add(key_of(change.object().as_ref())));
    let (added, expectations) = (queue.clone(), controller.expectations.clone());
    slices.on_change(move |change| {
        let slice = change.object();
        let Some((namespace, service)) = service_of(slice).filter(|_| managed_by(slice, MANAGER)) else { return };
        if matches!(change, Change::Added(_)) {
            expectations.created(&format!("{namespace}/{service}"));
        }
        added.add((namespace, service));
    });
    tokio::join!(endpoints.synced(), services.synced(), slices.synced());
    queue.run("endpointslice-mirroring", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let key = format!("{in_namespace}/{named}");
    if !controller.expectations.satisfied(&key) {
        return Ok(None);
    }
    let endpoints = controller.endpoints.get(&in_namespace, &named);
    let service = controller.services.get(&in_namespace, &named);
    let custom = endpoints.as_deref().filter(|endpoints| is_custom(endpoints, service.as_deref()));
    let mut existing = controller.slices.get(&key);
    existing.retain(|slice| managed_by(slice, MANAGER) && slice.metadata.deletion_timestamp.is_none());
    let decided = plan(custom, &existing);
    let api: Api<EndpointSlice> = Api::namespaced(controller.client.clone(), &in_namespace);
    let Err(error) = write(&api, &decided, &controller.expectations, &key).await else { return Ok(None) };
    if let (Error::Api(cause), Some(endpoints)) = (&error, &endpoints) {
        if is_namespace_terminating(cause) {
            return Ok(None);
        }
        if !is_conflict(cause) {
            let text = format!("Error mirroring EndpointSlices for Endpoints {key}: {}", message(cause));
            controller.recorder.event(endpoints.as_ref(), Warning, "FailedToUpdateEndpointSlices", text);
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "ns", "uid": "e"}, "subsets": subsets}))
            .unwrap()
    }

    fn stored(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let named = slices.into_iter().enumerate().map(|(number, mut slice)| {
            slice.metadata.name = Some(format!("db-{number}"));
            Arc::new(slice)
        });
        named.collect()
    }

    #[test]
    fn each_subset_and_family_has_a_slice_that_follows_it() {
        let both = endpoints(json!([{"addresses": [{"ip": "1.2.3.4"}, {"ip": "fd00::1"}], "ports": [{"port": 5432}]}]));
        let first = plan(Some(&both), &[]);
        assert_eq!(first.create.iter().map(|slice| slice.address_type.as_str()).collect::<Vec<_>>(), ["IPv4", "IPv6"]);
        let existing = stored(first.create);
        assert_eq!(plan(Some(&both), &existing), Changes::default());
        let moved = endpoints(json!([{"notReadyAddresses": [{"ip": "1.2.3.5"}], "ports": [{"port": 5432}]}]));
        let next = plan(Some(&moved), &existing);
        assert_eq!((next.create.len(), next.update.len(), next.delete.as_slice()), (0, 1, &["db-1".to_owned()][..]));
        assert_eq!(plan(None, &existing).delete.len(), 2);
    }

    #[test]
    fn only_endpoints_of_a_service_without_selector_are_mirrored() {
        let service = |spec: Value| serde_json::from_value::<Service>(json!({"spec": spec})).unwrap();
        let mut custom = endpoints(json!([]));
        assert!(is_custom(&custom, Some(&service(json!({})))));
        assert!(!is_custom(&custom, Some(&service(json!({"selector": {"a": "b"}})))));
        assert!(!is_custom(&custom, None));
        custom.metadata.labels = Some([(SKIP.to_owned(), "true".to_owned())].into());
        assert!(!is_custom(&custom, Some(&service(json!({})))));
    }
}
