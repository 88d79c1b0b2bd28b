//! Server-side apply: [`apply`] merges an applied configuration into an object and keeps who owns which field in
//! `metadata.managedFields`; [`track_update`] keeps that true when an object is changed in another way.
// upstream: sigs.k8s.io/structured-merge-diff merge/update.go, apimachinery pkg/util/managedfields
mod field_set;
mod managers;
mod walk;

use serde_json::{Value, json};

use crate::{
    facts::Type,
    field::{FieldError, Path},
    meta::{self, ObjectExt},
    scheme::GroupKind,
    status::{ApiError, Cause},
};
use field_set::FieldSet;
use managers::{Entry, Managers};
use walk::Node;

/// Who writes: a manager of fields.
#[derive(Clone, Copy, Debug)]
pub struct FieldManager<'a> {
    /// The name, of the parameter `fieldManager` or of the client.
    pub name: &'a str,
    /// The version in which the object is written.
    pub api_version: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The type of the object.
    pub ty: &'static Type,
}

/// Merges `config`, as the client sent it, into `live` (none: there is no object yet). The result is not decoded or
/// defaulted yet.
///
/// Fields that the manager applied before and applies no more are removed, unless someone else owns them. A field that
/// another manager owns and that would change is a conflict (409); `force` takes it over.
pub fn apply(live: Option<&Value>, config: &Value, by: FieldManager<'_>, force: bool) -> Result<Value, ApiError> {
    if by.name.is_empty() {
        let error = FieldError::required(&Path::root("fieldManager"), "is required for apply patch");
        return Err(ApiError::invalid(GroupKind { group: "meta.k8s.io", kind: "PatchOptions" }, "", &[error]));
    }
    if config.metadata().is_some_and(|m| m.get("managedFields").is_some_and(|f| !f.is_null())) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let node = Node::Struct(by.ty);
    let empty = json!({"apiVersion": by.api_version, "kind": config.kind()});
    let (mut base, mut managers) = (live.unwrap_or(&empty).clone(), Managers::default());
    if let Some(live) = live {
        managers = Managers::of(live);
        base.metadata_mut().remove("managedFields");
        if managers.is_empty() {
            managers.push(Entry::update("before-first-apply", by.api_version, "", owned(&base, node)));
        }
    }
    let own = owned(config, node);
    let mut merged = walk::merge(Some(base.clone()), config, node);
    let (last, others) = managers.take_applied(by);
    if let Some(last) = &last {
        let mut keep = own.clone();
        others.iter().for_each(|o| keep.add(&o.set));
        walk::remove(&mut merged, &last.set.without_held(&keep), node);
    }
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    walk::compare(Some(&base), Some(&merged), node, &mut changed, &mut removed);
    let mut conflicts: Vec<(String, Vec<String>)> = others
        .iter()
        .map(|o| (o.describe(), o.set.intersection(&changed).paths()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        conflicts.sort();
        return Err(conflict(&conflicts));
    }
    let mut kept = Managers::default();
    for mut other in others {
        other.set.subtract(&changed);
        other.set.subtract(&removed);
        kept.push(other);
    }
    kept.push(Entry::applied(by, own, last));
    kept.write(&mut merged);
    Ok(merged)
}

/// Notes in `new` which fields this change of `old` (none: a creation) takes over. Objects whose fields nobody has
/// applied yet are not tracked: the first apply gives what is there to the manager `before-first-apply`.
pub fn track_update(old: Option<&Value>, new: &mut Value, by: FieldManager<'_>) {
    let managers = old.map(Managers::of).unwrap_or_default();
    if managers.is_empty() {
        new.metadata_mut().remove("managedFields");
        return;
    }
    let node = Node::Struct(by.ty);
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    walk::compare(old, Some(new), node, &mut changed, &mut removed);
    strip(&mut changed);
    strip(&mut removed);
    let mut kept = Managers::default();
    let mut own = Entry::update(by.name, by.api_version, by.subresource, FieldSet::default());
    for mut entry in managers {
        if entry.is_same_manager(&own) {
            let before = entry.set.clone();
            entry.set.add(&changed);
            entry.set.subtract(&removed);
            if entry.set != before {
                entry.time = meta::now();
            }
            own = entry;
        } else {
            entry.set.subtract(&changed);
            entry.set.subtract(&removed);
            kept.push(entry);
        }
    }
    own.set.add(&changed);
    kept.push(own);
    kept.write(new);
}

/// The fields that a configuration sets, without those that nobody owns.
fn owned(object: &Value, node: Node) -> FieldSet {
    let mut set = FieldSet::default();
    walk::field_set(object, node, &mut set);
    strip(&mut set);
    set
}

/// Identity and what the server keeps up belong to nobody.
fn strip(set: &mut FieldSet) {
    set.remove_child("f:apiVersion");
    set.remove_child("f:kind");
    if let Some(metadata) = set.child_mut("f:metadata") {
        metadata.member = false;
        for field in [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            metadata.remove_child(&format!("f:{field}"));
        }
    }
    set.drop_empty();
}

fn conflict(conflicts: &[(String, Vec<String>)]) -> ApiError {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let causes = conflicts.iter().flat_map(|(manager, paths)| {
        paths.iter().map(move |path| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {manager}"),
            field: path.clone(),
        })
    });
    let message = match conflicts {
        [(manager, paths)] if paths.len() == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
        }
        _ => {
            let lines = conflicts.iter().flat_map(|(manager, paths)| {
                std::iter::once(format!("conflicts with {manager}:")).chain(paths.iter().map(|p| format!("- {p}")))
            });
            format!("Apply failed with {count} conflicts: {}", lines.collect::<Vec<_>>().join("\n"))
        }
    };
    ApiError::apply_conflict(message, causes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::lookup;

    fn by(name: &str) -> FieldManager<'_> {
        let ty = lookup("apps", "v1", "Deployment").unwrap();
        FieldManager { name, api_version: "apps/v1", subresource: "", ty }
    }

    fn config(spec: &Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec})
    }

    fn owners(object: &Value) -> Vec<(String, Value)> {
        let list = object["metadata"]["managedFields"].as_array().unwrap().iter();
        list.map(|e| (e["manager"].as_str().unwrap().to_owned(), e["fieldsV1"].clone())).collect()
    }

    #[test]
    fn a_created_object_is_owned_by_its_applier() {
        let spec = json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i",
            "ports": [{"containerPort": 80}]}]}}});
        let object = apply(None, &config(&spec), by("me"), false).unwrap();
        assert_eq!(object["spec"], spec);
        let fields = json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:ports": {
                "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}});
        assert_eq!(owners(&object), [("me".into(), fields)]);
        let entry = &object["metadata"]["managedFields"][0];
        assert_eq!((&entry["operation"], &entry["fieldsType"]), (&json!("Apply"), &json!("FieldsV1")));
    }

    #[test]
    fn what_is_applied_no_more_goes_away() {
        let labels = |l: Value| json!({"kind": "Deployment", "metadata": {"name": "a", "labels": l}});
        let first = apply(None, &labels(json!({"x": "1", "y": "2"})), by("me"), false).unwrap();
        let shared = apply(Some(&first), &labels(json!({"y": "2"})), by("you"), false).unwrap();
        let second = apply(Some(&shared), &labels(json!({})), by("me"), false).unwrap();
        assert_eq!(second["metadata"]["labels"], json!({"y": "2"}));
    }

    #[test]
    fn changing_someone_elses_field_is_a_conflict_unless_forced() {
        let live = apply(None, &config(&json!({"replicas": 1})), by("me"), false).unwrap();
        let change = config(&json!({"replicas": 2}));
        let error = apply(Some(&live), &change, by("you"), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
        assert_eq!(error.details.unwrap().causes[0].reason, "FieldManagerConflict");
        let same = apply(Some(&live), &config(&json!({"replicas": 1})), by("you"), false).unwrap();
        assert_eq!(owners(&same).len(), 2);
        let forced = apply(Some(&live), &change, by("you"), true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        assert_eq!(owners(&forced), [("you".into(), json!({"f:spec": {"f:replicas": {}}}))]);
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let live = apply(None, &config(&json!({"replicas": 1})), by("me"), false).unwrap();
        assert_eq!(apply(Some(&live), &config(&json!({"replicas": 1})), by("me"), false).unwrap(), live);
    }

    #[test]
    fn untracked_objects_belong_to_before_first_apply() {
        let live = config(&json!({"replicas": 1, "paused": true}));
        let error = apply(Some(&live), &config(&json!({"replicas": 3})), by("me"), false).unwrap_err();
        assert!(error.message.contains("conflict with \"before-first-apply\" using apps/v1"), "{}", error.message);
        let merged = apply(Some(&live), &config(&json!({"replicas": 1})), by("me"), false).unwrap();
        assert_eq!(merged["spec"], json!({"replicas": 1, "paused": true}));
    }

    #[test]
    fn updates_take_over_the_fields_they_change() {
        let old = apply(None, &config(&json!({"replicas": 1, "paused": true})), by("me"), false).unwrap();
        let mut new = old.clone();
        new["spec"] = json!({"replicas": 5});
        track_update(Some(&old), &mut new, by("scaler"));
        assert_eq!(owners(&new), [("scaler".into(), json!({"f:spec": {"f:replicas": {}}}))]);
        assert_eq!(new["metadata"]["managedFields"][0]["operation"], "Update");
        let mut untracked = config(&json!({"replicas": 1}));
        track_update(Some(&config(&json!({}))), &mut untracked, by("x"));
        assert_eq!(untracked["metadata"].get("managedFields"), None);
    }

    #[test]
    fn lists_keep_items_of_others_and_take_the_order_of_the_configuration() {
        let containers = |l: Value| config(&json!({"template": {"spec": {"containers": l}}}));
        let live = apply(None, &containers(json!([{"name": "a"}, {"name": "s"}])), by("me"), false).unwrap();
        let merged =
            apply(Some(&live), &containers(json!([{"name": "b"}, {"name": "a", "image": "i"}])), by("you"), false);
        let merged = merged.unwrap();
        let names: Vec<&str> = merged["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["b", "a", "s"]);
    }
}
