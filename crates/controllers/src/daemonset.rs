//! The DaemonSet controller: one pod on every node that fits. The decision is [`plan::plan`].
mod plan;

use crate::Context;
use crate::claim::{claim, name, namespace, uid};
use crate::controller_revision::{self, history};
use crate::error::{Error, is_namespace_terminating, message};
use crate::expectations::Expectations;
use crate::pod_control::PodControl;
use crate::pod_owners::observe;
use crate::{pods, selector};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use parking_lot::Mutex;
use pintle_client::informer::{Change, Informer, ObjectKey, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Index, Recorder, WorkQueue};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 2;
/// Pods created or deleted in one go.
const BURST: usize = 250;

struct Controller {
    client: Client,
    recorder: Recorder,
    control: PodControl,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Index<Pod>,
    revisions: Index<ControllerRevision>,
    expectations: Expectations,
    failures: Failures,
}

/// How soon failed pods may be deleted, by set and node: a kubelet that refuses a pod would refuse its successors at once.
#[derive(Default)]
struct Failures(Mutex<HashMap<(String, String), (Instant, Duration)>>);

impl Failures {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(900);

    /// How long to wait; `None` (which counts as a deletion) if not at all.
    fn wait(&self, set: &str, node: &str) -> Option<Duration> {
        let (now, key) = (Instant::now(), (set.to_owned(), node.to_owned()));
        let mut all = self.0.lock();
        let next = match all.get(&key) {
            Some((since, delay)) => {
                match (*since + *delay).checked_duration_since(now).filter(|left| !left.is_zero()) {
                    Some(left) => return Some(left),
                    // Twice the longest without a failure, and all is forgiven.
                    None if now.duration_since(*since) > Self::LONGEST * 2 => Self::FIRST,
                    None => (*delay * 2).min(Self::LONGEST),
                }
            }
            None => Self::FIRST,
        };
        all.insert(key, (now, next));
        None
    }

    fn forget(&self, set: &str) {
        self.0.lock().retain(|(of, _), _| of != set);
    }
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("daemon-set-controller");
    let (sets, nodes, pods) = (cx.informers.of::<DaemonSet>(), cx.informers.of::<Node>(), cx.informers.of::<Pod>());
    let revisions = cx.informers.of::<ControllerRevision>();
    let recorder = Recorder::core(client.clone(), "daemonset-controller", "");
    let controller = Arc::new(Controller {
        control: PodControl::new(client.clone(), recorder.clone()),
        recorder,
        client,
        sets: sets.clone(),
        nodes: nodes.clone(),
        pods: cx.informers.by_controller(),
        revisions: cx.informers.by_controller(),
        expectations: Expectations::default(),
        failures: Failures::default(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let (added, watching) = (queue.clone(), controller.clone());
    sets.on_change(move |change| {
        if let Change::Deleted(set) = change {
            watching.expectations.forget(uid(set.as_ref()));
            watching.failures.forget(uid(set.as_ref()));
        }
        added.add(key_of(change.object().as_ref()));
    });
    let (added, known) = (queue.clone(), sets.clone());
    nodes.on_change(move |change| {
        let facts =
            |node: &Node| (node.metadata.labels.clone(), node.spec.as_ref().and_then(|spec| spec.taints.clone()));
        if !matches!(change, Change::Updated(old, new) if facts(old) == facts(new)) {
            known.list().iter().for_each(|set| added.add(key_of(set.as_ref())));
        }
    });
    let (added, expectations, known) = (queue.clone(), controller.expectations.clone(), sets.clone());
    pods.on_change(move |change| {
        let selects = |set: &DaemonSet, pod: &Pod| {
            let wanted = set.spec.as_ref().map(|spec| &spec.selector);
            wanted.is_some_and(|wanted| selector::matches(wanted, pod.metadata.labels.as_ref()))
        };
        observe(change, Some(&expectations), &known, selects, &added);
    });
    tokio::join!(sets.synced(), nodes.synced(), pods.synced(), revisions.synced());
    queue.run("daemonset", WORKERS, cx.stop, move |key| sync(controller.clone(), key)).await;
}

async fn sync(controller: Arc<Controller>, (in_namespace, named): ObjectKey) -> Result<Option<Duration>, Error> {
    let Some(set) = controller.sets.get(&in_namespace, &named) else { return Ok(None) };
    let Some(spec) = &set.spec else { return Ok(None) };
    if selector::is_empty(&spec.selector) {
        let text = "This daemon set is selecting all pods. A non-empty selector is required.";
        controller.recorder.event(set.as_ref(), Warning, "SelectingAll", text);
        return Ok(None);
    }
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let api: Api<DaemonSet> = Api::namespaced(controller.client.clone(), &in_namespace);
    let pods_api: Api<Pod> = Api::namespaced(controller.client.clone(), &in_namespace);
    let revisions_api: Api<ControllerRevision> = Api::namespaced(controller.client.clone(), &in_namespace);
    let caught_up = controller.expectations.satisfied(uid(set.as_ref()));
    let owned = claim(set.as_ref(), &spec.selector, &controller.pods, &api, &pods_api).await?;
    let existing = claim(set.as_ref(), &spec.selector, &controller.revisions, &api, &revisions_api).await?;
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let known = history(set.as_ref(), &spec.template, labels, collisions, &existing);
    if !controller_revision::write(&revisions_api, &known).await? {
        let mut updated = set.as_ref().clone();
        let status = updated.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        api.replace_status(&named, &PostParams::default(), &updated).await?;
        return Ok(None);
    }
    let hash_of = |labels: Option<&std::collections::BTreeMap<String, String>>| {
        labels.and_then(|labels| labels.get(controller_revision::HASH_LABEL)).cloned()
    };
    let hash = hash_of(known.current.metadata.labels.as_ref()).unwrap_or_default();
    let nodes = controller.nodes.list();
    let plan = plan::plan(&set, &hash, &nodes, &owned, Timestamp::now());
    let mut status = plan.status.clone();
    let result = if caught_up {
        controller.apply(&set, plan).await
    } else {
        // This generation has not been acted on yet.
        status.observed_generation = set.status.as_ref().and_then(|status| status.observed_generation);
        Ok(None)
    };
    if set.status.as_ref() != Some(&status) {
        let mut updated = set.as_ref().clone();
        updated.status = Some(status);
        api.replace_status(&named, &PostParams::default(), &updated).await?;
    }
    let wait = result?;
    // Revisions whose hash a pod still carries are in use.
    let hashes: HashSet<String> = owned.iter().filter_map(|pod| hash_of(pod.metadata.labels.as_ref())).collect();
    let in_use = |revision: &&ControllerRevision| {
        hash_of(revision.metadata.labels.as_ref()).is_some_and(|hash| hashes.contains(&hash))
    };
    let live: HashSet<String> = known.all.iter().filter(in_use).map(|revision| name(revision).to_owned()).collect();
    let limit = spec.revision_history_limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(10);
    controller_revision::delete(&revisions_api, &controller_revision::expired(&known, &live, limit)).await?;
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let again = owned.iter().filter_map(|pod| pods::available_in(pod, min_ready, Timestamp::now())).min();
    let again = again.map(crate::node_lifecycle::positive);
    Ok(again.into_iter().chain(wait).min())
}

impl Controller {
    /// Creates and deletes pods; returns when to look at failed ones again.
    async fn apply(&self, set: &DaemonSet, plan: plan::Plan) -> Result<Option<Duration>, Error> {
        let (key, regarding) = (uid(set), set.object_ref(&()));
        let mut delete = plan.delete;
        let mut wait: Option<Duration> = None;
        for (pod, node) in plan.ended {
            let (of, named) = (namespace(set), name(pod.as_ref()));
            if pods::phase(&pod) == "Succeeded" {
                let text = format!("Found succeeded daemon pod {of}/{named} on node {node}, will try to delete it");
                self.recorder.event(set, Normal, "SucceededDaemonPod", text);
            } else if let Some(left) = self.failures.wait(key, &node) {
                wait = Some(wait.map_or(left, |wait| wait.min(left)));
                continue;
            } else {
                let text = format!("Found failed daemon pod {of}/{named} on node {node}, will try to kill it");
                self.recorder.event(set, Warning, "FailedDaemonPod", text);
            }
            delete.push(pod);
        }
        delete.truncate(BURST);
        let create = &plan.create[..plan.create.len().min(BURST)];
        self.expectations.expect_deletions(key, delete.iter().map(|pod| uid(pod.as_ref()).to_owned()));
        let deleted = join_all(delete.iter().map(|pod| async {
            let result = self.control.delete(pod, &regarding).await;
            if !matches!(result, Ok(true)) {
                self.expectations.deleted(key, uid(pod.as_ref()));
            }
            result
        }))
        .await;
        self.expectations.expect_creations(key, create.len());
        let (created, error) = self.control.create_slowly(create, &regarding).await;
        for _ in created..create.len() {
            self.expectations.created(key);
        }
        if let Some(error) = error.filter(|error| !is_namespace_terminating(error)) {
            return Err(Error::Unfinished(message(&error)));
        }
        deleted.into_iter().find_map(Result::err).map_or(Ok(wait), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failed_pods_are_deleted_at_growing_distances() {
        let failures = Failures::default();
        assert_eq!(failures.wait("s", "n"), None);
        assert_eq!(failures.wait("s", "n"), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(failures.wait("s", "n"), None);
        assert_eq!(failures.wait("s", "n"), Some(Duration::from_secs(2)));
        assert_eq!(failures.wait("s", "m"), None, "another node");
        failures.forget("s");
        assert_eq!(failures.wait("s", "n"), None);
    }
}
