//! What every cluster has from its first moment: namespaces, priority classes, RBAC policy. Start at [`reconcile`].
//!
//! The RBAC objects are facts of Kubernetes v1.36, one object per line in `bootstrap/rbac.jsonl`. At each start what is
//! missing is made and what lost rules or subjects gets them back, unless the object's annotation
//! `rbac.authorization.kubernetes.io/autoupdate` says `false`; nothing that was added is taken away.
use crate::api_services;
use crate::authz::rules::PolicyRule;
use crate::context::RequestContext;
use crate::encode::encode;
use crate::registry::Write;
use crate::registry::{Registry, decode_stored, object_key, ownership, store_error};
use crate::strategy;
use pintle_api::apply::{self, FieldManager};
use pintle_api::meta;
use pintle_api::scheme::{Resource, split_api_version};
use pintle_api::status::ApiError;
use pintle_store::{Compare, Op, TxnOutcome};
use serde_json::{Value, json};
use std::sync::Arc;

mod aggregate;
mod policy;
pub mod service;

pub use aggregate::keep_aggregated;

/// Who owns the fields of what the server makes.
const MANAGER: &str = "kube-apiserver";

const RBAC: &str = include_str!("bootstrap/rbac.jsonl");
/// What Pintle's own add-ons need; upstream's installers bring the like.
const OWN: &str = include_str!("bootstrap/own.jsonl");

/// FlowSchemas and PriorityLevelConfigurations as upstream makes them.
const FLOW_CONTROL: &str = include_str!("bootstrap/flowcontrol.jsonl");

/// Who owns them.
const FLOW_CONTROL_MANAGER: &str = "api-priority-and-fairness-config-producer-v1";

/// The objects of API priority and fairness that every cluster has.
pub(crate) fn flow_control() -> Result<Vec<Value>, ApiError> {
    let unreadable = |error| ApiError::internal(format_args!("the built-in flow control cannot be read: {error}"));
    FLOW_CONTROL.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(unreadable)
}

/// The spec of one of them.
pub(crate) fn flow_control_spec(kind: &str, name: &str) -> Option<Value> {
    let objects = flow_control().ok()?;
    let found = objects.into_iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.map(|mut object| object["spec"].take())
}

/// Makes and completes the objects that every cluster has, in one transaction; at the very first start also `addons`,
/// which afterwards belong to the user.
pub async fn reconcile(registry: &Registry, addons: &[Value]) -> Result<(), ApiError> {
    loop {
        let (compares, ops) = plan(registry, addons).await?;
        if ops.is_empty() {
            return Ok(());
        }
        match registry.store().txn(compares, ops).await.map_err(store_error)? {
            TxnOutcome::Committed(_) => return Ok(()),
            TxnOutcome::Conflict(_) => tracing::debug!("the default policy changed meanwhile, looking again"),
        }
    }
}

/// The rules that the default policy gives to the ClusterRole `name`.
pub fn rules_of(name: &str) -> Result<Vec<PolicyRule>, ApiError> {
    let unreadable = |error| ApiError::internal(format_args!("the built-in policy cannot be read: {error}"));
    for line in RBAC.lines() {
        let mut role: Value = serde_json::from_str(line).map_err(unreadable)?;
        if role["kind"] == "ClusterRole" && role["metadata"]["name"] == name {
            return serde_json::from_value(role["rules"].take()).map_err(unreadable);
        }
    }
    Ok(Vec::new())
}

async fn plan(registry: &Registry, addons: &[Value]) -> Result<(Vec<Compare>, Vec<Op>), ApiError> {
    let (mut compares, mut ops) = (Vec::new(), Vec::new());
    let mut objects = defaults(registry)?;
    let namespaces = registry.resource("", "namespaces")?;
    let system = object_key(&namespaces, "", "kube-system");
    if registry.store().get(&system).await.map_err(store_error)?.is_none() {
        objects.extend(addons.iter().map(|object| typed(registry, object)).collect::<Result<Vec<_>, _>>()?);
    }
    for (resource, wanted) in objects {
        let namespace = wanted["metadata"]["namespace"].as_str().unwrap_or_default();
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let key = object_key(&resource, namespace, name);
        let found = registry.store().get(&key).await.map_err(store_error)?;
        let (object, mod_revision) = match found {
            None => (Some(new_object(&resource, wanted)), 0),
            Some(kv) => (policy::completed(&decode_stored(&kv.value)?, &wanted), kv.mod_revision),
        };
        if let Some(object) = object {
            let encoded = encode(&object);
            compares.push(Compare { key: key.clone().into(), mod_revision });
            ops.push(Op::Put { key: key.into(), value: encoded.bytes, stamp: Some(encoded.stamp) });
        }
    }
    Ok((compares, ops))
}

/// Publishes by which authorities this server knows its clients and the aggregator, for extension API servers.
// upstream: pkg/controlplane/controller/clusterauthenticationtrust
pub async fn publish_trust(registry: &Registry, clients: &str, front_proxy: &str) -> Result<(), ApiError> {
    let config_maps = registry.resource("", "configmaps")?;
    let cx = RequestContext::default();
    let write = Write::internal(&cx, &config_maps, "kube-system").managed_by(MANAGER);
    let data = json!({
        "client-ca-file": clients,
        "requestheader-allowed-names": "[\"front-proxy-client\"]",
        "requestheader-client-ca-file": front_proxy,
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
    });
    let name = "extension-apiserver-authentication";
    let set = |object: &mut Value| {
        object["data"] = data.clone();
        Ok(())
    };
    match registry.update_with(&write, name, set).await {
        Err(error) if error.is_not_found() => {
            let object = json!({"metadata": {"name": name, "namespace": "kube-system"}, "data": data});
            registry.create(&write, object).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// `object` with the resource that its kind is.
fn typed(registry: &Registry, object: &Value) -> Result<(Arc<Resource>, Value), ApiError> {
    let (group, version) = split_api_version(object["apiVersion"].as_str().unwrap_or_default());
    let kind = object["kind"].as_str().unwrap_or_default();
    let resource = registry.scheme().by_kind(group, version, kind).cloned();
    let resource =
        resource.ok_or_else(|| ApiError::internal(format_args!("an add-on is of an unknown kind {kind}")))?;
    Ok((resource, object.clone()))
}

fn new_object(resource: &Resource, mut object: Value) -> Value {
    if let Some(structure) = ownership::structure(resource) {
        let api_version = resource.api_version();
        let reset = strategy::reset_fields(resource, "");
        let flow_control = resource.group == "flowcontrol.apiserver.k8s.io";
        let manager = if flow_control { FLOW_CONTROL_MANAGER } else { MANAGER };
        let by = FieldManager { reset, ..FieldManager::new(manager, &api_version, structure) };
        apply::track_update(None, &mut object, &by);
    }
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = meta::now().into();
    object
}

fn defaults(registry: &Registry) -> Result<Vec<(Arc<Resource>, Value)>, ApiError> {
    let mut objects = Vec::new();
    let namespaces = registry.resource("", "namespaces")?;
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        objects.push((namespaces.clone(), namespace(name)));
    }
    let api_services = registry.resource(api_services::GROUP, "apiservices")?;
    objects.extend(api_services::local(&registry.scheme()).into_iter().map(|object| (api_services.clone(), object)));
    for mut object in flow_control()? {
        for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastTransitionTime"] = meta::now().into();
        }
        objects.push(typed(registry, &object)?);
    }
    let priority_classes = registry.resource("scheduling.k8s.io", "priorityclasses")?;
    let cluster =
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.";
    let node = "Used for system critical pods that must not be moved from their current node.";
    objects.push((priority_classes.clone(), priority_class("system-cluster-critical", 2_000_000_000, cluster)));
    objects.push((priority_classes, priority_class("system-node-critical", 2_000_001_000, node)));
    let mut policy: Vec<Value> = RBAC
        .lines()
        .chain(OWN.lines())
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|error| ApiError::internal(format_args!("the built-in policy cannot be read: {error}")))?;
    aggregate::fill(&mut policy);
    for object in policy {
        let plural = match object["kind"].as_str() {
            Some("ClusterRole") => "clusterroles",
            Some("ClusterRoleBinding") => "clusterrolebindings",
            Some("Role") => "roles",
            _ => "rolebindings",
        };
        objects.push((registry.resource(crate::authz::rbac::GROUP, plural)?, object));
    }
    Ok(objects)
}

fn namespace(name: &str) -> Value {
    json!({
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

fn priority_class(name: &str, value: i64, description: &str) -> Value {
    json!({
        "kind": "PriorityClass",
        "apiVersion": "scheduling.k8s.io/v1",
        "metadata": {"name": name, "generation": 1},
        "value": value,
        "description": description,
        "preemptionPolicy": "PreemptLowerPriority",
    })
}
