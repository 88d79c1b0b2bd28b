//! What to do about a Deployment: [`plan`] is a pure function of it, its ReplicaSets, and whether old pods still run.
use super::revision::{self, REVISION};
use super::status;
use crate::claim::{controller_ref, name};
use crate::hash::{semantically_equal, template_hash};
use crate::int_or_percent::scaled;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ObjectMeta;
use std::cmp::Ordering;

/// The label that tells the pods of one ReplicaSet from those of another.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// One ReplicaSet to write, and the events that tell of it once it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct SetUpdate {
    /// The new state.
    pub set: ReplicaSet,
    /// Messages of `ScalingReplicaSet` events.
    pub events: Vec<String>,
}

/// What to do, in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The ReplicaSet of a new template.
    pub create: Option<SetUpdate>,
    /// ReplicaSets to scale or annotate.
    pub updates: Vec<SetUpdate>,
    /// Old ReplicaSets beyond the history limit.
    pub deletes: Vec<String>,
    /// The Deployment with its new revision annotation and status, if either changed.
    pub status: Option<Deployment>,
    /// When to look again although nothing changes.
    pub again: Option<SignedDuration>,
}

/// `spec.replicas` of the Deployment.
pub fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Available pods of a ReplicaSet.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

/// (surge, unavailable) in pods; never both 0. (upstream: ResolveFenceposts)
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone());
    let RollingUpdateDeployment { max_surge, max_unavailable } = rolling.unwrap_or_default();
    let surge = scaled(max_surge.as_ref(), wanted(deployment), true);
    match scaled(max_unavailable.as_ref(), wanted(deployment), false) {
        0 if surge == 0 => (0, 1),
        unavailable => (surge, unavailable),
    }
}

fn max_surge(deployment: &Deployment) -> i32 {
    fenceposts(deployment).0
}

/// How many replicas may be missing.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if wanted(deployment) == 0 { 0 } else { fenceposts(deployment).1.min(wanted(deployment)) }
}

/// True if `set` runs the Deployment's template.
pub fn same_template(template: &PodTemplateSpec, set: &ReplicaSet) -> bool {
    let strip = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(TEMPLATE_HASH);
        }
        template
    };
    let of_set = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    of_set.is_some_and(|of_set| semantically_equal(&strip(template), &strip(of_set)))
}

fn by_age(one: &ReplicaSet, other: &ReplicaSet) -> Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    created(one).cmp(&created(other)).then_with(|| name(one).cmp(name(other)))
}

/// The working copy that the steps below change.
struct Rollout {
    deployment: Deployment,
    newest: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
    plan: Plan,
    now: Timestamp,
}

/// Decides what to do about `deployment`, which manages `sets`; `old_pods_running` tells if a pod of another template than
/// the newest's may still run. (upstream: pkg/controller/deployment, syncDeployment)
pub fn plan(
    deployment: &Deployment,
    sets: Vec<ReplicaSet>,
    old_pods_running: impl Fn(Option<&ReplicaSet>) -> bool,
    now: Timestamp,
) -> Plan {
    let mut sets = sets;
    sets.sort_by(by_age);
    let template = deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let newest = sets.iter().position(|set| same_template(&template, set)).map(|at| sets.remove(at));
    let mut rollout = Rollout { deployment: deployment.clone(), newest, old: sets, plan: Plan::default(), now };
    let status = rollout.run(old_pods_running);
    rollout.finish(deployment, status)
}

impl Rollout {
    fn run(&mut self, old_pods_running: impl Fn(Option<&ReplicaSet>) -> bool) -> DeploymentStatus {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return self.plain_status();
        }
        status::note_pause(&mut self.deployment, self.now);
        if self.deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false) {
            self.sync_newest(false);
            self.scale();
            self.clean_up();
            return self.plain_status();
        }
        let wanted = wanted(&self.deployment);
        let resized =
            |set: &&ReplicaSet| replicas(set) > 0 && revision::desired_replicas(set).is_some_and(|was| was != wanted);
        if self.old.iter().chain(&self.newest).any(|set| resized(&set)) {
            self.sync_newest(false);
            self.scale();
            return self.plain_status();
        }
        if is_rolling(&self.deployment) {
            self.roll();
        } else {
            self.recreate(old_pods_running);
        }
        status::rollout(&self.deployment, self.newest.as_ref(), &self.old, self.now)
    }

    fn plain_status(&self) -> DeploymentStatus {
        status::calculate(&self.deployment, self.newest.as_ref(), &self.old, self.now)
    }

    /// Compares with what the API has, and decides when to look again.
    fn finish(mut self, before: &Deployment, status: DeploymentStatus) -> Plan {
        let mut after = self.deployment;
        after.status = Some(status);
        let annotation = |deployment: &Deployment| {
            deployment.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION)).cloned()
        };
        let changed = !semantically_equal(&before.status, &after.status) || annotation(before) != annotation(&after);
        let status = after.status.clone().unwrap_or_default();
        if !after.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false) {
            self.plan.again = status::next_check(&after, &status, self.now);
        }
        self.plan.status = changed.then_some(after);
        self.plan
    }

    /// Finds or creates the ReplicaSet of the current template and numbers it. (upstream: getNewReplicaSet)
    fn sync_newest(&mut self, create: bool) {
        let next = self.old.iter().map(revision::revision).max().unwrap_or(0) + 1;
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let found = if let Some(set) = &mut self.newest {
            let mut changed = revision::annotate_newest(&self.deployment, set, next);
            if let Some(spec) =
                set.spec.as_mut().filter(|spec| spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0))
            {
                spec.min_ready_seconds = min_ready;
                changed = true;
            }
            if changed {
                let set = set.clone();
                self.write(set, None);
            }
            status::SET_FOUND
        } else if create {
            self.create(next);
            status::NEW_SET_CREATED
        } else {
            return;
        };
        let Some(set) = &self.newest else { return };
        let number = revision::revision(set).to_string();
        self.deployment.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), number);
        let created = found == status::NEW_SET_CREATED;
        let has_condition = self.deployment.status.as_ref().is_some_and(|status| status::progressing(status).is_some());
        if status::progress_deadline(&self.deployment).is_some() && (created || !has_condition) {
            let text = format!("{} new replica set {:?}", if created { "Created" } else { "Found" }, name(set));
            let condition = status::progress("True", found, text, self.now);
            status::set(self.deployment.status.get_or_insert_default(), condition);
        }
    }

    fn create(&mut self, number: i64) {
        let Some(spec) = self.deployment.spec.clone() else { return };
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template_hash(&spec.template, collisions);
        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
        let base = name(&self.deployment);
        let room = base.len().min(253 - 1 - hash.len());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", &base[..room])),
                namespace: self.deployment.metadata.namespace.clone(),
                owner_references: Some(vec![controller_ref(&self.deployment)]),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        let size = self.size_of_newest(&set);
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        revision::annotate_newest(&self.deployment, &mut set, number);
        let wanted = wanted(&self.deployment);
        revision::set_replicas(&mut set, wanted, wanted + max_surge(&self.deployment));
        let events =
            if size > 0 { vec![format!("Scaled up replica set {} from 0 to {size}", name(&set))] } else { Vec::new() };
        self.plan.create = Some(SetUpdate { set: set.clone(), events });
        self.newest = Some(set);
    }

    /// How many replicas the newest ReplicaSet `set` may have now. (upstream: NewRSNewReplicas)
    fn size_of_newest(&self, set: &ReplicaSet) -> i32 {
        let wanted = wanted(&self.deployment);
        if !is_rolling(&self.deployment) {
            return wanted;
        }
        let total = self.old.iter().map(replicas).sum::<i32>() + replicas(set);
        let room = wanted + max_surge(&self.deployment) - total;
        if room <= 0 { replicas(set) } else { replicas(set) + room.min(wanted - replicas(set)) }
    }

    fn find(&mut self, set_name: &str) -> Option<&mut ReplicaSet> {
        self.old.iter_mut().chain(&mut self.newest).find(|set| name(*set) == set_name)
    }

    fn write(&mut self, set: ReplicaSet, event: Option<String>) {
        let pending = self.plan.create.iter_mut().chain(&mut self.plan.updates);
        for update in pending {
            if name(&update.set) == name(&set) {
                update.set = set;
                update.events.extend(event);
                return;
            }
        }
        self.plan.updates.push(SetUpdate { set, events: event.into_iter().collect() });
    }

    /// Scales the ReplicaSet of that name; with `force` also when only the annotations change. True if the size changed.
    fn resize(&mut self, set_name: &str, size: i32, force: bool) -> bool {
        let wanted = wanted(&self.deployment);
        let max = wanted + max_surge(&self.deployment);
        let Some(set) = self.find(set_name) else { return false };
        let was = replicas(set);
        if was == size && !force {
            return false;
        }
        let noted = revision::set_replicas(set, wanted, max);
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        if was == size && !noted {
            return false;
        }
        let direction = if was < size { "up" } else { "down" };
        let event = (was != size).then(|| format!("Scaled {direction} replica set {set_name} from {was} to {size}"));
        let set = set.clone();
        self.write(set, event);
        was != size
    }

    /// Follows a change of the Deployment's size. (upstream: scale)
    fn scale(&mut self) {
        let wanted = wanted(&self.deployment);
        let active: Vec<ReplicaSet> =
            self.old.iter().chain(&self.newest).filter(|set| replicas(set) > 0).cloned().collect();
        if active.len() <= 1 {
            let latest = || self.newest.clone().or_else(|| self.old.last().cloned());
            if let Some(set) = active.first().cloned().or_else(latest) {
                self.resize(name(&set), wanted, false);
            }
            return;
        }
        let saturated = self.newest.as_ref().is_some_and(|set| {
            replicas(set) == wanted && revision::desired_replicas(set) == Some(wanted) && available(set) == wanted
        });
        if saturated {
            let old: Vec<String> =
                self.old.iter().filter(|set| replicas(set) > 0).map(|set| name(set).to_owned()).collect();
            for set in old {
                self.resize(&set, 0, false);
            }
            return;
        }
        if is_rolling(&self.deployment) {
            for (set, size) in self.proportions(active) {
                self.resize(&set, size, true);
            }
        }
    }

    /// New sizes of several active sets so that each keeps its share.
    fn proportions(&self, mut active: Vec<ReplicaSet>) -> Vec<(String, i32)> {
        let wanted = wanted(&self.deployment);
        let max = wanted + max_surge(&self.deployment);
        let allowed = if wanted > 0 { max } else { 0 };
        let to_add = allowed - active.iter().map(replicas).sum::<i32>();
        // Larger first; of equal ones the newer when growing, the older when shrinking.
        active.sort_by(|one, other| {
            let age = if to_add > 0 { by_age(other, one) } else { by_age(one, other) };
            replicas(other).cmp(&replicas(one)).then(age)
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for set in &active {
            let size = replicas(set);
            let share = if to_add == 0 { 0 } else { self.share(set, to_add - added) };
            added += share;
            sizes.push((name(set).to_owned(), size + share));
        }
        if let Some(first) = sizes.first_mut() {
            first.1 = (first.1 + to_add - added).max(0);
        }
        sizes
    }

    fn share(&self, set: &ReplicaSet, left: i32) -> i32 {
        let (size, wanted) = (replicas(set), wanted(&self.deployment));
        if size == 0 || left == 0 {
            return 0;
        }
        let fraction = if wanted == 0 {
            -size
        } else {
            let before = revision::max_replicas(set)
                .filter(|max| *max != 0)
                .unwrap_or_else(|| self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0));
            if before == 0 {
                return 0;
            }
            let grown = f64::from(size) * f64::from(wanted + max_surge(&self.deployment)) / f64::from(before);
            // Replica counts are far below what a double holds exactly.
            #[allow(clippy::cast_possible_truncation)]
            let rounded = grown.round() as i32;
            rounded - size
        };
        if left > 0 { fraction.min(left) } else { fraction.max(left) }
    }

    /// One step of a rolling update: the newest up, or the old ones down. (upstream: rolloutRolling)
    fn roll(&mut self) {
        self.sync_newest(true);
        let Some(newest) = self.newest.clone() else { return };
        let wanted = wanted(&self.deployment);
        let size = match replicas(&newest).cmp(&wanted) {
            Ordering::Equal => wanted,
            Ordering::Greater => wanted,
            Ordering::Less => self.size_of_newest(&newest),
        };
        if self.plan.create.is_some() || self.resize(name(&newest), size, false) {
            return;
        }
        if self.shrink_old(&newest) {
            return;
        }
        self.clean_up_when_complete();
    }

    fn shrink_old(&mut self, newest: &ReplicaSet) -> bool {
        let old: i32 = self.old.iter().map(replicas).sum();
        if old == 0 {
            return false;
        }
        let keep = wanted(&self.deployment) - max_unavailable(&self.deployment);
        let room = old + replicas(newest) - keep - (replicas(newest) - available(newest));
        if room <= 0 {
            return false;
        }
        let mut shrunk = 0;
        for set in self.old.clone() {
            // Unhealthy replicas first: they serve nobody and would block the rollout.
            let unhealthy = (replicas(&set) - available(&set)).min(room - shrunk);
            if unhealthy > 0 && self.resize(name(&set), replicas(&set) - unhealthy, false) {
                shrunk += unhealthy;
            }
        }
        let mut spare = self.old.iter().map(available).sum::<i32>() + available(newest) - keep;
        for set in self.old.clone() {
            let count = replicas(&set).min(spare);
            if count > 0 && self.resize(name(&set), replicas(&set) - count, false) {
                spare -= count;
                shrunk += count;
            }
        }
        shrunk > 0
    }

    /// Old pods must be gone before the first new one starts. (upstream: rolloutRecreate)
    fn recreate(&mut self, old_pods_running: impl Fn(Option<&ReplicaSet>) -> bool) {
        self.sync_newest(false);
        let mut shrunk = false;
        for set in self.old.clone() {
            shrunk |= self.resize(name(&set), 0, false);
        }
        let pods_of = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
        if shrunk || self.old.iter().any(|set| pods_of(set) > 0) || old_pods_running(self.newest.as_ref()) {
            return;
        }
        if self.newest.is_none() {
            self.sync_newest(true);
        } else if let Some(set) = self.newest.clone() {
            self.resize(name(&set), wanted(&self.deployment), false);
        }
        self.clean_up_when_complete();
    }

    fn clean_up_when_complete(&mut self) {
        let status = self.deployment.status.clone().unwrap_or_default();
        if status::complete(&self.deployment, &status) {
            self.clean_up();
        }
    }

    /// Deletes old ReplicaSets beyond `spec.revisionHistoryLimit`. (upstream: cleanupDeployment)
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return };
        let mut old: Vec<&ReplicaSet> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|set| revision::revision(set));
        let excess = old.len().saturating_sub(limit);
        for set in &old[..excess] {
            let status = set.status.clone().unwrap_or_default();
            let observed = status.observed_generation >= set.metadata.generation;
            if status.replicas == 0 && replicas(set) == 0 && observed {
                self.plan.deletes.push(name(*set).to_owned());
            }
        }
    }
}
