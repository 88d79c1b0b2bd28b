//! Short forms to read and fill dynamic objects: [`Read`] for any value, [`Fill`] for objects.
//!
//! `value["a"]["b"]` of `serde_json` reads missing fields as null, which these build on.
use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// Reads fields as the zero value of their type when they are missing, as a Go client library would.
pub trait Read {
    /// The field, or null.
    fn field(&self, key: &str) -> &Value;

    /// A string; empty if missing.
    fn text(&self, key: &str) -> &str {
        self.field(key).as_str().unwrap_or_default()
    }
    /// A number; 0 if missing.
    fn int(&self, key: &str) -> i64 {
        self.field(key).as_i64().unwrap_or_default()
    }
    /// A boolean; false if missing.
    fn flag(&self, key: &str) -> bool {
        self.field(key).as_bool().unwrap_or_default()
    }
    /// A list; empty if missing.
    fn items(&self, key: &str) -> &[Value] {
        self.field(key).as_array().map_or(&[], Vec::as_slice)
    }
    /// The strings of a list.
    fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.items(key).iter().filter_map(Value::as_str)
    }
    /// The entries of a map; none if missing.
    fn entries(&self, key: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.field(key).as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
    }
    /// Whether the field is there and not null.
    fn has(&self, key: &str) -> bool {
        !self.field(key).is_null()
    }
    /// Whether the field is missing or the zero value of its type, which is how a Go client sees them alike.
    fn is_zero(&self, key: &str) -> bool {
        is_zero(self.field(key))
    }
}

impl Read for Value {
    fn field(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&Value::Null)
    }
}

impl Read for Object {
    fn field(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&Value::Null)
    }
}

/// Whether `v` is null, false, 0, or empty.
pub fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Fills in fields of an object.
pub trait Fill {
    /// Sets the field.
    fn set(&mut self, key: &str, value: impl Into<Value>);
    /// Sets a field that is optional in Go (a pointer): only if it is missing.
    fn fill(&mut self, key: &str, value: impl Into<Value>);
    /// Sets a field that is plain in Go: also if it is empty or 0.
    fn fill_zero(&mut self, key: &str, value: impl Into<Value>);
    /// The object in a field, if there is one.
    fn child(&mut self, key: &str) -> Option<&mut Object>;
    /// The object in a field, made if there is none.
    fn child_or_new(&mut self, key: &str) -> &mut Object;
    /// The objects in a list.
    fn each(&mut self, key: &str) -> impl Iterator<Item = &mut Object>;
}

impl Fill for Object {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.insert(key.to_owned(), value.into());
    }

    fn fill(&mut self, key: &str, value: impl Into<Value>) {
        if !self.has(key) {
            self.set(key, value);
        }
    }

    fn fill_zero(&mut self, key: &str, value: impl Into<Value>) {
        if self.is_zero(key) {
            self.set(key, value);
        }
    }

    fn child(&mut self, key: &str) -> Option<&mut Object> {
        self.get_mut(key)?.as_object_mut()
    }

    fn child_or_new(&mut self, key: &str) -> &mut Object {
        object_of(self.entry(key).or_insert(Value::Null))
    }

    fn each(&mut self, key: &str) -> impl Iterator<Item = &mut Object> {
        let list = self.get_mut(key).and_then(Value::as_array_mut);
        list.into_iter().flatten().filter_map(Value::as_object_mut)
    }
}

/// The object that `v` is, or is made.
pub fn object_of(v: &mut Value) -> &mut Object {
    if !v.is_object() {
        *v = Value::Object(Object::new());
    }
    v.as_object_mut().expect("an object, made above if it was none")
}

/// Whether a Go client sees `a` and `b` as equal: missing, null and empty lists or maps are the same.
// upstream: k8s.io/apimachinery/pkg/api/equality, Semantic.DeepEqual
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, v)| same(v, b.field(key)))
                && b.iter().all(|(key, v)| a.contains_key(key) || same(v, &Value::Null))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Null, other) | (other, Value::Null) => match other {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.values().all(|v| same(v, &Value::Null)),
            _ => false,
        },
        (a, b) => a == b,
    }
}
