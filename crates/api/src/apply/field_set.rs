//! Sets of field paths, as `FieldsV1` keeps them: a tree whose edges are `f:name`, `k:{"key":…}` and `v:value`.
use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths below one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FieldSet {
    /// Whether the place itself is in the set.
    pub(super) member: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// The set below an edge, made if there is none.
    pub(super) fn child(&mut self, edge: String) -> &mut FieldSet {
        self.children.entry(edge).or_default()
    }

    pub(super) fn child_mut(&mut self, edge: &str) -> Option<&mut FieldSet> {
        self.children.get_mut(edge)
    }

    pub(super) fn remove_child(&mut self, edge: &str) {
        self.children.remove(edge);
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&str, &FieldSet)> {
        self.children.iter().map(|(edge, set)| (edge.as_str(), set))
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Drops branches without members.
    pub(super) fn drop_empty(&mut self) {
        self.children.values_mut().for_each(FieldSet::drop_empty);
        self.children.retain(|_, child| child.member || !child.children.is_empty());
    }

    /// Adds all paths of `other`.
    pub(super) fn add(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (edge, child) in &other.children {
            self.children.entry(edge.clone()).or_default().add(child);
        }
    }

    /// Removes exactly the paths of `other`.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (edge, child) in &other.children {
            if let Some(own) = self.children.get_mut(edge) {
                own.subtract(child);
            }
        }
        self.drop_empty();
    }

    /// The paths that are in both.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = self.children.iter().filter_map(|(edge, child)| {
            let both = child.intersection(other.children.get(edge)?);
            (!both.is_empty()).then(|| (edge.clone(), both))
        });
        FieldSet { member: self.member && other.member, children: both.collect() }
    }

    /// The paths at and below which `keep` has nothing.
    pub(super) fn without_held(&self, keep: &FieldSet) -> FieldSet {
        let children = self.children.iter().filter_map(|(edge, child)| {
            let left = match keep.children.get(edge) {
                Some(held) => child.without_held(held),
                None => child.clone(),
            };
            (!left.is_empty()).then(|| (edge.clone(), left))
        });
        FieldSet { member: self.member && keep.is_empty(), children: children.collect() }
    }

    /// The paths as error messages show them: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, at: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(at.to_owned());
        }
        for (edge, child) in &self.children {
            child.collect(&format!("{at}{}", shown(edge)), paths);
        }
    }

    /// As `fieldsV1` has it.
    pub(super) fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (edge, child) in &self.children {
            let mut value = child.to_value();
            if let (true, Value::Object(inner)) = (child.member && !child.children.is_empty(), &mut value) {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(edge.clone(), value);
        }
        Value::Object(map)
    }

    /// From `fieldsV1`.
    pub(super) fn from_value(value: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (edge, below) in value.as_object().into_iter().flatten().filter(|(edge, _)| *edge != ".") {
            let mut child = FieldSet::from_value(below);
            child.member = below.get(".").is_some() || child.children.is_empty();
            set.children.insert(edge.clone(), child);
        }
        set
    }
}

fn shown(edge: &str) -> String {
    match edge.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => edge.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_survive_the_way_there_and_back() {
        let value = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:x": {}}});
        let set = FieldSet::from_value(&value);
        assert_eq!(set.to_value(), value);
        assert_eq!(set.paths(), [".metadata.labels", ".metadata.labels.a", ".spec.x"]);
    }

    #[test]
    fn keys_and_values_are_shown_as_upstream_does() {
        let set = FieldSet::from_value(
            &json!({"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}, "f:f": {"v:\"x\"": {}}}),
        );
        assert_eq!(set.paths(), [".f[=\"x\"]", ".ports[port=80,protocol=\"TCP\"]"]);
    }

    #[test]
    fn sets_are_subtracted_and_intersected_by_path() {
        let mut a = FieldSet::from_value(&json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let b = FieldSet::from_value(&json!({"f:a": {}, "f:c": {}}));
        assert_eq!(a.intersection(&b).paths(), [".a", ".c"]);
        assert_eq!(a.without_held(&b).paths(), [".a.b"]);
        a.subtract(&b);
        assert_eq!(a.paths(), [".a.b"]);
    }
}
