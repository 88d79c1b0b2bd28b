//! The disruption controller: tells in each PodDisruptionBudget's status how many of its pods may be evicted now, and takes
//! back stale `DisruptionTarget` conditions. The decision is [`plan::status`]. (upstream: pkg/controller/disruption)
mod plan;

use crate::Context;
use crate::claim::{controller_of, name, namespace, uid};
use crate::error::{Error, is_conflict, unless_not_found};
use crate::node_lifecycle::positive;
use crate::pods;
use crate::scale::{NoScale, Scales, Target};
use crate::selector;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, PostParams};
use pintle_client::informer::{Change, Informer, ObjectKey, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Recorder, WorkQueue};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 2;

/// What the queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// A budget to judge.
    Budget(ObjectKey),
    /// A pod whose disruption condition may be stale.
    Pod(ObjectKey),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    scales: Scales,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    controllers: Informer<ReplicationController>,
    replica_sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful_sets: Informer<StatefulSet>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("disruption-controller");
    let recorder = Recorder::core(client.clone(), "controllermanager", "");
    let controller = Arc::new(Controller {
        scales: Scales::new(client.clone()),
        client,
        recorder,
        budgets: cx.informers.of(),
        pods: cx.informers.of(),
        controllers: cx.informers.of(),
        replica_sets: cx.informers.of(),
        deployments: cx.informers.of(),
        stateful_sets: cx.informers.of(),
    });
    let queue = WorkQueue::<Work>::new();
    let added = queue.clone();
    controller.budgets.on_change(move |change| added.add(Work::Budget(key_of(change.object().as_ref()))));
    let (added, watching) = (queue.clone(), controller.clone());
    controller.pods.on_change(move |change| watching.observe(change, &added));
    let all = &controller;
    tokio::join!(
        all.budgets.synced(),
        all.pods.synced(),
        all.controllers.synced(),
        all.replica_sets.synced(),
        all.deployments.synced(),
        all.stateful_sets.synced()
    );
    queue.run("disruption", WORKERS, cx.stop, move |work| sync(controller.clone(), work)).await;
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| selector::matches(wanted, pod.metadata.labels.as_ref()))
}

/// True if the change of a pod can matter to a budget.
fn matters(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| (pods::is_ready(pod), pods::is_deleting(pod), controller_of(pod).cloned());
    facts(old) != facts(new) || old.metadata.labels != new.metadata.labels
}

async fn sync(controller: Arc<Controller>, work: Work) -> Result<Option<Duration>, Error> {
    match work {
        Work::Budget((namespace, name)) => match controller.budgets.get(&namespace, &name) {
            Some(budget) => controller.sync_budget(&budget).await,
            None => Ok(None),
        },
        Work::Pod((namespace, name)) => match controller.pods.get(&namespace, &name) {
            Some(pod) => controller.sync_pod(&pod).await,
            None => Ok(None),
        },
    }
}

impl Controller {
    fn observe(&self, change: &Change<'_, Pod>, queue: &WorkQueue<Work>) {
        let pod = change.object();
        let budgets = self.budgets.list_namespace(namespace(pod.as_ref()));
        let wake = |pod: &Pod| {
            let mut concerned = budgets.iter().filter(|budget| selects(budget, pod)).peekable();
            let Some(first) = concerned.peek().map(|budget| name(budget.as_ref()).to_owned()) else { return };
            let count = concerned.map(|budget| queue.add(Work::Budget(key_of(budget.as_ref())))).count();
            if count > 1 {
                let text = format!(
                    "Pod {:?}/{:?} matches multiple PodDisruptionBudgets.  Chose {first:?} arbitrarily.",
                    namespace(pod),
                    name(pod)
                );
                self.recorder.event(pod, Warning, "MultiplePodDisruptionBudgets", text);
            }
        };
        match change {
            Change::Updated(old, new) if !matters(old, new) => {}
            Change::Updated(old, new) => {
                wake(new);
                for budget in budgets.iter().filter(|budget| selects(budget, old) && !selects(budget, new)) {
                    queue.add(Work::Budget(key_of(budget.as_ref())));
                }
            }
            Change::Added(pod) | Change::Deleted(pod) => wake(pod),
        }
        if !matches!(change, Change::Deleted(_))
            && let Some(left) = plan::stale_in(pod, Timestamp::now())
        {
            queue.add_after(Work::Pod(key_of(pod.as_ref())), positive(left));
        }
    }

    async fn sync_pod(&self, pod: &Pod) -> Result<Option<Duration>, Error> {
        let now = Timestamp::now();
        match plan::stale_in(pod, now) {
            None => Ok(None),
            Some(left) if left.is_positive() => Ok(Some(positive(left))),
            Some(_) => {
                let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(pod));
                let pod = plan::no_target(pod, now);
                unless_not_found(api.replace_status(name(&pod), &PostParams::default(), &pod).await)?;
                Ok(None)
            }
        }
    }

    async fn sync_budget(&self, budget: &PodDisruptionBudget) -> Result<Option<Duration>, Error> {
        let selected = self.pods.list_namespace(namespace(budget));
        let selected: Vec<_> = selected.into_iter().filter(|pod| selects(budget, pod)).collect();
        if selected.is_empty() {
            self.recorder.event(budget, Normal, "NoPods", "No matching pods found");
        }
        let scale = if plan::needs_scale(budget) { self.scale(budget, &selected).await } else { Ok(0) };
        let now = Timestamp::now();
        let (status, again) = match scale {
            Ok(scale) => {
                let verdict = plan::status(budget, &selected, scale, now);
                for pod in &verdict.not_deleted {
                    // Upstream names the namespace twice.
                    let (of, text) = (namespace(budget), "Pod was expected by PDB");
                    let text = format!("{text} {of}/{of} to be deleted but it wasn't");
                    self.recorder.event(pod.as_ref(), Warning, "NotDeleted", text);
                }
                (verdict.status, verdict.again)
            }
            Err(NoScale::Failed(Error::Api(error))) if is_conflict(&error) => return Err(Error::Api(error)),
            Err(error) => {
                let text = format!("Failed to calculate the number of expected pods: {error}");
                self.recorder.event(budget, Warning, "CalculateExpectedPodCountFailed", text);
                (plan::failed(budget, &error.to_string(), now), None)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), namespace(budget));
            let updated = PodDisruptionBudget { status: Some(status), ..budget.clone() };
            unless_not_found(api.replace_status(name(budget), &PostParams::default(), &updated).await)?;
        }
        Ok(again.map(positive))
    }

    /// What the controllers of `selected` together want; reports pods without one.
    async fn scale(&self, budget: &PodDisruptionBudget, selected: &[Arc<Pod>]) -> Result<i32, NoScale> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut unmanaged = false;
        for pod in selected {
            let Some(owner) = controller_of(pod.as_ref()) else {
                unmanaged = true;
                continue;
            };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let found = match self.known_scale(namespace(budget), owner) {
                Some(found) => Some(found),
                None => self.asked_scale(namespace(budget), owner).await?,
            };
            let Some((uid, scale)) = found else {
                let text = format!("found no controllers for pod {:?}", name(pod.as_ref()));
                return Err(NoScale::NotFound(text));
            };
            scales.insert(uid, scale);
        }
        if unmanaged {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let text = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the \
                 status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for \
                 these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                selector.map(selector::go_text).unwrap_or_default()
            );
            self.recorder.event(budget, Warning, "UnmanagedPods", text);
        }
        Ok(scales.values().sum())
    }

    /// The controller at the top of a built-in workload, and its scale.
    fn known_scale(&self, in_namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let found = self.controllers.get(in_namespace, &owner.name)?;
                (uid(found.as_ref()) == owner.uid)
                    .then(|| (owner.uid.clone(), wanted(found.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            ("apps", "StatefulSet") => {
                let found = self.stateful_sets.get(in_namespace, &owner.name)?;
                (uid(found.as_ref()) == owner.uid)
                    .then(|| (owner.uid.clone(), wanted(found.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            ("apps" | "extensions", "ReplicaSet") => {
                let found = self.replica_sets.get(in_namespace, &owner.name)?;
                if uid(found.as_ref()) != owner.uid {
                    return None;
                }
                let Some(above) = controller_of(found.as_ref()).filter(|above| above.kind == "Deployment") else {
                    return Some((owner.uid.clone(), wanted(found.spec.as_ref().and_then(|spec| spec.replicas))));
                };
                let deployment = self.deployments.get(in_namespace, &above.name)?;
                (uid(deployment.as_ref()) == above.uid)
                    .then(|| (above.uid.clone(), wanted(deployment.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            _ => None,
        }
    }

    /// The scale of any other controller, from its scale subresource.
    async fn asked_scale(&self, in_namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>, NoScale> {
        let target =
            Target { api_version: owner.api_version.clone(), kind: owner.kind.clone(), name: owner.name.clone() };
        match self.scales.get(in_namespace, &target).await {
            Ok((_, scale)) if uid(&scale) == owner.uid => {
                Ok(Some((owner.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))))
            }
            Ok(_) | Err(NoScale::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn wanted(replicas: Option<i32>) -> i32 {
    replicas.unwrap_or(1)
}
