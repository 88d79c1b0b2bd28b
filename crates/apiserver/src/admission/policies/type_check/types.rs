//! The types of objects, as their published schemas tell them. Start at [`of_resource`].
// upstream: apiserver pkg/cel/openapi/resolver
use crate::value::Read;
use pintle_api::facts::{self, Shape};
use pintle_api::scheme::Resource;
use pintle_cel::schema::{escape, of_published};
use pintle_cel::{Field, Fields, ObjectType, Type};
use serde_json::Value;
use std::sync::Arc;

/// The type of a resource's objects, if it has a schema.
pub(super) fn of_resource(resource: &Resource) -> Option<Type> {
    let Some(custom) = &resource.custom else {
        let known = facts::lookup(&resource.group, &resource.version, &resource.kind)?;
        return Some(object(known, resource.kind.clone(), None));
    };
    let definition: Value = serde_json::from_slice(custom.source()).ok()?;
    let mut versions = definition.field("spec").items("versions").iter();
    let version = versions.find(|version| version.text("name") == resource.version)?;
    let metadata = object(facts::object_meta(), format!("{}.metadata", resource.kind), None);
    of_published(version.field("schema").field("openAPIV3Schema"), &resource.kind, &metadata)
}

/// A type of the schema facts; its fields are looked up when they are asked for.
#[derive(Debug)]
struct Known {
    ty: &'static facts::Type,
    /// What messages call it.
    name: String,
    /// What it is inside of.
    around: Option<Arc<Known>>,
}

/// What is known of a type inside others; nothing, if it is one of them: schemas do not contain themselves.
fn object(ty: &'static facts::Type, name: String, around: Option<Arc<Known>>) -> Type {
    let mut outer = around.as_ref();
    while let Some(known) = outer {
        if known.ty.name == ty.name {
            return Type::object(&name, []);
        }
        outer = known.around.as_ref();
    }
    let known = Arc::new(Known { ty, name: name.clone(), around });
    Type::Object(Arc::new(ObjectType { name, fields: Arc::new(Inside(known)) }))
}

/// The fields of a known type.
#[derive(Debug)]
struct Inside(Arc<Known>);

impl Fields for Inside {
    fn field(&self, name: &str) -> Option<Field> {
        let Inside(known) = self;
        // Names that CEL reserves may be written as they are.
        let escaped = |field: &&facts::Field| escape(field.name).as_deref() == Some(name);
        let field = known.ty.field(name).or_else(|| known.ty.fields.iter().find(escaped))?;
        let ty = of_shape(&field.shape, format!("{}.{}", known.name, field.name), known)?;
        Some(Field { json: field.name.to_owned(), ty })
    }
}

/// `None`: the schema names no type, and so expressions cannot reach the value.
fn of_shape(shape: &'static Shape, name: String, around: &Arc<Known>) -> Option<Type> {
    Some(match shape {
        Shape::String | Shape::Duration => Type::String,
        Shape::Bool => Type::Bool,
        Shape::Int32 | Shape::Int64 => Type::Int,
        Shape::Double => Type::Double,
        Shape::Bytes => Type::Bytes,
        Shape::Time | Shape::MicroTime => Type::Timestamp,
        Shape::Object(id) => object(id.get(), name, Some(around.clone())),
        Shape::List(item) | Shape::WrappedList(item) => Type::list(of_shape(item, format!("{name}.@idx"), around)?),
        Shape::Map(value) => Type::map(Type::String, of_shape(value, format!("{name}.@elem"), around)?),
        Shape::IntOrString => Type::Dyn,
        // Objects of which nothing is known.
        Shape::RawExtension | Shape::FieldsV1 => Type::object(&name, []),
        // Numbers or texts; anything.
        Shape::Quantity | Shape::Json => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_cel::Env;
    use serde_json::json;

    #[test]
    fn custom_resources_have_the_fields_of_their_schema_and_all_metadata() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true}}}}});
        let metadata = object(facts::object_meta(), "CronTab.metadata".to_owned(), None);
        let env = Env::new().variable("object", of_published(&schema, "CronTab", &metadata).unwrap());
        for good in [
            "object.spec.replicas > 1 && object.metadata.labels['a'] == 'b' && object.kind == 'CronTab'",
            "object.spec.template.metadata.annotations.size() > 0",
        ] {
            assert_eq!(env.compile(good).err().map(|error| error.to_string()), None);
        }
        let error = env.compile("object.spec.maxRetries < 10").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("undefined field 'maxRetries'"), "{error}");
        assert!(env.compile("object.spec.replicas > '1'").is_err());
    }
}
