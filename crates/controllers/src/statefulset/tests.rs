//! What the StatefulSet controller decides, against a small model of its pods.
use super::plan::{Plan, Revisions, Step, claim_owners, claims, plan};
use crate::claim::name;
use crate::controller_revision::{HASH_LABEL, history, template};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

struct World {
    set: StatefulSet,
    revisions: Vec<Arc<ControllerRevision>>,
    pods: Vec<Arc<Pod>>,
    log: Vec<String>,
}

impl World {
    fn new(replicas: i32, extra: Value) -> Self {
        let mut spec = json!({
            "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        });
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let set = json!({"metadata": {"name": "db", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec});
        World { set: serde_json::from_value(set).unwrap(), revisions: Vec::new(), pods: Vec::new(), log: Vec::new() }
    }

    fn plan(&mut self) -> Plan {
        let spec = self.set.spec.as_ref().unwrap();
        let known = history(&self.set, &spec.template, None, None, &self.revisions);
        self.revisions = known.all.iter().cloned().map(Arc::new).collect();
        let was = self.set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current =
            known.all.iter().find(|revision| Some(name(*revision)) == was.as_deref()).unwrap_or(&known.current);
        let current_template = template(current).unwrap();
        let revisions = Revisions { current, current_template: &current_template, update: &known.current };
        plan(&self.set, &revisions, &self.pods, Timestamp::UNIX_EPOCH)
    }

    /// One sync; created pods run and are ready if `ready`, deleted ones are gone at once.
    fn step(&mut self, ready: bool) -> usize {
        let decided = self.plan();
        self.set.status = Some(decided.status);
        for step in &decided.steps {
            match step {
                Step::Create(pod) => {
                    let mut pod = pod.as_ref().clone();
                    pod.status = serde_json::from_value(json!({"phase": "Running", "conditions": [
                        {"type": "Ready", "status": if ready { "True" } else { "False" }}]}))
                    .unwrap();
                    self.log.push(format!("+{}", name(&pod)));
                    self.pods.push(Arc::new(pod));
                }
                Step::Delete { pod } => {
                    self.log.push(format!("-{}", name(pod.as_ref())));
                    self.pods.retain(|other| name(other.as_ref()) != name(pod.as_ref()));
                }
                Step::Correct(_) => panic!("pods of the controller's own making need no correction"),
            }
        }
        decided.steps.len()
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if self.step(true) == 0 {
                self.step(true);
                return;
            }
        }
        panic!("the set does not come to rest: {:?}", self.log);
    }

    fn set_image(&mut self, image: &str) {
        self.set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    }

    fn images(&self) -> Vec<String> {
        let mut pods = self.pods.clone();
        pods.sort_by(|one, other| name(one.as_ref()).cmp(name(other.as_ref())));
        pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
    }
}

#[test]
fn pods_start_in_order_each_after_the_one_before_is_ready() {
    let mut world = World::new(3, json!({}));
    assert_eq!(world.step(false), 1);
    assert_eq!(world.step(false), 0, "db-0 is not ready");
    let mut world = World::new(3, json!({}));
    world.settle();
    assert_eq!(world.log, ["+db-0", "+db-1", "+db-2"]);
    let pod = world.pods[1].spec.as_ref().unwrap();
    assert_eq!((pod.hostname.as_deref(), pod.subdomain.as_deref()), (Some("db-1"), Some("db")));
    assert_eq!(pod.volumes.as_ref().unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-1");
    assert_eq!(name(&claims(&world.set, 1)[0]), "data-db-1");
}

#[test]
fn parallel_sets_start_all_pods_at_once() {
    assert_eq!(World::new(3, json!({"podManagementPolicy": "Parallel"})).step(false), 3);
}

#[test]
fn scaling_down_removes_the_highest_number_first() {
    let mut world = World::new(3, json!({}));
    world.settle();
    world.set.spec.as_mut().unwrap().replicas = Some(1);
    world.settle();
    assert_eq!(world.log[3..], ["-db-2", "-db-1"]);
}

#[test]
fn an_update_goes_backwards_one_pod_at_a_time() {
    let mut world = World::new(3, json!({}));
    world.settle();
    let first = world.set.status.clone().unwrap().current_revision;
    world.set_image("b");
    world.settle();
    assert_eq!(world.log[3..], ["-db-2", "+db-2", "-db-1", "+db-1", "-db-0", "+db-0"]);
    let status = world.set.status.clone().unwrap();
    assert_eq!(status.current_revision, status.update_revision);
    assert_ne!(status.current_revision, first);
    assert_eq!(world.pods[0].metadata.labels.as_ref().unwrap()[HASH_LABEL], status.update_revision.unwrap());
}

#[test]
fn a_partition_holds_back_the_lower_numbers_also_when_they_restart() {
    let mut world =
        World::new(3, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    world.settle();
    world.set_image("b");
    world.settle();
    assert_eq!(world.images(), ["a", "a", "b"]);
    world.pods.retain(|pod| name(pod.as_ref()) != "db-0");
    world.settle();
    assert_eq!(world.images(), ["a", "a", "b"]);
}

#[test]
fn on_delete_waits_for_someone_to_delete_the_pod() {
    let mut world = World::new(2, json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle();
    world.set_image("b");
    world.settle();
    assert_eq!(world.images(), ["a", "a"]);
    world.pods.retain(|pod| name(pod.as_ref()) != "db-1");
    world.settle();
    assert_eq!(world.images(), ["a", "b"]);
}

#[test]
fn scaling_down_halts_while_pods_are_unwell() {
    let mut world = World::new(3, json!({}));
    world.settle();
    for pod in &mut world.pods {
        let mut unready = pod.as_ref().clone();
        unready.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
        *pod = Arc::new(unready);
    }
    world.set.spec.as_mut().unwrap().replicas = Some(0);
    assert_eq!(world.step(true), 0);
}

#[test]
fn a_broken_update_is_replaced_by_a_better_one() {
    let mut world = World::new(2, json!({}));
    world.settle();
    world.set_image("broken");
    world.step(false);
    world.step(false);
    assert_eq!(world.images(), ["a", "broken"]);
    assert_eq!(world.step(false), 0, "the rest waits for the pod that is not ready");
}

#[test]
fn an_update_may_take_several_pods_at_once() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 2}});
    let mut world = World::new(4, json!({"updateStrategy": strategy, "podManagementPolicy": "Parallel"}));
    world.settle();
    world.set_image("b");
    let steps = world.log.len();
    world.step(true);
    assert_eq!(world.log[steps..], ["-db-3", "-db-2"]);
    world.settle();
    assert_eq!(world.images(), ["b", "b", "b", "b"]);
}

#[test]
fn claims_follow_the_set_or_the_pod_as_the_policy_says() {
    let owners = |policy: Value, pod: &str, owners: Value| {
        let world = World::new(1, json!({"persistentVolumeClaimRetentionPolicy": policy}));
        let pod = serde_json::from_value(json!({"metadata": {"name": pod, "uid": pod}})).unwrap();
        let claim =
            serde_json::from_value(json!({"metadata": {"name": "data-db-0", "ownerReferences": owners}})).unwrap();
        claim_owners(&world.set, &pod, &claim)
            .map(|owners| owners.into_iter().map(|owner| owner.uid).collect::<Vec<_>>())
    };
    let of_set =
        json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": true}]);
    let both = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    assert_eq!(owners(json!({}), "db-0", json!([])), None);
    assert_eq!(owners(both.clone(), "db-0", json!([])), Some(vec!["u".to_owned()]));
    assert_eq!(owners(both.clone(), "db-0", of_set.clone()), None);
    assert_eq!(owners(both.clone(), "db-1", of_set.clone()), Some(vec!["db-1".to_owned()]));
    assert_eq!(owners(json!({"whenScaled": "Delete"}), "db-0", of_set.clone()), Some(vec![]));
    let mut earlier = of_set;
    earlier[0]["uid"] = json!("another");
    assert_eq!(owners(both, "db-0", earlier), None, "an earlier set of that name left it behind");
}
