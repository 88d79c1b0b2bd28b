//! Invalid objects and changes by hand: `xtask/diff/cases.json`.
use super::super::kinds;
use super::super::session::{NAMESPACE, Request, Session};
use super::{merged, remove};
use anyhow::{Context, Result};
use serde_json::Value;

/// Sends the cases whose path contains `only`.
pub async fn run(session: &mut Session, only: &str) -> Result<()> {
    for case in kinds::cases()? {
        let case: Value = serde_json::from_str(&case.to_string().replace("{ns}", NAMESPACE))?;
        let path = case["path"].as_str().context("a case has a path")?.replace(&format!("/{NAMESPACE}/"), "/{ns}/");
        if path.contains(only) {
            send(session, &path, &case).await?;
        }
    }
    Ok(())
}

async fn send(session: &mut Session, path: &str, case: &Value) -> Result<()> {
    let base = &case["base"];
    let name = base["metadata"]["name"].as_str().unwrap_or_default();
    let dry = "dryRun=All&fieldManager=cases";
    for patch in case["creates"].as_array().into_iter().flatten() {
        let request = Request::json("POST", format!("{path}?{dry}"), &merged(base, patch));
        session.send(&patch.to_string(), &request).await?;
    }
    let updates = case["updates"].as_array().into_iter().flatten().map(|patch| ("", patch));
    let statuses = case["status"].as_array().into_iter().flatten().map(|patch| ("/status", patch));
    let all: Vec<(&str, &Value)> = updates.chain(statuses).collect();
    if all.is_empty() {
        return Ok(());
    }
    let [theirs, ours] = session.ask(&Request::json("POST", format!("{path}?fieldManager=cases"), base)).await?;
    for (subresource, patch) in all {
        let uri = format!("{path}/{name}{subresource}?{dry}");
        let bodies = [&merged(&theirs.body, patch), &merged(&ours.body, patch)];
        session.send(&patch.to_string(), &Request::json_each("PUT", uri, bodies)).await?;
    }
    remove(session, &format!("{path}/{name}")).await
}
