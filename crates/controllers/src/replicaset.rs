//! The ReplicaSet controller: keeps a number of equal pods. ReplicationControllers are driven by the same code through
//! [`Replicated`]. The decision is [`plan::plan`].
pub mod plan;

use crate::Context;
use crate::claim::{claim, controller_of, controller_ref, name, namespace, uid};
use crate::error::{Error, is_namespace_terminating, message};
use crate::expectations::Expectations;
use crate::pod_control::{PodControl, from_template};
use crate::pod_owners::observe;
use crate::selector;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use pintle_client::informer::{Change, Kind, ObjectKey, key_of};
use pintle_client::{Index, Informer, Recorder, WorkQueue};
use plan::{Plan, Spec, Status};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;

/// A kind that keeps a number of equal pods.
pub trait Replicated: Kind + Serialize + Resource<Scope = NamespaceResourceScope> {
    /// Upstream's controller, as whom it acts.
    const CONTROLLER: &'static str;
    /// Upstream's name in events.
    const COMPONENT: &'static str;

    /// What it asks for.
    fn spec(&self) -> Option<Spec>;
    /// Its status.
    fn status(&self) -> Status;
    /// A copy with `status`.
    fn with_status(&self, status: Status) -> Self;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";
    const COMPONENT: &'static str = "replicaset-controller";

    fn spec(&self) -> Option<Spec> {
        let spec = self.spec.clone()?;
        Some(Spec {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: spec.selector,
            template: spec.template.unwrap_or_default(),
        })
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.into_iter().flatten().map(Into::into).collect(),
        }
    }

    fn with_status(&self, status: Status) -> Self {
        let conditions: Vec<_> = status.conditions.into_iter().map(Into::into).collect();
        let mut updated = self.clone();
        updated.status = Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            terminating_replicas: status.terminating,
            observed_generation: status.observed_generation,
            conditions: (!conditions.is_empty()).then_some(conditions),
        });
        updated
    }
}

/// `None` for 0: fields that the API leaves out when they are empty.
pub fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

struct Controller<S> {
    client: Client,
    control: PodControl,
    sets: Informer<S>,
    siblings: Index<S>,
    pods: Index<Pod>,
    expectations: Expectations,
}

/// Runs the controller of `S` until the context stops.
pub(crate) async fn run<S: Replicated>(cx: Context) {
    let client = cx.clients.controller(S::CONTROLLER);
    let (sets, pods) = (cx.informers.of::<S>(), cx.informers.of::<Pod>());
    let recorder = Recorder::core(client.clone(), S::COMPONENT, "");
    let controller = Arc::new(Controller {
        control: PodControl::new(client.clone(), recorder),
        client,
        sets: sets.clone(),
        siblings: cx.informers.by_controller(),
        pods: cx.informers.by_controller(),
        expectations: Expectations::default(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let (added, expectations) = (queue.clone(), controller.expectations.clone());
    sets.on_change(move |change| {
        if let Change::Deleted(set) = change {
            expectations.forget(uid(set.as_ref()));
        }
        added.add(key_of(change.object().as_ref()));
    });
    let (added, expectations, known) = (queue.clone(), controller.expectations.clone(), sets.clone());
    pods.on_change(move |change| {
        let selects = |set: &S, pod: &Pod| {
            set.spec().is_some_and(|spec| selector::matches(&spec.selector, pod.metadata.labels.as_ref()))
        };
        observe(change, Some(&expectations), &known, selects, &added);
    });
    tokio::join!(sets.synced(), pods.synced());
    queue.run(S::CONTROLLER, WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

async fn sync<S: Replicated>(
    controller: Arc<Controller<S>>,
    (in_namespace, named): ObjectKey,
) -> Result<Option<Duration>, Error> {
    let Some(set) = controller.sets.get(&in_namespace, &named) else { return Ok(None) };
    let Some(spec) = set.spec() else { return Ok(None) };
    let api: Api<S> = Api::namespaced(controller.client.clone(), &in_namespace);
    let pods_api: Api<Pod> = Api::namespaced(controller.client.clone(), &in_namespace);
    let caught_up = controller.expectations.satisfied(uid(set.as_ref()));
    let owned = claim(set.as_ref(), &spec.selector, &controller.pods, &api, &pods_api).await?;
    let failure = if caught_up && set.meta().deletion_timestamp.is_none() {
        controller.manage(&set, &spec, &owned).await
    } else {
        None
    };
    let now = Timestamp::now();
    let told = failure.as_ref().map(|(creating, error)| (*creating, error.to_string()));
    let status = plan::status(&set.status(), &spec, set.meta().generation, &owned, told, now);
    if status != set.status() {
        api.replace_status(name(set.as_ref()), &PostParams::default(), &set.with_status(status)).await?;
    }
    match failure {
        Some((_, error)) => Err(error),
        None => Ok(plan::next_available(&spec, &owned, now).and_then(|after| Duration::try_from(after).ok())),
    }
}

impl<S: Replicated> Controller<S> {
    /// Creates or deletes pods. On failure: whether it was a creation, and why.
    async fn manage(&self, set: &Arc<S>, spec: &Spec, owned: &[Arc<Pod>]) -> Option<(bool, Error)> {
        let (key, regarding) = (uid(set.as_ref()), set.object_ref(&()));
        match plan::plan(spec, owned, &self.related(set, owned), Timestamp::now()) {
            Plan::Nothing => None,
            Plan::Create(count) => {
                let pod = from_template(&spec.template, namespace(set.as_ref()), controller_ref(set.as_ref()));
                self.expectations.expect_creations(key, count);
                let (created, error) = self.control.create_slowly(&vec![pod; count], &regarding).await;
                for _ in created..count {
                    self.expectations.created(key);
                }
                let error = error.filter(|error| !is_namespace_terminating(error))?;
                Some((true, Error::Unfinished(message(&error))))
            }
            Plan::Delete(excess) => {
                self.expectations.expect_deletions(key, excess.iter().map(|pod| uid(pod.as_ref()).to_owned()));
                let results = join_all(excess.iter().map(|pod| async {
                    let result = self.control.delete(pod, &regarding).await;
                    if !matches!(result, Ok(true)) {
                        self.expectations.deleted(key, uid(pod.as_ref()));
                    }
                    result
                }))
                .await;
                results.into_iter().find_map(Result::err).map(|error| (false, error))
            }
        }
    }

    /// The pods of all sets that the same Deployment manages.
    fn related(&self, set: &Arc<S>, owned: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        match controller_of(set.as_ref()) {
            Some(owner) => {
                let sets = self.siblings.get(&owner.uid);
                sets.iter().flat_map(|set| self.pods.get(uid(set.as_ref()))).collect()
            }
            None => owned.to_vec(),
        }
    }
}
