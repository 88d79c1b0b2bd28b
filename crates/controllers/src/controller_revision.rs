//! The history of a StatefulSet's or DaemonSet's template as ControllerRevisions, which `kubectl rollout` reads.
//! (upstream: pkg/controller/history)
use crate::claim::{controller_ref, name, namespace};
use crate::error::{Error, is_already_exists, unless_not_found};
use crate::hash::{canonical, fnv32a, safe_encode};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The revision of a pod's template, on pods and revisions.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// The template as a patch that restores it.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = canonical(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that `revision` holds.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn hash(data: &Value, collisions: Option<i32>) -> String {
    let mut bytes = canonical(data).to_string().into_bytes();
    if let Some(count) = collisions {
        bytes.extend_from_slice(count.to_string().as_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// The revisions of a set, oldest first, with that of its current template.
#[derive(Debug)]
pub struct History {
    /// All revisions, the current one included.
    pub all: Vec<ControllerRevision>,
    /// The revision of the current template.
    pub current: ControllerRevision,
    /// What must be written for that.
    pub write: Option<Write>,
}

/// How the current revision comes to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    /// It is new.
    Create,
    /// It was an older one and becomes the newest.
    Renumber,
}

/// Finds or makes the revision of `template` among `existing`.
pub fn history<K: Resource<DynamicType = ()>>(
    owner: &K,
    template: &PodTemplateSpec,
    labels: Option<&BTreeMap<String, String>>,
    collisions: Option<i32>,
    existing: &[Arc<ControllerRevision>],
) -> History {
    let mut all: Vec<ControllerRevision> = existing.iter().map(|revision| revision.as_ref().clone()).collect();
    all.sort_by(|one, other| {
        let key = |revision: &ControllerRevision| {
            (
                revision.revision,
                revision.metadata.creation_timestamp.as_ref().map(|time| time.0),
                revision.metadata.name.clone(),
            )
        };
        key(one).cmp(&key(other))
    });
    let next = all.last().map_or(0, |last| last.revision) + 1;
    let wanted = data(template);
    let same = |revision: &ControllerRevision| {
        revision.data.as_ref().is_some_and(|data| canonical(&data.0) == canonical(&wanted))
    };
    if let Some(at) = all.iter().rposition(same) {
        if at + 1 == all.len() {
            let current = all[at].clone();
            return History { all, current, write: None };
        }
        let mut current = all.remove(at);
        current.revision = next;
        all.push(current.clone());
        return History { all, current, write: Some(Write::Renumber) };
    }
    let hash = hash(&wanted, collisions);
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let base = name(owner);
    let current = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", &base[..base.len().min(223)])),
            namespace: Some(namespace(owner).to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(wanted)),
        revision: next,
    };
    all.push(current.clone());
    History { all, current, write: Some(Write::Create) }
}

/// Revisions beyond `limit` that are neither `live` nor the current one, oldest first.
pub fn expired<'a>(history: &'a History, live: &HashSet<String>, limit: usize) -> Vec<&'a str> {
    let idle: Vec<&str> = history
        .all
        .iter()
        .map(name)
        .filter(|revision| *revision != name(&history.current) && !live.contains(*revision))
        .collect();
    let excess = idle.len().saturating_sub(limit);
    idle.into_iter().take(excess).collect()
}

/// Writes what the history asks for. False if the name is taken by another template: the owner must count a collision.
pub async fn write(api: &Api<ControllerRevision>, history: &History) -> Result<bool, Error>
where
    ControllerRevision: Resource<Scope = NamespaceResourceScope>,
{
    match history.write {
        None => Ok(true),
        Some(Write::Renumber) => {
            api.replace(name(&history.current), &PostParams::default(), &history.current).await?;
            Ok(true)
        }
        Some(Write::Create) => match api.create(&PostParams::default(), &history.current).await {
            Ok(_) => Ok(true),
            Err(error) if is_already_exists(&error) => {
                let live = api.get(name(&history.current)).await?;
                let same = live.data.map(|data| canonical(&data.0))
                    == history.current.data.as_ref().map(|data| canonical(&data.0));
                Ok(same && live.metadata.owner_references == history.current.metadata.owner_references)
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// Deletes expired revisions.
pub async fn delete(api: &Api<ControllerRevision>, expired: &[&str]) -> Result<(), Error> {
    for revision in expired {
        unless_not_found(api.delete(revision, &DeleteParams::default()).await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn pod_template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}})).unwrap()
    }

    fn owner() -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "ns", "uid": "u"}})).unwrap()
    }

    fn stored(history: History) -> Vec<Arc<ControllerRevision>> {
        history.all.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn a_template_gets_one_revision_and_an_old_one_is_renumbered() {
        let first = history(&owner(), &pod_template("a"), None, None, &[]);
        assert_eq!((first.current.revision, &first.write), (1, &Some(Write::Create)));
        assert_eq!(template(&first.current), Some(pod_template("a")));
        let existing = stored(first);
        assert_eq!(history(&owner(), &pod_template("a"), None, None, &existing).write, None);
        let second = history(&owner(), &pod_template("b"), None, None, &existing);
        assert_eq!(second.current.revision, 2);
        let back = history(&owner(), &pod_template("a"), None, None, &stored(second));
        assert_eq!((back.current.revision, back.write), (3, Some(Write::Renumber)));
    }

    #[test]
    fn old_revisions_go_unless_they_are_in_use() {
        let mut existing = Vec::new();
        for image in ["a", "b", "c", "d"] {
            existing = stored(history(&owner(), &pod_template(image), None, None, &existing));
        }
        let now = history(&owner(), &pod_template("d"), None, None, &existing);
        let live = HashSet::from([name(&now.all[0]).to_owned()]);
        assert_eq!(expired(&now, &live, 1), [name(&now.all[1])]);
    }
}
