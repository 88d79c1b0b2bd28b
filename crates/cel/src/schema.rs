//! Types from OpenAPI schemas, as custom resource definitions hold them. Start at [`of_schema`].
// upstream: apiserver pkg/cel/common, SchemaDeclType; pkg/cel/escaping.go
use crate::types::{Field, ListKind, ListType, ObjectType, Type};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Words that CEL reserves and that field names may be.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The escaped form of a field whose name CEL reserves; expressions may use the name itself as well.
pub(crate) fn reserved(name: &str) -> Option<String> {
    RESERVED.contains(&name).then(|| format!("__{name}__"))
}

/// A field's name in expressions; `None` for names that expressions cannot reach.
pub fn escape(name: &str) -> Option<String> {
    if let Some(escaped) = reserved(name) {
        return Some(escaped);
    }
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '_' if chars.peek() == Some(&'_') => {
                chars.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c == '_' || c.is_ascii_alphanumeric() => out.push(c),
            _ => return None,
        }
    }
    (!out.is_empty() && !out.starts_with(|c: char| c.is_ascii_digit())).then_some(out)
}

/// The type of values that fit `schema`, a structural one; `root` adds `apiVersion`, `kind` and the two names in `metadata`
/// that every object has. `None`: expressions cannot reach such values. `name` is what messages call it (`object`).
pub fn of_schema(schema: &Value, root: bool, name: &str) -> Option<Type> {
    Reader { metadata: None }.read(schema, root, name)
}

/// The type of objects that fit `schema`, as it is published: they and those embedded in them have this `metadata`.
pub fn of_published(schema: &Value, name: &str, metadata: &Type) -> Option<Type> {
    Reader { metadata: Some(metadata) }.read(schema, true, name)
}

struct Reader<'a> {
    /// The type of `metadata`; else there are only the two names.
    metadata: Option<&'a Type>,
}

impl Reader<'_> {
    fn read(&self, schema: &Value, root: bool, name: &str) -> Option<Type> {
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or_default();
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        if flag("x-kubernetes-int-or-string") {
            return Some(Type::Dyn);
        }
        let resource = root || flag("x-kubernetes-embedded-resource");
        match text("type") {
            "array" => {
                let element = self.read(schema.get("items")?, false, &format!("{name}.@idx"))?;
                let keys = || {
                    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                    keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
                };
                let kind = match text("x-kubernetes-list-type") {
                    "set" => ListKind::Set,
                    "map" => ListKind::Map(keys()),
                    _ => ListKind::Atomic,
                };
                Some(Type::List(Arc::new(ListType { element, kind })))
            }
            "object" => match schema.get("additionalProperties") {
                Some(values @ Value::Object(_)) => {
                    Some(Type::map(Type::String, self.read(values, false, &format!("{name}.@elem"))?))
                }
                _ => Some(self.object(schema.get("properties").and_then(Value::as_object), resource, name)),
            },
            "string" => Some(match text("format") {
                "byte" => Type::Bytes,
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Timestamp,
                _ => Type::String,
            }),
            "boolean" => Some(Type::Bool),
            "number" => Some(Type::Double),
            "integer" => Some(Type::Int),
            _ if resource => Some(self.object(None, true, name)),
            _ => None,
        }
    }

    fn object(&self, properties: Option<&Map<String, Value>>, resource: bool, name: &str) -> Type {
        let mut fields = BTreeMap::new();
        for (json, schema) in properties.into_iter().flatten() {
            let known = escape(json).zip(self.read(schema, false, &format!("{name}.{json}")));
            if let Some((escaped, ty)) = known {
                fields.insert(escaped, Field { json: json.clone(), ty });
            }
        }
        if resource {
            let mut add = |name: &str, ty| fields.insert(name.to_owned(), Field { json: name.to_owned(), ty });
            add("apiVersion", Type::String);
            add("kind", Type::String);
            let names = || [("name", Type::String), ("generateName", Type::String)];
            let metadata = || Type::object(&format!("{name}.metadata"), names());
            add("metadata", self.metadata.cloned().unwrap_or_else(metadata));
        }
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: Arc::new(fields) }))
    }
}
