//! Server-side apply: [`apply`] merges an applied configuration into an object and keeps who owns which field in
//! `metadata.managedFields`; [`track_update`] keeps that true when an object is written in another way.
//!
//! Both are led by a [`Structure`]: the schema facts of a built-in type, or the [`Schema`] of a custom resource.
// upstream: sigs.k8s.io/structured-merge-diff merge/update.go, apimachinery pkg/util/managedfields
mod field_set;
mod last_applied;
mod managers;
mod node;
pub mod scale;
mod schema;
mod validate;
mod walk;

use serde_json::{Value, json};

use crate::{
    decode,
    facts::Type,
    field::{FieldError, Path},
    meta::{self, ObjectExt},
    scheme::{GroupKind, split_api_version},
    status::{ApiError, Cause, Reason},
};
use field_set::FieldSet;
use managers::{Entry, Managers};
use node::Node;
use walk::Difference;

pub use schema::Schema;

/// What an object is made of.
#[derive(Clone, Copy, Debug)]
pub enum Structure<'a> {
    /// A built-in type.
    BuiltIn(&'static Type),
    /// A custom resource.
    Custom(&'a Schema),
}

impl<'a> Structure<'a> {
    fn node(self) -> Node<'a> {
        match self {
            Structure::BuiltIn(ty) => Node::Struct(ty),
            Structure::Custom(schema) => Node::Root(schema),
        }
    }

    /// The object before anything was set.
    fn empty(self, api_version: &str, kind: &str) -> Value {
        let mut empty = match self {
            Structure::BuiltIn(ty) => decode::zero(ty),
            Structure::Custom(_) => json!({}),
        };
        empty["apiVersion"] = api_version.into();
        empty["kind"] = kind.into();
        empty
    }
}

/// The other versions in which an object can be seen; managers keep the version in which they wrote.
pub trait Versions: Send + Sync {
    /// `object` in `api_version`, and what it is made of there; `None` if it is not served in that version.
    fn view(&self, object: &Value, api_version: &str) -> Option<(Value, Structure<'_>)>;
}

/// For objects that are served in one version only.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion;

impl Versions for OneVersion {
    fn view(&self, _object: &Value, _api_version: &str) -> Option<(Value, Structure<'_>)> {
        None
    }
}

/// Fields that a write does not change, whatever is sent: nobody comes to own them by it.
// upstream: GetResetFields of the strategies
#[derive(Clone, Copy, Debug, Default)]
pub enum ResetFields {
    /// There are none.
    #[default]
    None,
    /// These, with all below them.
    All(&'static [&'static [&'static str]]),
    /// All but these; `*` is any item of a list.
    AllBut(&'static [&'static [&'static str]]),
}

impl ResetFields {
    fn filter(self, set: &mut FieldSet) {
        match self {
            ResetFields::None => {}
            ResetFields::All(paths) => paths.iter().for_each(|path| set.remove(path)),
            ResetFields::AllBut(paths) => set.keep_only(paths),
        }
    }
}

/// Who writes: a manager of fields.
#[derive(Clone, Copy)]
pub struct FieldManager<'a> {
    /// The name, of the parameter `fieldManager` or of the client.
    pub name: &'a str,
    /// The version in which the object is written.
    pub api_version: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// What the object is made of.
    pub structure: Structure<'a>,
    /// What the write leaves alone.
    pub reset: ResetFields,
    /// The other versions of the object.
    pub versions: &'a dyn Versions,
}

impl std::fmt::Debug for FieldManager<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FieldManager").field("name", &self.name).field("subresource", &self.subresource).finish()
    }
}

impl<'a> FieldManager<'a> {
    /// A manager of whole objects that are served in one version.
    pub fn new(name: &'a str, api_version: &'a str, structure: Structure<'a>) -> FieldManager<'a> {
        let (reset, versions) = (ResetFields::None, &OneVersion);
        FieldManager { name, api_version, subresource: "", structure, reset, versions }
    }

    /// How `new` differs from `old`, both in this version, without what is reset.
    fn compare(&self, old: &Value, new: &Value) -> Difference {
        self.filtered(walk::compare(old, new, self.structure.node()))
    }

    fn filtered(&self, mut difference: Difference) -> Difference {
        self.reset.filter(&mut difference.changed);
        self.reset.filter(&mut difference.removed);
        difference
    }

    /// The same in the versions of other managers; `None` where there is no such version (any more).
    fn compare_in(&self, old: &Value, new: &Value, api_version: &str) -> Option<Difference> {
        let (old, _) = self.versions.view(old, api_version)?;
        let (new, structure) = self.versions.view(new, api_version)?;
        Some(self.filtered(walk::compare(&old, &new, structure.node())))
    }

    /// `object` in `api_version`.
    fn view(&self, object: &Value, api_version: &str) -> Option<(Value, Node<'a>)> {
        if api_version == self.api_version {
            return Some((object.clone(), self.structure.node()));
        }
        self.versions.view(object, api_version).map(|(object, structure)| (object, structure.node()))
    }
}

/// Differences by version, each looked at once.
struct Differences<'a> {
    by: &'a FieldManager<'a>,
    old: &'a Value,
    new: &'a Value,
    own: Difference,
    others: Vec<(String, Option<Difference>)>,
}

impl<'a> Differences<'a> {
    fn new(by: &'a FieldManager<'a>, old: &'a Value, new: &'a Value) -> Self {
        Differences { by, old, new, own: by.compare(old, new), others: Vec::new() }
    }

    fn of(&mut self, api_version: &str) -> Option<&Difference> {
        if api_version == self.by.api_version {
            return Some(&self.own);
        }
        let known = self.others.iter().position(|(version, _)| version == api_version);
        let at = known.unwrap_or_else(|| {
            let difference = self.by.compare_in(self.old, self.new, api_version);
            self.others.push((api_version.to_owned(), difference));
            self.others.len() - 1
        });
        self.others[at].1.as_ref()
    }
}

/// Merges `config`, as the client sent it, into `live` (none: there is no object yet). The result is not decoded or
/// defaulted yet.
///
/// Fields that the manager applied before and applies no more are removed, unless someone else owns them. A field that
/// another manager owns and that would change is a conflict (409); `force` takes it over.
pub fn apply(live: Option<&Value>, config: &Value, by: &FieldManager<'_>, force: bool) -> Result<Value, ApiError> {
    if by.name.is_empty() {
        let error = FieldError::required(&Path::root("fieldManager"), "is required for apply patch");
        return Err(ApiError::invalid(GroupKind { group: "meta.k8s.io", kind: "PatchOptions" }, "", &[error]));
    }
    if config.metadata().is_some_and(|m| m.get("managedFields").is_some_and(|f| !f.is_null())) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let node = by.structure.node();
    let wrong = validate::validate(config, node);
    if !wrong.is_empty() {
        let (group, version) = split_api_version(config.api_version());
        let text = format!(
            "failed to create typed patch object ({}/{}; {group}/{version}, Kind={}): {}",
            config.namespace(),
            config.name(),
            config.kind(),
            validate::text(&wrong)
        );
        return Err(ApiError::new(500, Reason::Unknown, text));
    }
    let empty = by.structure.empty(by.api_version, config.kind());
    let (mut base, mut managers) = (live.unwrap_or(&empty).clone(), Managers::default());
    if let Some(live) = live {
        managers = Managers::of(live);
        base.metadata_mut().remove("managedFields");
        if managers.0.is_empty() {
            let mut set = by.compare(&empty, &base).changed;
            strip(&mut set);
            managers.0.push(Entry::update(&FieldManager { name: "before-first-apply", ..*by }, set));
            managers.drop_empty();
        }
    }
    let last_applied = if by.name == "kubectl" { last_applied::annotation(&base).map(str::to_owned) } else { None };
    let (mut merged, mut managers) = match merge(&base, config, by, managers.clone(), force) {
        Ok(done) => done,
        Err(conflicts) => {
            let allowed = last_applied.as_ref().and_then(|text| last_applied::allowed_conflicts(text, &base, by));
            let refused = conflicts.without(allowed);
            if !refused.0.is_empty() {
                return Err(refused.into_error());
            }
            merge(&base, config, by, managers, true).map_err(Conflicts::into_error)?
        }
    };
    if last_applied.is_some() && last_applied::annotation(&merged).is_some() {
        last_applied::write(&mut merged, config);
    }
    managers.drop_empty();
    managers.write(&mut merged);
    Ok(merged)
}

/// Merges `config` into `live` by the rules for its lists and maps, without regard to who owns what. `Err` holds the paths
/// of what `config` sets and what can only be replaced as a whole.
// upstream: apiserver pkg/admission/plugin/policy/mutating/patch, ApplyStructuredMergeDiff
pub fn merge_unowned(live: Value, config: &Value, structure: Structure<'_>) -> Result<Value, Vec<String>> {
    let (node, mut atomics) = (structure.node(), Vec::new());
    walk::atomics(config, node, "", &mut atomics);
    if atomics.is_empty() { Ok(walk::merge(live, config, node)) } else { Err(atomics) }
}

/// One attempt, which conflicts may end.
fn merge(
    base: &Value,
    config: &Value,
    by: &FieldManager<'_>,
    mut managers: Managers,
    force: bool,
) -> Result<(Value, Managers), Conflicts> {
    let node = by.structure.node();
    let mut own_set = walk::field_set(config, node);
    by.reset.filter(&mut own_set);
    let mut own = Entry::apply(by, own_set.clone());
    let last = managers.position(&own).map(|at| managers.0.remove(at));
    let mut merged = walk::merge(base.clone(), config, node);
    if let Some(last) = last.as_ref().filter(|l| l.api_version != by.api_version || !l.set().is_subset(&own_set)) {
        merged = prune(merged, last, &own, &managers, by);
    }
    let mut differences = Differences::new(by, base, &merged);
    let mut conflicts = Vec::new();
    managers.0.retain_mut(|other| {
        let Some(difference) = differences.of(&other.api_version) else { return false };
        if difference.is_empty() {
            return true;
        }
        let taken = other.set().intersection(&difference.changed);
        if !taken.is_empty() && !force {
            conflicts.push((other.clone(), taken));
        }
        other.subtract(&difference.changed);
        other.subtract(&difference.removed);
        true
    });
    if !conflicts.is_empty() {
        conflicts.sort_by(|a, b| a.0.identifier().cmp(&b.0.identifier()));
        return Err(Conflicts(conflicts));
    }
    let mut kept = own_set;
    strip(&mut kept);
    own = Entry::apply(by, kept);
    own.time = if *base == merged { last.and_then(|last| last.time) } else { Some(meta::now()) };
    managers.0.push(own);
    Ok((merged, managers))
}

/// Removes what `last` applied and nobody applies or owns any more.
// upstream: Updater.prune
fn prune(merged: Value, last: &Entry, own: &Entry, others: &Managers, by: &FieldManager<'_>) -> Value {
    let Some((mut whole, mut node)) = by.view(&merged, &last.api_version) else { return merged };
    let fields = |object: &Value, node: Node<'_>| named(walk::field_set(object, node), node);
    let last_set = named(last.set(), node);
    let mut pruned = whole.clone();
    walk::remove(&mut pruned, &last_set, node);
    let mut versions = vec![last.api_version.as_str()];
    for entry in std::iter::once(own).chain(&others.0) {
        if !versions.contains(&entry.api_version.as_str()) {
            versions.push(&entry.api_version);
        }
    }
    for version in versions {
        let (Some((all, in_version)), Some((left, _))) = (view_of(by, &whole, version), view_of(by, &pruned, version))
        else {
            continue;
        };
        let mut keep = fields(&left, in_version);
        for entry in std::iter::once(own).chain(&others.0).filter(|entry| entry.api_version == version) {
            keep.add(&named(entry.set(), in_version));
        }
        let mut gone = fields(&all, in_version);
        gone.subtract(&keep);
        (whole, pruned, node) = (all.clone(), all, in_version);
        walk::remove(&mut pruned, &gone, node);
    }
    let (Some((mut whole, node)), Some((left, _))) =
        (view_of(by, &whole, &last.api_version), view_of(by, &pruned, &last.api_version))
    else {
        return merged;
    };
    let mut gone = fields(&whole, node);
    gone.subtract(&fields(&left, node));
    walk::remove(&mut whole, &gone.intersection(&last_set), node);
    view_of(by, &whole, by.api_version).map_or(merged, |(object, _)| object)
}

/// An object of any version in `api_version`.
fn view_of<'a>(by: &FieldManager<'a>, object: &Value, api_version: &str) -> Option<(Value, Node<'a>)> {
    if object.api_version() == api_version && api_version == by.api_version {
        return by.view(object, api_version);
    }
    by.versions.view(object, api_version).map(|(object, structure)| (object, structure.node()))
}

/// A set in which every named field is a member that has members below it.
fn named(mut set: FieldSet, node: Node<'_>) -> FieldSet {
    set.fill_named(node, &|node: Node<'_>, edge: &str| node.step(edge));
    set
}

/// Notes in `new` which fields this change of `old` (none: a creation) takes over.
///
/// The managers are those that the client sent, so that it can change them, or else those of the old object. An object
/// that is not tracked stays so: the first apply gives what is there to the manager `before-first-apply`.
pub fn track_update(old: Option<&Value>, new: &mut Value, by: &FieldManager<'_>) {
    let Some(mut managers) = managers_for(old, new, by) else { return };
    let empty;
    let before = match old {
        Some(old) => old,
        None => {
            empty = by.structure.empty(by.api_version, new.kind());
            &empty
        }
    };
    let mut differences = Differences::new(by, before, new);
    let mut self_set = differences.own.changed.clone();
    strip(&mut self_set);
    managers.0.retain_mut(|other| {
        let Some(difference) = differences.of(&other.api_version) else { return false };
        if !difference.is_empty() {
            other.subtract(&difference.changed);
            other.subtract(&difference.removed);
        }
        true
    });
    managers.drop_empty();
    if !self_set.is_empty() {
        let own = Entry::update(by, self_set);
        match managers.position(&own) {
            Some(at) => {
                let entry = &mut managers.0[at];
                entry.time = own.time;
                field_set::join(&mut entry.fields, own.fields);
            }
            None => managers.0.push(own),
        }
    }
    managers.cap();
    managers.write(new);
}

/// Takes the managers out of `new`, or those of `old` if the client sent none; `None`: the object is not tracked.
// upstream: decodeLiveOrNew, skipNonAppliedManager
fn managers_for(old: Option<&Value>, new: &mut Value, by: &FieldManager<'_>) -> Option<Managers> {
    let sent = new.metadata_mut().remove("managedFields").unwrap_or_default();
    let managers = if by.subresource.is_empty() && is_reset(&sent) {
        Managers::default()
    } else {
        let sent = if by.subresource.is_empty() { Managers::read(sent) } else { None };
        let sent = sent.filter(|managers| !managers.0.is_empty());
        sent.or_else(|| old.map(Managers::of)).unwrap_or_default()
    };
    (old.is_none() || !managers.0.is_empty()).then_some(managers)
}

/// Whether a client asks for all managers to be forgotten: with an empty list, or a list of an empty entry.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// Puts the old times back if nothing but the times of `managedFields` differs, so that nothing is written.
// upstream: IgnoreManagedFieldsTimestampsTransformer
pub fn keep_times(new: &mut Value, old: &Value) {
    let list = |object: &Value| object.metadata().and_then(|m| m.get("managedFields")?.as_array()).map_or(0, Vec::len);
    if list(new) == 0 || list(new) != list(old) {
        return;
    }
    let (new_list, old_list) = (&new["metadata"]["managedFields"], &old["metadata"]["managedFields"]);
    if new_list == old_list || !same_but_times(new_list, old_list) {
        return;
    }
    let same = |(key, value): (&String, &Value)| match key.as_str() {
        "metadata" => {
            let (Some(new), Some(old)) = (value.as_object(), old.metadata()) else { return false };
            new.len() == old.len() && new.iter().all(|(k, v)| k == "managedFields" || old.get(k) == Some(v))
        }
        key => old.get(key) == Some(value),
    };
    let (Some(fields), Some(old_fields)) = (new.as_object(), old.as_object()) else { return };
    if fields.len() == old_fields.len() && fields.iter().all(same) {
        new["metadata"]["managedFields"] = old_list.clone();
    }
}

fn same_but_times(new: &Value, old: &Value) -> bool {
    let pairs = new.as_array().into_iter().flatten().zip(old.as_array().into_iter().flatten());
    pairs.into_iter().all(|(new, old)| {
        let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
        let fields = |map: &serde_json::Map<String, Value>| map.iter().filter(|(key, _)| *key != "time").count();
        fields(new) == fields(old) && new.iter().all(|(key, v)| key == "time" || old.get(key) == Some(v))
    })
}

/// Identity and what the server keeps up belong to nobody.
fn strip(set: &mut FieldSet) {
    const NAMES: [&str; 9] = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    set.take_member(&["apiVersion"]);
    set.take_member(&["kind"]);
    for name in NAMES {
        set.take_member(&["metadata", name]);
    }
    set.take_member(&["metadata"]);
}

/// What others own and an apply would change.
#[derive(Debug)]
struct Conflicts(Vec<(Entry, FieldSet)>);

impl Conflicts {
    /// Those that are not `allowed`.
    fn without(mut self, allowed: Option<FieldSet>) -> Conflicts {
        if let Some(allowed) = allowed {
            self.0.iter_mut().for_each(|(_, set)| set.subtract(&allowed));
            self.0.retain(|(_, set)| !set.is_empty());
        }
        self
    }

    fn into_error(self) -> ApiError {
        let conflicts: Vec<(String, Vec<String>)> = self.0.iter().map(|(e, set)| (e.describe(), set.paths())).collect();
        let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
        let causes = conflicts.iter().flat_map(|(manager, paths)| {
            paths.iter().map(move |path| Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {manager}"),
                field: path.clone(),
            })
        });
        let message = match conflicts.as_slice() {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::lookup;

    fn by(name: &str) -> FieldManager<'_> {
        FieldManager::new(name, "apps/v1", Structure::BuiltIn(lookup("apps", "v1", "Deployment").unwrap()))
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
        let object = apply(None, &config(&spec), &by("me"), false).unwrap();
        assert_eq!(object["spec"]["template"]["spec"], spec["template"]["spec"]);
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
        let first = apply(None, &labels(json!({"x": "1", "y": "2"})), &by("me"), false).unwrap();
        let shared = apply(Some(&first), &labels(json!({"y": "2"})), &by("you"), false).unwrap();
        let second = apply(Some(&shared), &labels(json!({})), &by("me"), false).unwrap();
        assert_eq!(second["metadata"]["labels"], json!({"y": "2"}));
    }

    #[test]
    fn changing_someone_elses_field_is_a_conflict_unless_forced() {
        let live = apply(None, &config(&json!({"replicas": 1})), &by("me"), false).unwrap();
        let change = config(&json!({"replicas": 2}));
        let error = apply(Some(&live), &change, &by("you"), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
        assert_eq!(error.details.unwrap().causes[0].reason, "FieldManagerConflict");
        let same = apply(Some(&live), &config(&json!({"replicas": 1})), &by("you"), false).unwrap();
        assert_eq!(owners(&same).len(), 2);
        let forced = apply(Some(&live), &change, &by("you"), true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        assert_eq!(owners(&forced), [("you".into(), json!({"f:spec": {"f:replicas": {}}}))]);
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let live = apply(None, &config(&json!({"replicas": 1})), &by("me"), false).unwrap();
        assert_eq!(apply(Some(&live), &config(&json!({"replicas": 1})), &by("me"), false).unwrap(), live);
    }

    #[test]
    fn untracked_objects_belong_to_before_first_apply() {
        let live = config(&json!({"replicas": 1, "paused": true}));
        let error = apply(Some(&live), &config(&json!({"replicas": 3})), &by("me"), false).unwrap_err();
        assert!(error.message.contains("conflict with \"before-first-apply\" using apps/v1"), "{}", error.message);
        let merged = apply(Some(&live), &config(&json!({"replicas": 1})), &by("me"), false).unwrap();
        assert_eq!(merged["spec"], json!({"replicas": 1, "paused": true}));
    }

    #[test]
    fn updates_take_over_the_fields_they_change() {
        let old = apply(None, &config(&json!({"replicas": 1, "paused": true})), &by("me"), false).unwrap();
        let mut new = old.clone();
        new["spec"] = json!({"replicas": 5});
        track_update(Some(&old), &mut new, &by("scaler"));
        assert_eq!(owners(&new), [("scaler".into(), json!({"f:spec": {"f:replicas": {}}}))]);
        assert_eq!(new["metadata"]["managedFields"][0]["operation"], "Update");
        let mut untracked = config(&json!({"replicas": 1}));
        track_update(Some(&config(&json!({}))), &mut untracked, &by("x"));
        assert_eq!(untracked["metadata"].get("managedFields"), None);
    }

    #[test]
    fn lists_keep_items_of_others_and_take_the_order_of_the_configuration() {
        let containers = |l: Value| config(&json!({"template": {"spec": {"containers": l}}}));
        let live = apply(None, &containers(json!([{"name": "a"}, {"name": "s"}])), &by("me"), false).unwrap();
        let merged =
            apply(Some(&live), &containers(json!([{"name": "b"}, {"name": "a", "image": "i"}])), &by("you"), false);
        let merged = merged.unwrap();
        let names: Vec<&str> = merged["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["b", "a", "s"]);
    }

    fn manifest(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_creation_is_owned_by_whoever_creates() {
        let mut new = manifest(
            r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"l": "x"}},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"l": "x"}}, "strategy": {}, "template": {
                    "metadata": {"labels": {"l": "x"}}, "spec": {"containers": [{"name": "c", "resources": {}}]}}},
                "status": {}}"#,
        );
        track_update(None, &mut new, &by("kubectl"));
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:l": {}}}, "f:spec": {"f:replicas": {},
            "f:selector": {}, "f:template": {"f:metadata": {"f:labels": {".": {}, "f:l": {}}}, "f:spec": {"f:containers": {
                "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:resources": {}}}}}}});
        assert_eq!(owners(&new), [("kubectl".into(), fields)]);
    }

    #[test]
    fn updates_that_change_nothing_leave_the_managers_alone() {
        let mut old = config(&json!({"replicas": 1}));
        track_update(None, &mut old, &by("a"));
        old["metadata"]["managedFields"][0]["time"] = json!("2020-01-01T00:00:00Z");
        let mut new = config(&json!({"replicas": 1}));
        track_update(Some(&old), &mut new, &by("b"));
        assert_eq!(new, old);
    }

    #[test]
    fn an_empty_list_of_managers_forgets_them() {
        let mut old = config(&json!({"replicas": 1}));
        track_update(None, &mut old, &by("a"));
        for empty in [json!([]), json!([{}])] {
            let mut new = old.clone();
            new["metadata"]["managedFields"] = empty;
            track_update(Some(&old), &mut new, &by("b"));
            assert_eq!(new["metadata"].get("managedFields"), None);
        }
    }

    #[test]
    fn what_a_write_resets_is_owned_by_nobody() {
        let old = config(&json!({"replicas": 1}));
        let mut tracked = old.clone();
        track_update(None, &mut tracked, &by("a"));
        let mut new = tracked.clone();
        new["spec"]["replicas"] = json!(2);
        new["status"] = json!({"replicas": 1});
        let status = FieldManager { subresource: "status", reset: ResetFields::All(&[&["spec"]]), ..by("b") };
        track_update(Some(&tracked), &mut new, &status);
        let fields = json!({"f:status": {".": {}, "f:replicas": {}}});
        assert_eq!(owners(&new)[1], ("b".into(), fields));
        assert_eq!(new["metadata"]["managedFields"][1]["subresource"], "status");
    }

    #[test]
    fn only_times_that_differ_are_put_back() {
        let mut old = config(&json!({"replicas": 1}));
        track_update(None, &mut old, &by("a"));
        let mut new = old.clone();
        new["metadata"]["managedFields"][0]["time"] = json!("2020-01-01T00:00:00Z");
        let mut changed = new.clone();
        changed["spec"]["replicas"] = json!(2);
        keep_times(&mut new, &old);
        assert_eq!(new, old);
        let before = changed.clone();
        keep_times(&mut changed, &old);
        assert_eq!(changed, before);
    }

    #[test]
    fn an_item_goes_with_its_applier_though_others_own_parts_of_it() {
        let containers = |l: Value| config(&json!({"template": {"spec": {"containers": l}}}));
        let live = apply(None, &containers(json!([{"name": "a"}, {"name": "b"}])), &by("me"), false).unwrap();
        let mut updated = live.clone();
        updated["spec"]["template"]["spec"]["containers"][1]["image"] = json!("i");
        track_update(Some(&live), &mut updated, &by("you"));
        let left = apply(Some(&updated), &containers(json!([{"name": "a"}])), &by("me"), false).unwrap();
        assert_eq!(left["spec"]["template"]["spec"]["containers"], json!([{"name": "a"}]));
        assert_eq!(owners(&left).len(), 1);
    }

    #[test]
    fn kubectl_takes_over_what_it_applied_on_its_own_side() {
        let last = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"replicas":1}}"#;
        let mut live = config(&json!({"replicas": 1, "paused": true}));
        live.set_annotation("kubectl.kubernetes.io/last-applied-configuration", last);
        track_update(None, &mut live, &by("kubectl-client-side-apply"));
        let change = config(&json!({"replicas": 2}));
        assert!(apply(Some(&live), &change, &by("other"), false).is_err());
        let applied = apply(Some(&live), &change, &by("kubectl"), false).unwrap();
        assert_eq!(applied["spec"], json!({"replicas": 2, "paused": true}));
        let annotation: Value = serde_json::from_str(last_applied::annotation(&applied).unwrap()).unwrap();
        assert_eq!(annotation, change);
    }

    #[test]
    fn custom_resources_are_merged_by_their_schema() {
        let schema = Schema::of(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "properties": {"port": {"type": "integer"}, "name": {"type": "string"}}}},
                "all": {"type": "array", "items": {"type": "string"}}}}}}),
            false,
        );
        let by = |name| FieldManager::new(name, "x.y/v1", Structure::Custom(&schema));
        let object =
            |spec: Value| json!({"apiVersion": "x.y/v1", "kind": "Z", "metadata": {"name": "a"}, "spec": spec});
        let live = apply(None, &object(json!({"ports": [{"port": 1}], "all": ["a"]})), &by("me"), false).unwrap();
        let merged =
            apply(Some(&live), &object(json!({"ports": [{"port": 2, "name": "n"}]})), &by("you"), false).unwrap();
        assert_eq!(merged["spec"], json!({"ports": [{"port": 1}, {"port": 2, "name": "n"}], "all": ["a"]}));
        let error = apply(Some(&live), &object(json!({"all": ["b"]})), &by("you"), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"me\": .spec.all");
        let error = apply(None, &object(json!({"x": 1})), &by("you"), false).unwrap_err();
        assert_eq!(
            error.message,
            "failed to create typed patch object (/a; x.y/v1, Kind=Z): .spec.x: field not declared in schema"
        );
    }
}
