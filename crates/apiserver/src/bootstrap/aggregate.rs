//! Aggregated ClusterRoles: those with an `aggregationRule` have the rules of all ClusterRoles whose labels it selects.
// upstream: pkg/controller/clusterroleaggregation
use crate::authz::rbac::GROUP;
use crate::encode::encode;
use crate::follow::follow;
use crate::registry::{Registry, object_key, store_error};
use pintle_api::status::ApiError;
use pintle_store::{Compare, Op, TxnOutcome};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a chain of aggregated roles that select aggregated roles may be; upstream's has three (admin, edit, view).
const LONGEST_CHAIN: usize = 8;

/// Fills in the rules of the aggregated ones among `objects`. Roles that select each other in a circle are left as they
/// come out after [`LONGEST_CHAIN`] rounds.
pub(super) fn fill(objects: &mut [Value]) {
    for _ in 0..LONGEST_CHAIN {
        let snapshot: Vec<Value> = objects.iter().filter(|object| object["kind"] == "ClusterRole").cloned().collect();
        let mut changed = false;
        for object in objects.iter_mut() {
            if let Some(rules) = aggregated(object, &snapshot)
                && object.get("rules") != Some(&rules)
            {
                object["rules"] = rules;
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

/// The rules that the aggregated `role` should have among `roles`; `None` if it is not an aggregated one.
fn aggregated(role: &Value, roles: &[Value]) -> Option<Value> {
    let selectors = role.get("aggregationRule")?.get("clusterRoleSelectors")?.as_array()?;
    let mut sorted: Vec<&Value> =
        roles.iter().filter(|other| other["metadata"]["name"] != role["metadata"]["name"]).collect();
    sorted.sort_by_key(|other| other["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        for other in sorted.iter().filter(|other| selects(selector, &other["metadata"]["labels"])) {
            for rule in other["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules.into())
}

/// Whether the label `selector` (as in `metav1.LabelSelector`) selects `labels`.
fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal =
        selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| label(key) == value.as_str());
    equal
        && selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
            let value = label(expression["key"].as_str().unwrap_or_default());
            let among = || {
                let values = expression["values"].as_array();
                value.is_some_and(|value| values.is_some_and(|values| values.iter().any(|item| item == value)))
            };
            match expression["operator"].as_str() {
                Some("In") => among(),
                Some("NotIn") => !among(),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

/// Keeps the rules of aggregated ClusterRoles current until `stop`.
pub async fn keep_aggregated(registry: &Registry, stop: CancellationToken) -> Result<(), ApiError> {
    let resource = registry.resource(GROUP, "clusterroles")?;
    let changed = Arc::new(Notify::new());
    let signal = changed.clone();
    follow(registry, &resource, stop.clone(), Box::new(move |_, _, _| signal.notify_one())).await?;
    let registry = registry.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! { () = stop.cancelled() => return, () = changed.notified() => {} }
            if let Err(error) = update(&registry).await {
                tracing::warn!(%error, "cannot aggregate cluster roles");
            }
        }
    });
    Ok(())
}

/// Writes the aggregated roles that differ. A conflict means that the roles changed, which calls for another round.
async fn update(registry: &Registry) -> Result<(), ApiError> {
    let resource = registry.resource(GROUP, "clusterroles")?;
    let mut roles = registry.list(&resource, "").await?.items;
    let before = roles.clone();
    fill(&mut roles);
    for (role, before) in roles.iter().zip(&before).filter(|(role, before)| role != before) {
        let name = role["metadata"]["name"].as_str().unwrap_or_default();
        let revision = before["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        let key = object_key(&resource, "", name);
        let encoded = encode(role);
        let compares = vec![Compare { key: key.clone().into(), mod_revision: revision }];
        let ops = vec![Op::Put { key: key.into(), value: encoded.bytes, stamp: Some(encoded.stamp) }];
        match registry.store().txn(compares, ops).await.map_err(store_error)? {
            TxnOutcome::Committed(_) => {}
            TxnOutcome::Conflict(_) => tracing::debug!(name, "the role changed meanwhile"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_has_what_edit_has_and_edit_what_view_has() {
        let mut policy: Vec<Value> =
            super::super::RBAC.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        fill(&mut policy);
        let rules = |name: &str| {
            let role = policy.iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == name).unwrap();
            role["rules"].as_array().unwrap().clone()
        };
        let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
        assert!(!view.is_empty());
        assert!(view.iter().all(|rule| edit.contains(rule)));
        assert!(edit.iter().all(|rule| admin.contains(rule)));
        assert!(admin.len() > edit.len() && edit.len() > view.len());
    }
}
