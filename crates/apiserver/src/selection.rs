//! Label and field selectors over stored objects, without parsing them whole. Start at [`Selection`].
use pintle_api::custom::Custom;
use pintle_api::scheme::Resource;
use pintle_api::selector::{FieldSelector, LabelSelector};
use pintle_api::status::ApiError;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Which objects of a collection are meant.
#[derive(Clone, Debug)]
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// Whose fields a projection has; empty for custom resources.
    kind: String,
    custom: Option<Arc<Custom>>,
}

impl Selection {
    /// All objects.
    pub fn everything() -> Self {
        Selection {
            labels: LabelSelector::EVERYTHING,
            fields: FieldSelector::default(),
            kind: String::new(),
            custom: None,
        }
    }

    /// Objects with these labels.
    pub fn labels(labels: LabelSelector) -> Self {
        Selection { labels, ..Selection::everything() }
    }

    /// From the `labelSelector` and `fieldSelector` parameters of a request for `resource`.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(labels).map_err(|error| ApiError::bad_request(error.0))?;
        let fields = FieldSelector::parse(fields)
            .and_then(|fields| match &resource.custom {
                Some(custom) => fields.for_custom(resource.namespaced, &custom.selectable),
                None => fields.for_kind(&resource.group, &resource.version, &resource.kind),
            })
            .map_err(|error| ApiError::bad_request(error.0))?;
        let custom = resource.custom.clone();
        let kind = if custom.is_some() { String::new() } else { resource.kind.clone() };
        Ok(Selection { labels, fields, kind, custom })
    }

    /// Whether every object is meant.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The only name that is meant, if the selection says so.
    pub fn name(&self) -> Option<&str> {
        self.fields.required_value("metadata.name")
    }

    /// Whether `object`, whole or as [`project`] left it, is meant.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
        self.labels.matches(labels)
            && match self.custom {
                Some(_) => self.fields.matches_custom(object),
                None => self.fields.matches(&self.kind, object),
            }
    }

    /// The kind whose [`project`]ion answers the selection; none if only the whole object does.
    pub fn projected_kind(&self) -> Option<&str> {
        (!self.reads_content()).then_some(self.kind.as_str())
    }

    /// Whether the selection depends on fields that a definition made selectable.
    pub fn reads_content(&self) -> bool {
        let in_metadata = |field: &str| field.starts_with("metadata.");
        self.custom.is_some() && self.fields.terms().iter().any(|term| !in_metadata(&term.field))
    }

    /// Whether the object with this encoding is meant.
    pub fn matches_stored(&self, stored: &[u8]) -> bool {
        match (self.projected_kind(), &self.custom) {
            _ if self.is_everything() => true,
            (None, Some(custom)) => {
                let Ok(mut object) = serde_json::from_slice::<Value>(stored) else { return false };
                custom.revive(&mut object).is_ok() && self.matches(&object)
            }
            (kind, _) => self.matches(&project(kind.unwrap_or_default(), stored)),
        }
    }
}

/// The fields that selectors look at, by first and second key; a kind's own follow those of all kinds.
const COMMON: &[(&str, &[&str])] = &[("metadata", &["name", "namespace", "labels"])];

fn fields_of(kind: &str) -> &'static [(&'static str, &'static [&'static str])] {
    match kind {
        "Pod" => &[
            ("spec", &["nodeName", "restartPolicy", "schedulerName", "serviceAccountName", "hostNetwork"]),
            ("status", &["phase", "podIP", "podIPs", "nominatedNodeName"]),
        ],
        "Node" => &[("spec", &["unschedulable"])],
        "Namespace" => &[("status", &["phase"])],
        "Secret" => &[("type", &[])],
        "Service" => &[("spec", &["clusterIP", "type"])],
        "ReplicationController" => &[("status", &["replicas"])],
        "Job" => &[("status", &["succeeded"])],
        "CertificateSigningRequest" => &[("spec", &["signerName"])],
        "Event" => &[
            ("involvedObject", &[]),
            ("reason", &[]),
            ("reportingComponent", &[]),
            ("source", &["component"]),
            ("type", &[]),
        ],
        _ => &[],
    }
}

/// Of an encoded object of `kind` only what selectors can look at; null if it is not an object.
pub fn project(kind: &str, stored: &[u8]) -> Value {
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    Level { own: fields_of(kind), common: COMMON }.deserialize(&mut deserializer).unwrap_or_default()
}

type Fields = [(&'static str, &'static [&'static str])];

struct Level {
    own: &'static Fields,
    common: &'static Fields,
}

impl Level {
    /// The wanted keys below `key` (none: all of it), if it is wanted.
    fn wanted(&self, key: &str) -> Option<&'static [&'static str]> {
        self.common.iter().chain(self.own).find(|(name, _)| *name == key).map(|(_, below)| *below)
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.wanted(&key) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some([]) => drop(out.insert(key.into_owned(), map.next_value()?)),
                Some(below) => drop(out.insert(key.into_owned(), map.next_value_seed(Below(below))?)),
            }
        }
        Ok(Value::Object(out))
    }
}

struct Below(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Below {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Below {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.0.contains(&key.as_ref()) {
                out.insert(key.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::scheme::Scheme;
    use serde_json::json;

    fn selection(labels: &str, fields: &str) -> Selection {
        Selection::parse(Scheme::builtin().by_plural("", "v1", "pods").unwrap(), labels, fields).unwrap()
    }

    #[test]
    fn a_projection_answers_selectors_as_the_whole_object_does() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "web"}, "annotations": {"x": "y"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c"}]}, "status": {"phase": "Running"},
        });
        let stored = serde_json::to_vec(&pod).unwrap();
        let projected = project("Pod", &stored);
        assert_eq!(projected["spec"], json!({"nodeName": "a"}));
        assert_eq!(projected["metadata"].get("annotations"), None);
        for (labels, fields, want) in [
            ("app=web", "spec.nodeName=a", true),
            ("app in (web,db)", "status.phase!=Running", false),
            ("!app", "", false),
            ("", "metadata.name=p,metadata.namespace=n", true),
        ] {
            let selection = selection(labels, fields);
            assert_eq!(selection.matches_stored(&stored), want, "{labels} {fields}");
            assert_eq!(selection.matches(&pod), want, "{labels} {fields}");
        }
    }

    #[test]
    fn a_field_that_cannot_be_selected_is_refused() {
        let pods = Scheme::builtin().by_plural("", "v1", "pods").unwrap().clone();
        let error = Selection::parse(&pods, "", "spec.image=x").unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, "field label not supported: spec.image"));
    }
}
