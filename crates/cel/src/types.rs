//! Static types. Start at [`Type`].
use crate::schema::reserved;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of an expression or a variable.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything; checked only when evaluated.
    Dyn,
    /// Not known yet: the elements of an empty list or map. Fits everything.
    Unknown,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A signed number of 64 bits.
    Int,
    /// An unsigned number of 64 bits.
    Uint,
    /// A floating-point number.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A point in time.
    Timestamp,
    /// A span of time.
    Duration,
    /// A type as a value.
    Type,
    /// A list.
    List(Arc<ListType>),
    /// A map with keys and values of these types.
    Map(Arc<(Type, Type)>),
    /// A value that may be missing.
    Optional(Arc<Type>),
    /// An object with known fields.
    Object(Arc<ObjectType>),
    /// A type of one of the libraries, by its name in CEL.
    Opaque(&'static str),
    /// A type parameter of a function.
    Param(char),
}

/// The type of the variable `authorizer`.
pub const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");

/// How two versions of a list are compared and merged (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// As one value, in order.
    #[default]
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map of objects, by these fields.
    Map(Vec<String>),
}

/// The type of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListType {
    /// Its elements.
    pub element: Type,
    /// How it is compared.
    pub kind: ListKind,
}

/// A field of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name in JSON, which may differ from the one in CEL where that has to be escaped.
    pub json: String,
    /// Its type.
    pub ty: Type,
}

/// Finds the fields of an object type, so that types that contain themselves can be described.
pub trait Fields: Send + Sync + fmt::Debug {
    /// The field with this name in CEL.
    fn field(&self, name: &str) -> Option<Field>;
}

impl Fields for BTreeMap<String, Field> {
    fn field(&self, name: &str) -> Option<Field> {
        self.get(name).or_else(|| self.get(&reserved(name)?)).cloned()
    }
}

/// An object type; types of the same name are the same.
#[derive(Clone, Debug)]
pub struct ObjectType {
    /// The name, as messages show it.
    pub name: String,
    /// The fields.
    pub fields: Arc<dyn Fields>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Type {
    /// The type's name in CEL, where [`fmt::Display`] shows the short forms of messages.
    // upstream: cel-go common/types, Type.String
    pub fn full_name(&self) -> String {
        match self {
            Type::Null => "null_type".to_owned(),
            Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Type::Duration => "google.protobuf.Duration".to_owned(),
            Type::List(of) => format!("list({})", of.element.full_name()),
            Type::Map(of) => format!("map({}, {})", of.0.full_name(), of.1.full_name()),
            Type::Optional(of) => format!("optional_type({})", of.full_name()),
            plain => plain.to_string(),
        }
    }

    /// The type that an expression names, without parameters.
    pub(crate) fn of_name(name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "list" => Type::Opaque("list"),
            "map" => Type::Opaque("map"),
            "null_type" => Type::Null,
            "type" => Type::Type,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            _ => return None,
        })
    }

    /// The type as variables of a policy have it: of objects and of what the libraries know, nothing is kept.
    // upstream: apiserver pkg/admission/plugin/cel/composition.go, convertCelTypeToDeclType
    pub fn of_variable(&self) -> Type {
        match self {
            Type::List(of) => Type::list(of.element.of_variable()),
            Type::Map(of) => Type::map(of.0.of_variable(), of.1.of_variable()),
            Type::Object(_) | Type::Optional(_) | Type::Opaque(_) | Type::Type | Type::Param(_) | Type::Unknown => {
                Type::Dyn
            }
            plain => plain.clone(),
        }
    }

    /// A list of `element`.
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(ListType { element, kind: ListKind::Atomic }))
    }

    /// A map.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// A value that may be missing.
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    /// An object with these fields, whose names need no escaping.
    pub fn object<const N: usize>(name: &str, fields: [(&str, Type); N]) -> Type {
        let field = |(name, ty): (&str, Type)| (name.to_owned(), Field { json: name.to_owned(), ty });
        let fields: BTreeMap<String, Field> = fields.into_iter().map(field).collect();
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: Arc::new(fields) }))
    }

    /// Whether nothing is known before evaluation.
    pub fn is_dynamic(&self) -> bool {
        matches!(self, Type::Dyn | Type::Unknown)
    }

    /// Whether a value of type `from` may stand where this type is wanted.
    pub fn accepts(&self, from: &Type) -> bool {
        match (self, from) {
            (a, b) if a.is_dynamic() || b.is_dynamic() => true,
            (Type::List(a), Type::List(b)) => a.element.accepts(&b.element),
            (Type::Map(a), Type::Map(b)) => a.0.accepts(&b.0) && a.1.accepts(&b.1),
            (Type::Optional(a), Type::Optional(b)) => a.accepts(b),
            (Type::Object(_) | Type::Timestamp | Type::Duration | Type::Optional(_) | Type::Opaque(_), Type::Null) => {
                true
            }
            (a, b) => a == b,
        }
    }

    /// What is known of a value that has either this type or `other`; `None` if they cannot be the same.
    pub fn join(&self, other: &Type) -> Option<Type> {
        match (self, other) {
            (Type::Unknown, t) | (t, Type::Unknown) => Some(t.clone()),
            (Type::Dyn, _) | (_, Type::Dyn) => Some(Type::Dyn),
            (Type::List(a), Type::List(b)) => Some(Type::list(a.element.join(&b.element)?)),
            (Type::Map(a), Type::Map(b)) => Some(Type::map(a.0.join(&b.0)?, a.1.join(&b.1)?)),
            (Type::Optional(a), Type::Optional(b)) => Some(Type::optional(a.join(b)?)),
            (a, b) if a.accepts(b) => Some(a.clone()),
            (a, b) if b.accepts(a) => Some(b.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Dyn | Type::Unknown => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::Type => "type",
            Type::Opaque(name) => name,
            Type::Object(object) => &object.name,
            Type::List(list) => return write!(f, "list({})", list.element),
            Type::Map(of) => return write!(f, "map({}, {})", of.0, of.1),
            Type::Optional(of) => return write!(f, "optional_type({of})"),
            Type::Param(c) => return write!(f, "{c}"),
        })
    }
}
