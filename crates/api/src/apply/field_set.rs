//! Sets of field paths, as `FieldsV1` keeps them: a tree whose edges are `f:name`, `k:{"key":…}` and `v:value`.
use std::cmp::Ordering;

use serde_json::{Map, Value};

/// A set of paths below one place. No child is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FieldSet {
    /// Whether the place itself is in the set.
    pub(super) member: bool,
    /// Sorted by edge.
    children: Vec<(String, FieldSet)>,
}

impl FieldSet {
    /// A place that is in the set, with nothing below.
    pub(super) const LEAF: FieldSet = FieldSet { member: true, children: Vec::new() };

    /// Adds what is below `edge`.
    pub(super) fn insert(&mut self, edge: String, below: FieldSet) {
        if below.is_empty() {
            return;
        }
        match self.search(&edge) {
            Ok(at) => self.children[at].1.add(&below),
            Err(at) => self.children.insert(at, (edge, below)),
        }
    }

    fn search(&self, edge: &str) -> Result<usize, usize> {
        // Walks come in order: most additions are at the end.
        match self.children.last() {
            None => Err(0),
            Some((last, _)) => match last.as_str().cmp(edge) {
                Ordering::Less => Err(self.children.len()),
                Ordering::Equal => Ok(self.children.len() - 1),
                Ordering::Greater => self.children.binary_search_by(|(e, _)| e.as_str().cmp(edge)),
            },
        }
    }

    pub(super) fn child(&self, edge: &str) -> Option<&FieldSet> {
        self.search(edge).ok().map(|at| &self.children[at].1)
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&str, &FieldSet)> {
        self.children.iter().map(|(edge, set)| (edge.as_str(), set))
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds all paths of `other`.
    pub(super) fn add(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (edge, below) in &other.children {
            match self.search(edge) {
                Ok(at) => self.children[at].1.add(below),
                Err(at) => self.children.insert(at, (edge.clone(), below.clone())),
            }
        }
    }

    /// Removes exactly the paths of `other`.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        self.children.retain_mut(|(edge, below)| {
            if let Some(theirs) = other.child(edge) {
                below.subtract(theirs);
            }
            !below.is_empty()
        });
    }

    /// Removes `path` with everything below it. Its steps are names of fields.
    pub(super) fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            *self = FieldSet::default();
            return;
        };
        if let Some(at) = self.children.iter().position(|(edge, _)| edge.strip_prefix("f:") == Some(first)) {
            self.children[at].1.remove(rest);
            if self.children[at].1.is_empty() {
                self.children.remove(at);
            }
        }
    }

    /// Takes the place at `path` out of the set, and leaves what is below it.
    pub(super) fn take_member(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            self.member = false;
            return;
        };
        if let Some(at) = self.children.iter().position(|(edge, _)| edge.strip_prefix("f:") == Some(first)) {
            self.children[at].1.take_member(rest);
            if self.children[at].1.is_empty() {
                self.children.remove(at);
            }
        }
    }

    /// Keeps only what lies on or below one of `paths`, in which `*` stands for any step.
    pub(super) fn keep_only(&mut self, paths: &[&[&str]]) {
        if paths.iter().any(|path| path.is_empty()) {
            return;
        }
        self.children.retain_mut(|(edge, below)| {
            let matches = |step: &str| step == "*" || edge.strip_prefix("f:") == Some(step);
            let rests: Vec<&[&str]> = paths.iter().filter(|p| matches(p[0])).map(|p| &p[1..]).collect();
            if rests.is_empty() {
                return false;
            }
            below.keep_only(&rests);
            !below.is_empty()
        });
    }

    /// The paths that are in both.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = self.children.iter().filter_map(|(edge, below)| {
            let both = below.intersection(other.child(edge)?);
            (!both.is_empty()).then(|| (edge.clone(), both))
        });
        FieldSet { member: self.member && other.member, children: both.collect() }
    }

    /// Whether all paths are in `other`.
    pub(super) fn is_subset(&self, other: &FieldSet) -> bool {
        (!self.member || other.member)
            && self.children.iter().all(|(edge, below)| other.child(edge).is_some_and(|o| below.is_subset(o)))
    }

    /// Makes every field that has members below it a member, if `named` says that it is one of a struct.
    pub(super) fn fill_named<N: Copy>(&mut self, node: N, step: &impl Fn(N, &str) -> (N, bool)) {
        for (edge, below) in &mut self.children {
            let (node, named) = step(node, edge);
            below.member |= named && !below.children.is_empty();
            below.fill_named(node, step);
        }
    }

    /// The paths as error messages show them: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    /// The members of a place come before what is below them.
    fn collect(&self, at: &str, paths: &mut Vec<String>) {
        paths.extend(self.children.iter().filter(|(_, c)| c.member).map(|(edge, _)| format!("{at}{}", shown(edge))));
        for (edge, below) in self.children.iter().filter(|(_, c)| !c.children.is_empty()) {
            below.collect(&format!("{at}{}", shown(edge)), paths);
        }
    }

    /// As `fieldsV1` has it.
    pub(super) fn into_value(self) -> Value {
        let mut map = Map::new();
        for (edge, below) in self.children {
            let own = below.member && !below.children.is_empty();
            let mut value = below.into_value();
            if let (true, Value::Object(inner)) = (own, &mut value) {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(edge, value);
        }
        Value::Object(map)
    }

    /// From `fieldsV1`.
    pub(super) fn from_value(value: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (edge, below) in value.as_object().into_iter().flatten().filter(|(edge, _)| *edge != ".") {
            let mut child = FieldSet::from_value(below);
            child.member = is_member(below);
            set.insert(edge.clone(), child);
        }
        set
    }
}

/// Whether the place of a value in `fieldsV1` is in the set itself.
fn is_member(below: &Value) -> bool {
    below.as_object().is_none_or(is_leaf_or_member)
}

/// Removes the paths of `set` from a value in `fieldsV1`, in place. Tells whether anything is left below.
pub(super) fn subtract(fields: &mut Map<String, Value>, set: &FieldSet) -> bool {
    for (edge, gone) in &set.children {
        let Some(below) = fields.get_mut(edge) else { continue };
        let stays = is_member(below) && !gone.member;
        let left = below.as_object_mut().is_some_and(|map| {
            map.remove(".");
            subtract(map, gone)
        });
        match (stays, left) {
            (false, false) => _ = fields.remove(edge),
            (false, true) => {}
            (true, left) => {
                if let (true, Some(map)) = (left, fields.get_mut(edge).and_then(Value::as_object_mut)) {
                    map.insert(".".into(), Value::Object(Map::new()));
                }
            }
        }
    }
    !fields.is_empty()
}

/// Adds the paths of `set` to a value in `fieldsV1`, in place.
pub(super) fn add(fields: &mut Map<String, Value>, set: FieldSet) {
    for (edge, new) in set.children {
        match fields.get_mut(&edge) {
            Some(Value::Object(below)) => {
                let member = below.is_empty() || below.contains_key(".") || new.member;
                add(below, FieldSet { member: false, children: new.children });
                if member && !below.is_empty() {
                    below.insert(".".into(), Value::Object(Map::new()));
                }
            }
            _ => {
                let own = new.member && !new.children.is_empty();
                let mut value = new.into_value();
                if let (true, Value::Object(map)) = (own, &mut value) {
                    map.insert(".".into(), Value::Object(Map::new()));
                }
                fields.insert(edge, value);
            }
        }
    }
}

/// Adds the paths of one value in `fieldsV1` to another.
pub(super) fn join(fields: &mut Map<String, Value>, new: Map<String, Value>) {
    for (edge, new) in new {
        match (fields.get_mut(&edge), new) {
            (Some(Value::Object(below)), Value::Object(new)) => {
                let member = is_leaf_or_member(below) || is_leaf_or_member(&new);
                join(below, new);
                below.remove(".");
                if member && !below.is_empty() {
                    below.insert(".".into(), Value::Object(Map::new()));
                }
            }
            (_, new) => _ = fields.insert(edge, new),
        }
    }
}

fn is_leaf_or_member(below: &Map<String, Value>) -> bool {
    below.is_empty() || below.contains_key(".")
}

/// An edge as error messages show it.
pub(super) fn shown(edge: &str) -> String {
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

    fn set(value: &Value) -> FieldSet {
        FieldSet::from_value(value)
    }

    #[test]
    fn fields_survive_the_way_there_and_back() {
        let value = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:x": {}}});
        assert_eq!(set(&value).into_value(), value);
        assert_eq!(set(&value).paths(), [".metadata.labels", ".metadata.labels.a", ".spec.x"]);
    }

    #[test]
    fn keys_and_values_are_shown_as_upstream_does() {
        let set = set(&json!({"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}, "f:f": {"v:\"x\"": {}}}));
        assert_eq!(set.paths(), [".f[=\"x\"]", ".ports[port=80,protocol=\"TCP\"]"]);
    }

    #[test]
    fn sets_are_subtracted_and_intersected_by_path() {
        let mut a = set(&json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let b = set(&json!({"f:a": {}, "f:c": {}}));
        assert_eq!(a.intersection(&b).paths(), [".a", ".c"]);
        assert!(b.is_subset(&a) && !a.is_subset(&b));
        a.subtract(&b);
        assert_eq!(a.paths(), [".a.b"]);
    }

    #[test]
    fn stored_fields_change_in_place_as_sets_do() {
        let cases = [
            (json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}), json!({"f:a": {}, "f:c": {}})),
            (json!({"f:a": {".": {}, "f:b": {}}}), json!({"f:a": {"f:b": {}}})),
            (json!({"f:a": {"f:b": {}}}), json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}})),
            (json!({"f:a": {}}), json!({"f:a": {"f:b": {}}, "f:d": {}})),
        ];
        for (a, b) in cases {
            let (mut wanted, mut fields) = (set(&a), a.as_object().unwrap().clone());
            wanted.subtract(&set(&b));
            assert_eq!(subtract(&mut fields, &set(&b)), !wanted.is_empty());
            assert_eq!(Value::Object(fields), wanted.into_value(), "{a} - {b}");
            let (mut wanted, mut fields) = (set(&a), a.as_object().unwrap().clone());
            wanted.add(&set(&b));
            add(&mut fields, set(&b));
            assert_eq!(Value::Object(fields), wanted.into_value(), "{a} + {b}");
        }
    }

    #[test]
    fn reset_fields_are_taken_out_and_patterns_kept() {
        let all = json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {".": {}, "f:x": {"v:1": {"f:r": {}, "f:s": {}}}}});
        let mut left = set(&all);
        left.remove(&["spec"]);
        left.remove(&["metadata", "labels", "b"]);
        assert_eq!(left.paths(), [".metadata.labels.a"]);
        let mut kept = set(&all);
        kept.keep_only(&[&["spec", "x", "*", "r"]]);
        assert_eq!(kept.paths(), [".spec", ".spec.x[=1].r"]);
    }
}
