//! Schema facts of the built-in types: fields, protobuf numbers, list types, patch strategies. Start at [`lookup`].
pub mod go;
mod table;

use std::{collections::HashMap, sync::LazyLock};

pub use table::TableError;

/// The JSON (and Go) type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    String,
    /// A boolean.
    Bool,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `float64`.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// `metav1.Time`: RFC 3339 with seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339 with microseconds.
    MicroTime,
    /// `metav1.Duration`: a string as Go prints durations.
    Duration,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `runtime.RawExtension`: an object of any kind.
    RawExtension,
    /// `metav1.FieldsV1`: a trie of field paths.
    FieldsV1,
    /// Any JSON value.
    Json,
    /// An object of a known type.
    Object(TypeId),
    /// A list.
    List(&'static Shape),
    /// A list that is a message of its own in protobuf (`ExtraValue`, `Verbs`).
    WrappedList(&'static Shape),
    /// A map from strings.
    Map(&'static Shape),
}

/// A reference to a [`Type`]; read it with [`TypeId::get`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

impl TypeId {
    /// Its place among all types.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The type.
    pub fn get(self) -> &'static Type {
        &FACTS.types[usize::from(self.0)]
    }
}

/// How a list is merged and owned by server-side apply: `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Not declared; treated as atomic.
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects identified by [`Field::list_map_keys`].
    Map,
}

/// Yes-or-no facts of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u16);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:expr;)*) => {
        impl Flags {$(
            $(#[$doc])*
            pub const fn $name(self) -> bool {
                self.0 & (1 << $bit) != 0
            }
        )*}
    };
}

flags! {
    /// OpenAPI lists the field as required.
    required = 0;
    /// Go leaves the field out if it is zero.
    omitempty = 1;
    /// Go leaves the field out if it is the zero value of its type.
    omitzero = 2;
    /// The Go field is a pointer, so that zero and missing differ.
    pointer = 3;
    /// `x-kubernetes-map-type: atomic`.
    map_atomic = 4;
    /// Strategic merge patch merges the list by key, or as a set of scalars.
    merge = 5;
    /// Strategic merge patch keeps only the keys that the patch names.
    retain_keys = 6;
    /// The published default is the zero value.
    zero_default = 7;
    /// `x-kubernetes-map-type: granular`: not atomic here, though the type of the value is elsewhere.
    map_granular = 8;
    /// Strategic merge patch replaces the object rather than merging it.
    replace = 9;
}

/// A field of a [`Type`].
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: &'static str,
    /// The number in protobuf; 0: not in protobuf (`apiVersion` and `kind` are in the envelope).
    pub number: u32,
    /// The value's type.
    pub shape: Shape,
    /// Yes-or-no facts.
    pub flags: Flags,
    /// For lists.
    pub list_type: ListType,
    /// For lists of [`ListType::Map`].
    pub list_map_keys: &'static [&'static str],
    /// The key by which strategic merge patch merges a list of objects; empty: none.
    pub merge_key: &'static str,
    /// The declared default, as JSON; empty: none, or zero ([`Flags::zero_default`]).
    pub default: &'static str,
    /// The values of an enum, sorted; empty for other types.
    pub enum_values: &'static [&'static str],
    /// The Go type if it does not follow from the shape, as `v1.PodPhase`; empty otherwise.
    go_type: &'static str,
}

/// An entry of a type: a field, or a struct whose fields are inlined in JSON but nested in protobuf.
#[derive(Clone, Debug)]
pub enum Member {
    /// A field; the index into [`Type::fields`].
    Field(u16),
    /// An inlined struct with its number in protobuf (0: inlined there too).
    Inline(u32, TypeId),
}

/// A part of a protobuf message.
#[derive(Clone, Copy, Debug)]
pub enum ProtoMember {
    /// A field.
    Field(&'static Field),
    /// A message whose fields are inlined in JSON, with its number.
    Inline(u32, TypeId),
}

impl ProtoMember {
    fn number(self) -> u32 {
        match self {
            ProtoMember::Field(f) => f.number,
            ProtoMember::Inline(number, _) => number,
        }
    }
}

/// Which of the free-form types a value of [`Shape::Json`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonKind {
    /// Anything.
    Any,
    /// A schema or a list of them.
    OrArray,
    /// A schema or a boolean.
    OrBool,
    /// A schema or a list of strings.
    OrStringArray,
}

/// A struct of the API.
#[derive(Clone, Debug, Default)]
pub struct Type {
    /// The OpenAPI name, `io.k8s.` left out: `api.core.v1.PodSpec`.
    pub name: &'static str,
    /// The group, version and kind, if this is a kind of its own.
    pub gvk: Option<(&'static str, &'static str, &'static str)>,
    /// Whether the whole struct is one atomic value for server-side apply.
    pub atomic: bool,
    /// Whether the OpenAPI documents describe the type.
    pub described: bool,
    /// `x-kubernetes-unions` as JSON; empty: none.
    pub unions: &'static str,
    /// What the Go struct declares, in order.
    pub members: Vec<Member>,
    /// All fields as JSON has them, inlined ones included, in order.
    pub fields: Vec<Field>,
    /// Indices into `fields`, sorted by name.
    by_name: Vec<u16>,
    /// Indices of the fields that Go writes even if they are not set.
    always_written: Vec<u16>,
    /// Indices into `members`, sorted by protobuf number.
    by_number: Vec<u16>,
    id: TypeId,
}

impl Type {
    /// The field named `name`, exactly.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.field_at(name).map(|(_, f)| f)
    }

    /// The field named `name`, exactly, with its index in [`Type::fields`].
    pub fn field_at(&self, name: &str) -> Option<(usize, &Field)> {
        let at = self.by_name.binary_search_by(|i| self.fields[usize::from(*i)].name.cmp(name)).ok()?;
        let i = usize::from(self.by_name[at]);
        Some((i, &self.fields[i]))
    }

    /// The fields that Go writes even if they are not set: empty structs, and what has no `omitempty`.
    pub fn always_written(&self) -> impl Iterator<Item = &Field> {
        self.always_written.iter().map(|i| &self.fields[usize::from(*i)])
    }

    /// What the protobuf message has, by number.
    pub fn by_number(&'static self) -> impl DoubleEndedIterator<Item = ProtoMember> {
        self.by_number.iter().map(|i| self.proto_member(*i))
    }

    /// The part of the protobuf message with this number.
    pub fn member_by_number(&'static self, number: u32) -> Option<ProtoMember> {
        let at = self.by_number.binary_search_by_key(&number, |i| self.proto_member(*i).number()).ok()?;
        Some(self.proto_member(self.by_number[at]))
    }

    fn proto_member(&'static self, i: u16) -> ProtoMember {
        match self.members[usize::from(i)] {
            Member::Field(f) => ProtoMember::Field(&self.fields[usize::from(f)]),
            Member::Inline(number, id) => ProtoMember::Inline(number, id),
        }
    }

    /// The type of JSON schemas in CustomResourceDefinitions.
    pub fn json_schema_props() -> &'static Type {
        by_name("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
            .expect("a test finds it in the embedded table")
    }

    /// The Go structs, one in the other, in which this one embeds the field named `name`; empty for its own fields.
    pub fn embedding(&self, name: &str) -> Vec<&'static str> {
        let inlined = self.members.iter().filter_map(|member| match member {
            Member::Inline(_, id) => Some(id.get()),
            Member::Field(_) => None,
        });
        match inlined.into_iter().find(|ty| ty.has_field(name)) {
            Some(ty) => std::iter::once(ty.go_name()).chain(ty.embedding(name)).collect(),
            None => Vec::new(),
        }
    }

    /// The reference to this type.
    pub fn id(&self) -> TypeId {
        self.id
    }

    /// Whether JSON has this field.
    pub fn has_field(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// The Go name of the struct: `PodSpec`.
    pub fn go_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The Go name with its package: `v1.PodSpec`.
    pub fn go_type(&self) -> &'static str {
        let start = self.name.rmatch_indices('.').nth(1).map_or(0, |(i, _)| i + 1);
        &self.name[start..]
    }
}

impl Field {
    /// The Go type as error messages print it: `int32`, `[]v1.Container`, `map[string]string`.
    pub fn go_type(&self) -> String {
        if self.go_type.is_empty() { self.shape.go_type() } else { self.go_type.to_owned() }
    }

    /// What the values of [`Shape::Json`] in this field are.
    pub fn json_kind(&self) -> JsonKind {
        match self.go_type.rsplit('.').next() {
            Some("JSONSchemaPropsOrArray") => JsonKind::OrArray,
            Some("JSONSchemaPropsOrBool") => JsonKind::OrBool,
            Some("JSONSchemaPropsOrStringArray" | "JSONSchemaDependencies") => JsonKind::OrStringArray,
            _ => JsonKind::Any,
        }
    }

    /// Whether a zero value is left out when Go encodes the field.
    pub fn omits_zero(&self) -> bool {
        self.flags.omitempty() || self.flags.omitzero()
    }
}

impl Shape {
    /// The Go type as error messages print it.
    pub fn go_type(&self) -> String {
        match self {
            Shape::String => "string".into(),
            Shape::Bool => "bool".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Double => "float64".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Duration => "v1.Duration".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::RawExtension => "runtime.RawExtension".into(),
            Shape::FieldsV1 => "v1.FieldsV1".into(),
            Shape::Json => "v1.JSON".into(),
            Shape::Object(id) => id.get().go_type().into(),
            Shape::List(item) | Shape::WrappedList(item) => format!("[]{}", item.go_type()),
            Shape::Map(value) => format!("map[string]{}", value.go_type()),
        }
    }

    /// The type of the object, if this is one.
    pub fn object(&self) -> Option<&'static Type> {
        match self {
            Shape::Object(id) => Some(id.get()),
            _ => None,
        }
    }

    /// What a list or map holds.
    pub fn item(&self) -> Option<&'static Shape> {
        match self {
            Shape::List(item) | Shape::WrappedList(item) | Shape::Map(item) => Some(item),
            _ => None,
        }
    }
}

/// All types.
#[derive(Debug, Default)]
struct Facts {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
    by_gvk: HashMap<(&'static str, &'static str, &'static str), TypeId>,
}

static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    table::parse(include_str!("../schema/v1_36_facts.tsv")).expect("a test parses the embedded table")
});

/// The type of a kind.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    // Kinds that every group version has.
    let shared = match kind {
        "DeleteOptions" => "apimachinery.pkg.apis.meta.v1.DeleteOptions",
        "WatchEvent" => "apimachinery.pkg.apis.meta.v1.WatchEvent",
        "PartialObjectMetadata" => "apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
        "PartialObjectMetadataList" => "apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
        "Status" if group.is_empty() => "apimachinery.pkg.apis.meta.v1.Status",
        _ => return FACTS.by_gvk.get(&(group, version, kind)).map(|id| id.get()),
    };
    by_name(shared)
}

/// The type with an OpenAPI name, `io.k8s.` left out: `api.core.v1.PodSpec`.
pub fn by_name(name: &str) -> Option<&'static Type> {
    FACTS.by_name.get(name).map(|id| id.get())
}

/// All types, sorted by name.
pub fn all() -> &'static [Type] {
    &FACTS.types
}

/// `metav1.ObjectMeta`.
pub fn object_meta() -> &'static Type {
    by_name("apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("a test finds it in the embedded table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Scheme;

    #[test]
    fn every_kind_of_the_scheme_has_facts() {
        assert!(object_meta().has_field("uid") && Type::json_schema_props().has_field("allOf"));
        for r in Scheme::all().resources() {
            assert!(lookup(&r.group, &r.version, &r.kind).is_some(), "{}", r.group_kind());
            for s in r.subresources.iter().filter(|s| !s.kind.ends_with("Options")) {
                assert!(lookup(&s.group, &s.version, &s.kind).is_some(), "{}", s.kind);
            }
        }
    }

    #[test]
    fn a_pods_containers_are_known() {
        let pod = lookup("", "v1", "Pod").unwrap();
        let spec = pod.field("spec").unwrap().shape.object().unwrap();
        let containers = spec.field("containers").unwrap();
        assert_eq!(
            (containers.list_type, containers.list_map_keys, containers.merge_key),
            (ListType::Map, &["name"][..], "name")
        );
        assert_eq!(containers.go_type(), "[]v1.Container");
        assert!(containers.flags.merge() && containers.flags.required());
        let container = containers.shape.item().unwrap().object().unwrap();
        assert_eq!((container.go_name(), container.go_type()), ("Container", "v1.Container"));
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.list_map_keys, ["containerPort", "protocol"]);
        let port = ports.shape.item().unwrap().object().unwrap();
        assert_eq!(port.field("protocol").unwrap().default, "\"TCP\"");
    }

    #[test]
    fn inlined_structs_are_flat_in_json_and_nested_in_protobuf() {
        let volume = by_name("api.core.v1.Volume").unwrap();
        assert!(volume.has_field("configMap") && volume.has_field("name"));
        assert!(
            volume.members.iter().any(|m| matches!(m, Member::Inline(2, id) if id.get().go_name() == "VolumeSource"))
        );
        let ephemeral = by_name("api.core.v1.EphemeralContainer").unwrap();
        assert_eq!(ephemeral.field("env").unwrap().merge_key, "name");
        assert_eq!(ephemeral.field("env").unwrap().list_type, ListType::Map);
        assert!(lookup("", "v1", "Pod").unwrap().has_field("apiVersion"));
    }
}
