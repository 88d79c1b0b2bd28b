//! The Endpoints controller: the older form of EndpointSlices, one object per Service. The decision is [`subsets`].
use crate::Context;
use crate::claim::{name, namespace};
use crate::endpointslice::plan::HEADLESS;
use crate::error::{Error, is_already_exists, is_conflict, is_namespace_terminating, message, unless_not_found};
use crate::pods;
use crate::selector::Labels;
use crate::service_pods::{
    addresses, can_be_endpoint, enqueue_services, hostname, is_headless, managed_selector, publishes_not_ready,
    selected, target_port,
};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::Client;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use pintle_client::informer::{ObjectKey, key_of};
use pintle_client::recorder::EventType::Warning;
use pintle_client::{Informer, Recorder, WorkQueue};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// Who maintains the object.
pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// More addresses than this are left out; EndpointSlices hold them all.
const MAX_ADDRESSES: usize = 1000;

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("endpoint-controller");
    let (services, pods, endpoints) =
        (cx.informers.of::<Service>(), cx.informers.of::<Pod>(), cx.informers.of::<Endpoints>());
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "endpoint-controller", ""),
        client,
        services: services.clone(),
        pods: pods.clone(),
        endpoints: endpoints.clone(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    services.on_change(move |change| added.add(key_of(change.object().as_ref())));
    let (added, known) = (queue.clone(), services.clone());
    pods.on_change(move |change| enqueue_services(change, &known, &added));
    let added = queue.clone();
    endpoints.on_change(move |change| added.add(key_of(change.object().as_ref())));
    tokio::join!(services.synced(), pods.synced(), endpoints.synced());
    queue.run("endpoints", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let api: Api<Endpoints> = Api::namespaced(controller.client.clone(), &in_namespace);
    let current = controller.endpoints.get(&in_namespace, &named);
    let Some(service) = controller.services.get(&in_namespace, &named) else {
        if current.is_some_and(|current| is_ours(&current)) {
            unless_not_found(api.delete(&named, &DeleteParams::default()).await)?;
        }
        return Ok(None);
    };
    if managed_selector(&service).is_none() {
        return Ok(None);
    }
    let wanted = object(&service, &selected(&service, &controller.pods), current.as_deref());
    let Some(wanted) = wanted else { return Ok(None) };
    let (result, reason, verb) = if current.is_none() {
        (api.create(&PostParams::default(), &wanted).await, "FailedToCreateEndpoint", "create endpoint for service")
    } else {
        (api.replace(&named, &PostParams::default(), &wanted).await, "FailedToUpdateEndpoint", "update endpoint")
    };
    match result {
        Err(error) if is_namespace_terminating(&error) => Ok(None),
        // The local copy is behind: its next change brings the Service back.
        Err(error) if is_already_exists(&error) || is_conflict(&error) => Err(error.into()),
        Err(error) => {
            let text = format!("Failed to {verb} {in_namespace}/{named}: {}", message(&error));
            controller.recorder.event(&wanted, Warning, reason, text);
            Err(error.into())
        }
        Ok(_) => Ok(None),
    }
}

/// True if this controller made the object, so that it goes with its Service.
fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

/// The object to write, or `None` if `current` is right.
fn object(service: &Service, selected: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = truncate(subsets(service, selected));
    let mut labels: Labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(name(service).to_owned()),
            namespace: Some(namespace(service).to_owned()),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(labels);
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    if truncated {
        wanted.metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut wanted.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    (current != Some(&wanted)).then_some(wanted)
}

/// The addresses behind the Service, grouped so that each subset is every address at every port.
fn subsets(service: &Service, selected: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    type Ports = Vec<(String, i32, String, Option<String>)>;
    let mut groups: BTreeMap<Ports, [Vec<EndpointAddress>; 2]> = BTreeMap::new();
    let spec = service.spec.clone().unwrap_or_default();
    let listed = spec.ports.unwrap_or_default();
    let families = spec.ip_families.unwrap_or_default();
    let cluster_ip = spec.cluster_ip.unwrap_or_default();
    let v6 = families.first().map_or(cluster_ip.contains(':'), |family| family == "IPv6");
    for pod in selected.iter().filter(|pod| can_be_endpoint(pod, publishes_not_ready(service))) {
        let Some(ip) = addresses(pod).into_iter().find(|ip: &IpAddr| ip.is_ipv6() == v6) else { continue };
        let mut ports: Ports = listed
            .iter()
            .filter_map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                Some((
                    port.name.clone().unwrap_or_default(),
                    target_port(pod, port)?,
                    protocol,
                    port.app_protocol.clone(),
                ))
            })
            .collect();
        if ports.is_empty() && !(listed.is_empty() && cluster_ip == "None") {
            continue;
        }
        ports.sort();
        let address = EndpointAddress {
            ip: ip.to_string(),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            hostname: hostname(pod, service),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        let ready = publishes_not_ready(service) || pods::is_ready(pod);
        groups.entry(ports).or_default()[usize::from(!ready)].push(address);
    }
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|one, other| one.ip.cmp(&other.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    groups
        .into_iter()
        .map(|(ports, [ready, waiting])| {
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|(name, port, protocol, app_protocol)| EndpointPort {
                    name: (!name.is_empty()).then_some(name),
                    port,
                    protocol: Some(protocol),
                    app_protocol,
                })
                .collect();
            EndpointSubset {
                addresses: some(ready),
                not_ready_addresses: some(waiting),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect()
}

/// Leaves out what is over the limit, unready addresses first.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let mut room = MAX_ADDRESSES;
    let mut cut = false;
    let mut shorten = |addresses: &mut Option<Vec<EndpointAddress>>| {
        let Some(list) = addresses else { return };
        cut |= list.len() > room;
        list.truncate(room);
        room -= list.len();
        if list.is_empty() {
            *addresses = None;
        }
    };
    subsets.iter_mut().for_each(|subset| shorten(&mut subset.addresses));
    subsets.iter_mut().for_each(|subset| shorten(&mut subset.not_ready_addresses));
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81}]},
        }))
        .unwrap()
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let json = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}")},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", number / 200, number % 200 + 1),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn ready_and_waiting_pods_share_a_subset_and_nothing_changes_twice() {
        let pods = [pod(1, true), pod(2, false)];
        let first = object(&service(), &pods, None).unwrap();
        let subset = &first.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.1.0.2");
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.1.0.3");
        assert_eq!(subset.ports.as_ref().unwrap().len(), 2);
        assert_eq!(object(&service(), &pods, Some(&first)), None);
    }

    #[test]
    fn more_than_a_thousand_addresses_are_cut_and_marked() {
        let pods: Vec<_> = (0..1100).map(|number| pod(number, number % 2 == 0)).collect();
        let object = object(&service(), &pods, None).unwrap();
        let subset = &object.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 550);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 450);
        assert_eq!(object.metadata.annotations.unwrap()[OVER_CAPACITY], "truncated");
    }
}
