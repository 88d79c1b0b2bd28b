//! What webhooks and policies apply to. Start at [`Event`] and [`Matching`].
pub(crate) mod conditions;
pub(crate) mod rules;

use super::{Attributes, Operation};
use crate::authz::default::ClusterAuthorizer;
use crate::registry::Registry;
use crate::value::Read;
use pintle_api::convert;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{GroupResource, Resource};
use pintle_api::selector::LabelSelector;
use pintle_api::status::ApiError;
use rules::{Rule, What};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Kinds that configure admission, which are never subject to it.
const EXEMPT: [&str; 6] = [
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// A write on its way through webhooks and policies.
pub(crate) struct Event<'a> {
    pub attributes: &'a Attributes<'a>,
    pub registry: &'a Registry,
    pub authorizer: &'a ClusterAuthorizer,
    /// As upstream has it: that of a namespace is the namespace itself.
    pub namespace: &'a str,
    pub name: &'a str,
    namespace_object: OnceCell<Option<Value>>,
}

impl<'a> Event<'a> {
    pub(crate) fn new(
        attributes: &'a Attributes<'a>,
        name: &'a str,
        registry: &'a Registry,
        authorizer: &'a ClusterAuthorizer,
    ) -> Self {
        let name = if attributes.name.is_empty() { name } else { attributes.name };
        let is_namespace = attributes.resource.group.is_empty() && attributes.resource.plural == "namespaces";
        let namespace = if is_namespace { name } else { attributes.namespace };
        Event { attributes, registry, authorizer, namespace, name, namespace_object: OnceCell::new() }
    }

    /// Whether webhooks and policies have no say.
    pub(crate) fn is_exempt(attributes: &Attributes<'_>) -> bool {
        attributes.resource.group == "admissionregistration.k8s.io"
            && EXEMPT.contains(&attributes.resource.plural.as_str())
    }

    fn is_namespace(&self) -> bool {
        self.attributes.resource.group.is_empty() && self.attributes.resource.plural == "namespaces"
    }

    fn what<'s>(&'s self, resource: &'s Resource) -> What<'s> {
        What {
            operation: self.attributes.operation,
            group: &resource.group,
            version: &resource.version,
            plural: &resource.plural,
            subresource: self.attributes.subresource,
            namespace: if self.is_namespace() { "" } else { self.namespace },
            name: self.name,
        }
    }

    /// The namespace that the object is in; none for cluster-scoped ones.
    pub(crate) async fn namespace_object(&self) -> Result<Option<&Value>, ApiError> {
        if self.is_namespace() || self.namespace.is_empty() {
            return Ok(None);
        }
        let read = || async {
            let namespaces = self.registry.resource("", "namespaces")?;
            let namespace =
                self.registry.get(&namespaces, "", self.namespace).await.map_err(|error| match error.code {
                    404 => ApiError::not_found(GroupResource { group: "", resource: "namespaces" }, self.namespace),
                    _ => error,
                })?;
            Ok::<_, ApiError>(Some(namespace))
        };
        Ok(self.namespace_object.get_or_try_init(read).await?.as_ref())
    }

    /// `object` in the version of `resource`, another one of the same kind.
    pub(crate) fn in_version(&self, object: &Value, resource: &Resource) -> Result<Value, ApiError> {
        convert_between(self.attributes.resource, resource, object)
    }
}

/// `object` of the version of `from` in that of `to`.
pub(crate) fn convert_between(from: &Resource, to: &Resource, object: &Value) -> Result<Value, ApiError> {
    // What is written through a subresource may be of a kind of its own.
    if from.api_version() == to.api_version() || object["kind"].as_str() != Some(&from.kind) {
        return Ok(object.clone());
    }
    let stored = convert::to_storage(from, object.clone()).map_err(ApiError::internal)?;
    let mut object = convert::from_storage(to, stored).map_err(ApiError::internal)?;
    object["apiVersion"] = to.api_version().into();
    Ok(object)
}

/// The rules and selectors of a webhook, policy or binding.
#[derive(Debug)]
pub(crate) struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether other versions of the same kind match too.
    equivalent: bool,
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
}

impl Matching {
    /// Reads `matchConstraints`, `matchResources`, or a webhook, whose rules are called `rules`.
    pub(crate) fn of(source: &Value, rules: &str) -> Self {
        let read = |key: &str| source.items(key).iter().map(Rule::of).collect();
        let selector = |key: &str| LabelSelector::from_value(source.field(key)).map_err(|error| error.0);
        Matching {
            rules: read(rules),
            excluded: read("excludeResourceRules"),
            equivalent: source.text("matchPolicy") != "Exact",
            namespaces: if source.has("namespaceSelector") { selector("namespaceSelector") } else { everything() },
            objects: if source.has("objectSelector") { selector("objectSelector") } else { everything() },
        }
    }

    /// The resource as which the event matches: that of the request, or an equivalent one. `any` is the answer where there
    /// are no rules.
    // upstream: webhook.ShouldCallHook, matching.Matcher.Matches
    pub(crate) async fn matches(
        &self,
        event: &Event<'_>,
        object: Option<&Value>,
        any: bool,
    ) -> Result<Option<Arc<Resource>>, ApiError> {
        let Some(resource) = self.by_rules(event, any) else { return Ok(None) };
        if !self.by_namespace(event, object).await? || !self.by_object(event, object)? {
            return Ok(None);
        }
        Ok(Some(resource))
    }

    fn by_rules(&self, event: &Event<'_>, any: bool) -> Option<Arc<Resource>> {
        let own = event.attributes.resource;
        let as_is = || Some(Arc::new(own.clone()));
        if find(&self.excluded, &event.what(own)) || self.excluded_by_equivalent(event) {
            return None;
        }
        if self.rules.is_empty() {
            return if any { as_is() } else { None };
        }
        if find(&self.rules, &event.what(own)) {
            return as_is();
        }
        if !self.equivalent {
            return None;
        }
        self.rules.iter().find_map(|rule| equivalents(event).into_iter().find(|other| rule.matches(&event.what(other))))
    }

    fn excluded_by_equivalent(&self, event: &Event<'_>) -> bool {
        !self.excluded.is_empty()
            && self.equivalent
            && equivalents(event).iter().any(|other| find(&self.excluded, &event.what(other)))
    }

    async fn by_namespace(&self, event: &Event<'_>, object: Option<&Value>) -> Result<bool, ApiError> {
        let selector = self.namespaces.as_ref().map_err(ApiError::internal)?;
        if selector.is_everything() || (event.namespace.is_empty() && !event.is_namespace()) {
            return Ok(true);
        }
        if event.is_namespace() {
            let labelled = match event.attributes.operation {
                Operation::Create | Operation::Update => object,
                _ => event.attributes.old,
            };
            return Ok(selector.matches(labelled.and_then(ObjectExt::labels)));
        }
        let namespace = event.namespace_object().await?;
        Ok(selector.matches(namespace.and_then(ObjectExt::labels)))
    }

    fn by_object(&self, event: &Event<'_>, object: Option<&Value>) -> Result<bool, ApiError> {
        let selector = self.objects.as_ref().map_err(ApiError::internal)?;
        if selector.is_everything() {
            return Ok(true);
        }
        let labelled = [object, event.attributes.old].into_iter().flatten();
        Ok(labelled.into_iter().any(|object| selector.matches(object.labels())))
    }
}

fn everything() -> Result<LabelSelector, String> {
    LabelSelector::from_value(&json!({})).map_err(|error| error.0)
}

fn find(rules: &[Rule], what: &What<'_>) -> bool {
    rules.iter().any(|rule| rule.matches(what))
}

/// Other versions (and groups) of the same objects.
fn equivalents(event: &Event<'_>) -> Vec<Arc<Resource>> {
    let (own, scheme) = (event.attributes.resource, event.registry.scheme());
    if !own.is_stored() {
        return Vec::new();
    }
    let prefix = own.storage_prefix();
    let other = |resource: &&Arc<Resource>| {
        resource.is_stored() && resource.plural == own.plural && resource.api_version() != own.api_version()
    };
    scheme.resources().filter(other).filter(|resource| resource.storage_prefix() == prefix).cloned().collect()
}
