//! Invalid objects made from the valid ones, created and put over the valid one.
use super::super::kinds::Kind;
use super::super::mutate::mutations;
use super::super::session::{Request, Session};
use super::remove;
use anyhow::Result;
use serde_json::Value;

/// Sends every mutation of every valid object.
pub async fn run(session: &mut Session, kinds: &[Kind]) -> Result<()> {
    for kind in kinds.iter().filter(|kind| kind.has("create")) {
        let Some(object) = &kind.object else { continue };
        let dry = "dryRun=All&fieldManager=mutations";
        for mutation in mutations(object) {
            let request = Request::json("POST", format!("{}?{dry}", kind.path), &mutation.object);
            session.send(&mutation.name, &request).await?;
            if mutation.name.ends_with("unknown field") {
                for validation in ["Ignore", "Strict"] {
                    let uri = format!("{}?{dry}&fieldValidation={validation}", kind.path);
                    session.send(&mutation.name, &Request::json("POST", uri, &mutation.object)).await?;
                }
            }
        }
        if kind.is_writable() {
            changes(session, kind, object).await?;
        }
    }
    Ok(())
}

/// Puts every mutation over the stored object.
async fn changes(session: &mut Session, kind: &Kind, object: &Value) -> Result<()> {
    let create = Request::json("POST", format!("{}?fieldManager=mutations", kind.path), object);
    let stored = session.ask(&create).await?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let one = format!("{}/{name}", kind.path);
    let dry = "dryRun=All&fieldManager=mutations";
    if stored.iter().all(|answer| answer.status < 300) {
        for mutation in mutations(object) {
            // With the revision, without which some kinds are refused before anything else is looked at.
            let stored = session.ask(&Request::plain("GET", &one)).await?;
            let bodies = [0, 1].map(|side: usize| {
                let mut body = mutation.object.clone();
                if body["metadata"].is_object() {
                    body["metadata"]["resourceVersion"] = stored[side].body["metadata"]["resourceVersion"].clone();
                }
                body
            });
            let put = Request::json_each("PUT", format!("{one}?{dry}"), [&bodies[0], &bodies[1]]);
            session.send(&mutation.name, &put).await?;
            if mutation.name.ends_with("removed") || mutation.name.ends_with("no name") {
                let patch = Request::json("PATCH", format!("{one}?{dry}"), &mutation.object);
                let patch = patch.of_type("application/strategic-merge-patch+json");
                session.send(&mutation.name, &patch).await?;
            }
        }
        remove(session, &one).await?;
    }
    Ok(())
}
