//! The service controller: Services of type LoadBalancer are answered at the nodes' own addresses, where the service proxy of
//! every node takes them. The decision is [`balance::balance`].
//! (upstream: k8s.io/cloud-provider/controllers/service, whose cloud is here the nodes themselves)
mod balance;

use crate::Context;
use crate::claim::namespace;
use crate::error::{Error, unless_not_found};
use balance::{Action, FINALIZER, balance, listed, needs_cleanup, same_for_balancing, wants};
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use pintle_client::index::service_of;
use pintle_client::informer::{Change, ObjectKey, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Index, Informer, Recorder, WorkQueue};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// One at a time: which Service has a port is decided by those that have it already.
const WORKERS: usize = 1;
/// The Services that have, or want, a load balancer.
const BALANCED: &str = "load-balancer";

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    nodes: Informer<Node>,
    slices: Index<EndpointSlice>,
    balanced: Index<Service>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    if !cx.config.load_balancer {
        return;
    }
    let client = cx.clients.controller("service-controller");
    let (services, nodes, slices) =
        (cx.informers.of::<Service>(), cx.informers.of::<Node>(), cx.informers.of::<EndpointSlice>());
    let balanced = cx.informers.index(BALANCED, |service: &Service| {
        if wants(service) || needs_cleanup(service) { vec![String::new()] } else { vec![] }
    });
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "service-controller", ""),
        client,
        services: services.clone(),
        nodes: nodes.clone(),
        slices: cx.informers.by_service(),
        balanced: balanced.clone(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let (added, others) = (queue.clone(), balanced.clone());
    services.on_change(move |change| {
        let service = change.object().as_ref();
        if wants(service) || needs_cleanup(service) {
            added.add(key_of(service));
        }
        // A port that becomes free may be what another Service waits for.
        let had = match change {
            Change::Updated(old, _) => old.as_ref(),
            _ => service,
        };
        if wants(had) && !matches!(change, Change::Added(_)) {
            let waiting = others.get("").into_iter().filter(|other| listed(other).is_empty());
            waiting.for_each(|other| added.add(key_of(other.as_ref())));
        }
    });
    let (added, all) = (queue.clone(), balanced.clone());
    nodes.on_change(move |change| {
        if !matches!(change, Change::Updated(old, new) if same_for_balancing(old, new)) {
            all.get("").iter().for_each(|service| added.add(key_of(service.as_ref())));
        }
    });
    let (added, known) = (queue.clone(), services.clone());
    slices.on_change(move |change| {
        let Some((namespace, service)) = service_of(change.object()) else { return };
        // Only the Local policy looks at where the endpoints are.
        if known.get(&namespace, &service).is_some_and(|service| wants(&service) && balance::is_local(&service)) {
            added.add((namespace, service));
        }
    });
    tokio::join!(services.synced(), nodes.synced(), slices.synced());
    queue.run("service", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let Some(service) = controller.services.get(&in_namespace, &named) else { return Ok(None) };
    let (nodes, others) = (controller.nodes.list(), controller.balanced.get(""));
    let slices = controller.slices.get(&format!("{in_namespace}/{named}"));
    let api_server = controller.slices.get("default/kubernetes");
    let recorder = &controller.recorder;
    match balance(&service, &others, &nodes, &slices, &api_server) {
        Action::None => {}
        Action::Release => {
            recorder.event(service.as_ref(), Normal, "DeletingLoadBalancer", "Deleting load balancer");
            controller.patch(&service, false, None).await?;
            recorder.event(service.as_ref(), Normal, "DeletedLoadBalancer", "Deleted load balancer");
        }
        Action::Refuse(reason) => {
            if !listed(&service).is_empty() {
                controller.patch(&service, true, None).await?;
            }
            let text = format!("Error syncing load balancer: failed to ensure load balancer: {reason}");
            recorder.event(service.as_ref(), Warning, "SyncLoadBalancerFailed", text);
        }
        Action::Ensure(status) => {
            let first = listed(&service).is_empty();
            if first {
                recorder.event(service.as_ref(), Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
            }
            controller.patch(&service, true, Some(&status)).await?;
            if first {
                recorder.event(service.as_ref(), Normal, "EnsuredLoadBalancer", "Ensured load balancer");
            }
        }
    }
    Ok(None)
}

impl Controller {
    /// Sets the finalizer and the status in one write, as far as they differ.
    async fn patch(&self, service: &Service, keep: bool, status: Option<&LoadBalancerStatus>) -> Result<(), Error> {
        let old = service.metadata.finalizers.clone().unwrap_or_default();
        let mut finalizers: Vec<&String> = old.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let own = FINALIZER.to_owned();
        if keep {
            finalizers.push(&own);
        }
        // The version guards the list of finalizers: it is replaced as a whole.
        let patch = Patch::Merge(json!({
            "metadata": {"finalizers": finalizers, "resourceVersion": service.metadata.resource_version},
            "status": {"loadBalancer": {"ingress": status.and_then(|status| status.ingress.as_ref())}},
        }));
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace(service));
        let named = service.metadata.name.as_deref().unwrap_or_default();
        unless_not_found(api.patch_status(named, &PatchParams::default(), &patch).await)?;
        Ok(())
    }
}
