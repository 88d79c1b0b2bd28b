//! What the Deployment controller decides, against a small model of the ReplicaSet controller.
use super::plan::{Plan, plan, replicas};
use super::revision::REVISION;
use super::status::progressing;
use crate::claim::name;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn deployment(replicas: i32, image: &str, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    }))
    .unwrap()
}

fn rolling() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
}

/// A Deployment and its ReplicaSets; each step applies a plan, then lets the sets have their pods.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    events: Vec<String>,
    second: i64,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        World { deployment, sets: Vec::new(), events: Vec::new(), second: 0 }
    }

    fn step(&mut self, pods_ready: bool) -> Plan {
        self.second += 1;
        let decided = plan(&self.deployment, self.sets.clone(), |_| false, at(self.second));
        for update in decided.create.iter().chain(&decided.updates) {
            let mut set = update.set.clone();
            set.metadata.uid.get_or_insert_with(|| name(&update.set).to_owned());
            set.metadata
                .creation_timestamp
                .get_or_insert(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.second)));
            self.sets.retain(|old| name(old) != name(&set));
            self.sets.push(set);
            self.events.extend(update.events.clone());
        }
        self.sets.retain(|set| !decided.deletes.contains(&name(set).to_owned()));
        if let Some(deployment) = &decided.status {
            self.deployment = deployment.clone();
        }
        for set in &mut self.sets {
            let size = replicas(set);
            let had = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
            let available = if pods_ready { size } else { had.min(size) };
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                terminating_replicas: Some(0),
                ..ReplicaSetStatus::default()
            });
        }
        decided
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if self.step(true) == Plan::default() {
                return;
            }
        }
        panic!("the rollout does not come to rest: {:?}", self.events);
    }

    fn set_image(&mut self, image: &str) {
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
        self.deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image =
            Some(image.to_owned());
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(replicas).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(super::plan::available).sum()
    }

    fn reason(&self) -> String {
        progressing(self.deployment.status.as_ref().unwrap()).unwrap().reason.clone().unwrap()
    }
}

#[test]
fn a_new_deployment_gets_one_set_of_its_size_and_comes_to_rest() {
    let mut world = World::new(deployment(3, "a", rolling()));
    world.step(true);
    assert_eq!(world.reason(), "NewReplicaSetCreated");
    world.settle();
    assert_eq!((world.sets.len(), world.total()), (1, 3));
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
    assert_eq!(world.events, [format!("Scaled up replica set {} from 0 to 3", name(&world.sets[0]))]);
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()[REVISION], "1");
}

#[test]
fn a_rolling_update_keeps_within_surge_and_unavailability() {
    let mut world = World::new(deployment(8, "a", rolling()));
    world.settle();
    world.set_image("b");
    for _ in 0..100 {
        let before = world.available();
        let done = world.step(true) == Plan::default();
        assert!(world.total() <= 10, "surge exceeded");
        assert!(before >= 6, "too few available: {before}");
        if done {
            break;
        }
    }
    let sizes: Vec<i32> = world.sets.iter().map(replicas).collect();
    assert_eq!((sizes.iter().sum::<i32>(), sizes.iter().max()), (8, Some(&8)));
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()[REVISION], "2");
}

#[test]
fn pods_that_never_get_ready_stop_the_rollout_and_the_deadline_tells() {
    let mut world = World::new(deployment(4, "a", rolling()));
    world.settle();
    world.set_image("broken");
    for _ in 0..10 {
        world.step(false);
    }
    assert_eq!(world.available(), 3, "the old pods must stay");
    let last = world.step(false);
    assert!(last.again.is_some(), "a stuck rollout is looked at again");
    world.second += 700;
    world.step(false);
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
}

#[test]
fn undo_reuses_the_old_set_with_a_new_revision() {
    let mut world = World::new(deployment(2, "a", rolling()));
    world.settle();
    let first = name(&world.sets[0]).to_owned();
    world.set_image("b");
    world.settle();
    world.set_image("a");
    world.settle();
    assert_eq!(world.sets.len(), 2);
    let set = world.sets.iter().find(|set| name(*set) == first).unwrap();
    assert_eq!(replicas(set), 2);
    assert_eq!(set.metadata.annotations.as_ref().unwrap()[REVISION], "3");
}

#[test]
fn recreate_starts_new_pods_only_after_the_old_are_gone() {
    let mut world = World::new(deployment(2, "a", json!({"type": "Recreate"})));
    world.settle();
    world.set_image("b");
    let first = plan(&world.deployment, world.sets.clone(), |_| true, at(50));
    assert!(first.create.is_none());
    assert_eq!(replicas(&first.updates[0].set), 0);
    world.step(true);
    let waiting = plan(&world.deployment, world.sets.clone(), |_| true, at(51));
    assert!(waiting.create.is_none() && waiting.updates.is_empty());
    world.settle();
    assert_eq!(world.total(), 2);
}

#[test]
fn history_beyond_the_limit_is_deleted() {
    let mut world = World::new(deployment(1, "a", rolling()));
    for image in ["a", "b", "c", "d", "e"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.sets.len(), 3, "the newest and two old ones");
}

#[test]
fn a_paused_deployment_scales_in_proportion_but_does_not_roll() {
    let mut world = World::new(deployment(
        10,
        "a",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}),
    ));
    world.settle();
    world.set_image("b");
    for _ in 0..3 {
        world.step(false);
    }
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.deployment.spec.as_mut().unwrap().replicas = Some(20);
    for _ in 0..5 {
        world.step(false);
    }
    assert_eq!(world.total(), 23);
    assert_eq!(world.reason(), "DeploymentPaused");
    let mut sizes: Vec<i32> = world.sets.iter().map(replicas).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [9, 14]);
}
