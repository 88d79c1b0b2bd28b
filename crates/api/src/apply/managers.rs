//! `metadata.managedFields`: who owns which fields.
use serde_json::{Map, Value};

use super::{FieldManager, field_set::FieldSet};
use crate::{
    field::go_quote,
    meta::{self, ObjectExt},
};

/// One entry: a manager's fields.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    /// When the fields changed last.
    pub(super) time: String,
    /// The fields.
    pub(super) set: FieldSet,
}

impl Entry {
    /// Fields that were written by other means than apply.
    pub(super) fn update(manager: &str, api_version: &str, subresource: &str, set: FieldSet) -> Entry {
        Entry {
            manager: manager.into(),
            operation: "Update".into(),
            api_version: api_version.into(),
            subresource: subresource.into(),
            time: meta::now(),
            set,
        }
    }

    /// Fields that `by` applies; they keep their time if they are the same as `last`.
    pub(super) fn applied(by: FieldManager<'_>, set: FieldSet, last: Option<Entry>) -> Entry {
        let same = last.filter(|l| l.set == set && l.api_version == by.api_version);
        let time = same.map_or_else(meta::now, |l| l.time);
        let entry = Entry::update(by.name, by.api_version, by.subresource, set);
        Entry { operation: "Apply".into(), time, ..entry }
    }

    pub(super) fn is_same_manager(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.api_version == other.api_version
            && self.subresource == other.subresource
    }

    /// As error messages show it.
    pub(super) fn describe(&self) -> String {
        let mut text = go_quote(&self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {}", go_quote(&self.subresource));
        }
        if self.operation == "Update" {
            text = format!("{text} using {} at {}", self.api_version, self.time);
        }
        text
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in [
            ("manager", &self.manager),
            ("operation", &self.operation),
            ("apiVersion", &self.api_version),
            ("time", &self.time),
            ("subresource", &self.subresource),
        ] {
            if !value.is_empty() {
                map.insert(key.into(), value.as_str().into());
            }
        }
        map.insert("fieldsType".into(), "FieldsV1".into());
        map.insert("fieldsV1".into(), self.set.to_value());
        map.into()
    }
}

/// All entries of an object.
#[derive(Debug, Default)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    /// Those of an object.
    pub(super) fn of(object: &Value) -> Managers {
        let list = object.metadata().and_then(|m| m.get("managedFields")?.as_array());
        let text = |e: &Value, key: &str| e.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let entry = |e: &Value| Entry {
            manager: text(e, "manager"),
            operation: text(e, "operation"),
            api_version: text(e, "apiVersion"),
            subresource: text(e, "subresource"),
            time: text(e, "time"),
            set: FieldSet::from_value(e.get("fieldsV1").unwrap_or(&Value::Null)),
        };
        Managers(list.into_iter().flatten().map(entry).filter(|e| !e.operation.is_empty()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an entry, unless it owns nothing.
    pub(super) fn push(&mut self, entry: Entry) {
        if !entry.set.is_empty() {
            self.0.push(entry);
        }
    }

    /// Splits off what `by` applied before.
    pub(super) fn take_applied(self, by: FieldManager<'_>) -> (Option<Entry>, Vec<Entry>) {
        let own = |e: &Entry| e.operation == "Apply" && e.manager == by.name && e.subresource == by.subresource;
        let (mut last, others): (Vec<Entry>, Vec<Entry>) = self.0.into_iter().partition(own);
        (last.pop(), others)
    }

    /// Writes the entries into `object`: applied ones first, then by time and name.
    pub(super) fn write(mut self, object: &mut Value) {
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| (e.operation.clone(), e.time.clone(), e.manager.clone(), e.subresource.clone());
            key(a).cmp(&key(b))
        });
        let metadata = object.metadata_mut();
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), self.0.iter().map(Entry::to_value).collect());
        }
    }
}

impl IntoIterator for Managers {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
