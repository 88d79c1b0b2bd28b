//! `metadata.managedFields`: who owns which fields. The fields stay as they are stored and change in place.
use serde_json::{Map, Value};

use super::{
    FieldManager,
    field_set::{self, FieldSet},
};
use crate::{
    field::go_quote,
    meta::{self, ObjectExt},
};

/// More managers than these that updated an object are joined. upstream: DefaultMaxUpdateManagers.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that older updates are joined in.
const ANCIENT: &str = "ancient-changes";

/// One entry: a manager's fields.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) applied: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// When the fields changed last; none if applying changed nothing.
    pub(super) time: Option<String>,
    /// `fieldsV1`.
    pub(super) fields: Map<String, Value>,
}

impl Entry {
    fn new(by: &FieldManager<'_>, applied: bool) -> Entry {
        Entry {
            manager: if by.name.is_empty() { "unknown".into() } else { by.name.into() },
            applied,
            api_version: by.api_version.into(),
            subresource: by.subresource.into(),
            time: None,
            fields: Map::new(),
        }
    }

    /// What `by` changed now by other means than apply.
    pub(super) fn update(by: &FieldManager<'_>, set: FieldSet) -> Entry {
        let mut entry = Entry::new(by, false);
        entry.time = Some(meta::now());
        field_set::add(&mut entry.fields, set);
        entry
    }

    /// What `by` applies.
    pub(super) fn apply(by: &FieldManager<'_>, set: FieldSet) -> Entry {
        let mut entry = Entry::new(by, true);
        field_set::add(&mut entry.fields, set);
        entry
    }

    /// An entry as it is in `managedFields`, if it is well-formed.
    fn read(value: Value) -> Option<Entry> {
        let Value::Object(mut map) = value else { return None };
        let mut text = |key: &str| match map.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (operation, fields_type, time) = (text("operation"), text("fieldsType"), text("time"));
        let (manager, api_version, subresource) = (text("manager"), text("apiVersion"), text("subresource"));
        let applied = match operation.as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if api_version.is_empty() || fields_type != "FieldsV1" {
            return None;
        }
        let fields = match map.remove("fieldsV1") {
            Some(Value::Object(fields)) => fields,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return None,
        };
        let time = Some(time).filter(|t| !t.is_empty());
        Some(Entry { manager, applied, api_version, subresource, time, fields })
    }

    fn into_value(self) -> Value {
        let mut map = Map::new();
        let operation = if self.applied { "Apply" } else { "Update" };
        let texts = [
            ("manager", self.manager),
            ("operation", operation.to_owned()),
            ("apiVersion", self.api_version),
            ("time", self.time.unwrap_or_default()),
            ("subresource", self.subresource),
            ("fieldsType", "FieldsV1".to_owned()),
        ];
        map.extend(texts.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), Value::String(v))));
        map.insert("fieldsV1".into(), Value::Object(self.fields));
        map.into()
    }

    /// Whether both are the same manager; appliers are so in every version.
    // upstream: BuildManagerIdentifier
    pub(super) fn is_same(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    pub(super) fn set(&self) -> FieldSet {
        let mut set = FieldSet::default();
        for (edge, below) in &self.fields {
            let one = Map::from_iter([(edge.clone(), below.clone())]);
            set.add(&FieldSet::from_value(&Value::Object(one)));
        }
        set
    }

    pub(super) fn subtract(&mut self, set: &FieldSet) {
        field_set::subtract(&mut self.fields, set);
    }

    pub(super) fn add(&mut self, set: FieldSet) {
        field_set::add(&mut self.fields, set);
    }

    /// As error messages show it.
    pub(super) fn describe(&self) -> String {
        let mut text = go_quote(&self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {}", go_quote(&self.subresource));
        }
        if !self.applied {
            text = format!("{text} using {}", self.api_version);
        }
        text
    }

    /// By which error messages are sorted.
    pub(super) fn identifier(&self) -> (&str, bool, &str, &str) {
        let version = if self.applied { "" } else { self.api_version.as_str() };
        (&self.manager, !self.applied, version, &self.subresource)
    }

    fn seconds(&self) -> i64 {
        let time = self.time.as_ref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        time.map_or(0, jiff::Timestamp::as_second)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managers(pub(super) Vec<Entry>);

impl Managers {
    /// Those of `managedFields`; `None` if they are malformed.
    pub(super) fn read(list: Value) -> Option<Managers> {
        match list {
            Value::Array(list) => list.into_iter().map(Entry::read).collect::<Option<Vec<_>>>().map(Managers),
            Value::Null => Some(Managers::default()),
            _ => None,
        }
    }

    /// Those of an object; none if they are malformed.
    pub(super) fn of(object: &Value) -> Managers {
        let list = object.metadata().and_then(|m| m.get("managedFields")).cloned().unwrap_or_default();
        Managers::read(list).unwrap_or_default()
    }

    /// Takes off those entries that own nothing.
    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    pub(super) fn position(&self, like: &Entry) -> Option<usize> {
        self.0.iter().position(|entry| entry.is_same(like))
    }

    /// Joins the oldest of too many managers that updated the object, those of each version in one.
    // upstream: capManagersManager
    pub(super) fn cap(&mut self) {
        let mut updaters = self.0.iter().filter(|entry| !entry.applied).count();
        if updaters <= MAX_UPDATE_MANAGERS {
            return;
        }
        self.sort();
        let mut first: Vec<Entry> = Vec::new();
        let mut rest = Vec::with_capacity(self.0.len());
        for entry in std::mem::take(&mut self.0) {
            if entry.applied || updaters <= MAX_UPDATE_MANAGERS {
                rest.push(entry);
                continue;
            }
            let Some(bucket) = first.iter_mut().find(|f| f.api_version == entry.api_version) else {
                first.push(entry);
                continue;
            };
            if bucket.manager != ANCIENT || !bucket.subresource.is_empty() {
                bucket.manager = ANCIENT.to_owned();
                bucket.subresource = String::new();
            }
            bucket.add(entry.set());
            bucket.time = entry.time;
            updaters -= 1;
        }
        self.0 = first;
        self.0.extend(rest);
    }

    fn sort(&mut self) {
        self.0.sort_by(|a, b| {
            (b.applied.cmp(&a.applied))
                .then_with(|| a.seconds().cmp(&b.seconds()))
                .then_with(|| a.manager.cmp(&b.manager))
                .then_with(|| a.api_version.cmp(&b.api_version))
                .then_with(|| a.subresource.cmp(&b.subresource))
        });
    }

    /// `managedFields`, applied entries first, then by time and name.
    pub(super) fn into_value(mut self) -> Value {
        if self.0.len() > 1 {
            self.sort();
        }
        self.0.into_iter().map(Entry::into_value).collect()
    }

    /// Writes the entries into `object`.
    pub(super) fn write(self, object: &mut Value) {
        let metadata = object.metadata_mut();
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), self.into_value());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, seconds: u8) -> Value {
        json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "time": format!("2026-01-01T00:00:{seconds:02}Z"), "fieldsV1": {format!("f:{manager}"): {}}})
    }

    #[test]
    fn malformed_entries_are_not_read() {
        assert!(Managers::read(json!([entry("a", 1)])).is_some());
        for wrong in [json!([{}]), json!([{"operation": "Apply", "apiVersion": "v1"}]), json!("x")] {
            assert_eq!(Managers::read(wrong), None);
        }
    }

    #[test]
    fn the_oldest_of_too_many_updaters_become_one() {
        let list: Vec<Value> = (0..12).map(|i| entry(&format!("m{i:02}"), i)).collect();
        let mut managers = Managers::read(list.into()).unwrap();
        managers.cap();
        assert_eq!(managers.0.len(), 10);
        let ancient = managers.0.iter().find(|e| e.manager == ANCIENT).unwrap();
        assert_eq!(ancient.fields.keys().collect::<Vec<_>>(), ["f:m00", "f:m01", "f:m02"]);
        assert_eq!(ancient.time.as_deref(), Some("2026-01-01T00:00:02Z"));
    }
}
