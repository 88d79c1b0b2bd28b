//! A strategy put together from the few things in which most kinds differ: [`Rules`].
use super::{SideWrites, Strategy, generic};
use crate::context::RequestContext;
use crate::defaults::Defaults;
use crate::registry::Registry;
use crate::validation::{self, field::Field};
use crate::value::{Fill, Object, Read, object_of, same};
use async_trait::async_trait;
use pintle_api::{field::FieldError, names, status::ApiError};
use serde_json::Value;

/// When `metadata.generation` rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The kind has no generation.
    None,
    /// Always 1.
    Constant,
    /// When the spec changes.
    Spec,
    /// When the spec or the annotations change.
    SpecAndAnnotations,
    /// When one of these top-level fields changes.
    Fields(&'static [&'static str]),
    /// When one of these top-level fields, or the labels, change.
    FieldsAndLabels(&'static [&'static str]),
}

/// What becomes of the status that a client sends with the main resource.
#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// The kind has none, or takes it as sent.
    AsSent,
    /// As sent in a new object, kept by updates.
    KeptByUpdates,
    /// Begins as this makes it (from an empty one), kept by updates.
    Own(fn(&mut Object)),
}

/// A strategy for a kind of ordinary behaviour. `Rules::PLAIN` has none of its own.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Fills in what is missing.
    pub default: Option<Defaults>,
    /// When the generation rises.
    pub generation: Generation,
    /// What becomes of the status.
    pub status: Status,
    /// More to do with a new object; it has its name and UID already.
    pub create: fn(&mut Object),
    /// More to do with a changed object.
    pub update: fn(&mut Object, &Value),
    /// More to do with a changed status; all but status and metadata is that of the old object.
    pub status_update: fn(&mut Object, &Value),
    /// See [`Strategy::validate_name`].
    pub name: fn(&str) -> Vec<String>,
    /// Whether finalizers without a domain must be Kubernetes' own.
    pub standard_finalizers: bool,
    /// Judges a new object.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// Judges a change.
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Judges a change of the status.
    pub validate_status_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Warnings about a new object.
    pub warnings: fn(&Value) -> Vec<String>,
    /// See [`Strategy::allow_create_on_update`].
    pub create_on_update: bool,
    /// See [`Strategy::allow_unconditional_update`].
    pub unconditional_update: bool,
    /// See [`Strategy::grace_period`].
    pub grace_period: fn(&Value, Option<i64>) -> Option<i64>,
    /// See [`Strategy::holds_deletion`].
    pub holds_deletion: fn(&Value) -> bool,
    /// See [`Strategy::mark_deleting`].
    pub mark_deleting: fn(&mut Object),
    /// See [`Strategy::orphans_dependents_by_default`].
    pub orphans_dependents: bool,
    /// See [`Strategy::supports_garbage_collection`].
    pub garbage_collection: bool,
    /// See [`Strategy::returns_deleted_object`].
    pub returns_deleted: bool,
    /// What else is written with the object.
    pub hooks: Option<&'static dyn Hooks>,
}

/// What is allocated and released in the transactions that write and remove an object.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// See [`Strategy::before_write`].
    async fn before_write(
        &self,
        registry: &Registry,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<SideWrites, ApiError>;

    /// See [`Strategy::before_removal`].
    async fn before_removal(&self, registry: &Registry, old: &Value) -> Result<SideWrites, ApiError>;
}

impl Rules {
    /// No rules.
    pub const PLAIN: Rules = Rules {
        default: None,
        generation: Generation::None,
        status: Status::AsSent,
        create: |_| {},
        update: |_, _| {},
        status_update: |_, _| {},
        name: names::dns1123_subdomain,
        standard_finalizers: true,
        validate: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        validate_status_update: |_, _| Vec::new(),
        warnings: |_| Vec::new(),
        create_on_update: false,
        unconditional_update: true,
        grace_period: |_, _| None,
        holds_deletion: |_| false,
        mark_deleting: |_| {},
        orphans_dependents: false,
        garbage_collection: true,
        returns_deleted: false,
        hooks: None,
    };

    /// A spec with a generation and a status that only its subresource writes.
    pub const WITH_STATUS: Rules = Rules { generation: Generation::Spec, status: Status::Own(|_| {}), ..Rules::PLAIN };

    fn finalizer_names(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, metadata) = (Vec::new(), Field::root(object, "metadata"));
        if self.standard_finalizers {
            for name in metadata.child("finalizers").items().filter(|f| !f.text().contains('/')) {
                validation::core::finalizer(name.text(), &name.path, &mut errors);
            }
        }
        errors
    }

    fn rises(&self, new: &Object, old: &Value) -> bool {
        let changed = |field: &str| !same(new.field(field), old.field(field));
        let of_metadata = |field: &str| !same(new.field("metadata").field(field), old.field("metadata").field(field));
        match self.generation {
            Generation::None | Generation::Constant => false,
            Generation::Spec => changed("spec"),
            Generation::SpecAndAnnotations => changed("spec") || of_metadata("annotations"),
            Generation::Fields(fields) => fields.iter().any(|f| changed(f)),
            Generation::FieldsAndLabels(fields) => fields.iter().any(|f| changed(f)) || of_metadata("labels"),
        }
    }
}

#[async_trait]
impl Strategy for Rules {
    fn default(&self, object: &mut Value) {
        if let Some(fill) = self.default {
            fill(object_of(object));
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        let object = object_of(object);
        if self.generation != Generation::None {
            object.child_or_new("metadata").set("generation", 1);
        }
        if let Status::Own(initial) = self.status {
            object.set("status", Object::new());
            initial(object.child_or_new("status"));
        }
        (self.create)(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        if !matches!(self.status, Status::AsSent) {
            generic::keep_status(new, old);
        }
        let new = object_of(new);
        (self.update)(new, old);
        if self.rises(new, old) {
            let generation = old.field("metadata").int("generation") + 1;
            new.child_or_new("metadata").set("generation", generation);
        }
    }

    fn prepare_for_status_update(&self, _cx: &RequestContext, new: &mut Value, old: &Value) {
        generic::keep_all_but_status(new, old);
        (self.status_update)(object_of(new), old);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = self.finalizer_names(object);
        errors.extend((self.validate)(object));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.finalizer_names(new);
        errors.extend((self.validate_update)(new, old));
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        (self.validate_status_update)(new, old)
    }

    fn warnings_on_create(&self, object: &Value) -> Vec<String> {
        (self.warnings)(object)
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        (self.grace_period)(object, requested)
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        (self.holds_deletion)(object)
    }

    fn mark_deleting(&self, object: &mut Value) {
        (self.mark_deleting)(object_of(object));
    }

    fn orphans_dependents_by_default(&self) -> bool {
        self.orphans_dependents
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        (self.name)(name)
    }

    fn supports_garbage_collection(&self) -> bool {
        self.garbage_collection
    }

    fn returns_deleted_object(&self) -> bool {
        self.returns_deleted
    }

    async fn before_write(
        &self,
        _cx: &RequestContext,
        registry: &Registry,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<SideWrites, ApiError> {
        match self.hooks {
            Some(hooks) => hooks.before_write(registry, old, new).await,
            None => Ok(SideWrites::default()),
        }
    }

    async fn before_removal(&self, registry: &Registry, old: &Value) -> Result<SideWrites, ApiError> {
        match self.hooks {
            Some(hooks) => hooks.before_removal(registry, old).await,
            None => Ok(SideWrites::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn updated(rules: &Rules, mut new: Value, old: &Value) -> Value {
        rules.prepare_for_update(&RequestContext::default(), &mut new, old);
        new
    }

    #[test]
    fn binding_leaves_the_generation() {
        let old = json!({"metadata": {"generation": 1}, "spec": {"containers": []}});
        let bound = json!({"metadata": {"generation": 1}, "spec": {"containers": [], "nodeName": "n"}});
        let bound = updated(&crate::strategy::core::pod::BINDING, bound, &old);
        assert_eq!((&bound["metadata"]["generation"], &bound["spec"]["nodeName"]), (&json!(1), &json!("n")));
    }

    #[test]
    fn the_generation_rises_with_the_spec_and_not_with_the_labels() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"a": 1}, "status": {"b": 1}});
        let relabelled = json!({"metadata": {"generation": 3, "labels": {"a": "b"}}, "spec": {"a": 1, "c": null}});
        assert_eq!(updated(&Rules::WITH_STATUS, relabelled, &old)["metadata"]["generation"], 3);
        let changed = updated(&Rules::WITH_STATUS, json!({"metadata": {"generation": 3}, "spec": {"a": 2}}), &old);
        assert_eq!(changed, json!({"metadata": {"generation": 4}, "spec": {"a": 2}, "status": {"b": 1}}));
    }

    #[test]
    fn a_new_object_begins_with_an_empty_status() {
        let mut object = json!({"metadata": {"generation": 7}, "status": {"replicas": 3}});
        Rules::WITH_STATUS.prepare_for_create(&RequestContext::default(), &mut object);
        assert_eq!(object, json!({"metadata": {"generation": 1}, "status": {}}));
    }
}
