//! The EndpointSlice controller: lists the pods behind each Service. The decision is [`plan::plan`].
pub(crate) mod plan;
pub(crate) mod write;

use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, is_conflict, is_namespace_terminating, message};
use crate::expectations::Expectations;
use crate::service_pods::{enqueue_services, managed_selector, selected};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use pintle_client::index::service_of;
use pintle_client::informer::{Change, ObjectKey, key_of};
use pintle_client::recorder::EventType::Warning;
use pintle_client::{Index, Informer, Recorder, WorkQueue};
use plan::{MANAGED_BY, MANAGER};
use std::sync::Arc;
use std::time::Duration;
use write::{Changes, write};

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Index<EndpointSlice>,
    expectations: Expectations,
}

/// True if the slice says that `manager` maintains it.
pub(crate) fn managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == manager)
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("endpointslice-controller");
    let (services, pods, nodes) = (cx.informers.of::<Service>(), cx.informers.of::<Pod>(), cx.informers.of::<Node>());
    let slices = cx.informers.of::<EndpointSlice>();
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "endpoint-slice-controller", ""),
        client,
        services: services.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        slices: cx.informers.by_service(),
        expectations: Expectations::default(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let added = queue.clone();
    services.on_change(move |change| added.add(key_of(change.object().as_ref())));
    let (added, known) = (queue.clone(), services.clone());
    pods.on_change(move |change| enqueue_services(change, &known, &added));
    let (added, expectations) = (queue.clone(), controller.expectations.clone());
    slices.on_change(move |change| {
        let slice = change.object();
        let Some((namespace, service)) = service_of(slice).filter(|_| managed_by(slice, MANAGER)) else { return };
        if matches!(change, Change::Added(_)) {
            expectations.created(&format!("{namespace}/{service}"));
        }
        added.add((namespace, service));
    });
    let (added, all_pods, all_services) = (queue.clone(), pods.clone(), services.clone());
    // A node that appears, or changes its zone, concerns the Services of its pods.
    nodes.on_change(move |change| {
        let zone = |node: &Node| {
            node.metadata.labels.as_ref().and_then(|labels| labels.get("topology.kubernetes.io/zone")).cloned()
        };
        if matches!(change, Change::Updated(old, new) if zone(old) == zone(new)) || matches!(change, Change::Deleted(_))
        {
            return;
        }
        for pod in all_pods.list() {
            if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name(change.object().as_ref())) {
                enqueue_services(&Change::Added(&pod), &all_services, &added);
            }
        }
    });
    tokio::join!(services.synced(), pods.synced(), nodes.synced(), slices.synced());
    queue.run("endpointslice", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let key = format!("{in_namespace}/{named}");
    let Some(service) = controller.services.get(&in_namespace, &named) else {
        // The garbage collector deletes the slices with their owner.
        controller.expectations.forget(&key);
        return Ok(None);
    };
    if managed_selector(&service).is_none()
        || service.metadata.deletion_timestamp.is_some()
        || !controller.expectations.satisfied(&key)
    {
        return Ok(None);
    }
    let mut existing = controller.slices.get(&key);
    existing.retain(|slice| managed_by(slice, MANAGER) && slice.metadata.deletion_timestamp.is_none());
    let pods = selected(&service, &controller.pods);
    let plan = plan::plan(&service, &pods, |node| controller.nodes.get("", node), &existing);
    if let Err(error) = controller.apply(&service, plan, &key).await {
        if let Error::Api(cause) = &error {
            if is_namespace_terminating(cause) {
                return Ok(None);
            }
            // The local copy is behind: its next change brings the Service back.
            if is_conflict(cause) {
                return Err(error);
            }
            let text = format!("Error updating Endpoint Slices for Service {key}: {}", message(cause));
            controller.recorder.event(service.as_ref(), Warning, "FailedToUpdateEndpointSlices", text);
        }
        return Err(error);
    }
    Ok(None)
}

impl Controller {
    async fn apply(&self, service: &Service, plan: plan::Plan, key: &str) -> Result<(), Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace(service));
        let changes = Changes { create: plan.create, update: plan.update, delete: plan.delete };
        write(&api, &changes, &self.expectations, key).await?;
        if plan.without_node.is_empty() {
            return Ok(());
        }
        // Nothing to retry by time: the node's appearance brings the Service back.
        tracing::debug!(service = key, pods = ?plan.without_node, "pods on unknown nodes are left out");
        Ok(())
    }
}
