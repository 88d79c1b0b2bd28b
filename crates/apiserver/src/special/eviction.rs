//! `pods/eviction`: deletes a pod if its PodDisruptionBudget allows.
//!
//! upstream: pkg/registry/core/pod/storage, EvictionREST
use super::gate::Gate;
use super::{SpecialRequest, SpecialResponse, SpecialRest, is_dry_run, success};
use crate::admission::Operation;
use crate::codec::read_object;
use crate::registry::{DeleteOptions, Registry, Write};
use crate::strategy::set_condition;
use crate::value::{Fill, Read, object_of};
use async_trait::async_trait;
use pintle_api::meta::{self, ObjectExt};
use pintle_api::selector::LabelSelector;
use pintle_api::status::{ApiError, Cause, Reason};
use serde_json::{Map, Value, json};

/// More pods than this may not be on their way out under one budget.
const MAX_DISRUPTED: usize = 2000;
/// How often the eviction of a pod that changes meanwhile starts over.
const ATTEMPTS: usize = 20;

/// Creates evictions.
#[derive(Debug)]
pub struct Eviction;

#[async_trait]
impl SpecialRest for Eviction {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, admission } = request;
        let mut eviction = read_object(&parts.headers, body).await?;
        let pods = registry.resource("", "pods")?;
        if let Some(fields) = eviction.as_object_mut() {
            fields.set("kind", "Eviction");
            fields.set("apiVersion", "policy/v1");
        }
        let gate = Gate::new(&cx, &pods, Operation::Create, &*admission, registry);
        gate.admit(&mut eviction, None).await?;
        let name = cx.info.name.clone();
        if eviction.name() != name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = DeleteOptions::of(eviction.field("deleteOptions"));
        gate.validate(&eviction, None).await?;
        let namespace = cx.info.namespace.clone();
        let mut write = Write::internal(&cx, &pods, &namespace);
        write.dry_run = is_dry_run(&cx) || !eviction.field("deleteOptions").is_zero("dryRun");
        let evict = async {
            for _ in 0..ATTEMPTS {
                let pod = registry.get(&pods, &namespace, &name).await?;
                let reason = if ignores_budgets(&pod) {
                    let ended = pod.field("status").text("phase") != "Pending" || pod.deletion_timestamp().is_some();
                    if ended { Unguarded::Ended } else { Unguarded::NotStarted }
                } else {
                    consume_budget(registry, &write, &pod).await?
                };
                // Between look and deletion the pod must not become one that a budget guards, unless the client said
                // itself which version it means.
                let pinned = options.resource_version.is_none()
                    && matches!(reason, Unguarded::NotStarted | Unguarded::Unhealthy(_));
                let version = if pinned { Some(pod.resource_version().to_owned()) } else { None };
                let version = version.or_else(|| options.resource_version.clone());
                let exact = DeleteOptions { resource_version: version, ..options.clone() };
                match (mark_and_delete(registry, &write, &name, &exact).await, reason) {
                    (Err(error), Unguarded::NotStarted) if pinned && error.is_conflict() => {}
                    (Err(error), Unguarded::Unhealthy(budget)) if pinned && error.is_conflict() => {
                        return Err(still_processed(&budget));
                    }
                    (result, _) => return result,
                }
            }
            Err(ApiError::server_timeout(pods.group_resource(), "evict", 1))
        };
        evict.await?;
        Ok(success(201))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "create"
    }
}

/// Why a pod may go without, or after, a look at its budgets.
enum Unguarded {
    /// It has ended or is being deleted.
    Ended,
    /// It has not begun.
    NotStarted,
    /// It is not ready and the budget of that name lets such pods go.
    Unhealthy(String),
    /// It has no budget, or the budget granted this one.
    Granted,
}

/// Whether no budget counts `pod`: it has ended, has not begun, or is ending.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(pod.field("status").text("phase"), "Succeeded" | "Failed" | "Pending")
        || pod.deletion_timestamp().is_some()
}

/// Deletes the pod after its condition says why.
async fn mark_and_delete(
    registry: &Registry,
    write: &Write<'_>,
    name: &str,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let mut options = options.clone();
    if !write.dry_run {
        let marked = mark(registry, write, name, &options).await?;
        // The mark itself changed the version that was checked.
        options.resource_version = options.resource_version.map(|_| marked.resource_version().to_owned());
    }
    registry.delete(write, name, &options).await.map(drop)
}

async fn mark(registry: &Registry, write: &Write<'_>, name: &str, options: &DeleteOptions) -> Result<Value, ApiError> {
    let (uid, version) = (options.uid.as_deref(), options.resource_version.as_deref());
    let change = |pod: &mut Value| {
        for (what, wanted, is, hint) in [
            ("UID", uid, pod.uid(), "The object might have been deleted and then recreated"),
            ("ResourceVersion", version, pod.resource_version(), "The object might have been modified"),
        ] {
            if let Some(wanted) = wanted.filter(|w| !w.is_empty() && *w != is) {
                let why = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). {hint}"
                );
                return Err(ApiError::conflict(write.resource.group_resource(), name, why));
            }
        }
        let status = object_of(pod).child_or_new("status");
        set_condition(
            status,
            "DisruptionTarget",
            "True",
            "EvictionByEvictionAPI",
            "Eviction API: evicting",
            &meta::now(),
        );
        Ok(())
    };
    Ok(registry.update_with(&write.subresource("status"), name, change).await?.object)
}

/// Takes one disruption from the budget of `pod`, if it has one and needs to.
async fn consume_budget(registry: &Registry, write: &Write<'_>, pod: &Value) -> Result<Unguarded, ApiError> {
    let resource = registry.resource("policy", "poddisruptionbudgets")?;
    let all = registry.list(&resource, write.namespace).await?.items;
    let mut budgets = all.into_iter().filter(|budget| selects(budget, pod));
    let Some(budget) = budgets.next() else { return Ok(Unguarded::Granted) };
    if budgets.next().is_some() {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(ApiError::new(500, Reason::Unknown, text));
    }
    if !is_ready(pod) && unhealthy_may_go(&budget) {
        return Ok(Unguarded::Unhealthy(budget.name().to_owned()));
    }
    let budget_write = Write { dry_run: write.dry_run, ..Write::internal(write.cx, &resource, write.namespace) };
    let change = |budget: &mut Value| take_one(budget, pod.name());
    registry.update_with(&budget_write.subresource("status"), budget.name(), change).await?;
    Ok(Unguarded::Granted)
}

fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = budget.field("spec").field("selector");
    // A budget without selector selects nothing, one with an empty selector everything.
    !selector.is_null() && LabelSelector::from_value(selector).is_ok_and(|s| s.matches(pod.labels()))
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod.field("status").items("conditions").iter();
    conditions.any(|c| c.text("type") == "Ready" && c.text("status") == "True")
}

/// Whether pods that are not ready need no budget: by policy, or because enough others are healthy.
fn unhealthy_may_go(budget: &Value) -> bool {
    let status = budget.field("status");
    let desired = status.int("desiredHealthy");
    budget.field("spec").text("unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || (desired > 0 && status.int("currentHealthy") >= desired)
}

/// Notes in `budget` that `pod` goes, if one more may.
// upstream: checkAndDecrement
fn take_one(budget: &mut Value, pod: &str) -> Result<(), ApiError> {
    let name = budget.name().to_owned();
    let generation = budget.generation();
    let status = object_of(budget).child_or_new("status");
    if status.int("observedGeneration") < generation {
        return Err(still_processed(&name));
    }
    let allowed = status.int("disruptionsAllowed");
    if allowed < 0 {
        let why = format!("poddisruptionbudget.policy {name:?} is forbidden: pdb disruptions allowed is negative");
        return Err(ApiError::new(403, Reason::Forbidden, why));
    }
    if status.field("disruptedPods").as_object().map_or(0, Map::len) > MAX_DISRUPTED {
        let why = format!(
            "poddisruptionbudget.policy {name:?} is forbidden: DisruptedPods map too big - too many evictions not confirmed \
             by PDB controller"
        );
        return Err(ApiError::new(403, Reason::Forbidden, why));
    }
    if allowed == 0 {
        let (desired, current) = (status.int("desiredHealthy"), status.int("currentHealthy"));
        let conditions = status.items("conditions").iter();
        let refusal = conditions
            .rev()
            .find(|c| c.text("type") == "DisruptionAllowed" && c.text("status") == "False" && !c.is_zero("message"));
        let reason = refusal.map(|c| c.text("reason")).unwrap_or_default();
        let message = refusal.map(|c| c.text("message")).unwrap_or_default();
        let text = if reason == "SyncFailed" {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        } else if current <= desired {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        } else if refusal.is_some() {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        } else {
            format!("The disruption budget {name} does not allow evicting pods currently")
        };
        return Err(refused(text, 0));
    }
    status.set("disruptionsAllowed", allowed - 1);
    if allowed == 1 {
        let (kind, reason, now) = ("DisruptionAllowed", "InsufficientPods", meta::now());
        let condition = json!({"type": kind, "status": "False", "reason": reason, "message": "",
                               "observedGeneration": generation, "lastTransitionTime": now});
        let list = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.retain(|c| c.text("type") != kind);
            list.push(condition);
        }
    }
    status.child_or_new("disruptedPods").set(pod, meta::now());
    Ok(())
}

fn still_processed(budget: &str) -> ApiError {
    refused(format!("The disruption budget {budget} is still being processed by the server."), 10)
}

fn refused(why: String, retry_after_seconds: u32) -> ApiError {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let cause = Cause { reason: "DisruptionBudget".into(), message: why, field: String::new() };
    ApiError::too_many_requests(text, retry_after_seconds).with_cause(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_consumed_one_by_one() {
        let mut budget = json!({"metadata": {"name": "b", "generation": 1},
                                "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 2}});
        assert!(take_one(&mut budget, "p").is_ok());
        assert_eq!(budget["status"]["disruptionsAllowed"], 0);
        assert!(budget["status"]["disruptedPods"]["p"].is_string());
        let refused = take_one(&mut budget, "q").unwrap_err();
        assert_eq!(refused.to_string(), "Cannot evict pod as it would violate the pod's disruption budget.");
        assert!(
            refused.to_value().to_string().contains("The disruption budget b needs 2 healthy pods and has 2 currently")
        );
    }

    #[test]
    fn a_budget_that_was_not_looked_at_since_its_change_allows_nothing() {
        let mut budget = json!({"metadata": {"name": "b", "generation": 2}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1}});
        assert!(take_one(&mut budget, "p").is_err());
    }

    #[test]
    fn pods_that_do_not_run_need_no_budget() {
        assert!(ignores_budgets(&json!({"status": {"phase": "Pending"}})));
        assert!(!ignores_budgets(&json!({"status": {"phase": "Running"}})));
    }
}
