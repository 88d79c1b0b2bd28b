//! How objects are laid out in the store: encoded once, ready to be sent. Start at [`encode`].
//!
//! A stored object begins with `{"kind":K,"apiVersion":V,"metadata":{"resourceVersion":"N",` so that the store can stamp
//! the revision in, lists can leave kind and version out, and a deletion can carry its own revision, all without parsing.
use bytes::{BufMut, Bytes, BytesMut};
use pintle_store::Revision;
use serde_json::{Map, Value};

const STAMP: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";

/// An object encoded for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The encoding, with an empty resource version.
    pub bytes: Bytes,
    /// Where the resource version goes.
    pub stamp: usize,
}

impl Encoded {
    /// The bytes as the store keeps them when it commits at `revision`.
    pub fn stamped(&self, revision: Revision) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes.len() + 20);
        out.put_slice(&self.bytes[..self.stamp]);
        out.put_slice(itoa::Buffer::new().format(revision).as_bytes());
        out.put_slice(&self.bytes[self.stamp..]);
        out.freeze()
    }
}

/// Encodes `object`; its own resource version is left out.
pub fn encode(object: &Value) -> Encoded {
    let mut out = Vec::with_capacity(1024);
    let empty = Map::new();
    let object = object.as_object().unwrap_or(&empty);
    out.extend_from_slice(b"{\"kind\":");
    write(&mut out, object.get("kind").unwrap_or(&Value::Null));
    out.extend_from_slice(b",\"apiVersion\":");
    write(&mut out, object.get("apiVersion").unwrap_or(&Value::Null));
    out.push(b',');
    out.extend_from_slice(STAMP);
    let stamp = out.len();
    out.push(b'"');
    for (key, value) in object.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        if key != "resourceVersion" {
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    for (key, value) in object {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    Encoded { bytes: out.into(), stamp }
}

fn field(out: &mut Vec<u8>, key: &str, value: &Value) {
    out.push(b',');
    serde_json::to_writer(&mut *out, key).expect("strings encode into memory");
    out.push(b':');
    write(out, value);
}

fn write(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("values encode into memory");
}

/// The place of the resource version's digits in a stored object.
fn digits(stored: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = find(stored, STAMP)? + STAMP.len();
    let length = stored[start..].iter().position(|byte| *byte == b'"')?;
    Some(start..start + length)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A stored object with `revision` in the place of its own: what the event of its deletion carries.
pub fn restamp(stored: &[u8], revision: Revision) -> Bytes {
    let Some(digits) = digits(stored) else { return Bytes::copy_from_slice(stored) };
    let mut out = BytesMut::with_capacity(stored.len() + 20);
    out.put_slice(&stored[..digits.start]);
    out.put_slice(itoa::Buffer::new().format(revision).as_bytes());
    out.put_slice(&stored[digits.end..]);
    out.freeze()
}

/// A stored object as it appears among the items of a list, without kind and version.
///
/// Shares the bytes but for the opening brace, which the caller writes.
pub fn without_type(stored: &Bytes) -> Bytes {
    match find(stored, STAMP) {
        Some(at) => stored.slice(at..),
        None => stored.slice(1.min(stored.len())..),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "a"},
               "metadata": {"name": "p", "resourceVersion": "7", "annotations": {"x": "\"metadata\":{\"resourceVersion\":\""}}})
    }

    #[test]
    fn the_stamped_encoding_is_the_object_with_the_new_revision() {
        let stored = encode(&pod()).stamped(1234);
        let mut want = pod();
        want["metadata"]["resourceVersion"] = json!("1234");
        assert_eq!(serde_json::from_slice::<Value>(&stored).unwrap(), want);
        assert!(stored.starts_with(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"1234","#));
        assert_eq!(restamp(&stored, 99), encode(&pod()).stamped(99));
    }

    #[test]
    fn list_items_have_neither_kind_nor_version() {
        let stored = encode(&pod()).stamped(5);
        let item = [b"{", without_type(&stored).as_ref()].concat();
        let item: Value = serde_json::from_slice(&item).unwrap();
        assert_eq!((item.get("kind"), &item["metadata"]["name"]), (None, &json!("p")));
    }
}
