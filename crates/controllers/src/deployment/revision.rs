//! Revisions of a Deployment: the annotations on its ReplicaSets that `kubectl rollout history|undo` read.
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use std::collections::BTreeMap;

/// The revision a ReplicaSet (or, for the newest, the Deployment) stands for.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that became the newest again.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Desired replicas and surge when the ReplicaSet was last scaled.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const HISTORY_LIMIT: usize = 2000;
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a String> {
    set.metadata.annotations.as_ref()?.get(key)
}

fn number(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(set, key)?.parse().ok()
}

/// The revision of `set`, 0 if it has none.
pub fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The Deployment's size when `set` was last scaled.
pub fn desired_replicas(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED_REPLICAS)
}

/// The Deployment's largest size when `set` was last scaled.
pub fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    number(set, MAX_REPLICAS)
}

/// Notes on `set` the size it was scaled for. True if that changed anything.
pub fn set_replicas(set: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    put(annotations, DESIRED_REPLICAS, desired.to_string()) | put(annotations, MAX_REPLICAS, max.to_string())
}

fn put(annotations: &mut BTreeMap<String, String>, key: &str, value: String) -> bool {
    annotations.insert(key.to_owned(), value.clone()).as_ref() != Some(&value)
}

/// Brings the annotations of the newest ReplicaSet up to date: the Deployment's own, and `revision` if that is higher than
/// what it has; the revision it had goes to the history. True if anything changed.
/// (upstream: pkg/controller/deployment/util, SetNewReplicaSetAnnotations)
pub fn annotate_newest(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            changed |= put(annotations, key, value.clone());
        }
    }
    let had = annotations.get(REVISION).cloned();
    let old = match had.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(old) => old,
            Err(_) => return false,
        },
    };
    if old >= revision {
        return changed;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if let Some(had) = had {
        let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
        let mut revisions: Vec<&str> = history.split(',').filter(|part| !part.is_empty()).collect();
        revisions.push(&had);
        let mut joined = revisions.join(",");
        while joined.len() > HISTORY_LIMIT && revisions.len() > 1 {
            revisions.remove(0);
            joined = revisions.join(",");
        }
        annotations.insert(REVISION_HISTORY.to_owned(), joined);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rollback_keeps_the_earlier_revision_as_history() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"annotations": {"team": "a", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        }))
        .unwrap();
        let mut set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"annotations": {REVISION: "1"}}})).unwrap();
        assert!(annotate_newest(&deployment, &mut set, 3));
        let annotations = set.metadata.annotations.clone().unwrap();
        assert_eq!(annotations[REVISION], "3");
        assert_eq!(annotations[REVISION_HISTORY], "1");
        assert_eq!(annotations["team"], "a");
        assert_eq!(annotations.len(), 3);
        assert!(!annotate_newest(&deployment, &mut set, 2), "a lower revision changes nothing");
    }
}
