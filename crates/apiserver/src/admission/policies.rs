//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: admission by expressions. Start at [`Policies`].
// upstream: apiserver pkg/admission/plugin/policy
pub(crate) mod definition;
mod mutate;
mod params;
mod patch;
mod type_check;
mod validate;

use super::matching::Event;
use super::matching::conditions::Subject;
use super::reinvocation::Round;
use crate::follow::follow;
use crate::registry::Registry;
use arc_swap::ArcSwap;
use definition::{Binding, Policy};
use parking_lot::Mutex;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A policy with all its bindings.
#[derive(Clone, Debug)]
struct Bound {
    policy: Arc<Policy>,
    bindings: Vec<Arc<Binding>>,
}

/// Policies of one sort that have bindings, by name.
#[derive(Clone, Debug, Default)]
struct Index {
    known: Arc<Mutex<Known>>,
    bound: Arc<ArcSwap<Vec<Bound>>>,
}

#[derive(Debug, Default)]
struct Known {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

/// All policies in force; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    mutating: Index,
    validating: Index,
}

/// A policy that applies to a write through a binding, with one of its parameter objects.
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Binding>,
    resource: Arc<Resource>,
    params: Option<Value>,
}

/// Why a policy, or one of its bindings, cannot be applied.
struct Misconfigured {
    policy: Arc<Policy>,
    binding: Option<Arc<Binding>>,
    why: String,
}

impl Index {
    /// Follows policies and bindings of `registry` until `stop`.
    async fn start(registry: &Registry, sort: &str, stop: &CancellationToken) -> Result<Self, ApiError> {
        let index = Index::default();
        let follow_all = async |plural: String, set: fn(&mut Known, &str, Option<Value>)| {
            let index = index.clone();
            let apply = move |_: &str, name: &str, stored: Option<&bytes::Bytes>| {
                let object = stored.and_then(|bytes| serde_json::from_slice(bytes).ok());
                let mut known = index.known.lock();
                set(&mut known, name, object);
                index.bound.store(Arc::new(known.bound()));
            };
            let resource = registry.resource("admissionregistration.k8s.io", &plural)?;
            follow(registry, &resource, stop.clone(), Box::new(apply)).await
        };
        follow_all(format!("{sort}admissionpolicies"), |known, name, object| match object {
            Some(object) => {
                // A status that changes is no news, and compiling is work.
                let unchanged = known.policies.get(name).is_some_and(|held| held.is_of(&object));
                if !unchanged {
                    known.policies.insert(name.to_owned(), Arc::new(Policy::of(&object)));
                }
            }
            None => {
                known.policies.remove(name);
            }
        })
        .await?;
        follow_all(format!("{sort}admissionpolicybindings"), |known, name, object| match object {
            Some(object) => {
                known.bindings.insert(name.to_owned(), Arc::new(Binding::of(&object)));
            }
            None => {
                known.bindings.remove(name);
            }
        })
        .await?;
        Ok(index)
    }

    fn is_empty(&self) -> bool {
        self.bound.load().is_empty()
    }

    /// What applies to the event, and what cannot be applied.
    // upstream: generic/policy_dispatcher.go, Dispatch
    async fn invocations(&self, event: &Event<'_>, object: Option<&Value>) -> (Vec<Invocation>, Vec<Misconfigured>) {
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for Bound { policy, bindings } in self.bound.load_full().iter() {
            let failed = |binding: Option<&Arc<Binding>>, why: String| {
                let what = if binding.is_some() { "binding" } else { "policy" };
                let why = format!("failed to configure {what}: {why}");
                Misconfigured { policy: policy.clone(), binding: binding.cloned(), why }
            };
            let resource = match policy.matching.matches(event, object, false).await {
                Ok(Some(resource)) => resource,
                Ok(None) => continue,
                Err(error) => {
                    wrong.push(failed(None, error.message));
                    continue;
                }
            };
            if let Err(why) = params::kind(policy, event.registry) {
                wrong.push(failed(None, why));
                continue;
            }
            for binding in bindings {
                let applies = match &binding.matching {
                    None => Ok(true),
                    Some(matching) => matching.matches(event, object, true).await.map(|matched| matched.is_some()),
                };
                match applies {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        wrong.push(failed(Some(binding), error.message));
                        continue;
                    }
                }
                match params::collect(policy, binding, event).await {
                    Ok(params) => found.extend(params.into_iter().map(|params| Invocation {
                        policy: policy.clone(),
                        binding: binding.clone(),
                        resource: resource.clone(),
                        params,
                    })),
                    Err(why) => wrong.push(failed(Some(binding), why)),
                }
            }
        }
        (found, wrong)
    }
}

impl Known {
    fn bound(&self) -> Vec<Bound> {
        let mut bound: Vec<Bound> = Vec::new();
        for policy in self.policies.values() {
            let bindings: Vec<_> = self.bindings.values().filter(|b| b.policy == policy.name).cloned().collect();
            if !bindings.is_empty() {
                bound.push(Bound { policy: policy.clone(), bindings });
            }
        }
        bound
    }
}

impl Policies {
    pub(super) async fn start(registry: &Registry, stop: &CancellationToken) -> Result<Self, ApiError> {
        type_check::run(registry, stop).await?;
        Ok(Policies {
            mutating: Index::start(registry, "mutating", stop).await?,
            validating: Index::start(registry, "validating", stop).await?,
        })
    }

    pub(super) fn mutates(&self) -> bool {
        !self.mutating.is_empty()
    }

    pub(super) fn validates(&self) -> bool {
        !self.validating.is_empty()
    }

    /// Lets the mutating policies change `object`, one after the other.
    pub(super) async fn admit(
        &self,
        event: &Event<'_>,
        object: Option<&mut Value>,
        round: &mut Round,
    ) -> Result<(), ApiError> {
        mutate::admit(&self.mutating, event, object, round).await
    }

    /// Asks the validating policies.
    pub(super) async fn validate(&self, event: &Event<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        validate::validate(&self.validating, event, object).await
    }
}

/// The objects of the event in the version in which a policy matched.
fn versions(
    event: &Event<'_>,
    resource: &Resource,
    object: Option<&Value>,
) -> Result<(Option<Value>, Option<Value>), ApiError> {
    let convert = |object: Option<&Value>| object.map(|object| event.in_version(object, resource)).transpose();
    Ok((convert(object)?, convert(event.attributes.old)?))
}

async fn subject<'a>(
    event: &'a Event<'a>,
    resource: &Resource,
    versions: &'a (Option<Value>, Option<Value>),
) -> Result<Subject<'a>, ApiError> {
    Subject::new(event, resource, versions.0.as_ref(), versions.1.as_ref()).await
}
