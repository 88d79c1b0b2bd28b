//! Values. Start at [`Value`].
use crate::authorizer::{Authorizer, Check, Decision};
use crate::types::{ListKind, ListType, ObjectType, Type};
use base64::Engine;
use jiff::Timestamp;
use pintle_api::quantity::Quantity;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

/// Text, borrowed from an object or shared.
#[derive(Clone)]
pub enum Text<'a> {
    /// Of an object or literal.
    Borrowed(&'a str),
    /// Made by an expression.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Text::Shared(text.into())
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// As it is in JSON, with the type of its elements.
    Json(&'a [Json], Option<Arc<ListType>>),
    /// Made by an expression.
    Made(Arc<Vec<Value<'a>>>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A boolean.
    Bool(bool),
    /// A number; unsigned ones that fit are the same key.
    Int(i64),
    /// A number beyond the signed ones.
    Uint(u64),
    /// Text.
    String(String),
}

/// How the entries of a JSON object are typed.
#[derive(Clone, Debug)]
pub enum Shape {
    /// By what they look like.
    Dynamic,
    /// All alike.
    Map(Type),
    /// By their name.
    Object(Arc<ObjectType>),
}

/// A map or an object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// As it is in JSON.
    Json(&'a serde_json::Map<String, Json>, Shape),
    /// Made by an expression; a name if it is an object of a type (`Object.spec`).
    Made(Arc<BTreeMap<Key, Value<'a>>>, Option<Arc<str>>),
}

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) text: String,
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: String,
}

/// A step of a question to the authorizer.
#[derive(Clone)]
pub enum Authz<'a> {
    /// `authorizer`, `authorizer.group("apps")`, … : the question so far.
    Asking(&'static str, &'a dyn Authorizer, Box<Check>),
    /// The answer.
    Decided(Decision),
}

impl fmt::Debug for Authz<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authz::Asking(what, _, check) => f.debug_tuple(what).field(check).finish(),
            Authz::Decided(decision) => decision.fmt(f),
        }
    }
}

/// A value that an expression works with.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is a type of CEL, see Type")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    /// In nanoseconds, as Go counts.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    Type(Type),
    Quantity(Quantity),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Semver(Arc<semver::Version>),
    Format(&'static str),
    Authorizer(Arc<Authz<'a>>),
}

impl<'a> Value<'a> {
    /// Text made by an expression.
    pub fn text(text: impl Into<String>) -> Self {
        Value::String(Text::from(text.into()))
    }

    /// A list made by an expression.
    pub fn list(elements: Vec<Value<'a>>) -> Self {
        Value::List(List::Made(Arc::new(elements)))
    }

    /// `authorizer` for expressions.
    pub fn authorizer(by: &'a dyn Authorizer) -> Self {
        Value::Authorizer(Arc::new(Authz::Asking("kubernetes.authorization.Authorizer", by, Box::default())))
    }

    /// `authorizer.requestResource`: the question about what the request is about.
    pub fn request_resource(by: &'a dyn Authorizer, check: Check) -> Self {
        Value::Authorizer(Arc::new(Authz::Asking("kubernetes.authorization.ResourceCheck", by, Box::new(check))))
    }

    /// JSON of a known type; what does not fit the type is taken for what it looks like.
    pub fn typed(json: &'a Json, ty: &Type) -> Self {
        match (json, ty) {
            (Json::Null, _) => Value::Null,
            (Json::Bool(b), _) => Value::Bool(*b),
            (Json::Number(n), Type::Double) => Value::Double(n.as_f64().unwrap_or_default()),
            (Json::Number(n), _) => match n.as_i64() {
                Some(i) => Value::Int(i),
                None => Value::Double(n.as_f64().unwrap_or_default()),
            },
            (Json::String(s), Type::Timestamp) => {
                let date =
                    || s.parse().ok().and_then(|day: jiff::civil::Date| day.to_zoned(jiff::tz::TimeZone::UTC).ok());
                let time = s.parse().ok().or_else(|| date().map(|day| day.timestamp()));
                time.map_or(Value::String(Text::Borrowed(s)), Value::Timestamp)
            }
            (Json::String(s), Type::Duration) => {
                crate::functions::time::parse_duration(s).map_or(Value::String(Text::Borrowed(s)), Value::Duration)
            }
            (Json::String(s), Type::Bytes) => match base64::engine::general_purpose::STANDARD.decode(s) {
                Ok(bytes) => Value::Bytes(bytes.into()),
                Err(_) => Value::String(Text::Borrowed(s)),
            },
            (Json::String(s), _) => Value::String(Text::Borrowed(s)),
            (Json::Array(list), Type::List(ty)) => Value::List(List::Json(list, Some(ty.clone()))),
            (Json::Array(list), _) => Value::List(List::Json(list, None)),
            (Json::Object(map), Type::Object(ty)) => Value::Map(Map::Json(map, Shape::Object(ty.clone()))),
            (Json::Object(map), Type::Map(ty)) => Value::Map(Map::Json(map, Shape::Map(ty.1.clone()))),
            (Json::Object(map), _) => Value::Map(Map::Json(map, Shape::Dynamic)),
        }
    }

    /// JSON, taken for what it looks like.
    pub fn dynamic(json: &'a Json) -> Self {
        Value::typed(json, &Type::Dyn)
    }

    /// The type's name at runtime.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Made(_, Some(name))) => name,
            Value::Map(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(..) => "net.CIDR",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Authorizer(authz) => match &**authz {
                Authz::Asking(name, ..) => name,
                Authz::Decided(_) => "kubernetes.authorization.Decision",
            },
        }
    }

    /// The value as JSON; `None` for values that have no form in JSON.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Uint(u) => Json::from(*u),
            Value::Double(d) => Json::from(*d),
            Value::String(s) => Json::from(&**s),
            Value::Bytes(b) => Json::from(base64::engine::general_purpose::STANDARD.encode(b)),
            Value::Timestamp(t) => Json::from(t.to_string()),
            Value::Duration(d) => Json::from(crate::functions::time::duration_text(*d)),
            Value::List(List::Json(list, _)) => Json::from(list.to_vec()),
            Value::List(List::Made(list)) => Json::Array(list.iter().map(Value::to_json).collect::<Option<_>>()?),
            Value::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Value::Map(Map::Made(map, _)) => {
                let entry = |(key, value): (&Key, &Value<'a>)| Some((key.to_string(), value.to_json()?));
                Json::Object(map.iter().map(entry).collect::<Option<_>>()?)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Optional(None) => Json::Null,
            Value::Quantity(q) => Json::from(q.to_string()),
            Value::Url(url) => Json::from(url.text.as_str()),
            Value::Ip(ip) => Json::from(ip.to_string()),
            Value::Cidr(ip, bits) => Json::from(format!("{ip}/{bits}")),
            Value::Semver(version) => Json::from(version.to_string()),
            Value::Type(_) | Value::Format(_) | Value::Authorizer(_) => return None,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(b) => b.fmt(f),
            Key::Int(i) => i.fmt(f),
            Key::Uint(u) => u.fmt(f),
            Key::String(s) => s.fmt(f),
        }
    }
}

impl Key {
    /// The key that a value stands for.
    pub fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Key::Uint(*u), Key::Int),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e18 => Key::Int(*d as i64),
            Value::String(s) => Key::String(s.to_string()),
            _ => return None,
        })
    }

    /// The key as a value.
    pub fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Uint(u) => Value::Uint(*u),
            Key::String(s) => Value::text(s.as_str()),
        }
    }
}

impl<'a> List<'a> {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            List::Json(list, _) => list.len(),
            List::Made(list) => list.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(list, ty) => {
                list.get(index).map(|json| Value::typed(json, ty.as_ref().map_or(&Type::Dyn, |ty| &ty.element)))
            }
            List::Made(list) => list.get(index).cloned(),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    pub(crate) fn kind(&self) -> &ListKind {
        match self {
            List::Json(_, Some(ty)) => &ty.kind,
            _ => &ListKind::Atomic,
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Made(map, _) => map.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a field or of a key that is text.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(map, Shape::Dynamic) => map.get(name).map(Value::dynamic),
            Map::Json(map, Shape::Map(ty)) => map.get(name).map(|json| Value::typed(json, ty)),
            Map::Json(map, Shape::Object(ty)) => {
                let field = ty.fields.field(name)?;
                map.get(&field.json).map(|json| Value::typed(json, &field.ty))
            }
            Map::Made(map, _) => map.get(&Key::String(name.to_owned())).cloned(),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &Key) -> Option<Value<'a>> {
        match (self, key) {
            (_, Key::String(name)) => self.field(name),
            (Map::Made(map, _), key) => map.get(key).cloned(),
            _ => None,
        }
    }

    /// The keys as values.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map, _) => map.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
            Map::Made(map, _) => map.keys().map(Key::value).collect(),
        }
    }

    /// The entries.
    pub fn entries(&self) -> Vec<(Key, Value<'a>)> {
        match self {
            Map::Json(map, Shape::Object(ty)) => {
                let entry = |(key, json): (&String, &'a Json)| {
                    let field = crate::schema::escape(key).and_then(|name| ty.fields.field(&name));
                    let value = field.map_or_else(|| Value::dynamic(json), |field| Value::typed(json, &field.ty));
                    (Key::String(key.clone()), value)
                };
                map.iter().map(entry).collect()
            }
            Map::Json(map, shape) => {
                let ty = if let Shape::Map(ty) = shape { ty } else { &Type::Dyn };
                map.iter().map(|(key, json)| (Key::String(key.clone()), Value::typed(json, ty))).collect()
            }
            Map::Made(map, _) => map.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}
