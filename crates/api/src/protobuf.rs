//! `application/vnd.kubernetes.protobuf`, led by the schema facts: [`encode`] and [`decode`] objects, lists ([`ListEncoder`])
//! and the frames of watches ([`watch_frame`]).
//!
//! An object is the magic `k8s\0` and a `runtime.Unknown` with the object's `apiVersion` and `kind` and its message. Messages
//! come out byte for byte as upstream's: fields by number, zero values of fields that are not pointers included.
mod decoder;
mod encoder;
mod wire;

use serde_json::{Map, Value};

use crate::{
    facts::{self, Type},
    scheme::split_api_version,
};
use wire::Reader;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every object starts with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The bytes do not start with [`MAGIC`].
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// A message ends too early.
    #[error("unexpected EOF")]
    Truncated,
    /// A message is malformed.
    #[error("proto: {0}")]
    Malformed(&'static str),
    /// A value is not what its field may hold.
    #[error("{0}")]
    Value(String),
    /// The kind has no protobuf form.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind {
        /// The object's `apiVersion`.
        api_version: String,
        /// The object's `kind`.
        kind: String,
    },
}

/// The object of type `ty` with its envelope.
pub fn encode(object: &Value, api_version: &str, kind: &str, ty: &'static Type) -> Vec<u8> {
    envelope(api_version, kind, &encode_message(object, ty))
}

/// The bare message of an object of type `ty`.
pub fn encode_message(object: &Value, ty: &'static Type) -> Vec<u8> {
    encoder::message(object, ty)
}

/// A message with the envelope of an object.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let type_meta = wire::fields(&[(1, api_version.as_bytes()), (2, kind.as_bytes())]);
    let mut out = Vec::with_capacity(message.len() + type_meta.len() + 24);
    out.extend_from_slice(&MAGIC);
    for (number, bytes) in [(1, type_meta.as_slice()), (2, message), (3, b""), (4, b"")] {
        wire::field(&mut out, number, bytes);
    }
    out
}

/// A list, item by item.
pub struct ListEncoder {
    message: Vec<u8>,
}

impl ListEncoder {
    /// A list with this `metadata`.
    pub fn new(metadata: &Value) -> Self {
        let meta = facts::by_name("apimachinery.pkg.apis.meta.v1.ListMeta").map(|ty| encode_message(metadata, ty));
        ListEncoder { message: wire::fields(&[(1, &meta.unwrap_or_default())]) }
    }

    /// Adds an item, as [`encode_message`] made it.
    pub fn push(&mut self, item: &[u8]) {
        wire::field(&mut self.message, 2, item);
    }

    /// The list with its envelope.
    pub fn finish(self, api_version: &str, list_kind: &str) -> Vec<u8> {
        envelope(api_version, list_kind, &self.message)
    }
}

/// One frame of a watch: the length in four bytes, and a `WatchEvent` around an encoded object (with its envelope).
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let raw = wire::fields(&[(1, object)]);
    let event = wire::fields(&[(1, event_type.as_bytes()), (2, &raw)]);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&event);
    frame
}

/// The parts of an envelope: `apiVersion`, `kind` and the message.
pub fn open(bytes: &[u8]) -> Result<(&str, &str, &[u8]), ProtobufError> {
    let unknown = bytes.strip_prefix(&MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = ("", "", &b""[..]);
    for field in Reader::new(unknown) {
        let (number, value) = field?;
        match number {
            1 => {
                for field in Reader::new(value.bytes()?) {
                    match field? {
                        (1, value) => api_version = value.text()?,
                        (2, value) => kind = value.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = value.bytes()?,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

/// The object in its envelope, in the form that [`crate::decode::decode`] gives. `default` is used for what the envelope does not
/// name: `apiVersion` and `kind`.
pub fn decode(bytes: &[u8], default: (&str, &str)) -> Result<Value, ProtobufError> {
    let (api_version, kind, message) = open(bytes)?;
    let api_version = if api_version.is_empty() { default.0 } else { api_version };
    let kind = if kind.is_empty() { default.1 } else { kind };
    let (group, version) = split_api_version(api_version);
    let ty = facts::lookup(group, version, kind)
        .ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    let mut object = decode_message(message, ty)?;
    if let Value::Object(map) = &mut object {
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
    }
    Ok(object)
}

/// A bare message of type `ty`.
pub fn decode_message(message: &[u8], ty: &'static Type) -> Result<Value, ProtobufError> {
    let mut map = Map::new();
    decoder::message(message, ty, &mut map)?;
    Ok(Value::Object(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode::decode_value, facts::lookup};
    use serde_json::json;

    #[test]
    fn objects_survive_the_way_there_and_back() {
        let ty = lookup("apps", "v1", "Deployment").unwrap();
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "labels": {"b": "2", "a": "1"}, "creationTimestamp": "2024-01-01T00:00:00Z",
                "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "1"}}, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
                "template": {"spec": {
                    "containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 3},
                        "resources": {"limits": {"cpu": "1500m"}}, "env": [{"name": "x", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}]}],
                    "volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {"supplementalGroups": [0, 5], "runAsUser": -1}}}},
        });
        let object = decode_value(object, ty).unwrap().value;
        let bytes = encode(&object, "apps/v1", "Deployment", ty);
        assert_eq!(bytes[..4], MAGIC);
        assert_eq!(decode(&bytes, ("", "")).unwrap(), object);
    }

    #[test]
    fn secrets_carry_raw_bytes() {
        let ty = lookup("", "v1", "Secret").unwrap();
        let object = json!({"metadata": {"name": "s"}, "data": {"k": "aGVsbG8="}});
        let message = encode_message(&object, ty);
        assert!(message.windows(5).any(|w| w == b"hello"));
        assert_eq!(decode_message(&message, ty).unwrap(), object);
    }

    #[test]
    fn lists_and_frames_are_made_of_encoded_items() {
        let ty = lookup("", "v1", "ConfigMap").unwrap();
        let item = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
        let mut list = ListEncoder::new(&json!({"resourceVersion": "7"}));
        list.push(&encode_message(&item, ty));
        let bytes = list.finish("v1", "ConfigMapList");
        let decoded = decode(&bytes, ("", "")).unwrap();
        assert_eq!(decoded["metadata"], json!({"resourceVersion": "7"}));
        assert_eq!(decoded["items"], json!([item]));
        let object = encode(&item, "v1", "ConfigMap", ty);
        let frame = watch_frame("ADDED", &object);
        assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
        assert!(frame.ends_with(&object));
    }

    #[test]
    fn malformed_bytes_are_refused() {
        assert_eq!(decode(b"{}", ("", "")), Err(ProtobufError::NoMagic));
        assert_eq!(decode(b"k8s\0\x0a\x7f", ("", "")), Err(ProtobufError::Truncated));
        let unknown = envelope("v1", "Nope", b"");
        assert!(matches!(decode(&unknown, ("", "")), Err(ProtobufError::UnknownKind { .. })));
        let not_text = envelope("v1", "ConfigMap", &[0x0a, 3, 0x0a, 1, 0xff]);
        assert!(matches!(decode(&not_text, ("", "")), Err(ProtobufError::Malformed(_))));
        let wrong_type = envelope("v1", "ConfigMap", &[0x08, 1]);
        assert!(decode(&wrong_type, ("", "")).is_err());
    }

    #[test]
    fn options_and_metadata_lists_are_known() {
        let options = lookup("", "v1", "DeleteOptions").unwrap();
        let value = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground", "preconditions": {"uid": "u"}});
        assert_eq!(decode_message(&encode_message(&value, options), options).unwrap(), value);
        assert!(lookup("meta.k8s.io", "v1", "PartialObjectMetadata").is_some());
    }
}
