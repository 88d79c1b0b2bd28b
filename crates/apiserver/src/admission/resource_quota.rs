//! ResourceQuota: what is created is charged to the namespace's quotas, or refused. Start at [`Quotas::validate`].
// upstream: apiserver pkg/admission/plugin/resourcequota
use super::{Attributes, Operation};
use crate::context::RequestContext;
use crate::follow::follow;
use crate::registry::{Registry, Write};
use crate::value::{Fill, Read, object_of};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use pintle_api::meta::ObjectExt;
use pintle_api::quantity::Quantity;
use pintle_api::quota::{Counted, is_ignored};
use pintle_api::resource_list::{List, list};
use pintle_api::status::ApiError;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How often a charge that met another one starts over.
const RETRIES: usize = 32;

/// The names of the quotas in each namespace.
type Names = BTreeMap<String, BTreeSet<String>>;

/// Knows which namespaces have quotas; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Quotas(Arc<ArcSwap<Names>>);

impl Quotas {
    /// Follows the quotas of `registry` until `stop`.
    pub async fn start(registry: &Registry, stop: &CancellationToken) -> Result<Self, ApiError> {
        let quotas = Quotas::default();
        let (mut names, index) = (Names::new(), quotas.clone());
        let apply = move |namespace: &str, name: &str, stored: Option<&bytes::Bytes>| {
            let held = names.entry(namespace.to_owned()).or_default();
            let changed = if stored.is_some() { held.insert(name.to_owned()) } else { held.remove(name) };
            if held.is_empty() {
                names.remove(namespace);
            }
            // A changed status is no news: only the names are kept.
            if changed {
                index.0.store(Arc::new(names.clone()));
            }
        };
        follow(registry, &*registry.resource("", "resourcequotas")?, stop.clone(), Box::new(apply)).await?;
        Ok(quotas)
    }

    /// Charges the write to every quota that it concerns.
    pub(super) async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let index = self.0.load();
        let Some(names) = index.get(attributes.namespace) else { return Ok(()) };
        let (group, plural) = (attributes.resource.group.as_str(), attributes.resource.plural.as_str());
        let counted = Counted { group, plural };
        if is_ignored(group, plural) || !handles(attributes, object) {
            return Ok(());
        }
        let charge = Charge { attributes, counted, object, now: Timestamp::now() };
        let mut charges = Vec::new();
        // All quotas are asked before any is charged.
        let quotas = registry.resource("", "resourcequotas")?;
        for name in names {
            match registry.get(&quotas, attributes.namespace, name).await {
                Ok(quota) => charges.extend(charge.against(&quota)?.map(|_| name)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        if attributes.dry_run {
            return Ok(());
        }
        for name in charges {
            charge.apply(name, registry).await?;
        }
        Ok(())
    }
}

/// Whether the write could change what is used. upstream: Evaluator.Handles
fn handles(attributes: &Attributes<'_>, object: &Value) -> bool {
    let (operation, old) = (attributes.operation, attributes.old.unwrap_or(&Value::Null));
    let create = operation == Operation::Create;
    let update = operation == Operation::Update;
    let terminating =
        |pod: &Value| pod.field("spec").field("activeDeadlineSeconds").as_i64().is_some_and(|seconds| seconds >= 0);
    match (attributes.resource.group.as_str(), attributes.resource.plural.as_str(), attributes.subresource) {
        ("", "pods", "") => create || update && terminating(old) != terminating(object),
        ("", "pods", "resize") => update,
        ("", "services" | "persistentvolumeclaims", "") => create || update,
        ("", "persistentvolumeclaims", "status") => {
            let changed = |field: &str| old.field("status").field(field) != object.field("status").field(field);
            update
                && ["allocatedResources", "currentVolumeAttributesClassName", "modifyVolumeStatus"]
                    .into_iter()
                    .any(changed)
        }
        (_, _, subresource) => create && subresource.is_empty(),
    }
}

struct Charge<'a> {
    attributes: &'a Attributes<'a>,
    counted: Counted<'a>,
    object: &'a Value,
    now: Timestamp,
}

impl Charge<'_> {
    /// The quota's new usage; `None` if the write does not concern it.
    // upstream: CheckRequest
    fn against(&self, quota: &Value) -> Result<Option<List>, ApiError> {
        let refuse = |why: String| self.attributes.refuse(self.object, why);
        let hard = list(quota.field("status"), "hard");
        let names: Vec<&str> = hard.keys().map(String::as_str).filter(|name| self.counted.counts(name)).collect();
        if names.is_empty() || !self.counted.in_scope(quota.field("spec"), self.object) {
            return Ok(None);
        }
        if let Some(why) = self.counted.constraints(names.iter().copied(), self.object) {
            return Err(refuse(format!("failed quota: {}: {why}", quota.name())));
        }
        let used = list(quota.field("status"), "used");
        if names.iter().any(|name| !used.contains_key(*name)) {
            let names = names.join(",");
            return Err(refuse(format!("status unknown for quota: {}, resources: {names}", quota.name())));
        }
        let mut delta = self.counted.usage(self.object, self.now);
        let negative: Vec<&str> = delta.iter().filter(|(_, v)| v.sign() < 0).map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            return Err(refuse(format!("quota usage is negative for resource(s): {}", negative.join(","))));
        }
        if let Some(old) = self.attributes.old.filter(|old| self.counted.in_scope(quota.field("spec"), old)) {
            for (name, amount) in self.counted.usage(old, self.now) {
                let held = delta.entry(name).or_default();
                *held = (*held - amount).max(Quantity::default());
            }
        }
        delta.retain(|name, amount| !amount.is_zero() && hard.contains_key(name));
        if delta.is_empty() {
            return Ok(None);
        }
        let mut new = used.clone();
        for (name, amount) in &delta {
            *new.entry(name.clone()).or_default() += *amount;
        }
        let over: Vec<&String> = delta.keys().filter(|name| new.get(*name) > hard.get(*name)).collect();
        if !over.is_empty() && self.attributes.subresource != "status" {
            let shown = |of: &List| {
                let part = |name: &&String| Some(format!("{name}={}", of.get(*name)?));
                over.iter().filter_map(part).collect::<Vec<_>>().join(",")
            };
            let (requested, used, limited) = (shown(&delta), shown(&used), shown(&hard));
            let name = quota.name();
            let why = format!("exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}");
            return Err(refuse(why));
        }
        Ok(Some(new))
    }

    /// Writes the new usage into the quota's status, against whatever it is by then.
    async fn apply(&self, name: &str, registry: &Registry) -> Result<(), ApiError> {
        let resource = registry.resource("", "resourcequotas")?;
        let cx = RequestContext::system();
        let write = Write::internal(&cx, &resource, self.attributes.namespace).subresource("status");
        for _ in 0..RETRIES {
            let charged = registry.update_with(&write, name, |quota| {
                if let Some(new) = self.against(quota)? {
                    let used = new.into_iter().map(|(name, amount)| (name, amount.to_string().into()));
                    let used: Map<String, Value> = used.collect();
                    object_of(quota).child_or_new("status").set("used", used);
                }
                Ok(())
            });
            match charged.await {
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.is_conflict() => {}
                other => return other.map(|_| ()),
            }
        }
        Err(ApiError::conflict(resource.group_resource(), name, "the quota changes too often"))
    }
}
