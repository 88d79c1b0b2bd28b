//! Accessors for the metadata of dynamic objects (`serde_json::Value`). Start at [`ObjectExt`]; see [`now`] for times.
use serde_json::{Map, Value};

/// The current time as `metav1.Time` is encoded: RFC 3339 in UTC with whole seconds.
pub fn now() -> String {
    time(jiff::Timestamp::now())
}

/// The current time as `metav1.MicroTime` is encoded: RFC 3339 in UTC with six decimals.
pub fn now_micro() -> String {
    micro_time(jiff::Timestamp::now())
}

/// `t` as `metav1.Time` is encoded.
pub fn time(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `t` as `metav1.MicroTime` is encoded.
pub fn micro_time(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Follows `path` through nested objects.
pub fn get<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |v, key| v.get(key))
}

/// The object at `path`, made (in place of anything that is not an object) if it is not there.
pub fn ensure_map<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = map_of(object);
    for key in path {
        at = map_of(at.entry(*key).or_insert(Value::Null));
    }
    at
}

fn map_of(v: &mut Value) -> &mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    v.as_object_mut().expect("just made an object")
}

/// A reference to an owner, borrowed from an object's `metadata.ownerReferences`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// The owner's API version.
    pub api_version: &'a str,
    /// The owner's kind.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
    /// The owner's UID.
    pub uid: &'a str,
    /// Whether this is the managing controller.
    pub controller: bool,
    /// Whether foreground deletion of the owner waits for this object.
    pub block_owner_deletion: bool,
}

/// Typed access to `apiVersion`, `kind` and `metadata` of a dynamic object. Missing strings read as empty.
pub trait ObjectExt {
    /// `apiVersion`.
    fn api_version(&self) -> &str;
    /// `kind`.
    fn kind(&self) -> &str;
    /// `metadata`, if it is an object.
    fn metadata(&self) -> Option<&Map<String, Value>>;
    /// `metadata`, made if missing.
    fn metadata_mut(&mut self) -> &mut Map<String, Value>;
    /// A string of `metadata`.
    fn meta_str(&self, field: &str) -> &str;
    /// Sets a string of `metadata`; an empty one removes the field.
    fn set_meta_str(&mut self, field: &str, value: impl Into<String>);

    /// `metadata.name`.
    fn name(&self) -> &str {
        self.meta_str("name")
    }
    /// `metadata.generateName`.
    fn generate_name(&self) -> &str {
        self.meta_str("generateName")
    }
    /// `metadata.namespace`.
    fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }
    /// `metadata.uid`.
    fn uid(&self) -> &str {
        self.meta_str("uid")
    }
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }
    /// `metadata.creationTimestamp`.
    fn creation_timestamp(&self) -> &str {
        self.meta_str("creationTimestamp")
    }
    /// `metadata.deletionTimestamp`, set once deletion was asked for.
    fn deletion_timestamp(&self) -> Option<&str> {
        Some(self.meta_str("deletionTimestamp")).filter(|t| !t.is_empty())
    }
    /// `metadata.deletionGracePeriodSeconds`.
    fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.metadata()?.get("deletionGracePeriodSeconds")?.as_i64()
    }
    /// `metadata.generation`; 0 if missing.
    fn generation(&self) -> i64 {
        self.metadata().and_then(|m| m.get("generation")?.as_i64()).unwrap_or(0)
    }
    /// Sets `metadata.generation`.
    fn set_generation(&mut self, generation: i64) {
        self.metadata_mut().insert("generation".into(), generation.into());
    }
    /// `metadata.labels`, if there are any.
    fn labels(&self) -> Option<&Map<String, Value>> {
        self.metadata()?.get("labels")?.as_object()
    }
    /// The value of one label.
    fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key)?.as_str()
    }
    /// `metadata.annotations`, if there are any.
    fn annotations(&self) -> Option<&Map<String, Value>> {
        self.metadata()?.get("annotations")?.as_object()
    }
    /// The value of one annotation.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations()?.get(key)?.as_str()
    }
    /// Sets one annotation.
    fn set_annotation(&mut self, key: &str, value: impl Into<String>) {
        let meta = self.metadata_mut();
        map_of(meta.entry("annotations").or_insert(Value::Null)).insert(key.to_owned(), Value::String(value.into()));
    }
    /// `metadata.finalizers`.
    fn finalizers(&self) -> impl Iterator<Item = &str> {
        let list = self.metadata().and_then(|m| m.get("finalizers")?.as_array());
        list.into_iter().flatten().filter_map(Value::as_str)
    }
    /// Whether `finalizer` is set.
    fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers().any(|f| f == finalizer)
    }
    /// Sets `metadata.finalizers`; none at all removes the field.
    fn set_finalizers(&mut self, finalizers: impl IntoIterator<Item = String>) {
        let list: Vec<Value> = finalizers.into_iter().map(Value::String).collect();
        let meta = self.metadata_mut();
        if list.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), Value::Array(list));
        }
    }
    /// `metadata.ownerReferences`.
    fn owner_references(&self) -> impl Iterator<Item = OwnerReference<'_>> {
        let list = self.metadata().and_then(|m| m.get("ownerReferences")?.as_array());
        list.into_iter().flatten().map(|o| {
            let s = |key: &str| o.get(key).and_then(Value::as_str).unwrap_or_default();
            let b = |key: &str| o.get(key).and_then(Value::as_bool).unwrap_or_default();
            OwnerReference {
                api_version: s("apiVersion"),
                kind: s("kind"),
                name: s("name"),
                uid: s("uid"),
                controller: b("controller"),
                block_owner_deletion: b("blockOwnerDeletion"),
            }
        })
    }
    /// The owner that is the managing controller.
    fn controller(&self) -> Option<OwnerReference<'_>> {
        self.owner_references().find(|o| o.controller)
    }
}

impl ObjectExt for Value {
    fn api_version(&self) -> &str {
        self.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    fn kind(&self) -> &str {
        self.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    fn metadata(&self) -> Option<&Map<String, Value>> {
        self.get("metadata")?.as_object()
    }

    fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        ensure_map(self, &["metadata"])
    }

    fn meta_str(&self, field: &str) -> &str {
        self.metadata().and_then(|m| m.get(field)?.as_str()).unwrap_or_default()
    }

    fn set_meta_str(&mut self, field: &str, value: impl Into<String>) {
        let value = value.into();
        let meta = self.metadata_mut();
        if value.is_empty() {
            meta.remove(field);
        } else {
            meta.insert(field.to_owned(), Value::String(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_metadata_reads_as_empty_and_can_be_set() {
        let mut object = json!({"kind": "Pod"});
        assert_eq!((object.name(), object.generation(), object.deletion_timestamp()), ("", 0, None));
        object.set_meta_str("name", "a");
        object.set_annotation("k", "v");
        object.set_finalizers(["f".to_owned()]);
        assert_eq!((object.name(), object.annotation("k"), object.has_finalizer("f")), ("a", Some("v"), true));
        object.set_finalizers([]);
        assert_eq!(object.metadata().unwrap().get("finalizers"), None);
    }

    #[test]
    fn the_controlling_owner_is_found() {
        let owners = json!([{"kind": "A", "uid": "1"}, {"kind": "B", "uid": "2", "controller": true}]);
        let object = json!({"metadata": {"ownerReferences": owners}});
        assert_eq!(object.controller().map(|o| (o.kind, o.uid)), Some(("B", "2")));
    }

    #[test]
    fn times_are_written_as_upstream_writes_them() {
        let t = jiff::Timestamp::from_microsecond(1_700_000_000_000_042).unwrap();
        assert_eq!((time(t), micro_time(t)), ("2023-11-14T22:13:20Z".into(), "2023-11-14T22:13:20.000042Z".into()));
    }
}
