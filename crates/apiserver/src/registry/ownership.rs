//! Who comes to own the fields that a write changes: what `pintle_api::apply` has to know of a resource.
use super::{Registry, Write};
use crate::strategy;
use pintle_api::apply::{self, FieldManager, ResetFields, Structure, Versions};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{Resource, Scheme, split_api_version};
use pintle_api::{convert, facts};
use serde_json::Value;
use std::sync::Arc;

/// What objects of `resource` are made of; `None`: nothing is known, and nobody owns their fields.
pub fn structure(resource: &Resource) -> Option<Structure<'_>> {
    if let Some(custom) = &resource.custom {
        return Some(Structure::Custom(custom.ownership()));
    }
    facts::lookup(&resource.group, &resource.version, &resource.kind).map(Structure::BuiltIn)
}

/// The versions in which objects of one resource are served.
#[derive(Debug)]
pub struct ServedVersions(Arc<Scheme>);

impl ServedVersions {
    /// Those of the resources that are served now.
    pub fn of(registry: &Registry) -> Self {
        ServedVersions(registry.scheme())
    }
}

impl Versions for ServedVersions {
    fn view(&self, object: &Value, api_version: &str) -> Option<(Value, Structure<'_>)> {
        let resource = |api_version: &str| {
            let (group, version) = split_api_version(api_version);
            // Fields may be owned by way of a version that is not served now.
            self.0.by_kind(group, version, object.kind()).or(Scheme::all().by_kind(group, version, object.kind()))
        };
        let (from, to) = (resource(object.api_version())?, resource(api_version)?);
        let structure = structure(to)?;
        if from.group == to.group && from.version == to.version {
            return Some((object.clone(), structure));
        }
        if let Some(custom) = &to.custom {
            let mut view = object.clone();
            view["apiVersion"] = api_version.into();
            custom.settle(&mut view).ok()?;
            return Some((view, structure));
        }
        let stored = convert::to_storage(from, object.clone()).ok()?;
        Some((convert::from_storage(to, stored).ok()?, structure))
    }
}

impl Write<'_> {
    /// What this write leaves alone, whatever is sent.
    pub fn reset_fields(&self) -> ResetFields {
        strategy::reset_fields(self.resource, self.subresource)
    }

    /// Notes in `new` which fields of `old` (none: a creation) this write takes over.
    pub(super) fn track_fields(&self, registry: &Registry, old: Option<&Value>, new: &mut Value) {
        let (Some(name), Some(structure)) = (self.manager, structure(self.resource)) else {
            // Left by clients that ask for managers to be forgotten where there are none.
            if new
                .metadata()
                .is_some_and(|m| m.get("managedFields").and_then(Value::as_array).is_some_and(Vec::is_empty))
            {
                new.metadata_mut().remove("managedFields");
            }
            return;
        };
        let (api_version, versions) = (self.resource.api_version(), ServedVersions::of(registry));
        let (subresource, reset) = (self.subresource, self.reset_fields());
        let by = FieldManager { name, api_version: &api_version, subresource, structure, reset, versions: &versions };
        apply::track_update(old, new, &by);
    }
}
