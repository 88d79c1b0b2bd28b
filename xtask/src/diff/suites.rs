//! The requests, by subject. Start at [`run`].
mod cases;
mod discovery;
mod fixtures;
mod malformed;
mod mutations;
mod objects;
mod reading;

use super::Args;
use super::kinds::{self, Kind};
use super::servers::Servers;
use super::session::{Request, Session};
use anyhow::Result;
use serde_json::{Value, json};

/// A group of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// The fixtures of k8s.io/api, most of them invalid.
    Fixtures,
    /// A valid object of every kind through every verb.
    Objects,
    /// Invalid objects and changes by hand.
    Cases,
    /// Invalid objects made from the valid ones.
    Mutations,
    /// Selectors, paging and revisions.
    Reading,
    /// Discovery and what kubectl prints of it.
    Discovery,
    /// Requests that are wrong before they reach an object.
    Malformed,
}

/// Sends all requests of the subjects that are asked for.
pub async fn run(args: &Args, servers: &Servers, session: &mut Session) -> Result<()> {
    let kinds: Vec<Kind> = kinds::discover(args, session).await?;
    let wants = |subject| args.subjects.is_empty() || args.subjects.contains(&subject);
    if wants(Subject::Discovery) {
        discovery::run(args, servers, session, &kinds).await?;
    }
    if wants(Subject::Malformed) {
        malformed::run(session).await?;
    }
    if wants(Subject::Fixtures) {
        fixtures::run(session, &kinds).await?;
    }
    if wants(Subject::Objects) {
        objects::run(session, &kinds).await?;
    }
    if wants(Subject::Cases) {
        cases::run(session, &args.only).await?;
    }
    if wants(Subject::Mutations) {
        mutations::run(session, &kinds).await?;
    }
    if wants(Subject::Reading) {
        reading::run(session).await?;
    }
    Ok(())
}

/// Removes an object for good on both sides, with whatever finalizers nobody is there to remove.
async fn remove(session: &Session, one: &str) -> Result<()> {
    session.ask(&Request::plain("DELETE", format!("{one}?gracePeriodSeconds=0"))).await?;
    let clear = json!([{"op": "add", "path": "/metadata/finalizers", "value": []}]);
    session.ask(&Request::json("PATCH", one, &clear).of_type("application/json-patch+json")).await?;
    if let Some(name) = one.strip_prefix("/api/v1/namespaces/").filter(|rest| !rest.contains('/')) {
        let finalized = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {}});
        session.ask(&Request::json("PUT", format!("{one}/finalize"), &finalized)).await?;
    }
    Ok(())
}

/// An object merged with a change as JSON merge patch does it.
fn merged(base: &Value, patch: &Value) -> Value {
    let (Value::Object(base), Value::Object(patch)) = (base, patch) else { return patch.clone() };
    let mut merged_map = base.clone();
    for (key, change) in patch {
        if change.is_null() {
            merged_map.remove(key);
        } else {
            let old = merged_map.get(key).cloned().unwrap_or(json!({}));
            merged_map.insert(key.clone(), merged(&old, change));
        }
    }
    Value::Object(merged_map)
}
