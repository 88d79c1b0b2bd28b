//! Fields of a protobuf message, written one after another.
use serde_json::{Map, Value};

/// A message in the making.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A field of bytes: tag, length, content.
    pub(super) fn bytes(&mut self, number: u32, content: &[u8]) {
        varint(&mut self.0, u64::from(number) << 3 | 2);
        varint(&mut self.0, content.len() as u64);
        self.0.extend_from_slice(content);
    }

    /// A field that is a message.
    pub(super) fn message(&mut self, number: u32, content: &Message) {
        self.bytes(number, &content.0);
    }

    /// A string, if there is one.
    pub(super) fn text(&mut self, number: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    /// Each string of an array.
    pub(super) fn texts(&mut self, number: u32, value: Option<&Value>) {
        for text in elements(value) {
            self.text(number, Some(text));
        }
    }

    /// A boolean; one that is false is not written, as in proto3.
    pub(super) fn flag(&mut self, number: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            varint(&mut self.0, u64::from(number) << 3);
            self.0.push(1);
        }
    }

    /// A gnostic `Any`: the value as YAML, which JSON is.
    pub(super) fn any(&mut self, number: u32, value: Option<&Value>) {
        if let Some(value) = value {
            let mut any = Message::default();
            any.bytes(2, value.to_string().as_bytes());
            self.message(number, &any);
        }
    }

    /// The `x-…` members as `NamedAny`.
    pub(super) fn extensions(&mut self, number: u32, members: &Map<String, Value>) {
        for (name, value) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut named = Message::default();
            named.bytes(1, name.as_bytes());
            named.any(2, Some(value));
            self.message(number, &named);
        }
    }

    /// A message whose fields are a name and a value, as gnostic writes each entry of a map.
    pub(super) fn named(&mut self, number: u32, name: &str, value: &Message) {
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, value);
        self.message(number, &named);
    }

    /// The whole message.
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A message with one field, which is a message: what gnostic makes of "one of several types".
pub(super) fn wrapped(number: u32, content: &Message) -> Message {
    let mut out = Message::default();
    out.message(number, content);
    out
}

/// The elements of an array, the members of an object: none of something else.
pub(super) fn elements(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn members(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
